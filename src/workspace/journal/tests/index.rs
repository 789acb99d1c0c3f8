//! What a turn costs that comes again after its end.

use super::*;
use crate::event::SealedEvent;
use crate::workspace::journal::read::reads;
use crate::workspace::testing::{events, finished, journal, lock, started, workspace};
use crate::workspace::{Finished, LockedJournal, TurnHistory};

const ENDS: [&str; 2] = ["ends.0", "ends.1"];

fn run(journal: &mut LockedJournal, finished: &Finished) {
    journal.started(&started(&finished.turn_id, 1)).unwrap();
    journal.finished(finished).unwrap();
}

/// With an answer of so many bytes.
fn long(turn_id: &str, bytes: usize) -> Finished {
    let answer = SealedEvent {
        json: "x".repeat(bytes).into(),
        ..events(turn_id, 1, 1).remove(0)
    };
    Finished {
        ending: vec![answer],
        ..finished(turn_id, 1, 15)
    }
}

fn ended(workspace: &Workspace, turn_id: &str) -> Option<Finished> {
    workspace.indexed_end(turn_id).unwrap()
}

/// Guards `index::find`: a duplicate had all of the journal read.
#[test]
fn g10_a_turn_that_has_ended_costs_a_read_that_the_journal_does_not_lengthen() {
    let (_tmp, workspace) = workspace();
    let mut journal = journal(&workspace);
    let (turns, bytes) = (200, 100_000);
    for number in 0..turns {
        run(&mut journal, &long(&format!("t{number}"), bytes));
    }
    let length = std::fs::metadata(path(&workspace, JOURNAL)).unwrap().len();
    assert!(length > (turns * bytes) as u64);
    let index = std::fs::metadata(path(&workspace, ENDS[1])).unwrap().len();
    for number in [0, turns / 2, turns - 1] {
        let turn_id = format!("t{number}");
        reads::take();
        assert_eq!(ended(&workspace, &turn_id), Some(long(&turn_id, bytes)));
        // The record, the header, and what is read at once of each.
        let most = index + 2 * bytes as u64 + 16 * 1024;
        let read = reads::take();
        assert!((bytes as u64..=most).contains(&read), "{read}, not {most}");
    }
    workspace.history("t0").unwrap();
    assert!(reads::take() >= length, "nothing is counted");
}

#[test]
fn g5_an_end_is_found_in_either_segment_and_forgotten_with_it() {
    let (_tmp, workspace) = workspace();
    for number in 0..20 {
        let turn_id = format!("t{number}");
        let mut journal = lock(&workspace).open_journal_of(3, None).unwrap();
        run(&mut journal, &finished(&turn_id, 1, number));
        drop(journal);
        for before in 0..=number {
            let turn_id = format!("t{before}");
            let history = workspace.history(&turn_id).unwrap();
            assert_eq!(ended(&workspace, &turn_id), history.finished);
        }
    }
    let sizes = ENDS.map(|name| read(&workspace, name).len());
    assert!(sizes.iter().all(|size| *size < 4 * 150), "{sizes:?}");
}

#[test]
fn a_turn_that_has_not_ended_is_not_in_the_index() {
    let (_tmp, workspace) = workspace();
    assert_eq!(ended(&workspace, "t"), None);
    let mut journal = journal(&workspace);
    journal.started(&started("t", 1)).unwrap();
    assert_eq!(ended(&workspace, "t"), None);
    journal.finished(&finished("t", 1, 15)).unwrap();
    assert_eq!(ended(&workspace, "t"), Some(finished("t", 1, 15)));
    for other in ["tt", "."] {
        assert_eq!(ended(&workspace, other), None);
    }
}

/// Of a damaged index, no end comes that the journal does not have.
#[test]
fn g5_a_damaged_index_costs_a_reading_and_changes_no_end() {
    let (_tmp, workspace) = workspace();
    let mut journal = journal(&workspace);
    for id in ["a", "b"] {
        run(&mut journal, &finished(id, 1, 15));
    }
    let whole = read(&workspace, ENDS[1]);
    let entry = |turn_id: &str, segment: u64, offset: u64, len: u64| {
        sealed(&format!(
            r#"{{"v":1,"turn_id":"{turn_id}","segment":{segment},"offset":{offset},"len":{len}}}"#
        ))
    };
    let journal_len = read(&workspace, JOURNAL).len() as u64;
    let mut cases = vec![
        b"odd".to_vec(),
        entry("a", 1, 0, journal_len),
        entry("a", 1, 3, 80),
        entry("a", 1, 0, u64::MAX),
        entry("a", 1, u64::MAX, u64::MAX),
        entry("a", 2, 0, 10),
        entry("a", 1, journal_len, 10),
        entry("a", 1, 0, 0),
    ];
    cases.extend((0..whole.len()).map(|len| whole[..len].to_vec()));
    // Where the other one's record is.
    let of_b = String::from_utf8(whole.clone()).unwrap();
    let of_b = of_b.lines().last().unwrap()[9..].replace(r#""b""#, r#""a""#);
    cases.push(sealed(&of_b));
    for case in cases {
        write(&workspace, ENDS[1], &case);
        let found = ended(&workspace, "a");
        assert!(found.is_none() || found == Some(finished("a", 1, 15)));
        let history = workspace.history("a").unwrap();
        assert_eq!(history.finished, Some(finished("a", 1, 15)));
    }
    // What is torn spoils no later entry.
    write(&workspace, ENDS[1], &whole[..whole.len() - 7]);
    run(&mut journal, &finished("c", 1, 15));
    assert_eq!(ended(&workspace, "c"), Some(finished("c", 1, 15)));
    assert_eq!(ended(&workspace, "a"), Some(finished("a", 1, 15)));
}

/// The record itself may be damaged: that is the journal's to report.
#[test]
fn g4_an_end_with_a_damaged_record_is_not_read_from_the_index() {
    let (_tmp, workspace) = workspace();
    run(&mut journal(&workspace), &finished("a", 1, 15));
    run(&mut journal(&workspace), &finished("b", 1, 15));
    let text = String::from_utf8(read(&workspace, JOURNAL)).unwrap();
    let damaged = text.replacen("end_turn", "bad_turn", 1);
    write(&workspace, JOURNAL, damaged.as_bytes());
    assert_eq!(ended(&workspace, "a"), None);
    assert!(workspace.history("a").is_err());
    assert_eq!(ended(&workspace, "b"), Some(finished("b", 1, 15)));
}

/// As workers of earlier versions leave it: they neither write the index nor
/// remove it with its segment.
#[test]
fn g5_ends_without_an_entry_and_entries_without_an_end_do_no_harm() {
    let (_tmp, workspace) = workspace();
    let mut kept = Vec::new();
    for number in 0..12 {
        let turn_id = format!("t{number}");
        let mut journal = lock(&workspace).open_journal_of(3, None).unwrap();
        let before = ENDS.map(|name| std::fs::read(path(&workspace, name)).ok());
        run(&mut journal, &finished(&turn_id, 1, number));
        if number % 2 == 0 {
            kept.push(turn_id);
            continue;
        }
        for (name, bytes) in ENDS.into_iter().zip(before) {
            match bytes {
                Some(bytes) => write(&workspace, name, &bytes),
                None => drop(std::fs::remove_file(path(&workspace, name))),
            }
        }
    }
    for number in 0..12 {
        let turn_id = format!("t{number}");
        let TurnHistory { finished, .. } = workspace.history(&turn_id).unwrap();
        let found = ended(&workspace, &turn_id);
        assert!(found.is_none() || found == finished, "{turn_id}");
        if kept.contains(&turn_id) {
            assert_eq!(found, finished);
        }
    }
}
