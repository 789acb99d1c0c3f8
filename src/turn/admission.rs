//! May this turn run, here, now, and as which attempt? (G3, G4, G5)

use std::time::Duration;

use jiff::Timestamp;
use tokio::task::block_in_place;
use tokio::time::{Instant, sleep};

use super::attempt::Attempt;
use super::ending::{Ending, failure, simple_ending};
use super::{Ended, EventSink, NotStarted, Outcome, Runner, Stop, StopHandle};
use crate::codex::engine::Engine;
use crate::event::{ErrorCode, SealedEvent, StopReason};
use crate::fault;
use crate::guard::{TAG_VARIABLE, tree};
use crate::request::TurnRequest;
use crate::workspace::{
    Claim, ClaimOutcome, Claims, LockedJournal, StateError, TurnHistory, Verdict, Workspace,
    WorkspaceError, WorkspaceLock,
};

/// A dying guard needs a moment to let go of the lock.
const LOCK_WAIT: Duration = Duration::from_secs(2);
const LOCK_POLL: Duration = Duration::from_millis(50);

/// What the records say of a turn.
enum Found {
    /// Never seen.
    New,
    /// Attempts of it have been started.
    Started(Box<TurnHistory>),
    Ended(Ended),
}

impl<E: Engine> Runner<E> {
    /// Runs the turn, or tells why not. `patient`: whether to wait a little
    /// for the workspace's lock. When this returns, the lock is free again
    /// and nothing of the turn lives.
    ///
    /// Needs a runtime of several threads.
    pub async fn take<S: EventSink>(
        &self,
        request: &TurnRequest,
        patient: bool,
        sink: &S,
        stop: &StopHandle,
    ) -> Outcome {
        let outcome = match self.admit(request, patient, sink, stop).await {
            Err(NotStarted::Workspace(why @ WorkspaceError::Rejected { .. })) => {
                match block_in_place(|| self.root.rejected_in(request.workspace.as_str())) {
                    Ok(claims) => self.refuse(request, &why, &claims, sink).await,
                    Err(error) => Err(error.into()),
                }
            }
            outcome => outcome,
        };
        let error = match outcome {
            Ok(outcome) => return outcome,
            Err(error) => error,
        };
        // The lock is free again: other hosts may be well.
        let finding = match error.suspect() {
            Some(part) => self.host.examine(part).await,
            None => None,
        };
        finding.map_or(Outcome::NotStarted(error), Outcome::Unfit)
    }

    async fn admit<S: EventSink>(
        &self,
        request: &TurnRequest,
        patient: bool,
        sink: &S,
        stop: &StopHandle,
    ) -> Result<Outcome, NotStarted> {
        // Few trips to the disk with much on each: leaving the runtime's thread costs more than a look.
        let (workspace, found) = block_in_place(|| {
            let workspace = self.root.workspace(request.workspace.as_str())?;
            let found = look_up(&workspace, request)?;
            Ok::<_, NotStarted>((workspace, found))
        })?;
        if let Found::Ended(ended) = found {
            return Ok(Outcome::AlreadyEnded(ended));
        }
        let Some(mut journal) = lock(&workspace, patient).await? else {
            return Ok(Outcome::Busy);
        };
        fault::at("turn.locked");
        // Again: it may have ended while we waited for the lock.
        let history = match block_in_place(|| look_up(&workspace, request))? {
            Found::Ended(ended) => return Ok(Outcome::AlreadyEnded(ended)),
            Found::Started(history) => Some(history),
            Found::New => None,
        };
        if stop.wanted() == Some(Stop::Shutdown) {
            return Ok(Outcome::Returned);
        }
        end_stragglers(&journal, &workspace);

        let cancelled = stop.wanted() == Some(Stop::Cancel)
            || block_in_place(|| workspace.claims().is_cancelled(request.turn_id.as_str()))?;
        let unusable = workspace.unusable();
        if let (None, false, Some(why)) = (&history, cancelled, &unusable) {
            // The broker is waited for: nobody's business is held up by that.
            drop(journal);
            return self.refuse(request, why, workspace.claims(), sink).await;
        }
        if history.is_none() {
            let verdict = if cancelled {
                let ending = simple_ending(request, StopReason::Cancelled, None);
                Verdict::Cancelled { ending }
            } else {
                Verdict::Run
            };
            let (claim, won) = block_in_place(|| self.claim(workspace.claims(), request, verdict))?;
            fault::at("turn.claimed");
            if let Some(mut ended) = ending_of(&claim, request) {
                ended.decided_now = won.then_some(StopReason::Cancelled);
                return Ok(Outcome::AlreadyEnded(ended));
            }
        }
        let history = history.unwrap_or_default();
        let attempt = Attempt::new(self, request, &workspace, &history);
        let max_attempts = request.effective_max_attempts(self.max_attempts);
        let charged = history.charged();
        if cancelled {
            let ending = Ending::not_run(StopReason::Cancelled, None, attempt.spent_before());
            Ok(attempt.end_unrun(&mut journal, ending, sink, stop).await)
        } else if let Some(why) = unusable {
            let error = failure(ErrorCode::WorkspaceRejected, why.to_string(), false);
            let spent = attempt.spent_before();
            let ending = Ending::not_run(StopReason::Error, Some(error), spent);
            Ok(attempt.end_unrun(&mut journal, ending, sink, stop).await)
        } else if charged >= max_attempts as usize {
            let message = format!(
                "{charged} of at most {max_attempts} attempts were cut off by the death of their worker"
            );
            let error = failure(ErrorCode::AttemptsExhausted, message, false);
            let ending = Ending::not_run(StopReason::Error, Some(error), attempt.spent_before());
            Ok(attempt.end_unrun(&mut journal, ending, sink, stop).await)
        } else {
            attempt.run(&mut journal, sink, stop).await
        }
    }

    /// For good: a turn that never ran, in a workspace that can't be used.
    async fn refuse<S: EventSink>(
        &self,
        request: &TurnRequest,
        why: &WorkspaceError,
        claims: &Claims,
        sink: &S,
    ) -> Result<Outcome, NotStarted> {
        let turn_id = request.turn_id.as_str();
        if let Some(claim) = block_in_place(|| claims.find(turn_id))? {
            let ended = ending_of(&claim, request);
            return Ok(ended.map_or(Outcome::Busy, Outcome::AlreadyEnded));
        }
        let code = ErrorCode::WorkspaceRejected;
        let error = failure(code, why.to_string(), false);
        // Before the claim, which so tells whoever comes later that it is kept.
        if !sink.refuse(&error).await {
            return Ok(Outcome::Returned);
        }
        fault::at("turn.refused");
        let ending = simple_ending(request, StopReason::Error, Some(error.clone()));
        let verdict = Verdict::Rejected { code, ending };
        let (claim, _) = block_in_place(|| self.claim(claims, request, verdict))?;
        fault::at("turn.rejected");
        Ok(match ending_of(&claim, request) {
            Some(Ended { events, .. }) => Outcome::Rejected { error, events },
            // Started since: the workspace can be used again.
            None => Outcome::Busy,
        })
    }

    /// Decides the turn's fate: by this verdict (then true), or by whichever
    /// came first.
    fn claim(
        &self,
        claims: &Claims,
        request: &TurnRequest,
        verdict: Verdict,
    ) -> Result<(Claim, bool), StateError> {
        let claim = Claim {
            verdict,
            fingerprint: request.fingerprint(),
            made_at: Timestamp::now(),
            by: self.worker.clone(),
        };
        Ok(match claims.claim(request.turn_id.as_str(), &claim)? {
            ClaimOutcome::Won => (claim, true),
            ClaimOutcome::Lost(other) => (other, false),
        })
    }
}

/// Reads only the claim where the turn is new, which is nearly always.
fn look_up(workspace: &Workspace, request: &TurnRequest) -> Result<Found, StateError> {
    let turn_id = request.turn_id.as_str();
    let Some(claim) = workspace.claims().find(turn_id)? else {
        return Ok(Found::New);
    };
    if let Some(ended) = ending_of(&claim, request) {
        return Ok(Found::Ended(ended));
    }
    let history = workspace.history(turn_id)?;
    let finished = history.finished.as_ref();
    Ok(
        match finished.filter(|_| !fault::is_on("sabotage.journal")) {
            Some(finished) => {
                Found::Ended(ended(&finished.unconfirmed, claim.fingerprint, request))
            }
            None => Found::Started(Box::new(history)),
        },
    )
}

/// How the claim ends the turn, unless the turn runs.
fn ending_of(claim: &Claim, request: &TurnRequest) -> Option<Ended> {
    let events = claim.verdict.ending()?;
    Some(ended(events, claim.fingerprint, request))
}

fn ended(events: &[SealedEvent], fingerprint: u32, request: &TurnRequest) -> Ended {
    Ended {
        events: events.to_vec(),
        other_body: fingerprint != request.fingerprint(),
        decided_now: None,
    }
}

/// Takes the workspace's lock, and opens the journal with it.
async fn lock(workspace: &Workspace, patient: bool) -> Result<Option<LockedJournal>, StateError> {
    let wait = if patient { LOCK_WAIT } else { Duration::ZERO };
    let deadline = Instant::now() + wait;
    loop {
        let opened = block_in_place(|| {
            let lock = workspace.try_lock()?;
            lock.map(WorkspaceLock::open_journal).transpose()
        })?;
        if opened.is_some() {
            return Ok(opened);
        }
        if Instant::now() >= deadline {
            return Ok(None);
        }
        sleep(LOCK_POLL).await;
    }
}

/// What a guard and a worker that were killed together have left must be gone
/// before anything runs here. An attempt that has ended left nothing, so
/// mostly there is nothing to look for.
fn end_stragglers(journal: &LockedJournal, workspace: &Workspace) {
    if journal.has_open_attempt() {
        let dir = workspace.dir().to_string_lossy();
        let killed = block_in_place(|| tree::kill_tagged(TAG_VARIABLE, &dir));
        if killed > 0 {
            tracing::warn!(killed, "ended what an earlier attempt had left");
        }
    }
}
