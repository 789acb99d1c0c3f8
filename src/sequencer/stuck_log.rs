//! Logs each workspace that gets stuck, once, with what workers say of it.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::queue::StuckTurn;
use crate::amqp::messages::BlockedTold;

/// A worker reports with every heartbeat what has held a turn up lately.
const KNOWN_FOR: Duration = Duration::from_secs(60);
/// Of workers' reports, and of what was logged.
const MOST: usize = 1_000;

#[derive(Debug, Default)]
pub(super) struct StuckLog {
    /// By workspace.
    reported: HashMap<String, (Instant, BlockedTold)>,
    logged: HashSet<(Arc<str>, Arc<str>)>,
}

impl StuckLog {
    pub fn heard(&mut self, now: Instant, blocked: Vec<BlockedTold>) {
        for told in blocked {
            if self.reported.len() >= MOST {
                self.reported
                    .retain(|_, (at, _)| now.duration_since(*at) < KNOWN_FOR);
            }
            if self.reported.len() < MOST {
                self.reported.insert(told.workspace.clone(), (now, told));
            }
        }
    }

    pub fn log(&mut self, now: Instant, stuck: &[StuckTurn]) {
        let key = |one: &StuckTurn| (Arc::clone(&one.workspace), Arc::clone(&one.turn_id));
        let all: HashSet<_> = stuck.iter().map(key).collect();
        self.logged.retain(|known| {
            let (workspace, turn_id) = known;
            let over = !all.contains(known);
            if over {
                let (turn_id, workspace) = (&**turn_id, &**workspace);
                tracing::info!(turn_id, workspace, "the workspace is not stuck any more");
            }
            !over
        });
        for one in stuck {
            if self.logged.len() >= MOST || !self.logged.insert(key(one)) {
                continue;
            }
            let told = self.reported.get(&*one.workspace);
            let told = told.filter(|(at, _)| now.duration_since(*at) < KNOWN_FOR);
            tracing::warn!(
                turn_id = &*one.turn_id,
                workspace = &*one.workspace,
                waited_s = one.lasts.as_secs(),
                why = told.map(|(_, told)| told.detail.as_str()),
                "a workspace is stuck: its first turn was offered and does not start, though slots are free"
            );
        }
    }
}
