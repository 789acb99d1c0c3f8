//! Where the end of each turn stands in the journal, so that a turn that comes
//! again costs a bounded read, however long the journal is.
//!
//! A cache, with a file for each of the two segments. An entry is written when
//! its record is durable, without waiting for the disk, and the record is
//! checked where it is read. An entry that is missing, damaged, or of another
//! segment costs a read of the whole journal: workers of earlier versions
//! write no entries, and ignore them.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};

use memchr::memmem::Finder;
use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};

use super::read::At;
use crate::workspace::dir::Dir;
use crate::workspace::error::DiskError;
use crate::workspace::line;

/// Of a file. A segment's entries have 2 MB if every turn id has the most
/// characters; beyond this, it starts empty.
const MAX_BYTES: u64 = 4 << 20;

/// Where a record stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub segment: u64,
    pub offset: u64,
    pub len: u64,
}

#[derive(Serialize, Deserialize)]
struct Entry {
    turn_id: String,
    segment: u64,
    offset: u64,
    len: u64,
}

/// Of the segment, and of those before it that no longer exist.
fn name(segment: u64) -> String {
    format!("ends.{}", segment % 2)
}

/// For a new segment: its file is an older one's until now.
pub(super) fn begin(state: &Dir, segment: u64) -> Result<(), DiskError> {
    state.remove(&name(segment)).map(drop)
}

/// Adds the end of a turn, with a durable record.
pub(super) fn add(state: &Dir, turn_id: &str, at: Place) -> Result<(), DiskError> {
    let name = name(at.segment);
    let error = |error| state.error("write", &name, error);
    let flags = OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE;
    let Some(mut file) = state.file(&name, flags)? else {
        return Ok(());
    };
    let found = file.metadata().map_err(error)?.len();
    if found > MAX_BYTES {
        file.set_len(0).map_err(error)?;
    }
    // A crash may have torn the entry before: a newline keeps it apart.
    let mut bytes = b"\n".to_vec();
    bytes.extend(line::encode(&Entry {
        turn_id: turn_id.to_owned(),
        segment: at.segment,
        offset: at.offset,
        len: at.len,
    }));
    file.write_all(&bytes).map_err(error)
}

/// Returns `None` if there is no such entry.
pub(super) fn find(state: &Dir, segment: u64, turn_id: &str) -> Result<Option<Place>, DiskError> {
    let name = name(segment);
    let Some(file) = state.file(&name, OFlags::RDONLY)? else {
        return Ok(None);
    };
    // As in the journal: neither the name nor an id needs escaping.
    let needle = format!(r#""turn_id":"{turn_id}""#);
    let finder = Finder::new(&needle);
    let mut entries = entries(&file);
    let mut entry = Vec::new();
    loop {
        entry.clear();
        let read = entries.read_until(b'\n', &mut entry);
        if read.map_err(|error| state.error("read", &name, error))? == 0 {
            return Ok(None);
        }
        if finder.find(&entry).is_none() {
            continue;
        }
        if let Ok(entry) = line::decode::<Entry>(&entry)
            && (&*entry.turn_id, entry.segment) == (turn_id, segment)
        {
            return Ok(Some(Place {
                segment,
                offset: entry.offset,
                len: entry.len,
            }));
        }
    }
}

fn entries(file: &File) -> impl BufRead {
    BufReader::with_capacity(64 * 1024, At::of(file, 0).take(MAX_BYTES + 1024))
}
