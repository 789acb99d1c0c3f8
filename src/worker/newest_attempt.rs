//! Whether an attempt that runs here is still its turn's newest.

use crate::amqp::outbox::AttemptCheck;
use crate::error::with_sources;
use crate::metrics::Metrics;
use crate::request::{TurnId, WorkspaceId};
use crate::turn::{NotStarted, Stop, StopHandle};
use crate::workspace::{Root, TurnHistory};

/// Asks the turn's records, and stops an attempt that is not.
pub(super) struct NewestAttempt {
    pub root: Root,
    pub workspace: WorkspaceId,
    pub turn_id: TurnId,
    pub stop: StopHandle,
    pub metrics: Metrics,
}

impl NewestAttempt {
    fn history(&self) -> Result<TurnHistory, NotStarted> {
        let workspace = self.root.workspace(self.workspace.as_str())?;
        Ok(workspace.recent_history(self.turn_id.as_str())?)
    }
}

impl AttemptCheck for NewestAttempt {
    fn is_newest(&self, attempt: u32) -> Result<bool, String> {
        let history = self.history().map_err(|error| with_sources(&error))?;
        Ok(history.is_newest(attempt))
    }

    fn outdated(&self, attempt: u32) {
        tracing::warn!(
            attempt,
            "a newer attempt has started elsewhere: dropped this one's events and stopping it"
        );
        self.metrics.attempt_outdated();
        self.stop.stop(Stop::Outdated);
    }
}
