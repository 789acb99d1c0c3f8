//! Reading journals, record by record, in memory for one record.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;

use memchr::memmem::Finder;
use rustix::fs::OFlags;

use super::end::{self, JournalEnd};
use super::index::{self, Place};
use super::record::{Finished, Record, Segment, TurnHistory};
use super::{JOURNAL, OLD};
use crate::workspace::dir::Dir;
use crate::workspace::durable;
use crate::workspace::error::{DiskError, StateError};
use crate::workspace::line::{self, Unreadable};

/// How far a file is known to be whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Extent {
    /// To here every record must be readable.
    Known(u64),
    /// A crash or a writer at work may have left the last record torn.
    Open,
}

/// Hands each record's JSON from byte `from` on to `each`, and gives the
/// offset behind the last whole record.
pub(super) fn scan(
    file: &File,
    path: &Path,
    from: u64,
    extent: Extent,
    each: impl FnMut(&[u8]) -> Result<(), Unreadable>,
) -> Result<u64, StateError> {
    let end = match extent {
        Extent::Known(end) => end,
        Extent::Open => u64::MAX,
    };
    let at = At::of(file, from);
    let reader = BufReader::with_capacity(64 * 1024, at.take(end.saturating_sub(from)));
    scan_records(reader, path, from, extent, each)
}

fn scan_records(
    mut reader: impl BufRead,
    path: &Path,
    from: u64,
    extent: Extent,
    mut each: impl FnMut(&[u8]) -> Result<(), Unreadable>,
) -> Result<u64, StateError> {
    let disk = |error| DiskError::new("read", path, error);
    let mut offset = from;
    let mut record = Vec::new();
    loop {
        record.clear();
        let read = reader.read_until(b'\n', &mut record).map_err(disk)?;
        if read == 0 {
            break;
        }
        let ended = record.ends_with(b"\n");
        let whole = if ended {
            line::check(&record)
        } else {
            Err(Unreadable::Checksum)
        };
        match whole.and_then(&mut each) {
            Ok(()) => offset += read as u64,
            // Without its newline it was the last: what stands behind it by
            // now, its writer has added since.
            Err(Unreadable::Checksum)
                if extent == Extent::Open
                    && (!ended || reader.fill_buf().map_err(disk)?.is_empty()) =>
            {
                return Ok(offset);
            }
            Err(why) => return Err(StateError::unreadable(path, offset, why)),
        }
    }
    match extent {
        Extent::Known(end) if offset < end => Err(StateError::Shortened {
            path: path.to_owned(),
            found: offset,
            expected: end,
        }),
        _ => Ok(offset),
    }
}

/// The header and its length.
pub(super) fn header(file: &File, path: &Path) -> Result<(Segment, u64), StateError> {
    let unreadable = |why| StateError::unreadable(path, 0, why);
    let mut record = Vec::new();
    BufReader::new(At::of(file, 0))
        .read_until(b'\n', &mut record)
        .map_err(|error| DiskError::new("read", path, error))?;
    match line::decode(&record).map_err(unreadable)? {
        Record::Segment(segment) => Ok((segment, record.len() as u64)),
        _ => Err(unreadable(Unreadable::Meaning(
            "it does not start with a segment record".into(),
        ))),
    }
}

/// A turn's records in both files. `current` is how far the newer one is
/// known to be whole.
pub(in crate::workspace) fn history(
    state: &Dir,
    turn_id: &str,
    current: Option<(&File, u64)>,
) -> Result<TurnHistory, StateError> {
    // The newer file first: a rotation in between then shows some records
    // in both and never hides any.
    let opened;
    let newer = match current {
        Some((file, len)) => Some((file, Extent::Known(len))),
        None => {
            opened = state.file(JOURNAL, OFlags::RDONLY)?;
            opened.as_ref().map(|file| (file, Extent::Open))
        }
    };
    let older = state.file(OLD, OFlags::RDONLY)?;
    let newer_path = state.path().join(JOURNAL);
    let mut history = TurnHistory::default();

    if let Some(older) = &older {
        let path = state.path().join(OLD);
        let number = header(older, &path)?.0.number;
        let is_older = match newer {
            Some((newer, _)) => number < header(newer, &newer_path)?.0.number,
            None => true,
        };
        if is_older {
            let whole = Extent::Known(len(older, &path)?);
            collect(older, &path, 0, whole, turn_id, &mut history)?;
        }
    }
    if let Some((newer, extent)) = newer {
        collect(newer, &newer_path, 0, extent, turn_id, &mut history)?;
        if history.finished.is_some() && extent == Extent::Open {
            // Its writer may not have got to that, and it is about to be notified.
            durable::sync_data(newer).map_err(|errno| state.error("sync", JOURNAL, errno))?;
        }
    }
    Ok(history)
}

/// A turn's end, if the index leads to it: then only that is read.
pub(in crate::workspace) fn indexed_end(
    state: &Dir,
    turn_id: &str,
) -> Result<Option<Finished>, StateError> {
    Ok(indexed(state, turn_id)?.map(|(finished, _)| finished))
}

/// Where the record of a turn's end ends, if the index leads to it.
pub(in crate::workspace) fn end_of(
    state: &Dir,
    turn_id: &str,
) -> Result<Option<JournalEnd>, StateError> {
    match indexed(state, turn_id)? {
        Some((_, at)) => end::of_record(state, at.segment, at.offset + at.len),
        None => Ok(None),
    }
}

fn indexed(state: &Dir, turn_id: &str) -> Result<Option<(Finished, Place)>, StateError> {
    for name in [JOURNAL, OLD] {
        let Some(file) = state.file(name, OFlags::RDONLY)? else {
            continue;
        };
        let path = state.path().join(name);
        let segment = header(&file, &path)?.0.number;
        if let Some(place) = index::find(state, segment, turn_id)?
            && let Some(finished) = finished_at(&file, &path, place)?
            && finished.turn_id == turn_id
        {
            return Ok(Some((finished, place)));
        }
    }
    Ok(None)
}

/// Returns `None` if no end of a turn stands there.
fn finished_at(file: &File, path: &Path, at: Place) -> Result<Option<Finished>, StateError> {
    let end = at.offset.checked_add(at.len);
    let Some(end) = end.filter(|end| *end <= u64::MAX / 2) else {
        return Ok(None);
    };
    if end > len(file, path)? {
        return Ok(None);
    }
    let mut record = Vec::new();
    At::of(file, at.offset)
        .take(at.len)
        .read_to_end(&mut record)
        .map_err(|error| DiskError::new("read", path, error))?;
    if !record.ends_with(b"\n") {
        return Ok(None);
    }
    Ok(match line::decode(&record) {
        Ok(Record::Finished(finished)) => Some(*finished),
        _ => None,
    })
}

/// The records of a turn from byte `from` on, where a line must start.
pub(super) fn collect(
    file: &File,
    path: &Path,
    from: u64,
    extent: Extent,
    turn_id: &str,
    history: &mut TurnHistory,
) -> Result<(), StateError> {
    // Neither needs escaping in JSON. The same text within a string value
    // does, so that a match outside is the record's own field.
    let needle = format!(r#""turn_id":"{turn_id}""#);
    let finder = Finder::new(&needle);
    scan(file, path, from, extent, |json| {
        if finder.find(json).is_some() {
            history.add(line::parse(json)?);
        }
        Ok(())
    })?;
    Ok(())
}

pub(super) fn len(file: &File, path: &Path) -> Result<u64, DiskError> {
    let meta = file.metadata();
    Ok(meta
        .map_err(|error| DiskError::new("look at", path, error))?
        .len())
}

/// Reads without moving the position that all copies of the descriptor share.
pub(super) struct At<'a> {
    file: &'a File,
    offset: u64,
}

impl<'a> At<'a> {
    pub(super) fn of(file: &'a File, offset: u64) -> Self {
        Self { file, offset }
    }
}

impl Read for At<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read_at(buf, self.offset)?;
        self.offset += read as u64;
        #[cfg(test)]
        reads::count(read);
        Ok(read)
    }
}

/// How many bytes this thread has read.
#[cfg(test)]
pub(super) mod reads {
    use std::cell::Cell;

    thread_local!(static READS: Cell<u64> = const { Cell::new(0) });

    pub(crate) fn count(bytes: usize) {
        READS.set(READS.get() + bytes as u64);
    }

    pub(crate) fn take() -> u64 {
        READS.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file with a writer at work at its end: each read sees so much of it.
    struct Growing(Vec<Vec<u8>>);

    impl Read for Growing {
        fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
            if self.0.is_empty() {
                return Ok(0);
            }
            let seen = self.0.remove(0);
            buf[..seen.len()].copy_from_slice(&seen);
            Ok(seen.len())
        }
    }

    #[test]
    fn g4_a_record_that_is_just_being_written_is_no_damage() {
        #[derive(serde::Serialize)]
        struct Note {
            text: &'static str,
        }
        let whole = line::encode(&Note { text: "whole" });
        let half = whole.split_at(whole.len() / 2);
        let nothing = Vec::new();
        let grows = vec![
            whole.clone(),
            half.0.to_vec(),
            nothing,
            half.1.to_vec(),
            whole.clone(),
        ];
        let mut records = 0;
        let end = scan_records(
            BufReader::new(Growing(grows)),
            Path::new("journal"),
            0,
            Extent::Open,
            |_| {
                records += 1;
                Ok(())
            },
        );
        assert_eq!((records, end.unwrap()), (1, whole.len() as u64));
    }
}
