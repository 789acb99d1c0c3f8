//! Publishes events in order, keeps each until the broker has it, and makes
//! their producers wait when the broker is slow.

mod attempt_check;
mod queue;
mod session;

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::time::sleep;
use tokio_util::sync::{CancellationToken, DropGuard};

use self::attempt_check::AttemptChecks;
use self::queue::Queue;
use self::session::{End, Pace, Session};
use super::connect::backoff;
use super::event_log::LogAlarm;
use super::link::Link;
use super::pool::PublisherLink;
use crate::error::with_sources;
use crate::event::SealedEvent;
use crate::fault;

pub use self::attempt_check::AttemptCheck;
pub use self::queue::{Cut, WINDOW_BYTES, WINDOW_EVENTS};

/// How long an event that the broker refused (nack) waits before it is
/// published again, by how often it was refused; then it is dropped.
///
/// The broker refuses an event when a single queue that it goes to refuses it,
/// such as a reader's full queue with `reject-publish`; all other queues have
/// it then. A neighbour's queue must not hold up a turn, so all of this together
/// stays below a second.
const REFUSED_AGAIN: [Duration; 3] = [
    Duration::from_millis(100),
    Duration::from_millis(200),
    Duration::from_millis(400),
];

/// How often an event is published before it is dropped for being refused.
pub const REFUSAL_LIMIT: u32 = REFUSED_AGAIN.len() as u32 + 1;

/// Why an event was dropped: its readers miss it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DropReason {
    /// The broker refused it (nack).
    Refused,
    /// It is larger than the broker takes, and could not be shortened.
    TooLarge,
}

impl DropReason {
    pub const ALL: [Self; 2] = [Self::Refused, Self::TooLarge];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::TooLarge => "too_large",
        }
    }
}

/// Why the events of a turn wait.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HoldUp {
    /// They were published, or could not be, and are not confirmed.
    Unconfirmed,
    /// The broker refuses them for good, such as by a missing permission.
    Forbidden(String),
}

/// What an [`Outbox`] reports to the metrics.
pub trait OutboxMetrics: Send + Sync {
    /// The broker has an event of this kind; called once for each event.
    fn confirmed(&self, kind: &str, after: Duration) {
        let _ = (kind, after);
    }
    /// The broker refused an event; called each time.
    fn nacked(&self) {}
    /// An event was dropped.
    fn dropped(&self, kind: &str, reason: DropReason) {
        let _ = (kind, reason);
    }
    /// What holds up the events of a turn has changed.
    fn held_up(&self, before: Option<&HoldUp>, now: Option<&HoldUp>) {
        let _ = (before, now);
    }
}

impl OutboxMetrics for () {}

/// How an [`Outbox`] publishes.
#[derive(Clone)]
pub struct OutboxSettings {
    /// The topic exchange of the events.
    pub exchange: String,
    pub metrics: Arc<dyn OutboxMetrics>,
    /// How often an event is published while it is refused: [`REFUSAL_LIMIT`].
    pub refusal_limit: u32,
    /// Rung where events are not confirmed, if there is a log that may be why.
    pub alarm: LogAlarm,
}

/// The events of a turn on their way to the broker.
///
/// Dropped, it stops publishing; what is unconfirmed then is only in the
/// snapshot that the owner took. A connection that is lost, a nack, a confirm
/// that doesn't come: all lead to publishing again what is unconfirmed, in
/// order, until `cut`. Only what is refused over and over is dropped.
pub struct Outbox {
    queue: Arc<Queue>,
    _stop: DropGuard,
}

/// Lets all who wait for the queue go on when its publishing is over, also by a panic.
struct CutAtEnd(Arc<Queue>);

impl Drop for CutAtEnd {
    fn drop(&mut self) {
        self.0.cut(std::thread::panicking());
    }
}

impl Outbox {
    /// Of events that are published regardless of lost connections.
    pub fn start(
        publisher: PublisherLink,
        settings: OutboxSettings,
        cut: &CancellationToken,
    ) -> Self {
        Self::start_all(publisher, settings, None, cut)
    }

    /// Of events of an attempt: after a lost connection, publishing stops
    /// before `check` finds that it is still the newest. If it is not, the
    /// publishing ends.
    pub fn of_attempt(
        publisher: PublisherLink,
        settings: OutboxSettings,
        check: Arc<dyn AttemptCheck>,
        cut: &CancellationToken,
    ) -> Self {
        Self::start_all(publisher, settings, Some(check), cut)
    }

    fn start_all(
        publisher: PublisherLink,
        settings: OutboxSettings,
        check: Option<Arc<dyn AttemptCheck>>,
        cut: &CancellationToken,
    ) -> Self {
        let queue = Arc::new(Queue::default());
        let cut = cut.child_token();
        let (published, until) = (CutAtEnd(Arc::clone(&queue)), cut.clone());
        let known_on = publisher.link().as_ref().map(Link::downgrade);
        tokio::spawn(async move {
            let queue = &*published.0;
            let checks = AttemptChecks::new(check, queue, known_on);
            publish(publisher, settings, queue, checks, until).await;
        });
        Self {
            queue,
            _stop: cut.drop_guard(),
        }
    }

    /// Queues the event when there is room for it. Waiting here is what stops
    /// codex when the broker is slow.
    ///
    /// Cancel-safe: a call that is dropped before it returns has not queued an event.
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

    /// Whether publishing has panicked, so publishing has ended.
    pub fn has_failed(&self) -> bool {
        self.queue.has_failed()
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
    queue: &Queue,
    checks: AttemptChecks<'_>,
    cut: CancellationToken,
) {
    let work = Publishing::new(&publisher, &settings, queue, checks).run();
    tokio::select! {
        () = work => {}
        () = cut.cancelled() => {}
    }
}

/// What is known from one session to the next.
struct Publishing<'a> {
    publisher: &'a PublisherLink,
    settings: &'a OutboxSettings,
    queue: &'a Queue,
    checks: AttemptChecks<'a>,
    pace: Pace,
    /// Of the oldest event, in a row.
    refusals: u32,
    logged: Option<String>,
    held_up: HeldUp<'a>,
}

impl<'a> Publishing<'a> {
    fn new(
        publisher: &'a PublisherLink,
        settings: &'a OutboxSettings,
        queue: &'a Queue,
        checks: AttemptChecks<'a>,
    ) -> Self {
        Self {
            publisher,
            settings,
            queue,
            checks,
            pace: Pace::Window,
            refusals: 0,
            logged: None,
            held_up: HeldUp {
                metrics: &*settings.metrics,
                by: None,
            },
        }
    }

    /// Until the publisher is shut down, or the attempt is outdated.
    async fn run(mut self) {
        let mut delays = backoff();
        loop {
            self.queue.not_empty().await;
            fault::at("outbox.publishes");
            let Some(link) = self.ready().await else {
                return;
            };
            if !self.checks.are_done_on(&link) && !self.checks.look_on(&link).await {
                return;
            }
            drop(link);
            let (end, progress) = self.session().await;
            if progress {
                delays = backoff();
                self.refusals = 0;
                self.logged = None;
                self.held_up.set(None);
            }
            match end {
                End::Drained => {
                    self.held_up.set(None);
                    continue;
                }
                End::Nacked => {
                    delays = backoff();
                    self.refused().await;
                    continue;
                }
                End::Forbidden(reason) => {
                    self.not_confirmed(&reason);
                    self.held_up.set(Some(HoldUp::Forbidden(reason)));
                }
                End::Lost(reason) => {
                    self.not_confirmed(&reason);
                    self.held_up.set(Some(HoldUp::Unconfirmed));
                }
                End::Outdated => return,
                End::Unconfirmed => {
                    self.checks.forget();
                    tracing::warn!("events are not confirmed in time, publishing them again");
                    self.settings.alarm.ring();
                    self.held_up.set(Some(HoldUp::Unconfirmed));
                }
                // Alone on its channel, it is the one that was meant.
                End::TooLarge(reason) if self.pace == Pace::Single => {
                    shorten(self.queue, self.settings, &reason);
                }
                End::TooLarge(_) => {}
            }
            // Each repetition reaches the readers.
            self.pace = match progress {
                true => Pace::Window,
                false => Pace::Single,
            };
            sleep(delays.next().unwrap_or_default()).await;
        }
    }

    /// Waits for a connection that takes publishes; `None` once shut down.
    async fn ready(&mut self) -> Option<Link> {
        let mut ready = std::pin::pin!(self.publisher.ready());
        match ready.as_mut().now_or_never() {
            Some(link) => link,
            None => {
                if self.held_up.by.is_none() {
                    self.held_up.set(Some(HoldUp::Unconfirmed));
                }
                ready.await
            }
        }
    }

    /// Why it ended, and whether at least one event was confirmed.
    async fn session(&mut self) -> (End, bool) {
        let lease = match self.publisher.lease().await {
            Ok(lease) => lease,
            Err(error) => return (End::Lost(with_sources(&error)), false),
        };
        if !self.checks.are_done_on(&lease.link) {
            return (End::Lost("the connection was replaced".to_owned()), false);
        }
        let mut session = Session::new(lease, self.queue, self.settings, &self.checks, self.pace);
        let end = session.run().await;
        self.pace = session.pace();
        let progress = session.has_progress();
        if let End::Drained = end {
            session.finish();
        }
        (end, progress)
    }

    /// The oldest event was refused: it is published again, alone, or dropped.
    async fn refused(&mut self) {
        self.settings.metrics.nacked();
        self.settings.alarm.ring();
        self.refusals += 1;
        if self.refusals >= self.settings.refusal_limit {
            drop_refused(self.queue, self.settings);
            self.refusals = 0;
            // What refused it refuses the next ones, too.
            self.pace = Pace::OneTry;
            return;
        }
        if self.refusals == 1 {
            tracing::warn!("the broker refused an event (nack), publishing it again");
        }
        self.pace = Pace::Single;
        let nth = usize::try_from(self.refusals).unwrap_or(usize::MAX) - 1;
        sleep(REFUSED_AGAIN[nth.min(REFUSED_AGAIN.len() - 1)]).await;
    }

    fn not_confirmed(&mut self, reason: &str) {
        if self.logged.as_deref() != Some(reason) {
            tracing::warn!(reason, "events are not confirmed, publishing them again");
            self.logged = Some(reason.to_owned());
        }
    }
}

/// Reports what holds a turn's events up, until that or the outbox ends.
struct HeldUp<'a> {
    metrics: &'a dyn OutboxMetrics,
    by: Option<HoldUp>,
}

impl HeldUp<'_> {
    fn set(&mut self, now: Option<HoldUp>) {
        if self.by != now {
            self.metrics.held_up(self.by.as_ref(), now.as_ref());
            self.by = now;
        }
    }
}

impl Drop for HeldUp<'_> {
    fn drop(&mut self) {
        self.set(None);
    }
}

/// Says less, where all of it is too much for the broker.
fn shorten(queue: &Queue, settings: &OutboxSettings, reason: &str) {
    let Some(event) = queue.get(0) else { return };
    let Some(short) = event.shortened() else {
        return drop_oldest(queue, settings, DropReason::TooLarge, reason);
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

fn drop_refused(queue: &Queue, settings: &OutboxSettings) {
    let detail = "the broker refused it (nack): a queue that is bound to the events is full \
                  or failed, and its reader misses the event";
    drop_oldest(queue, settings, DropReason::Refused, detail);
}

/// Lets an event go that would hold up the turn for ever.
fn drop_oldest(queue: &Queue, settings: &OutboxSettings, reason: DropReason, detail: &str) {
    if let Some(event) = queue.pop() {
        tracing::error!(
            event = event.message_id(),
            kind = event.kind,
            bytes = event.json.len(),
            reason = reason.as_str(),
            detail,
            "dropped an event"
        );
        settings.metrics.dropped(&event.kind, reason);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn g10_a_refused_event_holds_up_the_next_for_less_than_a_second() {
        let waits: Duration = REFUSED_AGAIN.iter().sum();
        assert!(waits <= Duration::from_millis(700), "{waits:?}");
    }
}
