//! What a journal remembers of turns, with no faults but process deaths.

use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::workspace::durable::syncs;
use crate::workspace::testing::{finished, journal, lock, run_claim, started, tokens, workspace};
use uuid::Uuid;

use crate::workspace::{
    Baseline, ClaimOutcome, Returned, SessionFile, StateError, TurnHistory, Unkept,
};

#[test]
fn g4_a_finished_turn_is_known_as_finished_ever_after() {
    let (_tmp, workspace) = workspace();
    let mut first = journal(&workspace);
    first.started(&started("t", 1)).unwrap();
    first.finished(&finished("t", 1, 15)).unwrap();
    drop(first);

    let expected = TurnHistory {
        started: vec![started("t", 1)],
        returned: vec![],
        finished: Some(finished("t", 1, 15)),
    };
    assert_eq!(workspace.history("t").unwrap(), expected);
    assert_eq!(journal(&workspace).history("t").unwrap(), expected);
}

/// Workers of two versions run side by side. A reason of the newer one stands only
/// in the text of an event, which is published again as it is.
#[test]
fn g4_an_end_in_words_of_a_later_version_is_read_and_published_unchanged() {
    let (_tmp, workspace) = workspace();
    let mut first = journal(&workspace);
    first.started(&started("t", 1)).unwrap();
    drop(first);
    let event = r#"{"turn_id":"t","attempt":1,"seq":1,"type":"error","error":{"code":"turn.failed","message":"m","reason":"of-a-later-version","retryable":false},"later":1}"#;
    let sealed_event =
        serde_json::json!({"turn_id": "t", "attempt": 1, "seq": 1, "kind": "error", "json": event});
    let record = format!(
        r#"{{"v":1,"record":"finished","turn_id":"t","attempt":1,"at":"2026-01-02T03:04:05Z","stop_reason":"error","code":"turn.failed","usage":{{"input_tokens":1,"cache_read_tokens":0,"cache_write_tokens":0,"output_tokens":2,"thinking_tokens":0,"later":{{}}}},"thread":null,"unconfirmed":[],"ending":[{sealed_event}],"later":true}}"#
    );
    let lines = [read(&workspace, JOURNAL), sealed(&record)].concat();
    write(&workspace, JOURNAL, &lines);
    let history = journal(&workspace).history("t").unwrap();
    let ending = history.finished.unwrap().ending;
    assert_eq!(&*ending[0].json, event);
}

#[test]
fn g6_attempts_count_up_over_deaths_and_shutdowns() {
    let (_tmp, workspace) = workspace();
    let mut first = journal(&workspace);
    assert_eq!(first.history("t").unwrap().next_attempt(), 1);
    first.started(&started("t", 1)).unwrap();
    drop(first);
    let mut second = journal(&workspace);
    assert_eq!(second.history("t").unwrap().next_attempt(), 2);
    second.started(&started("t", 2)).unwrap();
    let cut_off = Returned {
        turn_id: "t".into(),
        attempt: 2,
    };
    second.returned(&cut_off).unwrap();
    drop(second);
    let history = journal(&workspace).history("t").unwrap();
    assert_eq!(history.next_attempt(), 3);
    assert_eq!(history.charged(), 1);
    assert_eq!(history.returned, [2]);
}

#[test]
fn turns_with_similar_ids_are_distinguished() {
    let (_tmp, workspace) = workspace();
    let ids = ["t", "tt", "t.", ".", "..", "t-1", &"x".repeat(128)];
    let mut journal = journal(&workspace);
    for id in ids {
        // Events hold the text of another turn's id.
        journal.started(&started(id, 1)).unwrap();
        let mut end = finished(id, 1, 1);
        end.unconfirmed[0].json = r#"{"turn_id":"other"}"#.into();
        journal.finished(&end).unwrap();
    }
    for id in ids {
        let history = journal.history(id).unwrap();
        assert_eq!(history.started, [started(id, 1)]);
        assert_eq!(history.finished.unwrap().turn_id, id);
    }
    assert_eq!(journal.history("other").unwrap(), TurnHistory::default());
    assert!(matches!(
        journal.history("a/b"),
        Err(StateError::TurnId { .. })
    ));
    assert!(matches!(
        journal.started(&started("a/b", 1)),
        Err(StateError::TurnId { .. })
    ));
}

#[test]
fn before_the_first_turn_there_is_no_history() {
    let (_tmp, workspace) = workspace();
    assert_eq!(workspace.history("t").unwrap(), TurnHistory::default());
    assert!(!path(&workspace, JOURNAL).exists());
    assert_eq!(journal(&workspace).baseline(), None);
}

#[test]
fn one_turn_waits_four_times_for_the_disk() {
    let (_tmp, workspace) = workspace();
    drop(journal(&workspace));
    syncs::take();
    let mut journal = journal(&workspace);
    assert_eq!(syncs::take(), 0, "opening");
    let won = workspace.claims().claim("t", &run_claim()).unwrap();
    assert_eq!(won, ClaimOutcome::Won);
    assert_eq!(syncs::take(), 2, "claim");
    journal.started(&started("t", 1)).unwrap();
    assert_eq!(syncs::take(), 1, "started");
    journal.finished(&finished("t", 1, 15)).unwrap();
    assert_eq!(syncs::take(), 1, "finished");
}

#[test]
fn g4_an_end_is_durable_before_a_reader_publishes_it() {
    let (_tmp, workspace) = workspace();
    let mut journal = journal(&workspace);
    journal.started(&started("a", 1)).unwrap();
    journal.finished(&finished("a", 1, 15)).unwrap();
    journal.started(&started("b", 1)).unwrap();
    for (turn, waits) in [("a", 1), ("b", 0)] {
        syncs::take();
        workspace.history(turn).unwrap();
        assert_eq!(syncs::take(), waits, "{turn}");
    }
}

fn baseline(total: Option<u64>, turn_id: &str) -> Baseline {
    Baseline {
        thread_id: "0199a213-81c0-7800-8aa1-bbab2a035a53".into(),
        total: total.map(tokens),
        turn_id: turn_id.into(),
        attempt: 1,
        unkept: None,
    }
}

#[test]
fn a_thread_that_was_not_kept_counts_until_the_session_file_is_written() {
    let (_tmp, workspace) = workspace();
    let mut first = journal(&workspace);
    let mut unkept = finished("a", 1, 15);
    let instead = Some(Uuid::from_u128(7));
    unkept.thread.as_mut().unwrap().unkept = Some(Unkept { instead });
    first.finished(&unkept).unwrap();
    drop(first);
    let second = journal(&workspace);
    let baseline = second.baseline().unwrap();
    let thread: Uuid = baseline.thread_id.parse().unwrap();
    for (session, counts) in [
        (SessionFile::Thread(Uuid::from_u128(7)), true),
        (SessionFile::Thread(Uuid::from_u128(8)), false),
        (SessionFile::None, false),
    ] {
        let found = baseline.instead_of(&session);
        assert_eq!(found, counts.then_some(thread), "{session:?}");
    }
    let kept = Baseline {
        unkept: None,
        ..baseline.clone()
    };
    let session = SessionFile::Thread(Uuid::from_u128(7));
    assert_eq!(kept.instead_of(&session), None);
}

#[test]
fn g7_the_baseline_is_what_the_newest_finished_turn_left() {
    let (_tmp, workspace) = workspace();
    let mut first = journal(&workspace);
    first.finished(&finished("a", 1, 15)).unwrap();
    assert_eq!(first.baseline(), Some(&baseline(Some(15), "a")));
    // It never got to a thread, so it used no thread's tokens.
    let mut no_thread = finished("b", 1, 0);
    no_thread.thread = None;
    first.finished(&no_thread).unwrap();
    assert_eq!(first.baseline(), Some(&baseline(Some(15), "a")));
    drop(first);
    let mut second = journal(&workspace);
    assert_eq!(second.baseline(), Some(&baseline(Some(15), "a")));
    // Its thread moved on by an unknown number.
    let mut untold = finished("c", 1, 0);
    untold.thread.as_mut().unwrap().total = None;
    second.finished(&untold).unwrap();
    drop(second);
    let third = journal(&workspace);
    assert_eq!(third.baseline(), Some(&baseline(None, "c")));
}

#[test]
fn g7_the_baseline_survives_any_damage_of_the_checkpoint() {
    let (_tmp, workspace) = workspace();
    let mut first = journal(&workspace);
    first.finished(&finished("a", 1, 15)).unwrap();
    let behind = read(&workspace, CHECKPOINT);
    first.finished(&finished("b", 1, 40)).unwrap();
    first.started(&started("c", 1)).unwrap();
    drop(first);
    let whole = read(&workspace, CHECKPOINT);
    assert_ne!(behind, whole);
    let newer = sealed(r#"{"v":2,"segment":1,"len":1}"#);
    let other_segment = sealed(r#"{"v":1,"segment":9,"len":9,"turns":9,"baseline":null}"#);
    for found in [
        &behind[..],
        b"",
        b"rubbish",
        &whole[..40],
        &newer,
        &other_segment,
    ] {
        write(&workspace, CHECKPOINT, found);
        let journal = journal(&workspace);
        assert_eq!(journal.baseline(), Some(&baseline(Some(40), "b")));
        drop(journal);
        // And the next opening needs no repair.
        let repaired = read(&workspace, CHECKPOINT);
        assert_eq!(lines_of(&repaired), 1);
        assert_ne!(repaired, found);
    }
    std::fs::remove_file(path(&workspace, CHECKPOINT)).unwrap();
    assert_eq!(
        journal(&workspace).baseline(),
        Some(&baseline(Some(40), "b"))
    );
}

fn lines_of(bytes: &[u8]) -> usize {
    bytes.iter().filter(|byte| **byte == b'\n').count()
}

#[test]
fn readers_without_the_lock_see_whole_records_only() {
    let (_tmp, workspace) = workspace();
    let mut journal = lock(&workspace).open_journal_of(5, None).unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut seen = 0;
            while !done.load(Ordering::Relaxed) {
                let history = workspace.history("t").unwrap();
                assert!(history.started.len() >= seen);
                seen = history.started.len();
            }
        });
        for attempt in 1..=20 {
            journal.started(&started("t", attempt)).unwrap();
            let mut other = finished("other", attempt, 1);
            other.unconfirmed[0].json = "x".repeat(300_000).into();
            journal.finished(&other).unwrap();
        }
        done.store(true, Ordering::Relaxed);
        reader.join().unwrap();
    });
    assert_eq!(workspace.history("t").unwrap().started.len(), 20);
}
