//! What comes back besides the order of things.

use serde_json::json;

use crate::support::engine;
use crate::support::pool::{Pool, turn};

/// Guards the emitter's filter, behind which events are numbered.
#[tokio::test]
async fn events_are_few_where_few_are_wanted() {
    let mut pool = Pool::start(1, &[("EVENTS", "minimal")]).await;
    let script = ["think so", "say one", "run true", "reconnect", "say two"];
    pool.enqueue(&[turn("t1", "a", &script), turn("t2", "a", &["fail no"])])
        .await;
    let t1 = pool.events.ended("t1").await;
    let kinds = ["message_start", "text_delta", "text_delta", "message_end"];
    assert_eq!(t1.kinds(1), kinds);
    let t2 = pool.events.ended("t2").await;
    assert_eq!(t2.kinds(1), ["message_start", "error", "message_end"]);
    pool.stop().await;
}

/// Guards what the contract promises of the first and the last event.
#[tokio::test]
async fn events_carry_metadata_text_thread_and_usage() {
    let mut pool = Pool::start(1, &[]).await;
    let script = ["think so", "run echo hello", "say one", "say two"];
    let mut request = turn("t1", "a/b", &script);
    request["metadata"] = json!({"ticket": "42", "deep": [1, {"x": null}]});
    pool.enqueue(&[request.clone()]).await;
    let t1 = pool.events.ended("t1").await;
    let kinds = [
        "message_start",
        "thinking_delta",
        "tool_use",
        "tool_result",
        "text_delta",
        "text_delta",
        "message_end",
    ];
    assert_eq!(t1.kinds(1), kinds);
    let events = engine::whole(&t1.attempts[&1]);
    assert_eq!(events[0]["workspace"], "a/b");
    assert_eq!(events[2]["input"], json!({"command": "echo hello"}));
    assert_eq!(events[3]["tool_use_id"], events[2]["id"]);
    assert_eq!(events[3]["content"]["aggregated_output"], "hello\n");
    let end = t1.end().unwrap();
    for event in [&events[0], end] {
        assert_eq!(event["metadata"], request["metadata"]);
    }
    assert_eq!(end["text"], "two");
    // Three answers of the model.
    let usage = json!({"input_tokens": 300, "cache_read_tokens": 120, "cache_write_tokens": 0,
                       "output_tokens": 60, "thinking_tokens": 15});
    assert_eq!(end["usage"], usage);
    pool.stop().await;
}

/// Guards G7's difference of totals, and that the conversation goes on.
#[tokio::test]
async fn g7_turns_of_one_workspace_share_a_thread_and_report_their_own_tokens() {
    let mut pool = Pool::start(2, &[]).await;
    pool.enqueue(&[
        turn("t1", "a", &["say one"]),
        turn("t2", "a", &[]),
        turn("t3", "b", &[]),
    ])
    .await;
    let (t1, t2) = (pool.events.ended("t1").await, pool.events.ended("t2").await);
    let t3 = pool.events.ended("t3").await;
    let thread = |turn: &crate::support::pool::Turn| turn.end().unwrap()["thread_id"].clone();
    assert_eq!(thread(&t1), thread(&t2));
    assert_ne!(thread(&t1), thread(&t3));
    let input = |turn: &crate::support::pool::Turn| {
        turn.end().unwrap()["usage"]["input_tokens"]
            .as_u64()
            .unwrap()
    };
    assert_eq!((input(&t1), input(&t2), input(&t3)), (200, 100, 100));
    pool.stop().await;
}
