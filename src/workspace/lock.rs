//! The lock of a workspace: who holds it may run codex in there.
//!
//! It is released by closing and never by unlocking: the guard shares the
//! file description, and unlocking would free it for the guard too while
//! codex still runs. The file is never removed: two processes would then hold
//! locks on two files of one name.
//!
//! A guard that keeps a server for the next turn holds the lock meanwhile. It
//! has written that on the *bell*, a file beside the lock, and makes way for
//! a process that locks that.

use std::fs::{File, TryLockError};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::OFlags;
use rustix::io::Errno;

use super::dir::Dir;
use super::error::DiskError;
use crate::fault;

pub(super) const LOCK: &str = "lock";
const BELL: &str = "bell";
/// What a guard could not kill, and keeps the lock for; see [`crate::guard::Unkillable`].
const UNKILLABLE: &str = "unkillable";

/// Holds the workspace until this and every copy of its descriptor is closed.
#[derive(Debug)]
pub struct WorkspaceLock {
    file: File,
    pub(super) state: Arc<Dir>,
}

/// What the guard inherits: the same file description, so that the lock lives
/// until the last of both has closed it.
impl AsFd for WorkspaceLock {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl WorkspaceLock {
    /// Whether a server was left here by a guard that could not report its end.
    pub fn has_lost_server(&self) -> Result<bool, DiskError> {
        has_idle_server(&self.state)
    }

    /// Whether the lock is held still: a shared file system may have dropped it.
    pub fn is_held(&self) -> Result<bool, DiskError> {
        fault::lock("workspace.lock").map_err(|errno| self.state.error("lock", LOCK, errno))?;
        take(&self.state, LOCK, &self.file)
    }

    /// All processes of that server have ended.
    pub fn forget_lost_server(&self) -> Result<(), DiskError> {
        let bell = bell(&self.state)?;
        bell.set_len(0)
            .map_err(|error| self.state.error("cut", BELL, error))
    }
}

/// The lock that a server's guard still holds, by its descriptor; `None`
/// where that is the lock of a file that was removed since, or was dropped.
pub(super) fn held(state: &Arc<Dir>, lock: OwnedFd) -> Result<Option<WorkspaceLock>, DiskError> {
    let held = rustix::fs::fstat(&lock).map_err(|errno| state.error("look at", LOCK, errno))?;
    let named = state.stat(LOCK)?;
    let same =
        named.is_some_and(|named| (named.st_dev, named.st_ino) == (held.st_dev, held.st_ino));
    let lock = same.then(|| WorkspaceLock {
        file: lock.into(),
        state: Arc::clone(state),
    });
    Ok(match lock {
        Some(lock) if lock.is_held()? => Some(lock),
        _ => None,
    })
}

/// Whether the lock is, or was, held for a server that waits for a turn.
pub(super) fn has_idle_server(state: &Dir) -> Result<bool, DiskError> {
    Ok(state.stat(BELL)?.is_some_and(|bell| bell.st_size > 0))
}

/// For a guard, which alone may use this description.
pub(super) fn bell(state: &Dir) -> Result<File, DiskError> {
    state.make_file(BELL)
}

/// Written only by the holder of the lock.
pub(super) fn unkillable(state: &Dir) -> Result<File, DiskError> {
    state.make_file(UNKILLABLE)
}

/// Has the lock made free, if it is held for a server that waits, until the
/// bell is dropped; `None` while another process has it made free.
pub(super) fn ring(state: &Dir) -> Result<Option<Bell>, DiskError> {
    let file = bell(state)?;
    let rings = take(state, BELL, &file)?;
    Ok(rings.then_some(Bell { _file: file }))
}

/// The bell of a workspace, ringing.
#[derive(Debug)]
pub struct Bell {
    _file: File,
}

/// Takes the lock, or gives `None` when another process tree holds it.
pub(super) fn try_lock(state: &Arc<Dir>) -> Result<Option<WorkspaceLock>, DiskError> {
    let file = state
        .file(LOCK, OFlags::RDWR)?
        .ok_or_else(|| state.error("open", LOCK, Errno::NOENT))?;
    let taken = fault::is_on("sabotage.lock") || take(state, LOCK, &file)?;
    Ok(taken.then(|| WorkspaceLock {
        file,
        state: Arc::clone(state),
    }))
}

pub(super) fn take(dir: &Dir, name: &str, file: &File) -> Result<bool, DiskError> {
    match file.try_lock() {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(error)) => Err(dir.error("lock", name, error)),
    }
}
