//! The lock of a workspace: who holds it may run codex in there.
//!
//! It is released by closing and never by unlocking: the guard shares the
//! file description, and unlocking would free it for the guard too while
//! codex still runs. The file is never removed: two processes would then hold
//! locks on two files of one name.

use std::fs::{File, TryLockError};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use rustix::fs::OFlags;
use rustix::io::Errno;

use super::dir::Dir;
use super::error::DiskError;
use crate::fault;

pub(super) const LOCK: &str = "lock";

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
