//! Two hosts and one lock that the file system may have dropped.
//!
//! A guard kills its turn when the lock can't be confirmed ([`Fence`] says after what time).
//! Until then the attempt may go on without the lock, so the next holder, on another host,
//! waits that long before it starts anything.

use std::fmt::{self, Display, Formatter};
use std::pin::pin;
use std::thread;
use std::time::Duration;

use tokio::task::block_in_place;
use tokio::time::{Instant, sleep_until};

use super::lease::Lease;
use crate::error::with_sources;
use crate::guard;
use crate::workspace::{Claims, Fence, Started, StateError, Workspace};

/// What the processes of an attempt may take to be gone, once its guard kills them.
const MARGIN: Duration = Duration::from_secs(10);
/// How often to check whether they are known to be gone, and the lock is still held.
const CHECK_EVERY: Duration = Duration::from_secs(1);
/// Between two tries to note a lost attempt: its file system does not answer, or has errors.
const NOTE_RETRY: Duration = Duration::from_secs(5);
/// After a day the note is of no use.
const NOTE_TRIES: u32 = 24 * 3600 / 5;

/// The fence of an attempt that starts here.
pub(super) fn of_this_place(lost_after: Option<Duration>) -> Option<Fence> {
    lost_after.map(|after| Fence {
        place: guard::place(),
        after_ms: u64::try_from(after.as_millis()).unwrap_or(u64::MAX),
    })
}

/// An attempt without an end with processes that may still run, on another host.
#[derive(Debug)]
pub(super) struct Predecessor {
    started: Started,
    wait: Duration,
}

impl Predecessor {
    /// Returns `None` if its processes, if there are any, can be seen from here, or would not
    /// end by themselves.
    pub(super) fn of(open: Started, here: &str) -> Option<Self> {
        let fence = open.fence.as_ref().filter(|fence| fence.place != here)?;
        Some(Self {
            wait: Duration::from_millis(fence.after_ms) + MARGIN,
            started: open,
        })
    }
}

impl Display for Predecessor {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Started {
            attempt, worker, ..
        } = &self.started;
        let wait = self.wait.as_secs_f64();
        write!(
            f,
            "attempt {attempt} of worker {worker} on another host has no end; its guard kills it within {wait} s"
        )
    }
}

/// A workspace whose lock is held until no process of another host's attempt can be left. A
/// later offer of the turn then starts it, so that this wait needs no slot.
#[derive(Debug)]
pub struct Takeover {
    predecessor: Predecessor,
    workspace: Workspace,
    lease: Lease,
    since: Instant,
}

impl Takeover {
    pub(super) fn new(predecessor: Predecessor, workspace: Workspace, lease: Lease) -> Self {
        Self {
            predecessor,
            workspace,
            lease,
            since: Instant::now(),
        }
    }

    /// Completes when the turn can be offered again, with the lock released. Returns false if that
    /// is before the attempt must have ended: when `leave` completes, or the lock is lost.
    pub async fn outlive(self, leave: impl Future<Output = ()>) -> Result<bool, StateError> {
        let outlived = self.wait(leave).await;
        match outlived {
            Ok(true) => drop(self.lease),
            // Its file system may not answer.
            Ok(false) | Err(_) => self.lease.abandon(),
        }
        outlived
    }

    async fn wait(&self, leave: impl Future<Output = ()>) -> Result<bool, StateError> {
        let Self {
            predecessor: Predecessor { started, wait },
            workspace,
            lease,
            since,
        } = self;
        tracing::warn!(
            turn_id = started.turn_id,
            workspace = workspace.id(),
            attempt = started.attempt,
            worker = started.worker,
            wait_s = wait.as_secs_f64(),
            "an attempt of another host has no end: waiting until its guard must have killed it"
        );
        let until = *since + *wait;
        let mut leave = pin!(leave);
        loop {
            // No guard confirms this lock, and while it is held, that of the attempt can't confirm its own.
            let look = || {
                let is_held = lease.journal.lock().is_held()?;
                Ok::<_, StateError>((is_held, workspace.is_gone(started)?))
            };
            match block_in_place(look)? {
                (false, _) => return Ok(false),
                (true, true) => return Ok(true),
                (true, false) if Instant::now() >= until => break,
                (true, false) => {}
            }
            tokio::select! {
                () = sleep_until(until.min(Instant::now() + CHECK_EVERY)) => {}
                () = &mut leave => return Ok(false),
            }
        }
        // It stays true if the lock is lost before this is written.
        block_in_place(|| workspace.note_outlived(started))?;
        Ok(true)
    }
}

impl Display for Takeover {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.predecessor.fmt(f)
    }
}

/// Notes that the attempt is not charged, as soon as the file system answers. In a thread, which may
/// hang there and ends with the process.
pub(super) fn note_lost(claims: Claims, turn_id: String, attempt: u32) {
    let note = move || {
        for again in 0..NOTE_TRIES {
            match claims.note_lost(&turn_id, attempt) {
                Ok(()) => {
                    tracing::info!(
                        turn_id,
                        attempt,
                        "the attempt that lost its lock is not charged"
                    );
                    return;
                }
                Err(error) if again == 0 => tracing::warn!(
                    error = with_sources(&error),
                    turn_id,
                    attempt,
                    "can't record yet that the attempt lost its lock: until then it counts as charged"
                ),
                Err(_) => {}
            }
            thread::sleep(NOTE_RETRY);
        }
    };
    let started = thread::Builder::new().name("lost".to_owned()).spawn(note);
    if let Err(error) = started {
        tracing::error!(%error, "the attempt that lost its lock stays charged");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::Timestamp;

    fn started(fence: Option<Fence>) -> Started {
        Started {
            turn_id: "t".to_owned(),
            attempt: 1,
            fingerprint: 0,
            at: Timestamp::UNIX_EPOCH,
            worker: "w".to_owned(),
            thread: None,
            fence,
        }
    }

    #[test]
    fn g3_only_an_attempt_of_another_place_is_waited_for() {
        let here = guard::place();
        let own = of_this_place(Some(Duration::from_secs(25)));
        let wait = |fence, here| Predecessor::of(started(fence), here).map(|before| before.wait);
        assert_eq!(wait(own.clone(), &here), None);
        assert_eq!(wait(own, "elsewhere"), Some(Duration::from_secs(35)));
        assert_eq!(wait(of_this_place(None), "elsewhere"), None);
    }
}
