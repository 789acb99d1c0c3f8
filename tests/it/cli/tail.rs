//! A turn that is read from the event log, on the system's RabbitMQ.

use serde_json::Value;

use super::call::Call;
use super::submit::producer;
use crate::support::broker::Broker;
use crate::support::poison::matrix;
use crate::support::pool::{Pool, turn};
use crate::support::raw_amqp::{Answer, RawMessage, RawProducer, typed};

const ON: (&str, &str) = ("EVENT_LOG", "on");

fn tail(url: &str, arguments: &[&str]) -> Call {
    producer(url, &[&["tail"], arguments].concat())
}

fn published_of(pool: &Pool, id: &str) -> Vec<Value> {
    pool.events.turn(id).all().cloned().collect()
}

/// Guards `Tail`: its beginning, what comes live, and where it goes on after
/// a connection is lost.
#[tokio::test]
async fn a_turn_is_read_from_the_log_and_goes_on_live_without_gap_or_duplicate() {
    let url = Broker::vhost();
    let mut pool = Pool::on(&url, 1, &[ON]).await;
    pool.enqueue(&[
        turn(
            "t1",
            "a",
            &["say one", "wait go", "say two", "wait end", "say three"],
        ),
        turn("other", "b", &["say something"]),
    ])
    .await;
    pool.events.said("t1", "one").await;
    pool.events.ended("other").await;

    let called = tail(&url, &["t1"]).start();
    called.printed("one").await;
    pool.release("go");
    called.printed("two").await;
    tokio::task::spawn_blocking({
        let url = url.clone();
        move || Broker::shared().close_all_connections(&url)
    })
    .await
    .unwrap();
    called.said("reading on").await;
    pool.release("end");
    let done = called.done().await.ended(0);
    assert_eq!(done.events(), published_of(&pool, "t1"));

    // Long after its end, all of it or a part.
    let again = tail(&url, &["--since", "1h", "t1"]).run().await.ended(0);
    assert_eq!(again.events(), published_of(&pool, "t1"));
    // A sequencer that has just come back holds what came before it, too.
    pool.ready().await;
    pool.enqueue(&[turn("last", "c", &[])]).await;
    pool.events.ended("last").await;
    pool.stop().await;
}

#[tokio::test]
async fn a_turn_that_is_not_in_the_log_is_an_error_unless_it_is_waited_for() {
    let url = Broker::vhost();
    let mut pool = Pool::on(&url, 1, &[ON]).await;
    pool.enqueue(&[turn("t1", "a", &["say one"])]).await;
    pool.events.ended("t1").await;
    let done = tail(&url, &["t2"]).run().await.ended(1);
    done.says_at_last(&["the event log has nothing of turn t2", "--wait"]);
    assert_eq!(done.out, "");

    let waiting = tail(&url, &["--wait", "t2"]).start();
    waiting.said("waiting for it").await;
    pool.enqueue(&[turn("t2", "a", &["fail no"])]).await;
    let done = waiting.done().await.ended(1);
    assert_eq!(done.events(), published_of(&pool, "t2"));
    pool.stop().await;
}

/// Guards `Origin`: the first event's workspace, unless another is named.
#[tokio::test]
async fn g5_a_turn_of_the_same_id_in_another_workspace_is_another_turn() {
    let url = Broker::vhost();
    let mut pool = Pool::on(&url, 1, &[ON]).await;
    for (workspace, of_id) in [("a", "t1"), ("b", "t1 in b")] {
        pool.enqueue(&[turn("t1", workspace, &["say hi"])]).await;
        pool.events.ended(of_id).await;
        pool.idle().await;
    }
    for (arguments, of_id) in [
        (&["t1"][..], "t1"),
        (&["--workspace", "a", "t1"], "t1"),
        (&["-w", "b", "t1"], "t1 in b"),
    ] {
        let done = tail(&url, arguments).run().await.ended(0);
        assert_eq!(done.events(), published_of(&pool, of_id), "{arguments:?}");
    }
    let done = tail(&url, &["-w", "c", "t1"]).run().await.ended(1);
    done.says_at_last(&["the event log has nothing of turn t1"]);
    pool.stop().await;
    let wrong = tail(&url, &["-w", "a b", "t1"]).run().await.ended(2);
    wrong.says(&["\"a b\"", "segments"]);
}

/// Guards that a reader of the log filters what it gets. A log has what
/// any event was published.
#[tokio::test]
async fn a_turn_is_read_from_a_log_with_poisonous_messages_in_it() {
    let url = Broker::vhost();
    let mut pool = Pool::on(&url, 1, &[ON]).await;
    let mut producer = RawProducer::new(&url);
    let mut taken = 0;
    let mut poisoned = async |part: usize| {
        let matrix = matrix();
        for poison in matrix.iter().skip(part).step_by(4) {
            // As of that turn, so that no broker leaves it out.
            let of_turn = typed(b'S', b"t1");
            let properties = poison
                .properties
                .clone()
                .header(b"x-stream-filter-value", &of_turn);
            let message = RawMessage::new("", b"codex.events.log", properties, b"{}");
            // A stream takes less than a queue does: no decimals, for example.
            taken += usize::from(producer.publish(&message).await == Answer::Taken);
        }
    };
    poisoned(0).await;
    pool.enqueue(&[turn("t1", "a", &["say one", "wait go", "say two"])])
        .await;
    pool.events.said("t1", "one").await;
    poisoned(1).await;
    let live = tail(&url, &["t1"]).start();
    live.printed("one").await;
    poisoned(2).await;
    pool.release("go");
    let done = live.done().await.ended(0);
    assert_eq!(done.events(), published_of(&pool, "t1"));
    poisoned(3).await;
    let again = tail(&url, &["--since", "1h", "t1"]).run().await.ended(0);
    assert_eq!(again.events(), published_of(&pool, "t1"));
    assert!(!again.err.contains("reading on"), "{again:?}");
    assert!(taken > 100, "{taken}");
    pool.stop().await;
}

#[tokio::test]
async fn what_is_in_the_way_of_reading_the_log_is_named() {
    let url = Broker::vhost();
    let pool = Pool::on(&url, 1, &[]).await;
    let done = tail(&url, &["t1"]).run().await.ended(1);
    done.says_at_last(&[
        "there is no event log",
        "codex.events.log",
        "TURN_WORKER_EVENT_LOG=on",
    ]);
    pool.stop().await;
    let wrong = tail(&url, &["a b"]).run().await.ended(2);
    wrong.says(&["\"a b\"", "A-Z"]);
    let wrong = tail(&url, &["--since", "yesterday", "t1"])
        .run()
        .await
        .ended(2);
    assert!(
        wrong.err.contains("expected first, or a duration"),
        "{wrong:?}"
    );
}
