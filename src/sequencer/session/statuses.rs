//! Status messages of workers and other sequencers, as a session hears them.

use std::time::Instant;

use super::Session;
use crate::amqp::consume::{Delivery, SettleError};
use crate::amqp::messages::{About, DeclineReason, Decoded, MAX_IDLE, Running, Status};
use crate::error::with_sources;
use crate::fault;
use crate::metrics::OfferAnswer;
use crate::sequencer::peers::PeerReport;
use crate::sequencer::queue::WorkerReport;

impl Session<'_> {
    pub(super) async fn status(&mut self, delivery: Delivery) -> Result<(), SettleError> {
        let now = Instant::now();
        match Status::decode(&delivery.body) {
            Ok(Decoded::Known(Status::Done {
                workspace,
                turn_id,
                worker,
                warm,
                journal,
            })) => {
                fault::at("sequencer.done");
                if let Some(end) = journal {
                    self.sequencer.pool.note_journal_end(&workspace, end);
                }
                let (queue, out) = (&mut *self.queue, &mut self.out);
                queue.served(now, &workspace, &turn_id, &worker, warm);
                // Heads that wait for a slot there came first.
                queue.use_room(now, &worker, out);
                queue.done(now, &workspace, &turn_id, out);
            }
            Ok(Decoded::Known(Status::Taken {
                workspace,
                turn_id,
                worker,
            })) => {
                self.sequencer.metrics.offer_answered(OfferAnswer::Taken);
                let (queue, out) = (&mut *self.queue, &mut self.out);
                queue.offer_taken(now, &workspace, &turn_id, &worker, out);
            }
            Ok(Decoded::Known(Status::Declined {
                workspace,
                turn_id,
                worker,
                why,
            })) => {
                // Of a requeued one, the answer is counted already.
                if why != DeclineReason::Requeued.as_str() {
                    self.sequencer.metrics.offer_answered(OfferAnswer::Declined);
                }
                tracing::debug!(turn_id, workspace, worker, why, "an offer was declined");
                let (queue, out) = (&mut *self.queue, &mut self.out);
                queue.offer_declined(now, &workspace, &turn_id, &worker, out);
            }
            Ok(Decoded::Known(Status::Heartbeat {
                worker,
                slots,
                running,
                about,
                ..
            })) => {
                self.heartbeat(now, &worker, slots, &running, &about);
                self.stuck.heard(now, about.blocked);
            }
            Ok(Decoded::Known(Status::Sequencer {
                process,
                active,
                describes,
                homes,
                pool,
                ..
            })) => {
                let report = PeerReport {
                    active,
                    describes,
                    // One that stands back has storage, too, and takes no turns.
                    has_storage: pool.is_some_and(|pool| {
                        pool.holds_lock
                            && !pool.stands_back
                            && pool.root == self.sequencer.pool.root()
                    }),
                };
                self.heed_active(&process, homes);
                self.peers.heard(now, process, report);
            }
            Ok(Decoded::Known(Status::Recorded { nonce, answer })) => {
                self.sequencer.actor.asking.answered(nonce, answer);
            }
            Ok(Decoded::Known(Status::Pool { .. })) => {}
            Ok(Decoded::Unknown(what)) => tracing::debug!(what, "unknown status message"),
            Err(error) => tracing::warn!(error = with_sources(&error), "ignored a status message"),
        }
        delivery.ack().await
    }

    /// Without storage no turn can be looked up, so none would be offered. A single look may
    /// come while the lock is taken again.
    pub(super) fn should_hand_over(&mut self) -> bool {
        const LOOKS: u32 = 2;
        let can = self.active && self.sequencer.pool.is_without_storage();
        let should = can && self.peers.any_with_storage(Instant::now());
        self.looks_without_storage = match should {
            true => self.looks_without_storage + 1,
            false => 0,
        };
        self.looks_without_storage >= LOOKS
    }

    fn heartbeat(
        &mut self,
        now: Instant,
        worker: &str,
        slots: u32,
        running: &[Running],
        about: &About,
    ) {
        let sequencer = self.sequencer;
        let root = about.pool.as_ref().map(|pool| pool.root);
        let running = running.iter();
        let running: Vec<(&str, &str)> = running
            .map(|turn| (&*turn.workspace, &*turn.turn_id))
            .collect();
        let idle: Vec<&str> = about
            .idle
            .iter()
            .take(MAX_IDLE)
            .map(|name| &**name)
            .collect();
        let is_serving = !about.draining && about.lacks.is_empty();
        let report = WorkerReport {
            worker,
            slots: usize::try_from(slots).unwrap_or(usize::MAX),
            serves: is_serving,
            offers_to: (about.offers_to.as_deref())
                .filter(|queue| is_serving && sequencer.topology.is_private_work(queue)),
            running: &running,
            idle: &idle,
            idle_is_cut: about.idle.len() >= MAX_IDLE,
            answers: about.answers_offers,
            disk: about.pool.as_ref().and_then(|pool| pool.disk.as_ref()),
        };
        // Workspaces of another root have the same names.
        if root.is_none_or(|root| root == sequencer.pool.root()) {
            self.queue.worker_heard(now, &report, &mut self.out);
        }
        self.queue.heartbeat(now, running, &mut self.out);
    }
}
