//! Runs one turn: lock → journal → codex → events → outcome.
//!
//! ```text
//! admission   may it run at all, and as which attempt?      (lock, claim, journal)
//!   attempt   start it, run codex
//!     process one codex: listen, stop, make sure that it is gone
//!     usage   what it spent
//!     record  its end, in the journal before anybody hears of it
//!   ending    how its end is told
//! ```
//!
//! Everything that decides whether a turn may run stands in these files: an
//! offer, whoever sent it, is only a hint.

mod admission;
mod attempt;
mod emit;
mod ending;
mod process;
mod record;
mod sink;
mod stop;
mod usage;

use std::time::Duration;

pub use ending::{rejected_ending, simple_ending};
pub use sink::{EventSink, Immediate};
pub use stop::{Stop, StopHandle};

use crate::codex::home::Homes;
use crate::config::EventSet;
use crate::event::{SealedEvent, StopReason, TurnError, Usage};
use crate::workspace::{Root, StateError, WorkspaceError};

/// What running turns takes; one for all turns of a process.
#[derive(Debug)]
pub struct Runner<E> {
    pub root: Root,
    pub engine: E,
    pub homes: Homes,
    pub events: EventSet,
    /// The longest that a turn may ask for, and what it gets without asking.
    pub turn_timeout: Duration,
    pub idle_timeout: Duration,
    /// The most that a turn may ask for, and what it gets without asking.
    pub max_attempts: u32,
    /// For requests that name none; codex's own choice if this is none either.
    pub default_model: Option<String>,
    /// Names this process in records.
    pub worker: String,
}

/// What became of an offer.
#[derive(Debug)]
pub enum Outcome {
    /// The turn ended now, and its end is recorded.
    Ended(Box<Summary>),
    /// It had ended before: these events tell its end, as they did then.
    AlreadyEnded(Ended),
    /// It can't be accepted; it has its ending, as every rejected request has.
    Rejected {
        error: TurnError,
        events: Vec<SealedEvent>,
    },
    /// Somebody else has the workspace, or the turn.
    Busy,
    /// The worker shuts down; the turn starts again elsewhere, uncharged.
    Returned,
    /// Nothing was started, since the records can't be read or written.
    NotStarted(NotStarted),
}

/// A turn that ended without running for this offer.
#[derive(Debug, Clone, PartialEq)]
pub struct Ended {
    pub events: Vec<SealedEvent>,
    /// The request is not the one that was accepted under this id.
    pub other_body: bool,
    /// Set where this offer decided it, so that nobody has counted it yet.
    pub decided_now: Option<StopReason>,
}

#[derive(Debug, thiserror::Error)]
pub enum NotStarted {
    #[error(transparent)]
    Workspace(#[from] WorkspaceError),
    #[error(transparent)]
    State(#[from] StateError),
    #[error("can't make the workspace's CODEX_HOME")]
    Home(#[from] std::io::Error),
}

/// A turn's end, for logs and metrics.
#[derive(Debug, Clone, PartialEq)]
pub struct Summary {
    pub attempt: u32,
    pub stop_reason: StopReason,
    pub error: Option<TurnError>,
    pub usage: Option<Usage>,
    pub model: Option<String>,
    pub duration: Duration,
    /// From the attempt's start to the first text of the agent.
    pub first_text: Option<Duration>,
    pub thread_id: Option<String>,
    /// Processes that the turn left and that had to be killed.
    pub leftovers: u64,
    /// Whether codex was started in this attempt.
    pub ran: bool,
}
