//! The workspace root.

mod nesting;
mod registration;
#[cfg(test)]
mod tests;
mod walk;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{Access, AtFlags};
use uuid::Uuid;

use super::claims::Claims;
use super::dir::{Dir, Found, Owner};
use super::error::{DiskError, Rejection, WorkspaceError};
use super::pauses::PauseFile;
use super::processes::Processes;
use super::threads::Threads;
use super::{REJECTED, STATE, file_system, id};
use crate::fault;

use nesting::root_around;

/// The variable that names the root.
const VARIABLE: &str = "TURN_WORKER_WORKSPACE_ROOT";

/// All of ours, beside the agents' directories. No workspace starts with a dot.
pub(super) const OURS: &str = ".turn-worker";
pub(super) const WORKSPACES: &str = "workspaces";
const THREADS: &str = "threads";
const PROCESSES: &str = "processes";
/// For requests without a workspace.
pub(super) const NAMELESS: &str = "rejected";

/// Which root this is. Created once, by the first process.
const ROOT_ID: &str = "root-id";
const MAX_ROOT_ID_BYTES: u64 = 64;

/// The root can't be used.
#[derive(Debug, thiserror::Error)]
pub enum RootError {
    #[error("{VARIABLE}: `{}` is not a directory that may be written to", path.display())]
    Disk {
        path: PathBuf,
        #[source]
        source: DiskError,
    },
    #[error(
        "{VARIABLE}: found root `{}` inside root `{}`, expected roots that lie apart, \
         as a directory in both would have two locks; use a directory outside of `{}`",
        inner.display(), outer.display(), outer.display()
    )]
    Nested { inner: PathBuf, outer: PathBuf },
}

#[derive(Debug, Clone)]
pub struct Root {
    id: Uuid,
    /// Canonical.
    dir: Arc<Dir>,
    ours: Arc<Dir>,
    workspaces: Arc<Dir>,
    threads: Threads,
    processes: Processes,
    rejected: Claims,
    owner: Option<Owner>,
    own_homes: bool,
}

fn root_id(ours: &Dir) -> Result<Uuid, DiskError> {
    loop {
        if let Some(bytes) = ours.read(ROOT_ID, MAX_ROOT_ID_BYTES)? {
            let text = String::from_utf8_lossy(&bytes);
            let id = text.trim().parse();
            return id.map_err(|error| ours.error("understand", ROOT_ID, io::Error::other(error)));
        }
        let new = format!("{}\n", Uuid::new_v4());
        ours.create_exclusive(ROOT_ID, new.as_bytes())?;
    }
}

impl Root {
    /// Opens the root, making it and our own directories if need be.
    pub fn open(path: &Path) -> Result<Root, RootError> {
        // Before anything is made there.
        if let Some(outer) = root_around(path) {
            let inner = path.to_owned();
            return Err(RootError::Nested { inner, outer });
        }
        Self::open_all(path).map_err(|source| RootError::Disk {
            path: path.to_owned(),
            source,
        })
    }

    fn open_all(path: &Path) -> Result<Root, DiskError> {
        if let Err(error) = std::fs::create_dir_all(path) {
            // The mount point of a file system that does not answer exists, which is not what is wrong.
            if error.kind() == io::ErrorKind::AlreadyExists {
                std::fs::metadata(path).map_err(|error| DiskError::new("look at", path, error))?;
            }
            return Err(DiskError::new("make directory", path, error));
        }
        let canonical = path
            .canonicalize()
            .map_err(|error| DiskError::new("resolve", path, error))?;
        let dir = Dir::open(&canonical)?;
        may_write(&dir)?;
        let ours = dir.make_own_dir(OURS)?;
        let workspaces = ours.make_own_dir(WORKSPACES)?;
        // If writing fails, better report it now than at each turn.
        workspaces.try_writing()?;

        let threads = ours.make_own_dir(THREADS)?;
        let processes = Processes::new(ours.make_own_dir(PROCESSES)?);
        let rejected = ours.make_own_dir(NAMELESS)?;
        for dir in [&workspaces, &threads, &rejected] {
            dir.sweep()?;
        }
        Ok(Root {
            id: root_id(&ours)?,
            workspaces: Arc::new(workspaces),
            threads: Threads::new(threads),
            processes,
            rejected: Claims::new(rejected),
            dir: Arc::new(dir),
            ours: Arc::new(ours),
            owner: None,
            own_homes: false,
        })
    }

    /// With agents of another user: what is made for them is theirs.
    #[must_use]
    pub fn with_agents_of(self, owner: Option<Owner>) -> Root {
        Root { owner, ..self }
    }

    /// With a CODEX_HOME for each workspace.
    #[must_use]
    pub fn with_own_homes(self) -> Root {
        Root {
            own_homes: true,
            ..self
        }
    }

    /// The owner of the agents' directories, if not the worker's user.
    pub fn owner(&self) -> Option<Owner> {
        self.owner
    }

    /// Canonical.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// What each workspace's own CODEX_HOME is made from, if the operator put
    /// a folder there.
    pub fn codex_home_template(&self) -> PathBuf {
        self.ours.path().join("codex-home-template")
    }

    /// The folder of the workers' records.
    pub fn records(&self) -> &Path {
        self.ours.path()
    }

    /// Tries whether records can be written where they were when the root was
    /// opened: another folder in that place would hold other locks.
    pub fn probe(&self) -> Result<(), DiskError> {
        self.in_place()?;
        // It may have been made into a root since, or be mounted there.
        if let Some(outer) = root_around(self.path()) {
            let nested = format!("it lies inside root `{}`", outer.display());
            return Err(DiskError::new("use", self.path(), io::Error::other(nested)));
        }
        may_write(&self.dir)?;
        self.workspaces.try_writing()
    }

    /// The name of the shared file system that it is on; `None` on a local one.
    pub fn shared_file_system(&self) -> Option<&'static str> {
        file_system::shared(&self.workspaces)
    }

    /// Whether the folder of the records is still the one that was there at the
    /// start: another file system may have been mounted over it.
    fn in_place(&self) -> Result<(), DiskError> {
        let path = self.workspaces.path();
        let look = |errno| DiskError::new("look at", path, errno);
        let opened = rustix::fs::fstat(&self.workspaces).map_err(look)?;
        let there = rustix::fs::lstat(path).map_err(look)?;
        if (opened.st_dev, opened.st_ino) != (there.st_dev, there.st_ino) {
            let other = io::Error::other("it is not the folder that was there at the start");
            return Err(DiskError::new("use", path, other));
        }
        Ok(())
    }

    /// Whether its file system was mounted again: the folders that this process holds open don't
    /// answer any more, and the root is there for a process that opens it now.
    pub fn is_remounted(&self) -> bool {
        // Again at last: it may have been disconnected for a moment.
        self.is_dead() && self.is_there() && self.is_dead()
    }

    fn is_dead(&self) -> bool {
        fault::lock("root.held").is_err() || rustix::fs::fstat(&self.workspaces).is_err()
    }

    fn is_there(&self) -> bool {
        let opened = Dir::open(self.path()).and_then(|dir| {
            may_write(&dir)?;
            match dir.dir(OURS)? {
                Found::Dir(ours) => ours.read(ROOT_ID, MAX_ROOT_ID_BYTES),
                Found::Missing | Found::Other(_) => Ok(None),
            }
        });
        let id = |bytes: Vec<u8>| String::from_utf8(bytes).ok()?.trim().parse().ok();
        opened.ok().flatten().and_then(id) == Some(self.id)
    }

    /// Its random id: the same for every process and under every path.
    pub fn id(&self) -> Uuid {
        self.id
    }

    /// What operators have paused.
    pub fn pauses(&self) -> PauseFile {
        PauseFile::of(&self.ours)
    }

    /// Marks it, durably, as one host's root of a pool without shared storage.
    pub fn mark_local(&self) -> Result<(), DiskError> {
        self.pauses().set_unread()
    }

    /// The locks of the processes that use it.
    pub fn processes(&self) -> &Processes {
        &self.processes
    }

    pub fn threads(&self) -> &Threads {
        &self.threads
    }

    /// Verdicts on requests that name a turn but no workspace.
    pub fn rejected(&self) -> &Claims {
        &self.rejected
    }

    /// Verdicts on requests for workspaces that can't be created: apart from all
    /// others, which may use the same turn ids.
    pub fn rejected_in(&self, id: &str) -> Result<Claims, WorkspaceError> {
        let segments = id::segments(id).map_err(|why| rejected(id, why))?;
        Ok(Claims::new(self.make_ours(&segments, REJECTED)?))
    }

    pub(super) fn ours(&self) -> &Arc<Dir> {
        &self.ours
    }

    /// The ids of all workspaces, in no order.
    pub fn ids(&self) -> Result<Vec<String>, DiskError> {
        let mut ids = Vec::new();
        let mut ahead = vec![(String::new(), Arc::clone(&self.workspaces))];
        while let Some((above, dir)) = ahead.pop() {
            for name in dir.names()? {
                if name == STATE {
                    ids.push(above.clone());
                } else if let Found::Dir(below) = dir.dir(&name)? {
                    let id = match above.as_str() {
                        "" => name,
                        above => format!("{above}/{name}"),
                    };
                    ahead.push((id, Arc::new(below)));
                }
            }
        }
        Ok(ids)
    }

    /// One of our folders for the workspace of that id.
    fn make_ours(&self, segments: &[&str], name: &str) -> Result<Dir, DiskError> {
        let mut dir = self.workspaces.make_own_dir(segments[0])?;
        for name in segments[1..].iter().copied().chain([name]) {
            dir = dir.make_own_dir(name)?;
        }
        Ok(dir)
    }
}

fn may_write(dir: &Dir) -> Result<(), DiskError> {
    let needed = Access::WRITE_OK | Access::EXEC_OK;
    rustix::fs::accessat(dir, ".", needed, AtFlags::EACCESS)
        .map_err(|errno| DiskError::new("write to", dir.path(), errno))
}

fn rejected(id: &str, why: Rejection) -> WorkspaceError {
    WorkspaceError::Rejected {
        workspace: id.to_owned(),
        why,
    }
}
