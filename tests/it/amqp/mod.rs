//! The room `amqp` on a real broker, a virtual host for each test.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod connecting;
mod consuming;
mod declaring;
mod publishing;

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use lapin::options::{BasicGetOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::FieldTable;
use tokio_util::sync::CancellationToken;
use turn_worker::amqp::connect::Connector;
use turn_worker::amqp::event_log::LogAlarm;
use turn_worker::amqp::link::Link;
use turn_worker::amqp::outbox::{
    DropReason, HoldUp, Outbox, OutboxMetrics, OutboxSettings, REFUSAL_LIMIT,
};
use turn_worker::amqp::pool::PublisherLink;
use turn_worker::amqp::topology::Topology;
use turn_worker::event::{EventBody, SealedEvent, Sealer};

use crate::support::broker::Broker;

/// A virtual host of its own on the node that all tests share.
struct Vhost {
    name: String,
    url: String,
}

impl Vhost {
    async fn new() -> Self {
        // The first call starts the node, which takes seconds.
        let url = tokio::task::spawn_blocking(Broker::vhost).await.unwrap();
        let (_, name) = url.rsplit_once('/').unwrap();
        Self {
            name: name.to_owned(),
            url,
        }
    }

    fn connector(&self) -> Connector {
        connector(&self.url)
    }

    async fn link(&self) -> Link {
        self.connector().connect().await.unwrap()
    }

    /// A link, with the topology declared.
    async fn declared(&self) -> Link {
        let link = self.link().await;
        topology().declare(&link).await.unwrap();
        link
    }

    /// What the broker's operator can do at any time.
    async fn close_all_connections(&self) {
        ctl(&["close_all_connections", "--vhost", &self.name, "a test"]).await;
    }
}

async fn ctl(arguments: &[&str]) -> String {
    let arguments: Vec<String> = arguments.iter().map(|&word| word.to_owned()).collect();
    let call = move || {
        let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
        Broker::shared().ctl(&words)
    };
    tokio::task::spawn_blocking(call).await.unwrap()
}

fn connector(url: &str) -> Connector {
    let url = url.to_owned();
    Connector::new("test", move || Ok(url.as_str().into()))
}

fn topology() -> Topology {
    Topology::new("codex", 100)
}

fn events(turn: &str) -> impl Iterator<Item = SealedEvent> + use<> {
    let mut sealer = Sealer::new(turn, "a", 1);
    std::iter::repeat_with(move || {
        let text = EventBody::TextDelta {
            item_id: "item_0".into(),
            text: "x".repeat(100),
        };
        sealer.seal(text, "2026-01-02T03:04:05Z".parse().unwrap())
    })
}

/// A durable queue bound to all events, as a producer has.
async fn reader_queue(link: &Link, arguments: FieldTable) -> String {
    let queue = format!("reader-{}", uuid::Uuid::new_v4());
    let channel = link.channel().await.unwrap();
    channel
        .queue_declare(
            queue.as_str().into(),
            QueueDeclareOptions::durable(),
            arguments,
        )
        .await
        .unwrap();
    channel
        .queue_bind(
            queue.as_str().into(),
            "codex.events".into(),
            "#".into(),
            QueueBindOptions::default(),
            FieldTable::default(),
        )
        .await
        .unwrap();
    queue
}

/// What is in a queue, taken out.
async fn take_all(link: &Link, queue: &str) -> Vec<lapin::message::Delivery> {
    let channel = link.channel().await.unwrap();
    let mut all = Vec::new();
    let options = BasicGetOptions { no_ack: true };
    while let Some(message) = channel.basic_get(queue.into(), options).await.unwrap() {
        all.push(message.delivery);
    }
    all
}

fn message_ids(deliveries: &[lapin::message::Delivery]) -> Vec<String> {
    let id = |delivery: &lapin::message::Delivery| {
        delivery
            .properties
            .message_id()
            .clone()
            .unwrap()
            .to_string()
    };
    deliveries.iter().map(id).collect()
}

/// Without what came before: what a reader that follows the contract sees.
fn first_seen(ids: Vec<String>) -> Vec<String> {
    let mut seen = std::collections::HashSet::new();
    ids.into_iter()
        .filter(|id| seen.insert(id.clone()))
        .collect()
}

#[derive(Default)]
struct Counts {
    confirmed: Mutex<Vec<String>>,
    nacked: AtomicU32,
    dropped: Mutex<Vec<(String, DropReason)>>,
    held_up: Mutex<Option<HoldUp>>,
}

impl OutboxMetrics for Counts {
    fn confirmed(&self, kind: &str, _: std::time::Duration) {
        self.confirmed.lock().unwrap().push(kind.to_owned());
    }

    fn nacked(&self) {
        self.nacked.fetch_add(1, Ordering::SeqCst);
    }

    fn dropped(&self, kind: &str, reason: DropReason) {
        let dropped = (kind.to_owned(), reason);
        self.dropped.lock().unwrap().push(dropped);
    }

    fn held_up(&self, _: Option<&HoldUp>, now: Option<&HoldUp>) {
        *self.held_up.lock().unwrap() = now.cloned();
    }
}

struct Publishing {
    cut: CancellationToken,
    publisher: PublisherLink,
    counts: Arc<Counts>,
    outbox: Outbox,
}

/// As the product publishes.
fn publishing(url: &str) -> Publishing {
    publishing_with(url, REFUSAL_LIMIT)
}

fn publishing_with(url: &str, refusal_limit: u32) -> Publishing {
    let cut = CancellationToken::new();
    let publisher = PublisherLink::start(connector(url), 4, cut.clone());
    let counts = Arc::new(Counts::default());
    let settings = OutboxSettings {
        exchange: "codex.events".into(),
        metrics: Arc::clone(&counts) as Arc<dyn OutboxMetrics>,
        refusal_limit,
        alarm: LogAlarm::default(),
    };
    let outbox = Outbox::start(publisher.clone(), settings, &cut);
    Publishing {
        cut,
        publisher,
        counts,
        outbox,
    }
}
