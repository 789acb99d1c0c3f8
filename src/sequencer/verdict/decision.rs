//! What the records of a workspace decide on a turn.

use std::sync::Arc;

use jiff::Timestamp;

use super::turn_errors::{backlog_full, busy, expired, id_taken};
use crate::event::{ErrorCode, SealedEvent, StopReason, TurnError};
use crate::fault;
use crate::request::{Limits, Properties, TurnRequest};
use crate::sequencer::queue::{QueuedTurn, Verdict as Wanted};
use crate::turn::{NotStarted, cancelled_ending, simple_ending};
use crate::workspace::{
    CancelMark, Claim, ClaimOutcome, JournalEnd, Root, StateError, Verdict, Workspace,
    WorkspaceError,
};

/// What the records say, once the verdict was tried.
pub(super) enum Decided {
    Ended {
        events: Vec<SealedEvent>,
        /// Why the request was refused: it goes to the dead queue.
        refused: Option<TurnError>,
        /// Decided by us, so that it is not counted yet.
        now: Option<Decision>,
        /// Not to be published: another turn's readers would get it.
        silent: bool,
    },
    Runs,
    /// All that the turn would have had to wait for has ended.
    AllEnded,
    /// What was to supersede the turn has been decided itself.
    Spent,
}

/// How the turn ends.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Decision {
    pub(super) stop_reason: StopReason,
    pub(super) error: Option<TurnError>,
}

/// `known`: how far the journals of workspaces are known to reach.
pub(super) fn claim(
    root: &Root,
    turn: &QueuedTurn,
    wanted: Wanted,
    by: String,
    other_ended: Option<bool>,
    known: impl Fn(&str) -> Option<JournalEnd>,
) -> Result<Decided, NotStarted> {
    let claims = match root.workspace(&turn.workspace) {
        Ok(workspace) => workspace.claims().clone(),
        Err(WorkspaceError::Rejected { .. }) => match &wanted {
            // The worker's rejection would be published.
            Wanted::IdTaken { .. } => root.rejected_in(&turn.workspace)?,
            // It has no place for a claim. The worker that is offered the turn
            // ends it as rejected; tried again here, it would stay in line for ever.
            _ => return Ok(Decided::Runs),
        },
        Err(error) => return Err(error.into()),
    };
    let limits = Limits::accepted();
    // What the queue holds is our own canonical form, which parses.
    let Ok(request) = TurnRequest::parse(&turn.request, &limits, &Properties::default()) else {
        return Ok(Decided::Runs);
    };
    let mut mark = CancelMark::default();
    let (stop_reason, error) = match &wanted {
        Wanted::Cancelled => {
            // First, for the next attempt of a turn that turns out to run.
            mark = claims.mark_cancelled(&turn.turn_id, None)?;
            fault::at("sequencer.marked");
            (StopReason::Cancelled, None)
        }
        Wanted::Superseded { by } => {
            if claims.find(by)?.is_some() {
                return Ok(Decided::Spent);
            }
            mark = claims.mark_cancelled(&turn.turn_id, Some(by))?;
            fault::at("sequencer.superseded");
            (StopReason::Cancelled, None)
        }
        Wanted::Busy { ahead } => {
            let known = known(&turn.workspace);
            if all_have_ended(&root.workspace(&turn.workspace)?, ahead, known.as_ref())? {
                return Ok(Decided::AllEnded);
            }
            (StopReason::Error, Some(busy(&turn.workspace)))
        }
        Wanted::IdTaken { workspace } => {
            let ended = match other_ended {
                Some(ended) => ended,
                None => has_ended(root, workspace, &turn.turn_id, known(workspace).as_ref())?,
            };
            if ended {
                return Ok(Decided::AllEnded);
            }
            (StopReason::Error, Some(id_taken(&turn.turn_id)))
        }
        Wanted::BacklogFull => (StopReason::Error, Some(backlog_full(&turn.workspace))),
        Wanted::Expired => (StopReason::Error, Some(expired(turn.start_within))),
        // Not by records.
        Wanted::HostLost { .. } => return Ok(Decided::Runs),
    };
    let id_taken = matches!(wanted, Wanted::IdTaken { .. });
    // What the request itself asked for is no operator's concern.
    let is_refusal = id_taken || wanted == Wanted::BacklogFull;
    let refused = error.clone().filter(|_| is_refusal);
    let ending = match stop_reason {
        StopReason::Cancelled => cancelled_ending(&request, mark.superseded_by),
        _ => simple_ending(&request, stop_reason, error.clone()),
    };
    let verdict = match &refused {
        None => Verdict::Unrun {
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
            refused,
            now: Some(Decision { stop_reason, error }),
            silent: id_taken,
        },
        ClaimOutcome::Lost(other) => match other.verdict.ending() {
            Some(events) => {
                // By this sequencer a moment ago, or by one that died: the
                // request may not have got to the dead queue.
                let refused = refused.filter(|error| refuses(&other.verdict, error.code));
                Decided::Ended {
                    events: events.to_vec(),
                    // An ending from before the other turn came is published as ever.
                    silent: id_taken && refused.is_some(),
                    refused,
                    now: None,
                }
            }
            None => Decided::Runs,
        },
    })
}

fn all_have_ended(
    workspace: &Workspace,
    turns: &[Arc<str>],
    known: Option<&JournalEnd>,
) -> Result<bool, StateError> {
    for turn_id in turns {
        if !workspace.has_ended(turn_id, known)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// In a workspace that can't be, no turn's end is known.
/// `known`: how far its journal is known to reach.
pub(in crate::sequencer) fn has_ended(
    root: &Root,
    workspace: &str,
    turn_id: &str,
    known: Option<&JournalEnd>,
) -> Result<bool, NotStarted> {
    match root.workspace(workspace) {
        Ok(workspace) => Ok(workspace.has_ended(turn_id, known)?),
        Err(WorkspaceError::Rejected { .. }) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn refuses(verdict: &Verdict, code: ErrorCode) -> bool {
    matches!(verdict, Verdict::Rejected { code: because, .. } if *because == code)
}

#[cfg(test)]
mod tests;
