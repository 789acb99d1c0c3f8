//! A turn's events go to its outbox.

use jiff::Timestamp;

use super::running::Entry;
use crate::amqp::outbox::Outbox;
use crate::event::SealedEvent;
use crate::metrics::Metrics;
use crate::turn::EventSink;

pub(super) struct OutboxSink<'a> {
    pub outbox: &'a Outbox,
    pub entry: &'a Entry,
    pub metrics: &'a Metrics,
    /// As the producer says, if it does.
    pub enqueued_at: Option<Timestamp>,
}

impl EventSink for OutboxSink<'_> {
    async fn push(&self, event: &SealedEvent) {
        self.entry.in_attempt(event.attempt);
        if (event.attempt, event.seq) == (1, 0)
            && let Some(enqueued_at) = self.enqueued_at
        {
            self.metrics.queue_waited(enqueued_at, Timestamp::now());
        }
        if self.outbox.push(event).await.is_err() {
            // Nothing is published any more: the worker is being cut off, and
            // this turn hears of that by its stop handle.
            std::future::pending().await
        }
    }

    fn push_final(&self, events: &[SealedEvent]) {
        self.outbox.push_final(events.iter().cloned());
    }

    fn unconfirmed(&self) -> Vec<SealedEvent> {
        self.outbox.unconfirmed()
    }
}
