//! What the pool gets to do, and when what came of it arrived: the producer's
//! view, which is the only one that counts. All times are of one clock.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use futures_util::StreamExt;
use lapin::options::{
    BasicConsumeOptions, BasicPublishOptions, ConfirmSelectOptions, QueueBindOptions,
    QueueDeclareOptions,
};
use lapin::types::FieldTable;
use lapin::{
    BasicProperties, Channel, Confirmation, Connection, ConnectionProperties, PublisherConfirm,
};
use serde_json::{Value, json};
use tokio::sync::Notify;

/// A run that takes longer than this is broken, not slow.
const LIMIT: Duration = Duration::from_secs(300);

#[derive(Debug, Clone)]
pub struct Turn {
    pub id: String,
    pub workspace: String,
    pub prompt: String,
}

impl Turn {
    pub fn new(id: impl Into<String>, workspace: impl Into<String>, prompt: &str) -> Self {
        Self {
            id: id.into(),
            workspace: workspace.into(),
            prompt: prompt.to_owned(),
        }
    }
}

/// When a turn was sent, and when its events came.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    pub sent: Option<Instant>,
    /// One for each attempt.
    pub starts: Vec<Instant>,
    pub first_text: Option<Instant>,
    pub end: Option<Instant>,
    pub events: usize,
    /// Attempt and number of the newest event.
    place: Option<(u32, u64)>,
}

impl Seen {
    pub fn to_first_event(&self) -> Option<Duration> {
        Some(*self.starts.first()? - self.sent?)
    }

    pub fn to_end(&self) -> Option<Duration> {
        Some(self.end? - self.sent?)
    }
}

/// An event as it came, to be published again.
#[derive(Debug, Clone)]
pub struct Message {
    pub body: Vec<u8>,
    pub properties: BasicProperties,
}

#[derive(Default)]
pub struct Log {
    turns: HashMap<String, Seen>,
    pub ended: usize,
    /// The turn of which events are kept, and these.
    keep: Option<String>,
    kept: Vec<Message>,
    /// Something came that makes all figures worthless.
    wrong: Option<String>,
}

impl Log {
    pub fn of(&self, turn: &Turn) -> Seen {
        self.turns.get(&turn.id).cloned().unwrap_or_default()
    }
}

/// A producer and a reader of all events, on a connection each.
pub struct Load {
    channel: Channel,
    log: Arc<(Mutex<Log>, Notify)>,
    _connections: [Connection; 2],
}

impl Load {
    /// The program that runs the turns must have declared the exchanges.
    pub async fn open(url: &str) -> Result<Self> {
        let reading = Connection::connect(url, ConnectionProperties::default()).await?;
        let publishing = Connection::connect(url, ConnectionProperties::default()).await?;
        let channel = publishing.create_channel().await?;
        channel
            .confirm_select(ConfirmSelectOptions::default())
            .await?;
        let log = Arc::default();
        read_all(&reading, Arc::clone(&log)).await?;
        Ok(Self {
            channel,
            log,
            _connections: [reading, publishing],
        })
    }

    /// The returned confirm should be awaited, but need not be at once.
    pub async fn send(&self, turn: &Turn) -> Result<PublisherConfirm> {
        let request = json!({
            "turn_id": turn.id, "workspace": turn.workspace,
            "messages": [{"role": "user", "content": turn.prompt}],
        });
        let options = BasicPublishOptions {
            mandatory: true,
            ..BasicPublishOptions::default()
        };
        let properties = BasicProperties::default()
            .with_delivery_mode(2)
            .with_content_type("application/json".into());
        let body = request.to_string();
        self.log().turns.entry(turn.id.clone()).or_default().sent = Some(Instant::now());
        let publish = self.channel.basic_publish(
            "codex.requests".into(),
            "turn".into(),
            options,
            body.as_bytes(),
            properties,
        );
        Ok(publish.await?)
    }

    /// As fast as it goes; returns when the broker has them all.
    pub async fn send_all(&self, turns: &[Turn]) -> Result<()> {
        let mut confirms = Vec::new();
        for turn in turns {
            confirms.push(self.send(turn).await?);
        }
        for confirm in confirms {
            accepted(confirm).await?;
        }
        Ok(())
    }

    /// Sends turns and waits until all have ended; returns when each did what.
    pub async fn run(&self, turns: &[Turn]) -> Result<Vec<Seen>> {
        let ended = self.log().ended;
        self.send_all(turns).await?;
        self.all_ended(ended, turns).await
    }

    /// Once these have ended since there were `ended`.
    pub async fn all_ended(&self, ended: usize, turns: &[Turn]) -> Result<Vec<Seen>> {
        let wanted = ended + turns.len();
        self.until("all turns end", |log| log.ended >= wanted)
            .await?;
        self.seen(turns)
    }

    /// Of turns that have all ended, in one attempt each.
    fn seen(&self, turns: &[Turn]) -> Result<Vec<Seen>> {
        let log = self.log();
        let seen: Vec<Seen> = turns.iter().map(|turn| log.of(turn)).collect();
        ensure!(
            seen.iter()
                .all(|seen| seen.end.is_some() && seen.starts.len() == 1),
            "a turn did not end in its first attempt"
        );
        Ok(seen)
    }

    /// Until something holds; asked again whenever a turn has started or ended.
    pub async fn until(&self, what: &str, mut holds: impl FnMut(&Log) -> bool) -> Result<()> {
        let waiting = async {
            loop {
                let mut changed = std::pin::pin!(self.log.1.notified());
                changed.as_mut().enable();
                {
                    let log = self.log();
                    if let Some(wrong) = &log.wrong {
                        bail!("{wrong}");
                    }
                    if holds(&log) {
                        return Ok(());
                    }
                }
                changed.await;
            }
        };
        tokio::time::timeout(LIMIT, waiting)
            .await
            .with_context(|| format!("waited {} s until {what}", LIMIT.as_secs()))?
    }

    /// The events of this turn are to be kept.
    pub fn keep(&self, turn: &Turn) {
        self.log().keep = Some(turn.id.clone());
    }

    pub fn take_kept(&self) -> Vec<Message> {
        let mut log = self.log();
        log.keep = None;
        std::mem::take(&mut log.kept)
    }

    pub fn log(&self) -> MutexGuard<'_, Log> {
        self.log.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The broker has the request, and a queue for it.
pub async fn accepted(confirm: PublisherConfirm) -> Result<()> {
    match confirm.await? {
        Confirmation::Ack(None) => Ok(()),
        other => bail!("a request was not accepted: {other:?}"),
    }
}

/// Attempt and number of an event, as its message id ends with them.
fn place(properties: &BasicProperties) -> Option<(u32, u64)> {
    let mut parts = properties.message_id().as_ref()?.as_str().rsplit('/');
    let seq = parts.next()?.parse().ok()?;
    Some((parts.next()?.parse().ok()?, seq))
}

/// Reads every event from a queue of its own, without acks.
async fn read_all(connection: &Connection, log: Arc<(Mutex<Log>, Notify)>) -> Result<()> {
    let channel = connection.create_channel().await?;
    let options = QueueDeclareOptions {
        exclusive: true,
        auto_delete: true,
        ..QueueDeclareOptions::default()
    };
    let queue = channel
        .queue_declare("".into(), options, FieldTable::default())
        .await?;
    let name = queue.name().clone();
    let (bind, none) = (QueueBindOptions::default(), FieldTable::default());
    channel
        .queue_bind(name.clone(), "codex.events".into(), "#".into(), bind, none)
        .await?;
    let options = BasicConsumeOptions {
        no_ack: true,
        ..BasicConsumeOptions::default()
    };
    let mut events = channel
        .basic_consume(name, "".into(), options, FieldTable::default())
        .await?;
    tokio::spawn(async move {
        while let Some(Ok(event)) = events.next().await {
            let arrived = Instant::now();
            let kind = event
                .properties
                .kind()
                .as_ref()
                .map_or("", |kind| kind.as_str());
            let text = kind == "text_delta";
            let (start, end) = (kind == "message_start", kind == "message_end");
            let (lock, changed) = &*log;
            let mut log = lock.lock().unwrap_or_else(PoisonError::into_inner);
            let log = &mut *log;
            let id = event.routing_key.as_str();
            if log.keep.as_deref() == Some(id) {
                log.kept.push(Message {
                    body: event.data.clone(),
                    properties: event.properties.clone(),
                });
            }
            let place = place(&event.properties);
            let seen = log.turns.entry(id.to_owned()).or_default();
            if place <= seen.place {
                // Published before, as readers must expect.
                continue;
            }
            seen.place = place;
            seen.events += 1;
            if start {
                seen.starts.push(arrived);
            }
            if text {
                seen.first_text.get_or_insert(arrived);
            }
            if end {
                seen.end = Some(arrived);
                log.ended += 1;
                let body: Value = serde_json::from_slice(&event.data).unwrap_or_default();
                if body["stop_reason"] != "end_turn" {
                    log.wrong = Some(format!("a turn did not end well: {body}"));
                }
            }
            if start || end {
                changed.notify_waiters();
            }
        }
        drop(channel);
    });
    Ok(())
}
