//! What a reader of all events sees, checked against G5 and G6 as it comes.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use lapin::message::Delivery;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicQosOptions, ExchangeDeclareOptions,
    QueueBindOptions, QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, Connection, ConnectionProperties, ExchangeKind};
use serde_json::Value;
use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout};
use turn_worker::amqp::topology::Topology;
use turn_worker::contract::Document;

use super::{Deadline, Producer};
use crate::support::engine;

/// For one connection; then another is tried.
pub(super) const TRY: Duration = Duration::from_secs(60);

/// Durable, so that no event is lost to this reader when the broker restarts.
const QUEUE: &str = "test.events";

pub struct Events {
    shared: Arc<Shared>,
    deadline: Deadline,
    reader: AbortHandle,
}

#[derive(Default)]
struct Shared {
    seen: Mutex<Seen>,
    changed: Notify,
}

#[derive(Default)]
struct Seen {
    turns: BTreeMap<String, Record>,
    violations: Vec<String>,
    newest: Vec<String>,
}

/// One turn's events, by attempt.
#[derive(Debug, Clone, Default)]
pub struct Turn {
    pub attempts: BTreeMap<u64, Vec<Value>>,
}

#[derive(Default)]
struct Record {
    turn: Turn,
    /// Of its first event. The events of another turn of its id, in another
    /// workspace, are found under `ID in WORKSPACE`.
    workspace: Option<String>,
    /// Just what was published, to recognise duplicates.
    bodies: BTreeMap<(u64, u64), Vec<u8>>,
    /// Of its first event, and so of all.
    headers: Option<FieldTable>,
    duplicates: usize,
}

impl Events {
    /// Bound with `#` when this returns.
    pub(super) async fn collect(url: &str, deadline: Deadline) -> Self {
        let shared = Arc::new(Shared::default());
        let (url, reading) = (url.to_owned(), Arc::clone(&shared));
        let binding = async || bound(&url).await;
        let bound = deadline.until("the events queue is bound", binding).await;
        let reader = tokio::spawn(async move {
            let mut bound_ = Some(bound);
            loop {
                if let Some((_connection, channel)) = bound_.take() {
                    let _ = read(&channel, &reading).await;
                }
                sleep(Duration::from_millis(100)).await;
                bound_ = self::bound(&url).await;
            }
        });
        Self {
            shared,
            deadline,
            reader: reader.abort_handle(),
        }
    }

    /// Until the turn's `message_end` has come.
    pub async fn ended(&self, turn_id: &str) -> Turn {
        self.until(&format!("{turn_id} ends"), |seen| {
            let turn = &seen.turns.get(turn_id)?.turn;
            turn.end().is_some().then(|| turn.clone())
        })
        .await
    }

    pub async fn all_ended(&self, turn_ids: impl IntoIterator<Item = impl AsRef<str>>) {
        for turn_id in turn_ids {
            self.ended(turn_id.as_ref()).await;
        }
    }

    /// Until so many turns have ended.
    pub async fn count_ended(&self, count: usize) {
        self.until(&format!("{count} turns end"), |seen| {
            let ended = seen
                .turns
                .values()
                .filter(|record| record.turn.end().is_some());
            (ended.count() >= count).then_some(())
        })
        .await;
    }

    /// Until an event of the turn is such.
    pub async fn event(&self, turn_id: &str, is: impl Fn(&Value) -> bool) -> Value {
        self.until(&format!("an event of {turn_id}"), |seen| {
            let turn = &seen.turns.get(turn_id)?.turn;
            turn.all().find(|event| is(event)).cloned()
        })
        .await
    }

    /// Until the turn says this text.
    pub async fn said(&self, turn_id: &str, text: &str) {
        self.until(&format!("{turn_id} says {text}"), |seen| {
            let turn = &seen.turns.get(turn_id)?.turn;
            let said = engine::said(turn.all());
            said.iter().any(|said| said == text).then_some(())
        })
        .await;
    }

    /// What has come of the turn so far.
    pub fn turn(&self, turn_id: &str) -> Turn {
        let seen = self.shared.lock();
        let record = seen.turns.get(turn_id);
        record.map(|record| record.turn.clone()).unwrap_or_default()
    }

    /// The turns of which anything has come.
    pub fn turn_ids(&self) -> Vec<String> {
        self.shared.lock().turns.keys().cloned().collect()
    }

    /// A header that all events of the turn have had.
    pub fn header(&self, turn_id: &str, name: &str) -> Option<AMQPValue> {
        let seen = self.shared.lock();
        let headers = seen.turns.get(turn_id)?.headers.as_ref()?;
        headers.inner().get(name).cloned()
    }

    /// How many events of the turn came again.
    pub fn duplicates(&self, turn_id: &str) -> usize {
        let seen = self.shared.lock();
        seen.turns
            .get(turn_id)
            .map_or(0, |record| record.duplicates)
    }

    /// Until so many of the turn's events have come again, after its end.
    pub async fn ended_again(&self, turn_id: &str, duplicates: usize) {
        self.until(&format!("{turn_id} ends again"), |seen| {
            let record = seen.turns.get(turn_id)?;
            (record.duplicates >= duplicates).then_some(())
        })
        .await;
    }

    /// Once more, after the exchange was deleted, and with it what was bound.
    pub async fn bind_again(&self, url: &str) {
        let binding = async || bound(url).await;
        let deadline = self.deadline;
        drop(
            deadline
                .until("the events queue is bound again", binding)
                .await,
        );
    }

    /// Until all that was published is read, once nobody
    /// publishes any more.
    pub(super) async fn caught_up(&self, producer: &mut Producer) {
        // There are no ready ones, and the reader handles what it has before it
        // acks; so a marker through the same queue comes last.
        producer.mark(QUEUE).await;
        self.until("the events are read to their end", |seen| {
            seen.turns.contains_key(MARKER).then_some(())
        })
        .await;
        self.shared.lock().turns.remove(MARKER);
    }

    /// G5 and G6, on everything that has come.
    pub fn check(&self) {
        let seen = self.shared.lock();
        assert!(seen.violations.is_empty(), "{:#?}", seen.violations);
    }

    pub(super) fn tail(&self) -> String {
        let seen = self.shared.lock();
        let newest = &seen.newest;
        format!(
            "violations: {:#?}\n{}",
            seen.violations,
            newest[newest.len().saturating_sub(30)..].join("\n")
        )
    }

    async fn until<T>(&self, what: &str, find: impl Fn(&Seen) -> Option<T>) -> T {
        let finding = async {
            loop {
                let changed = self.shared.changed.notified();
                tokio::pin!(changed);
                changed.as_mut().enable();
                if let Some(found) = find(&self.shared.lock()) {
                    return found;
                }
                changed.await;
            }
        };
        let found = self.deadline.within(what, finding).await;
        self.check();
        found
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

/// What [`Producer::mark`] publishes.
pub(super) const MARKER: &str = "marker";

/// `None` if that fails. The client may wait for ever for an answer that went with its connection.
async fn bound(url: &str) -> Option<(Connection, Channel)> {
    timeout(TRY, try_bound(url)).await.ok()?.ok()
}

async fn try_bound(url: &str) -> lapin::Result<(Connection, Channel)> {
    let connection = Connection::connect(url, ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    // As the workers declare it: the first one declares it.
    let durable = ExchangeDeclareOptions {
        durable: true,
        ..ExchangeDeclareOptions::default()
    };
    channel
        .exchange_declare(
            "codex.events".into(),
            ExchangeKind::Topic,
            durable,
            FieldTable::default(),
        )
        .await?;
    channel
        .queue_declare(
            QUEUE.into(),
            QueueDeclareOptions::durable(),
            FieldTable::default(),
        )
        .await?;
    channel
        .queue_bind(
            QUEUE.into(),
            "codex.events".into(),
            "#".into(),
            QueueBindOptions::default(),
            FieldTable::default(),
        )
        .await?;
    Ok((connection, channel))
}

async fn read(channel: &Channel, shared: &Shared) -> lapin::Result<()> {
    channel.basic_qos(500, BasicQosOptions::default()).await?;
    let mut consumer = channel
        .basic_consume(
            QUEUE.into(),
            "".into(),
            BasicConsumeOptions::default(),
            FieldTable::default(),
        )
        .await?;
    while let Some(delivery) = consumer.next().await {
        let delivery = delivery?;
        shared.lock().take(&delivery);
        shared.changed.notify_waiters();
        delivery.ack(BasicAckOptions::default()).await?;
    }
    Ok(())
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Of the contract: `src/contract/`.
static SCHEMA: LazyLock<jsonschema::Validator> = LazyLock::new(|| {
    let schema = Document::Event.value(&Topology::new("codex", 1));
    let options = jsonschema::options().should_validate_formats(true);
    options.build(&schema).unwrap()
});

impl Seen {
    fn take(&mut self, delivery: &Delivery) {
        let body = String::from_utf8_lossy(&delivery.data).into_owned();
        if let Err(violation) = self.check(delivery) {
            self.violations.push(format!("{violation}: {body}"));
        }
        self.newest.push(body);
    }

    fn check(&mut self, delivery: &Delivery) -> Result<(), String> {
        let key = delivery.routing_key.as_str();
        if delivery.exchange.as_str().is_empty() {
            self.turns.entry(MARKER.to_owned()).or_default();
            return Ok(());
        }
        let event: Value =
            serde_json::from_slice(&delivery.data).map_err(|error| format!("no JSON ({error})"))?;
        let properties = &delivery.properties;
        let id = event["turn_id"].as_str().ok_or("no turn_id")?;
        let attempt = event["attempt"].as_u64().ok_or("no attempt")?;
        let seq = event["seq"].as_u64().ok_or("no seq")?;
        let kind = event["type"].as_str().ok_or("no type")?;
        event["time"].as_str().ok_or("no time")?;
        if let Err(error) = SCHEMA.validate(&event) {
            return Err(format!("not as its schema has it ({error})"));
        }
        let message_id = format!("{id}/{attempt}/{seq}");
        for (what, found, wanted) in [
            ("correlation_id", properties.correlation_id(), id),
            ("message_id", properties.message_id(), &message_id),
            ("type", properties.kind(), kind),
            (
                "content_type",
                properties.content_type(),
                "application/json",
            ),
        ] {
            if found.as_ref().map(|found| found.as_str()) != Some(wanted) {
                return Err(format!("{what} is {found:?}, not {wanted:?}"));
            }
        }
        if key != id {
            return Err(format!("the routing key is {key:?}"));
        }

        let workspace = event["workspace"].as_str().ok_or("no workspace")?;
        let first = self.turns.entry(id.to_owned()).or_default();
        let first = first.workspace.get_or_insert_with(|| workspace.to_owned());
        let name = match first == workspace {
            true => id.to_owned(),
            false => format!("{id} in {workspace}"),
        };
        let record = self.turns.entry(name).or_default();
        let headers = properties.headers().clone().unwrap_or_default();
        let first = record.headers.get_or_insert_with(|| headers.clone());
        if *first != headers {
            return Err(format!("its headers are {headers:?}, not {first:?}"));
        }
        if let Some(first) = record.bodies.get(&(attempt, seq)) {
            record.duplicates += 1;
            return match *first == delivery.data {
                true => Ok(()),
                false => Err("a duplicate is not identical".to_owned()),
            };
        }
        let ended = record.turn.end().is_some();
        let newest = record.turn.attempts.keys().next_back().copied();
        let events = record.turn.attempts.entry(attempt).or_default();
        let expected = events.len() as u64;
        events.push(event.clone());
        record.bodies.insert((attempt, seq), delivery.data.clone());
        if ended {
            return Err("something new after message_end".to_owned());
        }
        if seq != expected {
            return Err(format!("seq is not {expected}"));
        }
        if newest.is_some_and(|newest| attempt < newest) {
            return Err("an older attempt goes on".to_owned());
        }
        if (kind == "message_start") != (seq == 0) {
            return Err("message_start is not the first, or another is".to_owned());
        }
        Ok(())
    }
}

impl Turn {
    pub fn all(&self) -> impl Iterator<Item = &Value> {
        self.attempts.values().flatten()
    }

    /// Its `message_end`.
    pub fn end(&self) -> Option<&Value> {
        self.all().find(|event| event["type"] == "message_end")
    }

    pub fn stop_reason(&self) -> &str {
        self.end().unwrap()["stop_reason"].as_str().unwrap()
    }

    /// In which it ended.
    pub fn attempt(&self) -> u64 {
        self.end().unwrap()["attempt"].as_u64().unwrap()
    }

    /// Of its own, as its end shows.
    pub fn input_tokens(&self) -> Option<u64> {
        self.end().unwrap()["usage"]["input_tokens"].as_u64()
    }

    /// The code of its error, if it has one; that stands right before the end.
    pub fn error_code(&self) -> Option<&str> {
        let events = &self.attempts[&self.attempt()];
        let errors: Vec<usize> = (0..events.len())
            .filter(|&at| events[at]["type"] == "error")
            .collect();
        match *errors {
            [] => None,
            [at] if at + 2 == events.len() => events[at]["error"]["code"].as_str(),
            _ => panic!("an error is not right before the end: {events:#?}"),
        }
    }

    /// The types of an attempt's events.
    pub fn kinds(&self, attempt: u64) -> Vec<String> {
        engine::kinds(self.attempts.get(&attempt).into_iter().flatten())
    }

    /// The texts that an attempt said.
    pub fn said(&self, attempt: u64) -> Vec<String> {
        engine::said(self.attempts.get(&attempt).into_iter().flatten())
    }
}
