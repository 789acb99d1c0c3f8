//! Follows one turn from the event log: what it kept, and then what comes.
//!
//! A stream goes on live where its past ends, so the two need not be joined.
//! What it does not report is where that is. So its newest message is looked at
//! first: once that has come by, all that was there before has. The broker
//! leaves out what is of other turns; that one is asked for, too.

use std::time::{Duration, SystemTime};

use backon::ExponentialBackoff;
use lapin::types::{AMQPValue, FieldArray, FieldTable};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::{Arrival, Client, ClientError, Order, Origin, TurnMessage, is_missing};
use crate::amqp::connect::backoff;
use crate::amqp::consume::{ConsumeError, Consumer, Delivery};
use crate::amqp::event_log::{FILTER_VALUE, text};
use crate::amqp::link::{Link, LinkError};
use crate::amqp::publish::header;
use crate::amqp::server::Server;
use crate::error::with_sources;

/// Messages on their way; a stream takes no consumer without a limit.
const PREFETCH: u16 = 1_000;
/// Acks only make room for more. One for each message would take longer than reading it.
const ACK_EVERY: u16 = PREFETCH / 4;
/// A chunk of a stream, which is delivered whole, has no more messages.
const MAX_CHUNK: u64 = 65_535;
/// After the newest message was read: what stands in one chunk with it comes at once.
const QUIET: Duration = Duration::from_secs(1);
/// No message comes: the log is empty, or older than what is asked for.
const SILENT: Duration = Duration::from_secs(10);
const OFFSET: &str = "x-stream-offset";

/// What a reader of the log gets.
#[derive(Debug)]
pub enum TailUpdate {
    Event(Box<TurnMessage>, Arrival),
    /// The broker can't leave out what is of other turns.
    ReadsAll {
        server: Server,
    },
    /// What the log had when it was opened is read; reported once.
    CaughtUp,
    /// Without a connection, for another reason than before.
    Lost {
        reason: String,
    },
    /// Reading on where it was lost; no message was missed.
    Restored,
}

/// A turn that is read from the log.
#[derive(Debug)]
pub struct Tail {
    client: Client,
    turn_id: String,
    since: Option<SystemTime>,
    origin: Origin,
    order: Order,
    reading: Option<Reading>,
    /// The first message that was not read.
    next: Option<u64>,
    caught_up: bool,
    reads_all: Option<Server>,
    delays: ExponentialBackoff,
    reason: Option<String>,
}

#[derive(Debug)]
struct Reading {
    link: Link,
    consumer: Consumer,
    /// The newest message when this was opened, if there was one.
    newest: Option<u64>,
    unacked: u16,
    /// When it has caught up unless something comes.
    quiet: Instant,
}

impl Tail {
    /// Opens the log; `since`: only what was published then or later.
    pub async fn open(
        client: Client,
        turn_id: String,
        origin: Origin,
        since: Option<SystemTime>,
    ) -> Result<Self, ClientError> {
        let mut tail = Self {
            client,
            turn_id,
            since,
            origin,
            order: Order::default(),
            reading: None,
            next: None,
            caught_up: false,
            reads_all: None,
            delays: backoff(),
            reason: None,
        };
        let reading = tail.read_on().await?;
        let server = Server::ask(reading.link.target()).await;
        tail.reads_all = server.filter(|server| !server.filters_streams());
        tail.reading = Some(reading);
        Ok(tail)
    }

    /// Waits for what comes next, and never gives up: to stop waiting, drop it.
    pub async fn next(&mut self) -> TailUpdate {
        if let Some(server) = self.reads_all.take() {
            return TailUpdate::ReadsAll { server };
        }
        loop {
            let update = match self.reading.take() {
                Some(reading) => self.read(reading).await,
                None => self.restore().await,
            };
            if let Some(update) = update {
                return update;
            }
        }
    }

    async fn read(&mut self, mut reading: Reading) -> Option<TailUpdate> {
        let quiet = reading.quiet;
        let delivery = tokio::select! {
            biased;
            delivery = reading.consumer.next() => delivery,
            () = sleep_until(quiet), if !self.caught_up => {
                self.caught_up = true;
                self.reading = Some(reading);
                return Some(TailUpdate::CaughtUp);
            }
        };
        match delivery {
            Ok(delivery) => self.take(reading, delivery).await,
            Err(error) => self.lost(with_sources(&error)),
        }
    }

    async fn take(&mut self, mut reading: Reading, delivery: Delivery) -> Option<TailUpdate> {
        let offset = offset(&delivery);
        let message = TurnMessage::parse(&delivery.body);
        reading.unacked += 1;
        if reading.unacked >= ACK_EVERY {
            reading.unacked = 0;
            // What can't be acked any more is noticed by the next read.
            let _ = delivery.ack_with_all_before().await;
        }
        reading.quiet = match (offset, reading.newest) {
            (Some(at), Some(newest)) if at > newest + MAX_CHUNK => Instant::now(),
            (Some(at), Some(newest)) if at >= newest => Instant::now() + QUIET,
            _ => Instant::now() + SILENT,
        };
        self.reading = Some(reading);
        if let Some(offset) = offset {
            // A connection's first messages may be of before.
            if self.next.is_some_and(|next| offset < next) {
                return None;
            }
            self.next = Some(offset + 1);
        }
        let message = message.filter(|message| message.turn_id == self.turn_id)?;
        if !self.origin.admits(message.workspace.as_deref()) {
            return None;
        }
        let arrival = self.order.place(message.attempt, message.seq)?;
        Some(TailUpdate::Event(Box::new(message), arrival))
    }

    fn lost(&mut self, reason: String) -> Option<TailUpdate> {
        self.reading = None;
        let told = self.reason.as_ref() == Some(&reason);
        self.reason = Some(reason.clone());
        (!told).then_some(TailUpdate::Lost { reason })
    }

    async fn restore(&mut self) -> Option<TailUpdate> {
        sleep(self.delays.next().unwrap_or(SILENT)).await;
        match self.read_on().await {
            Ok(reading) => {
                self.reading = Some(reading);
                self.delays = backoff();
                self.reason = None;
                Some(TailUpdate::Restored)
            }
            Err(error) => self.lost(with_sources(&error)),
        }
    }

    async fn read_on(&self) -> Result<Reading, ClientError> {
        let link = self.client.connector.connect().await?;
        let newest = self.newest(&link).await?;
        let from = match (self.next, self.since) {
            (Some(next), _) => AMQPValue::LongLongInt(i64::try_from(next).unwrap_or(i64::MAX)),
            (None, Some(since)) => {
                let since = since.duration_since(SystemTime::UNIX_EPOCH);
                AMQPValue::Timestamp(since.unwrap_or_default().as_secs())
            }
            (None, None) => text("first"),
        };
        let empty = newest.is_none();
        let mut wanted = vec![text(&self.turn_id)];
        wanted.extend(
            newest
                .as_ref()
                .and_then(|newest| newest.filter_value.as_deref())
                .map(text),
        );
        let mut filtered = FieldTable::default();
        filtered.insert(OFFSET.into(), from.clone());
        filtered.insert(
            "x-stream-filter".into(),
            AMQPValue::FieldArray(FieldArray::from(wanted)),
        );
        // Of workers that set no filter value yet.
        filtered.insert("x-stream-match-unfiltered".into(), AMQPValue::Boolean(true));
        let consumer = match self.consume(&link, filtered).await {
            // A broker that supports it, but with it switched off.
            Err(error) if !self.is_final(&error) => {
                let mut all = FieldTable::default();
                all.insert(OFFSET.into(), from);
                self.consume(&link, all).await?
            }
            opened => opened?,
        };
        Ok(Reading {
            link,
            consumer,
            newest: newest.map(|newest| newest.offset),
            unacked: 0,
            quiet: Instant::now() + if empty { QUIET } else { SILENT },
        })
    }

    fn is_final(&self, error: &ClientError) -> bool {
        matches!(error, ClientError::NoLog { .. } | ClientError::Connect(_))
    }

    async fn newest(&self, link: &Link) -> Result<Option<Newest>, ClientError> {
        let mut from = FieldTable::default();
        from.insert(OFFSET.into(), text("last"));
        let mut consumer = self.consume(link, from).await?;
        match timeout(SILENT, consumer.next()).await {
            Ok(delivery) => {
                let delivery = delivery?;
                Ok(offset(&delivery).map(|offset| Newest {
                    offset,
                    filter_value: header(&delivery.properties, FILTER_VALUE).map(str::to_owned),
                }))
            }
            Err(_) => Ok(None),
        }
    }

    async fn consume(&self, link: &Link, arguments: FieldTable) -> Result<Consumer, ClientError> {
        let queue = &self.client.topology.log;
        let opened = Consumer::with_arguments(link, queue, PREFETCH, arguments).await;
        opened.map_err(|error| match &error {
            ConsumeError::Open {
                source: LinkError::Amqp { source, .. },
                ..
            } => match source.kind() {
                lapin::ErrorKind::ProtocolError(refusal)
                    if is_missing(refusal.get_message().as_str()) =>
                {
                    ClientError::NoLog {
                        target: link.target().clone(),
                        queue: queue.clone(),
                    }
                }
                _ => error.into(),
            },
            _ => error.into(),
        })
    }

    /// Takes leave of the broker in an orderly way.
    pub async fn close(self) {
        if let Some(Reading { link, consumer, .. }) = self.reading {
            drop(consumer);
            link.close().await;
        }
    }
}

struct Newest {
    offset: u64,
    filter_value: Option<String>,
}

fn offset(delivery: &Delivery) -> Option<u64> {
    let headers = delivery.properties.headers().as_ref()?;
    match headers.inner().get(OFFSET)? {
        AMQPValue::LongLongInt(offset) => u64::try_from(*offset).ok(),
        AMQPValue::LongInt(offset) => u64::try_from(*offset).ok(),
        _ => None,
    }
}
