//! A sequencer's sessions, one after another, and what happens between them.

use std::time::Instant;

use tokio::time::{MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;

use super::{Ended, Sequencer};
use crate::amqp::connect::Connector;
use crate::amqp::link::Link;
use crate::conditions::Condition;
use crate::error::with_sources;
use crate::heartbeat::HEARTBEAT;
use crate::http::SequencerState;
use crate::sequencer::queue::Queue;
use crate::sequencer::removal::{Removal, RemovalError};
use crate::sequencer::restarts::{Restarts, cause};
use crate::sequencer::undeliverable::{CrashCount, HeadState, is_crash};

impl Sequencer {
    /// Until `drain`: then it closes its connection at once, and the next
    /// process's sequencer takes over with everything that is unacked.
    pub async fn run(self, id: &str, drain: CancellationToken) {
        let mut queue = Queue::new(self.max_waiting, rand_seed()).with_guard(self.overtaking);
        if self.topology.is_local() {
            queue = queue.with_local_storage(Instant::now());
        }
        let connector = self.connector.named(format!("{id} sequencer"));
        let mut restarts = Restarts::default();
        let mut crashes = CrashCount::default();
        let mut first = true;
        while self.admitted(id, &drain).await
            && let Some(link) = connector.connect_with_backoff(&drain).await
        {
            let began = Instant::now();
            // A process that has seen no crash has no reason to ask.
            let ended = match crashes.any() {
                true => self.stand_back(&link).await,
                false => Ok(()),
            };
            let ended = match ended {
                Ok(()) => self.session(id, &link, &mut queue, first, &drain).await,
                Err(ended) => Err(ended),
            };
            first = false;
            let closed = cause(&link).await;
            // Never by cancelling the consumer: its successor would start before
            // the unacked deliveries are back, out of order (G1).
            link.close().await;
            queue.reset();
            self.health.set_sequencer(SequencerState::Absent);
            self.metrics.set_sequencer_active(false);
            self.metrics.set_backlog(None);
            self.metrics.set_workspaces_stuck(None);
            self.conditions.set(Condition::HomeAway, "", None);
            let Err(ended) = ended;
            let text = with_sources(&ended);
            match ended {
                Ended::Drain => return,
                Ended::TakeAgain => {
                    tracing::info!("the sequencer takes all turns again");
                    continue;
                }
                Ended::StandBack => {}
                _ => {
                    let crashed = is_crash(&text) || closed.as_deref().is_some_and(is_crash);
                    crashes.ended(crashed, began.elapsed());
                }
            }
            let pause = restarts.pause(began.elapsed(), closed, &text);
            tokio::select! {
                () = sleep(pause) => {}
                () = drain.cancelled() => return,
            }
            let isolating = connector.named(format!("{id} isolation"));
            self.attend_to_head(&mut crashes, &isolating, &drain).await;
        }
    }

    /// Another process removes a message, and no process may consume meanwhile.
    async fn stand_back(&self, link: &Link) -> Result<(), Ended> {
        match self.topology.turns_are_locked(link).await? {
            true => Err(Ended::StandBack),
            false => Ok(()),
        }
    }

    /// Alerts, and then removes the message at the head of `codex.turns`, if
    /// session after session crashes on it.
    async fn attend_to_head(
        &self,
        crashes: &mut CrashCount,
        connector: &Connector,
        drain: &CancellationToken,
    ) {
        let state = crashes.state();
        if state == HeadState::Deliverable {
            return;
        }
        let found = format!(
            "found a message at the head of {} that the broker cannot deliver (connections end with INTERNAL_ERROR), expected one that it can: it is searched for and removed, and recorded in {}",
            self.topology.turns, self.topology.dead
        );
        self.conditions
            .set(Condition::TurnUndeliverable, "", Some(found));
        // If the broker itself is the trouble, the other connections end, too.
        if state == HeadState::Suspicious || !self.actor.publisher.is_connected() {
            return;
        }
        let removal = self.remove_undeliverable(connector, drain).await;
        crashes.tried();
        match removal {
            Ok(Removal::Removed) => {
                self.conditions.set(Condition::TurnUndeliverable, "", None);
            }
            Ok(Removal::Elsewhere | Removal::NotFound) | Err(RemovalError::Drain) => {}
            Err(error) => tracing::error!(
                error = with_sources(&error),
                "can't remove the message that cannot be delivered yet"
            ),
        }
    }

    /// Waits until this process may take turns and has storage; false if drained before. Until
    /// then it only reports that it is there.
    async fn admitted(&self, id: &str, drain: &CancellationToken) -> bool {
        let host = &self.actor.records.host;
        let mut telling = interval(HEARTBEAT);
        telling.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let has_storage = !self.pool.is_without_storage();
            tokio::select! {
                biased;
                () = drain.cancelled() => return false,
                () = host.turns_barred(false), if has_storage => return true,
                _ = telling.tick() => self.report(id, None, false, None),
            }
        }
    }
}

/// Sequencers should not wait in step.
fn rand_seed() -> u64 {
    uuid::Uuid::new_v4().as_u64_pair().0
}
