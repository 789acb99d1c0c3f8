//! Logs each workspace that gets stuck, once, with what workers say of it.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::queue::StuckTurn;
use crate::amqp::messages::BlockedReport;

/// A worker reports with every heartbeat what has held a turn up lately.
const KNOWN_FOR: Duration = Duration::from_secs(60);
/// Of workers' reports, and of what was logged.
const MOST: usize = 1_000;

/// Workspace and turn.
type StuckKey = (Arc<str>, Arc<str>);

#[derive(Debug, Default)]
pub(super) struct StuckLog {
    /// By workspace.
    reported: HashMap<String, (Instant, BlockedReport)>,
    logged: HashSet<StuckKey>,
}

impl StuckLog {
    pub(super) fn heard(&mut self, now: Instant, blocked: Vec<BlockedReport>) {
        for report in blocked {
            if self.reported.len() >= MOST {
                self.reported
                    .retain(|_, (at, _)| now.duration_since(*at) < KNOWN_FOR);
            }
            if self.reported.len() < MOST {
                self.reported
                    .insert(report.workspace.clone(), (now, report));
            }
        }
    }

    pub(super) fn log(&mut self, now: Instant, stuck: &[StuckTurn]) {
        for (workspace, turn_id) in self.over(stuck) {
            let (turn_id, workspace) = (&*turn_id, &*workspace);
            tracing::info!(turn_id, workspace, "the workspace is not stuck any more");
        }
        for one in self.begun(stuck) {
            tracing::warn!(
                turn_id = &*one.turn_id,
                workspace = &*one.workspace,
                waited_s = one.lasts.as_secs(),
                why = self.why(now, one),
                "a workspace is stuck: its first turn was offered and does not start, though slots are free"
            );
        }
    }

    fn over(&mut self, stuck: &[StuckTurn]) -> Vec<StuckKey> {
        let all: HashSet<_> = stuck.iter().map(key).collect();
        self.logged.extract_if(|one| !all.contains(one)).collect()
    }

    fn begun<'a>(&mut self, stuck: &'a [StuckTurn]) -> Vec<&'a StuckTurn> {
        let new = stuck
            .iter()
            .filter(|one| self.logged.len() < MOST && self.logged.insert(key(one)));
        new.collect()
    }

    /// As a worker has reported it lately.
    fn why(&self, now: Instant, stuck: &StuckTurn) -> Option<&str> {
        let (at, report) = self.reported.get(&*stuck.workspace)?;
        (now.duration_since(*at) < KNOWN_FOR).then_some(&report.detail)
    }
}

fn key(stuck: &StuckTurn) -> StuckKey {
    (Arc::clone(&stuck.workspace), Arc::clone(&stuck.turn_id))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::amqp::messages::Hindrance;

    #[test]
    fn a_stuck_workspace_is_logged_once_with_a_workers_words() {
        let mut log = StuckLog::default();
        let now = Instant::now();
        let stuck = [StuckTurn {
            workspace: "a".into(),
            turn_id: "t".into(),
            lasts: Duration::from_secs(300),
        }];
        assert_eq!(log.begun(&stuck).len(), 1);
        assert_eq!(log.begun(&stuck).len(), 0);
        assert_eq!(log.why(now, &stuck[0]), None);
        let report = BlockedReport {
            workspace: "a".to_owned(),
            turn_id: "t".to_owned(),
            why: Hindrance::Locked,
            detail: "locked by process 912".to_owned(),
            since: jiff::Timestamp::UNIX_EPOCH,
        };
        log.heard(now, vec![report.clone(); 2 * MOST]);
        assert_eq!(log.why(now, &stuck[0]), Some("locked by process 912"));
        assert_eq!(log.why(now + KNOWN_FOR, &stuck[0]), None);
        assert_eq!(log.over(&stuck), []);
        assert_eq!(log.over(&[]).len(), 1);
        assert_eq!(log.begun(&stuck).len(), 1);
    }
}
