//! What a sequencer asks of a turn that does not run, and what comes of it.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::homes::Loss;

/// How a turn ends that does not run.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Verdict {
    /// It was cancelled.
    Cancelled,
    /// Its workspace has as many turns in line as it may have.
    BacklogFull,
    /// It was not started in time.
    Expired,
    /// It was not to wait, and one of these turns ahead of it has not ended.
    /// They are few; if all of them have, others may be asked about.
    Busy { ahead: Vec<Arc<str>> },
    /// That turn behind it interrupts it.
    Superseded { by: Arc<str> },
    /// The turn of the same id in that workspace came first and has not ended.
    /// If it has, that of another workspace may be asked about.
    IdTaken { workspace: Arc<str> },
    /// The disk of its workspace is gone for good, and it may have been started there.
    HostLost { loss: Loss },
}

/// How the claim came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ClaimAnswer {
    /// Created by us; the ending it holds is published and confirmed.
    Won,
    /// The turn had ended already; what its record holds is published and confirmed.
    AlreadyEnded,
    /// The turn has been started: it stays in line. (Where its run has also
    /// ended, a worker will answer its next offer from the journal.)
    AlreadyRun,
    /// The turns that [`Verdict::Busy`] or [`Verdict::IdTaken`] names have all ended,
    /// so no claim is written.
    AllEnded,
    /// The turn that was to supersede this one has been decided itself, so
    /// no claim or mark is written.
    Spent,
    /// It could not be written, read, or published; or no mark could be.
    Failed,
}
