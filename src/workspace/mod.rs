//! Workspaces: from an id to a directory, its lock, its journal and claims.
//!
//! ```text
//! <root>/<id>/                              the agent's directory
//!     .plexum-codex-session                 the thread to resume
//! <root>/.turn-worker/                      ours, mode 0700
//!     paused                                what operators have paused
//!     registry.lock                         held while a workspace is registered
//!     root-id                               a random id, under whatever path the root is seen
//!     processes/<process id>.lock           held by each process that uses the root
//!     processes/<process id>.…              what it writes for the others to read, see `probe`
//!     threads/<uuid>                        the workspace that a thread belongs to
//!     rejected/<turn id>.claim              verdicts on requests without a workspace
//!     workspaces/<id>/.rejected/            claims, where the workspace can't come to be
//!     workspaces/<id>/.state/
//!         id                                the id that it was registered by
//!         lock                              who holds it may run codex; made last
//!         bell                              says that the lock is held for a server that waits
//!         unkillable                        says what the lock is held for that can't be killed
//!         outlived                          an attempt of another host that must have been killed
//!         journal, journal.old              what happened to the turns
//!         journal-id                        a random id, under which processes report how far it reaches
//!         checkpoint                        how far the journal has been understood
//!         ends.0, ends.1                    where the ends of turns stand in it
//!         started                             the conversation that a turn was asked to start
//!         claims/<turn id>.claim, .cancel   each turn's fate; cancel marks
//!         claims/<turn id>.received         when it first came, if it must start in time
//!         claims/<turn id>.lost             the attempts that ended as their lock was lost
//!         failed/<turn id>.json                 the newest requests of turns that failed
//!         codex-home/                       its CODEX_HOME, if each has its own
//! <root>/.codex-homes/<id>/                 the same, if agents are another user
//! ```
//!
//! Segments of an id never start with a dot, so our own names never clash with them;
//! ids hold no `~`, with which our other file names start. Records are lines
//! of a checksum and versioned JSON, in every file alike.
//!
//! All of this blocks: async callers use `block_in_place` or `spawn_blocking`.

mod claims;
mod departure;
mod dir;
mod durable;
mod error;
mod failed_requests;
mod file_system;
mod id;
mod image;
mod journal;
mod line;
mod lock;
mod lock_holder;
mod outlived;
mod pauses;
mod probe;
mod processes;
mod prune;
mod records;
mod root;
mod root_check;
mod session;
mod started_thread;
#[cfg(test)]
mod testing;
mod threads;

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use uuid::Uuid;

use crate::event::SealedEvent;
use crate::request::ImagePath;

pub use claims::{CancelMark, Claim, ClaimOutcome, Claims, Received, Verdict};
pub use dir::Owner;
pub use error::{DiskError, Rejection, StateError, WorkspaceError};
pub use image::ImageError;
pub use journal::{
    Baseline, Fence, Finished, JournalEnd, LockedJournal, Returned, Started, ThreadEnd,
    ThreadStart, TurnHistory, Unkept,
};
pub use lock::{Bell, WorkspaceLock};
pub use lock_holder::LockHolder;
pub use pauses::{MAX_PAUSES, Pause, PauseFile, PauseScope, Pauses, can_be_paused};
pub use probe::{ProbeRound, Prober, Property};
pub use processes::{LockTry, ProcessLock, Processes};
pub use records::{RecordReader, TurnRecord, TurnStage};
pub use root::{Root, RootError};
pub use root_check::{CheckLine, LockProbe, check_root, try_lock_path};
pub use session::{SESSION_FILE, SessionFile};
pub use threads::{Adoption, Resume, Threads, resolve_session};

use dir::Dir;

const STATE: &str = ".state";
const REJECTED: &str = ".rejected";
const CLAIMS: &str = "claims";

/// A registered workspace, its folders open.
#[derive(Debug)]
pub struct Workspace {
    id: String,
    root_id: Uuid,
    path: PathBuf,
    dir: Result<Dir, Rejection>,
    state: Arc<Dir>,
    claims: Claims,
    owner: Option<Owner>,
    home: Result<HomePlace, Rejection>,
}

/// Where a workspace's own CODEX_HOME is, or is to be: by the open folder that
/// it is in, wherever that folder's path leads by now.
#[derive(Debug)]
pub struct HomePlace {
    above: Arc<Dir>,
    name: String,
}

impl HomePlace {
    /// In a given folder.
    #[cfg(test)]
    pub fn in_folder(path: &Path, name: &str) -> Self {
        Self {
            above: Arc::new(Dir::open(path).expect("the test has made it")),
            name: name.to_owned(),
        }
    }

    pub fn above(&self) -> BorrowedFd<'_> {
        self.above.as_fd()
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn path(&self) -> PathBuf {
        self.above.path().join(&self.name)
    }
}

impl Workspace {
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The random id of the root that it is in.
    pub fn root_id(&self) -> Uuid {
        self.root_id
    }

    /// The agent's directory by what it is, device and inode; `None` if it can't be used.
    pub fn directory(&self) -> Option<(u64, u64)> {
        let stat = rustix::fs::fstat(self.dir.as_ref().ok()?).ok()?;
        Some((stat.st_dev, stat.st_ino))
    }

    /// The agent's directory, canonical.
    pub fn dir(&self) -> &Path {
        &self.path
    }

    /// Why the agent's directory can't be used, though it could when the
    /// workspace was registered. Its records still show what has ended.
    pub fn unusable(&self) -> Option<WorkspaceError> {
        self.open_dir().err()
    }

    /// The agent's directory itself, wherever its path leads by now.
    pub fn open_dir(&self) -> Result<BorrowedFd<'_>, WorkspaceError> {
        match &self.dir {
            Ok(dir) => Ok(dir.as_fd()),
            Err(why) => Err(self.rejected(why)),
        }
    }

    fn rejected(&self, why: &Rejection) -> WorkspaceError {
        WorkspaceError::Rejected {
            workspace: self.id.clone(),
            why: why.clone(),
        }
    }

    /// An image that a request names here, of at most `max` bytes.
    pub fn read_image(&self, path: &ImagePath, max: u64) -> Result<Vec<u8>, ImageError> {
        match &self.dir {
            Ok(dir) => image::read(dir, path, self.owner, max),
            Err(why) => Err(ImageError::Unusable(self.rejected(why).to_string())),
        }
    }

    /// Where its records lie.
    pub fn state_dir(&self) -> &Path {
        self.state.path()
    }

    /// For what is done with one of its files elsewhere.
    pub fn state_error(&self, doing: &'static str, name: &str, error: std::io::Error) -> DiskError {
        self.state.error(doing, name, error)
    }

    /// Where its own CODEX_HOME is, if each workspace has one.
    pub fn codex_home(&self) -> Result<&HomePlace, WorkspaceError> {
        self.home.as_ref().map_err(|why| self.rejected(why))
    }

    pub fn claims(&self) -> &Claims {
        &self.claims
    }

    /// Takes the workspace's lock, or returns `None` while it is held by
    /// a worker, or a guard without its worker.
    pub fn try_lock(&self) -> Result<Option<WorkspaceLock>, DiskError> {
        lock::try_lock(&self.state)
    }

    /// The lock that a server's guard holds, by its descriptor, see `lock`.
    pub fn held_lock(&self, lock: OwnedFd) -> Result<Option<WorkspaceLock>, DiskError> {
        lock::held(&self.state, lock)
    }

    /// Whether the lock is held for a server that waits for a turn.
    pub fn has_idle_server(&self) -> Result<bool, DiskError> {
        lock::has_idle_server(&self.state)
    }

    /// For the guard of a server, which makes way when another process locks it.
    pub fn bell(&self) -> Result<File, DiskError> {
        lock::bell(&self.state)
    }

    /// The record of what keeps the lock though the turn has ended; for reading, unless one
    /// holds the lock.
    pub fn unkillable(&self) -> Result<File, DiskError> {
        lock::unkillable(&self.state)
    }

    /// Has a lock made free that is held for a server, as long as the bell
    /// rings; `None` if another process rings already.
    pub fn ring(&self) -> Result<Option<Bell>, DiskError> {
        lock::ring(&self.state)
    }

    /// A turn's records as far as they are written, without the lock.
    pub fn history(&self, turn_id: &str) -> Result<TurnHistory, StateError> {
        let history = journal::history(&self.state, id::turn_id(turn_id)?, None)?;
        self.with_lost(history, turn_id)
    }

    /// As [`Self::history`], at the cost of bounded reads for a turn that has
    /// ended or runs.
    pub fn recent_history(&self, turn_id: &str) -> Result<TurnHistory, StateError> {
        let history = journal::recent_history(&self.state, id::turn_id(turn_id)?)?;
        self.with_lost(history, turn_id)
    }

    /// Attempts that have lost the lock can't write to the journal.
    fn with_lost(
        &self,
        mut history: TurnHistory,
        turn_id: &str,
    ) -> Result<TurnHistory, StateError> {
        if !history.started.is_empty() {
            history.returned.extend(self.claims.lost_attempts(turn_id)?);
        }
        Ok(history)
    }

    /// The attempt that has started last, unless its end is recorded.
    pub fn open_attempt(&self) -> Result<Option<Started>, StateError> {
        journal::open_attempt(&self.state)
    }

    /// Whether the attempt, which has no end, is known to have no processes left.
    pub fn is_gone(&self, started: &Started) -> Result<bool, StateError> {
        let lost = self.claims.lost_attempts(&started.turn_id)?;
        Ok(lost.contains(&started.attempt) || outlived::is_noted(&self.state, started)?)
    }

    /// For one that has held the lock for as long as the attempt's processes may live without it.
    pub fn note_outlived(&self, started: &Started) -> Result<(), StateError> {
        outlived::note(&self.state, started)
    }

    /// The turn's end, at the cost of a bounded read. Returns `None` also if it
    /// has ended, but is not in the journal's index; then [`Self::history`] knows.
    pub fn indexed_end(&self, turn_id: &str) -> Result<Option<Finished>, StateError> {
        journal::indexed_end(&self.state, id::turn_id(turn_id)?)
    }

    /// Where the record of the turn's end ends, at the cost of a bounded read.
    /// Returns `None` if the journal's index does not lead to one.
    pub fn end_of(&self, turn_id: &str) -> Result<Option<JournalEnd>, StateError> {
        journal::end_of(&self.state, id::turn_id(turn_id)?)
    }

    /// Whether the turn has ended, by its records. If so, for ever; if not, by a journal that
    /// reaches `known`: else [`StateError::OldRead`].
    pub fn has_ended(&self, turn_id: &str, known: Option<&JournalEnd>) -> Result<bool, StateError> {
        let has_ended = match self.claims.find(turn_id)? {
            None => false,
            Some(claim) if claim.verdict.ending().is_some() => true,
            Some(_) => {
                self.indexed_end(turn_id)?.is_some() || self.history(turn_id)?.finished.is_some()
            }
        };
        if let Some(known) = known.filter(|_| !has_ended) {
            journal::check_unlocked(&self.state, known)?;
        }
        Ok(has_ended)
    }

    /// How the turn ended: `error`, if there was one, and `message_end`, or all
    /// events of a turn that never ran. Returns `None` if it has not ended.
    pub fn recorded_end(&self, turn_id: &str) -> Result<Option<Vec<SealedEvent>>, StateError> {
        let Some(claim) = self.claims.find(turn_id)? else {
            return Ok(None);
        };
        if let Some(ending) = claim.verdict.ending() {
            return Ok(Some(ending.to_vec()));
        }
        let finished = match self.indexed_end(turn_id)? {
            None => self.history(turn_id)?.finished,
            finished => finished,
        };
        Ok(finished.map(|finished| finished.ending))
    }

    /// What the session file says; see [`resolve_session`].
    pub fn session(&self) -> Result<SessionFile, DiskError> {
        match &self.dir {
            Ok(dir) => session::read(dir),
            Err(_) => Ok(SessionFile::None),
        }
    }

    /// The thread that a turn has started which was asked for a new one, if an
    /// attempt of it has got so far.
    pub fn started_thread(&self, turn_id: &str) -> Result<Option<Uuid>, StateError> {
        started_thread::find(&self.state, turn_id)
    }

    /// For the lock's holder only.
    pub fn write_started_thread(&self, turn_id: &str, thread: Uuid) -> Result<(), DiskError> {
        started_thread::write(&self.state, turn_id, thread)
    }

    /// For the lock's holder only.
    pub fn write_session(&self, thread: Uuid) -> Result<(), DiskError> {
        match &self.dir {
            Ok(dir) => session::write(dir, thread, self.owner),
            Err(why) => {
                let why = std::io::Error::other(why.to_string());
                Err(DiskError::new("write the session file of", &self.path, why))
            }
        }
    }
}

#[cfg(test)]
mod lock_tests;
