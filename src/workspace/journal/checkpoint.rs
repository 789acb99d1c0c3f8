//! What the journal amounts to so far, so that opening it needs its tail only.
//!
//! A cache: it is written without waiting for the disk, checked by its
//! checksum, ignored when it is of another segment, and recreated from the
//! journal. It is only ever written after what it vouches for is durable.

use serde::{Deserialize, Serialize};

use super::CHECKPOINT;
use super::record::{Baseline, Record, Segment};
use crate::workspace::dir::Dir;
use crate::workspace::error::DiskError;
use crate::workspace::line::{self, Unreadable};

const MAX_BYTES: u64 = 64 * 1024;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Checkpoint {
    /// The segment's number.
    pub segment: u64,
    /// Bytes of whole records that the rest of this is made of.
    pub len: u64,
    /// Turns that finished in this segment.
    pub turns: u64,
    pub baseline: Option<Baseline>,
    /// The last record is of an attempt that started.
    #[serde(default)]
    pub open_attempt: bool,
}

impl Checkpoint {
    pub(super) fn of_header(segment: &Segment, len: u64) -> Self {
        Self {
            segment: segment.number,
            len,
            turns: 0,
            baseline: segment.baseline.clone(),
            open_attempt: false,
        }
    }

    /// The stored one, if it is whole, ours, and of this segment.
    pub(super) fn load(state: &Dir, segment: u64) -> Result<Option<Self>, DiskError> {
        let Some(bytes) = state.read(CHECKPOINT, MAX_BYTES)? else {
            return Ok(None);
        };
        Ok(line::decode(&bytes)
            .ok()
            .filter(|checkpoint: &Self| checkpoint.segment == segment))
    }

    pub(super) fn store(&self, state: &Dir) -> Result<(), DiskError> {
        state.overwrite_cache(CHECKPOINT, &line::encode(self))
    }

    /// Adds a record to the tally; `len` is the caller's.
    pub(super) fn add(&mut self, json: &[u8]) -> Result<(), Unreadable> {
        match line::parse(json)? {
            Record::Segment(_) => {}
            Record::Started(_) => self.open_attempt = true,
            Record::Returned(_) => self.open_attempt = false,
            Record::Finished(finished) => {
                self.open_attempt = false;
                self.turns += 1;
                self.baseline = finished.baseline().or(self.baseline.take());
            }
        }
        Ok(())
    }
}
