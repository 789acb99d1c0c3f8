//! Why offered turns did not start here, for the next heartbeats: an operator
//! wants to know what a workspace waits for.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;

use crate::amqp::messages::{BlockedReport, Hindrance, MAX_BLOCKED};
use crate::request::TurnRequest;

/// A turn that is held up is re-offered within five minutes.
const KNOWN_FOR: Duration = Duration::from_secs(6 * 60);
/// Of a text with a path in it.
const MAX_DETAIL_CHARS: usize = 400;

/// Clones share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct BlockedTurns(Arc<Mutex<HashMap<String, (Instant, BlockedReport)>>>);

impl BlockedTurns {
    /// The turn was offered here and did not start.
    pub(crate) fn note(&self, request: &TurnRequest, why: Hindrance, detail: &str) {
        self.note_at(
            Instant::now(),
            request.workspace.as_str(),
            request.turn_id.as_str(),
            why,
            detail,
        );
    }

    fn note_at(&self, now: Instant, workspace: &str, turn_id: &str, why: Hindrance, detail: &str) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, (at, _)| now.duration_since(*at) < KNOWN_FOR);
        let before = all.get(workspace).map(|(_, report)| report);
        let before = before.filter(|report| report.turn_id == turn_id && report.why == why);
        let since = before.map_or_else(Timestamp::now, |report| report.since);
        if all.len() >= MAX_BLOCKED && !all.contains_key(workspace) {
            return;
        }
        let report = BlockedReport {
            workspace: workspace.to_owned(),
            turn_id: turn_id.to_owned(),
            why,
            detail: detail.chars().take(MAX_DETAIL_CHARS).collect(),
            since,
        };
        all.insert(workspace.to_owned(), (now, report));
    }

    /// A turn of that workspace has started here, or has ended.
    pub(crate) fn clear(&self, workspace: &str) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.remove(workspace);
    }

    /// For heartbeats.
    pub(crate) fn snapshot(&self) -> Vec<BlockedReport> {
        let now = Instant::now();
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = all
            .values()
            .filter(|(at, _)| now.duration_since(*at) < KNOWN_FOR);
        known.map(|(_, report)| report.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn g10_what_holds_turns_up_is_kept_bounded_and_since_it_was_first_found() {
        let blocked = BlockedTurns::default();
        let now = Instant::now();
        blocked.note_at(now, "a", "t", Hindrance::Locked, "one");
        let since = blocked.snapshot()[0].since;
        blocked.note_at(now, "a", "t", Hindrance::Locked, &"x".repeat(10_000));
        let report = &blocked.snapshot()[0];
        assert_eq!(
            (report.since, report.detail.len()),
            (since, MAX_DETAIL_CHARS)
        );
        for n in 0..2 * MAX_BLOCKED {
            blocked.note_at(now, &format!("w{n}"), "t", Hindrance::Records, "");
        }
        assert_eq!(blocked.snapshot().len(), MAX_BLOCKED);
        blocked.clear("a");
        assert_eq!(blocked.snapshot().len(), MAX_BLOCKED - 1);
        blocked.note_at(now + KNOWN_FOR, "b", "t", Hindrance::Records, "");
        assert_eq!(blocked.0.lock().unwrap().len(), 1);
    }
}
