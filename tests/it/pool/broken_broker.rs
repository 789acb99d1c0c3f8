//! G4 and G6 while the broker restarts, dies or hangs up, and what the pool
//! says when its objects are not its own.

use lapin::options::QueueDeclareOptions;
use lapin::types::FieldTable;
use lapin::{Connection, ConnectionProperties};

use crate::support::broker::Broker;
use crate::support::pool::{Pool, turn};

/// One turn runs and three wait while `outage` happens; then one more comes.
async fn survives(broker: &mut Broker, outage: impl FnOnce(&mut Broker)) {
    let mut pool = Pool::on(&broker.url(), 2, &[]).await;
    let talk = ["say before", "wait go", "say after"];
    let mut requests = vec![turn("t0", "a", &talk)];
    requests.extend((1..=3).map(|n| turn(&format!("t{n}"), "a", &["say hi"])));
    pool.enqueue(&requests).await;
    pool.events.said("t0", "before").await;
    outage(broker);
    pool.release("go");
    pool.events.all_ended(["t0", "t1", "t2", "t3"]).await;
    pool.ready().await;
    pool.enqueue(&[turn("t4", "a", &[])]).await;
    pool.events.ended("t4").await;
    let turns: Vec<_> = pool.runs().all.into_iter().map(|run| run.turn).collect();
    assert_eq!(turns, ["t0", "t1", "t2", "t3", "t4"], "each once, in order");
    assert_eq!(pool.events.turn("t0").said(1), ["before", "after"]);
    pool.all_slots_take().await;
    pool.stop().await;
}

/// Guards that everything is persistent, durable and acked last.
#[tokio::test]
async fn g4_a_broker_that_restarts_loses_no_turn() {
    let mut broker = Broker::private();
    survives(&mut broker, |broker| {
        broker.stop();
        broker.start();
    })
    .await;
}

/// Guards that what the broker has not confirmed is published again.
#[tokio::test]
async fn g4_a_broker_that_is_killed_loses_no_turn() {
    let mut broker = Broker::private();
    survives(&mut broker, |broker| {
        broker.kill();
        broker.start();
    })
    .await;
}

/// Guards that a worker keeps its turns when it loses its connection, and that
/// every part of every process comes back.
#[tokio::test]
async fn g6_a_turn_goes_on_when_all_connections_are_lost() {
    let url = Broker::vhost();
    let mut pool = Pool::on(&url, 2, &[("SLOTS", "1")]).await;
    let talk = ["say before", "wait go", "say after", "flood 200"];
    pool.enqueue(&[turn("t1", "a", &talk)]).await;
    pool.events.said("t1", "before").await;
    Broker::shared().close_all_connections(&url);
    pool.release("go");
    let t1 = pool.events.ended("t1").await;
    assert_eq!((t1.stop_reason(), t1.attempt()), ("end_turn", 1));
    assert_eq!(t1.said(1).len(), 202);
    for process in pool.processes() {
        for connection in ["publisher", "sequencer", "worker"] {
            let series =
                format!(r#"turn_worker_amqp_reconnects_total{{connection="{connection}"}}"#);
            process.metric_is(&series, 1.0).await;
        }
    }
    pool.ready().await;
    // One slot each: these two run at the same time only if both processes take offers.
    pool.enqueue(&[
        turn("t2", "b", &["touch two", "wait three"]),
        turn("t3", "c", &["touch three", "wait two"]),
    ])
    .await;
    pool.events.all_ended(["t2", "t3"]).await;
    assert_eq!(pool.runs().of_turn("t1").count(), 1);
    pool.stop().await;
}

/// Guards that `serve` declares before it starts anything, and gives up.
#[tokio::test]
async fn a_queue_that_is_there_with_other_arguments_ends_the_process() {
    let url = Broker::vhost();
    let connection = Connection::connect(&url, ConnectionProperties::default())
        .await
        .unwrap();
    let channel = connection.create_channel().await.unwrap();
    let (durable, classic) = (QueueDeclareOptions::durable(), FieldTable::default());
    channel
        .queue_declare("codex.turns".into(), durable, classic)
        .await
        .unwrap();
    let mut pool = Pool::on(&url, 0, &[]).await;
    let number = pool.spawn(&[]);
    assert_eq!(pool.process(number).exited().await, Some(1));
    let log = pool.process(number).log_text();
    let error = log.lines().last().unwrap();
    assert!(error.starts_with("turn-worker: "), "{error}");
    for named in ["codex.turns", "x-single-active-consumer"] {
        assert!(error.contains(named), "{named} is not in {error}");
    }
}
