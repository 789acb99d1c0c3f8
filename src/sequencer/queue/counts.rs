//! What metrics and `status` want to know of the queue.

use std::time::Instant;

use jiff::Timestamp;

use super::held::Held;
use super::{Queue, REPEAT};

/// The oldest turn that waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Oldest {
    /// By this sequencer.
    pub received: Instant,
    /// By the producer, if that told.
    pub enqueued_at: Option<Timestamp>,
}

impl Queue {
    /// Whether a turn of that id is held, in whichever workspace.
    pub fn holds_turn_id(&self, turn_id: &str) -> bool {
        self.by_id.contains_key(turn_id)
    }

    /// How many turns are held.
    pub fn turns(&self) -> usize {
        self.turns.len()
    }

    /// How many workspaces have turns here.
    pub fn workspaces(&self) -> usize {
        self.lines.len()
    }

    /// The oldest turn that is not known to run. Looks past those that do, of
    /// which there are no more than the pool has slots.
    pub fn oldest_waiting(&self, now: Instant) -> Option<Oldest> {
        let runs = |held: &Held| held.seen.is_some_and(|seen| now < seen + REPEAT.first);
        let held = self.turns.values().find(|held| !runs(held))?;
        Some(Oldest {
            received: held.received,
            enqueued_at: held.turn.enqueued_at,
        })
    }
}
