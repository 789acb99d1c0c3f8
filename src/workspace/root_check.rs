//! Whether the root's file system keeps what the guarantees rest on.

use std::path::{Path, PathBuf};
use std::{fs::File, io};

use super::dir::{Dir, PRIVATE_FILE};
use super::durable::{Created, temp_name};
use super::error::DiskError;
use super::lock;
use super::root::Root;

const CHECK_LOCK: &str = "check.lock";

/// One promise of the file system, and whether it kept it.
#[derive(Debug)]
pub struct CheckLine {
    pub what: &'static str,
    /// In words, what was found instead.
    pub outcome: Result<(), String>,
}

/// Tries what one process can try alone.
pub fn check_root(root: &Root) -> Vec<CheckLine> {
    let dir = root.ours();
    let line = |what, tried: Result<Option<&str>, DiskError>| CheckLine {
        what,
        outcome: match tried {
            Ok(None) => Ok(()),
            Ok(Some(found)) => Err(found.to_owned()),
            Err(error) => Err(format!("{error}: {}", error.source)),
        },
    };
    vec![
        line("exclusive creation has one winner", creates_once(dir)),
        line("a rename replaces a file as a whole", replaces(dir)),
    ]
}

/// A lock for a second process to try, by [`try_lock_path`].
#[derive(Debug)]
pub struct LockProbe {
    path: PathBuf,
    _file: File,
}

impl LockProbe {
    /// `None` if another check holds it just now.
    pub fn take(root: &Root) -> Result<Option<LockProbe>, DiskError> {
        let dir = root.ours();
        let file = dir.make_file(CHECK_LOCK)?;
        Ok(lock::take(dir, CHECK_LOCK, &file)?.then(|| LockProbe {
            path: dir.path().join(CHECK_LOCK),
            _file: file,
        }))
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Whether the lock could be had; it is given back at once.
pub fn try_lock_path(path: &Path) -> io::Result<bool> {
    let file = File::options().read(true).write(true).open(path)?;
    match file.try_lock() {
        Ok(()) => Ok(true),
        Err(std::fs::TryLockError::WouldBlock) => Ok(false),
        Err(std::fs::TryLockError::Error(error)) => Err(error),
    }
}

fn creates_once(dir: &Dir) -> Result<Option<&'static str>, DiskError> {
    let name = temp_name();
    let created = [
        dir.create_exclusive(&name, b"1")?,
        dir.create_exclusive(&name, b"2")?,
    ];
    dir.remove(&name)?;
    Ok((created != [Created::New, Created::AlreadyThere]).then_some("a second one won as well"))
}

fn replaces(dir: &Dir) -> Result<Option<&'static str>, DiskError> {
    let name = temp_name();
    dir.write_atomic(&name, b"1", PRIVATE_FILE)?;
    dir.write_atomic(&name, b"22", PRIVATE_FILE)?;
    let size = dir.stat(&name)?.map(|stat| stat.st_size);
    dir.remove(&name)?;
    Ok((size != Some(2)).then_some("the old file is still there"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workspace::testing::root;

    #[test]
    fn a_good_file_system_passes_and_keeps_no_trace() {
        let (_tmp, root) = root();
        let before = root.ours().names().unwrap().len();
        let lines = check_root(&root);
        assert!(lines.iter().all(|line| line.outcome.is_ok()), "{lines:?}");
        assert_eq!(root.ours().names().unwrap().len(), before);
    }

    #[test]
    fn a_failure_is_reported_in_words() {
        let (_tmp, root) = root();
        std::fs::remove_dir_all(root.ours().path()).unwrap();
        for line in check_root(&root) {
            let why = line.outcome.unwrap_err();
            assert!(why.contains("cannot create"), "{why}");
        }
    }

    #[test]
    fn a_held_probe_can_not_be_had() {
        let (_tmp, root) = root();
        let probe = LockProbe::take(&root).unwrap().unwrap();
        assert!(!try_lock_path(probe.path()).unwrap());
        assert!(LockProbe::take(&root).unwrap().is_none());
    }
}
