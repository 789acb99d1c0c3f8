//! The event stream, as a reader with a durable queue sees it: kept on disk
//! as it comes, and counted.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::fs::File;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{BufWriter, Write};
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use futures_util::StreamExt;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicQosOptions, ExchangeDeclareOptions,
    QueueBindOptions, QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, Connection, ConnectionProperties, ExchangeKind};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use turn_worker::event::{EventBody, StopReason, TurnEvent};

use crate::clock::{Nanos, now};

pub const QUEUE: &str = "chaos.events";
const PREFETCH: u16 = 500;
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
const ACK_LIMIT: Duration = Duration::from_secs(5);
/// Without an event for so long, the channel is looked at.
const LOOK: Duration = Duration::from_secs(1);
const PAUSE: Duration = Duration::from_millis(200);

/// One event as it came, without its text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    pub at: Nanos,
    pub turn: Rc<str>,
    pub attempt: u32,
    pub seq: u64,
    pub kind: &'static str,
    /// The message that it is a piece of.
    pub message: Option<u64>,
    /// Of the whole body: duplicates are identical.
    pub hash: u64,
    /// Of `error` and `message_end`.
    pub end: Option<End>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    Error(&'static str),
    Message(StopReason),
}

pub struct Events {
    log: RefCell<BufWriter<File>>,
    pub told: RefCell<Vec<Told>>,
    /// What came and is no event.
    pub malformed: RefCell<Vec<String>>,
    turns_ended: RefCell<BTreeSet<Rc<str>>>,
    /// How many turns have ended.
    pub ended: watch::Sender<usize>,
    marked: Cell<bool>,
}

impl Events {
    pub fn new(log: &Path) -> anyhow::Result<Rc<Self>> {
        Ok(Rc::new(Self {
            log: RefCell::new(BufWriter::new(File::create(log)?)),
            told: RefCell::default(),
            malformed: RefCell::default(),
            turns_ended: RefCell::default(),
            ended: watch::Sender::new(0),
            marked: Cell::new(false),
        }))
    }

    pub fn has_ended(&self, turn: &str) -> bool {
        self.turns_ended.borrow().contains(turn)
    }

    /// Until everything that was published is read, once there are no publishers any
    /// more and a marker was put into the queue.
    pub async fn caught_up(&self) {
        while !self.marked.get() {
            sleep(PAUSE).await;
        }
    }

    /// Bound, and read for as long as this runs; `bound` is notified when it is
    /// so for the first time.
    pub async fn read(&self, url: &str, bound: watch::Sender<bool>) {
        loop {
            if let Ok(Ok((_connection, channel))) = timeout(CONNECT_LIMIT, bind(url)).await {
                bound.send_replace(true);
                let _ = self.consume(&channel).await;
            }
            sleep(PAUSE).await;
        }
    }

    async fn consume(&self, channel: &Channel) -> lapin::Result<()> {
        channel
            .basic_qos(PREFETCH, BasicQosOptions::default())
            .await?;
        let consume = channel.basic_consume(
            QUEUE.into(),
            "".into(),
            BasicConsumeOptions::default(),
            FieldTable::default(),
        );
        let mut consumer = consume.await?;
        loop {
            let delivery = match timeout(LOOK, consumer.next()).await {
                Ok(Some(delivery)) => delivery?,
                // A consumer is not reliably notified that its channel is gone.
                Err(_) if channel.status().connected() => continue,
                Ok(None) | Err(_) => return Ok(()),
            };
            if delivery.exchange.as_str().is_empty() {
                self.marked.set(true);
            } else {
                self.take(&delivery.data);
            }
            // Nor will one that is given on a channel that is gone ever be answered.
            match timeout(ACK_LIMIT, delivery.ack(BasicAckOptions::default())).await {
                Ok(acked) => acked?,
                Err(_) => return Ok(()),
            };
        }
    }

    /// Also what comes again, since this reader's connection was lost.
    fn take(&self, body: &[u8]) {
        let at = now();
        let text = String::from_utf8_lossy(body);
        // Its place for people is the log; a full disk is reported when it is closed.
        let _ = writeln!(self.log.borrow_mut(), "{at} {text}");
        match parse(at, body) {
            Ok(told) => {
                if matches!(told.end, Some(End::Message(_)))
                    && self.turns_ended.borrow_mut().insert(Rc::clone(&told.turn))
                {
                    self.ended.send_modify(|ended| *ended += 1);
                }
                self.told.borrow_mut().push(told);
            }
            Err(error) => self.malformed.borrow_mut().push(format!("{error}: {text}")),
        }
    }

    pub fn flush(&self) -> std::io::Result<()> {
        self.log.borrow_mut().flush()
    }
}

fn parse(at: Nanos, body: &[u8]) -> serde_json::Result<Told> {
    let event: TurnEvent = serde_json::from_slice(body)?;
    Ok(Told {
        at,
        turn: event.turn_id.as_str().into(),
        attempt: event.attempt,
        seq: event.seq,
        kind: event.body.kind(),
        message: match &event.body {
            EventBody::TextDelta { item_id, .. } => Some(hash(item_id.as_bytes())),
            _ => None,
        },
        hash: hash(body),
        end: match &event.body {
            EventBody::Error { error } => Some(End::Error(error.code.as_str())),
            EventBody::MessageEnd { stop_reason, .. } => Some(End::Message(*stop_reason)),
            _ => None,
        },
    })
}

pub fn hash(body: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    body.hash(&mut hasher);
    hasher.finish()
}

async fn bind(url: &str) -> lapin::Result<(Connection, Channel)> {
    let connection = Connection::connect(url, ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    let durable = ExchangeDeclareOptions {
        durable: true,
        ..ExchangeDeclareOptions::default()
    };
    let (exchange, none) = ("codex.events", FieldTable::default());
    // As the workers declare it: the first one declares it.
    channel
        .exchange_declare(exchange.into(), ExchangeKind::Topic, durable, none.clone())
        .await?;
    // It keeps its messages when a node dies.
    let mut quorum = FieldTable::default();
    quorum.insert(
        "x-queue-type".into(),
        AMQPValue::LongString("quorum".into()),
    );
    channel
        .queue_declare(QUEUE.into(), QueueDeclareOptions::durable(), quorum)
        .await?;
    let options = QueueBindOptions::default();
    channel
        .queue_bind(QUEUE.into(), exchange.into(), "#".into(), options, none)
        .await?;
    Ok((connection, channel))
}
