//! What crashes, other writers and failing disks leave behind.

use std::io::Write;
use std::process::Command;

use super::*;
use crate::workspace::testing::{finished, journal, lock, started, workspace};
use crate::workspace::{LockedJournal, StateError, TurnHistory, Workspace};

/// A journal of turn `a`, whole, and one last record of turn `b`.
struct Torn {
    _tmp: tempfile::TempDir,
    workspace: Workspace,
    before: Vec<u8>,
    last: Vec<u8>,
    /// As it was when the last record was written.
    checkpoint: Vec<u8>,
}

fn torn(last: impl FnOnce(&mut LockedJournal)) -> Torn {
    let (tmp, workspace) = workspace();
    let mut journal = journal(&workspace);
    journal.started(&started("a", 1)).unwrap();
    journal.finished(&finished("a", 1, 15)).unwrap();
    let before = read(&workspace, JOURNAL);
    let checkpoint = read(&workspace, CHECKPOINT);
    last(&mut journal);
    drop(journal);
    let last = read(&workspace, JOURNAL)[before.len()..].to_vec();
    Torn {
        _tmp: tmp,
        workspace,
        before,
        last,
        checkpoint,
    }
}

impl Torn {
    /// With this in the last record's place, all before it is there and
    /// no part of it is.
    fn check(&self, tail: &[u8], checkpoint: &[u8]) -> LockedJournal {
        let workspace = &self.workspace;
        write(workspace, JOURNAL, &[&self.before, tail].concat());
        write(workspace, CHECKPOINT, checkpoint);

        let unlocked = workspace.history("a").unwrap();
        assert!(unlocked.finished.is_some());
        assert_eq!(workspace.history("b").unwrap(), TurnHistory::default());

        let journal = journal(workspace);
        assert_eq!(read(workspace, JOURNAL), self.before, "cut");
        assert_eq!(journal.history("a").unwrap(), unlocked);
        assert_eq!(journal.history("b").unwrap(), TurnHistory::default());
        assert_eq!(journal.baseline().unwrap().turn_id, "a");
        journal
    }

    fn check_every_byte(&self) {
        for len in 0..self.last.len() {
            self.check(&self.last[..len], &self.checkpoint);
            let mut garbled = self.last.clone();
            garbled[len] ^= 0x80;
            self.check(&garbled, b"");
        }
        for len in (0..self.last.len()).step_by(8) {
            // A length without its data, as some file systems leave it.
            let mut hollow = self.last.clone();
            hollow[len..].fill(0);
            let mut journal = self.check(&hollow, &self.checkpoint);
            // And the journal goes on.
            journal.started(&started("b", 1)).unwrap();
            assert_eq!(journal.history("b").unwrap().started.len(), 1);
        }
    }
}

#[test]
fn g4_a_torn_start_is_cut_wherever_it_tore() {
    torn(|journal| journal.started(&started("b", 1)).unwrap()).check_every_byte();
}

#[test]
fn g4_a_torn_end_is_cut_wherever_it_tore() {
    torn(|journal| {
        let mut end = finished("b", 1, 99);
        end.unconfirmed.clear();
        end.ending.clear();
        journal.finished(&end).unwrap();
    })
    .check_every_byte();
}

#[test]
fn g4_damage_in_the_middle_stops_the_turn_and_names_the_place() {
    let (_tmp, workspace) = workspace();
    let mut first = journal(&workspace);
    let mut starts = vec![0];
    for turn in ["a", "b", "c"] {
        starts.push(read(&workspace, JOURNAL).len());
        first.started(&started(turn, 1)).unwrap();
    }
    drop(first);
    let whole = read(&workspace, JOURNAL);
    for at in 0..starts[2] {
        let mut garbled = whole.clone();
        garbled[at] ^= 0x80;
        write(&workspace, JOURNAL, &garbled);
        let error = lock(&workspace).open_journal(None).unwrap_err();
        let StateError::Damaged { path, offset, .. } = &error else {
            panic!("byte {at}: {error}");
        };
        assert!(path.ends_with(JOURNAL));
        // The header is looked at alone, so it may be its line that is wrong.
        let record = starts.iter().rfind(|start| **start <= at).unwrap();
        assert_eq!(*offset, *record as u64, "byte {at}");
        assert!(workspace.history("c").is_err(), "byte {at}");
        assert_eq!(read(&workspace, JOURNAL), garbled, "untouched");
    }
}

#[test]
fn opening_reads_only_what_the_checkpoint_does_not_cover() {
    let (_tmp, workspace) = workspace();
    let mut first = journal(&workspace);
    let at = read(&workspace, JOURNAL).len() + 30;
    first.finished(&finished("a", 1, 15)).unwrap();
    first.started(&started("b", 1)).unwrap();
    drop(first);
    let mut garbled = read(&workspace, JOURNAL);
    garbled[at] ^= 0x80;
    write(&workspace, JOURNAL, &garbled);
    let journal = journal(&workspace);
    // But who looks for a turn reads it all.
    for turn in ["a", "b", "never seen"] {
        let turn = turn.replace(' ', "-");
        assert!(matches!(
            journal.history(&turn),
            Err(StateError::Damaged { .. })
        ));
    }
}

#[test]
fn g4_damage_to_a_record_known_to_be_whole_is_no_torn_tail() {
    let (_tmp, workspace) = workspace();
    let mut first = journal(&workspace);
    first.finished(&finished("a", 1, 15)).unwrap();
    drop(first);
    let mut garbled = read(&workspace, JOURNAL);
    let last = garbled.len() - 2;
    garbled[last] ^= 0x80;
    write(&workspace, JOURNAL, &garbled);
    let history = journal(&workspace).history("a");
    assert!(matches!(history, Err(StateError::Damaged { .. })));
}

#[test]
fn g4_a_journal_shorter_than_known_stops_the_turn() {
    let (_tmp, workspace) = workspace();
    let mut first = journal(&workspace);
    first.finished(&finished("a", 1, 15)).unwrap();
    let before = read(&workspace, JOURNAL);
    first.finished(&finished("b", 1, 15)).unwrap();
    drop(first);
    write(&workspace, JOURNAL, &before);
    let error = lock(&workspace).open_journal(None).unwrap_err();
    assert!(matches!(error, StateError::Shortened { .. }), "{error}");
}

#[test]
fn g4_a_record_of_a_newer_version_stops_the_turn() {
    let newer = sealed(r#"{"v":2,"turn_id":"b","record":"suspended"}"#);
    let other_kind = sealed(r#"{"v":1,"turn_id":"b","record":"suspended"}"#);
    for (record, is_newer) in [(newer, true), (other_kind, false)] {
        let (_tmp, workspace) = workspace();
        drop(journal(&workspace));
        let mut bytes = read(&workspace, JOURNAL);
        let at = bytes.len() as u64;
        bytes.extend_from_slice(&record);
        write(&workspace, JOURNAL, &bytes);
        let errors = [
            lock(&workspace).open_journal(None).unwrap_err(),
            workspace.history("b").unwrap_err(),
        ];
        for error in errors {
            match error {
                StateError::NewerVersion { offset, found, .. } if is_newer => {
                    assert_eq!((offset, found), (at, 2));
                }
                StateError::Damaged { offset, .. } if !is_newer => assert_eq!(offset, at),
                error => panic!("{error}"),
            }
        }
        assert_eq!(read(&workspace, JOURNAL), bytes, "untouched");
    }
}

#[test]
fn g4_an_attempt_that_is_not_the_newest_writes_no_record() {
    let ways: [fn(&Workspace); 4] = [
        |workspace| {
            let file = std::fs::File::options()
                .append(true)
                .open(path(workspace, JOURNAL));
            file.unwrap().write_all(&sealed(r#"{"v":1}"#)).unwrap();
        },
        |workspace| write(workspace, JOURNAL, b""),
        |workspace| {
            // The same bytes, and yet another file.
            let bytes = read(workspace, JOURNAL);
            write(workspace, "copy", &bytes);
            std::fs::rename(path(workspace, "copy"), path(workspace, JOURNAL)).unwrap();
        },
        |workspace| std::fs::remove_file(path(workspace, JOURNAL)).unwrap(),
    ];
    for interfere in ways {
        let (_tmp, workspace) = workspace();
        let mut journal = journal(&workspace);
        journal.started(&started("a", 1)).unwrap();
        interfere(&workspace);
        let found = std::fs::read(path(&workspace, JOURNAL)).ok();
        let error = journal.finished(&finished("a", 1, 15)).unwrap_err();
        assert!(matches!(error, StateError::NotNewest { .. }), "{error}");
        assert_eq!(std::fs::read(path(&workspace, JOURNAL)).ok(), found);
    }
}

/// Set in the child process that may not let files grow.
const LIMITED: &str = "JOURNAL_TEST_LIMITED";

#[test]
fn a_record_that_finds_no_space_is_undone_and_can_be_tried_again() {
    if std::env::var_os(LIMITED).is_none() {
        // The limit is a process's, so this test runs itself in one of its own.
        let name = std::thread::current().name().unwrap().to_owned();
        let output = Command::new("sh")
            .args(["-c", r#"trap '' XFSZ; ulimit -f 64; exec "$@""#, "sh"])
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", &name])
            .env(LIMITED, "1")
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{text}");
        assert!(text.contains("1 passed"), "{text}");
        return;
    }
    let (_tmp, workspace) = workspace();
    let mut first = journal(&workspace);
    first.started(&started("a", 1)).unwrap();
    let before = read(&workspace, JOURNAL);
    let mut large = finished("a", 1, 15);
    large.unconfirmed[0].json = "x".repeat(1_000_000).into();
    let error = first.finished(&large).unwrap_err();
    assert!(matches!(error, StateError::Disk(_)), "{error}");
    assert_eq!(read(&workspace, JOURNAL), before);
    first.finished(&finished("a", 1, 15)).unwrap();
    drop(first);
    let history = journal(&workspace).history("a").unwrap();
    assert_eq!(history.finished, Some(finished("a", 1, 15)));
}
