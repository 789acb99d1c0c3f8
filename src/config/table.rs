use std::fmt;
use std::fmt::Write;

/// What all our variables start with.
pub const VARIABLE_PREFIX: &str = "TURN_WORKER_";

/// A setting as the documentation shows it and as it is read.
#[derive(Debug)]
pub struct Setting {
    /// Without the prefix.
    pub name: &'static str,
    pub default: Preset,
    pub allowed: Allowed,
    pub help: &'static str,
}

impl Setting {
    /// The name in the environment.
    pub fn variable(&self) -> String {
        format!("{VARIABLE_PREFIX}{}", self.name)
    }
}

#[derive(Debug, Clone, Copy)]
pub enum Preset {
    /// As if this text had been set.
    Value(&'static str),
    /// What happens without a value, in words.
    Described(&'static str),
}

impl fmt::Display for Preset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Value(text) | Self::Described(text)) = self;
        f.write_str(text)
    }
}

/// What a value may be. Bounds are included, and stand as they would be set.
#[derive(Debug, Clone, Copy)]
pub enum Allowed {
    Count(u64, u64),
    Duration(&'static str, &'static str),
    Size(&'static str, &'static str),
    OneOf(&'static [&'static str]),
    /// In words; the code that reads it knows.
    Described(&'static str),
}

impl fmt::Display for Allowed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Count(min, max) => write!(f, "{min} to {max}"),
            Self::Duration(min, max) => {
                write!(f, "a duration such as 90s or 1h30m, {min} to {max}")
            }
            Self::Size(min, max) => {
                write!(f, "bytes or a size such as 256KiB or 16MiB, {min} to {max}")
            }
            Self::OneOf(words) => f.write_str(&words.join(", ")),
            Self::Described(text) => f.write_str(text),
        }
    }
}

/// One list for the variables as envy reads them and for the table.
macro_rules! settings {
    ($($field:ident $name:ident { $default:expr, $allowed:expr, $help:literal })+) => {
        /// The variables that are set, as they are set.
        #[derive(Default, serde::Deserialize)]
        pub(super) struct Raw { $(pub(super) $field: Option<String>),+ }

        $(pub(super) static $name: Setting = Setting {
            name: stringify!($name),
            default: $default,
            allowed: $allowed,
            help: $help,
        };)+

        /// All settings, in the order of the documentation.
        pub static SETTINGS: &[&Setting] = &[$(&$name),+];
    };
}

use super::{
    EngineKind, EventSet, FaultTurns, LogErrors, LogFormat, Sandbox, TenantFrom, WorkspaceStorage,
};
use Allowed::{Count, Duration, OneOf, Size};

settings! {
    amqp_url AMQP_URL {
        Preset::Value("amqp://guest:guest@127.0.0.1:5672/%2f"),
        Allowed::Described("amqp:// or amqps:// with user:password@host:port/vhost, each part percent-encoded, the host a name or an IPv4 address; ?heartbeat=SECONDS, 1 to 60, for another interval than 10 s"),
        "the broker" }
    amqp_url_file AMQP_URL_FILE {
        Preset::Described("none"),
        Allowed::Described("a path, and not together with AMQP_URL"),
        "a file with the broker's URL, read at every connect, so that it can be rotated" }
    amqp_ca_file AMQP_CA_FILE {
        Preset::Described("the system's"),
        Allowed::Described("a path to certificates in PEM, and only with amqps://"),
        "the only authorities that the broker's certificate may be signed by, read at every connect" }
    amqp_client_cert_file AMQP_CLIENT_CERT_FILE {
        Preset::Described("none"),
        Allowed::Described("a path to a certificate in PEM, together with AMQP_CLIENT_KEY_FILE, and only with amqps://"),
        "what the broker is shown when it asks who we are, read at every connect" }
    amqp_client_key_file AMQP_CLIENT_KEY_FILE {
        Preset::Described("none"),
        Allowed::Described("a path to an unencrypted private key in PEM, together with AMQP_CLIENT_CERT_FILE"),
        "the private key of that certificate, read at every connect" }
    workspace_root WORKSPACE_ROOT {
        Preset::Value("./workspaces"), Allowed::Described("a path"),
        "the directory that holds all workspaces" }
    workspace_storage WORKSPACE_STORAGE {
        Preset::Value("shared"), OneOf(WorkspaceStorage::WORDS),
        "whether all hosts share one workspace root, or each host has its own: with local each workspace lives on one host's disk, its home; the same in all processes" }
    workspace_host WORKSPACE_HOST {
        Preset::Described("the host's name"), Allowed::Described("1 to 64 characters [A-Za-z0-9._-], not beginning with -"),
        "what the disk of this process's workspace root is called; only with WORKSPACE_STORAGE=local" }
    slots SLOTS {
        Preset::Described("number of cores × 4"), Count(1, 1000),
        "how many turns run at the same time" }
    codex_bin CODEX_BIN {
        Preset::Value("codex"), Allowed::Described("a name in PATH or a path"),
        "the codex CLI; of the npm package, its native binary is run" }
    codex_engine CODEX_ENGINE {
        Preset::Value("app-server"), OneOf(EngineKind::WORDS),
        "how codex is run: codex exec reports each message when it is whole, codex app-server as the model writes it" }
    delta_window DELTA_WINDOW {
        Preset::Value("30ms"), Duration("0s", "10s"),
        "within which time pieces of a text are joined into one event, with app-server" }
    codex_idle_ttl CODEX_IDLE_TTL {
        Preset::Value("10m"), Duration("0s", "24h"),
        "how long a workspace's app-server waits for the next turn there; 0s: each serves one turn" }
    codex_warm CODEX_WARM {
        Preset::Described("SLOTS × 2, and more while the host has ample room"), Count(0, 1000),
        "how many app-servers wait at most; the one that has waited longest goes first" }
    codex_warm_memory CODEX_WARM_MEMORY {
        Preset::Described("a quarter of the machine's or the cgroup's"), Size("1KiB", "65536GiB"),
        "how much memory the app-servers that wait take together at most; while less than a sixteenth of all memory is available, an eighth of them ends each second" }
    codex_home CODEX_HOME {
        Preset::Value("default"), Allowed::Described("default, per-workspace or a path"),
        "codex's own state: where codex keeps it by default, in one folder for all, or in one for each workspace" }
    codex_model CODEX_MODEL {
        Preset::Described("codex's own"),
        Allowed::Described("1 to 128 of A-Z a-z 0-9 . _ : / @ - and not beginning with -, one of CODEX_MODELS if that is set"),
        "the model of turns without one" }
    codex_models CODEX_MODELS {
        Preset::Described("any"),
        Allowed::Described("names of models, with commas between them"),
        "the models that a turn may name; one without is run only if its model is listed, too" }
    codex_efforts CODEX_EFFORTS {
        Preset::Described("any"),
        Allowed::Described("some of none, minimal, low, medium, high, xhigh, max and ultra, with commas between them"),
        "the reasoning efforts that a turn may ask for" }
    codex_service_tiers CODEX_SERVICE_TIERS {
        Preset::Described("any"),
        Allowed::Described("some of default, flex and priority, with commas between them"),
        "the service tiers that a turn may ask for, with app-server; with exec it may not" }
    codex_sandbox CODEX_SANDBOX {
        Preset::Value("bypass"), OneOf(Sandbox::WORDS),
        "what codex lets the agent's commands do" }
    codex_args CODEX_ARGS {
        Preset::Value("--disable unbounded_connection_retries --disable plugins -c analytics.enabled=false"),
        Allowed::Described("arguments, quoted as in a shell; a single blank for no arguments"),
        "arguments that every codex gets" }
    codex_env CODEX_ENV {
        Preset::Value("PATH,HOME,LANG,LC_ALL,TZ,TMPDIR,CODEX_API_KEY,SSL_CERT_FILE"),
        Allowed::Described("names of variables, with commas between them, not beginning with TURN_WORKER_"),
        "the variables that codex gets; all others are withheld" }
    codex_hidden_env CODEX_HIDDEN_ENV {
        Preset::Value("CODEX_API_KEY"),
        Allowed::Described("names of variables, with commas between them, or a single blank for an empty list"),
        "which of these only codex itself gets: the agent's commands see them empty" }
    codex_trust_workspaces CODEX_TRUST_WORKSPACES {
        Preset::Value("false"), OneOf(&["true", "false"]),
        "whether codex believes a workspace's own .codex folder; with true, anyone who can write there chooses programs that run outside the sandbox and can read the API key" }
    kill_timeout KILL_TIMEOUT {
        Preset::Value("30s"), Duration("1s", "10m"),
        "how long a turn's processes may take to end once they are killed; then the turn ends without them, and its workspace stays locked until they do" }
    lock_lost_after LOCK_LOST_AFTER {
        Preset::Described("`25s` if WORKSPACE_ROOT is on a shared file system (NFS, FUSE, Ceph, SMB, …), else `0s`"), Duration("0s", "10m"),
        "after how long without a confirmation of the workspace's lock by the file system a turn's processes are killed, and the turn is started again elsewhere; must be shorter than the file system's own lock timeout; 0s: locks are not confirmed" }
    codex_run_as CODEX_RUN_AS {
        Preset::Described("the worker's own user"),
        Allowed::Described("the name of a user, or uid:gid, and not root"),
        "the user that codex and its commands run as; takes a worker that runs as root" }
    codex_max_processes CODEX_MAX_PROCESSES {
        Preset::Described("as the worker"), Count(16, 4_194_304),
        "how many processes and threads the agents' user may have, in all turns together; not held against root" }
    codex_max_open_files CODEX_MAX_OPEN_FILES {
        Preset::Described("as the worker"), Count(64, 1_048_576),
        "how many files each process of a turn may have open" }
    require_isolation REQUIRE_ISOLATION {
        Preset::Value("false"), OneOf(&["true", "false"]),
        "whether to refuse to run agents as the worker's own user" }
    turn_timeout TURN_TIMEOUT {
        Preset::Value("1h"), Duration("100ms", "7d"),
        "how long a turn may take; a request can ask for less" }
    turn_idle_timeout TURN_IDLE_TIMEOUT {
        Preset::Value("15m"), Duration("100ms", "7d"),
        "how long codex may be silent" }
    max_attempts MAX_ATTEMPTS {
        Preset::Value("3"), Count(1, 100),
        "how often a turn is started when workers die running it; a request can ask for less" }
    account_faults ACCOUNT_FAULTS {
        Preset::Value("auth,usage_limit"),
        Allowed::Described("some of auth, usage_limit and config, with commas between them, or a single blank for an empty list"),
        "the reasons of failed turns that mean the account: after three in a row the process takes one turn at a time, with pauses of up to 5 minutes, until one works" }
    account_fault_turns ACCOUNT_FAULT_TURNS {
        Preset::Value("end"), OneOf(FaultTurns::WORDS),
        "what becomes of a turn that fails by such a reason meanwhile: it ends, or it waits and starts again later, unless the model has answered it" }
    events EVENTS {
        Preset::Value("full"), OneOf(EventSet::WORDS),
        "which events are published" }
    max_request_bytes MAX_REQUEST_BYTES {
        Preset::Value("256KiB"), Size("1KiB", "8MiB"),
        "the largest request; images within it take 4/3 of their size" }
    max_line_bytes MAX_LINE_BYTES {
        Preset::Value("16MiB"), Size("1KiB", "128MiB"),
        "the longest line that is read from codex; longer ones are skipped with a notice" }
    backlog BACKLOG {
        Preset::Value("10000"), Count(1, 65_535),
        "how many turns the sequencer looks at; of more it only keeps the order" }
    max_waiting MAX_WAITING {
        Preset::Value("1000"), Count(1, 65_535),
        "how many of them may be of one workspace; more are rejected with workspace.backlog_full" }
    overtaking OVERTAKING {
        Preset::Value("1s"), Duration("0s", "1m"),
        "how much later than a waiting turn another may have come that is started before it, since its workspace's app-server waits where a slot is free; 0s: each turn is offered to all processes" }
    event_log EVENT_LOG {
        Preset::Value("off"), OneOf(&["off", "on"]),
        "keeps all events at the broker, prompts' answers among them, for readers who come late (turn-worker tail)" }
    event_log_max_age EVENT_LOG_MAX_AGE {
        Preset::Value("7d"), Duration("1h", "3650d"),
        "how long the event log keeps them; a stream is cut by whole segments, so a quiet one keeps some longer" }
    event_log_max_bytes EVENT_LOG_MAX_BYTES {
        Preset::Value("10GiB"), Size("16MiB", "65536GiB"),
        "how large the event log may grow on each broker that holds it; the oldest go first" }
    dead_letter_limit DEAD_LETTER_LIMIT {
        Preset::Value("10000"), Count(1, 10_000_000),
        "how many rejected requests are kept; the oldest go first" }
    failed_requests FAILED_REQUESTS {
        Preset::Value("100"), Count(0, 10_000),
        "how many requests of turns that failed are kept for each workspace, prompts among them, for turn-worker retry; 0 disables it" }
    shutdown_grace SHUTDOWN_GRACE {
        Preset::Value("10m"), Duration("0s", "7d"),
        "how long running turns may go on after SIGTERM" }
    http_addr HTTP_ADDR {
        Preset::Value("127.0.0.1:9464"),
        Allowed::Described("an IP address and a port, such as 127.0.0.1:9464, 0.0.0.0:9464 or [::1]:9464"),
        "where /metrics, /healthz and /readyz are served" }
    metrics_linger METRICS_LINGER {
        Preset::Value("30s"), Duration("0s", "10m"),
        "how long a drained process waits at most for /metrics to be scraped after its last turn, if something scrapes it" }
    tenants TENANTS {
        Preset::Described("none: metrics have no label for tenants"),
        Allowed::Described("up to 50 names, each 1 to 64 of A-Z a-z 0-9 . _ - and beginning with a letter or digit, with commas between them; not other and not none"),
        "the tenants by which turns, failures, tokens and queue waits are counted, with the label tenant; all others are counted as other. Set it alike for all processes of a pool" }
    tenant_from TENANT_FROM {
        Preset::Value("request"), OneOf(TenantFrom::WORDS),
        "what names the tenant of a turn, for metrics, the log and turn-worker pause: the request's field tenant, or the first segment of the workspace. Set it alike for all processes of a pool" }
    log_format LOG_FORMAT {
        Preset::Described("text on a terminal, else json"), OneOf(LogFormat::WORDS),
        "the form of the log on stderr" }
    log LOG {
        Preset::Value("info"),
        Allowed::Described("off, error, warn, info, debug, trace or filters such as info,turn_worker=debug"),
        "how much is logged" }
    log_errors LOG_ERRORS {
        Preset::Value("known"), OneOf(LogErrors::WORDS),
        "of which failed turns the words of codex and of the model's API are logged: known is those with a reason that concerns the account, the connection or the settings, so not invalid_prompt, policy and unknown, where the words may quote prompts and files" }
    prefix PREFIX {
        Preset::Value("codex"),
        Allowed::Described("1 to 64 of A-Z a-z 0-9 . _ - and beginning with a letter or digit, not with amq."),
        "what the names of all exchanges and queues start with" }
    roles ROLES {
        Preset::Value("sequencer,worker"),
        Allowed::Described("sequencer, worker or both, with a comma between them"),
        "what this process does" }
}

/// All that sending a turn and listening to it needs.
pub(super) const OF_PRODUCERS: &[&str] = &[
    "AMQP_URL",
    "AMQP_URL_FILE",
    "AMQP_CA_FILE",
    "AMQP_CLIENT_CERT_FILE",
    "AMQP_CLIENT_KEY_FILE",
    "PREFIX",
    "LOG",
    "LOG_FORMAT",
];

/// The same, and where the records are.
pub(super) const OF_OPERATORS: &[&str] = &[
    "AMQP_URL",
    "AMQP_URL_FILE",
    "AMQP_CA_FILE",
    "AMQP_CLIENT_CERT_FILE",
    "AMQP_CLIENT_KEY_FILE",
    "WORKSPACE_ROOT",
    "WORKSPACE_STORAGE",
    "WORKSPACE_HOST",
    "PREFIX",
    "LOG",
    "LOG_FORMAT",
];

/// All that is needed to judge a request, and to print the contract.
pub(super) const OF_DOCUMENTS: &[&str] = &[
    "WORKSPACE_ROOT",
    "CODEX_MODELS",
    "CODEX_EFFORTS",
    "CODEX_SERVICE_TIERS",
    "MAX_REQUEST_BYTES",
    "PREFIX",
    "LOG",
    "LOG_FORMAT",
];

/// For `--help`.
pub fn settings_help() -> String {
    let mut text = String::from("Settings (environment variables):\n\n");
    for setting in SETTINGS {
        let Setting {
            default,
            allowed,
            help,
            ..
        } = setting;
        // Writing to a String can't fail.
        let _ = writeln!(
            text,
            "  {}\n      {help}\n      allowed: {allowed}\n      default: {default}",
            setting.variable()
        );
    }
    text.push_str("\nAn empty value counts as absent. Relative paths mean the directory in which the process starts.\n");
    text
}

/// For `docs/settings.md`: a Markdown table.
pub fn settings_markdown() -> String {
    let mut text = String::from("| variable | default | allowed | |\n|---|---|---|---|\n");
    for setting in SETTINGS {
        let default = match setting.default {
            Preset::Value(value) => format!("`{value}`"),
            Preset::Described(words) => words.to_owned(),
        };
        let _ = writeln!(
            text,
            "| `{}` | {default} | {} | {} |",
            setting.variable(),
            setting.allowed,
            setting.help
        );
    }
    text
}
