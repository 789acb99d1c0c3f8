//! Writing so that it is there after a power cut, or not at all.

use std::cell::Cell;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::time::Duration;

use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::{Errno, retry_on_intr};
use uuid::Uuid;

use super::dir::{Dir, Owner, PRIVATE_FILE, age, give};
use super::error::DiskError;
use crate::fault;

/// No turn id and no segment of a workspace id may hold a `~`.
const TEMP: &str = "~tmp-";

/// A temporary file lives for one sync, so one of this age is a dead
/// process's. Should its writer live after all, its `link` or `rename` fails,
/// which is an error like any other.
const DEBRIS_AGE: Duration = Duration::from_secs(3600);

/// As much as the records of a usual turn take.
const PROBE_BYTES: usize = 16 << 10;

/// What became of an exclusive creation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Created {
    New,
    AlreadyThere,
}

impl Dir {
    /// Makes the names in here durable.
    pub(super) fn sync(&self) -> Result<(), DiskError> {
        sync_all(self).map_err(|errno| DiskError::new("sync", self.path(), errno))
    }

    /// Tries whether a small file can be written here, and removes it.
    pub(super) fn try_writing(&self) -> Result<(), DiskError> {
        Temp::write(self, temp_name(), &[0; PROBE_BYTES], PRIVATE_FILE)
            .and_then(|temp| temp.sync())
            // By a name that is the same each time: so repeats are recognised.
            .map_err(|error| DiskError::new("write to", self.path(), error.source))
    }

    /// Replaces `name` as a whole, durably.
    pub(super) fn write_atomic(
        &self,
        name: &str,
        bytes: &[u8],
        mode: Mode,
    ) -> Result<(), DiskError> {
        let temp = Temp::write(self, temp_name(), bytes, mode)?;
        temp.sync()?;
        temp.rename(name)?;
        self.sync()
    }

    /// As [`Self::write_atomic`], over a temporary file of a fixed name: where
    /// others would see the debris, and only one process writes at a time.
    /// `owner`: the file's owner, if not this process's user's.
    pub(super) fn write_atomic_over(
        &self,
        temp: &str,
        name: &str,
        bytes: &[u8],
        owner: Option<Owner>,
    ) -> Result<(), DiskError> {
        self.remove(temp)?;
        let temp = Temp::write(self, temp.to_owned(), bytes, PRIVATE_FILE)?;
        if let Some(owner) = owner {
            give(&temp.file, owner).map_err(|errno| self.error("give to agents", name, errno))?;
        }
        temp.sync()?;
        temp.rename(name)?;
        self.sync()
    }

    /// Writes over what `name` holds, where it stands: a death on the way leaves
    /// a mixture. Only for what carries a checksum and can be found out again,
    /// and is written too often for a new file each time. One writer at a time.
    pub(super) fn overwrite_cache(&self, name: &str, bytes: &[u8]) -> Result<(), DiskError> {
        let file = self.make_file(name)?;
        file.write_all_at(bytes, 0)
            // Afterwards: a file that is emptied first is flushed to the disk by some systems.
            .and_then(|()| file.set_len(bytes.len() as u64))
            .map_err(|error| self.error("write", name, error))
    }

    /// Creates `name` with all its content at once, durably, if it isn't
    /// there yet. Of any number of callers one gets [`Created::New`].
    pub(super) fn create_exclusive(&self, name: &str, bytes: &[u8]) -> Result<Created, DiskError> {
        let temp = Temp::write(self, temp_name(), bytes, PRIVATE_FILE)?;
        temp.sync()?;
        let linked = rustix::fs::linkat(self, temp.name.as_str(), self, name, AtFlags::empty());
        let created = match linked {
            Ok(()) => Created::New,
            // A network file system may repeat a link after it lost the answer,
            // and then stumble over its own.
            Err(Errno::EXIST) if temp.is_also(name)? => Created::New,
            Err(Errno::EXIST) => Created::AlreadyThere,
            Err(errno) => return Err(self.error("create", name, errno)),
        };
        drop(temp);
        // Also for who comes second: the first may not have got here yet, and
        // what is not durable must not be acted upon.
        self.sync()?;
        Ok(created)
    }

    /// Removes temporary files of dead processes. There may be millions of
    /// other files, so no more than one name is kept.
    pub(super) fn sweep(&self) -> Result<(), DiskError> {
        self.for_each_name(|name| self.sweep_if_debris(name))
    }

    pub(super) fn sweep_if_debris(&self, name: &str) -> Result<(), DiskError> {
        if name.starts_with(TEMP)
            && self
                .stat(name)?
                .is_some_and(|stat| age(&stat) >= DEBRIS_AGE)
        {
            self.remove(name)?;
        }
        Ok(())
    }
}

/// Appends all of it in one write and makes it durable.
pub(super) fn append(mut file: &File, bytes: &[u8]) -> io::Result<()> {
    fault::disk("disk.write")?;
    file.write_all(bytes)?;
    Ok(sync_data(file)?)
}

/// Cuts a file, durably.
pub(super) fn cut(file: &File, len: u64) -> io::Result<()> {
    file.set_len(len)?;
    // Not only the data: a length that shrinks is no part of that.
    Ok(sync_all(file)?)
}

/// A file that is gone with the value, unless it was renamed.
struct Temp<'a> {
    dir: &'a Dir,
    name: String,
    file: File,
    renamed: Cell<bool>,
}

impl<'a> Temp<'a> {
    fn write(dir: &'a Dir, name: String, bytes: &[u8], mode: Mode) -> Result<Self, DiskError> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
        let fd = dir
            .open_raw(&name, flags, mode)
            .map_err(|errno| dir.error("create", &name, errno))?;
        let mut temp = Temp {
            dir,
            name,
            file: File::from(fd),
            renamed: Cell::new(false),
        };
        let written = fault::disk("disk.write").and_then(|()| temp.file.write_all(bytes));
        written.map_err(|error| dir.error("write", &temp.name, error))?;
        Ok(temp)
    }

    fn sync(&self) -> Result<(), DiskError> {
        sync_data(&self.file).map_err(|errno| self.dir.error("sync", &self.name, errno))
    }

    fn rename(self, name: &str) -> Result<(), DiskError> {
        self.dir.rename(&self.name, name)?;
        self.renamed.set(true);
        Ok(())
    }

    fn is_also(&self, name: &str) -> Result<bool, DiskError> {
        let own = rustix::fs::fstat(&self.file)
            .map_err(|errno| self.dir.error("look at", &self.name, errno))?;
        let other = self.dir.stat(name)?;
        Ok(other.is_some_and(|other| (own.st_dev, own.st_ino) == (other.st_dev, other.st_ino)))
    }
}

impl Drop for Temp<'_> {
    fn drop(&mut self) {
        if !self.renamed.get() {
            // What can't be removed now is swept later.
            let _ = self.dir.remove(&self.name);
        }
    }
}

pub(super) fn temp_name() -> String {
    format!("{TEMP}{}", Uuid::new_v4().simple())
}

pub(super) fn sync_data(file: impl AsFd) -> rustix::io::Result<()> {
    #[cfg(test)]
    syncs::count();
    retry_on_intr(|| rustix::fs::fdatasync(&file))
}

fn sync_all(file: impl AsFd) -> rustix::io::Result<()> {
    #[cfg(test)]
    syncs::count();
    retry_on_intr(|| rustix::fs::fsync(&file))
}

/// How often this thread has waited for the disk.
#[cfg(test)]
pub(super) mod syncs {
    use std::cell::Cell;

    thread_local!(static SYNCS: Cell<usize> = const { Cell::new(0) });

    pub(crate) fn count() {
        SYNCS.set(SYNCS.get() + 1);
    }

    pub(crate) fn take() -> usize {
        SYNCS.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::time::SystemTime;

    fn dir() -> (tempfile::TempDir, Dir) {
        let tmp = tempfile::tempdir().unwrap();
        let dir = Dir::open(tmp.path()).unwrap();
        (tmp, dir)
    }

    #[test]
    fn replaces_a_whole_file_and_leaves_no_other() {
        let (tmp, dir) = dir();
        for text in ["long, the first one", "short"] {
            dir.write_atomic("f", text.as_bytes(), PRIVATE_FILE)
                .unwrap();
            let path = tmp.path().join("f");
            assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
            let mode = std::fs::metadata(&path).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
        }
        assert_eq!(dir.names().unwrap(), ["f"]);
    }

    #[test]
    fn a_failed_write_leaves_no_file() {
        let (tmp, dir) = dir();
        std::fs::create_dir(tmp.path().join("d")).unwrap();
        assert!(dir.write_atomic("d", b"x", PRIVATE_FILE).is_err());
        assert_eq!(dir.names().unwrap(), ["d"]);
    }

    #[test]
    fn overwrites_all_that_was_there_and_makes_no_second_file() {
        let (tmp, dir) = dir();
        for text in ["short", "long, the second one", "last"] {
            dir.overwrite_cache("f", text.as_bytes()).unwrap();
            let read = std::fs::read_to_string(tmp.path().join("f")).unwrap();
            assert_eq!(read, text);
        }
        assert_eq!(dir.names().unwrap(), ["f"]);
    }

    #[test]
    fn g5_exclusive_creation_has_one_winner_and_whole_content() {
        let (tmp, dir) = dir();
        let won: usize = std::thread::scope(|scope| {
            let racers: Vec<_> = (0..8)
                .map(|n| {
                    let dir = &dir;
                    scope.spawn(move || {
                        let bytes = vec![b'0' + n; 100_000];
                        let created = dir.create_exclusive("f", &bytes).unwrap();
                        let seen = std::fs::read(dir.path().join("f")).unwrap();
                        assert_eq!(seen.len(), bytes.len());
                        assert!(seen.iter().all(|byte| *byte == seen[0]));
                        assert_eq!(created == Created::New, seen == bytes);
                        usize::from(created == Created::New)
                    })
                })
                .collect();
            racers.into_iter().map(|racer| racer.join().unwrap()).sum()
        });
        assert_eq!(won, 1);
        assert_eq!(dir.names().unwrap(), ["f"]);
        drop(tmp);
    }

    #[test]
    fn g8_exclusive_creation_does_not_write_through_a_symlink() {
        let (tmp, dir) = dir();
        symlink("target", tmp.path().join("f")).unwrap();
        let created = dir.create_exclusive("f", b"x").unwrap();
        assert_eq!(created, Created::AlreadyThere);
        assert!(!tmp.path().join("target").exists());
    }

    #[test]
    fn sweeps_only_old_temporary_files() {
        let (tmp, dir) = dir();
        let old = SystemTime::now() - DEBRIS_AGE - Duration::from_secs(60);
        for (name, mtime) in [
            ("~tmp-old", Some(old)),
            ("~tmp-new", None),
            ("t.claim", Some(old)),
        ] {
            let file = File::create(tmp.path().join(name)).unwrap();
            if let Some(mtime) = mtime {
                file.set_modified(mtime).unwrap();
            }
        }
        dir.sweep().unwrap();
        let mut names = dir.names().unwrap();
        names.sort();
        assert_eq!(names, ["t.claim", "~tmp-new"]);
    }
}
