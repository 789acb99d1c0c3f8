//! The errors of turns that end without being run.

use std::time::Duration;

use crate::event::{ErrorCode, Reason, TurnError};

pub(super) fn backlog_full(workspace: &str) -> TurnError {
    TurnError {
        code: ErrorCode::BacklogFull,
        message: format!(
            "workspace `{workspace}` has as many waiting turns as one workspace may have"
        ),
        reason: Reason::Unknown,
        retryable: true,
    }
}

/// Under a code that older workers know, too: they read the claim.
pub(super) fn id_taken(turn_id: &str) -> TurnError {
    TurnError {
        code: ErrorCode::RequestInvalid,
        message: format!(
            "turn_id: found \"{turn_id}\", which a turn of another workspace has that has not ended, \
             expected an id that no other turn has"
        ),
        reason: Reason::Unknown,
        retryable: false,
    }
}

pub(super) fn busy(workspace: &str) -> TurnError {
    TurnError {
        code: ErrorCode::Busy,
        message: format!(
            "workspace `{workspace}` has a turn that has not ended, and this one was not to wait"
        ),
        reason: Reason::Unknown,
        retryable: true,
    }
}

pub(super) fn workspace_lost(workspace: &str, host: &str) -> TurnError {
    TurnError {
        code: ErrorCode::WorkspaceLost,
        message: format!(
            "workspace `{workspace}` was on the disk of host {host}, which is gone for good by an operator's word; \
             the turn may have been started there"
        ),
        reason: Reason::Unknown,
        retryable: false,
    }
}

pub(super) fn expired(limit: Option<Duration>) -> TurnError {
    TurnError {
        code: ErrorCode::Expired,
        message: format!(
            "the turn could not start within the {} s that it asked for",
            limit.unwrap_or_default().as_secs()
        ),
        reason: Reason::Unknown,
        retryable: true,
    }
}
