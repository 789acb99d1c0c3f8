//! When a turn first came: kept on disk for turns that must start in time, so
//! that a takeover does not begin that time anew.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use super::actions::Actor;
use super::queue::QueuedTurn;
use crate::error::with_sources;
use crate::fault;
use crate::turn::NotStarted;
use crate::workspace::Root;

impl Actor {
    /// How long ago a sequencer first received the turn. Nothing where that
    /// can't be kept: the next sequencer would have to count anew.
    pub(super) async fn received(&self, turn: Arc<QueuedTurn>) -> Option<Duration> {
        let root = self.records.root.clone();
        let lane = self.lanes.enter(Some(&turn.workspace)).await;
        let _place = self.receipts.acquire().await;
        let kept = match lane {
            Ok(lane) => lane.run(move || ago(&root, &turn)).await,
            Err(error) => Err(error),
        };
        fault::at("sequencer.receipt_kept");
        match kept {
            Ok(Ok(ago)) => Some(ago),
            Ok(Err(error)) => {
                let error = with_sources(&error);
                tracing::warn!(error, "can't keep when a turn came");
                None
            }
            Err(error) => {
                let error = with_sources(&error);
                tracing::error!(error, "keeping when a turn came failed");
                None
            }
        }
    }
}

/// Never negative: the sequencer that received it may have had another clock.
fn ago(root: &Root, turn: &QueuedTurn) -> Result<Duration, NotStarted> {
    let now = Timestamp::now();
    let workspace = root.workspace(&turn.workspace)?;
    let first = workspace.claims().received(&turn.turn_id, now)?;
    Ok(Duration::try_from(now.duration_since(first)).unwrap_or_default())
}
