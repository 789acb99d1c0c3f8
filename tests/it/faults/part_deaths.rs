//! A part of a process that dies, by a panic, while turns run: a task that
//! lives as long as the process, or one that only has to answer.

use std::collections::BTreeSet;

use turn_worker::supervisor::PartName;

use crate::support::pool::{Pool, turn};

const FAILED: &str = "a part of the process failed; ending the process";

/// Guards `Supervisor::spawn` and `Supervisor::guard`: a part without an owner dies unnoticed,
/// and its process goes on without it.
#[tokio::test]
async fn g4_a_part_that_dies_ends_its_process_and_costs_no_turn() {
    let settings = [("SLOTS", "1"), ("EVENT_LOG", "on")];
    let mut pool = Pool::start(1, &settings).await;
    for part in PartName::ALL {
        let dies = format!("{part}-dies");
        let file = pool.stand_in_file(&dies);
        let faults = format!("part.dies=return({part}:{})", file.display());
        let dying = pool.spawn(&[("FAILPOINTS", &faults)]);
        pool.process(dying).ready().await;
        // One on each of the two, and one that waits.
        let ids = ["1", "2", "3"].map(|number| format!("{part}-{number}"));
        let go = format!("wait {part}-go");
        let requests = [
            turn(&ids[0], &ids[0], &[&go, "say hi"]),
            turn(&ids[1], &ids[1], &[&go, "say hi"]),
            turn(&ids[2], &ids[0], &["say hi"]),
        ];
        pool.enqueue(&requests).await;
        for id in &ids[..2] {
            pool.started(id, 1).await;
        }
        pool.release(&dies);
        pool.process(dying).logged(FAILED).await;
        pool.release(&format!("{part}-go"));
        assert_eq!(pool.process(dying).exited().await, Some(1), "{part}");
        let log = pool.process(dying).log_lines();
        let mut failed = log.iter().filter(|line| line["message"] == FAILED);
        assert_eq!(failed.next().unwrap()["part"], part.as_str());
        let text = pool.process(dying).log_text();
        assert!(text.contains(&format!("the part `{part}` of the process failed")));
        for id in &ids {
            assert_eq!(
                pool.events.ended(id).await.stop_reason(),
                "end_turn",
                "{id}"
            );
        }
    }
    pool.stop().await;
}

/// Guards `Reply` and the retries beside it: without its task's answer, a line
/// would stand until another sequencer takes over.
#[tokio::test]
async fn g4_a_task_of_the_sequencer_that_dies_leaves_no_line_standing() {
    let faults: Vec<String> = [
        "sequencer.offered",
        "sequencer.marked",
        "sequencer.claimed",
        "sequencer.receipt_kept",
        "sequencer.buried",
        "sequencer.rejected",
        "sequencer.answered",
    ]
    .map(|place| format!("{place}=1*return(panic)"))
    .into();
    let mut pool = Pool::start(1, &[("FAILPOINTS", &faults.join(";"))]).await;
    let mut in_time = turn("in-time", "a", &["wait go"]);
    in_time["start_within_s"] = 1_000.into();
    let mut invalid = turn("invalid", "a", &[]);
    invalid["messages"] = "none".into();
    let requests = [
        in_time,
        turn("cancelled", "a", &[]),
        invalid,
        turn("last", "a", &["say hi"]),
    ];
    pool.enqueue(&requests).await;
    pool.started("in-time", 1).await;
    pool.cancel("cancelled").await;
    let ends = [
        ("cancelled", "cancelled"),
        ("invalid", "error"),
        ("in-time", "end_turn"),
        ("last", "end_turn"),
    ];
    for (id, reason) in ends {
        if id == "in-time" {
            pool.release("go");
        }
        assert_eq!(pool.events.ended(id).await.stop_reason(), reason, "{id}");
    }
    assert_eq!(pool.runs().of_turn("in-time").count(), 1);
    let letters = pool.producer.dead_letters(1).await;
    assert_eq!(letters.len(), 1);
    let panics = pool.processes()[0].log_text();
    let panicked: BTreeSet<&str> = (faults.iter())
        .filter_map(|fault| fault.split('=').next())
        .filter(|place| panics.contains(&format!("a test wants a panic at {place}")))
        .collect();
    assert_eq!(panicked.len(), faults.len(), "{panicked:?}");
    pool.stop().await;
}

/// Guards `CutAtEnd` and the look at `Outbox::has_failed`: the turn would wait
/// for ever for its events' confirms, and keep its slot.
#[tokio::test]
async fn g2_g4_a_turn_without_published_events_keeps_no_slot() {
    for script in [&["say 1", "wait go", "say 2"][..], &["wait go"]] {
        let faults = "outbox.publishes=1*off->1*return(panic)";
        let settings = [("SLOTS", "1"), ("FAILPOINTS", faults)];
        let mut pool = Pool::start(1, &settings).await;
        pool.enqueue(&[turn("t1", "a", script), turn("t2", "b", &[])])
            .await;
        pool.started("t1", 1).await;
        pool.release("go");
        for id in ["t1", "t2"] {
            assert_eq!(
                pool.events.ended(id).await.stop_reason(),
                "end_turn",
                "{id}"
            );
        }
        pool.stop().await;
    }
}

/// Guards that a connection that is no longer watched is closed, and a new one opened.
#[tokio::test]
async fn g4_a_connection_that_is_no_longer_watched_is_replaced() {
    for passed in [1, 2, 3] {
        let faults = format!("link.watched={passed}*off->1*return(panic)");
        let mut pool = Pool::start(1, &[("FAILPOINTS", &faults)]).await;
        pool.enqueue(&[turn("t1", "a", &["say hi"])]).await;
        assert_eq!(pool.events.ended("t1").await.stop_reason(), "end_turn");
        let log = pool.processes()[0].log_text();
        assert!(log.contains("a test wants a panic at link.watched"));
        pool.stop().await;
    }
}
