//! The guard's side of a server that serves one turn after another, and of
//! the time between them.
//!
//! The workspace's lock is held as long as the server lives, so whoever has it
//! can count on being alone. Between turns somebody who finds it held locks
//! another file, the *bell*; then the guard ends the server and unlocks, also
//! where its own worker, which has the lock's description too, is frozen.
//!
//! Between turns the bell has content. Where that stands though the lock is
//! free, guard and worker were killed together, and may have left something.

use std::fs::{File, TryLockError};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::time::Duration;

use rustix::event::Timespec;
use rustix::fs::{FlockOperation, flock};

use super::protocol::{MARK, REST, Report, TAKE, WAIT};
use super::tree::{self, Known};
use crate::fault;

/// How long a ring may go unheard.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// What a turn has just ended may need a moment to be gone.
const LOOKS: u32 = 5;
const BETWEEN_LOOKS: Duration = Duration::from_millis(10);

/// What the guard does on what it hears.
#[derive(Debug)]
pub(super) enum Next {
    Nothing,
    Tell(Report),
}

#[derive(Debug)]
pub(super) struct Server {
    phase: Phase,
    /// What lives that is no turn's.
    pub own: Known,
    bell: File,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Turn,
    /// The turn is over, and its worker still records that.
    Resting,
    /// Nobody needs the workspace, unless the bell rings.
    Waiting,
}

impl Server {
    pub fn new(bell: OwnedFd) -> Self {
        Self {
            phase: Phase::Turn,
            own: Known::new(),
            bell: bell.into(),
        }
    }

    pub fn hear(&mut self, order: u8) -> Next {
        match (order, self.phase) {
            (MARK, Phase::Turn) => {
                // If it can't be seen, nothing is its own, and it can't rest after the turn.
                self.own = tree::living_below_me().unwrap_or_default();
                self.set_idle(false);
                fault::at("guard.marked");
                Next::Tell(Report::Marked)
            }
            (REST, Phase::Turn) if self.is_alone() && self.set_idle(true) => {
                self.phase = Phase::Resting;
                fault::at("guard.resting");
                Next::Tell(Report::Rested)
            }
            (REST, Phase::Turn) => Next::Tell(Report::Restless),
            (REST, Phase::Resting) => Next::Tell(Report::Rested),
            (WAIT, Phase::Resting) => {
                self.phase = Phase::Waiting;
                fault::at("guard.waiting");
                Next::Nothing
            }
            (TAKE, Phase::Resting | Phase::Waiting) => {
                self.phase = Phase::Turn;
                fault::at("guard.taken");
                Next::Tell(Report::Taken)
            }
            // It crossed with something.
            _ => Next::Nothing,
        }
    }

    /// After how long to look up though nothing was heard.
    pub fn timeout(&self) -> Option<Timespec> {
        let waits = self.phase == Phase::Waiting;
        waits.then(|| Timespec::try_from(LOOK_EVERY).ok()).flatten()
    }

    /// Whether somebody else wants the workspace.
    pub fn is_in_the_way(&self) -> bool {
        if self.phase != Phase::Waiting {
            return false;
        }
        match self.bell.try_lock_shared() {
            Ok(()) => {
                // A description of our own, so this frees nobody else's lock.
                let _ = self.bell.unlock();
                false
            }
            Err(TryLockError::WouldBlock | TryLockError::Error(_)) => true,
        }
    }

    /// When nothing of it lives any more. Its worker has the lock's
    /// description too, and needs it no more only between turns.
    pub fn let_go(&self, lock: &OwnedFd) -> io::Result<()> {
        self.set_idle(false);
        match self.phase {
            Phase::Waiting => Ok(flock(lock, FlockOperation::Unlock)?),
            Phase::Turn | Phase::Resting => Ok(()),
        }
    }

    /// On the bell, for others to see. False where that can't be written.
    fn set_idle(&self, idle: bool) -> bool {
        let written = match idle {
            true => self.bell.write_all_at(b"idle\n", 0),
            false => self.bell.set_len(0),
        };
        written.is_ok()
    }

    /// Whether all that lives is the server's own.
    fn is_alone(&self) -> bool {
        for look in 0..LOOKS {
            if look > 0 {
                std::thread::sleep(BETWEEN_LOOKS);
            }
            if tree::living_below_me().is_ok_and(|living| living.is_subset(&self.own)) {
                return true;
            }
        }
        false
    }
}
