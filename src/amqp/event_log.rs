//! The event log: a stream that keeps what was published to the events
//! exchange, for readers who come late.
//!
//! It must never hold turns up. A stream that is full drops its oldest
//! segments. But one that is broken (its files are gone, its members have no
//! majority) confirms nothing, and what is published to an exchange that
//! it is bound to is never confirmed. So it is bound only after it has been
//! seen to confirm, and unbound when events are not confirmed and it is why.

use std::sync::Arc;
use std::time::Duration;

use lapin::options::BasicPublishOptions;
use lapin::types::{AMQPValue, FieldTable, LongString, ShortString};
use lapin::{BasicProperties, Channel, Confirmation};
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::declare_error::DeclareError;
use super::link::{Link, LinkError};
use super::pool::PublisherLink;
use super::publish::json_properties;
use super::topology::Topology;
use crate::config::EventLog;
use crate::error::with_sources;

/// The header by which the broker filters a stream's chunks: the turn id.
/// On every event, log or not, so that no setting decides what an event is.
pub const FILTER_VALUE: &str = "x-stream-filter-value";
/// Of what is published to the log to try it: no turn's id.
const PROBE_FILTER_VALUE: &str = " ";
/// The body of a probe. Readers of the log skip it: it is no event.
const PROBE: &[u8] = b"{}";
/// A queue that there is not: what goes there is dropped and confirmed.
const NOWHERE: &str = "nowhere";

/// How often the log is looked at while it is healthy. Each look leaves a
/// probe in it, of some 100 bytes.
const EVERY: Duration = Duration::from_secs(60);
/// How long a log that works may take to confirm.
const CONFIRM_LIMIT: Duration = Duration::from_secs(10);
/// Between looks, however loud the alarm is.
const PAUSE: Duration = Duration::from_secs(5);

/// The largest segment, in bytes, which is RabbitMQ's default. The log is cut
/// by whole segments, so a small log has smaller ones.
const MAX_SEGMENT_BYTES: u64 = 500_000_000;
const MIN_SEGMENT_BYTES: u64 = 1 << 20;
const SEGMENTS: u64 = 16;

/// How the event log was found.
#[derive(Debug)]
pub enum LogState {
    /// It takes events.
    Kept,
    /// It can't be had as the settings want it; what is there is left as it is.
    Refused(DeclareError),
    /// It confirms nothing, though the broker confirms other messages: turns
    /// go on without it.
    Broken(String),
    /// The connection, or all of the broker, was not healthy enough to find out.
    Unknown(String),
}

/// How the outbox reports that events are not confirmed. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct LogAlarm(Arc<Notify>);

impl LogAlarm {
    pub(super) fn ring(&self) {
        self.0.notify_one();
    }
}

impl Topology {
    /// Declares the log, and binds it if it confirms what it is sent, or else
    /// unbinds it.
    pub async fn keep_log(&self, link: &Link, log: &EventLog) -> LogState {
        match self.try_log(link, log).await {
            Ok(state) => state,
            Err(DeclareError::Link(error)) => LogState::Unknown(with_sources(&error)),
            Err(error) => LogState::Refused(error),
        }
    }

    async fn try_log(&self, link: &Link, log: &EventLog) -> Result<LogState, DeclareError> {
        self.declare_log(link, arguments(log)).await?;
        if link.is_blocked() {
            return Ok(LogState::Unknown(
                "the broker accepts no messages now".to_owned(),
            ));
        }
        if confirms(link, &self.log).await? {
            self.bind_log(link).await?;
            return Ok(LogState::Kept);
        }
        if !confirms(link, NOWHERE).await? {
            return Ok(LogState::Unknown("the broker does not confirm".to_owned()));
        }
        self.unbind_log(link).await?;
        let limit = CONFIRM_LIMIT.as_secs();
        Ok(LogState::Broken(format!(
            "queue {:?} does not confirm within {limit} s what it is sent",
            self.log
        )))
    }

    async fn unbind_log(&self, link: &Link) -> Result<(), LinkError> {
        let channel = link.channel().await?;
        let unbind = channel.queue_unbind(
            self.log.as_str().into(),
            self.events.as_str().into(),
            "#".into(),
            FieldTable::default(),
        );
        link.bounded("unbinding the event log", unbind).await
    }
}

/// Whether a queue takes a message, on a channel of its own: what is not
/// confirmed is given up with it.
async fn confirms(link: &Link, queue: &str) -> Result<bool, LinkError> {
    let channel = link.confirm_channel().await?;
    let confirmed = timeout(CONFIRM_LIMIT, probe(&channel, queue)).await;
    let error = match confirmed {
        Ok(Ok(confirmation)) => return Ok(confirmation.is_ack()),
        Ok(Err(error)) => error,
        Err(_) => return Ok(false),
    };
    Err(LinkError::Amqp {
        what: "trying the event log",
        source: error,
    })
}

async fn probe(channel: &Channel, queue: &str) -> lapin::Result<Confirmation> {
    let mut headers = FieldTable::default();
    headers.insert(FILTER_VALUE.into(), text(PROBE_FILTER_VALUE));
    let properties: BasicProperties = json_properties().with_headers(headers);
    channel
        .basic_publish(
            ShortString::default(),
            queue.into(),
            BasicPublishOptions::default(),
            PROBE,
            properties,
        )
        .await?
        .await
}

/// In seconds, since brokers of 3.10 compare the text.
fn arguments(log: &EventLog) -> FieldTable {
    let segment = (log.max_bytes / SEGMENTS).clamp(MIN_SEGMENT_BYTES, MAX_SEGMENT_BYTES);
    let mut arguments = FieldTable::default();
    let mut insert = |name: &'static str, value| {
        arguments.insert(name.into(), value);
    };
    insert("x-queue-type", text("stream"));
    insert("x-max-age", text(&format!("{}s", log.max_age.as_secs())));
    insert("x-max-length-bytes", number(log.max_bytes));
    insert("x-stream-max-segment-size-bytes", number(segment));
    arguments
}

pub(crate) fn text(text: &str) -> AMQPValue {
    AMQPValue::LongString(LongString::from(text))
}

fn number(number: u64) -> AMQPValue {
    AMQPValue::LongLongInt(i64::try_from(number).unwrap_or(i64::MAX))
}

/// Keeps the event log there for as long as the process runs, and reports when
/// that changes.
pub struct LogKeeper {
    pub topology: Topology,
    pub log: EventLog,
    pub publisher: PublisherLink,
    pub alarm: LogAlarm,
    /// Last reported.
    pub told: LogNews,
}

impl LogKeeper {
    pub async fn run(mut self, cut: CancellationToken) {
        let keep = async {
            loop {
                tokio::select! {
                    () = sleep(EVERY) => {}
                    () = self.alarm.0.notified() => {}
                }
                let Some(link) = self.publisher.ready().await else {
                    return;
                };
                let state = self.topology.keep_log(&link, &self.log).await;
                self.told.tell(&state);
                sleep(PAUSE).await;
            }
        };
        tokio::select! {
            () = keep => {}
            () = cut.cancelled() => {}
        }
    }
}

/// What was said of the log last, so that it is said once.
#[derive(Debug, Default)]
pub struct LogNews(Option<String>);

impl LogNews {
    pub fn tell(&mut self, state: &LogState) {
        let trouble = match state {
            LogState::Kept => {
                if self.0.take().is_some() {
                    tracing::info!(
                        "the event log takes events again; those in between are not in it"
                    );
                }
                return;
            }
            LogState::Unknown(why) => {
                tracing::debug!(why, "the event log's state is unknown now");
                return;
            }
            LogState::Refused(error) => with_sources(error),
            LogState::Broken(why) => why.clone(),
        };
        if self.0.as_ref() == Some(&trouble) {
            return;
        }
        match state {
            LogState::Broken(_) => tracing::error!(
                reason = trouble,
                "the event log is broken and unbound: turns go on without it"
            ),
            _ => tracing::error!(
                error = trouble,
                "the event log can't be had as the settings want it: turns go on without"
            ),
        }
        self.0 = Some(trouble);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_log_has_small_segments() {
        for (max_bytes, segment) in [
            (16 << 20, 1 << 20),
            (160 << 20, 10 << 20),
            (10 << 30, 500_000_000),
        ] {
            let log = EventLog {
                max_age: Duration::from_secs(7 * 86_400),
                max_bytes,
            };
            let arguments = arguments(&log);
            let found = &arguments.inner()["x-stream-max-segment-size-bytes"];
            assert_eq!(found, &number(segment));
            assert_eq!(&arguments.inner()["x-max-age"], &text("604800s"));
        }
    }
}
