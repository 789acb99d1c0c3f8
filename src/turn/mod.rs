//! Runs one turn: lock → journal → codex → events → outcome.
//!
//! ```text
//! admission   may it run at all, and as which attempt?      (lock, claim, journal)
//!   attempt   start it, run codex
//!     fence   when another host's attempt can't run any more
//!     process one codex: listen, stop, make sure that it is gone
//!     usage   what it spent
//!     record  its end, in the journal before anybody hears of it
//!   ending    how its end is published
//! ```
//!
//! Everything that decides whether a turn may run stands in these files: an
//! offer from any sender is only a hint.

mod admission;
mod attempt;
pub(crate) mod coalesce;
mod emit;
mod ending;
mod event_sink;
mod fence;
mod images;
mod lease;
mod process;
mod record;
mod stop;
mod structured;
mod usage;

use std::collections::BTreeSet;
use std::time::Duration;

pub use ending::{cancelled_ending, lost_ending, rejected_ending, simple_ending};
pub use event_sink::{EventSink, Immediate};
pub use fence::Takeover;
pub use lease::Hints;
pub use stop::{Stop, StopHandle};

use crate::codex::home::Homes;
use crate::config::EventSet;
use crate::event::{SealedEvent, StopReason, TurnError, Usage};
use crate::guard::{HeldWorkspaces, SpawnError, Unkillable};
use crate::host::{Finding, Host, Lack, Part};
use crate::metrics::{Metrics, Model};
use crate::workspace::{JournalEnd, Root, StateError, WorkspaceError};

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
    /// For how long a turn's lock may go unconfirmed before the turn is killed; `None` where
    /// locks are not confirmed.
    pub lock_lost_after: Option<Duration>,
    /// For requests that name no model; `None`: codex's own choice.
    pub default_model: Option<String>,
    /// The models that may be asked; any if there is no list.
    pub models: Option<BTreeSet<String>>,
    /// Names this process in records.
    pub worker: String,
    /// Notified of each failure that may be this host's fault.
    pub host: Host,
    pub metrics: Metrics,
    /// Notified of what can't be killed.
    pub held: HeldWorkspaces,
}

/// What became of an offer.
#[derive(Debug)]
pub enum Outcome {
    /// The turn ended now, and its end is recorded.
    Ended(Box<Summary>),
    /// It had ended before: these events report its end, as they did then.
    AlreadyEnded(Ended),
    /// It can't be accepted; it has its ending, as every rejected request has.
    Rejected {
        error: TurnError,
        events: Vec<SealedEvent>,
    },
    /// Another process has the workspace, or the turn.
    Busy,
    /// Processes of an earlier turn have the workspace, and can't be killed.
    Held(Box<Unkillable>),
    /// Processes of another host's attempt may still run: the lock is held until they can't,
    /// which needs no slot.
    Takeover(Box<Takeover>),
    /// The worker shuts down; the turn starts again elsewhere, uncharged.
    Returned,
    /// Its processes were killed, as the workspace's lock could not be confirmed; the turn
    /// starts again later, uncharged.
    LockLost,
    /// The turn was not run, since this host can't run turns now: another one may.
    Unfit(Finding),
    /// The turn was not run, though the host is well; later it may be.
    NotStarted(NotStarted),
}

/// A turn that ended without running for this offer.
#[derive(Debug, Clone, PartialEq)]
pub struct Ended {
    pub events: Vec<SealedEvent>,
    /// The request is not the one that was accepted under this id.
    pub other_body: bool,
    /// Set where this offer decided it, so that it is not counted yet.
    pub decided_now: Option<StopReason>,
    /// How far its record proves the journal to reach, if it has run.
    pub journal: Option<JournalEnd>,
}

#[derive(Debug, thiserror::Error)]
pub enum NotStarted {
    #[error(transparent)]
    Workspace(#[from] WorkspaceError),
    #[error(transparent)]
    State(#[from] StateError),
    #[error("can't make the workspace's CODEX_HOME")]
    Home(#[from] std::io::Error),
    #[error(transparent)]
    Spawn(#[from] SpawnError),
}

impl NotStarted {
    /// The part of the host that may be at fault; `None` if what is wrong is
    /// known to be the workspace's own.
    pub fn suspect(&self) -> Option<Part> {
        match self {
            Self::Workspace(WorkspaceError::Io(_))
            | Self::State(StateError::Disk(_))
            | Self::Home(_) => Some(Part::Disk),
            Self::Spawn(_) => Some(Part::Codex),
            Self::Workspace(WorkspaceError::Rejected { .. })
            | Self::State(
                StateError::TurnId { .. }
                | StateError::Damaged { .. }
                | StateError::NewerVersion { .. }
                | StateError::NotNewest { .. }
                | StateError::OldRead { .. }
                | StateError::Shortened { .. },
            ) => None,
        }
    }

    /// Whether the journal was read as it was before a turn that has ended
    /// since: another host may see it as it is.
    pub fn is_old_read(&self) -> bool {
        matches!(self, Self::State(StateError::OldRead { .. }))
    }

    /// What was lacking for a moment, where the host turned out to be well.
    pub fn lack(&self) -> Option<Lack> {
        matches!(self, Self::Spawn(_)).then_some(Lack::Resources)
    }
}

/// A turn's end, for logs and metrics.
#[derive(Debug, Clone, PartialEq)]
pub struct Summary {
    pub attempt: u32,
    pub stop_reason: StopReason,
    pub error: Option<TurnError>,
    pub usage: Option<Usage>,
    /// The model that the request or the settings name.
    pub asked_model: Option<String>,
    /// The model that was asked, as far as codex has reported it.
    pub model: Option<String>,
    pub duration: Duration,
    /// From the attempt's start to the first text of the agent.
    pub first_text: Option<Duration>,
    pub thread_id: Option<String>,
    /// Processes that the turn left and that had to be killed.
    pub leftovers: u64,
    /// Whether codex was started in this attempt.
    pub ran: bool,
    /// Whether the model was asked in this attempt.
    pub reached_model: bool,
    /// How far the journal reached when its end was recorded.
    pub journal: Option<JournalEnd>,
}

impl Summary {
    /// As which model its tokens are counted.
    pub fn counted_model(&self) -> Model<'_> {
        match (&self.asked_model, &self.model) {
            (None, Some(model)) => Model::Default(model),
            (_, Some(model)) => Model::Named(model),
            (_, None) => Model::Unknown,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::path::PathBuf;

    use rustix::io::Errno;

    use super::*;
    use crate::workspace::{DiskError, Rejection};

    #[test]
    fn g4_a_host_is_suspected_only_for_what_may_be_its_own_fault() {
        let path = || PathBuf::from("/root/x");
        let disk = || DiskError {
            doing: "write",
            path: path(),
            source: Errno::NOSPC.into(),
        };
        let rejected = WorkspaceError::Rejected {
            workspace: "a/b".to_owned(),
            why: Rejection::Inside {
                other: "a".to_owned(),
            },
        };
        let of_disk: [NotStarted; 3] = [
            WorkspaceError::Io(disk()).into(),
            StateError::Disk(disk()).into(),
            io::Error::from(Errno::NOSPC).into(),
        ];
        let of_codex: [NotStarted; 2] = [
            SpawnError::Pipes(Errno::MFILE.into()).into(),
            SpawnError::Spawn {
                program: path(),
                source: Errno::AGAIN.into(),
            }
            .into(),
        ];
        let of_the_workspace: [NotStarted; 7] = [
            rejected.into(),
            StateError::TurnId {
                found: "x/y".to_owned(),
            }
            .into(),
            StateError::Damaged {
                path: path(),
                offset: 0,
                why: "its checksum does not fit".to_owned(),
            }
            .into(),
            StateError::NewerVersion {
                path: path(),
                offset: 0,
                found: 2,
                known: 1,
            }
            .into(),
            StateError::NotNewest {
                path: path(),
                expected: 1,
                found: "no file".to_owned(),
            }
            .into(),
            StateError::OldRead {
                path: path(),
                found: "no file".to_owned(),
                segment: 1,
                expected: 1,
            }
            .into(),
            StateError::Shortened {
                path: path(),
                found: 0,
                expected: 1,
            }
            .into(),
        ];
        for (errors, part) in [
            (&of_disk[..], Some(Part::Disk)),
            (&of_codex, Some(Part::Codex)),
            (&of_the_workspace, None),
        ] {
            for error in errors {
                assert_eq!(error.suspect(), part, "{error}");
            }
        }
    }
}
