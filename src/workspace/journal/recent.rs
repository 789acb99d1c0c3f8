//! A turn's records at the cost of bounded reads, for those who ask about it.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use rustix::fs::OFlags;

use super::index;
use super::read::{At, Extent, collect, header, history, indexed_end, len};
use super::record::{Finished, Record, Started, TurnHistory};
use super::{JOURNAL, OLD};
use crate::workspace::dir::Dir;
use crate::workspace::error::{DiskError, StateError};
use crate::workspace::line;

/// How much is read before a turn's end, or of the end of the newer file: the
/// attempts of a turn follow each other, as no other turn runs there meanwhile.
const WINDOW_BYTES: u64 = 256 << 10;

/// A turn's records. The index leads to a turn that has ended, and one that runs
/// stands at the end of the journal; of any other turn all of it is read, a record at a time.
pub(in crate::workspace) fn recent_history(
    state: &Dir,
    turn_id: &str,
) -> Result<TurnHistory, StateError> {
    for name in [JOURNAL, OLD] {
        let Some(file) = state.file(name, OFlags::RDONLY)? else {
            continue;
        };
        let path = state.path().join(name);
        let segment = header(&file, &path)?.0.number;
        if let Some(place) = index::find(state, segment, turn_id)? {
            let end = place.offset.saturating_add(place.len);
            let from = place.offset.saturating_sub(WINDOW_BYTES);
            let found = window(&file, &path, from, Extent::Known(end), turn_id)?;
            if found.finished.is_some() && is_whole(&found) {
                return Ok(found);
            }
        } else if name == JOURNAL {
            let from = len(&file, &path)?.saturating_sub(WINDOW_BYTES);
            let found = window(&file, &path, from, Extent::Open, turn_id)?;
            if is_whole(&found) {
                return Ok(found);
            }
        }
    }
    history(state, turn_id, None)
}

/// What the journal has of a turn that was claimed to run.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Progress {
    /// An attempt has started, and neither ended nor been given back.
    Open(Started),
    /// Durable, so it may be published.
    Finished(Box<Finished>),
}

/// How far a turn has got, if an attempt of it has started. One that runs or has ended costs
/// bounded reads.
pub(in crate::workspace) fn progress(
    state: &Dir,
    turn_id: &str,
) -> Result<Option<Progress>, StateError> {
    if let Some(finished) = indexed_end(state, turn_id)? {
        return Ok(Some(Progress::Finished(finished.into())));
    }
    let mut found = recent_history(state, turn_id)?;
    if found.finished.is_some() {
        // Its writer may not have got to syncing it; the whole read does so.
        found = history(state, turn_id, None)?;
    }
    if let Some(finished) = found.finished {
        return Ok(Some(Progress::Finished(finished.into())));
    }
    let newest = found.started.into_iter().max_by_key(|one| one.attempt);
    Ok(newest
        .filter(|started| !found.returned.contains(&started.attempt))
        .map(Progress::Open))
}

/// The attempt that has started last, if its end is not recorded: its worker runs it, or has died.
pub(in crate::workspace) fn open_attempt(state: &Dir) -> Result<Option<Started>, StateError> {
    let Some(file) = state.file(JOURNAL, OFlags::RDONLY)? else {
        return Ok(None);
    };
    let path = state.path().join(JOURNAL);
    let from = len(&file, &path)?.saturating_sub(WINDOW_BYTES);
    let mut open = None;
    each(&file, &path, from, Extent::Open, |record| match record {
        Record::Started(started) => open = Some(started),
        Record::Returned(_) | Record::Finished(_) => open = None,
        Record::Segment(_) => {}
    })?;
    Ok(open)
}

fn is_whole(history: &TurnHistory) -> bool {
    history.started.iter().any(|started| started.attempt == 1)
}

fn window(
    file: &File,
    path: &Path,
    from: u64,
    extent: Extent,
    turn_id: &str,
) -> Result<TurnHistory, StateError> {
    let mut history = TurnHistory::default();
    if let Some(from) = line_from(file, path, from)? {
        collect(file, path, from, extent, turn_id, &mut history)?;
    }
    Ok(history)
}

fn each(
    file: &File,
    path: &Path,
    from: u64,
    extent: Extent,
    mut each: impl FnMut(Record),
) -> Result<(), StateError> {
    if let Some(from) = line_from(file, path, from)? {
        super::read::scan(file, path, from, extent, |json| {
            each(line::parse(json)?);
            Ok(())
        })?;
    }
    Ok(())
}

/// The first line that starts at `from` or behind it; `None` if the window has no such line.
fn line_from(file: &File, path: &Path, from: u64) -> Result<Option<u64>, DiskError> {
    if from == 0 {
        return Ok(Some(0));
    }
    // One byte before: a line may start exactly there.
    let mut bytes = Vec::new();
    At::of(file, from - 1)
        .take(WINDOW_BYTES)
        .read_to_end(&mut bytes)
        .map_err(|error| DiskError::new("read", path, error))?;
    Ok(memchr::memchr(b'\n', &bytes).map(|at| from + at as u64))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workspace::journal::Returned;
    use crate::workspace::journal::read::reads;
    use crate::workspace::testing::{finished, journal, started, workspace};

    #[test]
    fn g10_a_turn_is_found_by_bounded_reads_with_its_attempts() {
        let (_tmp, workspace) = workspace();
        let mut journal = journal(&workspace);
        for n in 0..3_000 {
            let id = format!("t{n}");
            journal.started(&started(&id, 1)).unwrap();
            if n % 7 == 0 {
                let returned = Returned {
                    turn_id: id.clone(),
                    attempt: 1,
                };
                journal.returned(&returned).unwrap();
                journal.started(&started(&id, 2)).unwrap();
            }
            journal.finished(&finished(&id, 1, n)).unwrap();
        }
        journal.started(&started("open", 1)).unwrap();
        for (id, attempts, ended) in [("t7", 2, true), ("t2999", 1, true), ("open", 1, false)] {
            reads::take();
            let found = workspace.recent_history(id).unwrap();
            assert!(reads::take() < 1 << 20, "{id}");
            assert_eq!(found, workspace.history(id).unwrap(), "{id}");
            assert_eq!(
                (found.started.len(), found.finished.is_some()),
                (attempts, ended)
            );
        }
        let state = &workspace.state;
        for (id, is_open) in [("t2999", false), ("open", true)] {
            reads::take();
            let found = progress(state, id).unwrap().unwrap();
            assert!(reads::take() < 1 << 20, "{id}");
            assert_eq!(matches!(found, Progress::Open(_)), is_open, "{id}");
        }
        assert_eq!(progress(state, "unknown").unwrap(), None);
        assert_eq!(workspace.open_attempt().unwrap().unwrap().turn_id, "open");
        assert_eq!(
            workspace.recent_history("unknown").unwrap(),
            TurnHistory::default()
        );
    }
}
