//! Ends turns that don't run: cancelled while they waited, or one too many.

use std::sync::Arc;

use jiff::Timestamp;

use super::actions::Actor;
use super::queue::{ClaimAnswer, QueuedTurn, Verdict as Wanted};
use crate::error::with_sources;
use crate::event::{ErrorCode, Reason, SealedEvent, StopReason, TurnError};
use crate::request::{Limits, Properties, TurnRequest};
use crate::turn::{NotStarted, simple_ending};
use crate::workspace::{Claim, ClaimOutcome, Root, Verdict, WorkspaceError};

/// What the records say, once the verdict was tried.
enum Decided {
    /// By us, now.
    Ended(Vec<SealedEvent>, Option<TurnError>, StopReason),
    EndedBefore(Vec<SealedEvent>),
    Runs,
}

impl Actor {
    pub(super) async fn decide(&self, turn: &Arc<QueuedTurn>, wanted: Wanted) -> ClaimAnswer {
        let (root, by, turn_) = (self.root.clone(), self.by.clone(), Arc::clone(turn));
        let decided = tokio::task::spawn_blocking(move || claim(&root, &turn_, wanted, by)).await;
        let decided = match decided {
            Ok(Ok(decided)) => decided,
            Ok(Err(error)) => {
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
        match decided {
            Decided::Runs => ClaimAnswer::AlreadyRun,
            Decided::EndedBefore(events) => {
                if self.publish_events(events).await {
                    ClaimAnswer::AlreadyEnded
                } else {
                    ClaimAnswer::Failed
                }
            }
            Decided::Ended(events, error, stop_reason) => {
                if let Some(error) = &error
                    && !self.bury(&turn.request, error.code, &error.message).await
                {
                    return ClaimAnswer::Failed;
                }
                if !self.publish_events(events).await {
                    return ClaimAnswer::Failed;
                }
                match &error {
                    Some(error) => self.metrics.request_rejected(error.code),
                    None => self.metrics.turn_decided(stop_reason, None),
                }
                tracing::info!(
                    turn_id = &*turn.turn_id,
                    workspace = &*turn.workspace,
                    outcome = stop_reason.as_str(),
                    code = error.map(|error| error.code.as_str()),
                    "ended a waiting turn"
                );
                ClaimAnswer::Won
            }
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
        ClaimOutcome::Won => Decided::Ended(ending, error, stop_reason),
        ClaimOutcome::Lost(other) => match other.verdict.ending() {
            Some(events) => Decided::EndedBefore(events.to_vec()),
            None => Decided::Runs,
        },
    })
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
}
