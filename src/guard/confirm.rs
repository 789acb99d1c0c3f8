//! Whether the workspace's lock is still held, confirmed on the held descriptor.
//!
//! A shared file system may drop a lock without notifying its holder, when the
//! holder is disconnected from it or its server restarts. Then another host may run the
//! next attempt, so the tree must end first. A call on a disconnected file
//! system may never return: it is made in a thread, which may be left hanging.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use rustix::time::{ClockId, clock_gettime};

use crate::fault;

/// Between two confirmations; less where the timeout is short.
const INTERVAL: Duration = Duration::from_secs(5);
/// The longest that a timeout may go unnoticed. A timer would not count the time in
/// which the host is suspended, so the clock is checked this often.
const TICK: Duration = Duration::from_secs(1);
/// Confirmations within one timeout, so that a single slow one ends no turn.
const PER_TIMEOUT: u32 = 5;

/// Confirms a lock until it is stopped. The first failure is final: a lock that was lost may
/// be acquired again by the next call, without an error.
#[derive(Debug)]
pub(super) struct LockConfirmer {
    timeout: Duration,
    shared: Arc<Mutex<Confirmations>>,
    /// Dropping it ends the thread.
    stop: Option<Sender<()>>,
    ended: Receiver<()>,
}

#[derive(Debug)]
struct Confirmations {
    /// Since boot, suspended time included.
    last: Duration,
    lost: Option<String>,
}

impl Confirmations {
    /// Why the lock counts as lost. Returns `None` while it is confirmed.
    fn check(&mut self, now: Duration, timeout: Duration) -> Option<String> {
        if self.lost.is_none() && now.saturating_sub(self.last) >= timeout {
            let timeout = timeout.as_secs_f64();
            self.lost = Some(format!(
                "the file system has not confirmed it for {timeout} s"
            ));
        }
        self.lost.clone()
    }

    /// A confirmation after the timeout has no effect.
    fn add(&mut self, asked: Duration, answer: Result<(), Errno>, timeout: Duration) {
        if self.check(since_boot(), timeout).is_some() {
            return;
        }
        match answer {
            // The answer may be as old as the question.
            Ok(()) => self.last = asked,
            Err(Errno::WOULDBLOCK) => self.lost = Some("another process holds it".to_owned()),
            Err(error) => self.lost = Some(io::Error::from(error).to_string()),
        }
    }
}

impl LockConfirmer {
    /// `lock` is held. The thread owns this descriptor, and closes it when it ends.
    pub(super) fn start(lock: OwnedFd, timeout: Duration) -> io::Result<Self> {
        let shared = Arc::new(Mutex::new(Confirmations {
            last: since_boot(),
            lost: None,
        }));
        let (stop, stopped) = channel();
        let (has_ended, ended) = channel();
        let of_thread = Arc::clone(&shared);
        thread::Builder::new()
            .name("lock".to_owned())
            .spawn(move || {
                confirm(&lock, &of_thread, timeout, &stopped);
                drop(lock);
                drop(has_ended);
            })?;
        Ok(Self {
            timeout,
            shared,
            stop: Some(stop),
            ended,
        })
    }

    /// Why the lock counts as lost. Returns `None` while it is confirmed.
    pub(super) fn lost(&self) -> Option<String> {
        locked(&self.shared).check(since_boot(), self.timeout)
    }

    #[cfg(test)]
    pub(super) fn lose(&self, why: &str) {
        locked(&self.shared).lost.get_or_insert(why.to_owned());
    }

    /// How long the caller may wait before it checks again.
    pub(super) fn tick(&self) -> Duration {
        TICK.min(self.timeout / PER_TIMEOUT)
    }

    /// Ends the thread, which has closed its descriptor then. Waits for a confirmation in flight,
    /// until it is too late; returns why the lock counts as lost.
    pub(super) fn stop(mut self) -> Option<String> {
        drop(self.stop.take());
        loop {
            match self.ended.recv_timeout(self.tick()) {
                Err(RecvTimeoutError::Timeout) => {
                    if let Some(why) = self.lost() {
                        return Some(why);
                    }
                }
                Ok(()) | Err(RecvTimeoutError::Disconnected) => {
                    return locked(&self.shared).lost.clone();
                }
            }
        }
    }
}

fn locked(shared: &Mutex<Confirmations>) -> MutexGuard<'_, Confirmations> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// In the thread, until it is stopped or the lock is lost.
fn confirm(
    lock: &impl AsFd,
    shared: &Mutex<Confirmations>,
    timeout: Duration,
    stopped: &Receiver<()>,
) {
    let interval = INTERVAL.min(timeout / PER_TIMEOUT);
    loop {
        let asked = since_boot();
        let answer = match fault::lock("guard.confirm") {
            Ok(()) => is_held(lock),
            Err(errno) => Err(errno),
        };
        let mut shared = locked(shared);
        shared.add(asked, answer, timeout);
        let is_lost = shared.lost.is_some();
        drop(shared);
        if is_lost || stopped.recv_timeout(interval) != Err(RecvTimeoutError::Timeout) {
            return;
        }
    }
}

/// Locking again what is held succeeds without effect; it fails where the lock is
/// another's by now, or where the descriptor has been cut from its file.
fn is_held(lock: &impl AsFd) -> Result<(), Errno> {
    loop {
        match flock(lock, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::INTR) => {}
            answer => return answer,
        }
    }
}

/// Unlike [`std::time::Instant`], includes the time in which the host is suspended.
fn since_boot() -> Duration {
    let now = clock_gettime(ClockId::Boottime);
    Duration::try_from(now).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(1000);

    fn confirmed_at(last: Duration) -> Confirmations {
        Confirmations { last, lost: None }
    }

    #[test]
    fn g3_a_lock_is_lost_at_the_timeout_and_stays_lost() {
        let now = since_boot();
        let mut confirmations = confirmed_at(now);
        let just_before = now + TIMEOUT - Duration::from_millis(1);
        assert_eq!(confirmations.check(just_before, TIMEOUT), None);
        let why = confirmations.check(now + TIMEOUT, TIMEOUT).unwrap();
        assert_eq!(why, "the file system has not confirmed it for 1000 s");
        confirmations.add(now + TIMEOUT, Ok(()), TIMEOUT);
        assert_eq!(confirmations.check(now, TIMEOUT), Some(why));
    }

    #[test]
    fn g3_a_failed_confirmation_is_final() {
        for (errno, words) in [
            (Errno::WOULDBLOCK, "another process holds it"),
            (Errno::BADFD, "File descriptor in bad state"),
        ] {
            let now = since_boot();
            let mut confirmations = confirmed_at(now);
            confirmations.add(now, Err(errno), TIMEOUT);
            confirmations.add(now, Ok(()), TIMEOUT);
            let why = confirmations.check(now, TIMEOUT).unwrap();
            assert!(why.starts_with(words), "{why}");
        }
    }

    #[test]
    fn g3_a_held_lock_is_confirmed_and_another_process_s_is_not() {
        let tmp = tempfile::NamedTempFile::new().unwrap();
        let open = || File::options().write(true).open(tmp.path()).unwrap();
        let held = open();
        held.try_lock().unwrap();
        let confirmer = LockConfirmer::start(held.try_clone().unwrap().into(), TIMEOUT).unwrap();
        assert_eq!(confirmer.stop(), None);
        // The thread has closed its descriptor.
        drop(held);
        let other = open();
        other.try_lock().unwrap();
        assert_eq!(is_held(&open()), Err(Errno::WOULDBLOCK));
        assert_eq!(is_held(&other), Ok(()));
    }
}
