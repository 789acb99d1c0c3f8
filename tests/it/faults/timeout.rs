//! The broker's limit for how long a delivery may be unacked.

use futures_util::StreamExt;
use lapin::options::{
    BasicConsumeOptions, BasicPublishOptions, BasicQosOptions, QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Connection, ConnectionProperties};

use crate::support::broker::Broker;
use crate::support::pool::{Pool, turn};

/// Four seconds, looked at twice a second; half an hour and a minute otherwise.
/// (Below the 2.5 s for which a successor listens, turns would never move.)
const SHORT: &str = "application:set_env(rabbit, consumer_timeout, 4000),
                     application:set_env(rabbit, channel_tick_interval, 500).";

/// Holds a message of a queue that is as the pool's are, but for their own
/// limit, until the broker has had enough of that.
async fn past_the_limit(url: &str) {
    let properties = ConnectionProperties::default();
    let connection = Connection::connect(url, properties).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    let mut quorum = FieldTable::default();
    let kind = AMQPValue::LongString("quorum".into());
    quorum.insert("x-queue-type".into(), kind);
    let (durable, plain) = (
        QueueDeclareOptions::durable(),
        BasicConsumeOptions::default(),
    );
    let declare = channel.queue_declare("held".into(), durable, quorum);
    declare.await.unwrap();
    let one = channel.basic_qos(1, BasicQosOptions::default());
    one.await.unwrap();
    let properties = BasicProperties::default();
    let options = BasicPublishOptions::default();
    let publish = channel.basic_publish("".into(), "held".into(), options, b"", properties);
    publish.await.unwrap();
    let consume = channel.basic_consume("held".into(), "".into(), plain, FieldTable::default());
    let mut consumer = consume.await.unwrap();
    let _held = consumer.next().await.unwrap().unwrap();
    // An error or the end, depending on the broker.
    assert!(!matches!(consumer.next().await, Some(Ok(_))));
}

/// RabbitMQ before 3.12 does not.
fn heeds_the_queues_limit(broker: &Broker) -> bool {
    let version = broker.ctl(&["version"]);
    let mut numbers = version.trim().split('.').map(|part| part.parse::<u32>());
    let mut next = || numbers.next().unwrap().unwrap();
    (next(), next()) >= (3, 12)
}

/// Guards that a slot with a channel that was closed while it ran a turn brings the
/// worker to start over (`Worker::serve_slot`), and, where the broker heeds it, the queues' own limit
/// (`Topology::work_arguments`).
#[tokio::test]
async fn g4_a_turn_goes_on_past_the_brokers_acknowledgement_timeout() {
    let broker = Broker::private();
    broker.ctl(&["eval", SHORT]);
    let url = broker.url();
    let mut pool = Pool::on(&url, 2, &[("SLOTS", "2")]).await;
    let talk = ["say before", "wait go", "flood 100"];
    pool.enqueue(&[turn("t1", "a", &talk), turn("t2", "a", &["say hi"])])
        .await;
    pool.events.said("t1", "before").await;
    past_the_limit(&url).await;
    if !heeds_the_queues_limit(&broker) {
        // The offer comes again, to another slot; who holds the turns changes.
        let redelivered = async || {
            let count = pool.metric("turn_worker_redeliveries_total").await;
            (count > 0.0).then_some(())
        };
        pool.deadline
            .until("an offer comes again", redelivered)
            .await;
    }
    pool.release("go");
    pool.events.all_ended(["t1", "t2"]).await;
    assert_eq!(pool.events.turn("t1").said(1).len(), 101);
    assert_eq!(pool.runs().first_starts()["a"], ["t1", "t2"]);
    for id in ["t1", "t2"] {
        assert_eq!(pool.runs().of_turn(id).count(), 1, "{id}");
    }
    pool.all_slots_take().await;
    pool.stop().await;
}
