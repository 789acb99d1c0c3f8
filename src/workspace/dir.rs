//! An open directory, and what is done in it by name.
//!
//! Everything below the root is reached from one of these, a segment at a
//! time and never over a symbolic link, so no user who can write in a
//! workspace can lead the worker out of it.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};
use rustix::io::{Errno, retry_on_intr};
use rustix::process::{Gid, Uid, geteuid};

use super::error::DiskError;

/// Mode of the directories that only workers may enter.
pub(super) const PRIVATE_DIR: Mode = Mode::RWXU;
/// Mode of an agent's directory; the umask has the last word.
pub(super) const SHARED_DIR: Mode = Mode::RWXU.union(Mode::RWXG).union(Mode::RWXO);
/// Mode of every file of ours.
pub(super) const PRIVATE_FILE: Mode = Mode::RUSR.union(Mode::WUSR);

/// Mode of the folders above an agent's directory, where that is another
/// user's: open to it, and not to be changed by it.
pub(super) const PASSAGE: Mode = Mode::RWXU
    .union(Mode::RGRP)
    .union(Mode::XGRP)
    .union(Mode::ROTH)
    .union(Mode::XOTH);

/// Mode of the folders above agents' homes: to be traversed only.
pub(super) const CORRIDOR: Mode = Mode::RWXU.union(Mode::XGRP).union(Mode::XOTH);

/// The owner of the agents' directories, if not the worker's user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    pub uid: u32,
    pub gid: u32,
}

impl Owner {
    fn ids(self) -> (Option<Uid>, Option<Gid>) {
        (Some(Uid::from_raw(self.uid)), Some(Gid::from_raw(self.gid)))
    }
}

#[derive(Debug)]
pub(super) struct Dir {
    fd: OwnedFd,
    /// For messages, and for what must be handed on as a path.
    path: PathBuf,
}

/// What stands where a directory was looked for.
#[derive(Debug)]
pub(super) enum Found {
    Dir(Dir),
    Missing,
    /// Its kind, in words.
    Other(&'static str),
}

impl AsFd for Dir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Dir {
    /// Opens a directory by its whole path, over symbolic links if need be:
    /// for the root only, which the operator names.
    pub(super) fn open(path: &Path) -> Result<Dir, DiskError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        match retry_on_intr(|| rustix::fs::open(path, flags, Mode::empty())) {
            Ok(fd) => Ok(Dir {
                fd,
                path: path.to_owned(),
            }),
            Err(errno) => Err(DiskError::new("open directory", path, errno)),
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn error(
        &self,
        doing: &'static str,
        name: &str,
        source: impl Into<io::Error>,
    ) -> DiskError {
        DiskError::new(doing, &self.path.join(name), source)
    }

    /// Looks for the directory `name`; follows no link.
    pub(super) fn dir(&self, name: &str) -> Result<Found, DiskError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
        match self.open_raw(name, flags, Mode::empty()) {
            Ok(fd) => Ok(Found::Dir(Dir {
                fd,
                path: self.path.join(name),
            })),
            Err(Errno::NOENT) => Ok(Found::Missing),
            Err(Errno::NOTDIR | Errno::LOOP) => Ok(Found::Other(match self.stat(name)? {
                Some(stat) => kind(&stat),
                None => "gone",
            })),
            Err(errno) => Err(self.error("open directory", name, errno)),
        }
    }

    /// Makes the directory `name` durable, whichever process made it.
    pub(super) fn make_dir(&self, name: &str, mode: Mode) -> Result<Found, DiskError> {
        one_name(name)
            .and_then(|name| rustix::fs::mkdirat(&self.fd, name, mode))
            .or_else(|errno| match errno {
                Errno::EXIST => Ok(()),
                errno => Err(self.error("make directory", name, errno)),
            })?;
        self.sync()?;
        self.dir(name)
    }

    /// A folder above agents' directories of another user, regardless of the umask.
    pub(super) fn make_passage(&self, name: &str) -> Result<Found, DiskError> {
        let known = matches!(self.dir(name)?, Found::Dir(_));
        let made = self.make_dir(name, PASSAGE)?;
        if let (false, Found::Dir(dir)) = (known, &made) {
            rustix::fs::fchmod(dir, PASSAGE)
                .map_err(|errno| self.error("open to agents", name, errno))?;
        }
        Ok(made)
    }

    /// A folder above agents' homes. Only this process's user may be able
    /// to put anything there: what is made in it is given away by its path.
    pub(super) fn make_corridor(&self, name: &str) -> Result<Found, DiskError> {
        if let known @ Found::Dir(_) = self.dir(name)? {
            return Ok(known);
        }
        let made = self.make_dir(name, CORRIDOR)?;
        // If another process was quicker, this fails or the check shows it.
        if let Found::Dir(dir) = &made
            && dir.is_ours_alone()?
        {
            rustix::fs::fchmod(dir, CORRIDOR)
                .map_err(|errno| self.error("open to agents", name, errno))?;
        }
        Ok(made)
    }

    /// Whether only this process's user, and root, can change what is in here.
    pub(super) fn is_ours_alone(&self) -> Result<bool, DiskError> {
        let stat = rustix::fs::fstat(&self.fd)
            .map_err(|errno| DiskError::new("look at", &self.path, errno))?;
        let others = Mode::from_raw_mode(stat.st_mode) & (Mode::WGRP | Mode::WOTH);
        Ok(stat.st_uid == geteuid().as_raw() && others.is_empty())
    }

    /// Gives a directory of this process's user to agents if no file is in
    /// it: one that was just made, whenever its maker died. What has content
    /// is never given away unasked.
    pub(super) fn give_if_new(&self, owner: Owner) -> Result<(), DiskError> {
        let error = |errno| DiskError::new("give to agents", &self.path, errno);
        let stat = rustix::fs::fstat(&self.fd).map_err(error)?;
        if stat.st_uid == geteuid().as_raw() && self.is_empty()? {
            let (uid, gid) = owner.ids();
            rustix::fs::fchown(&self.fd, uid, gid).map_err(error)?;
        }
        Ok(())
    }

    fn is_empty(&self) -> Result<bool, DiskError> {
        let look = || -> rustix::io::Result<bool> {
            for entry in rustix::fs::Dir::read_from(&self.fd)? {
                if !matches!(entry?.file_name().to_bytes(), b"." | b"..") {
                    return Ok(false);
                }
            }
            Ok(true)
        };
        look().map_err(|errno| DiskError::new("list", &self.path, errno))
    }

    /// A directory of our own, in which only a directory may stand.
    pub(super) fn make_own_dir(&self, name: &str) -> Result<Dir, DiskError> {
        match self.make_dir(name, PRIVATE_DIR)? {
            Found::Dir(dir) => Ok(dir),
            Found::Missing => Err(self.error("open directory", name, Errno::NOENT)),
            Found::Other(kind) => Err(self.not_a_directory(name, kind)),
        }
    }

    pub(super) fn not_a_directory(&self, name: &str, kind: &'static str) -> DiskError {
        DiskError::not_a_directory(&self.path.join(name), kind)
    }

    /// Opens a file; `None` if absent. Follows no link, and waits for
    /// no other process.
    pub(super) fn file(&self, name: &str, flags: OFlags) -> Result<Option<File>, DiskError> {
        // Opening a pipe would wait for its other end, for ever.
        let flags = flags | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
        match self.open_raw(name, flags, PRIVATE_FILE) {
            Ok(fd) => Ok(Some(self.regular(name, fd)?)),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(self.error("open", name, errno)),
        }
    }

    /// Opens a file of our own for reading and writing, making it if need be.
    pub(super) fn make_file(&self, name: &str) -> Result<File, DiskError> {
        let file = self.file(name, OFlags::RDWR | OFlags::CREATE)?;
        file.ok_or_else(|| self.error("open", name, Errno::NOENT))
    }

    /// All that a file holds, which must be no more than `max` bytes; `None`
    /// if it is absent.
    pub(super) fn read(&self, name: &str, max: u64) -> Result<Option<Vec<u8>>, DiskError> {
        let Some(file) = self.file(name, OFlags::RDONLY)? else {
            return Ok(None);
        };
        let mut bytes = Vec::new();
        file.take(max + 1)
            .read_to_end(&mut bytes)
            .map_err(|error| self.error("read", name, error))?;
        if bytes.len() as u64 > max {
            let too_long = format!("it has more than {max} bytes");
            let error = io::Error::new(io::ErrorKind::FileTooLarge, too_long);
            return Err(self.error("read", name, error));
        }
        Ok(Some(bytes))
    }

    fn regular(&self, name: &str, fd: OwnedFd) -> Result<File, DiskError> {
        let stat = rustix::fs::fstat(&fd).map_err(|errno| self.error("look at", name, errno))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            let message = format!("it is {}, not a file", kind(&stat));
            let error = io::Error::new(io::ErrorKind::InvalidInput, message);
            return Err(self.error("open", name, error));
        }
        Ok(File::from(fd))
    }

    pub(super) fn open_raw(
        &self,
        name: &str,
        flags: OFlags,
        mode: Mode,
    ) -> rustix::io::Result<OwnedFd> {
        let name = one_name(name)?;
        // No descriptor of ours may slip into codex.
        retry_on_intr(|| rustix::fs::openat(&self.fd, name, flags | OFlags::CLOEXEC, mode))
    }

    /// What `name` is itself, not what it may point to.
    pub(super) fn stat(&self, name: &str) -> Result<Option<Stat>, DiskError> {
        let stat = one_name(name)
            .and_then(|name| rustix::fs::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW));
        match stat {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(self.error("look at", name, errno)),
        }
    }

    /// Removes a file; returns whether it existed.
    pub(super) fn remove(&self, name: &str) -> Result<bool, DiskError> {
        let removed =
            one_name(name).and_then(|name| rustix::fs::unlinkat(&self.fd, name, AtFlags::empty()));
        match removed {
            Ok(()) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            Err(errno) => Err(self.error("remove", name, errno)),
        }
    }

    pub(super) fn rename(&self, from: &str, to: &str) -> Result<(), DiskError> {
        one_name(from)
            .and_then(|from| Ok((from, one_name(to)?)))
            .and_then(|(from, to)| rustix::fs::renameat(&self.fd, from, &self.fd, to))
            .map_err(|errno| self.error("rename into place", to, errno))
    }

    /// The names in here, in no order; those that are no UTF-8 are not ours.
    pub(super) fn names(&self) -> Result<Vec<String>, DiskError> {
        let mut names = Vec::new();
        self.for_each_name(|name| {
            #[cfg(test)]
            kept::count();
            names.push(name.to_owned());
            Ok(())
        })?;
        Ok(names)
    }

    /// As [`Self::names`], one at a time: for folders that may hold millions. A
    /// name may be removed when it comes.
    pub(super) fn for_each_name(
        &self,
        mut each: impl FnMut(&str) -> Result<(), DiskError>,
    ) -> Result<(), DiskError> {
        let error = |errno| DiskError::new("list", &self.path, errno);
        for entry in rustix::fs::Dir::read_from(&self.fd).map_err(error)? {
            if let Ok(name) = entry.map_err(error)?.file_name().to_str()
                && !matches!(name, "." | "..")
            {
                each(name)?;
            }
        }
        Ok(())
    }
}

/// How many names this thread has kept in memory.
#[cfg(test)]
pub(super) mod kept {
    use std::cell::Cell;

    thread_local!(static KEPT: Cell<usize> = const { Cell::new(0) });

    pub(crate) fn count() {
        KEPT.set(KEPT.get() + 1);
    }

    pub(crate) fn take() -> usize {
        KEPT.take()
    }
}

/// The last look at a name before a path is formed of it.
fn one_name(name: &str) -> rustix::io::Result<&str> {
    if name.is_empty() || matches!(name, "." | "..") || name.contains(['/', '\0']) {
        return Err(Errno::INVAL);
    }
    Ok(name)
}

/// Gives a file to agents.
pub(super) fn give(file: &File, owner: Owner) -> rustix::io::Result<()> {
    let (uid, gid) = owner.ids();
    rustix::fs::fchown(file, uid, gid)
}

pub(super) fn kind(stat: &Stat) -> &'static str {
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => "a file",
        FileType::Directory => "a directory",
        FileType::Symlink => "a symbolic link",
        FileType::Fifo => "a named pipe",
        FileType::Socket => "a socket",
        _ => "a device",
    }
}

/// How long ago it was last written; zero when the clocks disagree.
pub(super) fn age(stat: &Stat) -> Duration {
    let written = SystemTime::UNIX_EPOCH + Duration::from_secs(stat.st_mtime.max(0).unsigned_abs());
    written.elapsed().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn g8_no_name_leads_out_of_a_directory() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = Dir::open(tmp.path()).unwrap();
        for name in ["", ".", "..", "../x", "/etc", "a/b", "a\0b"] {
            assert!(dir.dir(name).is_err(), "{name:?}");
            assert!(dir.make_dir(name, PRIVATE_DIR).is_err(), "{name:?}");
            assert!(dir.make_file(name).is_err(), "{name:?}");
            assert!(dir.file(name, OFlags::RDONLY).is_err(), "{name:?}");
            assert!(dir.stat(name).is_err(), "{name:?}");
            assert!(dir.remove(name).is_err(), "{name:?}");
            assert!(dir.rename("x", name).is_err(), "{name:?}");
        }
    }

    #[test]
    fn g8_no_file_is_reached_over_a_symlink() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = Dir::open(tmp.path()).unwrap();
        symlink("/", tmp.path().join("to-dir")).unwrap();
        symlink("/etc/passwd", tmp.path().join("to-file")).unwrap();
        symlink("/nowhere", tmp.path().join("dangling")).unwrap();
        assert!(matches!(
            dir.dir("to-dir").unwrap(),
            Found::Other("a symbolic link")
        ));
        assert!(matches!(
            dir.make_dir("dangling", SHARED_DIR).unwrap(),
            Found::Other("a symbolic link")
        ));
        assert!(dir.file("to-file", OFlags::RDONLY).is_err());
        assert!(dir.make_file("dangling").is_err());
    }

    #[test]
    fn g8_a_pipe_in_a_files_place_is_not_waited_for() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = Dir::open(tmp.path()).unwrap();
        rustix::fs::mkfifoat(&dir, "pipe", PRIVATE_FILE).unwrap();
        for opened in [
            dir.file("pipe", OFlags::RDONLY).map(drop),
            dir.file("pipe", OFlags::RDWR | OFlags::APPEND).map(drop),
            dir.make_file("pipe").map(drop),
            dir.read("pipe", 10).map(drop),
        ] {
            let error = crate::error::with_sources(&opened.unwrap_err());
            assert!(error.contains("a named pipe, not a file"), "{error}");
        }
    }

    #[test]
    fn g10_no_more_of_a_file_is_read_than_allowed() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = Dir::open(tmp.path()).unwrap();
        let file = dir.make_file("f").unwrap();
        assert_eq!(dir.read("f", 0).unwrap(), Some(Vec::new()));
        file.set_len(10).unwrap();
        assert_eq!(dir.read("f", 10).unwrap(), Some(vec![0; 10]));
        // As large as a file may be, and yet no room is asked for.
        file.set_len(1 << 43).unwrap();
        let error = crate::error::with_sources(&dir.read("f", 10).unwrap_err());
        assert!(error.contains("more than 10 bytes"), "{error}");
        assert_eq!(dir.read("none", 10).unwrap(), None);
    }
}
