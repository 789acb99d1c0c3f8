//! Timeouts and limits in size.

use std::fs;

use serde_json::json;

use crate::support::broker::Broker;
use crate::support::engine::is_exec;
use crate::support::limit::GROWING;
use crate::support::pool::{Pool, is_alive, turn};

/// Guards both clocks (`Clocks::stop`), and that a stopped turn leaves no process.
#[tokio::test]
async fn limits_in_time_end_turns_that_hear_no_signal() {
    for seconds in GROWING {
        if ended_in_time(seconds).await {
            return;
        }
    }
    panic!("no time was enough");
}

/// False if it was over for a turn before that had said anything, as on a slow machine.
async fn ended_in_time(seconds: u64) -> bool {
    let idle_limit = format!("{}s", seconds * 2);
    let mut pool = Pool::start(1, &[("TURN_IDLE_TIMEOUT", &idle_limit)]).await;
    let script = |name: &str| format!("daemon {name}");
    let hanging = ["ignore-signals", &script("of-wall"), "say hi", "hang"];
    let mut wall = turn("wall", "a", &hanging);
    wall["timeout_s"] = json!(seconds);
    let idle = ["ignore-signals", &script("of-idle"), "say hi", "hang"];
    pool.enqueue(&[wall, turn("idle", "b", &idle), turn("next", "a", &[])])
        .await;
    let limits = [("wall", "turn.timeout"), ("idle", "turn.idle_timeout")];
    for (id, code) in limits {
        let ended = pool.events.ended(id).await;
        assert_eq!(ended.stop_reason(), "timeout", "{id}");
        assert_eq!(ended.error_code(), Some(code), "{id}");
        assert_eq!(ended.attempt(), 1, "{id}");
        if ended.said(1).is_empty() {
            return false;
        }
        assert_eq!(ended.end().unwrap()["text"], "hi", "{id}");
        assert!(!is_alive(pool.started(id, 1).await.pid), "{id}");
        assert!(!is_alive(pool.pid_in(&format!("of-{id}"))), "{id}");
    }
    let next = pool.events.ended("next").await;
    if next.stop_reason() == "timeout" {
        return false;
    }
    assert_eq!(next.stop_reason(), "end_turn");
    pool.stop().await;
    true
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

/// Far more than the window of unconfirmed events (`WINDOW_EVENTS`) and codex's pipe have room for.
const FLOOD: usize = 2000;

/// Guards the window of unconfirmed events: waited for, never dropped.
#[tokio::test]
async fn g10_a_flood_arrives_whole_and_in_order() {
    let mut pool = Pool::start(1, &[]).await;
    pool.enqueue(&[turn("t1", "a", &[&format!("flood {FLOOD}")])])
        .await;
    let t1 = pool.events.ended("t1").await;
    let sent: Vec<String> = (0..FLOOD).map(|n| format!("message {n}")).collect();
    assert_eq!(t1.said(1), sent);
    assert_eq!(t1.end().unwrap()["text"], format!("message {}", FLOOD - 1));
    pool.stop().await;
}

/// Guards that codex is not read while events find no way out (`Outbox::push`):
/// it waits, and events don't pile up in the worker.
#[tokio::test]
async fn g10_a_blocked_broker_holds_codex_up() {
    let broker = Broker::private();
    let mut pool = Pool::on(&broker.url(), 1, &[]).await;
    let script = ["wait go", &format!("flood {FLOOD}"), "touch flooded"];
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
    let sent: Vec<String> = (0..FLOOD).map(|n| format!("message {n}")).collect();
    assert_eq!(t1.said(1), sent);
    pool.stop().await;
}
