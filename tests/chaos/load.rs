//! The producer: enqueues turns in an order that is known, some of them twice,
//! and cancels some.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use anyhow::bail;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::{BasicProperties, Channel, Confirmation, Connection, ConnectionProperties};
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};

use crate::clock::{Nanos, now};
use crate::plan::turn::Turn;

/// What the broker takes to confirm, or else it is asked again.
const CONFIRM_LIMIT: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(200);
/// Turns in one go, of different workspaces.
const BATCH: usize = 16;

/// What the broker has confirmed.
#[derive(Debug, Default)]
pub struct Load {
    /// In the order in which they were enqueued.
    pub accepted: Vec<Accepted>,
    /// When what was published again or cancelled.
    pub again: Vec<(String, Nanos)>,
    pub cancelled: Vec<(String, Nanos)>,
}

#[derive(Debug)]
pub struct Accepted {
    pub turn: Turn,
    /// When the broker had confirmed it.
    pub at: Nanos,
}

pub struct Producer {
    url: String,
    /// Dropped and reopened after any error.
    open: RefCell<Option<(Connection, Channel)>>,
    pub load: RefCell<Load>,
    pub is_done: Cell<bool>,
}

/// What comes after so many turns were enqueued.
enum Later {
    Again(Turn),
    Cancel(Turn),
}

impl Producer {
    pub fn new(url: String) -> Rc<Self> {
        Rc::new(Self {
            url,
            open: RefCell::default(),
            load: RefCell::default(),
            is_done: Cell::new(false),
        })
    }

    /// Enqueues turns as long as there are any, and only while `has_room`.
    pub async fn run(&self, turns: impl Iterator<Item = Turn>, has_room: impl AsyncFn(usize)) {
        let mut turns = turns.peekable();
        let mut later: BTreeMap<usize, Vec<Later>> = BTreeMap::new();
        let mut enqueued = 0;
        while turns.peek().is_some() || !later.is_empty() {
            has_room(enqueued).await;
            let mut batch: Vec<Turn> = Vec::new();
            // Two of one workspace in a batch would leave their order to the broker's confirms.
            while batch.len() < BATCH
                && let Some(turn) =
                    turns.next_if(|next| batch.iter().all(|turn| turn.workspace != next.workspace))
            {
                batch.push(turn);
            }
            for turn in &batch {
                enqueued += 1;
                if let Some(after) = turn.again_after {
                    let due = later.entry(enqueued + after).or_default();
                    due.push(Later::Again(turn.clone()));
                }
                if let Some(after) = turn.cancel_after {
                    let due = later.entry(enqueued + after).or_default();
                    due.push(Later::Cancel(turn.clone()));
                }
            }
            self.enqueue(batch).await;
            // What is due after the last turn is due then.
            let is_last = turns.peek().is_none();
            while let Some(due) = later.first_entry()
                && (is_last || *due.key() <= enqueued)
            {
                for what in due.remove() {
                    self.follow_up(what).await;
                }
            }
        }
        self.is_done.set(true);
    }

    /// All of them, of different workspaces, are confirmed when this returns.
    pub async fn enqueue(&self, turns: Vec<Turn>) {
        let requests: Vec<Value> = turns.iter().map(Turn::request).collect();
        self.publish("codex.requests", "turn", &requests).await;
        let at = now();
        let accepted = turns.into_iter().map(|turn| Accepted { turn, at });
        self.load.borrow_mut().accepted.extend(accepted);
    }

    async fn follow_up(&self, what: Later) {
        match what {
            Later::Again(turn) => {
                self.publish("codex.requests", "turn", &[turn.request_again()])
                    .await;
                self.load.borrow_mut().again.push((turn.id, now()));
            }
            Later::Cancel(turn) => {
                // Noted before: it may be heard before it is confirmed.
                self.load
                    .borrow_mut()
                    .cancelled
                    .push((turn.id.clone(), now()));
                let cancel = json!({"action": "cancel", "turn_id": turn.id});
                self.publish("codex.control", "", &[cancel]).await;
            }
        }
    }

    /// Over and over, in order, until the broker has all of it.
    async fn publish(&self, exchange: &str, key: &str, messages: &[Value]) {
        let mut confirmed = 0;
        while confirmed < messages.len() {
            let left = &messages[confirmed..];
            let published = timeout(CONFIRM_LIMIT, self.try_publish(exchange, key, left)).await;
            match published {
                Ok(Ok(count)) if count > 0 => confirmed += count,
                _ => {
                    self.open.take();
                    sleep(PAUSE).await;
                }
            }
        }
    }

    /// How many of them, from the first on, are confirmed.
    async fn try_publish(
        &self,
        exchange: &str,
        key: &str,
        messages: &[Value],
    ) -> anyhow::Result<usize> {
        let channel = self.channel().await?;
        let mut confirms = Vec::new();
        for message in messages {
            let options = BasicPublishOptions {
                mandatory: !key.is_empty(),
                ..BasicPublishOptions::default()
            };
            let properties = BasicProperties::default().with_delivery_mode(2);
            let body = message.to_string();
            let publish = channel.basic_publish(
                exchange.into(),
                key.into(),
                options,
                body.as_bytes(),
                properties,
            );
            confirms.push(publish.await?);
        }
        let mut confirmed = 0;
        for confirm in confirms {
            match confirm.await {
                Ok(Confirmation::Ack(None)) => confirmed += 1,
                _ => break,
            }
        }
        if confirmed < messages.len() {
            self.open.take();
        }
        Ok(confirmed)
    }

    async fn channel(&self) -> anyhow::Result<Channel> {
        if let Some((_, channel)) = &*self.open.borrow() {
            return Ok(channel.clone());
        }
        let connection = Connection::connect(&self.url, ConnectionProperties::default()).await?;
        let channel = connection.create_channel().await?;
        channel
            .confirm_select(ConfirmSelectOptions::default())
            .await?;
        if !channel.status().connected() {
            bail!("the channel has ended");
        }
        *self.open.borrow_mut() = Some((connection, channel.clone()));
        Ok(channel)
    }

    /// Puts a message that is no event straight into a queue.
    pub async fn mark(&self, queue: &str) {
        self.publish("", queue, &[Value::Null]).await;
    }
}
