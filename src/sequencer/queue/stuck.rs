//! Workspaces that do not move though slots are free.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Queue;

/// For how long an offered turn may fail to start before its workspace counts as
/// stuck. A worker that runs a turn reports it within a heartbeat.
pub(crate) const STUCK_AFTER: Duration = Duration::from_secs(5 * 60);

/// The first turn of a workspace that is stuck.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StuckTurn {
    pub workspace: Arc<str>,
    pub turn_id: Arc<str>,
    /// Since the first of its offers that had no effect.
    pub lasts: Duration,
}

impl Queue {
    /// The workspaces with a first turn that workers took offers of and do not run: its
    /// lock is held, its records are damaged. An offer that waits in the work queue
    /// for a slot or for a worker does not count. Looks at every workspace; to be asked once
    /// in a while.
    pub(crate) fn stuck(&mut self, now: Instant) -> Vec<StuckTurn> {
        let mut stuck = Vec::new();
        let paused = Arc::clone(&self.paused);
        for line in self.lines.values() {
            let head = line.head().and_then(|head| self.turns.get_mut(&head));
            let Some(held) = head else { continue };
            let host = self.hosts.of(held.disk);
            if held.turn.is_paused_by(&paused) || host.is_none_or(|host| host.is_away(now)) {
                held.without_effect = None;
            } else if (self.hosts.of(held.disk))
                .is_some_and(|host| host.lies_untaken(held.last_offer, now))
            {
                held.without_effect = Some(now);
            }
            let lasts = held.without_effect.map(|since| now.duration_since(since));
            if let Some(lasts) = lasts.filter(|lasts| *lasts >= STUCK_AFTER) {
                stuck.push(StuckTurn {
                    workspace: Arc::clone(&held.turn.workspace),
                    turn_id: Arc::clone(&held.turn.turn_id),
                    lasts,
                });
            }
        }
        stuck.sort_unstable_by(|one, other| {
            let longest_first = other.lasts.cmp(&one.lasts);
            longest_first.then_with(|| one.workspace.cmp(&other.workspace))
        });
        stuck
    }
}
