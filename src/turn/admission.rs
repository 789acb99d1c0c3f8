//! May this turn run, here, now, and as which attempt? (G3, G4, G5)

use std::os::fd::AsFd;

use jiff::Timestamp;
use tokio::task::block_in_place;

use super::attempt::Attempt;
use super::ending::{Ending, cancelled_ending, failure, simple_ending};
use super::fence::Takeover;
use super::lease::{Hints, Lease, Taken};
use super::{Ended, EventSink, NotStarted, Outcome, Runner, Stop, StopHandle};
use crate::codex::engine::Engine;
use crate::event::{ErrorCode, SealedEvent, StopReason};
use crate::fault;
use crate::request::TurnRequest;
use crate::workspace::{
    CancelMark, Claim, ClaimOutcome, Claims, StateError, TurnHistory, Verdict, Workspace,
    WorkspaceError,
};

/// What the records say of a turn.
enum Found {
    /// Never seen.
    New,
    /// Attempts of it have been started.
    Started(Box<TurnHistory>),
    Ended(Ended),
}

impl<E: Engine> Runner<E> {
    /// Runs the turn, or returns why not. When this returns, no process of the turn
    /// lives, and the lock is free again, or soon is for any process that wants it.
    ///
    /// Needs a runtime of several threads.
    pub async fn take<S: EventSink>(
        &self,
        request: &TurnRequest,
        hints: &Hints,
        sink: &S,
        stop: &StopHandle,
    ) -> Outcome {
        let outcome = match self.admit(request, hints, sink, stop).await {
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
        hints: &Hints,
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
        let idle = self.engine.idle();
        let mut lease = match Lease::take(&workspace, idle, hints, &self.metrics).await? {
            Taken::Lease(lease) => *lease,
            Taken::Busy => return Ok(Outcome::Busy),
            Taken::Held(unkillable) => {
                let record = block_in_place(|| workspace.unkillable()).map_err(StateError::from)?;
                self.held.note(workspace.id(), &unkillable, record.as_fd());
                return Ok(Outcome::Held(unkillable));
            }
        };
        fault::at("turn.locked");
        if let Some(predecessor) = lease.predecessor.take() {
            let found = block_in_place(|| look_up(&workspace, request))?;
            if !matches!(found, Found::Ended(_)) {
                let takeover = Takeover::new(predecessor, workspace, lease);
                return Ok(Outcome::Takeover(Box::new(takeover)));
            }
        }
        let outcome = self
            .serve(request, &workspace, &mut lease, sink, stop)
            .await;
        match outcome {
            Ok(Some(Outcome::LockLost)) => lease.abandon(),
            _ => lease.release(&workspace, idle).await,
        }
        match (outcome?, workspace.unusable()) {
            (Some(outcome), _) => Ok(outcome),
            // Waiting for the broker holds no other work up.
            (None, Some(why)) => self.refuse(request, &why, workspace.claims(), sink).await,
            // It was for a moment only.
            (None, None) => Ok(Outcome::Busy),
        }
    }

    /// With the workspace to itself. Returns `None` if a turn that was never
    /// started can't be, as the workspace can't be used.
    async fn serve<S: EventSink>(
        &self,
        request: &TurnRequest,
        workspace: &Workspace,
        lease: &mut Lease,
        sink: &S,
        stop: &StopHandle,
    ) -> Result<Option<Outcome>, NotStarted> {
        // Only a pool without shared storage moves workspaces; an offer may be older than that.
        if block_in_place(|| workspace.has_left())? {
            tracing::warn!("dropped an offer: the workspace has moved to another host's disk");
            return Ok(Some(Outcome::Busy));
        }
        // Again: it may have ended while we waited for the lock.
        let found = block_in_place(|| look_up(workspace, request))?;
        let mut history = match found {
            Found::Ended(ended) => return Ok(Some(Outcome::AlreadyEnded(ended))),
            Found::Started(history) => Some(history),
            Found::New => None,
        };
        if stop.wanted() == Some(Stop::Shutdown) {
            return Ok(Some(Outcome::Returned));
        }
        // The durable mark first: other attempts have it, too.
        let mark = block_in_place(|| workspace.claims().cancel_mark(request.turn_id.as_str()))?;
        let cancelled = mark.or_else(|| {
            let superseded_by = stop.superseded_by();
            (stop.wanted() == Some(Stop::Cancel)).then_some(CancelMark { superseded_by })
        });
        let unusable = workspace.unusable();
        if history.is_none() && cancelled.is_none() && unusable.is_some() {
            return Ok(None);
        }
        if history.is_none() {
            let verdict = match &cancelled {
                Some(mark) => Verdict::Unrun {
                    ending: cancelled_ending(request, mark.superseded_by.clone()),
                },
                None => Verdict::Run,
            };
            let (claim, won) = block_in_place(|| self.claim(workspace.claims(), request, verdict))?;
            fault::at("turn.claimed");
            if let Some(mut ended) = ending_of(&claim, request) {
                ended.decided_now = won.then_some(StopReason::Cancelled);
                return Ok(Some(Outcome::AlreadyEnded(ended)));
            }
            // The claim was there, and an old read of its folder did not show it.
            if !won {
                match block_in_place(|| look_up(workspace, request))? {
                    Found::Ended(ended) => return Ok(Some(Outcome::AlreadyEnded(ended))),
                    Found::Started(found) => history = Some(found),
                    Found::New => return Ok(Some(Outcome::Busy)),
                }
            }
        }
        let history = history.unwrap_or_default();
        let attempt = Attempt::new(self, request, workspace, &history);
        let max_attempts = request.effective_max_attempts(self.max_attempts);
        let charged = history.charged();
        let outcome = if let Some(mark) = cancelled {
            let ending = Ending::not_run(
                StopReason::Cancelled,
                None,
                attempt.spent_before(&lease.journal),
            )
            .superseded_by(mark.superseded_by);
            attempt
                .end_unrun(&mut lease.journal, ending, sink, stop)
                .await
        } else if let Some(why) = unusable {
            let error = failure(ErrorCode::WorkspaceRejected, why.to_string(), false);
            let spent = attempt.spent_before(&lease.journal);
            let ending = Ending::not_run(StopReason::Error, Some(error), spent);
            attempt
                .end_unrun(&mut lease.journal, ending, sink, stop)
                .await
        } else if charged >= max_attempts as usize {
            let message = format!(
                "{charged} of at most {max_attempts} attempts were cut off by the death of their worker"
            );
            let error = failure(ErrorCode::AttemptsExhausted, message, false);
            let ending = Ending::not_run(
                StopReason::Error,
                Some(error),
                attempt.spent_before(&lease.journal),
            );
            attempt
                .end_unrun(&mut lease.journal, ending, sink, stop)
                .await
        } else {
            attempt.run(lease, sink, stop).await?
        };
        Ok(Some(outcome))
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
        // Before the claim, which so shows any later reader that it is kept.
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

    /// Decides the turn's outcome: by this verdict (then true), or by the one that
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
    let (history, journal) = match workspace.indexed_end(turn_id)? {
        Some(finished) => (TurnHistory::from(finished), workspace.end_of(turn_id)?),
        None => (workspace.history(turn_id)?, None),
    };
    let finished = history.finished.as_ref();
    Ok(
        match finished.filter(|_| !fault::is_on("sabotage.journal")) {
            Some(finished) => Found::Ended(Ended {
                journal,
                ..ended(&finished.unconfirmed, claim.fingerprint, request)
            }),
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
        journal: None,
    }
}
