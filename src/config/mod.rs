//! Settings: read once from the environment, typed from there on.
//!
//! [`SETTINGS`] is the one table of names, defaults and ranges; reading,
//! `--help` and `docs/settings.md` follow it.

mod broker;
mod error;
mod exposed;
mod parse;
mod read;
mod table;
pub(crate) mod target;
mod tls;
mod value;

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use broker::{Broker, BrokerUrlError};
pub use error::{ConfigError, Problem, Warning};
pub use exposed::Exposed;
pub use parse::is_host_name;
pub use table::{
    Allowed, Preset, SETTINGS, Setting, VARIABLE_PREFIX, settings_help, settings_markdown,
};
pub use tls::{ClientFiles, TlsError, TlsFiles};

use secrecy::SecretString;
use uuid::Uuid;

use crate::event::Reason;
use crate::homes::Disk;
use crate::request::{Effort, Limits, MAX_METADATA_BYTES, MAX_PROMPT_CHARS, ServiceTier};
pub use crate::tenants::TenantFrom;
use crate::tenants::Tenants;

/// The reasons of failed turns that may mean the account, see
/// [`crate::host::account`].
pub const ACCOUNT_FAULTS: [Reason; 3] = [Reason::Auth, Reason::UsageLimit, Reason::Config];

/// All that an operator can set. What each is for, its default and its range
/// stand in [`SETTINGS`].
#[derive(Debug, Clone)]
pub struct Settings {
    pub broker: Broker,
    pub amqp_tls: TlsFiles,
    pub workspace_root: PathBuf,
    pub workspace_storage: WorkspaceStorage,
    /// What the disk of the workspace root is called; `None`: as the host.
    pub workspace_host: Option<String>,
    pub slots: usize,
    /// A bare name is looked up in `PATH`.
    pub codex_bin: PathBuf,
    pub codex_home: CodexHome,
    /// On the allow-list, when there is one.
    pub codex_model: Option<String>,
    /// `None`: any model may be asked for.
    pub codex_models: Option<BTreeSet<String>>,
    pub codex_efforts: Option<BTreeSet<Effort>>,
    pub codex_service_tiers: Option<BTreeSet<ServiceTier>>,
    pub codex_engine: EngineKind,
    pub delta_window: Duration,
    pub codex_idle_ttl: Duration,
    /// By the number of slots and the host's room if it is not set.
    pub codex_warm: Option<usize>,
    /// In bytes; a share of all if it is not set.
    pub codex_warm_memory: Option<u64>,
    pub codex_sandbox: Sandbox,
    pub codex_args: Vec<String>,
    /// Names of variables; the worker's own are not among them.
    pub codex_env: Vec<String>,
    /// Of these, what the agent's commands see empty.
    pub codex_hidden_env: Vec<String>,
    pub codex_trust_workspaces: bool,
    pub kill_timeout: Duration,
    /// `None`: by the file system of the workspaces. Zero: locks are not confirmed.
    pub lock_lost_after: Option<Duration>,
    /// `None`: the worker's own user.
    pub codex_run_as: Option<RunAs>,
    /// `None`: what the worker itself may have; so for open files.
    pub codex_max_processes: Option<u64>,
    pub codex_max_open_files: Option<u64>,
    pub require_isolation: bool,
    pub turn_timeout: Duration,
    pub turn_idle_timeout: Duration,
    pub max_attempts: u32,
    /// Some of [`ACCOUNT_FAULTS`].
    pub account_faults: Vec<Reason>,
    pub account_fault_turns: FaultTurns,
    pub events: EventSet,
    pub max_request_bytes: usize,
    pub max_line_bytes: usize,
    pub backlog: usize,
    pub max_waiting: usize,
    /// Zero: no process is preferred.
    pub overtaking: Duration,
    /// `None`: no server is kept.
    pub event_log: Option<EventLog>,
    pub dead_letter_limit: u32,
    /// Of each workspace.
    pub failed_requests: usize,
    pub shutdown_grace: Duration,
    pub http_addr: SocketAddr,
    pub metrics_linger: Duration,
    pub tenants: Tenants,
    /// `None`: as it suits the log's destination.
    pub log_format: Option<LogFormat>,
    /// Directives that `tracing_subscriber::EnvFilter` takes.
    pub log: String,
    pub log_errors: LogErrors,
    /// Of all exchanges and queues.
    pub prefix: String,
    pub roles: Roles,
}

impl Settings {
    /// This host's own disk; `None` where all hosts share the workspace root.
    pub fn disk(&self, root: Uuid) -> Option<Disk> {
        let host = || match &self.workspace_host {
            Some(host) => host.clone(),
            None => {
                let name = rustix::system::uname();
                let name = name.nodename().to_string_lossy().into_owned();
                name.chars().take(64).collect()
            }
        };
        (self.workspace_storage == WorkspaceStorage::Local).then(|| Disk {
            id: root,
            host: host().into(),
        })
    }

    /// Reads the process's environment; relative paths mean its current
    /// directory. Every wrong value is in the error.
    pub fn from_env() -> Result<(Self, Vec<Warning>), ConfigError> {
        Self::in_this_directory(std::env::vars_os())
    }

    /// As [`Self::from_env`], for a command that only sends and listens:
    /// settings that it has no use for play no part, not even when wrong.
    pub fn for_producer() -> Result<(Self, Vec<Warning>), ConfigError> {
        Self::from_os_vars(vars_of(table::OF_PRODUCERS))
    }

    /// As [`Self::for_producer`], for a command that also reads the records
    /// under the workspace root.
    pub fn for_operator() -> Result<(Self, Vec<Warning>), ConfigError> {
        Self::in_this_directory(vars_of(table::OF_OPERATORS))
    }

    /// As [`Self::for_producer`], for a command that only judges requests or
    /// is in the contract.
    pub fn for_documents() -> Result<(Self, Vec<Warning>), ConfigError> {
        Self::in_this_directory(vars_of(table::OF_DOCUMENTS))
    }

    /// Without a current directory the paths stay as they are, and what uses
    /// them says what is wrong.
    fn in_this_directory(
        vars: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<(Self, Vec<Warning>), ConfigError> {
        let (settings, warnings) = Self::from_os_vars(vars)?;
        let settings = match std::env::current_dir() {
            Ok(directory) => settings.relative_to(&directory),
            Err(_) => settings,
        };
        Ok((settings, warnings))
    }

    fn from_os_vars(
        vars: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<(Self, Vec<Warning>), ConfigError> {
        let ours = vars
            .into_iter()
            .map(|(name, value)| (name.to_string_lossy().into_owned(), value))
            .filter(|(name, _)| name.starts_with(VARIABLE_PREFIX));
        let mut texts = Vec::new();
        let mut problems = Vec::new();
        for (name, value) in ours {
            match value.into_string() {
                Ok(value) => texts.push((name, value)),
                Err(_) => problems.push(Problem::not_unicode(name)),
            }
        }
        let read = Self::from_vars(texts);
        if problems.is_empty() {
            return read;
        }
        problems.extend(read.err().into_iter().flat_map(|error| error.problems));
        Err(ConfigError { problems })
    }

    /// Reads `vars`, in which variables of others may stand too. An empty
    /// value counts as absent. Paths stay as they are spelled.
    pub fn from_vars(
        vars: impl IntoIterator<Item = (String, String)>,
    ) -> Result<(Self, Vec<Warning>), ConfigError> {
        read::settings(vars)
    }

    /// Makes paths absolute: codex runs in a workspace, where a relative path
    /// would mean something of the agent's.
    pub fn relative_to(mut self, directory: &Path) -> Self {
        let absolute = |path: &mut PathBuf| {
            // `components` drops the `.` in `./workspaces`.
            *path = directory.join(&*path).components().collect();
        };
        absolute(&mut self.workspace_root);
        if self.codex_bin.components().count() > 1 {
            absolute(&mut self.codex_bin);
        }
        if let CodexHome::Shared(path) = &mut self.codex_home {
            absolute(path);
        }
        if let Broker::File(path) = &mut self.broker {
            absolute(path);
        }
        let TlsFiles { ca, client } = &mut self.amqp_tls;
        ca.iter_mut().for_each(absolute);
        if let Some(ClientFiles { certificate, key }) = client {
            absolute(certificate);
            absolute(key);
        }
        self
    }

    /// The broker's URL as it is now, see [`Broker::url`]. It asks for TLS if
    /// there is a setting for that: a password must not go out in the clear
    /// where it was meant to be protected.
    pub fn amqp_url(&self) -> Result<SecretString, BrokerUrlError> {
        let url = self.broker.url()?;
        match self.amqp_tls.set_by() {
            Some(tls) if !broker::has_tls(&url) => Err(BrokerUrlError::NoTls {
                url: self.broker.setting(),
                tls,
            }),
            _ => Ok(url),
        }
    }

    /// The models that have a label in metrics.
    pub fn named_models(&self) -> BTreeSet<String> {
        let listed = self.codex_models.iter().flatten();
        listed.chain(&self.codex_model).cloned().collect()
    }

    /// The files that hold secrets.
    pub fn secret_files(&self) -> Vec<(&'static Setting, &Path)> {
        let url = match &self.broker {
            Broker::File(path) => Some((&table::AMQP_URL_FILE, &**path)),
            Broker::Url(_) => None,
        };
        let client = self.amqp_tls.client.as_ref();
        let key = client.map(|client| (&table::AMQP_CLIENT_KEY_FILE, &*client.key));
        url.into_iter().chain(key).collect()
    }

    /// Those that any user of this host can read.
    pub fn exposed_files(&self) -> Vec<Exposed> {
        self.secret_files()
            .into_iter()
            .filter_map(|(setting, path)| Exposed::find(setting, path))
            .collect()
    }

    /// The rules for requests. `roots` are the spellings of the workspace
    /// root under which absolute paths are taken: as configured, and with
    /// symbolic links resolved.
    pub fn request_limits(&self, roots: Vec<PathBuf>) -> Limits {
        Limits {
            max_request_bytes: self.max_request_bytes,
            max_prompt_chars: MAX_PROMPT_CHARS,
            max_metadata_bytes: MAX_METADATA_BYTES,
            models: self.codex_models.clone(),
            efforts: self.codex_efforts.clone(),
            // `codex exec` can't hold a tier to one turn.
            service_tiers: match self.codex_engine {
                EngineKind::Exec => Some(BTreeSet::new()),
                EngineKind::AppServer => self.codex_service_tiers.clone(),
            },
            roots,
            handed_on: false,
        }
    }
}

/// The environment without the settings that are not wanted.
fn vars_of(wanted: &[&str]) -> impl Iterator<Item = (OsString, OsString)> {
    std::env::vars_os().filter(|(name, _)| {
        let setting = SETTINGS.iter().find(|known| *name == *known.variable());
        setting.is_none_or(|setting| wanted.contains(&setting.name))
    })
}

/// A duration as settings spell it: `90s`, `1h30m`, `500ms`.
pub fn parse_duration(text: &str) -> Option<Duration> {
    value::duration(text)
}

/// Where codex keeps its own state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CodexHome {
    /// Where codex itself looks by default.
    Default,
    /// One folder for all workspaces.
    Shared(PathBuf),
    /// A folder for each workspace, under the workspace root's own folder.
    PerWorkspace,
}

/// A user as an operator names it, not looked up yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RunAs {
    Name(String),
    Ids { uid: u32, gid: u32 },
}

/// A closed set of words for a setting's value.
macro_rules! words {
    ($(#[$meta:meta])* $name:ident { $($(#[$vmeta:meta])* $variant:ident = $text:literal),+ $(,)? }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $name { $($(#[$vmeta])* $variant),+ }

        impl $name {
            pub const WORDS: &'static [&'static str] = &[$($text),+];

            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text),+ }
            }

            fn from_word(word: &str) -> Option<Self> {
                match word { $($text => Some(Self::$variant),)+ _ => None }
            }
        }
    };
}

words! {
    /// How codex is run.
    EngineKind {
        /// One `codex exec` a turn.
        Exec = "exec",
        /// `codex app-server`, which reports a text as the model writes it.
        AppServer = "app-server",
    }
}

words! {
    /// What codex lets the agent's commands do.
    Sandbox {
        /// Anything: the operator has put the worker into a sandbox.
        Bypass = "bypass",
        WorkspaceWrite = "workspace-write",
        ReadOnly = "read-only",
    }
}

words! {
    /// What becomes of turns that meet a fault of the account.
    FaultTurns {
        End = "end",
        /// Unless the model has answered them.
        Wait = "wait",
    }
}

words! {
    /// Which events are published.
    EventSet {
        Full = "full",
        /// Only those that carry the answer, see [`crate::event::EventBody::is_minimal`].
        Minimal = "minimal",
    }
}

words! {
    /// Where workspaces are kept.
    WorkspaceStorage {
        /// All processes of the pool share one root.
        Shared = "shared",
        /// Each host has a root of its own, and a workspace lives on one of them.
        Local = "local",
    }
}

words! {
    LogFormat {
        Text = "text",
        Json = "json",
    }
}

words! {
    /// Of which failed turns the words of codex are logged.
    LogErrors {
        Off = "off",
        /// Of those that can't quote a prompt.
        Known = "known",
        All = "all",
    }
}

/// How much the event log keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EventLog {
    pub max_age: Duration,
    pub max_bytes: u64,
}

/// What this process does; at least one of both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Roles {
    pub sequencer: bool,
    pub worker: bool,
}

#[cfg(test)]
mod tests;
