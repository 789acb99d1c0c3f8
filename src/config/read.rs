//! Every variable is read, also after one was found wrong, so that an
//! operator sees all of them at once.

use std::collections::BTreeMap;
use std::num::NonZero;
use std::path::PathBuf;
use std::time::Duration;

use super::error::{ConfigError, Problem, Warning};
use super::parse::{
    codex_home, faults, is_host_name, log_filter, models, object_prefix, path, roles, run_as,
    some_of, tenants, variables,
};
use super::table::{self, Allowed, Preset, Raw, SETTINGS, Setting, VARIABLE_PREFIX};
use super::{
    Broker, ClientFiles, EngineKind, EventLog, EventSet, FaultTurns, LogErrors, LogFormat, Roles,
    Sandbox, Settings, TenantFrom, TlsFiles, WorkspaceStorage, broker, value,
};
use crate::request::is_model_name;
use crate::tenants::Tenants;

/// Variables of tests have our prefix and are no settings.
const TESTS_PREFIX: &str = "TURN_WORKER_TEST_";

/// A misspelled name is so many letters away from the right one, at most.
const NEAR: usize = 3;

pub(super) fn settings(
    vars: impl IntoIterator<Item = (String, String)>,
) -> Result<(Settings, Vec<Warning>), ConfigError> {
    let mut known = BTreeMap::new();
    let mut warnings = Vec::new();
    for (name, value) in vars {
        if SETTINGS.iter().any(|setting| setting.variable() == name) {
            known.insert(name, value);
        } else if name.starts_with(VARIABLE_PREFIX) && !name.starts_with(TESTS_PREFIX) {
            let suggestion = nearest(&name);
            warnings.push(Warning::UnknownVariable { name, suggestion });
        }
    }
    known.retain(|_, value| !value.is_empty());

    // The fields are optional texts, so reading them can't fail; if it
    // did, it would be reported like any wrong value.
    let raw: Raw = envy::prefixed(VARIABLE_PREFIX)
        .from_iter(known)
        .map_err(|error| ConfigError {
            problems: vec![Problem {
                variable: format!("{VARIABLE_PREFIX}*"),
                found: error.to_string(),
                allowed: "text".to_owned(),
            }],
        })?;
    let mut reader = Reader::default();
    match reader.settings(raw) {
        Some(settings) if reader.problems.is_empty() => Ok((settings, warnings)),
        _ => Err(ConfigError {
            problems: reader.problems,
        }),
    }
}

fn nearest(name: &str) -> Option<String> {
    let upper = name.to_uppercase();
    SETTINGS
        .iter()
        .map(|setting| setting.variable())
        .map(|variable| (strsim::damerau_levenshtein(&upper, &variable), variable))
        .filter(|(distance, _)| *distance <= NEAR)
        .min()
        .map(|(_, variable)| variable)
}

/// Each method returns `None` if a value is wrong, and notes why.
#[derive(Default)]
struct Reader {
    problems: Vec<Problem>,
}

impl Reader {
    fn settings(&mut self, raw: Raw) -> Option<Settings> {
        // All are read before the first `?`.
        let broker = self.broker(raw.amqp_url, raw.amqp_url_file);
        let amqp_ca = self.optional(&table::AMQP_CA_FILE, raw.amqp_ca_file, path);
        let amqp_client = self.client(raw.amqp_client_cert_file, raw.amqp_client_key_file);
        let amqp_tls = self.tls(broker.as_ref(), amqp_ca, amqp_client);
        let workspace_root = self.value(&table::WORKSPACE_ROOT, raw.workspace_root, path);
        let workspace_storage = self.value(
            &table::WORKSPACE_STORAGE,
            raw.workspace_storage,
            WorkspaceStorage::from_word,
        );
        let workspace_host = self.workspace_host(workspace_storage, raw.workspace_host);
        let slots = match raw.slots {
            Some(text) => self.count(&table::SLOTS, Some(text)),
            None => Some(default_slots()),
        };
        let codex_bin = self.value(&table::CODEX_BIN, raw.codex_bin, path);
        let codex_home = self.value(&table::CODEX_HOME, raw.codex_home, codex_home);
        let codex_models = self.optional(&table::CODEX_MODELS, raw.codex_models, models);
        let codex_efforts = self.optional(&table::CODEX_EFFORTS, raw.codex_efforts, some_of);
        let codex_service_tiers = self.optional(
            &table::CODEX_SERVICE_TIERS,
            raw.codex_service_tiers,
            some_of,
        );
        let codex_model = self.optional(&table::CODEX_MODEL, raw.codex_model, |text| {
            let listed = match &codex_models {
                Some(Some(list)) => list.contains(text),
                _ => true,
            };
            (is_model_name(text) && listed).then(|| text.to_owned())
        });
        let codex_engine = self.value(
            &table::CODEX_ENGINE,
            raw.codex_engine,
            EngineKind::from_word,
        );
        let delta_window = self.duration(&table::DELTA_WINDOW, raw.delta_window);
        let codex_idle_ttl = self.duration(&table::CODEX_IDLE_TTL, raw.codex_idle_ttl);
        let codex_warm = match raw.codex_warm {
            Some(text) => self.count(&table::CODEX_WARM, Some(text)).map(Some),
            None => Some(None),
        };
        let codex_warm_memory = match raw.codex_warm_memory {
            Some(text) => self.size(&table::CODEX_WARM_MEMORY, Some(text)).map(Some),
            None => Some(None),
        };
        let codex_sandbox =
            self.value(&table::CODEX_SANDBOX, raw.codex_sandbox, Sandbox::from_word);
        let codex_args = self.value(&table::CODEX_ARGS, raw.codex_args, |text| {
            shell_words::split(text).ok()
        });
        let codex_env = self.value(&table::CODEX_ENV, raw.codex_env, variables);
        let codex_hidden_env =
            self.value(&table::CODEX_HIDDEN_ENV, raw.codex_hidden_env, variables);
        let codex_trust_workspaces = self.value(
            &table::CODEX_TRUST_WORKSPACES,
            raw.codex_trust_workspaces,
            |text| text.parse().ok(),
        );
        let kill_timeout = self.duration(&table::KILL_TIMEOUT, raw.kill_timeout);
        let lock_lost_after = match raw.lock_lost_after {
            Some(text) => self.duration(&table::LOCK_LOST_AFTER, Some(text)).map(Some),
            None => Some(None),
        };
        let codex_run_as = self.optional(&table::CODEX_RUN_AS, raw.codex_run_as, run_as);
        let codex_max_processes =
            self.optional_count(&table::CODEX_MAX_PROCESSES, raw.codex_max_processes);
        let codex_max_open_files =
            self.optional_count(&table::CODEX_MAX_OPEN_FILES, raw.codex_max_open_files);
        let require_isolation =
            self.value(&table::REQUIRE_ISOLATION, raw.require_isolation, |text| {
                text.parse().ok()
            });
        let turn_timeout = self.duration(&table::TURN_TIMEOUT, raw.turn_timeout);
        let turn_idle_timeout = self.duration(&table::TURN_IDLE_TIMEOUT, raw.turn_idle_timeout);
        let max_attempts = self.count(&table::MAX_ATTEMPTS, raw.max_attempts);
        let account_faults = self.value(&table::ACCOUNT_FAULTS, raw.account_faults, faults);
        let account_fault_turns = self.value(
            &table::ACCOUNT_FAULT_TURNS,
            raw.account_fault_turns,
            FaultTurns::from_word,
        );
        let events = self.value(&table::EVENTS, raw.events, EventSet::from_word);
        let max_request_bytes = self.size(&table::MAX_REQUEST_BYTES, raw.max_request_bytes);
        let max_line_bytes = self.size(&table::MAX_LINE_BYTES, raw.max_line_bytes);
        let backlog = self.count(&table::BACKLOG, raw.backlog);
        let max_waiting = self.count(&table::MAX_WAITING, raw.max_waiting);
        let overtaking = self.duration(&table::OVERTAKING, raw.overtaking);
        let keeps_log = self.value(&table::EVENT_LOG, raw.event_log, |text| match text {
            "on" => Some(true),
            "off" => Some(false),
            _ => None,
        });
        let max_age = self.duration(&table::EVENT_LOG_MAX_AGE, raw.event_log_max_age);
        let max_bytes = self.size(&table::EVENT_LOG_MAX_BYTES, raw.event_log_max_bytes);
        let dead_letter_limit = self.count(&table::DEAD_LETTER_LIMIT, raw.dead_letter_limit);
        let shutdown_grace = self.duration(&table::SHUTDOWN_GRACE, raw.shutdown_grace);
        let http_addr = self.value(&table::HTTP_ADDR, raw.http_addr, |text| text.parse().ok());
        let metrics_linger = self.duration(&table::METRICS_LINGER, raw.metrics_linger);
        let listed_tenants = self.optional(&table::TENANTS, raw.tenants, tenants);
        let tenant_from = self.value(&table::TENANT_FROM, raw.tenant_from, TenantFrom::from_word);
        let log_format = self.optional(&table::LOG_FORMAT, raw.log_format, LogFormat::from_word);
        let log = self.value(&table::LOG, raw.log, log_filter);
        let log_errors = self.value(&table::LOG_ERRORS, raw.log_errors, LogErrors::from_word);
        let failed_requests = self.count(&table::FAILED_REQUESTS, raw.failed_requests);
        let prefix = self.value(&table::PREFIX, raw.prefix, object_prefix);
        let roles = self.roles(workspace_storage, raw.roles);

        Some(Settings {
            broker: broker?,
            amqp_tls: amqp_tls?,
            workspace_root: workspace_root?,
            workspace_storage: workspace_storage?,
            workspace_host: workspace_host?,
            slots: slots?,
            codex_bin: codex_bin?,
            codex_home: codex_home?,
            codex_model: codex_model?,
            codex_models: codex_models?,
            codex_efforts: codex_efforts?,
            codex_service_tiers: codex_service_tiers?,
            codex_engine: codex_engine?,
            delta_window: delta_window?,
            codex_idle_ttl: codex_idle_ttl?,
            codex_warm: codex_warm?,
            codex_warm_memory: codex_warm_memory?,
            codex_sandbox: codex_sandbox?,
            codex_args: codex_args?,
            codex_env: codex_env?,
            codex_hidden_env: codex_hidden_env?,
            codex_trust_workspaces: codex_trust_workspaces?,
            kill_timeout: kill_timeout?,
            lock_lost_after: lock_lost_after?,
            codex_run_as: codex_run_as?,
            codex_max_processes: codex_max_processes?,
            codex_max_open_files: codex_max_open_files?,
            require_isolation: require_isolation?,
            turn_timeout: turn_timeout?,
            turn_idle_timeout: turn_idle_timeout?,
            max_attempts: max_attempts?,
            account_faults: account_faults?,
            account_fault_turns: account_fault_turns?,
            events: events?,
            max_request_bytes: max_request_bytes?,
            max_line_bytes: max_line_bytes?,
            backlog: backlog?,
            max_waiting: max_waiting?,
            overtaking: overtaking?,
            event_log: event_log(keeps_log?, max_age?, max_bytes?),
            dead_letter_limit: dead_letter_limit?,
            shutdown_grace: shutdown_grace?,
            http_addr: http_addr?,
            metrics_linger: metrics_linger?,
            tenants: Tenants::new(tenant_from?, listed_tenants?.unwrap_or_default()),
            log_format: log_format?,
            log: log?,
            log_errors: log_errors?,
            failed_requests: failed_requests?,
            prefix: prefix?,
            roles: roles?,
        })
    }

    fn broker(&mut self, url: Option<String>, file: Option<String>) -> Option<Broker> {
        match (url, file) {
            (Some(_), Some(file)) => self.wrong(&table::AMQP_URL_FILE, quoted(&file)),
            (None, Some(file)) => Some(Broker::File(file.into())),
            (url, None) => {
                let text = url.or_else(|| table::AMQP_URL.preset())?;
                let parsed = broker::parse(&text);
                match parsed {
                    Some(url) => Some(Broker::Url(url)),
                    None => self.wrong(&table::AMQP_URL, broker::redacted(&text)),
                }
            }
        }
    }

    fn client(
        &mut self,
        certificate: Option<String>,
        key: Option<String>,
    ) -> Option<Option<ClientFiles>> {
        let both = certificate.is_some() == key.is_some();
        let mut alone = |setting: &Setting, text: Option<String>| {
            self.optional(setting, text, |text| path(text).filter(|_| both))
        };
        let certificate = alone(&table::AMQP_CLIENT_CERT_FILE, certificate)?;
        let key = alone(&table::AMQP_CLIENT_KEY_FILE, key)?;
        Some(
            Option::zip(certificate, key)
                .map(|(certificate, key)| ClientFiles { certificate, key }),
        )
    }

    /// What a URL in a file asks for is looked at when that is read.
    fn tls(
        &mut self,
        broker: Option<&Broker>,
        ca: Option<Option<PathBuf>>,
        client: Option<Option<ClientFiles>>,
    ) -> Option<TlsFiles> {
        let (ca, client) = (ca?, client?);
        let files = TlsFiles { ca, client };
        match (files.set_by(), broker) {
            (Some(setting), Some(Broker::Url(url))) if !broker::has_tls(url) => {
                self.wrong(setting, "set for an amqp:// URL".to_owned())
            }
            _ => Some(files),
        }
    }

    /// A setting that always has a value.
    fn value<T>(
        &mut self,
        setting: &Setting,
        text: Option<String>,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Option<T> {
        let text = text.or_else(|| setting.preset())?;
        match parse(&text) {
            Some(value) => Some(value),
            None => self.wrong(setting, quoted(&text)),
        }
    }

    /// A setting without which something else happens.
    fn optional<T>(
        &mut self,
        setting: &Setting,
        text: Option<String>,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Option<Option<T>> {
        match text {
            Some(text) => self.value(setting, Some(text), parse).map(Some),
            None => Some(None),
        }
    }

    fn count<T: TryFrom<u64>>(&mut self, setting: &Setting, text: Option<String>) -> Option<T> {
        self.value(setting, text, |text| match setting.allowed {
            Allowed::Count(min, max) => within(value::count(text)?, min, max)?.try_into().ok(),
            _ => None,
        })
    }

    fn optional_count(&mut self, setting: &Setting, text: Option<String>) -> Option<Option<u64>> {
        match text {
            Some(text) => self.count(setting, Some(text)).map(Some),
            None => Some(None),
        }
    }

    fn size<T: TryFrom<u64>>(&mut self, setting: &Setting, text: Option<String>) -> Option<T> {
        self.value(setting, text, |text| match setting.allowed {
            Allowed::Size(min, max) => {
                within(value::size(text)?, value::size(min)?, value::size(max)?)?
                    .try_into()
                    .ok()
            }
            _ => None,
        })
    }

    fn duration(&mut self, setting: &Setting, text: Option<String>) -> Option<Duration> {
        self.value(setting, text, |text| match setting.allowed {
            Allowed::Duration(min, max) => within(
                value::duration(text)?,
                value::duration(min)?,
                value::duration(max)?,
            ),
            _ => None,
        })
    }

    fn workspace_host(
        &mut self,
        storage: Option<WorkspaceStorage>,
        host: Option<String>,
    ) -> Option<Option<String>> {
        match host {
            Some(host) if storage == Some(WorkspaceStorage::Shared) => {
                self.wrong(&table::WORKSPACE_HOST, quoted(&host))
            }
            host => self.optional(&table::WORKSPACE_HOST, host, |text| {
                is_host_name(text).then(|| text.to_owned())
            }),
        }
    }

    /// Where each host has a disk of its own, its processes answer for what is on it.
    fn roles(&mut self, storage: Option<WorkspaceStorage>, text: Option<String>) -> Option<Roles> {
        let shown = text.as_deref().map(quoted);
        let roles = self.value(&table::ROLES, text, roles)?;
        let both = roles.sequencer && roles.worker;
        if both || storage != Some(WorkspaceStorage::Local) {
            return Some(roles);
        }
        self.problems.push(Problem {
            variable: table::ROLES.variable(),
            found: shown.unwrap_or_default(),
            allowed: "sequencer,worker where WORKSPACE_STORAGE is local".to_owned(),
        });
        None
    }

    fn wrong<T>(&mut self, setting: &Setting, found: String) -> Option<T> {
        self.problems.push(Problem {
            variable: setting.variable(),
            found,
            allowed: setting.allowed.to_string(),
        });
        None
    }
}

impl Setting {
    fn preset(&self) -> Option<String> {
        match self.default {
            Preset::Value(text) => Some(text.to_owned()),
            Preset::Described(_) => None,
        }
    }
}

fn event_log(keeps: bool, max_age: Duration, max_bytes: u64) -> Option<EventLog> {
    keeps.then_some(EventLog { max_age, max_bytes })
}

fn within<T: PartialOrd>(value: T, min: T, max: T) -> Option<T> {
    (min <= value && value <= max).then_some(value)
}

fn quoted(text: &str) -> String {
    format!("{text:?}")
}

fn default_slots() -> usize {
    let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
    (cores * 4).min(1000)
}
