//! Limits in time and size.

use std::fs;

use serde_json::json;

use crate::support::broker::Broker;
use crate::support::engine::is_exec;
use crate::support::pool::{Pool, is_alive, turn};

/// Guards both clocks (`Clocks::stop`), and that a stopped turn leaves nothing.
#[tokio::test]
async fn limits_in_time_end_turns_that_hear_no_signal() {
    let mut pool = Pool::start(1, &[("TURN_IDLE_TIMEOUT", "3s")]).await;
    let script = |name: &str| format!("daemon {name}");
    let hanging = ["ignore-signals", &script("of-wall"), "say hi", "hang"];
    let mut wall = turn("wall", "a", &hanging);
    wall["timeout_s"] = json!(1);
    let idle = ["ignore-signals", &script("of-idle"), "say hi", "hang"];
    pool.enqueue(&[wall, turn("idle", "b", &idle), turn("next", "a", &[])])
        .await;
    for (id, code) in [("wall", "turn.timeout"), ("idle", "turn.idle_timeout")] {
        let run = pool.started(id, 1).await;
        let ended = pool.events.ended(id).await;
        assert!(!is_alive(run.pid), "{id}");
        assert!(!is_alive(pool.pid_in(&format!("of-{id}"))), "{id}");
        assert_eq!(ended.stop_reason(), "timeout", "{id}");
        assert_eq!(ended.error_code(), Some(code), "{id}");
        assert_eq!(ended.attempt(), 1, "{id}");
        assert_eq!(ended.end().unwrap()["text"], "hi", "{id}");
    }
    assert_eq!(pool.events.ended("next").await.stop_reason(), "end_turn");
    pool.stop().await;
}

/// Guards the bound on lines (`codex::lines`).
#[tokio::test]
async fn g10_a_line_that_is_too_long_is_left_out_with_a_notice() {
    let mut pool = Pool::start(1, &[("MAX_LINE_BYTES", "4KiB")]).await;
    let script = ["say before", "long 1000000", "say after"];
    pool.enqueue(&[turn("t1", "a", &script)]).await;
    let t1 = pool.events.ended("t1").await;
    let notices = t1.all().filter(|event| event["type"] == "notice");
    let notices: Vec<_> = notices.map(|notice| &notice["code"]).collect();
    assert_eq!(notices, ["codex.line_too_long"]);
    assert_eq!(t1.stop_reason(), "end_turn");
    let said = t1.said(1);
    // In pieces it has come all the same.
    assert_eq!(said.len(), if is_exec() { 2 } else { 3 });
    assert_eq!((&*said[0], &*said[said.len() - 1]), ("before", "after"));
    pool.stop().await;
}

/// Guards the window of unconfirmed events: waited for, never dropped.
#[tokio::test]
async fn g10_a_flood_arrives_whole_and_in_order() {
    let mut pool = Pool::start(1, &[]).await;
    pool.enqueue(&[turn("t1", "a", &["flood 5000"])]).await;
    let t1 = pool.events.ended("t1").await;
    let sent: Vec<String> = (0..5000).map(|n| format!("message {n}")).collect();
    assert_eq!(t1.said(1), sent);
    assert_eq!(t1.end().unwrap()["text"], "message 4999");
    pool.stop().await;
}

/// Guards that codex is not read while events find no way out (`Outbox::push`):
/// it waits, and nothing piles up in the worker.
#[tokio::test]
async fn g10_a_broker_that_takes_nothing_holds_codex_up() {
    let broker = Broker::private();
    let mut pool = Pool::on(&broker.url(), 1, &[]).await;
    let script = ["wait go", "flood 5000", "touch flooded"];
    pool.enqueue(&[turn("t1", "a", &script)]).await;
    let run = pool.started("t1", 1).await;
    // Every node is above it.
    broker.ctl(&["set_vm_memory_high_watermark", "absolute", "1"]);
    pool.release("go");
    let io = format!("/proc/{}/io", run.pid);
    let mut written = (String::new(), 0);
    let stuck = async || {
        let now = fs::read_to_string(&io).unwrap();
        written = match now == written.0 {
            true => (now, written.1 + 1),
            false => (now, 0),
        };
        (written.1 == 50).then_some(())
    };
    pool.deadline.until("codex writes no more", stuck).await;
    assert!(!pool.stand_in_file("flooded").exists());
    broker.ctl(&["set_vm_memory_high_watermark", "0.9"]);
    let t1 = pool.events.ended("t1").await;
    let sent: Vec<String> = (0..5000).map(|n| format!("message {n}")).collect();
    assert_eq!(t1.said(1), sent);
    pool.stop().await;
}
