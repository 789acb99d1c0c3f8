//! What every command that makes a turn takes.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use serde_json::value::RawValue;
use turn_worker::client::{NewTurn, Submission};
use turn_worker::config::parse_duration;
use turn_worker::request::{
    Effort, MediaType, OnBusy, ServiceTier, TENANT_RULE, ThreadChoice, TurnId, WorkspaceId,
    is_tenant,
};
use turn_worker::trace::TraceContext;

use super::exit::Usage;
use super::stderr::notice;

/// For commands that name a turn and maybe its workspace. Whether a path is a
/// workspace's, only a worker knows.
pub(super) fn check_names(turn_id: &str, workspace: Option<&str>) -> Result<(), Usage> {
    let wrong = |what: &str, found: &str, rule: String| {
        Usage(format!("{what} is {found:?}, expected {rule}"))
    };
    if let Err(rule) = turn_id.parse::<TurnId>() {
        return Err(wrong("the turn's id", turn_id, rule.to_string()));
    }
    if let Some(workspace) = workspace.filter(|workspace| !workspace.starts_with('/'))
        && let Err(rule) = workspace.parse::<WorkspaceId>()
    {
        return Err(wrong("the workspace", workspace, rule.to_string()));
    }
    Ok(())
}

#[derive(Debug, Args)]
pub(super) struct TurnArgs {
    /// The workspace: a directory under the workspace root, such as acme/website; created if missing
    #[arg(long, short, value_name = "W")]
    workspace: String,
    /// The model; the worker's default without
    #[arg(long, short, value_name = "M")]
    model: Option<String>,
    /// How much the model is to think: none, minimal, low, medium, high, xhigh, max or ultra; which of them it takes is the model's
    #[arg(long, short, value_name = "E")]
    effort: Option<Effort>,
    /// How fast, and for which price, the model is served: default, flex or priority
    #[arg(long, value_name = "TIER")]
    service_tier: Option<ServiceTier>,
    /// The tenant that the turn runs for, for metrics and pauses: 1 to 64 of A-Z a-z 0-9 . _ -, beginning with a letter or digit
    #[arg(long, value_name = "NAME", value_parser = tenant)]
    tenant: Option<String>,
    /// How long the turn may run, such as 90s or 1h30m; never longer than the worker's own limit
    #[arg(long, short, value_name = "D", value_parser = timeout)]
    timeout: Option<Duration>,
    /// An image to show along with the prompt (PNG, JPEG, GIF or WebP); may be given several times. It is sent within the request, so all of them together must fit into the worker's TURN_WORKER_MAX_REQUEST_BYTES, of which each takes 4/3 of its size
    #[arg(long = "image", value_name = "FILE")]
    images: Vec<PathBuf>,
    /// A file with a JSON Schema, an object, that the answer is to follow; the end of the turn then has it as `structured`
    #[arg(long, value_name = "FILE")]
    output_schema: Option<PathBuf>,
    /// Start a new conversation, which is the workspace's from then on
    #[arg(long)]
    new_thread: bool,
    /// Which conversation: continue (the workspace's), new (the same as --new-thread), or continue_or_new (a new one only where codex refuses to resume the workspace's)
    #[arg(
        long,
        value_name = "WHICH",
        default_value = "continue",
        hide_default_value = true,
        conflicts_with = "new_thread"
    )]
    thread: ThreadChoice,
    /// JSON lines, one an event, also on a terminal
    #[arg(long)]
    pub json: bool,
    /// The prompt; `-` reads it from stdin
    prompt: String,
}

/// What only a turn that goes over the broker takes.
#[derive(Debug, Default, Args)]
pub(super) struct QueueingArgs {
    /// The turn's id; a new UUID without. A turn that was sent before under the same id does not run again
    #[arg(long, value_name = "T")]
    turn_id: Option<String>,
    /// How long the turn may wait for its start, such as 30s; later it ends as turn.expired without being run
    #[arg(long, value_name = "D", value_parser = timeout)]
    start_within: Option<Duration>,
    /// If the workspace has turns that have not ended: enqueue behind them, reject (workspace.busy), or interrupt them
    #[arg(
        long,
        value_name = "HOW",
        default_value = "enqueue",
        hide_default_value = true
    )]
    on_busy: OnBusy,
}

pub(super) fn tenant(text: &str) -> Result<String, String> {
    is_tenant(text)
        .then(|| text.to_owned())
        .ok_or_else(|| format!("expected {TENANT_RULE}"))
}

fn timeout(text: &str) -> Result<Duration, String> {
    parse_duration(text)
        .filter(|timeout| *timeout >= Duration::from_secs(1))
        .ok_or_else(|| "expected a duration such as 90s or 1h30m, at least 1s".to_owned())
}

/// The trace that the calling process is in, by the environment that
/// OpenTelemetry's tools hand on; ignored where it is not valid, as everywhere.
fn caller() -> Option<TraceContext> {
    let parent = std::env::var("TRACEPARENT").ok()?;
    let state = std::env::var("TRACESTATE").ok();
    TraceContext::read(&parent, state.as_deref())
}

impl TurnArgs {
    pub(super) fn submission(&self, queueing: &QueueingArgs) -> anyhow::Result<Submission> {
        let turn = NewTurn {
            turn_id: queueing.turn_id.clone(),
            workspace: self.workspace.clone(),
            prompt: self.prompt()?,
            model: self.model.clone(),
            reasoning_effort: self.effort,
            service_tier: self.service_tier,
            tenant: self.tenant.clone(),
            timeout: self.timeout,
            images: self.images()?,
            output_schema: self.output_schema()?,
            start_within: queueing.start_within,
            on_busy: queueing.on_busy,
            thread: if self.new_thread {
                ThreadChoice::New
            } else {
                self.thread
            },
            trace: caller(),
        };
        turn.submission()
            .map_err(|rejection| Usage(rejection.to_string()).into())
    }

    fn images(&self) -> anyhow::Result<Vec<Vec<u8>>> {
        let read = |path: &PathBuf| {
            let bytes = std::fs::read(path)
                .with_context(|| format!("can't read the image {}", path.display()))?;
            if MediaType::of(&bytes).is_none() {
                let known = MediaType::ALL.map(MediaType::as_str).join(", ");
                let path = path.display();
                let rule = format!("--image: {path} does not start as any of {known}");
                return Err(Usage(rule).into());
            }
            Ok(bytes)
        };
        self.images.iter().map(read).collect()
    }

    fn output_schema(&self) -> anyhow::Result<Option<Box<RawValue>>> {
        let Some(path) = &self.output_schema else {
            return Ok(None);
        };
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("can't read the output schema {}", path.display()))?;
        let schema = serde_json::from_str(&text).map_err(|error| {
            let path = path.display();
            Usage(format!("--output-schema: {path} is no JSON: {error}"))
        })?;
        Ok(Some(schema))
    }

    fn prompt(&self) -> anyhow::Result<String> {
        if self.prompt != "-" {
            return Ok(self.prompt.clone());
        }
        let stdin = std::io::stdin();
        if stdin.is_terminal() {
            notice("reading the prompt; Ctrl-D ends it");
        }
        std::io::read_to_string(stdin).context("can't read the prompt from stdin")
    }
}
