//! Publishes the queue over one channel, until all is confirmed or something
//! goes wrong.

use std::collections::VecDeque;

use futures_util::FutureExt;
use lapin::options::BasicPublishOptions;
use lapin::types::FieldTable;
use lapin::{BasicProperties, Confirmation, ErrorKind, PublisherConfirm};
use tokio::time::{Instant, sleep_until, timeout};

use super::OutboxSettings;
use super::queue::Queue;
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
    /// The broker lives, and did not confirm in time.
    Unconfirmed,
    /// The broker refused the oldest event.
    Nacked,
    /// The broker takes no message of this size. With several events in
    /// flight, it is not known which was meant.
    TooLarge(String),
}

pub(super) struct Session<'a> {
    lease: Lease,
    queue: &'a Queue,
    settings: &'a OutboxSettings,
    /// Published here and not confirmed: the oldest events of the queue.
    in_flight: VecDeque<InFlight>,
    /// Only one event at a time, until one is confirmed.
    careful: bool,
    progress: bool,
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
        careful: bool,
    ) -> Self {
        Self {
            lease,
            queue,
            settings,
            in_flight: VecDeque::new(),
            careful,
            progress: false,
            last_answer: Instant::now(),
        }
    }

    /// Whether at least one event was confirmed.
    pub(super) fn has_progress(&self) -> bool {
        self.progress
    }

    /// Gives the channel back.
    pub(super) fn finish(self) {
        self.lease.give_back();
    }

    pub(super) async fn run(&mut self) -> End {
        loop {
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
        !self.careful || self.in_flight.is_empty()
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
            match timeout(CONFIRM_LIMIT, publish.as_mut()).await {
                Ok(result) => return result.map_err(ended),
                Err(_) if self.lease.link.is_blocked() => {
                    // The broker asked for it; a new channel would not help.
                    self.lease.link.unblocked().await;
                }
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
        let deadline = oldest.since.max(self.last_answer) + CONFIRM_LIMIT;
        tokio::select! {
            biased;
            confirmation = &mut oldest.confirm => self.take_confirmed(confirmation)?,
            () = self.queue.longer_than(in_flight), if may_publish => {}
            reason = self.lease.link.closed() => return Err(End::Lost(reason)),
            () = sleep_until(deadline) => {
                if !self.lease.link.is_blocked() {
                    return Err(End::Unconfirmed);
                }
                self.lease.link.unblocked().await;
                self.last_answer = Instant::now();
            }
        }
        Ok(())
    }
}

impl Session<'_> {
    /// Takes the oldest event's confirm, and those that have come with it: the
    /// broker confirms many at a time, and whoever waits for room is better
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
                }
                Confirmation::Nack(_) => return Err(End::Nacked),
                Confirmation::NotRequested => {
                    return Err(End::Lost("the channel has no confirms".to_owned()));
                }
            }
            self.progress = true;
            self.careful = false;
            self.last_answer = Instant::now();
            let oldest = self.in_flight.front_mut();
            next = oldest.and_then(|oldest| (&mut oldest.confirm).now_or_never());
        }
        Ok(())
    }
}

fn ended(error: lapin::Error) -> End {
    if let ErrorKind::ProtocolError(refusal) = error.kind()
        && refusal.get_id() == 406
        && refusal.get_message().as_str().contains("message size")
    {
        return End::TooLarge(refusal.get_message().to_string());
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
