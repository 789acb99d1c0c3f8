//! `turn-worker dead`: requests that were not accepted. It must leave them as
//! they are.

use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable};
use rustix::process::Signal;
use serde_json::{Value, json};
use turn_worker::amqp::connect::Connector;
use turn_worker::amqp::publish::{json_properties, publish_on};
use turn_worker::amqp::topology::Topology;

use super::call::{Call, Done};
use super::submit::producer;
use crate::pool::poison::published;
use crate::support::broker::Broker;
use crate::support::limit::GROWING;
use crate::support::poison::{Poison, matrix};
use crate::support::pool::{Deadline, Pool, persistent, turn};
use crate::support::raw_amqp::{RawMessage, RawProducer};

const DEAD: &str = "codex.turns.dead";

fn dead(url: &str, arguments: &[&str]) -> Call {
    producer(url, &[&["dead"], arguments].concat())
}

async fn listed(url: &str, arguments: &[&str]) -> Vec<Value> {
    // The default suffices for a person, not for any machine that tests run on.
    let list = dead(url, &[&["list", "--timeout", "600s"], arguments].concat());
    list.run().await.ended(0).events()
}

fn column(lines: &[Value], name: &str) -> Vec<Value> {
    lines.iter().map(|line| line[name].clone()).collect()
}

/// The objects of a pool, without one, and that many messages in its dead queue.
async fn buried(url: &str, count: usize) {
    let to = url.to_owned();
    let connector = Connector::new("test", move || Ok(to.as_str().into()));
    let link = connector.connect().await.unwrap();
    Topology::new("codex", 10_000).declare(&link).await.unwrap();
    let channel = link.confirm_channel().await.unwrap();
    for number in 1..=count {
        let body = json!({"turn_id": format!("t{number}"), "workspace": "a"}).to_string();
        let published = publish_on(&channel, "", DEAD, json_properties(), body.as_bytes(), true);
        published.await.unwrap();
    }
    link.close().await;
}

/// Until that many messages are ready in the dead queue.
async fn free(url: &str, count: u64) {
    let to = url.to_owned();
    let connector = Connector::new("test", move || Ok(to.as_str().into()));
    let link = connector.connect().await.unwrap();
    let topology = Topology::new("codex", 10_000);
    let probe = async || (topology.depth(&link, DEAD).await.unwrap().ready == count).then_some(());
    let what = format!("{count} are free");
    Deadline::of_a_test().until(&what, probe).await;
    link.close().await;
}

/// On a busy machine, a short timeout can pass before the second has connected: then a longer one follows.
async fn refused_to_a_second(url: &str) {
    let named = "another client consumes";
    for seconds in GROWING {
        let timeout = format!("{seconds}s");
        let second = dead(url, &["list", "--timeout", &timeout]).run().await;
        let second = second.ended(1);
        if second.err.contains(named) {
            second.says(&[named, DEAD]);
            return;
        }
        second.says(&["came within", &timeout]);
    }
    panic!("no timeout was enough");
}

/// Guards what is kept beside a request, and that looking at it takes no message away.
#[tokio::test]
async fn rejected_requests_are_listed_and_shown_with_their_reasons() {
    let url = Broker::vhost();
    let mut pool = Pool::on(&url, 1, &[("MAX_WAITING", "1")]).await;
    let no_json = persistent().with_message_id("no-json".into());
    let outside = turn("outside", "../\u{1b}[31ma", &[]).to_string();
    pool.producer
        .enqueue_raw(&[(b"{\"turn_id\": \x1b[2J".to_vec(), no_json)])
        .await;
    pool.events.ended("no-json").await;
    pool.producer
        .enqueue_raw(&[(outside.clone().into_bytes(), persistent())])
        .await;
    pool.events.ended("outside").await;
    pool.enqueue(&[turn("t1", "a", &["wait go"])]).await;
    pool.started("t1", 1).await;
    pool.enqueue(&[turn("t2", "a", &[])]).await;
    pool.events.ended("t2").await;
    // Reported by a worker, which is the one to look at the disk.
    pool.enqueue(&[turn("inside", "a/b", &[])]).await;
    pool.events.ended("inside").await;
    pool.release("go");
    pool.events.ended("t1").await;

    let lines = listed(&url, &[]).await;
    assert_eq!(
        column(&lines, "turn_id"),
        ["inside", "t2", "outside", "no-json"]
    );
    assert_eq!(column(&lines, "place"), [4, 3, 2, 1]);
    assert_eq!(
        column(&lines, "code"),
        [
            "workspace.rejected",
            "workspace.backlog_full",
            "workspace.rejected",
            "request.invalid"
        ]
    );
    assert!(lines.iter().all(|line| line["of"] == 4));
    assert!(lines.iter().all(|line| line["time"].is_string()));
    assert_eq!(lines[2]["bytes"], outside.len());
    assert_eq!(lines[2]["workspace"], "../\u{1b}[31ma");
    assert_eq!(lines[3]["workspace"], Value::Null);

    let oldest = dead(&url, &["list", "--oldest", "-n", "2"]);
    let oldest = oldest.run().await.ended(0);
    assert_eq!(column(&oldest.events(), "turn_id"), ["no-json", "outside"]);
    oldest.says(&["2 of 4"]);

    let shown = |arguments: &[&str]| dead(&url, &[&["show"], arguments].concat()).run();
    let by_id = &shown(&["outside"]).await.ended(0).events()[0];
    assert_eq!(
        (&by_id["place"], &by_id["turn_id"]),
        (&json!(2), &json!("outside"))
    );
    assert_eq!(
        by_id["body"],
        serde_json::from_str::<Value>(&outside).unwrap()
    );
    assert_eq!(by_id["headers"]["x-error-code"], "workspace.rejected");
    let by_place = &shown(&["1"]).await.ended(0).events()[0];
    assert_eq!(by_place["text"], "{\"turn_id\": \u{1b}[2J");
    assert_eq!(by_place["properties"]["message_id"], "no-json");
    assert_eq!(shown(&["outside", "--body"]).await.ended(0).out, outside);

    let told = dead(&url, &["list"]).env("NO_COLOR", "1");
    let told = told.start_on_terminal().done().await.ended(0);
    assert!(
        told.out
            .starts_with("4 rejected requests, the newest first\r\n"),
        "{told:?}"
    );
    assert!(!told.out.contains('\u{1b}'), "{told:?}");
    let told = dead(&url, &["show", "no-json"]).env("NO_COLOR", "1");
    let told = told.start_on_terminal().done().await.ended(0);
    assert!(told.out.ends_with("\r\n\r\n{\"turn_id\": \r\n"), "{told:?}");

    assert_eq!(
        listed(&url, &[]).await,
        lines,
        "it changed by being looked at"
    );
    pool.stop().await;
}

/// Guards that what is held goes back in its order, however the process ends.
#[tokio::test]
async fn looking_keeps_the_order_and_all_messages_also_when_interrupted() {
    let url = Broker::vhost();
    buried(&url, 300).await;
    let all = listed(&url, &["--limit", "300"]).await;
    let newest_first: Vec<String> = (1..=300).rev().map(|number| format!("t{number}")).collect();
    assert_eq!(column(&all, "turn_id"), newest_first);
    // A part of it, twice: what came back once would be put behind the rest.
    for _ in 0..2 {
        let oldest = listed(&url, &["--oldest", "-n", "1"]).await;
        assert_eq!(column(&oldest, "turn_id"), ["t1"]);
    }

    for (signal, arguments) in [
        (Signal::INT, &["list"][..]),
        (Signal::TERM, &["show", "200"]),
        (Signal::KILL, &["list", "--oldest"]),
    ] {
        // It stops in the middle, with what it has asked for in its hands.
        let called = dead(&url, arguments)
            .env("FAILPOINTS", "operator.holds=20*off->return(stop)")
            .start();
        free(&url, 0).await;
        refused_to_a_second(&url).await;
        called.signal(signal);
        called.signal(Signal::CONT);
        let Done { code, out, .. } = called.done().await;
        assert_eq!((code, out.as_str()), (None, ""), "{signal:?}");
        free(&url, 300).await;
        let again = listed(&url, &["--limit", "300"]).await;
        assert_eq!(column(&again, "turn_id"), newest_first, "after {signal:?}");
    }
}

#[tokio::test]
async fn a_foreign_dead_letter_is_listed() {
    let url = Broker::vhost();
    buried(&url, 1).await;
    let mut inner = FieldTable::default();
    inner.insert("who".into(), AMQPValue::LongString("me\u{1b}[2J".into()));
    let mut headers = FieldTable::default();
    headers.insert("x-table".into(), AMQPValue::FieldTable(inner));
    headers.insert("x-error-code".into(), AMQPValue::Boolean(true));
    let properties = BasicProperties::default()
        .with_headers(headers)
        .with_timestamp(u64::MAX);
    let connector = Connector::new("test", {
        let url = url.clone();
        move || Ok(url.as_str().into())
    });
    let link = connector.connect().await.unwrap();
    let channel = link.confirm_channel().await.unwrap();
    for body in [&b"\xff\xfe"[..], b""] {
        let published = publish_on(&channel, "", DEAD, properties.clone(), body, true);
        published.await.unwrap();
    }
    let same = json!({"turn_id": "t1"}).to_string();
    let published = publish_on(&channel, "", DEAD, json_properties(), same.as_bytes(), true);
    published.await.unwrap();
    link.close().await;

    let lines = listed(&url, &[]).await;
    assert_eq!(column(&lines, "bytes"), [16, 0, 2, 32]);
    assert_eq!(lines[1]["code"], Value::Null);
    assert_eq!(lines[1]["time"], Value::Null);
    let told = dead(&url, &["show", "2"]).run().await.ended(0).events();
    assert_eq!(told[0]["headers"]["x-table"]["who"], "me\u{1b}[2J");
    assert_eq!(told[0]["text"], "\u{fffd}\u{fffd}");
    let told = dead(&url, &["show", "t1"]).run().await.ended(0).events();
    assert_eq!(
        (&told[0]["place"], &told[0]["others"]),
        (&json!(4), &json!([1]))
    );
}

/// Guards that these commands filter what they get.
#[tokio::test]
async fn poisonous_dead_letters_are_listed_and_shown() {
    let url = Broker::vhost();
    buried(&url, 1).await;
    let mut producer = RawProducer::new(&url);
    let mut letters = vec!["the first".to_owned()];
    // RabbitMQ itself takes seconds to deliver the deepest, longer than these wait.
    let is_slow = |poison: &Poison| {
        let slow = ["26000 of A", "18000 of F"];
        slow.iter().any(|name| poison.name.starts_with(name))
    };
    for poison in matrix().into_iter().filter(|poison| !is_slow(poison)) {
        let body = json!({"turn_id": "t1", "workspace": "a"}).to_string();
        let properties = poison.properties.clone();
        let message = RawMessage::new("", DEAD.as_bytes(), properties, body.as_bytes());
        if published(&mut producer, &poison, &message).await {
            letters.push(poison.name);
        }
    }
    let count = letters.len();
    assert!(count > 100, "{count}");
    let lines = listed(&url, &["--limit", "1000"]).await;
    assert_eq!(lines.len(), count);
    for (number, name) in letters.iter().enumerate().step_by(9) {
        let place = (number + 1).to_string();
        let shown = dead(&url, &["show", &place]).run().await.ended(0).events();
        assert_eq!(shown[0]["place"], number + 1, "{name}");
        assert_eq!(shown[0]["body"]["workspace"], "a", "{name}");
    }
    assert_eq!(listed(&url, &["--limit", "1000"]).await, lines);
}

#[tokio::test]
async fn what_can_not_be_shown_is_said() {
    let url = Broker::vhost();
    let says = async |code: i32, arguments: &[&str], parts: &[&str]| {
        let done = dead(&url, arguments).run().await.ended(code);
        done.says(parts);
        assert_eq!(done.out, "");
    };
    says(
        1,
        &["list"],
        &["no worker has ever run on 127.0.0.1:", DEAD],
    )
    .await;
    buried(&url, 0).await;
    assert_eq!(listed(&url, &[]).await, [] as [Value; 0]);
    says(1, &["show", "3"], &["no rejected request 3", "holds 0"]).await;
    says(1, &["show", "t\u{1b}1"], &["among the 0", "\"t\\u{1b}1\""]).await;
    says(
        2,
        &["show", "0"],
        &["\"0\"", "1 (the oldest) to 65535", "--turn-id"],
    )
    .await;
    for (arguments, part) in [
        (&["list", "-n", "0"][..], "1..=65535"),
        (&["list", "--timeout", "0s"], "1s to 1h"),
        (&["show"], "TURN_ID"),
        (&[], "Commands:"),
    ] {
        let done = dead(&url, arguments).run().await.ended(2);
        assert!(done.err.contains(part), "{done:?}");
    }
}

/// Guards `retried`, and that the dead letter stays.
#[tokio::test]
async fn a_rejected_request_is_sent_again_under_an_id_that_names_it() {
    let url = Broker::vhost();
    buried(&url, 1).await;
    let refused = dead(&url, &["retry", "t1"]).run().await.ended(1);
    refused.says_at_last(&["would be rejected again", "messages"]);
    let to = url.clone();
    let connector = Connector::new("test", move || Ok(to.as_str().into()));
    let link = connector.connect().await.unwrap();
    let channel = link.confirm_channel().await.unwrap();
    let body = turn("u", "a", &["say hi"]).to_string();
    let published = publish_on(&channel, "", DEAD, json_properties(), body.as_bytes(), true);
    published.await.unwrap();
    let sent = dead(&url, &["retry", "2"]).run().await.ended(0);
    assert_eq!(sent.out, "u.retry-1\n");
    free(&url, 2).await;
    let topology = Topology::new("codex", 10_000);
    let turns = topology.depth(&link, "codex.turns").await.unwrap();
    assert_eq!(turns.ready, 1);
    link.close().await;
}
