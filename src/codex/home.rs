//! Where codex keeps its threads, settings and login.

use std::ffi::{CStr, CString};
use std::fs::{File, Permissions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, Dir, FileType, Mode, OFlags, mkdirat, openat, renameat, statat, unlinkat,
};
use rustix::io::Errno;
use rustix::process::geteuid;

use crate::workspace::{HomePlace, Owner};

/// Which CODEX_HOME a turn gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Homes {
    /// One for all: the agents' CODEX_HOME, or codex's own default.
    Shared {
        /// Set for the agents; `None` if they have it in their environment.
        set: Option<PathBuf>,
        /// Where it is, as far as is known.
        known: Option<PathBuf>,
    },
    /// Each workspace has its own, made from a template.
    PerWorkspace {
        template: Option<PathBuf>,
        /// Its owner, if not the worker's user.
        owner: Option<Owner>,
    },
}

/// One turn's CODEX_HOME.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Home {
    own: Option<PathBuf>,
    known: Option<PathBuf>,
}

impl Home {
    /// To be set in the agent's environment.
    pub fn own(&self) -> Option<&Path> {
        self.own.as_deref()
    }

    /// Where codex's own records are to be found.
    pub fn path(&self) -> Option<&Path> {
        self.own.as_deref().or(self.known.as_deref())
    }
}

impl Homes {
    /// The CODEX_HOME of a workspace that would have its own at `place`;
    /// made if missing. The workspace's lock must be held.
    pub fn of(&self, place: &HomePlace) -> io::Result<Home> {
        match self {
            Self::Shared { set, known } => Ok(Home {
                own: set.clone(),
                known: known.clone(),
            }),
            Self::PerWorkspace { template, owner } => {
                match statat(place.above(), place.name(), AtFlags::SYMLINK_NOFOLLOW) {
                    Err(Errno::NOENT) => make(place, template.as_deref(), *owner)?,
                    Err(errno) => return Err(errno.into()),
                    // Of a worker that did not seal homes yet.
                    Ok(found) if found.st_uid != geteuid().as_raw() => {
                        let name = CString::new(place.name())?;
                        let home = open(place.above(), &name, OFlags::RDONLY | OFlags::DIRECTORY)?;
                        seal(&home, *owner)?;
                    }
                    Ok(_) => {}
                }
                Ok(Home {
                    own: Some(place.path()),
                    known: None,
                })
            }
        }
    }
}

/// The deepest folder of a template: far deeper than any real one.
const MAX_DEPTH: usize = 32;

/// Beside it first: half a copy must not pass for the whole, and no agent
/// gets at it before it is done. All by handles, and over no link: a path may
/// lead elsewhere by the time when it is used.
fn make(place: &HomePlace, template: Option<&Path>, owner: Option<Owner>) -> io::Result<()> {
    // No workspace's name ends so.
    let new = CString::new(format!("{}~new", place.name()))?;
    remove(place.above(), &new, MAX_DEPTH)?;
    let folder = make_folder(place.above(), &new)?;
    if let Some(template) = template {
        // Its own path is the operator's business.
        copy(&File::open(template)?, &folder, owner, MAX_DEPTH)?;
    }
    seal(&folder, owner)?;
    Ok(renameat(place.above(), &new, place.above(), place.name())?)
}

/// Homes are not sealed if agents run as the worker's user.
fn seal(home: &File, owner: Option<Owner>) -> io::Result<()> {
    if let Some(agents) = owner {
        super::seal::seal(home, agents)?;
    }
    Ok(())
}

fn make_folder(above: BorrowedFd<'_>, name: &CStr) -> io::Result<File> {
    mkdirat(above, name, Mode::RWXU)?;
    open(above, name, OFlags::RDONLY | OFlags::DIRECTORY)
}

/// Follows no links, and does not block.
fn open(above: impl AsFd, name: &CStr, flags: OFlags) -> io::Result<File> {
    let flags = flags | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    Ok(openat(above, name, flags, Mode::RUSR | Mode::WUSR)?.into())
}

/// A folder after what is in it, so that its new owner can't put anything
/// else there meanwhile.
fn give(made: &File, owner: Option<Owner>) -> io::Result<()> {
    match owner {
        Some(Owner { uid, gid }) => std::os::unix::fs::fchown(made, Some(uid), Some(gid)),
        None => Ok(()),
    }
}

pub(super) fn names(folder: &File) -> io::Result<Vec<CString>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(folder)? {
        let name = entry?.file_name().to_owned();
        if !matches!(name.to_bytes(), b"." | b"..") {
            names.push(name);
        }
    }
    Ok(names)
}

/// Files and folders only: a link could lead anywhere.
fn copy(from: &File, to: &File, owner: Option<Owner>, depth: usize) -> io::Result<()> {
    let deeper = depth.checked_sub(1).ok_or(Errno::LOOP)?;
    for name in names(from)? {
        let kind = FileType::from_raw_mode(statat(from, &name, AtFlags::SYMLINK_NOFOLLOW)?.st_mode);
        let made = if kind == FileType::Directory {
            let from = open(from, &name, OFlags::RDONLY | OFlags::DIRECTORY)?;
            let made = make_folder(to.as_fd(), &name)?;
            copy(&from, &made, owner, deeper)?;
            made
        } else if kind == FileType::RegularFile {
            let mut from = open(from, &name, OFlags::RDONLY)?;
            let mut made = open(to, &name, OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL)?;
            io::copy(&mut from, &mut made)?;
            let mode = from.metadata()?.permissions().mode() & 0o777;
            made.set_permissions(Permissions::from_mode(mode))?;
            made
        } else {
            continue;
        };
        give(&made, owner)?;
    }
    Ok(())
}

/// What a worker left that died while it made a home.
fn remove(above: BorrowedFd<'_>, name: &CStr, depth: usize) -> io::Result<()> {
    match unlinkat(above, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(other) => return Err(other.into()),
    }
    let deeper = depth.checked_sub(1).ok_or(Errno::LOOP)?;
    let folder = open(above, name, OFlags::RDONLY | OFlags::DIRECTORY)?;
    for name in names(&folder)? {
        remove(folder.as_fd(), &name, deeper)?;
    }
    Ok(unlinkat(above, name, AtFlags::REMOVEDIR)?)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt, chown, symlink};

    use super::*;

    const AGENT: u32 = 61_009;

    fn template(dir: &Path) -> PathBuf {
        let template = dir.join("template");
        fs::create_dir_all(template.join("rules")).unwrap();
        fs::write(template.join("config.toml"), "a = 1").unwrap();
        fs::write(template.join("rules/x"), "x").unwrap();
        fs::create_dir(template.join("sessions")).unwrap();
        fs::write(template.join("sessions/x"), "x").unwrap();
        fs::set_permissions(template.join("sessions/x"), Permissions::from_mode(0o600)).unwrap();
        symlink("/etc", template.join("link")).unwrap();
        template
    }

    fn homes(template: Option<PathBuf>, owner: Option<Owner>) -> Homes {
        Homes::PerWorkspace { template, owner }
    }

    #[test]
    fn g8_each_workspace_gets_a_copy_of_the_template_once() {
        let dir = tempfile::tempdir().unwrap();
        let homes = homes(Some(template(dir.path())), None);
        let place = HomePlace::in_folder(dir.path(), "home");
        let home = homes.of(&place).unwrap();
        let own = home.own().unwrap().to_owned();
        assert_eq!(own, dir.path().join("home"));
        assert_eq!(home.path(), Some(&*own));
        assert_eq!(fs::read_to_string(own.join("rules/x")).unwrap(), "x");
        assert!(own.join("link").symlink_metadata().is_err());
        fs::write(own.join("config.toml"), "mine").unwrap();
        homes.of(&place).unwrap();
        assert_eq!(fs::read_to_string(own.join("config.toml")).unwrap(), "mine");
    }

    #[test]
    fn g8_a_home_is_private_from_the_start() {
        let dir = tempfile::tempdir().unwrap();
        let template = template(dir.path());
        let owner = rustix::process::geteuid().is_root().then_some(Owner {
            uid: AGENT,
            gid: AGENT,
        });
        for (name, template, owner) in [
            ("none", None, None),
            ("copied", Some(template.clone()), None),
            ("given", Some(template), owner),
        ] {
            let place = HomePlace::in_folder(dir.path(), name);
            homes(template, owner).of(&place).unwrap();
            let sealed = owner.is_some();
            for (path, mode, sealed_mode) in [
                ("", 0o700, 0o1770),
                ("rules", 0o700, 0o750),
                ("rules/x", 0o644, 0o640),
                ("sessions", 0o700, 0o700),
                ("sessions/x", 0o600, 0o600),
            ] {
                let Ok(found) = dir.path().join(name).join(path).metadata() else {
                    continue;
                };
                let expected = if sealed { sealed_mode } else { mode };
                assert_eq!(found.mode() & 0o7777, expected, "{name}/{path}");
                if let Some(owner) = owner {
                    let is_agents = path.starts_with("sessions");
                    let uid = if is_agents {
                        owner.uid
                    } else {
                        geteuid().as_raw()
                    };
                    assert_eq!((found.uid(), found.gid()), (uid, owner.gid), "{path}");
                }
            }
        }
    }

    /// As if an agent had swapped the folder since it was looked at, and had
    /// left links where the worker is about to work.
    #[test]
    fn g8_a_home_is_made_in_the_folder_that_was_opened_and_over_no_link() {
        let dir = tempfile::tempdir().unwrap();
        let (above, moved) = (dir.path().join("above"), dir.path().join("moved"));
        let trap = dir.path().join("trap");
        fs::create_dir(&above).unwrap();
        fs::create_dir_all(trap.join("home~new")).unwrap();
        fs::write(trap.join("home~new/kept"), "").unwrap();
        symlink(trap.join("home~new"), above.join("home~new")).unwrap();
        let place = HomePlace::in_folder(&above, "home");
        fs::rename(&above, &moved).unwrap();
        symlink(&trap, &above).unwrap();
        homes(Some(template(dir.path())), None).of(&place).unwrap();
        assert!(moved.join("home/rules/x").is_file());
        assert!(trap.join("home~new/kept").is_file());
        assert!(!trap.join("home").exists());
    }

    #[test]
    fn what_a_worker_left_that_died_while_it_made_a_home_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let left = dir.path().join("home~new/rules/deep");
        fs::create_dir_all(&left).unwrap();
        fs::write(left.join("old"), "").unwrap();
        symlink("/etc", left.join("link")).unwrap();
        if rustix::process::geteuid().is_root() {
            chown(dir.path().join("home~new/rules"), Some(AGENT), None).unwrap();
        }
        let place = HomePlace::in_folder(dir.path(), "home");
        homes(Some(template(dir.path())), None).of(&place).unwrap();
        assert!(!dir.path().join("home/rules/deep").exists());
        assert!(!dir.path().join("home~new").exists());
        assert!(dir.path().join("home/rules/x").exists());
    }
}
