//! What is sent, and what comes of it.

use std::process::Stdio;

use lapin::types::AMQPValue;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde_json::json;

use super::call::Call;
use crate::support::broker::Broker;
use crate::support::pool::{Pool, turn};

/// Wrong settings of the worker do not matter to a producer.
pub fn producer(url: &str, arguments: &[&str]) -> Call {
    Call::new(arguments)
        .set("AMQP_URL", url)
        .set("SLOTS", "none")
        .set("WORKSPACE_ROOT", "/proc/nowhere")
}

fn submit(url: &str, id: &str, workspace: &str, script: &[&str]) -> Call {
    let prompt = format!("{id}\n{}", script.join("\n"));
    producer(url, &["submit", "-w", workspace, "--turn-id", id, &prompt])
}

#[tokio::test]
async fn a_turn_is_followed_to_its_end() {
    let url = Broker::vhost();
    let pool = Pool::on(&url, 1, &[]).await;
    let done = submit(&url, "t1", "a", &["think so", "run echo hi", "say done"]);
    let done = done.run().await.ended(0);
    assert_eq!(
        done.kinds(),
        [
            "message_start",
            "thinking_delta",
            "tool_use",
            "tool_result",
            "text_delta",
            "message_end"
        ]
    );
    let read = done.events();
    assert!(
        read.iter()
            .enumerate()
            .all(|(seq, event)| event["seq"] == seq)
    );
    // As they were published, and only those.
    let published = pool.events.ended("t1").await;
    assert_eq!(read, published.all().cloned().collect::<Vec<_>>());
    done.says(&["sent turn t1, waiting for a worker"]);
    pool.stop().await;
}

/// Guards that what calls `submit` is what the turn belongs to.
#[tokio::test]
async fn a_turn_is_in_the_trace_that_its_caller_is_in() {
    let url = Broker::vhost();
    let pool = Pool::on(&url, 1, &[]).await;
    let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let traced = submit(&url, "t1", "a", &[]).env("TRACEPARENT", parent);
    traced.env("TRACESTATE", "a=1").run().await.ended(0);
    let broken = submit(&url, "t2", "a", &[]).env("TRACEPARENT", "00-what");
    broken.run().await.ended(0);
    let header = |id: &str, name: &str| pool.events.header(id, name);
    let text = |text: &str| Some(AMQPValue::LongString(text.into()));
    assert_eq!(header("t1", "traceparent"), text(parent));
    assert_eq!(header("t1", "tracestate"), text("a=1"));
    assert_eq!(header("t2", "traceparent"), None);
    pool.stop().await;
}

#[tokio::test]
async fn the_exit_status_shows_how_the_turn_ended() {
    let url = Broker::vhost();
    let pool = Pool::on(&url, 1, &[]).await;
    let failed = submit(&url, "t1", "a", &["fail rate limit exceeded: slow"]);
    let failed = failed.run().await.ended(1).events();
    assert_eq!(failed[1]["error"]["reason"], "rate_limited");

    let arguments = ["submit", "-w", "a", "--timeout", "1s", "t2\nwait never"];
    let late = producer(&url, &arguments).run().await.ended(124);
    assert_eq!(late.events()[1]["error"]["code"], "turn.timeout");

    // What only a worker can know.
    let nested = submit(&url, "t3", "a/b", &[]).run().await.ended(1);
    assert_eq!(nested.events()[1]["error"]["code"], "workspace.rejected");
    assert_eq!(nested.events()[1]["attempt"], 0);
    pool.stop().await;
}

#[tokio::test]
async fn a_request_larger_than_the_broker_takes_is_not_to_be_sent_again() {
    let url = Broker::vhost();
    let pool = Pool::on(&url, 1, &[]).await;
    // RabbitMQ 4 takes 16 MiB; this brings an older one, which takes 128, near.
    let limit = "application:set_env(rabbit, max_message_size, 16777216).";
    Broker::eval(limit);
    let image = pool.stand_in_file("large.gif");
    let mut bytes = b"GIF89a".to_vec();
    bytes.resize(13 << 20, 0);
    std::fs::write(&image, bytes).unwrap();
    let image = image.to_str().unwrap();
    let arguments = ["submit", "-w", "a", "--no-wait", "--image", image, "Look"];
    let done = producer(&url, &arguments).run().await.ended(1);
    done.says(&["max_message_size", "PRECONDITION_FAILED"]);
    assert!(!done.err.contains("send it again"), "{done:?}");
    pool.stop().await;
}

#[tokio::test]
async fn the_prompt_is_read_from_stdin_where_a_dash_stands_for_it() {
    let url = Broker::vhost();
    let pool = Pool::on(&url, 1, &[]).await;
    let prompt = pool.stand_in_file("prompt");
    std::fs::write(&prompt, "t1\nsay from a file").unwrap();
    let file = std::fs::File::open(prompt).unwrap();
    let call = producer(&url, &["submit", "--workspace", "a", "-"]).stdin(Stdio::from(file));
    let events = call.run().await.ended(0).events();
    assert_eq!(events.last().unwrap()["text"], "from a file");
    pool.stop().await;
}

#[tokio::test]
async fn without_waiting_the_id_is_printed_and_the_turn_goes_on() {
    let url = Broker::vhost();
    let mut pool = Pool::on(&url, 1, &[]).await;
    pool.enqueue(&[turn("t1", "a", &["wait go"])]).await;
    pool.started("t1", 1).await;
    let sent = producer(&url, &["submit", "-w", "a", "--no-wait", "t2"]);
    let sent = sent.run().await.ended(0);
    let id = sent.out.trim();
    assert!(uuid::Uuid::parse_str(id).is_ok(), "{sent:?}");
    assert_eq!(sent.err, "");

    // It waits behind the first one, and another host's call ends it.
    let follower = producer(&url, &["submit", "-w", "a", "--turn-id", id, "t2"]).start();
    producer(&url, &["cancel", id]).run().await.ended(0);
    assert_eq!(pool.events.ended(id).await.stop_reason(), "cancelled");
    pool.release("go");
    let followed = follower.done().await.ended(130);
    assert_eq!(
        followed.events().last().unwrap()["stop_reason"],
        "cancelled"
    );
    assert_eq!(pool.runs().of_turn("t2").count(), 0);
    pool.stop().await;
}

#[tokio::test]
async fn a_cancel_can_name_the_workspace() {
    let url = Broker::vhost();
    let pool = Pool::on(&url, 1, &[]).await;
    let follower = submit(&url, "t1", "a", &["say hi", "wait never"]).start();
    follower.printed("\"hi\"").await;
    let elsewhere = producer(&url, &["cancel", "t1", "--workspace", "b"]);
    elsewhere.run().await.ended(0);
    producer(&url, &["cancel", "t1", "-w", "a"])
        .run()
        .await
        .ended(0);
    follower.done().await.ended(130);
    pool.stop().await;
}

/// Guards what is published again for a turn that has ended.
#[tokio::test]
async fn g4_a_turn_that_is_sent_again_runs_once_and_publishes_its_end_again() {
    let url = Broker::vhost();
    let pool = Pool::on(&url, 1, &[]).await;
    let first = submit(&url, "t1", "a", &["say hi"]).run().await.ended(0);
    let again = submit(&url, "t1", "a", &["say hi"]).run().await.ended(0);
    assert_eq!(first.events().last(), again.events().last());
    assert_eq!(pool.runs().of_turn("t1").count(), 1);
    pool.stop().await;
}

/// Guards that a producer declares none of the workers' objects.
#[tokio::test]
async fn where_no_worker_ever_ran_the_error_says_what_to_do() {
    let url = Broker::vhost();
    let parts = [
        "no worker has ever run on 127.0.0.1:",
        "turn-worker serve",
        "TURN_WORKER_PREFIX",
    ];
    for arguments in [
        &["submit", "-w", "a", "hi"][..],
        &["submit", "-w", "a", "--no-wait", "hi"],
        &["cancel", "t1"],
    ] {
        let done = producer(&url, arguments).run().await.ended(1);
        done.says(&parts);
        assert_eq!(done.out, "");
    }
}

/// The exchange is there, without a queue bound to it.
#[tokio::test]
async fn a_turn_that_reaches_no_queue_is_not_taken_for_sent() {
    let url = Broker::vhost();
    let pool = Pool::on(&url, 1, &[]).await;
    pool.stop().await;
    let connection = lapin::Connection::connect(&url, lapin::ConnectionProperties::default());
    let connection = connection.await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    let options = lapin::options::QueueDeleteOptions::default();
    channel
        .queue_delete("codex.turns".into(), options)
        .await
        .unwrap();
    for arguments in [
        &["submit", "-w", "a", "hi"][..],
        &["submit", "-w", "a", "--no-wait", "hi"],
    ] {
        let done = producer(&url, arguments).run().await.ended(1);
        done.says(&["no queue takes", "turn-worker serve"]);
    }
    // Who would hear it is gone, too.
    let done = producer(&url, &["cancel", "t1"]).run().await.ended(1);
    done.says(&["the cancel was not received", "turn-worker serve"]);
}

#[tokio::test]
async fn what_is_wrong_is_named_with_what_is_allowed() {
    let nowhere = "amqp://127.0.0.1:1/v";
    let wrong = async |call: Call, parts: &[&str]| call.run().await.ended(2).says(parts);
    let submit = |arguments: &[&str]| producer(nowhere, &[&["submit"], arguments].concat());
    wrong(
        submit(&["-w", "a", "hi"]).set("PREFIX", "amq.x"),
        &["TURN_WORKER_PREFIX", "\"amq.x\"", "not with amq."],
    )
    .await;
    wrong(
        submit(&["-w", "a", "hi"]).set("AMQP_URL", "http://u:s3cret@h"),
        &["TURN_WORKER_AMQP_URL", "amqps://"],
    )
    .await;
    wrong(
        submit(&["-w", "..", "hi"]),
        &["workspace", "\"..\"", "segments"],
    )
    .await;
    wrong(submit(&["-w", "a", " "]), &["messages", "text"]).await;
    wrong(
        submit(&["-w", "a", "--turn-id", "a b", "hi"]),
        &["turn_id", "\"a b\""],
    )
    .await;
    wrong(producer(nowhere, &["cancel", "a b"]), &["\"a b\"", "A-Z"]).await;
    wrong(
        producer(nowhere, &["cancel", "t", "-w", "."]),
        &["workspace", "\".\""],
    )
    .await;
    for command in [&["serve"][..], &["run", "-w", "a", "hi"]] {
        wrong(
            producer(nowhere, command).set("SLOTS", "0"),
            &["TURN_WORKER_SLOTS", "\"0\"", "1 to 1000"],
        )
        .await;
    }
    for (flag, rule) in [
        ("--image", "does not start as any of image/png"),
        ("--output-schema", "is no JSON"),
    ] {
        let arguments = ["-w", "a", flag, "Cargo.toml", "hi"];
        wrong(submit(&arguments), &[flag, "Cargo.toml", rule]).await;
    }
    let done = submit(&["-w", "a", "--timeout", "0", "hi"])
        .run()
        .await
        .ended(2);
    assert!(done.err.contains("at least 1s"), "{done:?}");

    let done = submit(&["-w", "a", "hi"])
        .set("AMQP_ULR", "x")
        .run()
        .await
        .ended(1);
    assert!(
        done.err.contains("is TURN_WORKER_AMQP_URL meant?"),
        "{done:?}"
    );
    assert!(
        done.err.contains(
            "can't reach the broker that TURN_WORKER_AMQP_URL names: broker 127.0.0.1:1/v: no TCP"
        ),
        "{done:?}"
    );
}

#[tokio::test]
async fn each_command_has_help_with_examples() {
    for command in [
        "serve", "submit", "tail", "cancel", "run", "check", "status", "dead",
    ] {
        let done = Call::new(&["help", command]).run().await.ended(0);
        assert!(
            done.out.contains(&format!("  turn-worker {command}")),
            "{done:?}"
        );
        assert!(done.out.contains("Exit status"), "{done:?}");
    }
    let done = Call::new(&["--help"]).run().await.ended(0);
    for setting in turn_worker::config::SETTINGS {
        assert!(done.out.contains(&setting.variable()), "{done:?}");
    }
    assert!(!done.out.contains("__"), "hidden ones stay hidden");
}

/// Guards that a reader that is gone is an end, and no panic.
#[tokio::test]
async fn a_reader_that_stops_ends_the_following_and_not_the_turn() {
    let url = Broker::vhost();
    let mut pool = Pool::on(&url, 1, &[]).await;
    let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
    let our_writer = writer.try_clone().unwrap();
    let call = submit(&url, "t1", "a", &["say hi", "wait go", "say bye"]);
    let called = call.start_into(writer);
    pool.events.said("t1", "hi").await;
    drop(reader);
    // Children that other tests start hold a copy of it from their fork to their exec.
    let unread = async || {
        let mut ends = [PollFd::new(&our_writer, PollFlags::empty())];
        poll(&mut ends, Some(&Timespec::default())).unwrap();
        ends[0].revents().contains(PollFlags::ERR).then_some(())
    };
    pool.deadline.until("no process reads", unread).await;
    drop(our_writer);
    pool.release("go");
    let done = called.done().await.ended(141);
    done.says(&["sent turn t1, waiting for a worker"]);
    assert_eq!(pool.events.ended("t1").await.stop_reason(), "end_turn");
    pool.enqueue(&[json!({"turn_id": "t2", "workspace": "a",
        "messages": [{"role": "user", "content": "t2"}]})])
        .await;
    pool.events.ended("t2").await;
    pool.stop().await;
}
