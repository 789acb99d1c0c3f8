//! A part of a process that dies, by a panic, while turns run: a task that
//! lives as long as the process, or one that only has to answer.

use turn_worker::parts::PartName;

use crate::support::pool::{Pool, turn};

const FAILED: &str = "a part of the process failed; ending the process";

/// Guards `Parts::spawn` and `Parts::guard`: a part without an owner dies unnoticed,
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

/// Guards `CutAtEnd` and the look at `Outbox::has_failed`: the turn would wait
/// for ever for its events' confirms, and keep its slot.
#[tokio::test]
async fn g2_g4_a_turn_whose_events_are_no_longer_published_keeps_no_slot() {
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

/// Guards that a connection which nobody watches any more is closed, and built anew.
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
