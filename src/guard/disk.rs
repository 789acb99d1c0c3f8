//! Calls on the workspace's file system, which may never return: they are made in a thread, so that
//! the guard still notices that the lock is lost, and kills the tree.

use std::cell::OnceCell;
use std::io;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::Duration;

use super::confirm::LockConfirmer;

/// How often a caller that waits checks whether the lock is lost.
const TICK: Duration = Duration::from_millis(200);

type Call = Box<dyn FnOnce() + Send>;

/// The file system of one turn's lock.
#[derive(Debug, Default)]
pub(super) struct Disk {
    /// `None` where the lock is not confirmed; then a call is waited for as long as it takes.
    pub confirmer: Option<LockConfirmer>,
    /// Most turns need none.
    thread: OnceCell<DiskThread>,
}

#[derive(Debug)]
struct DiskThread {
    calls: Sender<Call>,
    ended: Receiver<()>,
}

/// The result of a call that was not waited for.
#[derive(Debug)]
pub(super) struct Pending<T>(Receiver<T>);

impl Disk {
    /// Why the lock counts as lost. Returns `None` while it is confirmed, or is not confirmed at all.
    pub(super) fn lost(&self) -> Option<String> {
        self.confirmer.as_ref().and_then(LockConfirmer::lost)
    }

    /// Calls follow each other.
    pub(super) fn begin<T: Send + 'static>(
        &self,
        call: impl FnOnce() -> T + Send + 'static,
    ) -> io::Result<Pending<T>> {
        let thread = match self.thread.get() {
            Some(thread) => thread,
            None => {
                let new = DiskThread::start()?;
                self.thread.get_or_init(|| new)
            }
        };
        let (sender, result) = channel();
        let call = Box::new(move || drop(sender.send(call())));
        let sent = thread.calls.send(call);
        sent.map_err(|_| io::Error::other("the thread for the disk has ended"))?;
        Ok(Pending(result))
    }

    /// Waits for the call until the lock is lost.
    pub(super) fn call<T: Send + 'static>(
        &self,
        call: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let Pending(result) = self.begin(call)?;
        self.wait(&result)
            .unwrap_or_else(|| Err(io::Error::other("the file system does not answer")))
    }

    /// Ends the threads, which have let go of their descriptors then; or returns why the lock counts
    /// as lost.
    pub(super) fn stop(self) -> Option<String> {
        let Self {
            confirmer,
            mut thread,
        } = self;
        if let Some(DiskThread { calls, ended }) = thread.take() {
            drop(calls);
            let disk = Self {
                confirmer,
                thread: OnceCell::new(),
            };
            disk.wait(&ended);
            return disk.confirmer.and_then(LockConfirmer::stop);
        }
        confirmer.and_then(LockConfirmer::stop)
    }

    fn wait<T>(&self, result: &Receiver<T>) -> Option<T> {
        loop {
            match result.recv_timeout(TICK) {
                Ok(result) => return Some(result),
                Err(RecvTimeoutError::Disconnected) => return None,
                Err(RecvTimeoutError::Timeout) if self.lost().is_some() => return None,
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }
}

/// Makes the last call of a turn, whose lock is not confirmed any more. Returns `None` if it takes longer than
/// `limit`; otherwise its thread has ended.
pub(super) fn within<T: Send + 'static>(
    limit: Duration,
    call: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Option<io::Result<T>> {
    let disk = Disk::default();
    let result = match disk.begin(call) {
        Ok(pending) => pending.within(limit).ok()?,
        Err(error) => Some(Err(error)),
    };
    disk.stop();
    Some(result.unwrap_or_else(|| Err(io::Error::other("the thread for the disk has panicked"))))
}

impl DiskThread {
    fn start() -> io::Result<Self> {
        let (calls, asked) = channel::<Call>();
        let (has_ended, ended) = channel();
        let work = move || {
            for call in asked {
                call();
            }
            drop(has_ended);
        };
        thread::Builder::new().name("disk".to_owned()).spawn(work)?;
        Ok(Self { calls, ended })
    }
}

impl<T> Pending<T> {
    /// Returns `Err` with itself if it takes longer, and `Ok(None)` if there will be no result.
    pub(super) fn within(self, limit: Duration) -> Result<Option<T>, Self> {
        match self.0.recv_timeout(limit) {
            Ok(result) => Ok(Some(result)),
            Err(RecvTimeoutError::Disconnected) => Ok(None),
            Err(RecvTimeoutError::Timeout) => Err(self),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Completes when `Sender` is dropped.
    fn hanging(disk: &Disk) -> Sender<()> {
        let (release, hangs) = channel::<()>();
        drop(disk.begin(move || hangs.recv().is_err()).unwrap());
        release
    }

    #[test]
    fn g3_a_call_that_hangs_is_waited_for_until_the_lock_is_lost() {
        let tmp = tempfile::tempfile().unwrap();
        tmp.try_lock().unwrap();
        let timeout = Duration::from_millis(100);
        let confirmer = LockConfirmer::start(tmp.into(), timeout).unwrap();
        let disk = Disk {
            confirmer: Some(confirmer),
            ..Disk::default()
        };
        assert_eq!(disk.call(|| Ok(7)).unwrap(), 7);
        let release = hanging(&disk);
        let pending = disk.begin(|| 8).unwrap();
        let pending = pending.within(Duration::ZERO).unwrap_err();
        // Another process has it from now on.
        disk.confirmer.as_ref().unwrap().lose("gone");
        assert!(disk.call(|| Ok(9)).is_err());
        drop(release);
        assert_eq!(pending.within(Duration::MAX).unwrap(), Some(8));
        let _hangs = hanging(&disk);
        assert_eq!(disk.stop().as_deref(), Some("gone"));
    }

    #[test]
    fn g3_the_last_call_is_waited_for_within_a_limit() {
        assert_eq!(within(Duration::MAX, || Ok(7)).unwrap().unwrap(), 7);
        let (_release, hangs) = channel::<()>();
        assert!(within(Duration::ZERO, move || Ok(hangs.recv())).is_none());
    }

    #[test]
    fn g3_without_confirmation_a_call_is_waited_for_and_its_thread_ends() {
        let disk = Disk::default();
        let (ended, has_ended) = channel::<()>();
        drop(disk.begin(move || drop(ended)).unwrap());
        assert_eq!(disk.call(|| Ok(7)).unwrap(), 7);
        assert_eq!(disk.stop(), None);
        assert!(has_ended.recv().is_err());
        assert_eq!(Disk::default().stop(), None);
    }
}
