//! How far a journal reaches, so that an old read of it is noticed: some network
//! file systems show, under the lock, less than was synced under the lock before.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::read::{At, header};
use super::{JOURNAL, OLD};
use crate::workspace::dir::Dir;
use crate::workspace::error::{DiskError, StateError};

/// Names the journal. Made once; an operator who restores or removes the
/// journal removes this, too.
pub(super) const JOURNAL_ID: &str = "journal-id";
const MAX_ID_BYTES: u64 = 64;

/// How many bytes before the end the checksum covers.
const SUMMED: u64 = 4096;

/// The end of a record in a workspace's journal, as one process reports it to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct JournalEnd {
    /// Another one once an operator has restored or removed the journal.
    pub journal: Uuid,
    /// The segment's number.
    pub segment: u64,
    /// Bytes of the segment up to the end of the record.
    pub len: u64,
    /// CRC-32 of the last bytes before that.
    pub crc: u32,
}

impl JournalEnd {
    /// Whether `other` is better to know: it reaches further, or is of another
    /// journal, which is then the newer one.
    pub fn is_outdated_by(&self, other: &Self) -> bool {
        self.journal != other.journal || (self.segment, self.len) < (other.segment, other.len)
    }

    /// The one of both that reaches further.
    pub fn furthest(one: Option<Self>, other: Option<Self>) -> Option<Self> {
        match (one, other) {
            (Some(one), Some(other)) if one.is_outdated_by(&other) => Some(other),
            (one, other) => one.or(other),
        }
    }
}

/// The end of the record at `len` in the open segment.
pub(super) fn at(
    journal: Uuid,
    segment: u64,
    file: &File,
    path: &Path,
    len: u64,
) -> Result<JournalEnd, DiskError> {
    let mut bytes = Vec::new();
    At::of(file, len.saturating_sub(SUMMED))
        .take(len.min(SUMMED))
        .read_to_end(&mut bytes)
        .map_err(|error| DiskError::new("read", path, error))?;
    Ok(JournalEnd {
        journal,
        segment,
        len,
        crc: crc32fast::hash(&bytes),
    })
}

/// Whether the segment, read up to `len`, is at least as new as is known.
/// Returns an error if it is older.
pub(super) fn check(
    known: &JournalEnd,
    segment: u64,
    file: &File,
    path: &Path,
    len: u64,
) -> Result<(), StateError> {
    if segment > known.segment {
        return Ok(());
    }
    let found = match segment == known.segment {
        false => format!("segment {segment}"),
        true if len < known.len => format!("{len} bytes"),
        true if at(known.journal, segment, file, path, known.len)?.crc == known.crc => {
            return Ok(());
        }
        true => "other bytes".to_owned(),
    };
    Err(older(path, found, known))
}

/// Before a journal is made if it is not seen.
pub(super) fn check_absent(known: Option<&JournalEnd>, path: &Path) -> Result<(), StateError> {
    known.map_or(Ok(()), |known| {
        Err(older(path, "no file".to_owned(), known))
    })
}

/// For readers without the lock. Returns an error if the journal is older than is known.
pub(in crate::workspace) fn check_unlocked(
    state: &Dir,
    known: &JournalEnd,
) -> Result<(), StateError> {
    if read_id(state)? != Some(known.journal) {
        return Ok(());
    }
    let path = state.path().join(JOURNAL);
    // For a moment there is none while a segment begins.
    let Some(file) = state.file(JOURNAL, OFlags::RDONLY)? else {
        return check_absent(Some(known), &path);
    };
    let number = header(&file, &path)?.0.number;
    check(known, number, &file, &path, super::read::len(&file, &path)?)
}

fn older(path: &Path, found: String, known: &JournalEnd) -> StateError {
    StateError::OldRead {
        path: path.to_owned(),
        found,
        segment: known.segment,
        expected: known.len,
    }
}

/// The journal's id, which is created if absent. Needs the lock.
pub(super) fn id(state: &Dir) -> Result<Uuid, StateError> {
    loop {
        if let Some(id) = read_id(state)? {
            return Ok(id);
        }
        let new = format!("{}\n", Uuid::new_v4());
        state.create_exclusive(JOURNAL_ID, new.as_bytes())?;
    }
}

fn read_id(state: &Dir) -> Result<Option<Uuid>, DiskError> {
    let Some(bytes) = state.read(JOURNAL_ID, MAX_ID_BYTES)? else {
        return Ok(None);
    };
    let id = String::from_utf8_lossy(&bytes).trim().parse();
    id.map(Some)
        .map_err(|error| state.error("understand", JOURNAL_ID, std::io::Error::other(error)))
}

/// Where a record ends that stands in the segment of that number, without the
/// lock. Returns `None` if it is not known which journal that is.
pub(super) fn of_record(
    state: &Dir,
    segment: u64,
    len: u64,
) -> Result<Option<JournalEnd>, StateError> {
    let Some(journal) = read_id(state)? else {
        return Ok(None);
    };
    for name in [JOURNAL, OLD] {
        let Some(file) = state.file(name, OFlags::RDONLY)? else {
            continue;
        };
        let path = state.path().join(name);
        if header(&file, &path)?.0.number == segment {
            return Ok(Some(at(journal, segment, &file, &path, len)?));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workspace::testing::{finished, lock, started, workspace};
    use crate::workspace::{LockedJournal, Workspace};

    fn opened(workspace: &Workspace, known: &JournalEnd) -> Result<LockedJournal, StateError> {
        lock(workspace).open_journal(Some(known))
    }

    fn with_turns(workspace: &Workspace, ids: &[&str]) -> JournalEnd {
        let mut journal = lock(workspace).open_journal(None).unwrap();
        for id in ids {
            journal.started(&started(id, 1)).unwrap();
            journal.finished(&finished(id, 1, 15)).unwrap();
        }
        journal.end().unwrap()
    }

    #[test]
    fn g4_a_journal_that_is_older_than_known_is_not_opened_and_stays_as_it_is() {
        let (_tmp, workspace) = workspace();
        let state = workspace.state_dir().to_owned();
        let read = |name: &str| std::fs::read(state.join(name)).unwrap();
        let before = with_turns(&workspace, &["a"]);
        let (short, checkpoint) = (read(JOURNAL), read("checkpoint"));
        let known = with_turns(&workspace, &["b"]);
        let whole = read(JOURNAL);
        assert!(before.is_outdated_by(&known) && !known.is_outdated_by(&before));

        // The new length may be seen before the new bytes.
        let zeros = [&short[..], &vec![0; whole.len() - short.len()]].concat();
        let mut other = whole.clone();
        let last = other.len() - 2;
        other[last] ^= 1;
        for old in [&short, &zeros, &other] {
            std::fs::write(state.join(JOURNAL), old).unwrap();
            std::fs::write(state.join("checkpoint"), &checkpoint).unwrap();
            let error = opened(&workspace, &known).unwrap_err();
            assert!(matches!(error, StateError::OldRead { .. }), "{error}");
            assert_eq!(&read(JOURNAL), old, "cut");
            // A negative answer may be as old; a positive one holds for ever.
            let ended = |id| workspace.has_ended(id, Some(&known));
            let error = ended("c").unwrap_err();
            assert!(matches!(error, StateError::OldRead { .. }), "{error}");
        }
        std::fs::remove_file(state.join(JOURNAL)).unwrap();
        let error = opened(&workspace, &known).unwrap_err();
        assert!(matches!(error, StateError::OldRead { .. }), "{error}");
        assert!(!state.join(JOURNAL).exists(), "made anew");

        std::fs::write(state.join(JOURNAL), &whole).unwrap();
        assert_eq!(opened(&workspace, &known).unwrap().end().unwrap(), known);
        assert_eq!(opened(&workspace, &before).unwrap().end().unwrap(), known);
        assert!(!workspace.has_ended("c", Some(&known)).unwrap());
    }

    #[test]
    fn g4_an_older_segment_is_an_old_read_and_a_newer_one_is_not() {
        let (_tmp, workspace) = workspace();
        let first = with_turns(&workspace, &["a"]);
        let old = std::fs::read(workspace.state_dir().join(JOURNAL)).unwrap();
        let opened_anew = lock(&workspace).open_journal_of(1, Some(&first)).unwrap();
        let second = opened_anew.end().unwrap();
        drop(opened_anew);
        assert!(first.is_outdated_by(&second));
        assert!(second.segment > first.segment && second.len < first.len);
        opened(&workspace, &first).unwrap();
        std::fs::write(workspace.state_dir().join(JOURNAL), old).unwrap();
        let error = opened(&workspace, &second).unwrap_err();
        assert!(error.to_string().contains("segment 1"), "{error}");
    }

    #[test]
    fn g4_a_journal_that_an_operator_has_recreated_is_opened() {
        let (_tmp, workspace) = workspace();
        let known = with_turns(&workspace, &["a"]);
        for name in [JOURNAL, "checkpoint", JOURNAL_ID] {
            std::fs::remove_file(workspace.state_dir().join(name)).unwrap();
        }
        let new = opened(&workspace, &known).unwrap().end().unwrap();
        assert!(known.is_outdated_by(&new), "{known:?} {new:?}");
    }

    #[test]
    fn g4_the_end_of_a_turn_that_has_ended_is_found_by_its_place() {
        let (_tmp, workspace) = workspace();
        let first = with_turns(&workspace, &["a"]);
        with_turns(&workspace, &["b"]);
        assert_eq!(workspace.end_of("a").unwrap(), Some(first));
        drop(lock(&workspace).open_journal_of(1, None).unwrap());
        assert_eq!(workspace.end_of("a").unwrap(), Some(first));
        assert_eq!(workspace.end_of("c").unwrap(), None);
    }
}
