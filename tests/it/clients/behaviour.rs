//! What each of them does.

use std::process::Command;

use rustix::process::Signal;
use serde_json::{Value, json};

use super::golden::Turn;
use super::program::{Language, turn_id};
use super::scripted::Scripted;
use crate::docs;
use crate::security::tls_node::Node;
use crate::support::broker::Broker;
use crate::support::not_tested::not_tested;
use crate::support::pool::{Pool, turn};
use crate::support::proxy::Proxy;

const SCRIPT: &str = "t1\nsay before\nwait go\nsay after";

pub async fn ten_lines_enqueue_a_turn(language: Language) {
    let url = Broker::vhost();
    // Where no worker has ever run, it says so.
    let nowhere = language.enqueue(&url).run().await;
    assert!(nowhere.code != Some(0) && nowhere.out.is_empty());
    assert!(nowhere.err.contains("codex.requests"), "{nowhere:#?}");
    // Guards that it is mandatory.
    Scripted::on(&url).await.leave().await;
    let returned = language.enqueue(&url).run().await;
    assert!(
        returned.code != Some(0) && returned.out.is_empty(),
        "{returned:#?}"
    );

    let pool = Pool::on(&url, 1, &[]).await;
    let done = language.enqueue(&url).run().await.ended(0);
    let turn = pool.events.ended(done.out.trim()).await;
    assert_eq!(turn.stop_reason(), "end_turn");
    pool.stop().await;
}

/// With the engine that publishes a text in pieces.
pub async fn two_prompts_are_one_conversation(language: Language) {
    let url = Broker::vhost();
    let pool = Pool::on(&url, 1, &[("CODEX_ENGINE", "app-server")]).await;
    let prompts = [
        "t1\nsay Looking at it.\nsay Done, and in ünïcode.",
        "t2\nsay Gone on.",
    ];
    let producer = language.producer("acme/website", &prompts, &url);
    let done = producer.run().await.ended(0);
    assert_eq!(
        done.out,
        "Looking at it.\nDone, and in ünïcode.\nGone on.\n"
    );
    let ids: Vec<_> = done
        .err
        .lines()
        .filter_map(|l| l.strip_prefix("turn "))
        .collect();
    assert_eq!(ids.len(), 2, "{done:#?}");
    assert!(
        done.err.contains("end_turn, tokens: {\"input_tokens\""),
        "{done:#?}"
    );
    let threads = ids.iter().map(async |id| {
        let turn = pool.events.ended(id).await;
        turn.end().unwrap()["thread_id"].clone()
    });
    let threads = futures_util::future::join_all(threads).await;
    assert!(threads[0].is_string());
    assert_eq!(threads[0], threads[1]);
    pool.metric_is("turn_worker_queue_wait_seconds_count", 2.0)
        .await;
    pool.stop().await;
}

pub async fn ctrl_c_cancels_the_turn(language: Language) {
    let url = Broker::vhost();
    let pool = Pool::on(&url, 1, &[]).await;
    let called = language
        .producer("a", &["t1\nsay hi\nwait never", "t2\nsay no"], &url)
        .start();
    called.printed("hi").await;
    called.signal(Signal::INT);
    let done = called.done().await.ended(130);
    assert_eq!(done.out, "hi\n");
    assert!(done.err.contains("\ncancelled"), "{done:#?}");
    // The prompt after it was never sent.
    assert_eq!(pool.events.turn_ids().len(), 1);
    pool.stop().await;
}

/// Guards that cancels are mandatory.
pub async fn a_cancel_that_no_worker_hears(language: Language) {
    let url = Broker::vhost();
    let mut pool = Pool::on(&url, 1, &[]).await;
    let called = language
        .producer("a", &["t1\nsay hi\nwait never"], &url)
        .start();
    called.printed("hi").await;
    pool.process(0).kill();
    called.signal(Signal::INT);
    called.said("no worker is connected").await;
    pool.spawn(&[]);
    let done = called.done().await.ended(130);
    assert!(done.err.contains("\ncancelled"), "{done:#?}");
    pool.stop().await;
}

/// Everything from the cut to the turn's end comes while the producer has no
/// connection, and stands still. What comes in between is in no record of the
/// worker's: it waits in the producer's queue, or is gone.
pub async fn a_connection_lost_in_mid_turn(language: Language) {
    let url = Broker::vhost();
    let pool = Pool::on(&url, 1, &[]).await;
    let proxy = Proxy::before(&url).await;
    let script = "t1\nsay before\nwait go\nsay between\nwait on\nsay after";
    let called = language.producer("a", &[script], &proxy.url).start();
    called.printed("before").await;
    let id = turn_id(&called).await;
    called.signal(Signal::STOP);
    proxy.cut();
    pool.release("go");
    pool.events.said(&id, "between").await;
    pool.release("on");
    pool.events.ended(&id).await;
    // Sent again before that, it would be a duplicate of a turn that still runs.
    pool.idle().await;
    called.signal(Signal::CONT);
    let done = called.done().await.ended(0);
    assert_eq!(done.out, "before\nbetween\nafter\n");
    assert!(done.err.contains("lost the broker"), "{done:#?}");
    // It was sent again, and so its end was published again.
    pool.events.ended_again(&id, 1).await;
    assert_eq!(pool.runs().of_turn("t1").count(), 1);
    pool.stop().await;
}

pub async fn a_worker_killed_in_mid_turn(language: Language) {
    let url = Broker::vhost();
    let mut pool = Pool::on(&url, 1, &[]).await;
    let called = language.producer("a", &[SCRIPT], &url).start();
    called.printed("before").await;
    pool.process(0).kill();
    pool.spawn(&[]);
    pool.started("t1", 2).await;
    pool.release("go");
    let done = called.done().await.ended(0);
    assert_eq!(done.out, "before\nbefore\nafter\n");
    assert!(done.err.contains("\nattempt 2: "), "{done:#?}");
    pool.stop().await;
}

pub async fn who_comes_late(language: Language) {
    let url = Broker::vhost();
    // There is no log.
    let nowhere = language.tail("t1", &url).run().await.ended(1);
    assert!(nowhere.err.contains("codex.events.log"), "{nowhere:#?}");
    let mut pool = Pool::on(&url, 1, &[("EVENT_LOG", "on")]).await;
    pool.enqueue(&[
        turn("other", "b", &["say nothing"]),
        turn("t1", "a", &["say before", "wait go", "say after"]),
    ])
    .await;
    pool.events.said("t1", "before").await;
    let proxy = Proxy::before(&url).await;
    let called = language.tail("t1", &proxy.url).start();
    called.printed("before").await;
    // It goes on where it was, without duplicates.
    proxy.cut();
    called.said("lost the broker").await;
    pool.release("go");
    let done = called.done().await.ended(0);
    assert_eq!(done.out, "before\nafter\n");
    assert!(done.err.contains("\nend_turn, tokens: "), "{done:#?}");
    // What lies behind a turn was delivered already when its end is read, and
    // is not acknowledged; brokers before 3.13 close the connection on a nack.
    let done = language.tail("other", &url).run().await.ended(0);
    assert_eq!(done.out, "nothing\n");
    // As `turn-worker tail` does.
    let unknown = language.tail("unknown", &url).run().await.ended(1);
    let why = "the event log has nothing of turn unknown";
    assert!(unknown.err.contains(why), "{unknown:#?}");
    pool.stop().await;
}

pub async fn a_refusal(language: Language) {
    let url = Broker::vhost();
    let refused = async || {
        let done = language
            .producer("../a", &["t1"], &url)
            .run()
            .await
            .ended(1);
        assert_eq!(done.out, "");
        done.err
    };
    // The broker's own: without a worker there is no exchange.
    let err = refused().await;
    assert!(
        err.contains("\ncan't go on: ") && err.contains("codex.events"),
        "{err}"
    );
    // Guards that requests are mandatory.
    Scripted::on(&url).await.leave().await;
    let err = refused().await;
    assert!(err.contains("\ncan't go on: "), "{err}");

    let mut pool = Pool::on(&url, 1, &[]).await;
    let err = refused().await;
    let why = "\nworkspace.rejected: workspace: found \"../a\", expected ";
    assert!(err.contains(why), "{err}");
    let letters = pool.producer.dead_letters(1).await;
    assert_eq!(letters[0].code, "workspace.rejected");
    pool.stop().await;
}

/// Published by a scripted worker: what a real one seldom does.
pub async fn the_rules_of_reading(language: Language) {
    let url = Broker::vhost();
    let mut scripted = Scripted::on(&url).await;
    let called = language
        .producer("acme/website", &["1", "2", "3"], &url)
        .start();

    let text = |attempt, seq, item: &str, text: &str| json!({"attempt": attempt, "seq": seq, "type": "text_delta", "item_id": item, "text": text});
    let end = |attempt, seq, text: &str| json!({"attempt": attempt, "seq": seq, "type": "message_end", "stop_reason": "end_turn", "text": text, "duration_ms": 1});
    let other = |attempt, seq, kind: &str| json!({"attempt": attempt, "seq": seq, "type": kind});

    scripted
        .tell(&[
            other(1, 0, "message_start"),
            text(1, 1, "m1", "One "),
            text(1, 1, "m1", "One "),
            other(1, 0, "message_start"),
            text(1, 2, "m1", "message."),
            text(1, 3, "m2", "Half of ano"),
            // The worker is killed, and the turn starts again.
            other(3, 0, "message_start"),
            text(1, 4, "m2", "ther."),
            text(2, 7, "m2", "Late."),
            other(3, 1, "brand_new"),
            text(3, 2, "m1", "An"),
            text(3, 3, "m1", "other."),
            end(3, 4, "Another."),
        ])
        .await;
    // Pieces are missing: the whole message comes with the end.
    scripted
        .tell(&[
            text(1, 5, "m1", "of it."),
            text(1, 2, "m1", "Never shown"),
            end(1, 6, "The whole of it."),
        ])
        .await;
    // Every type of event there is.
    let examples = docs::example_events();
    scripted.tell(&examples).await;

    let done = called.done().await.ended(1);
    assert_eq!(
        done.out,
        "One message.\nHalf of ano\nAnother.\nof it.\nThe whole of it.\nHalf of it is fixed.\n"
    );
    assert_eq!(done.err.matches("attempt 3: ").count(), 1, "{done:#?}");
    assert!(
        done.err.contains("\nturn.failed: rate limit exceeded"),
        "{done:#?}"
    );

    let called = language.producer("a", &["4"], &url).start();
    let timeout = json!({"attempt": 1, "seq": 0, "type": "message_end", "stop_reason": "timeout", "duration_ms": 1});
    scripted.tell(&[timeout]).await;
    called.done().await.ended(124);
}

/// The broker is away, and has lost the queue for events when it is back, as
/// after a restart of the node that had it.
pub async fn a_broker_that_was_away(language: Language) {
    let url = Broker::vhost();
    let pool = Pool::on(&url, 1, &[]).await;
    let proxy = Proxy::before(&url).await;
    let called = language.producer("a", &[SCRIPT], &proxy.url).start();
    called.printed("before").await;
    let id = turn_id(&called).await;
    proxy.redirect("127.0.0.1:1"); // without a listener
    proxy.cut();
    called.said("lost the broker").await;
    let (address, vhost) = url.rsplit_once('/').unwrap();
    let names = Broker::shared().ctl(&["list_queues", "-p", vhost, "name"]);
    let queue = names.lines().find(|name| name.starts_with("guest."));
    let queue = queue.unwrap_or_else(|| panic!("no queue of the producer's in {names}"));
    Broker::shared().ctl(&["delete_queue", "-p", vhost, queue]);
    pool.release("go");
    pool.events.ended(&id).await;
    // Sent again before that, it would be a duplicate of a turn that still runs.
    pool.idle().await;
    proxy.redirect(address.rsplit_once('@').unwrap().1);
    let done = called.done().await.ended(0);
    // The end, published again, has the whole message.
    assert_eq!(done.out, "before\nafter\n");
    assert_eq!(pool.runs().of_turn("t1").count(), 1);
    pool.stop().await;
}

/// With a virtual host on which no worker has ever run: who is connected hears so.
pub async fn a_broker_with_tls(language: Language) {
    let node = Node::get().await;
    let vhost = format!("{language:?}");
    node.broker.ctl(&["add_vhost", &vhost]);
    let all = ["worker", ".*", ".*", ".*"];
    let set = [&["set_permissions", "-p", &vhost], &all[..]].concat();
    node.broker.ctl(&set);
    let url = |port| node.url(port).replace("%2f", &vhost);
    let err = async |url: &str, authority: &str| {
        let certificate = node.file(authority);
        let done = language.enqueue_trusting(&certificate, url).run().await;
        assert_ne!(done.code, Some(0), "{done:#?}");
        done.err
    };
    let connected = err(&url(node.lenient), "ca.pem").await;
    assert!(connected.contains("codex.requests"), "{connected}");
    let address = url(node.lenient).replace("localhost", "127.0.0.1");
    for (url, authority) in [
        (address, "ca.pem"),
        (url(node.lenient), "other-ca.pem"),
        (url(node.expired), "ca.pem"),
    ] {
        let err = err(&url, authority).await;
        assert!(err.contains("the broker can't be reached"), "{url}: {err}");
    }
}

/// Many turns at a time over one connection, and a reader that is slower than
/// the events of its turn come.
pub async fn a_service(language: Language) {
    let url = Broker::vhost();
    let mut scripted = Scripted::on(&url).await;
    let called = language.probe("scripted", &url).start();
    scripted.repeat_prompts(503).await;
    let done = called.done().await.ended(0);
    let lines: Vec<_> = done.out.lines().collect();
    // 52 events came of the slow one's turn, and 10 and the end were kept.
    assert_eq!(
        lines,
        [
            "many 500",
            "failed turn.failed rate_limited true",
            "slow 50 11 message_end 41 other",
        ],
        "{done:#?}"
    );
}

/// With a real worker: what is rejected, sent again, or left before its end.
pub async fn what_a_service_does_with_its_turns(language: Language) {
    let url = Broker::vhost();
    let pool = Pool::on(&url, 1, &[]).await;
    let done = language.probe("pool", &url).run().await.ended(0);
    let lines: Vec<_> = done.out.lines().collect();
    let [rejected, stream, again, left, abandoned, ..] = &lines[..] else {
        panic!("{done:#?}");
    };
    assert_eq!(*rejected, "rejected workspace.rejected false");
    assert_eq!(*stream, "stream message_start text_delta message_end");
    assert_eq!(*again, "again hi true");
    let left = left.strip_prefix("left ").unwrap();
    // As their language cancels what waits.
    let cancelled = match language {
        Language::Python => "abandoned CancelledError",
        Language::TypeScript => "abandoned AbortError",
        Language::Go => "abandoned Canceled",
        Language::Java => "abandoned CancellationException",
    };
    assert_eq!(*abandoned, cancelled, "{done:#?}");
    for id in [left, "abandoned"] {
        let turn = pool.events.ended(id).await;
        assert_eq!(turn.stop_reason(), "cancelled");
    }
    assert_eq!(pool.runs().of_turn("t1").count(), 1);
    language.ask(&url).run().await.ended(0);
    if language == Language::Python {
        assert_eq!(lines[5..], ["sync streamed streamed", "sync run"]);
    }
    pool.stop().await;
}

/// The process is killed while its turn runs, and the next one sends the turn
/// again, under its id: it reads what has waited in its queue.
pub async fn a_process_that_is_restarted(language: Language) {
    let url = Broker::vhost();
    let pool = Pool::on(&url, 1, &[]).await;
    let killed = language.probe("restart", &url).start();
    killed.printed("before\n").await;
    killed.signal(Signal::KILL);
    killed.done().await;
    pool.release("go");
    pool.events.ended("restart").await;
    pool.idle().await;
    let done = language.probe("restart", &url).run().await.ended(0);
    // What was not acked before comes again.
    let out = done.out.strip_prefix("before\n").unwrap_or(&done.out);
    assert_eq!(out, "after\nanswer after\n", "{done:#?}");
    assert_eq!(pool.runs().of_turn("t1").count(), 1);
    pool.stop().await;
}

/// The chat page over HTTP: a browser that is gone comes back where it was, and
/// one that does not come back has its turn cancelled.
pub async fn the_chat_page() {
    let url = Broker::vhost();
    let pool = Pool::on(&url, 1, &[]).await;
    let called = Language::TypeScript.chat("http", &url).start();
    called.printed("seen message_start text_delta\n").await;
    pool.release("go");
    called.printed("refused 415 204 404\n").await;
    let mut stop_reasons = Vec::new();
    for id in pool.events.turn_ids() {
        let turn = pool.events.ended(&id).await;
        stop_reasons.push(turn.stop_reason().to_owned());
    }
    stop_reasons.sort();
    assert_eq!(stop_reasons, ["cancelled", "cancelled", "end_turn"]);
    called.signal(Signal::TERM);
    let out = called.done().await.out;
    let expected = [
        "seen message_start text_delta",
        "resumed text_delta message_end end_turn",
        "again message_start text_delta text_delta message_end",
        "stopped cancelled",
        "left message_start text_delta",
        "refused 415 204 404",
    ];
    assert_eq!(out.lines().collect::<Vec<_>>(), expected);
    pool.stop().await;
}

/// The answer grows, and a button stops it.
pub async fn the_chat_page_in_a_browser() {
    if Command::new("chromedriver")
        .arg("--version")
        .output()
        .is_err()
    {
        not_tested(
            "the chat page in a browser: there is no chromedriver (apt-get install chromium-driver, 300 MB)",
        );
        return;
    }
    let url = Broker::vhost();
    let pool = Pool::on(&url, 1, &[]).await;
    let called = Language::TypeScript.chat("browser", &url).start();
    called.printed("grows\n").await;
    pool.release("go");
    let done = called.done().await.ended(0);
    let shown = done.out.strip_prefix("grows\nanswers ").unwrap();
    let words: Vec<_> = shown.split_whitespace().collect();
    assert_eq!(words[..3], ["before", "after", "end_turn,"], "{shown}");
    assert_eq!(words.last(), Some(&"cancelled"), "{shown}");
    pool.stop().await;
}

/// The broker restarts while a turn of each language runs.
pub async fn a_broker_that_restarts(languages: &[Language]) {
    let mut broker = Broker::private();
    let url = broker.url();
    let mut pool = Pool::on(&url, 1, &[]).await;
    let mut calls = Vec::new();
    for language in languages {
        let name = format!("{language:?}");
        let script = format!("{name}\nsay before\nwait go\nsay after");
        let called = language.producer(&name, &[&script], &url).start();
        called.printed("before").await;
        calls.push((name, called));
    }
    broker.stop();
    for (_, called) in &calls {
        called.said("lost the broker").await;
    }
    broker.start();
    pool.release("go");
    for (name, called) in calls {
        let done = called.done().await.ended(0);
        assert_eq!(done.out, "before\nafter\n", "{done:#?}");
        assert_eq!(pool.runs().of_turn(&name).count(), 1);
    }
    // The offers of the turns that ran came back, and are answered from the records.
    pool.ready().await;
    pool.ready_in("codex.turns.work", 0).await;
    pool.stop().await;
}

/// With a real worker: ends that come by `reply_to`, and where turns are.
pub async fn what_a_service_asks(language: Language) {
    let url = Broker::vhost();
    let pool = Pool::on(&url, 1, &[]).await;
    let done = language.probe("asking", &url).run().await.ended(0);
    let lines: Vec<_> = done.out.lines().collect();
    let expected = [
        "reply hi hi",
        "TurnRejected workspace.rejected unknown false",
        "TurnFailed turn.failed unknown false",
        "running 1",
        "waiting 2",
        "unknown",
        "ended hi",
        "no answer",
    ];
    assert_eq!(lines[..expected.len()], expected, "{done:#?}");
    if language == Language::Python {
        assert_eq!(lines[expected.len()..], ["sync ended once"]);
    }
    assert_eq!(pool.runs().of_turn("t1").count(), 1);
    pool.stop().await;
}

/// Another producer has heard the turn's id, and sends turns under it.
pub async fn a_forged_answer(language: Language) {
    let url = Broker::vhost();
    let mut scripted = Scripted::on(&url).await;
    let of = |workspace: Option<&str>, attempt, seq, mut event: Value| {
        event["attempt"] = json!(attempt);
        event["seq"] = json!(seq);
        if let Some(workspace) = workspace {
            event["workspace"] = json!(workspace);
        }
        event
    };
    let start = || json!({"type": "message_start"});
    let text = |text: &str| json!({"type": "text_delta", "item_id": "m1", "text": text});
    let end = |text: &str| json!({"type": "message_end", "stop_reason": "end_turn", "text": text, "duration_ms": 1});
    let ours = Some("acme/website");
    let mut answer = vec![of(ours, 1, 0, start())];
    // Newer than all that is the turn's own.
    for theirs in ["mallorys", "website", "acme", "acme/website/x"] {
        answer.push(of(Some(theirs), 7, 0, start()));
        answer.push(of(Some(theirs), 7, 1, text("FORGED")));
        answer.push(of(Some(theirs), 7, 2, end("FORGED")));
    }
    answer.push(of(ours, 1, 1, text("Genuine,")));
    // Its second attempt is an older worker's, which names no workspace but here.
    answer.push(of(ours, 2, 0, start()));
    answer.push(of(None, 2, 1, text("and again.")));
    answer.push(of(None, 2, 2, end("and again.")));
    // A path names the same workspace, which only a worker knows.
    for workspace in ["acme/website", "/srv/workspaces/acme/website"] {
        let called = language.producer(workspace, &["1"], &url).start();
        scripted.tell(&answer).await;
        let done = called.done().await.ended(0);
        assert_eq!(done.out, "Genuine,\nand again.\n", "{done:#?}");
        assert!(!done.err.contains("attempt 7"), "{done:#?}");
    }
    // A request that named no workspace that can be.
    let called = language.producer("acme/website", &["1"], &url).start();
    let error =
        json!({"type": "error", "error": {"code": "request.invalid", "message": "too large"}});
    let failed = json!({"type": "message_end", "stop_reason": "error", "duration_ms": 0});
    let rejection = [start(), error, failed];
    let rejection: Vec<_> = (rejection.into_iter().zip(0..))
        .map(|(event, seq)| of(Some(""), 0, seq, event))
        .collect();
    scripted.tell(&rejection).await;
    let done = called.done().await.ended(1);
    assert!(
        done.err.contains("\nrequest.invalid: too large\n"),
        "{done:#?}"
    );
}

/// The same in the event log: the turn's first event names its workspace, unless
/// the reader knows.
pub async fn a_forged_answer_in_the_log(language: Language) {
    let url = Broker::vhost();
    let mut pool = Pool::on(&url, 1, &[("EVENT_LOG", "on")]).await;
    pool.enqueue(&[turn("t1", "a", &["say Genuine."])]).await;
    pool.events.ended("t1").await;
    pool.idle().await;
    // Refused only as long as the first one has not ended.
    pool.enqueue(&[turn("t1", "mallorys", &["say FORGED"])])
        .await;
    pool.events.ended("t1 in mallorys").await;
    let done = language.tail("t1", &url).run().await.ended(0);
    assert_eq!(done.out, "Genuine.\n");
    let done = language.tail_in("t1", "mallorys", &url).run().await;
    assert_eq!(done.ended(0).out, "FORGED\n");
    pool.stop().await;
}

/// The contract's own examples that come to their end, as the prompts of one call. The libraries' own tests read all of
/// them; how a program ends after another stop reason is tested above.
pub async fn the_contracts_turns(language: Language) {
    let url = Broker::vhost();
    let mut scripted = Scripted::on(&url).await;
    let mut turns = Turn::all();
    turns.retain(|turn| turn.stop_reason() == "end_turn");
    assert!(!turns.is_empty());
    let prompts: Vec<_> = turns.iter().map(|turn| turn.name.as_str()).collect();
    let called = language.producer("acme/website", &prompts, &url).start();
    for turn in &turns {
        scripted.tell(&turn.told).await;
    }
    let done = called.done().await.ended(0);
    let shown: String = turns.iter().map(Turn::shown).collect();
    assert_eq!(done.out, shown, "{done:#?}");
    let restarts: usize = turns.iter().map(Turn::restarts).sum();
    assert_eq!(
        done.err.matches("\nattempt ").count(),
        restarts,
        "{done:#?}"
    );
}
