//! Ends turns that don't run: cancelled while they waited, or one too many.

use std::sync::Arc;

use jiff::Timestamp;

use super::actions::Actor;
use super::queue::{ClaimAnswer, QueuedTurn, Verdict as Wanted};
use crate::amqp::dead_letter::Refusal;
use crate::error::with_sources;
use crate::event::{ErrorCode, Reason, SealedEvent, StopReason, TurnError};
use crate::fault;
use crate::request::{Limits, Properties, TurnRequest};
use crate::trace::TraceContext;
use crate::turn::{NotStarted, simple_ending};
use crate::workspace::{Claim, ClaimOutcome, Root, Verdict, WorkspaceError};

/// What the records say, once the verdict was tried.
enum Decided {
    Ended {
        events: Vec<SealedEvent>,
        /// Why the request was refused: it goes to the dead queue.
        refused: Option<TurnError>,
        /// Decided by us, now, so that nobody has counted it.
        now: Option<StopReason>,
    },
    Runs,
}

impl Actor {
    pub(super) async fn decide(&self, turn: &Arc<QueuedTurn>, wanted: Wanted) -> ClaimAnswer {
        let (root, by, turn_) = (
            self.records.root.clone(),
            self.records.by.clone(),
            Arc::clone(turn),
        );
        let decided = tokio::task::spawn_blocking(move || claim(&root, &turn_, wanted, by)).await;
        let decided = match decided {
            Ok(Ok(decided)) => decided,
            Ok(Err(error)) => {
                self.not_recorded(&error).await;
                let error = with_sources(&error);
                tracing::error!(
                    error,
                    turn_id = &*turn.turn_id,
                    "can't decide a turn's fate yet"
                );
                return ClaimAnswer::Failed;
            }
            Err(panic) => {
                tracing::error!(%panic, "deciding a turn's fate failed");
                return ClaimAnswer::Failed;
            }
        };
        let Decided::Ended {
            events,
            refused,
            now,
        } = decided
        else {
            return ClaimAnswer::AlreadyRun;
        };
        fault::at("sequencer.claimed");
        let code = refused.as_ref().map(|error| error.code);
        if let Some(stop_reason) = now {
            // Only here: what follows may have to be tried again.
            match code {
                Some(code) => self.metrics.request_rejected(code),
                None => self.metrics.turn_decided(stop_reason, None),
            }
            tracing::info!(
                turn_id = &*turn.turn_id,
                workspace = &*turn.workspace,
                trace_id = (events.first())
                    .and_then(|event| event.trace.as_deref())
                    .map(TraceContext::trace_id),
                outcome = stop_reason.as_str(),
                code = code.map(ErrorCode::as_str),
                "ended a waiting turn"
            );
        }
        if let Some(error) = &refused {
            let refusal = Refusal {
                request: &turn.request,
                turn_id: Some(&turn.turn_id),
                code: error.code,
                message: &error.message,
            };
            if !self.bury(refusal).await {
                return ClaimAnswer::Failed;
            }
        }
        let told = self.publish_events(events).await;
        fault::at("sequencer.told");
        match (told, now) {
            (false, _) => ClaimAnswer::Failed,
            (true, Some(_)) => ClaimAnswer::Won,
            (true, None) => ClaimAnswer::AlreadyEnded,
        }
    }
}

fn claim(
    root: &Root,
    turn: &QueuedTurn,
    wanted: Wanted,
    by: String,
) -> Result<Decided, NotStarted> {
    let workspace = match root.workspace(&turn.workspace) {
        Ok(workspace) => workspace,
        // It has no place for a claim. The worker that is offered the turn
        // ends it as rejected; tried again here, it would stay in line for ever.
        Err(WorkspaceError::Rejected { .. }) => return Ok(Decided::Runs),
        Err(error) => return Err(error.into()),
    };
    let claims = workspace.claims();
    let limits = Limits::accepted();
    // What the queue holds is our own canonical form, which parses.
    let Ok(request) = TurnRequest::parse(&turn.request, &limits, &Properties::default()) else {
        return Ok(Decided::Runs);
    };
    let (stop_reason, error) = match wanted {
        Wanted::Cancelled => {
            // First, for the next attempt of a turn that turns out to run.
            claims.mark_cancelled(&turn.turn_id)?;
            fault::at("sequencer.marked");
            (StopReason::Cancelled, None)
        }
        Wanted::BacklogFull => (StopReason::Error, Some(backlog_full(&turn.workspace))),
    };
    let ending = simple_ending(&request, stop_reason, error.clone());
    let verdict = match &error {
        None => Verdict::Cancelled {
            ending: ending.clone(),
        },
        Some(error) => Verdict::Rejected {
            code: error.code,
            ending: ending.clone(),
        },
    };
    let claim = Claim {
        verdict,
        fingerprint: request.fingerprint(),
        made_at: Timestamp::now(),
        by,
    };
    Ok(match claims.claim(&turn.turn_id, &claim)? {
        ClaimOutcome::Won => Decided::Ended {
            events: ending,
            refused: error,
            now: Some(stop_reason),
        },
        ClaimOutcome::Lost(other) => match other.verdict.ending() {
            Some(events) => Decided::Ended {
                events: events.to_vec(),
                // By this sequencer a moment ago, or by one that died: the
                // request may not have got to the dead queue.
                refused: error.filter(|error| is_refusal(&other.verdict, error.code)),
                now: None,
            },
            None => Decided::Runs,
        },
    })
}

fn is_refusal(verdict: &Verdict, code: ErrorCode) -> bool {
    matches!(verdict, Verdict::Rejected { code: because, .. } if *because == code)
}

fn backlog_full(workspace: &str) -> TurnError {
    TurnError {
        code: ErrorCode::BacklogFull,
        message: format!(
            "workspace `{workspace}` has as many waiting turns as one workspace may have"
        ),
        reason: Reason::Unknown,
        retryable: true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turn(workspace: &str) -> QueuedTurn {
        let request = format!(
            r#"{{"turn_id":"t","workspace":"{workspace}","messages":[{{"role":"user","content":"hi"}}]}}"#
        );
        QueuedTurn {
            workspace: workspace.into(),
            turn_id: "t".into(),
            fingerprint: 0,
            request: request.into_bytes().into(),
            enqueued_at: None,
        }
    }

    #[test]
    fn g5_a_cancelled_turn_whose_workspace_can_not_be_is_left_to_a_worker() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::open(dir.path()).unwrap();
        root.workspace("a").unwrap();
        for wanted in [Wanted::Cancelled, Wanted::BacklogFull] {
            let decided = claim(&root, &turn("a/inside"), wanted, "me".into()).unwrap();
            assert!(matches!(decided, Decided::Runs), "{wanted:?}");
            let decided = claim(&root, &turn("b"), wanted, "me".into()).unwrap();
            assert!(!matches!(decided, Decided::Runs), "{wanted:?}");
        }
    }

    #[test]
    fn g5_a_refusal_tried_again_is_the_same_counted_once_and_still_buried() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::open(dir.path()).unwrap();
        let decide = |wanted| match claim(&root, &turn("a"), wanted, "me".into()).unwrap() {
            Decided::Ended {
                events,
                refused,
                now,
            } => (events, refused.map(|error| error.code), now),
            Decided::Runs => panic!("it runs"),
        };
        let full = Some(ErrorCode::BacklogFull);
        let (events, refused, now) = decide(Wanted::BacklogFull);
        assert_eq!((refused, now), (full, Some(StopReason::Error)));
        assert_eq!(decide(Wanted::BacklogFull), (events.clone(), full, None));
        // A cancel that comes later changes nothing, and is no refusal.
        assert_eq!(decide(Wanted::Cancelled), (events, None, None));
    }
}
