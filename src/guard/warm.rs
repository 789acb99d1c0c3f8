//! The guard's side of a server that serves one turn after another, and of
//! the time between them.
//!
//! The workspace's lock is held as long as the server lives, so a process that has it
//! can count on being alone. Between turns a process that finds it held locks
//! another file, the *bell*; then the guard ends the server and unlocks, also
//! where its own worker, which has the lock's description too, is frozen.
//!
//! Between turns the bell has content. Where that stands though the lock is
//! free, guard and worker were killed together, and may have left something.

use std::fs::{File, TryLockError};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::Timespec;
use rustix::fs::{FlockOperation, flock};
use rustix::process::Pid;

use super::disk::{Disk, Pending};
use super::helpers::{Descendants, Helpers, Rest, Unrest};
use super::protocol::{ADOPT, Leave, MARK, REST, Report, TAKE, WAIT};
use super::tree::Known;
use crate::fault;

/// How long a ring may go unheard at first. A server that has waited for long is less likely to be wanted
/// elsewhere, and there may be hundreds: their looks would cost as much as the servers themselves.
const LOOK_EVERY: Duration = Duration::from_millis(50);
const LOOK_EVERY_LATER: Duration = Duration::from_millis(500);
/// The share of the time waited that passes before the next look.
const LOOK_SHARE: u32 = 20;
/// How long the bell may take to be looked at before the guard turns to other things meanwhile.
const LOOK_LIMIT: Duration = Duration::from_millis(5);
/// What a turn has just ended may need a moment to be gone: so long before each
/// further look, in milliseconds.
const LOOKS: [u64; 6] = [5, 10, 10, 15, 30, 50];
/// How long a helper may take that is about to end by itself. codex ends its
/// snapshot of the environment after 10 s.
const FINISH_LIMIT: Duration = Duration::from_secs(15);

/// What the guard does on what it hears.
#[derive(Debug)]
pub(super) enum Next {
    Nothing,
    Report(Report),
}

#[derive(Debug)]
pub(super) struct Server {
    phase: Phase,
    helpers: Helpers,
    /// Until when a helper of codex's may take to end.
    finishing: Option<Instant>,
    /// Of all that lived when its turn was over, in bytes.
    memory: u64,
    bell: Arc<File>,
    /// A look at the bell that has no answer yet.
    look: Option<Pending<bool>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Turn,
    /// The turn is over, and its worker still records that.
    Resting,
    /// The workspace is not needed, unless the bell rings.
    Waiting {
        since: Instant,
    },
}

/// How long after a look the next one is, by how long the server has waited.
fn look_after(waited: Duration) -> Duration {
    (waited / LOOK_SHARE).clamp(LOOK_EVERY, LOOK_EVERY_LATER)
}

impl Server {
    pub(super) fn new(bell: OwnedFd) -> Self {
        Self {
            phase: Phase::Turn,
            helpers: Helpers::default(),
            finishing: None,
            memory: 0,
            bell: Arc::new(bell.into()),
            look: None,
        }
    }

    /// What is no turn's, as far as it is known.
    pub(super) fn helpers(&self) -> &Known {
        &self.helpers.met
    }

    pub(super) fn hear(&mut self, order: u8, codex: Pid, disk: &Disk) -> Next {
        match (order, self.phase) {
            (MARK, Phase::Turn) => {
                match Descendants::now(codex) {
                    Ok(look) => self.helpers.mark(&look),
                    // It has no children of its own then, and it can't rest after the turn.
                    Err(_) => self.helpers.forget(),
                }
                self.finishing = None;
                self.set_idle(false, disk);
                fault::at("guard.marked");
                Next::Report(Report::Marked)
            }
            (ADOPT, Phase::Turn) => {
                if let Ok(look) = Descendants::now(codex) {
                    self.helpers.adopt(&look);
                }
                Next::Nothing
            }
            (REST, Phase::Turn) => match self.rest(codex, disk) {
                Ok((rest, memory)) => {
                    self.memory = memory;
                    let finishes = rest == Rest::Finishing;
                    self.finishing = finishes.then(|| Instant::now() + FINISH_LIMIT);
                    self.phase = Phase::Resting;
                    fault::at("guard.resting");
                    Next::Report(Report::Rested {
                        memory: self.memory,
                    })
                }
                Err(why) => Next::Report(Report::Restless { why }),
            },
            (REST, Phase::Resting) => Next::Report(Report::Rested {
                memory: self.memory,
            }),
            (WAIT, Phase::Resting) => {
                self.phase = Phase::Waiting {
                    since: Instant::now(),
                };
                fault::at("guard.waiting");
                Next::Nothing
            }
            (TAKE, Phase::Resting | Phase::Waiting { .. }) => {
                self.phase = Phase::Turn;
                self.look = None;
                fault::at("guard.taken");
                Next::Report(Report::Taken)
            }
            // It crossed with something.
            _ => Next::Nothing,
        }
    }

    /// After how long to look up without a message.
    pub(super) fn timeout(&self) -> Option<Timespec> {
        let Phase::Waiting { since } = self.phase else {
            return None;
        };
        Timespec::try_from(look_after(since.elapsed())).ok()
    }

    /// Why it is to end, if it is, though its worker has not asked for that.
    pub(super) fn leaves(&mut self, codex: Pid, disk: &Disk) -> Option<Leave> {
        let Phase::Waiting { .. } = self.phase else {
            return None;
        };
        if self.rings(disk) {
            return Some(Leave::Wanted);
        }
        let until = self.finishing?;
        let look = Descendants::now(codex).map(|look| self.helpers.judge(&look));
        if matches!(look, Ok(Ok(Rest::Settled))) {
            self.finishing = None;
            return None;
        }
        (Instant::now() >= until).then_some(Leave::Helper)
    }

    /// Whether the bell rings. One that does not answer is asked on, and rings if it can't be asked.
    fn rings(&mut self, disk: &Disk) -> bool {
        let look = self.look.take().map_or_else(
            || {
                let bell = Arc::clone(&self.bell);
                disk.begin(move || is_locked(&bell))
            },
            Ok,
        );
        match look.map(|look| look.within(LOOK_LIMIT)) {
            Ok(Ok(rings)) => rings.unwrap_or(true),
            Ok(Err(pending)) => {
                self.look = Some(pending);
                false
            }
            Err(_) => true,
        }
    }

    /// When all of it has ended, and the thread for the disk. Its worker has the lock's
    /// description too, and needs it no more only between turns.
    pub(super) fn let_go(&self, lock: &OwnedFd) -> io::Result<()> {
        let _ = write_idle(&self.bell, false);
        match self.phase {
            Phase::Waiting { .. } => Ok(flock(lock, FlockOperation::Unlock)?),
            Phase::Turn | Phase::Resting => Ok(()),
        }
    }

    /// On the bell, for others to see. False where that can't be written.
    fn set_idle(&self, idle: bool, disk: &Disk) -> bool {
        let bell = Arc::clone(&self.bell);
        disk.call(move || write_idle(&bell, idle)).is_ok()
    }

    /// Whether all that lives is the server's own, and the turn has ended in
    /// it; with the memory of all of it.
    fn rest(&mut self, codex: Pid, disk: &Disk) -> Result<(Rest, u64), Unrest> {
        let mut looks = LOOKS.into_iter();
        let found = loop {
            let look = Descendants::now(codex).map_err(|_| Unrest::Processes);
            let judged = look.and_then(|look| Ok((self.helpers.judge(&look)?, look.memory())));
            match judged {
                Ok(found) => break found,
                Err(why) => match looks.next() {
                    Some(pause) => std::thread::sleep(Duration::from_millis(pause)),
                    None => return Err(why),
                },
            }
        };
        match self.set_idle(true, disk) {
            true => Ok(found),
            false => Err(Unrest::Bell),
        }
    }
}

fn is_locked(bell: &File) -> bool {
    let _ = fault::lock("guard.bell");
    match bell.try_lock_shared() {
        Ok(()) => {
            // A description of our own, so this frees no other process's lock.
            let _ = bell.unlock();
            false
        }
        Err(TryLockError::WouldBlock | TryLockError::Error(_)) => true,
    }
}

fn write_idle(bell: &File, idle: bool) -> io::Result<()> {
    match idle {
        true => bell.write_all_at(b"idle\n", 0),
        false => bell.set_len(0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_become_rarer_while_a_server_waits() {
        let after = |waited| look_after(Duration::from_millis(waited)).as_millis();
        assert_eq!(
            [0, 1_000, 4_000, 10_000, 600_000].map(after),
            [50, 50, 200, 500, 500]
        );
    }
}
