//! One attempt at a turn, under the workspace's lock: recorded as started and
//! run.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use jiff::Timestamp;
use tokio::task::block_in_place;
use tokio::time::Instant;
use uuid::Uuid;

use super::emit::Emitter;
use super::ending::{Ending, failure, message_start, sealer};
use super::fence;
use super::images::{self, NoImages};
use super::lease::{self, Lease};
use super::process::{self, Ran};
use super::stop::{Clocks, Limits};
use super::usage::{Meter, Spent, UsageReport};
use super::{EventSink, NotStarted, Outcome, Runner, Stop, StopHandle};
use crate::codex::app_server::Server;
use crate::codex::default_model::DefaultModel;
use crate::codex::engine::{Ask, Engine, Image, TurnInput};
use crate::codex::failure::{thread_lost, thread_refused};
use crate::codex::home::Home;
use crate::codex::translate::{Finished, Verdict};
use crate::codex::{obstacle, recorded_cause, stderr};
use crate::error::with_sources;
use crate::event::{ErrorCode, EventBody, NoticeCode, Reason, StopReason, TurnError};
use crate::fault;
use crate::guard::{Exit, SpawnError, drop_elsewhere, log_strays, proc};
use crate::host::Part;
use crate::host::account::TurnEnd;
use crate::labels::RateLimit;
use crate::metrics::ServerStart;
use crate::request::{RequestNotice, ThreadChoice, TurnRequest};
use crate::workspace::{
    DiskError, LockedJournal, Resume, SessionFile, Started, StateError, ThreadStart, TurnHistory,
    Unkept, Workspace, resolve_session,
};

pub(super) struct Attempt<'a, E> {
    pub(super) runner: &'a Runner<E>,
    pub(super) request: &'a TurnRequest,
    workspace: &'a Workspace,
    history: &'a TurnHistory,
    pub(super) number: u32,
    pub(super) began: Instant,
}

/// What a started attempt goes on from.
struct StartedAttempt {
    home: Home,
    /// The thread to resume.
    resume: Option<String>,
    /// Why the thread that was found is not resumed.
    ignored: Option<String>,
    meter: Meter,
    /// Set where the turn leaves the model to codex.
    default: Option<DefaultModel>,
}

/// The last exit of codex in an attempt.
struct Exited {
    ran: Result<Ran, SpawnError>,
    /// Set if the session file could not be made to name the thread.
    unkept: Option<Unkept>,
}

/// Why an attempt has no ending of codex's to record.
enum Aborted {
    /// The turn ends, as codex can't be started for it.
    Unstartable(TurnError),
    LockLost {
        leftovers: u64,
    },
    /// A newer attempt has started elsewhere.
    Outdated,
    /// The turn starts again later, uncharged.
    Returned(Result<Outcome, NotStarted>),
}

impl From<NoImages> for Aborted {
    fn from(why: NoImages) -> Self {
        match why {
            NoImages::Unusable(message) => {
                Self::Unstartable(failure(ErrorCode::ImageUnusable, message, false))
            }
            NoImages::NotRead(error) => Self::Returned(Err(error)),
        }
    }
}

impl<'a, E: Engine> Attempt<'a, E> {
    pub(super) fn new(
        runner: &'a Runner<E>,
        request: &'a TurnRequest,
        workspace: &'a Workspace,
        history: &'a TurnHistory,
    ) -> Self {
        Self {
            runner,
            request,
            workspace,
            history,
            number: history.next_attempt(),
            began: Instant::now(),
        }
    }

    pub(super) async fn run<S: EventSink>(
        &self,
        lease: &mut Lease,
        sink: &S,
        stop: &StopHandle,
    ) -> Result<Outcome, NotStarted> {
        let start = server_start(lease);
        let (journal, server) = (&mut lease.journal, &mut lease.server);
        let dir = self.workspace.open_dir()?;
        let keeps_server = self.runner.engine.idle().is_some();
        let bell = keeps_server.then(|| self.workspace.bell()).transpose();
        let bell = bell.map_err(StateError::from)?;
        let tag = lease::tag(self.workspace);
        let began = proc::now();
        let unkillable = self.workspace.unkillable().map_err(StateError::from)?;
        let mut started = block_in_place(|| self.begin(journal))?;
        fault::at("turn.started");
        self.runner.metrics.attempt_started(self.number);

        let mut out = self.emitter(sink);
        let mut clocks = Clocks::start(stop.clone(), self.limits());
        self.announce(&started, &mut out, &mut clocks).await;
        let input = TurnInput {
            model: self.model(),
            effort: self.request.reasoning_effort,
            models: self.runner.models.as_ref(),
            resume: started.resume.as_deref(),
            tag: &tag,
            dir,
            dir_path: self.workspace.dir(),
            home: &started.home,
            lock: journal.lock().as_fd(),
            unkillable: unkillable.as_fd(),
            lock_lost_after: self.runner.lock_lost_after,
            bell: bell.as_ref().map(File::as_fd),
        };
        let meter = &mut started.meter;
        let exited = self.run_codex(input, server, start, meter, &mut out, &mut clocks);
        let exited = exited.await;
        let ending = exited.and_then(|exited| self.ending(exited, server, &started, stop));
        match ending {
            Ok(ending) => {
                let outcome = self.record(journal, ending, out, sink, stop).await;
                block_in_place(|| log_strays(&tag, began));
                Ok(outcome)
            }
            Err(Aborted::Unstartable(error)) => {
                let spent = started.meter.unrun();
                let ending = Ending::not_run(StopReason::Error, Some(error), spent);
                Ok(self.record(journal, ending, out, sink, stop).await)
            }
            // No file there is touched any more, not even to record that: it may hang.
            Err(Aborted::LockLost { leftovers }) => {
                drop_elsewhere((bell, unkillable));
                Ok(self.lock_lost(leftovers).await)
            }
            // What the newer one has recorded stands in the journal.
            Err(Aborted::Outdated) => Ok(Outcome::Busy),
            Err(Aborted::Returned(outcome)) => {
                self.give_back(journal);
                outcome
            }
        }
    }

    /// Logs and publishes that the attempt has started.
    async fn announce<S: EventSink>(
        &self,
        started: &StartedAttempt,
        out: &mut Emitter<'_, S>,
        clocks: &mut Clocks,
    ) {
        let default = started.default.as_ref();
        let model = self.model();
        let model = model.or_else(|| default.and_then(DefaultModel::known));
        tracing::info!(
            attempt = self.number,
            resumes = started.resume,
            model,
            "turn started"
        );
        // A stop that comes this early is met again as soon as codex runs.
        let _ = out.emit(message_start(self.request, model), clocks).await;
        for RequestNotice { code, message } in &self.request.notices {
            let _ = out.emit(notice(*code, message.clone()), clocks).await;
        }
        if let Some(why) = &started.ignored {
            let notice = notice(NoticeCode::SessionIgnored, why.clone());
            let _ = out.emit(notice, clocks).await;
        }
    }

    /// Runs codex, and again where its first exit is not the turn's.
    async fn run_codex<S: EventSink>(
        &self,
        mut input: TurnInput<'_>,
        server: &mut Option<Server>,
        mut start: ServerStart,
        meter: &mut Meter,
        out: &mut Emitter<'_, S>,
        clocks: &mut Clocks,
    ) -> Result<Exited, Aborted> {
        let engine = &self.runner.engine;
        let unkept = Mutex::new(None);
        let on_thread = |thread: &str| {
            *unkept.lock().unwrap_or_else(PoisonError::into_inner) =
                block_in_place(|| self.keep_thread(thread));
        };
        if let Some(message) = block_in_place(|| obstacle::find(self.workspace.dir())) {
            return Err(Aborted::Unstartable(TurnError {
                reason: Reason::Workspace,
                ..failure(ErrorCode::StartFailed, message, false)
            }));
        }
        let ran = loop {
            let generation = engine.generation();
            let images = block_in_place(|| images::read(&self.request.images, self.workspace))?;
            if engine.idle().is_some() {
                self.runner.metrics.server_started(start);
            }
            start = ServerStart::Cold;
            let (ask, kept) = (self.ask(images), server.take());
            let ran = process::run(engine, input, ask, kept, out, clocks, on_thread).await;
            if leaves_no_room(&ran) || is_lock_lost(&ran) {
                break ran;
            }
            let stale = input.resume.and_then(|_| self.stale_thread(&ran));
            if let Some(why) = stale {
                let notice = notice(NoticeCode::ThreadLost, why);
                let _ = out.emit(notice, clocks).await;
                meter.forget_thread();
                input.resume = None;
            } else if may_be_the_hosts_fault(&ran) {
                if let Some(finding) = self.runner.host.examine(Part::Codex).await {
                    return Err(Aborted::Returned(Ok(Outcome::Unfit(finding))));
                }
                if engine.generation() == generation {
                    break ran;
                }
                // Of the one that an upgrade has just replaced: the next may run.
            } else {
                break ran;
            }
        };
        fault::at("turn.exited");
        let unkept = unkept.into_inner().unwrap_or_else(PoisonError::into_inner);
        Ok(Exited { ran, unkept })
    }

    /// What the last exit of codex is to the turn.
    fn ending(
        &self,
        Exited { ran, unkept }: Exited,
        server: &mut Option<Server>,
        started: &StartedAttempt,
        stop: &StopHandle,
    ) -> Result<Ending, Aborted> {
        match ran {
            Ok(ran) if ran.end.lock_lost.is_some() => Err(Aborted::LockLost {
                leftovers: ran.end.leftovers,
            }),
            Ok(ran) if ran.stop == Some(Stop::Shutdown) => {
                Err(Aborted::Returned(Ok(Outcome::Returned)))
            }
            Ok(ran) if ran.stop == Some(Stop::Outdated) => Err(Aborted::Outdated),
            Ok(mut ran) => {
                *server = ran.kept.take();
                let ending = self.codex_ended(ran, started)?;
                let ending = (ending.superseded_by(stop.superseded_by())).unkept(unkept);
                Ok(match self.request.output_schema {
                    Some(_) => ending.structured(),
                    None => ending,
                })
            }
            // codex was not started: the turn waits until they are gone.
            Err(SpawnError::Held(unkillable)) => {
                Err(Aborted::Returned(Ok(Outcome::Held(unkillable))))
            }
            // For a moment only, as the host is well: no fault of the turn's.
            Err(error) if error.is_out_of_resources() => Err(Aborted::Returned(Err(error.into()))),
            // The guard, not codex, could not be started.
            Err(error) => {
                let message = with_sources(&error);
                let error = failure(ErrorCode::WorkerInternal, message, true);
                let spent = started.meter.unrun();
                Ok(Ending::not_run(StopReason::Error, Some(error), spent))
            }
        }
    }

    /// Of a turn that codex is done with, or was stopped at, unless the host is at fault.
    fn codex_ended(&self, ran: Ran, started: &StartedAttempt) -> Result<Ending, Aborted> {
        let has_ended = ran.translator.is_over();
        self.runner.metrics.rate_limits(&ran.rate_limits);
        let finished = ran.translator.finish(&ran.end.exit, &ran.end.stderr_tail);
        let home = started.home.path();
        let finished = block_in_place(|| with_recorded_cause(finished, home));
        let end = turn_end(&finished, ran.stop, &ran.rate_limits);
        if let Some(finding) = self.runner.host.turn_ended(end)
            && !finished.heard_model
        {
            return Err(Aborted::Returned(Ok(Outcome::Unfit(finding))));
        }
        for (what, times) in &finished.unknown {
            tracing::warn!(
                what,
                times,
                "codex said something unknown, which was left out"
            );
        }
        let report = match ran.reported {
            Some(reported) if ran.stop.is_none() && has_ended => UsageReport::All(reported),
            Some(reported) => UsageReport::SoFar(reported),
            None => UsageReport::AtEnd(finished.reported_total),
        };
        let thread = finished.thread_id.as_deref();
        let spent = block_in_place(|| started.meter.finish(thread, report));
        if let (Some(default), Some(model)) = (&started.default, &spent.model) {
            default.learn(model);
        }
        Ok(Ending::ran(finished, ran.stop, spent, ran.end.leftovers))
    }

    /// Returned, uncharged. Until it is known whether the file system still works here, the slot
    /// takes no other turn.
    pub(super) async fn lock_lost(&self, leftovers: u64) -> Outcome {
        self.runner.metrics.lock_lost();
        let turn_id = self.request.turn_id.as_str().to_owned();
        tracing::error!(
            attempt = self.number,
            leftovers,
            "killed the turn's processes, as its lock was lost; it starts again, uncharged"
        );
        fence::note_lost(self.workspace.claims().clone(), turn_id, self.number);
        self.runner.host.examine(Part::Disk).await;
        Outcome::LockLost
    }

    /// Looks up what the turn goes on from, and records that it has started.
    fn begin(&self, journal: &mut LockedJournal) -> Result<StartedAttempt, NotStarted> {
        let home = self.runner.homes.of(self.workspace.codex_home()?)?;
        let (resume, ignored) = match self.session(journal)? {
            Resume::Fresh => (None, None),
            Resume::Thread(thread) => (Some(thread.to_string()), None),
            Resume::Ignored { why } => (None, Some(why)),
        };
        let meter = self.meter(home.path(), resume.as_deref(), journal);
        journal.started(&self.started(&meter))?;
        let codex = self.runner.engine.codex();
        let codex = codex.filter(|_| self.model().is_none());
        let default = codex.map(|codex| DefaultModel::of(codex, &home));
        Ok(StartedAttempt {
            home,
            resume,
            ignored,
            meter,
            default,
        })
    }

    /// Ends the turn without running codex.
    pub(super) async fn end_unrun<S: EventSink>(
        &self,
        journal: &mut LockedJournal,
        mut ending: Ending,
        sink: &S,
        stop: &StopHandle,
    ) -> Outcome {
        let out = self.emitter(sink);
        // With the rest of it, so that no part of it is published before it is recorded.
        ending
            .trailing
            .insert(0, message_start(self.request, self.model()));
        self.record(journal, ending, out, sink, stop).await
    }

    /// What earlier attempts spent, for an ending without a run.
    pub(super) fn spent_before(&self, journal: &LockedJournal) -> Spent {
        block_in_place(|| {
            let place = self.workspace.codex_home().ok();
            let home = place.and_then(|place| self.runner.homes.of(place).ok());
            let home = home.and_then(|home| home.path().map(PathBuf::from));
            let resume = match self.session(journal) {
                Ok(Resume::Thread(thread)) => Some(thread.to_string()),
                _ => None,
            };
            Meter::start(home, resume.as_deref(), None, self.earlier()).unrun()
        })
    }

    fn meter(&self, home: Option<&Path>, resume: Option<&str>, journal: &LockedJournal) -> Meter {
        let home = home.map(PathBuf::from);
        Meter::start(home, resume, journal.baseline(), self.earlier())
    }

    fn session(&self, journal: &LockedJournal) -> Result<Resume, StateError> {
        let session = match self.request.thread {
            ThreadChoice::Continue | ThreadChoice::ContinueOrNew => {
                let session = self.workspace.session()?;
                let unkept = journal.baseline().and_then(|of| of.instead_of(&session));
                unkept.map_or(session, SessionFile::Thread)
            }
            ThreadChoice::New => self.own_thread()?,
        };
        let threads = self.runner.root.threads();
        Ok(resolve_session(session, self.workspace.id(), threads)?)
    }

    /// Of a turn that was asked for a new conversation: what its own earlier
    /// attempts have started, never what was there before.
    fn own_thread(&self) -> Result<SessionFile, StateError> {
        if self.history.started.is_empty() {
            return Ok(SessionFile::None);
        }
        let started = self
            .workspace
            .started_thread(self.request.turn_id.as_str())?;
        Ok(started.map_or(SessionFile::None, SessionFile::Thread))
    }

    fn earlier(&self) -> impl Iterator<Item = Option<&ThreadStart>> {
        self.history
            .started
            .iter()
            .map(|started| started.thread.as_ref())
    }

    fn started(&self, meter: &Meter) -> Started {
        Started {
            turn_id: self.request.turn_id.as_str().to_owned(),
            attempt: self.number,
            fingerprint: self.request.fingerprint(),
            at: Timestamp::now(),
            worker: self.runner.worker.clone(),
            thread: meter.thread_start().cloned(),
            fence: fence::of_this_place(self.runner.lock_lost_after),
        }
    }

    fn limits(&self) -> Limits {
        Limits {
            wall: self.request.effective_timeout(self.runner.turn_timeout),
            idle: self.runner.idle_timeout,
        }
    }

    pub(super) fn model(&self) -> Option<&str> {
        let default = self.runner.default_model.as_deref();
        self.request.model.as_deref().or(default)
    }

    fn ask(&self, images: Vec<Image>) -> Ask {
        Ask {
            prompt: self.request.prompt.clone(),
            images,
            output_schema: self.request.output_schema.clone(),
            tier: self.request.service_tier,
        }
    }

    /// Why the turn starts a new conversation in place of the one that it was
    /// to go on with. Returns `None` if it does not.
    fn stale_thread(&self, ran: &Result<Ran, SpawnError>) -> Option<String> {
        let why = lost_thread(ran).or_else(|| {
            let refused = refused_thread(ran)?;
            (self.request.thread == ThreadChoice::ContinueOrNew).then_some(refused)
        })?;
        Some(format!(
            "the stored conversation can't be resumed, so this turn starts a new one: {why}"
        ))
    }

    fn emitter<'s, S: EventSink>(&self, sink: &'s S) -> Emitter<'s, S> {
        let sealer = sealer(self.request, self.number);
        Emitter::new(sealer, self.runner.events, sink)
    }

    /// So that the conversation goes on here, even if this attempt is cut off.
    /// Returns what the session file names, if it can't be made to name the thread.
    fn keep_thread(&self, thread: &str) -> Option<Unkept> {
        let kept = match thread.parse() {
            Ok(id) => self
                .try_keep_thread(id)
                .map_err(|error| with_sources(&error)),
            Err(_) => Err("it is no UUID".to_owned()),
        };
        let error = kept.err()?;
        tracing::error!(
            error,
            thread,
            "can't write the conversation's thread to the session file; the journal names it for later turns"
        );
        let instead = match self.workspace.session() {
            Ok(SessionFile::Thread(thread)) => Some(thread),
            _ => None,
        };
        Some(Unkept { instead })
    }

    fn try_keep_thread(&self, thread: Uuid) -> Result<(), DiskError> {
        let workspace = self.workspace;
        // Ours first: the file alone could be adopted by another workspace.
        self.runner.root.threads().adopt(thread, workspace.id())?;
        fault::at("turn.thread_adopted");
        if self.request.thread == ThreadChoice::New {
            // Before the session file: what stands there is no proof.
            workspace.write_started_thread(self.request.turn_id.as_str(), thread)?;
            fault::at("turn.thread_begun");
        }
        if workspace.session()? != SessionFile::Thread(thread) {
            workspace.write_session(thread)?;
        }
        Ok(())
    }
}

/// Where the server of the attempt's first start comes from.
fn server_start(lease: &Lease) -> ServerStart {
    match (&lease.server, lease.took_over) {
        (Some(_), _) => ServerStart::Warm,
        (None, true) => ServerStart::TookOver,
        (None, false) => ServerStart::Cold,
    }
}

/// What the end shows of the account.
fn turn_end<'a>(
    finished: &Finished,
    stop: Option<Stop>,
    rate_limits: &'a [RateLimit],
) -> TurnEnd<'a> {
    match (&finished.verdict, stop) {
        (_, Some(_)) => TurnEnd::Stopped,
        (Verdict::EndTurn, None) => TurnEnd::Good,
        (Verdict::Failed(error), None) => TurnEnd::Failed(error.reason, rate_limits),
    }
}

/// With the cause that codex has recorded, if its message does not name one.
fn with_recorded_cause(mut finished: Finished, home: Option<&Path>) -> Finished {
    if let Verdict::Failed(error) = &mut finished.verdict
        && (error.code, error.reason) == (ErrorCode::TurnFailed, Reason::Unknown)
        && let (Some(home), Some(thread)) = (home, &finished.thread_id)
        && let Some(cause) = recorded_cause::cause(home, thread, &error.message)
    {
        error.reason = cause.reason;
        error.retryable = cause.retryable;
    }
    finished
}

fn notice(code: NoticeCode, message: String) -> EventBody {
    EventBody::Notice { code, message }
}

/// Processes of it, or of the one before, live on: codex must not be started beside them.
fn leaves_no_room(ran: &Result<Ran, SpawnError>) -> bool {
    match ran {
        Ok(ran) => ran.end.unkillable.is_some(),
        Err(error) => matches!(error, SpawnError::Held(_)),
    }
}

fn is_lock_lost(ran: &Result<Ran, SpawnError>) -> bool {
    ran.as_ref().is_ok_and(|ran| ran.end.lock_lost.is_some())
}

/// codex, or its guard, was not started, or ended without a word.
fn may_be_the_hosts_fault(ran: &Result<Ran, SpawnError>) -> bool {
    match ran {
        Ok(ran) => ran.stop.is_none() && !ran.translator.saw_event(),
        Err(_) => true,
    }
}

/// Why a resumed conversation can't go on, if that is what happened.
fn lost_thread(ran: &Result<Ran, SpawnError>) -> Option<String> {
    let ran = ran.as_ref().ok().filter(|ran| ran.stop.is_none())?;
    let (end, told) = (&ran.end, ran.translator.saw_event());
    ran.lost.clone().or_else(|| {
        let lost = thread_lost(&end.exit, told, &end.stderr_tail);
        lost.then(|| stderr::clean_tail(&end.stderr_tail))
    })
}

/// Why codex refuses to resume the conversation, if that is what happened.
fn refused_thread(ran: &Result<Ran, SpawnError>) -> Option<String> {
    let ran = ran.as_ref().ok().filter(|ran| ran.stop.is_none())?;
    let exit_failed = matches!(ran.end.exit, Exit::Code(code) if code != 0);
    let why = match &ran.refused {
        Some(why) => why.clone(),
        None if exit_failed && !ran.translator.saw_event() => {
            stderr::clean_tail(&ran.end.stderr_tail)
        }
        None => return None,
    };
    thread_refused(&why).then_some(why)
}
