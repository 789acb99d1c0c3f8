//! W3C Trace Context, from a request to its events and to the log. That all
//! events of a turn have the same headers is checked wherever events are read.

use lapin::types::{AMQPValue, FieldTable};
use serde_json::{Value, json};

use crate::support::pool::{Pool, persistent, trace_of, turn};

const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

fn assert_traced(pool: &Pool, id: &str, trace: &FieldTable) {
    for name in ["traceparent", "tracestate"] {
        let (found, sent) = (pool.events.header(id, name), trace.inner().get(name));
        assert_eq!(found.as_ref(), sent, "{name} of {id}");
    }
}

fn headers(pairs: &[(&str, &str)]) -> FieldTable {
    let mut headers = FieldTable::default();
    for (name, value) in pairs {
        headers.insert((*name).into(), AMQPValue::LongString((*value).into()));
    }
    headers
}

/// Guards `Sealer::traced` wherever events are sealed, and that the outbox
/// sends what it says: in the first attempt, in the one after a death, for a
/// turn that never runs, for what is published again.
#[tokio::test]
async fn g6_every_event_of_a_turn_is_in_its_requests_trace() {
    let mut pool = Pool::start(1, &[]).await;
    let (runs, waits) = (
        turn("t1", "a", &["say one", "wait go"]),
        turn("t2", "a", &[]),
    );
    pool.enqueue(&[runs.clone(), waits]).await;
    pool.events.said("t1", "one").await;
    pool.cancel("t2").await;
    pool.events.ended("t2").await;
    pool.process(0).kill();
    pool.release("go");
    pool.spawn(&[]);
    assert_eq!(pool.events.ended("t1").await.attempt(), 2);
    pool.idle().await;
    let sent = trace_of("t1");
    let parent = sent.inner()["traceparent"].as_long_string().unwrap();
    let parent = std::str::from_utf8(parent.as_bytes()).unwrap();
    let lines = pool.process(1).log_lines();
    let of_t1: Vec<&Value> = lines
        .iter()
        .filter(|line| line["span"]["turn_id"] == "t1")
        .collect();
    assert!(!of_t1.is_empty());
    for line in of_t1 {
        assert_eq!(line["span"]["trace_id"], parent[3..35], "{line}");
    }

    // Sent again in another trace, it is the same turn, published as it was.
    let body = runs.to_string().into_bytes();
    let other = persistent().with_headers(headers(&[("traceparent", PARENT)]));
    pool.producer.enqueue_raw(&[(body, other)]).await;
    pool.events.ended_again("t1", 1).await;
    for id in ["t1", "t2"] {
        assert_traced(&pool, id, &trace_of(id));
    }
    pool.stop().await;
}

/// Guards `Rejection::trace`, and that a trace never costs a turn.
#[tokio::test]
async fn g5_a_trace_comes_in_headers_or_in_the_body_and_a_broken_one_is_ignored() {
    let mut pool = Pool::start(1, &[]).await;
    let mut in_body = turn("in-body", "a", &[]);
    in_body["traceparent"] = json!(PARENT);
    in_body["tracestate"] = json!("a=1,b=2");
    let mut broken = turn("broken", "a", &[]);
    broken["traceparent"] = json!({"not": "a text"});
    let sent = headers(&[("traceparent", PARENT), ("tracestate", "a=1,b=2")]);
    let not_json = persistent().with_message_id("not-json".into());
    let nonsense = headers(&[("traceparent", "00-nonsense"), ("tracestate", "a=1")]);
    pool.producer
        .enqueue_raw(&[
            (in_body.to_string().into_bytes(), persistent()),
            (
                broken.to_string().into_bytes(),
                persistent().with_headers(nonsense),
            ),
            (b"{".to_vec(), not_json.with_headers(sent.clone())),
        ])
        .await;
    assert_eq!(pool.events.ended("not-json").await.attempt(), 0);
    assert_eq!(pool.events.ended("in-body").await.stop_reason(), "end_turn");
    assert_eq!(pool.events.ended("broken").await.stop_reason(), "end_turn");
    assert_traced(&pool, "in-body", &sent);
    assert_traced(&pool, "not-json", &sent);
    assert_traced(&pool, "broken", &FieldTable::default());
    pool.stop().await;
}
