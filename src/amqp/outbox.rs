//! Publishes events in order, keeps each until the broker has it, and makes
//! whoever produces them wait when the broker is slow.

mod queue;
mod session;

use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;
use tokio_util::sync::{CancellationToken, DropGuard};

use self::queue::Queue;
use self::session::{End, Session};
use super::connect::backoff;
use super::event_log::LogAlarm;
use super::pool::PublisherLink;
use crate::error::with_sources;
use crate::event::SealedEvent;

pub use self::queue::{Cut, WINDOW_BYTES, WINDOW_EVENTS};

/// What an [`Outbox`] tells the metrics.
pub trait OutboxMetrics: Send + Sync {
    /// The broker has an event of this kind; told once for each event.
    fn confirmed(&self, kind: &str, after: Duration) {
        let _ = (kind, after);
    }
    /// The broker refused an event; told each time.
    fn nacked(&self) {}
    /// An event was given up: the broker would never take it.
    fn abandoned(&self, kind: &str) {
        let _ = kind;
    }
}

impl OutboxMetrics for () {}

/// How an [`Outbox`] publishes.
#[derive(Clone)]
pub struct OutboxSettings {
    /// The topic exchange of the events.
    pub exchange: String,
    pub metrics: Arc<dyn OutboxMetrics>,
    /// After how many nacks in a row an event is given up. None: never, for it
    /// may be an ending; but then a single full queue of a reader (with
    /// `reject-publish`) holds up all turns.
    pub nack_limit: Option<u32>,
    /// Rung where events are not confirmed, if there is a log that may be why.
    pub alarm: LogAlarm,
}

/// The events of a turn on their way to the broker.
///
/// Dropped, it stops publishing; what is unconfirmed then is only in the
/// snapshot that the owner took. A connection that is lost, a nack, a confirm
/// that doesn't come: all lead to publishing again what is unconfirmed, in
/// order, over and over until `cut`.
pub struct Outbox {
    queue: Arc<Queue>,
    _stop: DropGuard,
}

impl Outbox {
    pub fn start(
        publisher: PublisherLink,
        settings: OutboxSettings,
        cut: &CancellationToken,
    ) -> Self {
        let queue = Arc::new(Queue::default());
        let cut = cut.child_token();
        tokio::spawn(publish(
            publisher,
            settings,
            Arc::clone(&queue),
            cut.clone(),
        ));
        Self {
            queue,
            _stop: cut.drop_guard(),
        }
    }

    /// Queues the event when there is room for it. Waiting here is what stops
    /// codex when the broker is slow.
    ///
    /// Cancel-safe: a call that is dropped before it returns has queued nothing.
    pub async fn push(&self, event: &SealedEvent) -> Result<(), Cut> {
        self.queue.push(event).await
    }

    /// Queues an ending, without waiting, beyond the window.
    pub fn push_final(&self, events: impl IntoIterator<Item = SealedEvent>) {
        self.queue.push_now(events);
    }

    /// What the broker has not confirmed, in order.
    pub fn unconfirmed(&self) -> Vec<SealedEvent> {
        self.queue.snapshot()
    }

    /// Completes when everything is confirmed.
    pub async fn drained(&self) -> Result<(), Cut> {
        self.queue.drained().await
    }
}

impl std::fmt::Debug for Outbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Outbox")
            .field("unconfirmed", &self.queue.len())
            .finish_non_exhaustive()
    }
}

/// One session on a channel after the other, for as long as there are events.
async fn publish(
    publisher: PublisherLink,
    settings: OutboxSettings,
    queue: Arc<Queue>,
    cut: CancellationToken,
) {
    let work = async {
        let mut delays = backoff();
        let mut nacks = 0;
        // After a session without a single confirm, events go one at a time
        // until one is confirmed: each repetition reaches the readers.
        let mut careful = false;
        let mut logged = None;
        loop {
            queue.not_empty().await;
            let Some(_) = publisher.ready().await else {
                return;
            };
            let (end, progress) = match publisher.lease().await {
                Ok(lease) => {
                    let mut session = Session::new(lease, &queue, &settings, careful);
                    let end = session.run().await;
                    let progress = session.has_progress();
                    if let End::Drained = end {
                        session.finish();
                    }
                    (end, progress)
                }
                Err(error) => (End::Lost(with_sources(&error)), false),
            };
            if progress {
                delays = backoff();
                nacks = 0;
                logged = None;
            }
            match end {
                End::Drained => {
                    careful = false;
                    continue;
                }
                End::Lost(reason) => {
                    if logged.as_ref() != Some(&reason) {
                        tracing::warn!(reason, "events are not confirmed, publishing them again");
                        logged = Some(reason);
                    }
                }
                End::Unconfirmed => {
                    tracing::warn!("events are not confirmed in time, publishing them again");
                    settings.alarm.ring();
                }
                End::Nacked => {
                    nacks += 1;
                    settings.alarm.ring();
                    settings.metrics.nacked();
                    tracing::warn!(
                        nacks,
                        "the broker refused an event (nack), publishing it again"
                    );
                    if settings.nack_limit.is_some_and(|limit| nacks >= limit) {
                        abandon(&queue, &settings, "refused by the broker too often");
                        nacks = 0;
                    }
                }
                // Alone on its channel, it is the one that was meant.
                End::TooLarge(reason) if careful => shorten(&queue, &settings, &reason),
                End::TooLarge(_) => {}
            }
            careful = !progress;
            sleep(delays.next().unwrap_or_default()).await;
        }
    };
    tokio::select! {
        () = work => {}
        () = cut.cancelled() => {}
    }
    queue.cut();
}

/// Says less, where all of it is too much for the broker.
fn shorten(queue: &Queue, settings: &OutboxSettings, reason: &str) {
    let Some(event) = queue.get(0) else { return };
    let Some(short) = event.shortened() else {
        return abandon(queue, settings, reason);
    };
    tracing::error!(
        event = event.message_id(),
        kind = event.kind,
        bytes = event.json.len(),
        reason,
        "left out what is too large for the broker"
    );
    queue.replace_oldest(short);
}

/// Lets an event go that would hold up the turn for ever.
fn abandon(queue: &Queue, settings: &OutboxSettings, reason: &str) {
    if let Some(event) = queue.pop() {
        tracing::error!(
            event = event.message_id(),
            bytes = event.json.len(),
            reason,
            "gave an event up: its readers will miss it"
        );
        settings.metrics.abandoned(&event.kind);
    }
}
