//! Ends a sequencer that hangs: its connection would stay alive, since lapin
//! answers the broker's heartbeats by itself, and no other could take over.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::task::AbortHandle;
use tokio::time::sleep;

use crate::amqp::link::Link;
use crate::supervisor::{PartName, Supervisor};

/// A loop that has not come round for so long hangs: it wakes every second,
/// and waits only for acks, for 10 s at most.
const LIMIT: Duration = Duration::from_secs(30);

#[derive(Debug)]
pub(super) struct Watchdog {
    rounds: Arc<AtomicU64>,
    task: AbortHandle,
}

impl Watchdog {
    pub(super) fn start(link: Link, supervisor: &Supervisor) -> Self {
        let rounds = Arc::new(AtomicU64::new(0));
        let seen = Arc::clone(&rounds);
        let supervisor = supervisor.clone();
        let watching = async move {
            loop {
                let before = seen.load(Ordering::Relaxed);
                sleep(LIMIT).await;
                if seen.load(Ordering::Relaxed) == before {
                    tracing::error!("the sequencer hangs; hanging up so that another takes over");
                    link.hang_up();
                    return;
                }
            }
        };
        let task = tokio::spawn(async move {
            let _ = supervisor.guard(PartName::Watchdog, watching).await;
        });
        Self {
            rounds,
            task: task.abort_handle(),
        }
    }

    /// The loop has come round.
    pub(super) fn alive(&self) {
        self.rounds.fetch_add(1, Ordering::Relaxed);
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.task.abort();
    }
}
