//! A turn that is followed through interruptions.

use rustix::process::Signal;

use serde_json::json;

use super::submit::producer;
use crate::clients::scripted::Scripted;
use crate::support::broker::Broker;
use crate::support::pool::Pool;
use crate::support::proxy::Proxy;

const SCRIPT: &str = "t1\nsay before\nwait go\nsay after";

/// Everything of the first turn is settled when a later one of its workspace
/// has ended.
async fn settled(url: &str, pool: &Pool) {
    let later = producer(url, &["submit", "-w", "a", "later"]);
    later.run().await.ended(0);
    assert_eq!(pool.runs().of_turn("t1").count(), 1);
}

/// Guards `Origin`: an event under the turn's id may be of another turn.
#[tokio::test]
async fn g5_a_forged_answer_is_not_followed() {
    let url = Broker::vhost();
    let mut scripted = Scripted::on(&url).await;
    let start = |workspace: &str, attempt: u32| json!({"attempt": attempt, "seq": 0, "type": "message_start", "workspace": workspace});
    let end = |workspace: &str, attempt: u32, text: &str| {
        json!({"attempt": attempt, "seq": 1, "type": "message_end", "workspace": workspace,
               "stop_reason": "end_turn", "text": text, "duration_ms": 1})
    };
    let told = [
        start("b", 9),
        end("b", 9, "FORGED"),
        start("a", 1),
        end("x/a", 9, "FORGED"),
        end("a", 1, "Genuine."),
    ];
    for workspace in ["a", "/srv/a"] {
        let called = producer(&url, &["submit", "-w", workspace, "t1"]).start();
        scripted.tell(&told).await;
        let done = called.done().await.ended(0);
        let texts: Vec<_> = done
            .events()
            .iter()
            .map(|event| event["text"].clone())
            .collect();
        assert_eq!(texts, [json!(null), json!("Genuine.")], "{workspace}");
    }
}

/// Guards that a follower listens again (`Follow::restore`).
#[tokio::test]
async fn a_lost_connection_is_reported_and_restored() {
    let url = Broker::vhost();
    let pool = Pool::on(&url, 1, &[]).await;
    let arguments = ["submit", "-w", "a", "--turn-id", "t1", SCRIPT];
    let called = producer(&url, &arguments).start();
    called.printed("before").await;
    Broker::shared().close_all_connections(&url);
    called.said("lost the broker").await;
    called.said("following turn t1 again").await;
    pool.release("go");
    let done = called.done().await.ended(0);
    let events = done.events();
    assert_eq!(events.last().unwrap()["text"], "after");
    let mut sorted = events.clone();
    sorted.sort_by_key(|event| event["seq"].as_u64());
    sorted.dedup_by_key(|event| event["seq"].as_u64());
    assert_eq!(events, sorted, "something came twice, or too late");
    settled(&url, &pool).await;
    pool.stop().await;
}

/// Guards that the request is sent again after a lost connection: the turn's
/// end came without a listener.
#[tokio::test]
async fn an_end_that_was_missed_is_printed_all_the_same() {
    let url = Broker::vhost();
    let pool = Pool::on(&url, 1, &[]).await;
    let arguments = ["submit", "-w", "a", "--turn-id", "t1", SCRIPT];
    let called = producer(&url, &arguments).start();
    called.printed("before").await;
    called.signal(Signal::STOP);
    Broker::shared().close_all_connections(&url);
    pool.release("go");
    pool.events.ended("t1").await;
    // The workers have lost their connections too, and may publish the end twice.
    settled(&url, &pool).await;
    called.signal(Signal::CONT);
    let done = called.done().await.ended(0);
    let events = done.events();
    assert_eq!(events.last().unwrap()["type"], "message_end");
    assert_eq!(events.last().unwrap()["text"], "after");
    settled(&url, &pool).await;
    pool.stop().await;
}

/// Guards `Follow::ask_again`: the end reached no reader, and the request that was sent again came before
/// the sequencer had heard of that end, so that it was dropped as one sent twice.
#[tokio::test]
async fn an_end_that_was_missed_is_asked_for_until_it_is_published() {
    let url = Broker::vhost();
    let mut worker = Scripted::on(&url).await;
    let proxy = Proxy::before(&url).await;
    let called = producer(&proxy.url, &["submit", "-w", "a", "hi"]).start();
    let time = "2026-01-02T03:04:05.000Z";
    let start =
        json!({"attempt": 1, "seq": 0, "time": time, "type": "message_start", "workspace": "a"});
    worker.tell(std::slice::from_ref(&start)).await;
    called.printed("message_start").await;
    proxy.cut();
    called.said("again").await;
    // Twice dropped; the third time it is known to have ended.
    worker.tell(&[]).await;
    worker.tell(&[]).await;
    let end = json!({"attempt": 1, "seq": 1, "time": time, "type": "message_end",
        "stop_reason": "end_turn", "text": "done", "duration_ms": 1});
    worker.tell(&[end]).await;
    let events = called.done().await.ended(0).events();
    assert_eq!(events.last().unwrap()["text"], "done");
}

/// Guards that a follower knows a new attempt from the old one's events.
#[tokio::test]
async fn g6_a_worker_that_dies_shows_as_a_new_attempt() {
    let url = Broker::vhost();
    let mut pool = Pool::on(&url, 1, &[]).await;
    let arguments = ["submit", "-w", "a", "--turn-id", "t1", SCRIPT];
    let called = producer(&url, &arguments).start();
    called.printed("before").await;
    pool.process(0).kill();
    pool.spawn(&[]);
    pool.started("t1", 2).await;
    pool.release("go");
    let events = called.done().await.ended(0).events();
    let attempts: Vec<u64> = events
        .iter()
        .map(|event| event["attempt"].as_u64().unwrap())
        .collect();
    assert!(attempts.is_sorted(), "{attempts:?}");
    assert_eq!(attempts.first(), Some(&1));
    assert_eq!(attempts.last(), Some(&2));
    pool.stop().await;
}
