//! Publishes the queue over one channel, until all is confirmed or something
//! goes wrong.

use std::collections::VecDeque;
use std::time::Duration;

use futures_util::FutureExt;
use lapin::options::BasicPublishOptions;
use lapin::types::FieldTable;
use lapin::{BasicProperties, Confirmation, ErrorKind, PublisherConfirm};
use tokio::time::{Instant, sleep_until, timeout};

use super::attempt_check::AttemptChecks;
use super::queue::Queue;
use super::{OutboxSettings, drop_refused};
use crate::amqp::event_log::{FILTER_VALUE, text};
use crate::amqp::pool::Lease;
use crate::amqp::publish::{CONFIRM_LIMIT, PublishError, json_properties, short, trace_headers};
use crate::error::with_sources;
use crate::event::SealedEvent;

/// Why a session is over.
#[derive(Debug)]
pub(super) enum End {
    /// Everything is confirmed.
    Drained,
    /// The channel or its connection is not usable any more.
    Lost(String),
    /// There is no such exchange, or the user may not publish to it.
    Forbidden(String),
    /// The broker lives, and did not confirm in time.
    Unconfirmed,
    /// The broker refused the oldest event.
    Nacked,
    /// A newer attempt at the turn has started.
    Outdated,
    /// The broker takes no message of this size. With several events in
    /// flight, it is not known which was meant.
    TooLarge(String),
}

/// How much is published before an answer comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pace {
    /// All that the queue holds.
    Window,
    /// One event at a time, until one is confirmed: then `Window`.
    Single,
    /// All that the queue holds; what is refused is dropped at once, except for
    /// the end of the turn. Once an event is confirmed: `Window`.
    OneTry,
}

/// A connection that is silent for so long may be a host that is cut off: after
/// as long without a heartbeat the turn is re-offered.
const LATE: Duration = Duration::from_secs(10);

/// The type of the event that ends a turn.
const LAST: &str = "message_end";

pub(super) struct Session<'a> {
    lease: Lease,
    queue: &'a Queue,
    settings: &'a OutboxSettings,
    checks: &'a AttemptChecks<'a>,
    /// Published here and not confirmed: the oldest events of the queue.
    in_flight: VecDeque<InFlight>,
    pace: Pace,
    progress: bool,
    /// A confirm was late.
    late: bool,
    /// When the broker last confirmed something, or let publish again.
    last_answer: Instant,
}

struct InFlight {
    confirm: PublisherConfirm,
    since: Instant,
}

impl<'a> Session<'a> {
    pub(super) fn new(
        lease: Lease,
        queue: &'a Queue,
        settings: &'a OutboxSettings,
        checks: &'a AttemptChecks<'a>,
        pace: Pace,
    ) -> Self {
        Self {
            lease,
            queue,
            settings,
            checks,
            in_flight: VecDeque::new(),
            pace,
            progress: false,
            late: false,
            last_answer: Instant::now(),
        }
    }

    /// Whether at least one event was confirmed.
    pub(super) fn has_progress(&self) -> bool {
        self.progress
    }

    pub(super) fn pace(&self) -> Pace {
        self.pace
    }

    /// Gives the channel back.
    pub(super) fn finish(self) {
        self.lease.give_back();
    }

    pub(super) async fn run(&mut self) -> End {
        loop {
            if std::mem::take(&mut self.late) && !self.checks.is_newest().await {
                return End::Outdated;
            }
            if let Err(end) = self.publish_what_may_go().await {
                return end;
            }
            if self.in_flight.is_empty() {
                return End::Drained;
            }
            if let Err(end) = self.wait().await {
                return end;
            }
        }
    }

    fn may_publish(&self) -> bool {
        self.pace != Pace::Single || self.in_flight.is_empty()
    }

    async fn publish_what_may_go(&mut self) -> Result<(), End> {
        while self.may_publish()
            && let Some(event) = self.queue.get(self.in_flight.len())
        {
            // Not beside anything else: a publish that is dropped half-way is
            // sent nevertheless, and its confirm is lost.
            let confirm = self.publish(&event).await?;
            self.in_flight.push_back(InFlight {
                confirm,
                since: Instant::now(),
            });
        }
        Ok(())
    }

    async fn publish(&self, event: &SealedEvent) -> Result<PublisherConfirm, End> {
        let lost = |error: PublishError| End::Lost(with_sources(&error));
        let exchange = short("exchange name", &self.settings.exchange).map_err(lost)?;
        let key = short("turn id", &event.turn_id).map_err(lost)?;
        let properties = properties(event).map_err(lost)?;
        let mut publish = std::pin::pin!(self.lease.channel.basic_publish(
            exchange,
            key,
            BasicPublishOptions::default(),
            event.json.as_bytes(),
            properties,
        ));
        loop {
            let link = &self.lease.link;
            match timeout(CONFIRM_LIMIT, publish.as_mut()).await {
                Ok(result) => return result.map_err(ended),
                // The broker asked for it; a new channel would not help.
                Err(_) if link.is_blocked() => link.unblocked().await,
                Err(_) if link.unblocked_since(CONFIRM_LIMIT) => {}
                Err(_) => {
                    return Err(End::Lost(format!(
                        "no publish went out within {} s",
                        CONFIRM_LIMIT.as_secs()
                    )));
                }
            }
        }
    }

    /// Waits for the oldest confirm, or for more that may go out.
    async fn wait(&mut self) -> Result<(), End> {
        let in_flight = self.in_flight.len();
        let may_publish = self.may_publish();
        let Some(oldest) = self.in_flight.front_mut() else {
            return Ok(());
        };
        let link = &self.lease.link;
        let last_answer = oldest.since.max(self.last_answer);
        tokio::select! {
            biased;
            confirmation = &mut oldest.confirm => self.take_confirmed(confirmation)?,
            () = self.queue.longer_than(in_flight), if may_publish => {}
            reason = link.closed() => return Err(End::Lost(reason)),
            () = sleep_until(last_answer + CONFIRM_LIMIT) => {
                // A blocked broker confirms nothing; the time starts when it
                // lets publish again, which may be just now.
                if link.is_blocked() {
                    link.unblocked().await;
                    self.last_answer = Instant::now();
                } else if let Some(unblocked) = link.last_unblocked()
                    && unblocked > last_answer
                {
                    self.last_answer = unblocked;
                } else {
                    return Err(End::Unconfirmed);
                }
            }
        }
        Ok(())
    }
}

impl Session<'_> {
    /// Takes the oldest event's confirm, and those that have come with it: the
    /// broker confirms many at a time, and a task that waits for room is better
    /// woken once for all of them.
    fn take_confirmed(&mut self, oldest: lapin::Result<Confirmation>) -> Result<(), End> {
        let mut next = Some(oldest);
        while let Some(confirmation) = next {
            let Some(InFlight { since, .. }) = self.in_flight.pop_front() else {
                break;
            };
            match confirmation.map_err(ended)? {
                Confirmation::Ack(_) => {
                    let event = self.queue.pop();
                    let kind = event.as_ref().map_or("", |event| event.kind.as_str());
                    self.settings.metrics.confirmed(kind, since.elapsed());
                    self.late |= since.elapsed() >= LATE;
                    self.progress = true;
                    self.pace = Pace::Window;
                }
                Confirmation::Nack(_) if self.pace == Pace::OneTry && !self.is_last() => {
                    self.settings.metrics.nacked();
                    drop_refused(self.queue, self.settings);
                }
                Confirmation::Nack(_) => return Err(End::Nacked),
                Confirmation::NotRequested => {
                    return Err(End::Lost("the channel has no confirms".to_owned()));
                }
            }
            self.last_answer = Instant::now();
            let oldest = self.in_flight.front_mut();
            next = oldest.and_then(|oldest| (&mut oldest.confirm).now_or_never());
        }
        Ok(())
    }

    /// Whether the oldest event ends the turn: no other one waits behind it.
    fn is_last(&self) -> bool {
        self.queue.get(0).is_some_and(|event| event.kind == LAST)
    }
}

fn ended(error: lapin::Error) -> End {
    if let ErrorKind::ProtocolError(refusal) = error.kind() {
        let detail = refusal.get_message().as_str();
        match refusal.get_id() {
            406 if detail.contains("message size") => return End::TooLarge(detail.to_owned()),
            403 | 404 => return End::Forbidden(detail.to_owned()),
            _ => {}
        }
    }
    End::Lost(with_sources(&error))
}

fn properties(event: &SealedEvent) -> Result<BasicProperties, PublishError> {
    let mut headers = FieldTable::default();
    headers.insert(FILTER_VALUE.into(), text(&event.turn_id));
    if let Some(trace) = &event.trace {
        trace_headers(&mut headers, trace);
    }
    Ok(json_properties()
        .with_headers(headers)
        .with_correlation_id(short("turn id", &event.turn_id)?)
        .with_message_id(short("message id", &event.message_id())?)
        .with_type(short("event type", &event.kind)?))
}
