//! What keeps the broker from delivering turns: a message that it cannot
//! deliver at all, and a consumer that takes them away.

use crate::support::broker::Broker;
use crate::support::operator::Operator;
use crate::support::pool::{Pool, persistent, turn};
use crate::support::undeliverable_proxy::UndeliverableProxy;

/// What no delivery may hold.
const MARKER: &str = "cannot-be-delivered";
const REMOVED: &str = "turn_worker_undeliverable_turns_total";
const UNDELIVERABLE: &str = r#"turn_worker_condition{condition="turn_undeliverable"}"#;
const FOREIGN: &str = r#"turn_worker_condition{condition="foreign_consumer"}"#;

/// Guards that such a message is found (`HeadSearch`), removed alone
/// (`Sequencer::remove`), and recorded, and that the others keep their order
/// (`Intake`): those before it, one of which runs, and those behind it.
#[tokio::test]
async fn g1_g2_g4_a_message_that_the_broker_cannot_deliver_is_removed() {
    let url = Broker::vhost();
    let proxy = UndeliverableProxy::before(&url, MARKER).await;
    let mut pool = Pool::on(&url, 0, &[("SLOTS", "2")]).await;
    for _ in 0..2 {
        pool.spawn(&[("AMQP_URL", proxy.url.as_str())]);
    }
    pool.ready().await;
    pool.enqueue(&[turn("t1", "a", &["wait go"])]).await;
    pool.started("t1", 1).await;
    let before = ["t2", "t3"].map(|id| turn(id, "a", &["say hi"]));
    pool.enqueue(&before).await;
    let message = (MARKER.as_bytes().to_vec(), persistent());
    pool.producer.enqueue_raw(&[message.clone(), message]).await;
    let behind = ["t4", "t5"].map(|id| turn(id, "a", &["say hi"]));
    pool.enqueue(&behind).await;
    pool.metric_is(REMOVED, 2.0).await;
    // Another workspace's turns go on, beside the one that has run all the time.
    pool.enqueue(&[turn("t6", "b", &["say hi"])]).await;
    pool.events.ended("t6").await;
    assert_eq!(pool.runs().of_turn("t1").count(), 1);
    pool.release("go");
    pool.events.all_ended(["t1", "t2", "t3", "t4", "t5"]).await;
    assert_eq!(
        pool.runs().first_starts()["a"],
        ["t1", "t2", "t3", "t4", "t5"]
    );
    pool.metric_is(UNDELIVERABLE, 0.0).await;
    assert!(proxy.crashes() > 0);
    let letters = pool.producer.dead_letters(2).await;
    for letter in letters {
        assert_eq!(letter.code, "turn.undeliverable");
        assert!(letter.body.is_empty());
    }
    pool.stop().await;
}

/// Guards that a consumer which is no sequencer is reported (`Peers`) when
/// turns are ready that no sequencer gets, and that the report ends with it.
#[tokio::test]
async fn a_consumer_that_takes_turns_away_is_reported_while_it_is_there() {
    let url = Broker::vhost();
    let mut pool = Pool::on(&url, 0, &[("SLOTS", "1")]).await;
    let first = pool.spawn(&[]);
    pool.ready().await;
    let operator = Operator::of(&url).await;
    let stranger = operator.consume("codex.turns").await;
    pool.process(first).kill();
    // From now on the stranger is the active one, and holds one turn.
    pool.spawn(&[]);
    pool.ready().await;
    let turns = ["t1", "t2", "t3"].map(|id| turn(id, "a", &["say hi"]));
    pool.enqueue(&turns).await;
    pool.metric_is(FOREIGN, 1.0).await;
    // It is a warning: the process is ready.
    pool.ready().await;
    stranger.end().await;
    pool.events.all_ended(["t1", "t2", "t3"]).await;
    assert_eq!(pool.runs().first_starts()["a"], ["t1", "t2", "t3"]);
    pool.metric_is(FOREIGN, 0.0).await;
    pool.stop().await;
}
