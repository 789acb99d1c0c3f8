//! What metrics, `status` and producers want to know of the queue.

use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;

use super::held::{Held, Line};
use super::{Queue, REPEAT};

/// The oldest turn that waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Oldest {
    /// By this sequencer.
    pub received: Instant,
    /// By the producer, if its request says so.
    pub enqueued_at: Option<Timestamp>,
}

/// All that is held, in short.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Summary {
    pub turns: usize,
    /// Those that are not known to run.
    pub waiting: usize,
    pub workspaces: usize,
    pub oldest: Option<Oldest>,
    /// The longest lines, these first.
    pub top: Vec<LineSummary>,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct LineSummary {
    pub workspace: Arc<str>,
    pub turns: usize,
    /// One of them is known to run.
    pub running: bool,
    /// Its first turn is.
    pub paused: bool,
    /// The oldest that waits.
    pub oldest: Option<Oldest>,
    /// The ids of the first turns, in their order.
    pub next: Vec<Arc<str>>,
    /// The host that the workspace lives on, in a pool without shared storage.
    pub home: Option<Arc<str>>,
    /// For how long that has been away, if it is.
    pub home_away: Option<Duration>,
}

/// Of a turn in its workspace's line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    /// Turns that come before it.
    pub ahead: usize,
    /// A worker is known to have it.
    pub runs: bool,
    /// The workspace is paused.
    pub paused: bool,
}

impl Queue {
    /// Whether a turn of that id is held, in any workspace.
    pub(crate) fn holds_turn_id(&self, turn_id: &str) -> bool {
        self.by_id.contains_key(turn_id)
    }

    /// Where a held turn stands. Counts the turns ahead of it.
    pub(crate) fn place(&self, now: Instant, workspace: &str, turn_id: &str) -> Option<Place> {
        let ticket = self.find(workspace, turn_id)?;
        let held = self.turns.get(&ticket)?;
        let ahead = self.lines.get(workspace)?.order.range(..ticket).count();
        Some(Place {
            ahead,
            runs: runs(held, now),
            paused: held.turn.is_paused_by(&self.paused),
        })
    }

    /// How many turns are held.
    pub(crate) fn turns(&self) -> usize {
        self.turns.len()
    }

    /// How many workspaces have turns here.
    pub(crate) fn workspaces(&self) -> usize {
        self.lines.len()
    }

    /// The oldest turn that is not known to run. Looks past those that do, of
    /// which there are no more than the pool has slots.
    pub(crate) fn oldest_waiting(&self, now: Instant) -> Option<Oldest> {
        let held = self.turns.values().find(|held| !runs(held, now))?;
        Some(Oldest::of(held))
    }

    /// With the `top` longest lines, and of each the first `next` turns. Looks
    /// at every turn once.
    pub(crate) fn summary(&self, now: Instant, top: usize, next: usize) -> Summary {
        let waiting = self.turns.values().filter(|held| !runs(held, now));
        let mut lines: Vec<(&Arc<str>, &Line)> = self.lines.iter().collect();
        let longest_first = |one: &(&Arc<str>, &Line), other: &(&Arc<str>, &Line)| {
            let length = |line: &Line| line.order.len();
            length(other.1)
                .cmp(&length(one.1))
                .then_with(|| one.0.cmp(other.0))
        };
        // Sorting them all would take many times as long.
        if lines.len() > top && top > 0 {
            lines.select_nth_unstable_by(top - 1, longest_first);
        }
        lines.truncate(top);
        lines.sort_unstable_by(longest_first);
        Summary {
            turns: self.turns(),
            waiting: waiting.count(),
            workspaces: self.workspaces(),
            oldest: self.oldest_waiting(now),
            top: lines
                .into_iter()
                .map(|(workspace, line)| self.line_summary(now, workspace, line, next))
                .collect(),
        }
    }

    fn line_summary(
        &self,
        now: Instant,
        workspace: &Arc<str>,
        line: &Line,
        next: usize,
    ) -> LineSummary {
        let turns = || {
            let tickets = line.order.iter();
            tickets.filter_map(|ticket| self.turns.get(ticket))
        };
        let home = self.home_of(now, workspace);
        // One at a time may run, mostly the head: it is found at once.
        LineSummary {
            workspace: Arc::clone(workspace),
            turns: line.order.len(),
            paused: (turns().next()).is_some_and(|head| head.turn.is_paused_by(&self.paused)),
            running: turns().take(2).any(|held| runs(held, now)),
            oldest: turns().find(|held| !runs(held, now)).map(Oldest::of),
            next: turns()
                .take(next)
                .map(|held| Arc::clone(&held.turn.turn_id))
                .collect(),
            home: home.map(|(disk, _)| Arc::clone(&disk.host)),
            home_away: home.and_then(|(_, away)| away),
        }
    }
}

impl Oldest {
    fn of(held: &Held) -> Self {
        Self {
            received: held.received,
            enqueued_at: held.turn.enqueued_at,
        }
    }
}

fn runs(held: &Held, now: Instant) -> bool {
    held.seen.is_some_and(|seen| now < seen + REPEAT.first)
}
