//! The engine `codex app-server`: a conversation over its stdin and stdout.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use tokio::time::{Instant, sleep_until, timeout};

use super::idle::IdleServers;
use super::server::Server;
use super::startup_inputs::StartupInputs;
use super::{Conversation, DismissReason, Heard, Load};
use crate::codex::default_model::unlisted;
use crate::codex::engine::{Ask, End, Engine, EngineRun, Output, Reported, TurnInput};
use crate::codex::failure::Cause;
use crate::codex::lines::Line;
use crate::codex::process::Codex;
use crate::codex::protocol::CliEvent;
use crate::guard::SpawnError;

/// From the server's start until its thread is loaded. It takes half a second;
/// the rest is for a busy machine and for slow MCP servers.
const STARTUP_LIMIT: Duration = Duration::from_secs(60);

/// From a turn's end to those of its sub-agents. An interrupt takes a tenth of
/// a second; a server that takes longer ends with them.
const AGENTS_GRACE: Duration = Duration::from_secs(1);

#[derive(Debug, Clone)]
pub struct AppServer {
    pub codex: Codex,
    /// How long a piece of text may wait for more.
    pub delta_window: Duration,
    /// Where servers wait between turns; `None` if each serves one turn.
    pub idle: Option<IdleServers>,
}

impl Engine for AppServer {
    type Run = AppServerRun;

    async fn start(
        &self,
        input: TurnInput<'_>,
        ask: Ask,
        kept: Option<Server>,
    ) -> Result<AppServerRun, SpawnError> {
        let startup = StartupInputs::of(&self.codex, &input);
        // A model that is named was held against the list when it was accepted.
        let models = input.models.filter(|_| input.model.is_none()).cloned();
        let load = Load {
            cwd: input.dir_path.to_string_lossy().into_owned(),
            sandbox: self.codex.sandbox,
            model: input.model.map(str::to_owned),
            effort: input.effort,
            resume: input.resume.map(str::to_owned),
        };
        if let Some(server) = kept {
            if server.serves(&startup, &load) {
                return Ok(AppServerRun::go_on(server, ask, self.idle.clone()));
            }
            if let Some(idle) = &self.idle {
                idle.dismissed(DismissReason::Changed);
            }
            // Or the thread that it has loaded could not be resumed by another.
            if let Some(unkillable) = server.dismiss().await.unkillable {
                return Err(SpawnError::Held(Box::new(unkillable)));
            }
        }
        let server = Server::start(&self.codex, startup, Conversation::with(load), input)?;
        Ok(AppServerRun::begin(server, ask, models, self.idle.clone()))
    }

    fn generation(&self) -> u64 {
        self.codex.program.generation()
    }

    fn codex(&self) -> Option<&Codex> {
        Some(&self.codex)
    }

    fn delta_window(&self) -> Option<Duration> {
        Some(self.delta_window)
    }

    fn idle(&self) -> Option<&IdleServers> {
        self.idle.as_ref()
    }
}

/// The model that a turn would get which names no model, by a server that is asked
/// for that only. Returns `None` if it does not answer.
pub(in crate::codex) async fn default_model(
    codex: &Codex,
    input: TurnInput<'_>,
) -> Result<Option<String>, SpawnError> {
    let startup = StartupInputs::of(codex, &input);
    let cwd = input.dir_path.to_string_lossy().into_owned();
    let conversation = Conversation::about_settings(cwd);
    let mut server = Server::start(codex, startup, conversation, input)?;
    let asking = async {
        while !server.conversation.is_idle() {
            server.hear_next().await?;
        }
        server.conversation.default_model().map(str::to_owned)
    };
    let model = timeout(STARTUP_LIMIT, asking).await.ok().flatten();
    match server.dismiss().await.unkillable {
        Some(unkillable) => Err(SpawnError::Held(Box::new(unkillable))),
        None => Ok(model),
    }
}

#[derive(Debug)]
pub struct AppServerRun {
    server: Server,
    /// Until the server has it.
    ask: Option<Ask>,
    /// Those that may be asked without being named; any if there is no list.
    models: Option<BTreeSet<String>>,
    step: Step,
    overdue: Option<Overdue>,
    /// What was read and not yet published.
    told: VecDeque<Output>,
    keep: Keep,
    /// Where it is counted that the server is not kept, until that is done.
    idle: Option<IdleServers>,
}

/// From the first sign that a turn has ended to the question how. Its end comes
/// within milliseconds, if it comes.
const END_DUE: Duration = Duration::from_secs(1);
/// How long the answer may take.
const ANSWER_DUE: Duration = Duration::from_secs(2);

/// The turn seems to have ended, and its end is not reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Overdue {
    Until(Instant),
    /// The server was asked for it.
    Asked(Instant),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Loading {
        until: Instant,
    },
    /// The turn starts only when the caller has kept the thread.
    Loaded,
    Turn,
    Over,
}

/// What is to become of the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Keep {
    No,
    /// The turn was completed, and was not stopped.
    Wanted,
    /// It rests.
    Yes,
}

impl AppServerRun {
    fn begin(
        server: Server,
        ask: Ask,
        models: Option<BTreeSet<String>>,
        idle: Option<IdleServers>,
    ) -> Self {
        let until = Instant::now() + STARTUP_LIMIT;
        Self {
            ask: Some(ask),
            models,
            step: Step::Loading { until },
            overdue: None,
            told: VecDeque::new(),
            keep: Keep::No,
            idle: idle.filter(|_| server.is_to_be_kept()),
            server,
        }
    }

    /// On a server that has the thread loaded, with a model that was looked at then.
    fn go_on(server: Server, ask: Ask, idle: Option<IdleServers>) -> Self {
        let thread = server.conversation.thread().unwrap_or_default().to_owned();
        let mut run = Self::begin(server, ask, None, idle);
        run.loaded(thread);
        run
    }

    fn loaded(&mut self, thread_id: String) {
        self.step = Step::Loaded;
        self.emit(Output::Event(CliEvent::ThreadStarted { thread_id }));
    }

    /// Ends the turn before it is asked, where the model is off the list.
    fn check_model(&mut self) {
        if let Some(message) = self.unlisted() {
            let cause = Some(Cause::CONFIG);
            self.emit(Output::Event(CliEvent::TurnFailed { message, cause }));
            self.over();
        }
    }

    fn unlisted(&self) -> Option<String> {
        let (models, model) = (self.models.as_ref()?, self.server.conversation.model()?);
        unlisted(model, models)
    }

    /// Until the server has said something. Cancel-safe.
    async fn listen(&mut self) -> Option<()> {
        let due = match (self.step, self.overdue) {
            (Step::Loading { until }, _) => Some(until),
            (_, Some(Overdue::Until(until) | Overdue::Asked(until))) => Some(until),
            _ => None,
        };
        tokio::select! {
            biased;
            line = self.server.next_line() => {
                self.hear(line?);
                self.server.adopt_helpers().await;
            }
            () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                if let Some(overdue) = self.overdue {
                    self.look_for_end(overdue);
                    return Some(());
                }
                self.server.note(&format!(
                    "codex app-server has not loaded a thread within {} s",
                    STARTUP_LIMIT.as_secs()
                ));
                self.over();
                self.server.kill().await;
            }
        }
        Some(())
    }

    fn hear(&mut self, line: Line) {
        let line = match line {
            Line::Whole(line) => line,
            Line::TooLong { bytes, head } => {
                self.emit(Output::LineTooLong { bytes });
                let heard = self.server.conversation.skipped(&head);
                return self.heard(heard);
            }
        };
        let heard = self.server.conversation.hear(&line);
        if heard.is_empty() {
            self.emit(Output::Nothing);
        }
        self.heard(heard);
        let seems_over = self.step == Step::Turn && self.server.conversation.seems_over();
        let due = || Overdue::Until(Instant::now() + END_DUE);
        self.overdue = seems_over.then(|| self.overdue.unwrap_or_else(due));
    }

    /// The turn's answer is known, so it is not to wait for an end that does not come.
    fn look_for_end(&mut self, overdue: Overdue) {
        match overdue {
            Overdue::Until(_) => {
                tracing::warn!("codex has not reported the turn's end; asking for it");
                self.server.conversation.ask_for_end();
                self.overdue = Some(Overdue::Asked(Instant::now() + ANSWER_DUE));
            }
            Overdue::Asked(_) => {
                self.overdue = None;
                let end = self.server.conversation.conclude();
                self.heard(end.into_iter().collect());
            }
        }
    }

    fn heard(&mut self, heard: Vec<Heard>) {
        for heard in heard {
            let output = match heard {
                Heard::Loaded { thread_id } => {
                    self.loaded(thread_id);
                    self.check_model();
                    continue;
                }
                Heard::Event(event) => Output::Event(event),
                Heard::RateLimits(limits) => Output::RateLimits(limits),
                Heard::Sleeps(time) => Output::Sleeps(time),
                Heard::Lost { message } => Output::ThreadLost { message },
                Heard::NotResumed { message } => Output::ThreadRefused { message },
                Heard::Refused { message } => {
                    let cause = None;
                    Output::Event(CliEvent::TurnFailed { message, cause })
                }
                Heard::Garbage { bytes } => Output::Garbage { bytes },
            };
            let (is_last, is_good) = (is_last(&output), is_good(&output));
            if is_last {
                self.overdue = None;
            }
            self.emit(output);
            if is_last && is_good && self.server.can_be_kept() {
                self.step = Step::Over;
                self.keep = Keep::Wanted;
            } else if is_last {
                self.over();
            }
        }
    }

    fn emit(&mut self, output: Output) {
        // What comes after the turn belongs to no turn.
        if self.step != Step::Over {
            self.told.push_back(output);
        }
    }

    /// Sub-agents end with the turn, as with `codex exec`. Returns whether they
    /// did so at once; if not, they end with the server.
    async fn settle(&mut self) -> bool {
        let settling = async {
            while !self.server.conversation.is_idle() {
                if !self.server.conversation.interrupt_agents()
                    || self.server.hear_next().await.is_none()
                {
                    return false;
                }
            }
            true
        };
        timeout(AGENTS_GRACE, settling).await.unwrap_or(false)
    }

    async fn rest(&mut self) -> Result<End, DismissReason> {
        match self.settle().await {
            true => self.server.rest().await,
            false => Err(DismissReason::Agents),
        }
    }

    /// The server, too, ends now: by itself, on its closed stdin.
    fn over(&mut self) {
        self.step = Step::Over;
        self.keep = Keep::No;
        self.server.hang_up();
    }
}

impl EngineRun for AppServerRun {
    async fn next(&mut self) -> Option<Output> {
        loop {
            if let Some(output) = self.told.pop_front() {
                return Some(output);
            }
            match self.step {
                Step::Loaded => {
                    self.server.mark().await;
                    self.step = Step::Turn;
                    if let Some(ask) = self.ask.take() {
                        self.server.conversation.go(ask);
                    }
                }
                Step::Over if self.keep != Keep::No => return None,
                Step::Loading { .. } | Step::Turn | Step::Over => {}
            }
            self.listen().await?;
        }
    }

    fn reported(&self) -> Option<Reported> {
        Some(self.server.conversation.reported())
    }

    async fn interrupt(&mut self) {
        let asked = self.step == Step::Turn && self.server.conversation.interrupt();
        if !asked {
            self.over();
        }
    }

    async fn kill(&mut self) {
        self.keep = Keep::No;
        self.server.kill().await;
    }

    async fn end(&mut self) -> End {
        let why = match self.keep {
            Keep::Wanted => match self.rest().await {
                Ok(end) => {
                    self.keep = Keep::Yes;
                    return end;
                }
                Err(why) => why,
            },
            Keep::No | Keep::Yes => DismissReason::Turn,
        };
        if let Some(idle) = self.idle.take() {
            idle.dismissed(why);
        }
        self.over();
        self.server.end().await
    }

    fn keep(self) -> Option<Server> {
        (self.keep == Keep::Yes).then_some(self.server)
    }
}

/// No event of the turn comes after it.
fn is_last(output: &Output) -> bool {
    match output {
        Output::Event(event) => matches!(
            event,
            CliEvent::TurnCompleted { .. }
                | CliEvent::TurnFailed { .. }
                | CliEvent::TurnInterrupted
        ),
        Output::ThreadLost { .. } | Output::ThreadRefused { .. } => true,
        Output::LineTooLong { .. }
        | Output::Garbage { .. }
        | Output::Nothing
        | Output::RateLimits(_)
        | Output::Sleeps(_) => false,
    }
}

/// What ends in any other way ends its server, too: the next turn finds
/// which fixes what a new start can fix.
fn is_good(output: &Output) -> bool {
    matches!(output, Output::Event(CliEvent::TurnCompleted { .. }))
}
