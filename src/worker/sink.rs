//! A turn's events go to its outbox, what can't be accepted to the dead queue.

use std::time::Duration;

use super::running::Entry;
use super::{Shutdown, Worker};
use crate::amqp::dead_letter::Refusal;
use crate::amqp::messages::Offer;
use crate::amqp::outbox::Outbox;
use crate::codex::engine::Engine;
use crate::event::{SealedEvent, Tokens, TurnError};
use crate::turn::EventSink;

pub(super) struct OutboxSink<'a, E> {
    pub worker: &'a Worker<E>,
    pub offer: &'a Offer,
    pub shutdown: &'a Shutdown,
    pub outbox: &'a Outbox,
    pub entry: &'a Entry,
    pub tenant: Option<&'a str>,
    /// Before it was taken, as the producer's clock has it.
    pub waited: Option<Duration>,
}

impl<E: Engine> EventSink for OutboxSink<'_, E> {
    async fn push(&self, event: &SealedEvent) {
        self.entry.in_attempt(event.attempt);
        if (event.attempt, event.seq) == (1, 0)
            && let Some(waited) = self.waited
        {
            self.worker.metrics.queue_waited(self.tenant, waited);
        }
        if self.outbox.push(event).await.is_err() {
            // A part of the turn has died, and so does the turn: see `serve_offer`.
            assert!(
                !self.outbox.has_failed(),
                "publishing the turn's events panicked"
            );
            // Publishing has ended: the worker is being cut off, or the
            // attempt is outdated, and this turn hears of that by its stop handle.
            std::future::pending().await
        }
    }

    fn push_final(&self, events: &[SealedEvent]) {
        self.outbox.push_final(events.iter().cloned());
    }

    fn unconfirmed(&self) -> Vec<SealedEvent> {
        self.outbox.unconfirmed()
    }

    fn spent(&self, so_far: Tokens) {
        self.entry.spent(so_far);
    }

    async fn refuse(&self, error: &TurnError) -> bool {
        let refusal = Refusal {
            request: self.offer.request.get().as_bytes(),
            turn_id: Some(self.entry.turn_id()),
            code: error.code,
            message: &error.message,
        };
        let keeping = self.worker.keep_rejected(refusal, self.shutdown);
        keeping.await
    }
}
