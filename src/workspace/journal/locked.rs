use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use rustix::fs::OFlags;
use serde::Serialize;
use tracing::warn;
use uuid::Uuid;

use super::checkpoint::Checkpoint;
use super::end::{self, JournalEnd};
use super::index::{self, Place};
use super::read::{self, Extent, header, scan};
use super::record::{Baseline, Finished, Record, Returned, Segment, Started, TurnHistory};
use super::{JOURNAL, OLD, TURNS_PER_SEGMENT, rotate};
use crate::workspace::dir::{Dir, PRIVATE_FILE};
use crate::workspace::error::{DiskError, StateError};
use crate::workspace::lock::WorkspaceLock;
use crate::workspace::{durable, id, line};

/// The journal with the lock that allows to append to it. It owns the lock:
/// a turn keeps one value for as long as it runs, across threads, and the
/// length that it left the file with stays known. Dropping it releases the
/// lock, once the guard has closed its copy too.
#[derive(Debug)]
pub struct LockedJournal {
    lock: WorkspaceLock,
    file: File,
    id: Uuid,
    tally: Checkpoint,
    /// A failed append that could not be undone yet: what of it may stand there.
    spoilt: Option<Vec<u8>>,
}

impl WorkspaceLock {
    /// Opens the journal, reading what was added since the last checkpoint,
    /// and cuts a torn tail. On an error the lock is released.
    ///
    /// `known`: the furthest end that any process has reported. A journal that
    /// does not reach it is left as it is: [`StateError::OldRead`].
    pub fn open_journal(self, known: Option<&JournalEnd>) -> Result<LockedJournal, StateError> {
        self.open_journal_of(TURNS_PER_SEGMENT, known)
    }

    pub(super) fn open_journal_of(
        self,
        turns: u64,
        known: Option<&JournalEnd>,
    ) -> Result<LockedJournal, StateError> {
        let id = end::id(&self.state)?;
        let known = known.filter(|known| known.journal == id);
        let file = match open(&self.state)? {
            Some(file) => file,
            None => {
                end::check_absent(known, &self.state.path().join(JOURNAL))?;
                create_next(&self.state)?
            }
        };
        let tally = take_stock(&self.state, &file, known)?;
        let mut journal = LockedJournal {
            lock: self,
            file,
            id,
            tally,
            spoilt: None,
        };
        if journal.tally.turns >= turns {
            rotate::forget_old(&journal)?;
            journal.begin_segment()?;
        }
        Ok(journal)
    }
}

impl LockedJournal {
    /// The lock, for the guard to inherit.
    pub fn lock(&self) -> &WorkspaceLock {
        &self.lock
    }

    /// A turn's records. Unlike a reader without the lock this one takes no
    /// unreadable record for one that is just being written.
    pub fn history(&self, turn_id: &str) -> Result<TurnHistory, StateError> {
        let turn_id = id::turn_id(turn_id)?;
        read::history(self.state(), turn_id, Some((&self.file, self.tally.len)))
    }

    /// What the next turn's usage is counted from; `None` before any thread.
    pub fn baseline(&self) -> Option<&Baseline> {
        self.tally.baseline.as_ref()
    }

    /// How far it reaches, for the processes that open it later.
    pub fn end(&self) -> Result<JournalEnd, DiskError> {
        let path = self.state().path().join(JOURNAL);
        end::at(
            self.id,
            self.tally.segment,
            &self.file,
            &path,
            self.tally.len,
        )
    }

    /// Whether an attempt started here and no end of it is recorded: its worker
    /// died, and may have left processes behind.
    pub fn has_open_attempt(&self) -> bool {
        self.tally.open_attempt
    }

    pub fn started(&mut self, started: &Started) -> Result<(), StateError> {
        id::turn_id(&started.turn_id)?;
        self.append(&Record::Started(started.clone()))?;
        self.tally.open_attempt = true;
        Ok(())
    }

    pub fn returned(&mut self, returned: &Returned) -> Result<(), StateError> {
        id::turn_id(&returned.turn_id)?;
        self.append(&Record::Returned(returned.clone()))?;
        self.tally.open_attempt = false;
        Ok(())
    }

    /// Records the end. [`StateError::NotNewest`] if another process has
    /// written since this value's last record: then this attempt's end is
    /// worthless. After any other error it may be retried, if need be
    /// on a journal that is reopened.
    pub fn finished(&mut self, finished: &Finished) -> Result<(), StateError> {
        id::turn_id(&finished.turn_id)?;
        let offset = self.tally.len;
        self.append(&Borrowed::Finished(finished))?;
        let place = Place {
            segment: self.tally.segment,
            offset,
            len: self.tally.len - offset,
        };
        // Without an entry, the journal is read.
        if let Err(error) = index::add(self.state(), &finished.turn_id, place) {
            warn!(error = %error, "the index of the journal stays behind");
        }
        self.tally.open_attempt = false;
        self.tally.turns += 1;
        if let Some(baseline) = finished.baseline() {
            self.tally.baseline = Some(baseline);
        }
        self.save_tally();
        Ok(())
    }

    pub(super) fn state(&self) -> &Dir {
        &self.lock.state
    }

    pub(super) fn file(&self) -> (&File, u64) {
        (&self.file, self.tally.len)
    }

    fn append(&mut self, record: &impl Serialize) -> Result<(), StateError> {
        self.undo_failed()?;
        self.must_be_newest()?;
        let bytes = line::encode(record);
        if let Err(error) = durable::append(&self.file, &bytes) {
            // What is not known to be durable must not look so: the next try
            // writes it afresh.
            if durable::cut(&self.file, self.tally.len).is_err() {
                self.spoilt = Some(bytes);
            }
            return Err(self.state().error("append to", JOURNAL, error).into());
        }
        self.tally.len += bytes.len() as u64;
        Ok(())
    }

    /// Cuts what an append left that failed, as its own cut did: the disk may
    /// be well again. What is not ours stays, and is met by the next look.
    fn undo_failed(&mut self) -> Result<(), StateError> {
        let Some(bytes) = &self.spoilt else {
            return Ok(());
        };
        let cut = || -> io::Result<()> {
            let size = self.file.metadata()?.len();
            let left = usize::try_from(size.saturating_sub(self.tally.len)).unwrap_or(usize::MAX);
            if left > bytes.len() {
                return Ok(());
            }
            let mut tail = vec![0; left];
            self.file.read_exact_at(&mut tail, self.tally.len)?;
            if bytes.starts_with(&tail) {
                durable::cut(&self.file, self.tally.len)?;
            }
            Ok(())
        };
        cut().map_err(|error| self.state().error("cut", JOURNAL, error))?;
        self.spoilt = None;
        Ok(())
    }

    /// The journal by its name must still be our file, as long as we left it.
    fn must_be_newest(&self) -> Result<(), StateError> {
        let ours = rustix::fs::fstat(&self.file)
            .map_err(|errno| self.state().error("look at", JOURNAL, errno))?;
        let found = match self.state().stat(JOURNAL)? {
            None => "no file".to_owned(),
            Some(named) if (named.st_dev, named.st_ino) != (ours.st_dev, ours.st_ino) => {
                "another file".to_owned()
            }
            Some(named) if u64::try_from(named.st_size) != Ok(self.tally.len) => {
                format!("{} bytes", named.st_size)
            }
            Some(_) => return Ok(()),
        };
        Err(StateError::NotNewest {
            path: self.state().path().join(JOURNAL),
            expected: self.tally.len,
            found,
        })
    }

    /// Moves the full segment aside and starts the next. Dead in between,
    /// the next opening finds no journal and goes on from the old one.
    fn begin_segment(&mut self) -> Result<(), StateError> {
        let next = Segment {
            number: self.tally.segment + 1,
            baseline: self.tally.baseline.clone(),
        };
        self.state().rename(JOURNAL, OLD)?;
        index::begin(self.state(), next.number)?;
        self.file = create(self.state(), &next)?;
        self.tally = take_stock(self.state(), &self.file, None)?;
        Ok(())
    }

    fn save_tally(&self) {
        save(&self.tally, self.state());
    }
}

/// As [`Record`], without a copy of what may be megabytes.
#[derive(Serialize)]
#[serde(tag = "record", rename_all = "snake_case")]
enum Borrowed<'a> {
    Finished(&'a Finished),
}

fn open(state: &Dir) -> Result<Option<File>, StateError> {
    Ok(state.file(JOURNAL, OFlags::RDWR | OFlags::APPEND)?)
}

/// The first segment, or the one after `journal.old`.
fn create_next(state: &Dir) -> Result<File, StateError> {
    let segment = match state.file(OLD, OFlags::RDONLY)? {
        None => Segment {
            number: 1,
            baseline: None,
        },
        Some(old) => {
            let path = state.path().join(OLD);
            let (header, len) = header(&old, &path)?;
            let mut tally = Checkpoint::of_header(&header, len);
            let end = Extent::Known(read::len(&old, &path)?);
            scan(&old, &path, len, end, |json| tally.add(json))?;
            Segment {
                number: header.number + 1,
                baseline: tally.baseline,
            }
        }
    };
    create(state, &segment)
}

fn create(state: &Dir, segment: &Segment) -> Result<File, StateError> {
    let record = line::encode(&Record::Segment(segment.clone()));
    state.write_atomic(JOURNAL, &record, PRIVATE_FILE)?;
    open(state)?.ok_or_else(|| {
        let error = io::Error::from(io::ErrorKind::NotFound);
        state.error("open", JOURNAL, error).into()
    })
}

/// Reads what the checkpoint doesn't cover, cuts a torn tail, and brings the
/// checkpoint up to date.
fn take_stock(
    state: &Dir,
    file: &File,
    known: Option<&JournalEnd>,
) -> Result<Checkpoint, StateError> {
    let path = state.path().join(JOURNAL);
    let (segment, header_len) = header(file, &path)?;
    let size = read::len(file, &path)?;
    if let Some(known) = known {
        // Before anything is cut or understood of it.
        end::check(known, segment.number, file, &path, size)?;
    }
    let stored = Checkpoint::load(state, segment.number)?;
    if let Some(stored) = &stored
        && stored.len > size
    {
        return Err(StateError::Shortened {
            path,
            found: size,
            expected: stored.len,
        });
    }
    let mut tally = stored
        .clone()
        .unwrap_or_else(|| Checkpoint::of_header(&segment, header_len));
    tally.len = scan(file, &path, tally.len, Extent::Open, |json| tally.add(json))?;
    if tally.len < size {
        warn!(path = %path.display(), at = tally.len, "the journal's torn tail is cut");
        durable::cut(file, tally.len).map_err(|error| state.error("cut", JOURNAL, error))?;
    }
    let turns = stored.as_ref().map(|stored| stored.turns);
    if turns != Some(tally.turns) {
        save(&tally, state);
    }
    Ok(tally)
}

fn save(tally: &Checkpoint, state: &Dir) {
    // An older one is right as well, only dearer to go on from.
    if let Err(error) = tally.store(state) {
        warn!(error = %error, "the journal's checkpoint stays behind");
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::workspace::testing::{finished, journal, started, workspace};

    /// As an append leaves it that wrote `tail` and could not cut it again.
    fn fail(journal: &mut LockedJournal, record: &[u8], tail: &[u8]) {
        journal.file.write_all(tail).unwrap();
        journal.spoilt = Some(record.to_vec());
    }

    #[test]
    fn g4_an_end_is_recorded_as_soon_as_the_disk_is_well_again() {
        let (_tmp, workspace) = workspace();
        let end = finished("a", 1, 15);
        let record = line::encode(&Borrowed::Finished(&end));
        for written in [0, record.len() / 2, record.len()] {
            let mut journal = journal(&workspace);
            journal.started(&started("a", 1)).unwrap();
            fail(&mut journal, &record, &record[..written]);
            journal.finished(&end).unwrap();
            drop(journal);
        }
        let history = workspace.history("a").unwrap();
        assert_eq!((history.started.len(), history.finished), (3, Some(end)));
    }

    #[test]
    fn g4_what_another_attempt_wrote_is_never_cut() {
        let (_tmp, workspace) = workspace();
        let end = finished("a", 1, 15);
        let record = line::encode(&Borrowed::Finished(&end));
        let longer = [&record[..], b"x"].concat();
        for other in [&b"other"[..], &longer] {
            let mut journal = journal(&workspace);
            fail(&mut journal, &record, other);
            let error = journal.finished(&end).unwrap_err();
            assert!(matches!(error, StateError::NotNewest { .. }), "{error}");
            assert_eq!(
                journal.file().0.metadata().unwrap().len(),
                journal.tally.len + other.len() as u64
            );
        }
    }
}
