//! A lock for each process that uses the root, held for its life: others try
//! it, to find out whether locks exclude each other between hosts and mounts.
//!
//! It is a lock of the same kind as a workspace's. A process is named by a
//! random id, so no name is used twice, and the file of one that has ended can
//! be removed.

use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use rustix::fs::OFlags;

use super::dir::Dir;
use super::durable::temp_name;
use super::error::DiskError;
use super::lock;

const SUFFIX: &str = ".lock";
const MAX_NAME_BYTES: usize = 128;
/// How often a process tries to take its own lock again before it takes a new one.
const TRIES: usize = 50;
const TRY_EVERY: Duration = Duration::from_millis(10);

/// The folder of these locks.
#[derive(Debug, Clone)]
pub struct Processes {
    pub(super) dir: Arc<Dir>,
}

/// The lock of this process, until it is dropped.
#[derive(Debug)]
pub struct ProcessLock {
    dir: Arc<Dir>,
    name: String,
    file: File,
    /// It stays when this is dropped: it is another one by now.
    lost: AtomicBool,
}

/// What became of trying another process's lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LockTry {
    Held,
    /// This process could take it; it is released again.
    Free,
    /// There is no such file.
    Missing,
}

impl Processes {
    pub(super) fn new(dir: Dir) -> Self {
        Self { dir: Arc::new(dir) }
    }

    /// Takes the lock that is named after this process; `None` if its id can't
    /// be a file's name.
    pub fn hold(&self, process: &str) -> Result<Option<ProcessLock>, DiskError> {
        let Some(name) = file_name(process) else {
            return Ok(None);
        };
        // Under another name until it is locked, or a sweep could take it for
        // one that has ended.
        let temp = temp_name();
        let file = self.dir.make_file(&temp)?;
        if !lock::take(&self.dir, &temp, &file)? {
            return Ok(None);
        }
        self.dir.rename(&temp, &name)?;
        Ok(Some(ProcessLock {
            dir: Arc::clone(&self.dir),
            name,
            file,
            lost: AtomicBool::new(false),
        }))
    }

    /// Tries whether another process's lock can be had; `None` if it can't be
    /// named.
    pub fn try_lock(&self, process: &str) -> Result<Option<LockTry>, DiskError> {
        match file_name(process) {
            Some(name) => self.try_file(&name).map(|(tried, _)| Some(tried)),
            None => Ok(None),
        }
    }

    /// Removes the files of processes that have ended.
    pub fn sweep(&self) -> Result<(), DiskError> {
        for name in self.dir.names()? {
            self.dir.sweep_if_debris(&name)?;
            if !name.ends_with(SUFFIX) {
                self.sweep_probe(&name)?;
                continue;
            }
            // Held while it is removed.
            if let (LockTry::Free, _file) = self.try_file(&name)? {
                self.dir.remove(&name)?;
            }
        }
        Ok(())
    }

    /// Whether a process of that id has used the root, and has not been swept away.
    pub(super) fn is_there(&self, id: &str) -> Result<bool, DiskError> {
        Ok(self.dir.stat(&format!("{id}{SUFFIX}"))?.is_some())
    }

    fn try_file(&self, name: &str) -> Result<(LockTry, Option<File>), DiskError> {
        let Some(file) = self.dir.file(name, OFlags::RDWR)? else {
            return Ok((LockTry::Missing, None));
        };
        Ok(match lock::take(&self.dir, name, &file)? {
            true => (LockTry::Free, Some(file)),
            false => (LockTry::Held, None),
        })
    }
}

impl ProcessLock {
    /// Takes the lock again where the file system has dropped it. Returns false where others
    /// would not find it held all the same: it takes a new one then.
    pub fn retake(&self) -> Result<bool, DiskError> {
        if !self.is_in_place()? {
            return Ok(false);
        }
        for _ in 0..TRIES {
            if lock::take(&self.dir, &self.name, &self.file)? {
                return Ok(true);
            }
            // A process that tries it has it for a moment.
            thread::sleep(TRY_EVERY);
        }
        Ok(false)
    }

    /// Whether its file still is the one of that name: others try that one.
    fn is_in_place(&self) -> Result<bool, DiskError> {
        let held = rustix::fs::fstat(&self.file)
            .map_err(|errno| self.dir.error("look at", &self.name, errno))?;
        let named = self.dir.stat(&self.name)?;
        Ok(named.is_some_and(|named| (named.st_dev, named.st_ino) == (held.st_dev, held.st_ino)))
    }

    /// For one with a file that is not in place any more: the one of its name is not
    /// removed.
    pub fn forget(&self) {
        self.lost.store(true, Ordering::Relaxed);
    }
}

impl Drop for ProcessLock {
    fn drop(&mut self) {
        if self.lost.load(Ordering::Relaxed) {
            return;
        }
        // A file that stays is removed by the next process that starts.
        let _ = self.dir.remove(&self.name);
    }
}

fn file_name(process: &str) -> Option<String> {
    Some(format!("{}{SUFFIX}", stem(process)?))
}

/// What the names of a process's files start with; `None` if its id can't be that.
pub(super) fn stem(process: &str) -> Option<&str> {
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    let named = (1..=MAX_NAME_BYTES).contains(&process.len())
        && process.bytes().all(is_name)
        && !process.starts_with('.');
    named.then_some(process)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workspace::testing::root;

    #[test]
    fn g3_the_lock_of_a_process_is_held_for_its_life() {
        let (_tmp, root) = root();
        let processes = root.processes();
        let tried = |process| processes.try_lock(process).unwrap();
        assert_eq!(tried("host-1-a"), Some(LockTry::Missing));
        let held = processes.hold("host-1-a").unwrap().unwrap();
        assert_eq!(tried("host-1-a"), Some(LockTry::Held));
        assert!(held.is_in_place().unwrap());
        processes.sweep().unwrap();
        assert_eq!(tried("host-1-a"), Some(LockTry::Held));
        drop(held);
        assert_eq!(tried("host-1-a"), Some(LockTry::Missing));
        assert!(processes.dir.names().unwrap().is_empty());
    }

    #[test]
    fn only_what_a_killed_process_has_left_is_removed() {
        let (_tmp, root) = root();
        let processes = root.processes();
        drop(processes.dir.make_file("host-1-a.lock").unwrap());
        drop(processes.dir.make_file("other").unwrap());
        assert_eq!(processes.try_lock("host-1-a").unwrap(), Some(LockTry::Free));
        processes.sweep().unwrap();
        assert_eq!(processes.dir.names().unwrap(), ["other"]);
    }

    #[test]
    fn g3_a_lock_that_the_file_system_has_dropped_is_held_again() {
        let (_tmp, root) = root();
        let processes = root.processes();
        let tried = || processes.try_lock("host-1-a").unwrap();
        let held = processes.hold("host-1-a").unwrap().unwrap();
        assert!(held.retake().unwrap());
        held.file.unlock().unwrap();
        assert_eq!(tried(), Some(LockTry::Free));
        assert!(held.retake().unwrap());
        assert_eq!(tried(), Some(LockTry::Held));
        // A process that has it for good can't be waited for.
        held.file.unlock().unwrap();
        let (_, other) = processes.try_file("host-1-a.lock").unwrap();
        assert!(!held.retake().unwrap());
        drop(other);
    }

    #[test]
    fn a_lock_without_its_file_is_not_in_place() {
        let (_tmp, root) = root();
        let held = root.processes().hold("host-1-a").unwrap().unwrap();
        root.processes().dir.remove("host-1-a.lock").unwrap();
        assert!(!held.is_in_place().unwrap() && !held.retake().unwrap());
    }

    #[test]
    fn g8_no_process_id_leads_out_of_the_folder() {
        let (_tmp, root) = root();
        for id in ["", ".", "..", "../x", "a/b", "a\0b", ".hidden", "é"] {
            assert!(root.processes().hold(id).unwrap().is_none(), "{id:?}");
            assert_eq!(root.processes().try_lock(id).unwrap(), None, "{id:?}");
        }
    }
}
