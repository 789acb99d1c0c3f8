//! Whether agents are kept apart from the worker that runs them: by a user of
//! their own, who can neither look into the worker nor touch its records.

mod account;
mod temporary;

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Access, AtFlags, CWD, accessat};
use rustix::process::geteuid;
use rustix::thread::{CapabilitySet, capabilities};

pub use account::{Account, AccountError};

use crate::config::{CodexHome, Settings};
use crate::guard::confine::{User, as_user};
use crate::workspace::Root;

/// What stands between the settings and agents that are kept apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// The required isolation is not there: no turn may be run.
    Broken(String),
    /// The operator should know.
    Doubtful(String),
}

use Finding::{Broken, Doubtful};

/// As what and where the settings have agents run.
#[derive(Debug)]
pub struct Agents<'a> {
    /// `None`: as the worker's own user.
    pub user: Option<&'a User>,
    /// The CODEX_HOME of all of them, as far as it is known. `None` if each
    /// workspace has its own, in the workspace root.
    pub home: Option<PathBuf>,
    /// Of their environment.
    pub tmpdir: Option<&'a str>,
}

/// Agents would not be kept apart from the worker as the settings want it.
#[derive(Debug, thiserror::Error)]
#[error("agents are not isolated: {0}")]
pub struct IsolationError(String);

/// Lets no agent run otherwise than the settings require. What is only
/// doubtful goes to the log.
pub fn enforce(
    settings: &Settings,
    agents: &Agents<'_>,
    root: &Root,
) -> Result<(), IsolationError> {
    for finding in findings(settings, agents, root) {
        match finding {
            Broken(what) => return Err(IsolationError(what)),
            Doubtful(what) => tracing::warn!("{what}"),
        }
    }
    Ok(())
}

pub fn findings(settings: &Settings, agents: &Agents<'_>, root: &Root) -> Vec<Finding> {
    let mut findings = match agents.user {
        Some(user) => of_another_user(settings, user, root, agents.home.as_deref()),
        None => of_one_user(settings),
    };
    findings.extend(temporary::findings(settings, agents, root));
    findings
}

fn of_another_user(
    settings: &Settings,
    user: &User,
    root: &Root,
    home: Option<&Path>,
) -> Vec<Finding> {
    let mut findings = may_switch(user);
    if !findings.iter().any(|finding| matches!(finding, Broken(_))) {
        findings.extend(match as_user(user, || reach(settings, user, root, home)) {
            Ok(reached) => reached,
            Err(error) => vec![Broken(format!("can't become {user}: {error}"))],
        });
    }
    findings
}

/// Agents run as the worker's own user.
fn of_one_user(settings: &Settings) -> Vec<Finding> {
    let me = geteuid();
    let mut findings = Vec::new();
    if settings.require_isolation {
        findings.push(Broken(format!(
            "TURN_WORKER_REQUIRE_ISOLATION is true and TURN_WORKER_CODEX_RUN_AS names no user, \
             so agents would run as the worker's own (uid {})",
            me.as_raw()
        )));
    }
    if me.is_root() {
        findings.push(Doubtful(
            "AGENTS RUN AS ROOT, as this worker does: each can read the worker's secrets, change its records \
             and act as root on this host; name a user for them in TURN_WORKER_CODEX_RUN_AS, \
             or run the worker as one"
                .to_owned(),
        ));
        if settings.codex_max_processes.is_some() {
            findings.push(Doubtful(
                "TURN_WORKER_CODEX_MAX_PROCESSES has no effect on agents that run as root"
                    .to_owned(),
            ));
        }
    }
    findings
}

/// What running agents as another user takes, by its name in the system.
pub const NEEDED: [(CapabilitySet, &str); 5] = [
    (CapabilitySet::SETUID, "CAP_SETUID"),
    (CapabilitySet::SETGID, "CAP_SETGID"),
    // To end what a turn has started.
    (CapabilitySet::KILL, "CAP_KILL"),
    // To make workspaces theirs, and to write the session file in there.
    (CapabilitySet::CHOWN, "CAP_CHOWN"),
    (CapabilitySet::DAC_OVERRIDE, "CAP_DAC_OVERRIDE"),
];

fn may_switch(user: &User) -> Vec<Finding> {
    if user.uid == geteuid().as_raw() {
        return vec![Broken(format!(
            "TURN_WORKER_CODEX_RUN_AS is the worker's own user ({user}), which separates no files"
        ))];
    }
    let has = match capabilities(None) {
        Ok(sets) => sets.effective,
        Err(error) => {
            return vec![Broken(format!(
                "can't read the worker's privileges: {error}"
            ))];
        }
    };
    let missing: Vec<&str> = NEEDED
        .iter()
        .filter(|(one, _)| !has.contains(*one))
        .map(|(_, name)| *name)
        .collect();
    if !missing.is_empty() {
        return vec![Broken(format!(
            "running agents as {user} takes root; this worker (uid {}) lacks {}",
            geteuid().as_raw(),
            missing.join(", ")
        ))];
    }
    if has.contains(CapabilitySet::SYS_PTRACE) {
        return Vec::new();
    }
    vec![Doubtful(
        "without CAP_SYS_PTRACE, what is left of a turn after its worker and guard were killed at the same moment \
         is not found"
            .to_owned(),
    )]
}

/// As the user: what it can reach and must not, and the other way round.
fn reach(settings: &Settings, user: &User, root: &Root, home: Option<&Path>) -> Vec<Finding> {
    let mut findings = Vec::new();
    let dir = root.path();
    if let Err(error) = access(dir, Access::EXEC_OK) {
        findings.push(Broken(format!(
            "{user} can't enter the workspace root {}: {error}; every folder on the way must let it through \
             (chmod o+x)",
            dir.display()
        )));
    }
    for folder in dir.ancestors() {
        if replaces(user, folder) {
            findings.push(Broken(format!(
                "{user} may change {}, and so put other records in the place of the worker's",
                folder.display()
            )));
        }
    }
    let records = root.records();
    if owns(user, records)
        || [Access::READ_OK, Access::WRITE_OK, Access::EXEC_OK]
            .into_iter()
            .any(|way| access(records, way).is_ok())
    {
        findings.push(Broken(format!(
            "{user} gets into the worker's records in {}; they must be the worker's, with mode 0700",
            records.display()
        )));
    }
    for (setting, file) in settings.secret_files() {
        if access(file, Access::READ_OK).is_ok() {
            let what = format!(
                "{user} can read {}, which holds a secret ({})",
                file.display(),
                setting.variable()
            );
            findings.push(match settings.require_isolation {
                true => Broken(what),
                false => Doubtful(what),
            });
        }
    }
    findings.extend(home.and_then(|home| loose_home(settings, user, home)));
    findings
}

/// A home that a worker can't keep agents from reconfiguring, see
/// [`crate::codex::seal`].
fn loose_home(settings: &Settings, user: &User, home: &Path) -> Option<Finding> {
    let is_sealed = matches!(settings.codex_home, CodexHome::Shared(_));
    let mut folders = home.ancestors().skip(usize::from(is_sealed));
    let loose = folders.find(|folder| replaces(user, folder))?;
    Some(Doubtful(format!(
        "{user} may change {}, and so {}, which decides where the prompts and keys of all turns go; name a folder \
         in TURN_WORKER_CODEX_HOME above which only root may change anything: the worker protects what configures \
         codex in there",
        loose.display(),
        home.join("config.toml").display()
    )))
}

/// For the calling thread's user.
pub fn access(path: &Path, way: Access) -> rustix::io::Result<()> {
    accessat(CWD, path, way, AtFlags::EACCESS)
}

fn owns(user: &User, path: &Path) -> bool {
    path.metadata().is_ok_and(|meta| meta.uid() == user.uid)
}

/// Whether the user can put another thing in the place of what is in there.
fn replaces(user: &User, folder: &Path) -> bool {
    // In a folder such as /tmp each may move only what is theirs.
    let sticky = folder
        .metadata()
        .is_ok_and(|meta| meta.permissions().mode() & 0o1000 != 0);
    owns(user, folder) || (!sticky && access(folder, Access::WRITE_OK).is_ok())
}
