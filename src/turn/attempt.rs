//! One attempt at a turn, under the workspace's lock: recorded as started,
//! run, recorded as finished.

use std::os::fd::AsFd;
use std::path::PathBuf;
use std::time::Duration;

use jiff::Timestamp;
use tokio::task::block_in_place;
use tokio::time::{Instant, sleep};

use super::emit::Emitter;
use super::ending::{Ending, failure, message_start};
use super::process::{self, Ran};
use super::stop::{Clocks, Limits};
use super::usage::{Meter, Spent};
use super::{EventSink, NotStarted, Outcome, Runner, Stop, StopHandle, Summary};
use crate::codex::engine::{Engine, TurnInput};
use crate::codex::failure::thread_lost;
use crate::codex::stderr;
use crate::event::{ErrorCode, EventBody, NoticeCode, SealedEvent, Sealer, StopReason};
use crate::request::TurnRequest;
use crate::workspace::{
    DiskError, Finished, LockedJournal, Resume, Returned, SessionFile, Started, StateError,
    ThreadEnd, ThreadStart, TurnHistory, Workspace, resolve_session,
};

/// Between two tries to record a turn's end: unrecorded it must not be told.
const RECORD_RETRY: Duration = Duration::from_secs(1);

pub(super) struct Attempt<'a, E> {
    runner: &'a Runner<E>,
    request: &'a TurnRequest,
    workspace: &'a Workspace,
    history: &'a TurnHistory,
    number: u32,
    began: Instant,
}

impl<'a, E: Engine> Attempt<'a, E> {
    pub fn new(
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

    pub async fn run<S: EventSink>(
        &self,
        journal: &mut LockedJournal,
        sink: &S,
        stop: &StopHandle,
    ) -> Result<Outcome, NotStarted> {
        let home = block_in_place(|| self.runner.homes.of(self.workspace.state_dir()))?;
        let (resume, ignored) = match block_in_place(|| self.session())? {
            Resume::Fresh => (None, None),
            Resume::Thread(thread) => (Some(thread.to_string()), None),
            Resume::Ignored { why } => (None, Some(why)),
        };
        let mut meter = block_in_place(|| self.meter(home.path(), resume.as_deref(), journal));
        block_in_place(|| journal.started(&self.started(&meter)))?;
        tracing::info!(attempt = self.number, resumes = resume, "turn started");

        let mut out = self.emitter(sink);
        let mut clocks = Clocks::start(stop.clone(), self.limits());
        // A stop that comes this early is met again as soon as codex runs.
        let _ = out.emit(message_start(self.request), &mut clocks).await;
        if let Some(why) = ignored {
            let notice = notice(NoticeCode::SessionIgnored, why);
            let _ = out.emit(notice, &mut clocks).await;
        }
        let mut input = TurnInput {
            prompt: &self.request.prompt,
            model: self.model(),
            resume: resume.as_deref(),
            dir: self.workspace.dir(),
            home: home.own(),
            lock: journal.lock().as_fd(),
        };
        let engine = &self.runner.engine;
        let on_thread = |thread: &str| block_in_place(|| self.keep_thread(thread));
        let mut ran = process::run(engine, input, &mut out, &mut clocks, on_thread).await;
        if let Some(why) = input.resume.and_then(|_| lost_thread(&ran)) {
            let notice = notice(NoticeCode::ThreadLost, why);
            let _ = out.emit(notice, &mut clocks).await;
            meter.forget_thread();
            input.resume = None;
            ran = process::run(engine, input, &mut out, &mut clocks, on_thread).await;
        }
        let ending = match ran {
            Ok(ran) if ran.stop == Some(Stop::Shutdown) => return Ok(self.give_back(journal)),
            Ok(ran) => {
                let finished = ran.translator.finish(&ran.end.exit, &ran.end.stderr_tail);
                for (what, times) in &finished.unknown {
                    tracing::warn!(
                        what,
                        times,
                        "codex said something unknown, which was left out"
                    );
                }
                let spent = block_in_place(|| {
                    meter.finish(finished.thread_id.as_deref(), finished.reported_total)
                });
                Ending::ran(finished, ran.stop, spent, ran.end.leftovers)
            }
            // The guard, not codex, could not be started.
            Err(error) => {
                let message = crate::error::with_sources(&error);
                let error = failure(ErrorCode::WorkerInternal, message, true);
                Ending::not_run(StopReason::Error, Some(error), meter.finish(None, None))
            }
        };
        Ok(self.record(journal, ending, out, sink, stop).await)
    }

    /// Ends the turn without running codex.
    pub async fn end_unrun<S: EventSink>(
        &self,
        journal: &mut LockedJournal,
        mut ending: Ending,
        sink: &S,
        stop: &StopHandle,
    ) -> Outcome {
        let out = self.emitter(sink);
        // With the rest of it, so that nothing of it is told before it is recorded.
        ending.trailing.insert(0, message_start(self.request));
        self.record(journal, ending, out, sink, stop).await
    }

    /// What earlier attempts spent, for an ending without a run.
    pub fn spent_before(&self) -> Spent {
        block_in_place(|| {
            let home = self.runner.homes.of(self.workspace.state_dir()).ok();
            let home = home.and_then(|home| home.path().map(PathBuf::from));
            let resume = match self.session() {
                Ok(Resume::Thread(thread)) => Some(thread.to_string()),
                _ => None,
            };
            Meter::start(home, resume.as_deref(), None, self.earlier()).finish(None, None)
        })
    }

    fn meter(
        &self,
        home: Option<&std::path::Path>,
        resume: Option<&str>,
        journal: &LockedJournal,
    ) -> Meter {
        let home = home.map(PathBuf::from);
        Meter::start(home, resume, journal.baseline(), self.earlier())
    }

    fn session(&self) -> Result<Resume, StateError> {
        let session = self.workspace.session()?;
        let threads = self.runner.root.threads();
        Ok(resolve_session(session, self.workspace.id(), threads)?)
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
        }
    }

    fn limits(&self) -> Limits {
        Limits {
            wall: self.request.effective_timeout(self.runner.turn_timeout),
            idle: self.runner.idle_timeout,
        }
    }

    fn model(&self) -> Option<&str> {
        let default = self.runner.default_model.as_deref();
        self.request.model.as_deref().or(default)
    }

    fn emitter<'s, S: EventSink>(&self, sink: &'s S) -> Emitter<'s, S> {
        let sealer = Sealer::new(self.request.turn_id.as_str(), self.number);
        Emitter::new(sealer, self.runner.events, sink)
    }

    /// So that the conversation goes on here, even if this attempt is cut off.
    fn keep_thread(&self, thread: &str) {
        let keep = || {
            let Ok(thread) = thread.parse() else {
                return Err("it is no UUID".to_owned());
            };
            let workspace = self.workspace;
            let keep = || {
                // Ours first: the file alone could be adopted by another workspace.
                self.runner.root.threads().adopt(thread, workspace.id())?;
                if workspace.session()? != SessionFile::Thread(thread) {
                    workspace.write_session(thread)?;
                }
                Ok::<_, DiskError>(())
            };
            keep().map_err(|error| crate::error::with_sources(&error))
        };
        if let Err(error) = keep() {
            tracing::error!(
                error,
                thread,
                "can't keep the conversation's thread: the next turn will start a new one"
            );
        }
    }

    fn give_back(&self, journal: &mut LockedJournal) -> Outcome {
        let returned = Returned {
            turn_id: self.request.turn_id.as_str().to_owned(),
            attempt: self.number,
        };
        if let Err(error) = block_in_place(|| journal.returned(&returned)) {
            tracing::error!(
                error = crate::error::with_sources(&error),
                "can't record that the turn is given back: this attempt will be charged"
            );
        }
        Outcome::Returned
    }

    /// Records the end, then hands its events out. Until it is recorded,
    /// nothing of it is told: a recorded end is never run again, and one that
    /// was told must not be.
    async fn record<S: EventSink>(
        &self,
        journal: &mut LockedJournal,
        ending: Ending,
        mut out: Emitter<'_, S>,
        sink: &S,
        stop: &StopHandle,
    ) -> Outcome {
        let duration = self.began.elapsed();
        let first_text = out.first_text().map(|at| at.duration_since(self.began));
        let last: Vec<SealedEvent> = ending
            .bodies(self.request.metadata.clone(), duration)
            .into_iter()
            .filter_map(|body| out.seal(body))
            .collect();
        let mut unconfirmed = sink.unconfirmed();
        unconfirmed.extend_from_slice(&last);
        let finished = Finished {
            turn_id: self.request.turn_id.as_str().to_owned(),
            attempt: self.number,
            at: Timestamp::now(),
            stop_reason: ending.stop_reason,
            code: ending.error.as_ref().map(|error| error.code),
            usage: ending.spent.usage,
            thread: ending.thread_id.clone().map(|id| ThreadEnd {
                id,
                total: ending.spent.total,
            }),
            unconfirmed,
            ending: last.clone(),
        };
        loop {
            match block_in_place(|| journal.finished(&finished)) {
                Ok(()) => break,
                Err(error @ StateError::NotNewest { .. }) => {
                    tracing::error!(%error, "another attempt runs; this one's end is not told");
                    return Outcome::Busy;
                }
                Err(error) => {
                    let error = crate::error::with_sources(&error);
                    tracing::error!(error, "can't record the turn's end; trying again");
                }
            }
            tokio::select! {
                () = sleep(RECORD_RETRY) => {}
                () = stop.shutting_down() => return Outcome::Returned,
            }
        }
        sink.push_final(&last);
        Outcome::Ended(Box::new(Summary {
            attempt: self.number,
            stop_reason: ending.stop_reason,
            error: ending.error,
            usage: ending.spent.usage,
            model: self.model().map(str::to_owned),
            duration,
            first_text,
            thread_id: ending.thread_id,
            leftovers: ending.leftovers,
            ran: ending.ran,
        }))
    }
}

fn notice(code: NoticeCode, message: String) -> EventBody {
    EventBody::Notice { code, message }
}

/// Why a resumed conversation can't go on, if that is what happened.
fn lost_thread(ran: &Result<Ran, crate::guard::SpawnError>) -> Option<String> {
    let ran = ran.as_ref().ok()?;
    let (end, told) = (&ran.end, ran.translator.saw_event());
    (ran.stop.is_none() && thread_lost(&end.exit, told, &end.stderr_tail)).then(|| {
        let why = stderr::clean_tail(&end.stderr_tail);
        format!("the stored conversation can't be resumed, so this turn starts a new one: {why}")
    })
}
