//! The journal: what happened to the turns of a workspace, append-only.
//!
//! `journal` starts with a segment record and grows by a line per event of a
//! turn's life; with [`TURNS_PER_SEGMENT`] turns it becomes `journal.old` and
//! a new one starts. The `checkpoint` beside it says how far the journal has
//! been understood, so that opening it costs the same however long it is. The
//! `ends` list where the ends of turns stand, so that the same holds for a turn
//! that comes again.

mod checkpoint;
mod end;
mod index;
mod locked;
mod read;
mod recent;
mod record;
mod rotate;
#[cfg(test)]
mod tests;

pub use end::JournalEnd;
pub(super) use end::check_unlocked;
pub use locked::LockedJournal;
pub(super) use read::{end_of, history, indexed_end};
pub(super) use recent::Progress;
pub(super) use recent::{open_attempt, progress, recent_history};
pub use record::{
    Baseline, Fence, Finished, Returned, Started, ThreadEnd, ThreadStart, TurnHistory, Unkept,
};

const JOURNAL: &str = "journal";
const OLD: &str = "journal.old";
const CHECKPOINT: &str = "checkpoint";

/// A segment is full with so many turns; at least as many are remembered.
const TURNS_PER_SEGMENT: u64 = 10_000;
