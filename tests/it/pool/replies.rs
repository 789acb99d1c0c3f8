//! `reply_to` of a request: its end goes to that queue, too.

use futures_util::StreamExt;
use lapin::options::{BasicConsumeOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Connection, ConnectionProperties, Consumer};
use serde_json::Value;

use crate::support::broker::Broker;
use crate::support::pool::{Pool, persistent, turn};

pub(super) struct Caller {
    consumer: Consumer,
    pub queue: String,
    _connection: Connection,
}

/// What a caller got.
pub(super) struct Reply {
    pub kind: String,
    pub correlation_id: String,
    message_id: Option<String>,
    headers: FieldTable,
    pub body: Value,
}

impl Caller {
    /// With a queue that the broker names.
    pub async fn start(url: &str) -> Self {
        let connection = Connection::connect(url, ConnectionProperties::default());
        let connection = connection.await.unwrap();
        let channel = connection.create_channel().await.unwrap();
        let options = QueueDeclareOptions {
            exclusive: true,
            ..QueueDeclareOptions::default()
        };
        let queue = channel.queue_declare("".into(), options, FieldTable::default());
        let queue = queue.await.unwrap().name().to_string();
        let options = BasicConsumeOptions {
            no_ack: true,
            ..BasicConsumeOptions::default()
        };
        let arguments = FieldTable::default();
        let consumer = channel.basic_consume(queue.as_str().into(), "".into(), options, arguments);
        Self {
            consumer: consumer.await.unwrap(),
            queue,
            _connection: connection,
        }
    }

    fn calls(&self, request: &Value, correlation_id: &str) -> (Vec<u8>, BasicProperties) {
        calls(request, &self.queue, correlation_id)
    }

    pub async fn next(&mut self) -> Reply {
        let delivery = self.consumer.next().await.unwrap().unwrap();
        let text = |text: &Option<lapin::types::ShortString>| text.as_ref().unwrap().to_string();
        let properties = &delivery.properties;
        Reply {
            kind: text(properties.kind()),
            correlation_id: text(properties.correlation_id()),
            message_id: properties.message_id().as_ref().map(ToString::to_string),
            headers: properties.headers().clone().unwrap_or_default(),
            body: serde_json::from_slice(&delivery.data).unwrap(),
        }
    }
}

fn calls(request: &Value, queue: &str, correlation_id: &str) -> (Vec<u8>, BasicProperties) {
    let properties = persistent()
        .with_reply_to(queue.into())
        .with_correlation_id(correlation_id.into());
    (request.to_string().into_bytes(), properties)
}

/// Guards `Session::called` and `Actor::reply`: for each kind of end, for one
/// that is asked for while the turn runs, and for one that is asked for again.
#[tokio::test]
async fn g5_a_caller_gets_the_end_of_its_turn_however_it_ended() {
    let url = Broker::vhost();
    let mut pool = Pool::on(&url, 1, &[]).await;
    let (mut caller, mut other) = (Caller::start(&url).await, Caller::start(&url).await);
    let runs = turn("t1", "a", &["say one", "wait go"]);
    let mut rejected = turn("t2", "b", &[]);
    rejected["timeout_s"] = 0.into();
    pool.producer
        .enqueue_raw(&[
            caller.calls(&runs, "call-1"),
            caller.calls(&turn("t3", "a", &[]), "call-3"),
            caller.calls(&rejected, "call-2"),
        ])
        .await;
    let reply = caller.next().await;
    assert_eq!(
        (&*reply.correlation_id, reply.message_id.as_deref()),
        ("call-2", Some("t2/0/2"))
    );
    assert_eq!(reply.kind, "message_end");
    let header = |name: &str| reply.headers.inner().get(name).cloned();
    let code = AMQPValue::LongString("request.invalid".into());
    assert_eq!(header("x-error-code"), Some(code));
    assert_eq!(header("x-error-retryable"), Some(AMQPValue::Boolean(false)));

    pool.started("t1", 1).await;
    pool.cancel("t3").await;
    let reply = caller.next().await;
    assert_eq!(reply.correlation_id, "call-3");
    assert_eq!(reply.body["stop_reason"], "cancelled");
    // Asked for again while it runs, by another caller, with a queue that does not exist, and with one of the pool's.
    let gone = "gone.0123456789abcdef0123456789abcdef";
    pool.producer
        .enqueue_raw(&[
            other.calls(&runs, "again"),
            calls(&runs, gone, "gone"),
            calls(&runs, "codex.turns.dead", "forged"),
        ])
        .await;
    pool.metric_is("turn_worker_duplicate_turns_total", 3.0)
        .await;
    pool.release("go");
    let (one, two) = (caller.next().await, other.next().await);
    assert_eq!(
        (&*one.correlation_id, &*two.correlation_id),
        ("call-1", "again")
    );
    let end = pool.events.ended("t1").await.end().unwrap().clone();
    assert_eq!((&one.body, &two.body), (&end, &end));
    // Asked for when it has ended.
    pool.producer
        .enqueue_raw(&[other.calls(&runs, "late")])
        .await;
    let late = other.next().await;
    assert_eq!((&*late.correlation_id, &late.body), ("late", &end));

    let outcome = |outcome: &str| format!("turn_worker_replies_total{{outcome=\"{outcome}\"}}");
    pool.metric_is(&outcome("sent"), 5.0).await;
    pool.metric_is(&outcome("unroutable"), 1.0).await;
    pool.metric_is(&outcome("refused"), 1.0).await;
    pool.ready_in("codex.turns.dead", 1).await;
    pool.stop().await;
}
