//! The other side of `codex app-server --stdio`: a conversation with one
//! server process, without I/O or clocks. Lines go in, events and lines to be
//! sent come out.
//!
//! ```text
//! new ─ initialize ─▶ load ─ thread/start, thread/resume ─▶ Loaded
//!                       ▲                                     │ go ─ turn/start
//!                       └── turn/completed ◀── events … ◀─────┘
//! ```
//!
//! One thread at a time, one turn at a time: codex merges a second `turn/start`
//! into the turn that runs, also into one that it has started by itself. Words of
//! other threads (sub-agents) and of earlier turns are not part of a turn, as with
//! `codex exec`; that they go on is known, see `background`.

mod background;
mod dismissal;
mod error_info;
mod idle;
mod incoming;
mod items;
mod notice;
mod reuse;
mod run;
mod server;
mod startup_inputs;
mod wire;

pub use dismissal::DismissReason;
pub(super) use error_info::cause_of_record;
pub use idle::{Bounds, IdleServers, ServerCount};
pub(super) use run::default_model;
pub use run::{AppServer, AppServerRun};
pub use server::Server;

use std::time::Duration;

use serde::Serialize;
use serde_json::json;
use serde_json::value::RawValue;

use super::engine::{Ask, Image, Reported};
use super::growth::Growth;
use super::process::EFFORT;
use super::protocol::CliEvent;
use crate::config::Sandbox;
use crate::labels::RateLimit;
use crate::request::{Effort, OutputSchema, ServiceTier, encode};
use background::BackgroundWork;
use notice::Thinking;
use wire::{Fields, Incoming, Outgoing};

/// Which thread a turn runs on, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Load {
    pub cwd: String,
    pub sandbox: Sandbox,
    pub model: Option<String>,
    pub effort: Option<Effort>,
    /// The thread to go on with; without one a new thread is started.
    pub resume: Option<String>,
}

/// What a line of the server reports.
#[derive(Debug, Clone, PartialEq)]
pub enum Heard {
    /// The thread is there: a turn may start.
    Loaded { thread_id: String },
    /// The thread is gone or unreadable; a new one may be started.
    Lost { message: String },
    /// The thread is there, and the server would not resume it.
    NotResumed { message: String },
    /// The server would not initialize, load the thread or start the turn.
    Refused { message: String },
    /// Of the turn, or a warning before it.
    Event(CliEvent),
    /// What it reports of the account's allowance.
    RateLimits(Vec<RateLimit>),
    /// A tool sleeps; codex need not say anything for so long.
    Sleeps(Duration),
    /// A line that is no message.
    Garbage { bytes: usize },
}

#[derive(Debug)]
pub struct Conversation {
    out: Outgoing,
    next_id: u64,
    /// What answers are due for.
    awaited: Vec<(u64, Awaited)>,
    initialized: bool,
    /// To be loaded; sent as soon as the server is initialized.
    loading: Option<Load>,
    /// The directory to ask for settings of instead.
    settings_of: Option<String>,
    thread: Option<Thread>,
    turn: Option<Turn>,
    /// To be started when the turn that codex has started by itself has ended.
    waiting: Option<Ask>,
    /// Of the thread that is being resumed.
    defaults: Defaults,
    background: BackgroundWork,
    thinking: Thinking,
    /// An MCP server has started, which is not passed on yet.
    mcp_started: bool,
    /// The model has answered since the turn started, so an agent may act.
    answered: bool,
}

/// What codex is set to use if a turn does not choose.
#[derive(Debug, Default)]
struct Defaults {
    model: Option<String>,
    provider: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Awaited {
    Initialize,
    /// The goal that an earlier turn has left, before its thread is loaded.
    ClearGoal,
    PauseGoal,
    /// What is configured, before a thread is resumed: the model provider, and
    /// the model of turns that name no model.
    Settings,
    /// The list of models, if it is not configured.
    Models,
    Load,
    Turn,
    /// How the turn has ended.
    End,
    Interrupt,
}

#[derive(Debug)]
struct Thread {
    id: String,
    how: Load,
    growth: Growth,
    /// The model that it was loaded with, as the server reports it.
    model: Option<String>,
    /// The one that the last turn was passed on to instead.
    rerouted: Option<String>,
}

/// In the order of a schema's own fields, which no [`serde_json::Value`] keeps.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct TurnStart<'a> {
    input: Vec<serde_json::Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    output_schema: Option<&'a RawValue>,
    /// Unlike the one of a thread, it does not hold for the next turn.
    #[serde(skip_serializing_if = "Option::is_none")]
    service_tier_for_turn: Option<ServiceTier>,
    thread_id: String,
}

#[derive(Debug, Default)]
struct Turn {
    /// Known from the answer to `turn/start` or from `turn/started`.
    id: Option<String>,
    /// An interrupt is refused before `turn/started`, or what follows it.
    started: bool,
    interrupt: Interrupt,
    /// What the thread's status says of how it has ended, before its end itself
    /// is reported.
    outcome: Option<Outcome>,
    /// The message that was last completed, by its item.
    last_message: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Ended,
    Failed,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Interrupt {
    #[default]
    No,
    Wanted,
    Sent,
}

impl Default for Conversation {
    fn default() -> Self {
        Self::new()
    }
}

impl Conversation {
    /// Greets the server.
    pub fn new() -> Self {
        let mut conversation = Self {
            out: Outgoing::default(),
            next_id: 1,
            awaited: Vec::new(),
            initialized: false,
            loading: None,
            settings_of: None,
            thread: None,
            turn: None,
            waiting: None,
            defaults: Defaults::default(),
            background: BackgroundWork::default(),
            thinking: Thinking::default(),
            mcp_started: false,
            answered: false,
        };
        let name = env!("CARGO_PKG_NAME");
        let client = json!({"name": name, "title": null, "version": env!("CARGO_PKG_VERSION")});
        let params = json!({"clientInfo": client,
            "capabilities": {"optOutNotificationMethods": notice::UNWANTED}});
        conversation.request(Awaited::Initialize, "initialize", &params);
        conversation
    }

    /// Greets the server and loads a thread.
    pub fn with(load: Load) -> Self {
        let mut conversation = Self::new();
        conversation.load(load);
        conversation
    }

    /// Greets the server and asks only for its settings in that directory.
    pub fn about_settings(cwd: String) -> Self {
        Self {
            settings_of: Some(cwd),
            ..Self::new()
        }
    }

    /// The model of turns that name no model, of a conversation about settings.
    pub fn default_model(&self) -> Option<&str> {
        self.defaults.model.as_deref()
    }

    /// Whether a turn of that kind can start at once. A thread that is loaded
    /// keeps its model, sandbox and directory, regardless of what a `thread/resume` asks
    /// for.
    pub fn has_loaded(&self, load: &Load) -> bool {
        self.thread.as_ref().is_some_and(|thread| {
            load.resume.as_deref() == Some(&thread.id) && thread.is_loaded_as(load)
        })
    }

    /// Loads a thread, once the server is initialized; [`Heard::Loaded`] reports
    /// of it.
    pub fn load(&mut self, load: Load) {
        self.thread = None;
        self.background = BackgroundWork::default();
        self.loading = Some(load);
        if self.initialized {
            self.clear_goal();
        }
    }

    /// Starts a turn on the thread that is loaded, and before that ends one
    /// that was not asked for: codex would merge the two.
    pub fn go(&mut self, ask: Ask) {
        if let Some(unasked) = self.background.unasked_turn().map(str::to_owned) {
            self.waiting = Some(ask);
            if let Some(thread) = self.thread().map(str::to_owned) {
                self.request_interrupt(&thread, &unasked);
            }
            return;
        }
        let Some(thread) = self.thread.as_ref().filter(|_| self.turn.is_none()) else {
            debug_assert!(false, "a turn needs a loaded thread without a turn");
            return;
        };
        let params = TurnStart {
            input: input(&ask),
            output_schema: ask.output_schema.as_ref().map(OutputSchema::raw),
            service_tier_for_turn: ask.tier,
            thread_id: thread.id.clone(),
        };
        if let Some(thread) = &mut self.thread {
            thread.growth.begin();
            thread.rerouted = None;
        }
        self.background.begin();
        self.turn = Some(Turn::default());
        self.answered = false;
        self.thinking = Thinking::default();
        self.request(Awaited::Turn, "turn/start", &params);
    }

    /// Asks for the end of the turn that runs, as soon as codex lets it be
    /// asked for. Its commands live on until the server ends. Returns whether
    /// there is a turn to ask for.
    pub fn interrupt(&mut self) -> bool {
        if let Some(turn) = &mut self.turn
            && turn.interrupt != Interrupt::Sent
        {
            turn.interrupt = Interrupt::Wanted;
            self.send_interrupt();
        }
        self.turn.is_some()
    }

    /// Asks for the end of what sub-agents do, of each as soon as it can be
    /// asked for. Returns whether that can bring the server to rest.
    pub fn interrupt_agents(&mut self) -> bool {
        for (thread, turn) in self.background.interrupt() {
            self.request_interrupt(&thread, &turn);
        }
        self.background.can_be_interrupted()
    }

    /// One line of the server's stdout, with or without its line feed.
    pub fn hear(&mut self, line: &[u8]) -> Vec<Heard> {
        if let Some(incoming) = Incoming::read(line) {
            return self.take_in(incoming);
        }
        let mut heard = vec![Heard::Garbage { bytes: line.len() }];
        if let Some(incoming) = Incoming::read_rest(line) {
            heard.extend(self.take_in(incoming));
        }
        heard
    }

    /// The first bytes of a line that was too long to be read.
    pub fn skipped(&mut self, head: &[u8]) -> Vec<Heard> {
        let ended = wire::ended_turn(head);
        let ours = ended.is_some_and(|(thread, turn)| {
            let of_turn = self.turn.as_ref().and_then(|turn| turn.id.as_ref());
            self.thread() == Some(&thread) && of_turn == Some(&turn)
        });
        match ours {
            true => self.conclude().into_iter().collect(),
            false => Vec::new(),
        }
    }

    fn take_in(&mut self, incoming: Incoming<'_>) -> Vec<Heard> {
        match incoming {
            Incoming::Notification { method, params } => {
                self.note_start(&method, &params);
                let sleeps = notice::sleep(&method, &params).map(Heard::Sleeps);
                let limits = notice::rate_limits(&method, &params).map(Heard::RateLimits);
                let ends = (method == "turn/completed" && self.is_of_thread(&params))
                    .then(|| self.lost_message(&params.object("turn")));
                let event = self.notified(&method, &params).map(Heard::Event);
                self.send_interrupt();
                sleeps
                    .into_iter()
                    .chain(limits)
                    .chain(ends.flatten())
                    .chain(event)
                    .collect()
            }
            Incoming::Answer { id, result } => self.answered(id, result),
            Incoming::Request { id, method } => {
                self.out.decline(id, &method);
                Vec::new()
            }
        }
    }

    fn note_start(&mut self, method: &str, params: &Fields<'_>) {
        let is_item = method.starts_with("item/");
        self.answered |= is_item && !params.object("item").is("type", "userMessage");
        self.mcp_started |= notice::has_mcp_started(method, params);
    }

    /// Whether MCP servers have started since it was last asked, and no agent can have
    /// made them do anything.
    pub fn take_mcp_started(&mut self) -> bool {
        std::mem::take(&mut self.mcp_started) && !self.answered
    }

    /// Whether the turn seems to have ended, though its end was not reported.
    pub fn seems_over(&self) -> bool {
        self.turn
            .as_ref()
            .is_some_and(|turn| turn.outcome.is_some())
    }

    /// Asks how the turn has ended.
    pub fn ask_for_end(&mut self) {
        if let Some(thread) = self.thread() {
            let params = json!({"threadId": thread, "limit": 1});
            self.request(Awaited::End, "thread/turns/list", &params);
        }
    }

    /// Takes the turn for ended, as its thread's status has it. A server that
    /// has not reported a turn's end serves no other.
    pub fn conclude(&mut self) -> Option<Heard> {
        let turn = self.turn.take()?;
        self.background.doubt();
        Some(Heard::Event(match (turn.outcome, turn.interrupt) {
            (Some(Outcome::Failed), _) => CliEvent::TurnFailed {
                message: String::new(),
                cause: None,
            },
            (_, Interrupt::Sent) => CliEvent::TurnInterrupted,
            _ => CliEvent::TurnCompleted { usage: None },
        }))
    }

    /// What is to be written to the server's stdin: whole lines.
    #[must_use]
    pub fn take_outgoing(&mut self) -> Vec<u8> {
        self.out.take()
    }

    /// The thread that is loaded.
    pub fn thread(&self) -> Option<&str> {
        self.thread.as_ref().map(|thread| thread.id.as_str())
    }

    /// The model that is asked, as far as the server reports it.
    pub fn model(&self) -> Option<&str> {
        let thread = self.thread.as_ref()?;
        thread.rerouted.as_deref().or(thread.model.as_deref())
    }

    /// What the last turn that was started has spent so far.
    pub fn reported(&self) -> Reported {
        let growth = self.thread.as_ref().map(|thread| thread.growth);
        Reported {
            own: growth.and_then(|growth| growth.spent()),
            agents: self.background.spent(),
            total: growth.and_then(|growth| growth.total()),
            model: self.model().map(str::to_owned),
        }
    }

    /// Initialized, no turn runs, not even one that was not asked for, no
    /// sub-agent works, no answer is due: the server may stay warm.
    pub fn is_idle(&self) -> bool {
        self.initialized
            && self.turn.is_none()
            && self.waiting.is_none()
            && self.background.rest()
            && self.loading.is_none()
            && self.awaited.is_empty()
            && self.out.is_empty()
    }

    /// No work goes on that was not asked for.
    pub fn others_rest(&self) -> bool {
        self.background.rest()
    }

    fn request(&mut self, awaited: Awaited, method: &str, params: &impl Serialize) {
        let id = self.next_id;
        self.next_id += 1;
        self.awaited.push((id, awaited));
        self.out.request(id, method, params);
    }

    fn request_interrupt(&mut self, thread: &str, turn: &str) {
        let params = json!({"threadId": thread, "turnId": turn});
        self.request(Awaited::Interrupt, "turn/interrupt", &params);
    }

    /// A thread with a goal starts a turn as soon as it is loaded. The goal is
    /// an ended turn's, so it has ended, too; without one, or if codex
    /// knows of no goals, this is refused and does no harm.
    fn clear_goal(&mut self) {
        let load = self.loading.as_ref();
        match load.and_then(|load| load.resume.clone()) {
            Some(thread) => {
                let params = json!({"threadId": thread});
                self.request(Awaited::ClearGoal, "thread/goal/clear", &params);
            }
            None => self.ask_to_load(&Defaults::default()),
        }
    }

    /// In the turn that has set it: after the turn it is too late, as codex
    /// starts the next one at once.
    fn pause_goal(&mut self) {
        if let Some(thread) = self.thread() {
            let params = json!({"threadId": thread, "status": "paused"});
            self.request(Awaited::PauseGoal, "thread/goal/set", &params);
        }
    }

    /// A resumed thread keeps the model and the provider of its last turn unless
    /// they are named. What one turn has asked for must not hold for the next, so
    /// a turn that names no model gets the default. Given another provider than
    /// the thread's, the server refuses. Both as with `codex exec`.
    fn ask_for_settings(&mut self, cwd: &str) {
        let params = json!({"cwd": cwd, "includeLayers": false});
        self.request(Awaited::Settings, "config/read", &params);
    }

    fn load_with_defaults(&mut self) {
        if self.loading.is_some() {
            let defaults = std::mem::take(&mut self.defaults);
            self.ask_to_load(&defaults);
        }
    }

    /// What is not known is left to codex.
    fn ask_to_load(&mut self, defaults: &Defaults) {
        let Some(load) = &self.loading else { return };
        let sandbox = match load.sandbox {
            Sandbox::Bypass => "danger-full-access",
            Sandbox::WorkspaceWrite => "workspace-write",
            Sandbox::ReadOnly => "read-only",
        };
        let mut params = json!({"cwd": load.cwd, "approvalPolicy": "never", "sandbox": sandbox});
        if let Some(model) = load.model.as_ref().or(defaults.model.as_ref()) {
            params["model"] = json!(model);
        }
        if let Some(effort) = load.effort {
            params["config"] = json!({EFFORT: effort});
        }
        let method = match &load.resume {
            Some(thread) => {
                params["threadId"] = json!(thread);
                // The conversation so far can be megabytes, which no code reads.
                params["excludeTurns"] = json!(true);
                if let Some(provider) = &defaults.provider {
                    params["modelProvider"] = json!(provider);
                }
                "thread/resume"
            }
            None => "thread/start",
        };
        self.request(Awaited::Load, method, &params);
    }

    fn send_interrupt(&mut self) {
        let (Some(thread), Some(turn)) = (&self.thread, &mut self.turn) else {
            return;
        };
        let (Interrupt::Wanted, true, Some(id)) = (turn.interrupt, turn.started, &turn.id) else {
            return;
        };
        let (thread, turn_id) = (thread.id.clone(), id.clone());
        turn.interrupt = Interrupt::Sent;
        self.request_interrupt(&thread, &turn_id);
    }
}

/// The images first, as `codex exec` has it. In the line itself: a server that
/// runs already gets no more descriptors.
fn input(ask: &Ask) -> Vec<serde_json::Value> {
    let image = |image: &Image| {
        let data = encode(&image.bytes);
        json!({"type": "image", "url": format!("data:{};base64,{data}", image.media_type)})
    };
    let text = json!({"type": "text", "text": ask.prompt});
    ask.images.iter().map(image).chain([text]).collect()
}

impl Thread {
    fn is_loaded_as(&self, load: &Load) -> bool {
        let Load {
            cwd,
            sandbox,
            model,
            effort,
            resume: _,
        } = load;
        let how = &self.how;
        (cwd, sandbox, model, effort) == (&how.cwd, &how.sandbox, &how.model, &how.effort)
    }
}

#[cfg(test)]
mod tests;
