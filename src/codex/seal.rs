//! What configures codex in a CODEX_HOME, out of reach of agents that run as
//! another user than the worker.
//!
//! codex has to write into its home, and agents have codex's rights. So the
//! folder becomes one in which each may only remove what is theirs (mode
//! 1770, as with /tmp), and what decides where prompts and keys go becomes the
//! worker's. Threads, logs and the login stay the agents'.

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;

use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, Stat, chownat, fchmod, fchown, fstat, mkdirat, openat, statat,
};
use rustix::io::Errno;
use rustix::process::{Gid, Uid, geteuid};

use crate::workspace::Owner;

/// Files, and what stands in one that is missing: an agent could make it.
const FILES: [(&CStr, &str); 5] = [
    (c"config.toml", ""),
    (c"hooks.json", "{}\n"),
    (c".env", ""),
    (c"AGENTS.md", ""),
    (c"AGENTS.override.md", ""),
];
const FOLDERS: [&CStr; 2] = [c"rules", c"agents"];

const HOME: Mode = Mode::RWXU.union(Mode::RWXG).union(Mode::SVTX);
const FILE: Mode = Mode::RUSR.union(Mode::WUSR).union(Mode::RGRP);
const FOLDER: Mode = Mode::RWXU.union(Mode::RGRP).union(Mode::XGRP);

/// The deepest folder below [`FOLDERS`].
const MAX_DEPTH: usize = 16;

/// Makes `home` such a folder. Whether anything had to be changed.
pub(crate) fn seal(home: &File, agents: Owner) -> io::Result<bool> {
    let seal = Seal {
        worker: geteuid(),
        agents: Gid::from_raw(agents.gid),
    };
    // Before its contents, so that they are not swapped meanwhile.
    let mut changed = seal.take(home, HOME)?;
    for (name, content) in FILES {
        changed |= seal.file(home, name, content)?;
    }
    for name in FOLDERS {
        changed |= seal.folder(home, name)?;
    }
    Ok(changed)
}

struct Seal {
    worker: Uid,
    agents: Gid,
}

impl Seal {
    /// The worker's, with that mode, and readable for the agents.
    fn take(&self, open: &File, mode: Mode) -> io::Result<bool> {
        let stat = fstat(open)?;
        let is_ours = stat.st_uid == self.worker.as_raw() && stat.st_gid == self.agents.as_raw();
        if !is_ours {
            fchown(open, Some(self.worker), Some(self.agents))?;
        }
        let has_mode = Mode::from_raw_mode(stat.st_mode) == mode;
        if !has_mode {
            fchmod(open, mode)?;
        }
        Ok(!is_ours || !has_mode)
    }

    fn file(&self, above: &File, name: &CStr, content: &str) -> io::Result<bool> {
        let Some(stat) = stat(above, name)? else {
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
            let mut made = open(above, name, flags)?;
            io::Write::write_all(&mut made, content.as_bytes())?;
            return self.take(&made, FILE);
        };
        match FileType::from_raw_mode(stat.st_mode) {
            // The operator's, as with mounted secrets; what it leads to is theirs to protect.
            FileType::Symlink => self.take_link(above, name, &stat),
            FileType::RegularFile => {
                let file = open(above, name, OFlags::RDONLY)?;
                // Another name of it may be anything of the worker's.
                if fstat(&file)?.st_nlink != 1 {
                    return Err(io::Error::other(format!("{name:?} has other hard links")));
                }
                self.take(&file, FILE)
            }
            other => Err(io::Error::other(format!(
                "{name:?} is {other:?}, and must be a file"
            ))),
        }
    }

    fn take_link(&self, above: &File, name: &CStr, stat: &Stat) -> io::Result<bool> {
        if stat.st_uid == self.worker.as_raw() {
            return Ok(false);
        }
        let (worker, agents) = (Some(self.worker), Some(self.agents));
        chownat(above, name, worker, agents, AtFlags::SYMLINK_NOFOLLOW)?;
        Ok(true)
    }

    fn folder(&self, above: &File, name: &CStr) -> io::Result<bool> {
        let made = match mkdirat(above, name, Mode::RWXU) {
            Ok(()) => true,
            Err(Errno::EXIST) => false,
            Err(errno) => return Err(errno.into()),
        };
        let changed = self.below(above, name, MAX_DEPTH)?;
        Ok(made || changed)
    }

    fn below(&self, above: &File, name: &CStr, depth: usize) -> io::Result<bool> {
        let deeper = depth.checked_sub(1).ok_or(Errno::LOOP)?;
        let folder = open(above, name, OFlags::RDONLY | OFlags::DIRECTORY)?;
        let mut changed = self.take(&folder, FOLDER)?;
        for name in super::home::names(&folder)? {
            let is_folder = stat(&folder, &name)?
                .is_some_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Directory);
            changed |= match is_folder {
                true => self.below(&folder, &name, deeper)?,
                false => self.file(&folder, &name, "")?,
            };
        }
        Ok(changed)
    }
}

fn stat(above: impl AsFd, name: &CStr) -> io::Result<Option<Stat>> {
    match statat(above, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

/// Follows no links, and waits for no reader or writer.
fn open(above: impl AsFd, name: &CStr, flags: OFlags) -> io::Result<File> {
    let flags = flags | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    Ok(openat(above, name, flags, Mode::RUSR | Mode::WUSR)?.into())
}
