//! The workspace root, and how a workspace comes to be under it.

use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{Access, AtFlags, CWD, FileType};
use rustix::io::Errno;
use uuid::Uuid;

use super::claims::Claims;
use super::dir::{Dir, Found, Owner, PRIVATE_FILE, SHARED_DIR};
use super::error::{DiskError, Rejection, WorkspaceError};
use super::pauses::PauseFile;
use super::processes::Processes;
use super::threads::Threads;
use super::{CLAIMS, HomePlace, REJECTED, STATE, Workspace, file_system, id, lock};

/// The variable that names the root.
const VARIABLE: &str = "TURN_WORKER_WORKSPACE_ROOT";

/// All of ours, beside the agents' directories. No workspace starts with a dot.
pub(super) const OURS: &str = ".turn-worker";
pub(super) const WORKSPACES: &str = "workspaces";
const THREADS: &str = "threads";
const PROCESSES: &str = "processes";
/// For requests without a workspace.
pub(super) const NAMELESS: &str = "rejected";
/// A workspace's own CODEX_HOME, among its records or, where agents are
/// another user and must reach it, outside of them. No workspace starts so.
const CODEX_HOME: &str = "codex-home";
const CODEX_HOMES: &str = ".codex-homes";
/// Held while a new workspace is registered, by one process of all.
const REGISTRY_LOCK: &str = "registry.lock";

/// The id that a workspace was registered by. Where the file system takes `A`
/// for `a`, both are one directory, and must not be two workspaces.
const OWNER: &str = "id";
const MAX_OWNER_BYTES: u64 = 1024;

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

/// Where a walk over segments ended.
enum Walk {
    Dir(Dir),
    Missing,
    /// The path as far as walked, from where the walk started.
    Other {
        path: PathBuf,
        kind: &'static str,
    },
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
        std::fs::create_dir_all(path)
            .map_err(|error| DiskError::new("make directory", path, error))?;
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

    /// The workspace of that id. A new one is registered, durably: its
    /// directory and its state are made, unless it would lie inside another
    /// workspace or hold one. Of a known one, [`Workspace::unusable`] returns
    /// whether its directory still is one.
    pub fn workspace(&self, id: &str) -> Result<Workspace, WorkspaceError> {
        let rejected = |why| rejected(id, why);
        let segments = id::segments(id).map_err(rejected)?;
        self.in_place()?;
        let state = match self.find_state(&segments)? {
            Some(state) => state,
            None => self.register(id, &segments)?,
        };
        if let Some(owner) = state.read(OWNER, MAX_OWNER_BYTES)?
            && owner != id.as_bytes()
        {
            let other = String::from_utf8_lossy(&owner).into_owned();
            return Err(rejected(Rejection::Spelling { other }));
        }
        let claims = match state.dir(CLAIMS)? {
            Found::Dir(claims) => claims,
            _ => state.make_own_dir(CLAIMS)?,
        };
        let state = Arc::new(state);
        let home = usable(self.place_of_home(id, &segments, &state))?;
        let dir = usable(self.agent_dir(id, &segments))?;
        Ok(Workspace {
            id: id.to_owned(),
            root_id: self.id,
            dir: dir.and_then(|dir| home.as_ref().map(|_| dir).map_err(Clone::clone)),
            home,
            path: self.path().join(id),
            state,
            claims: Claims::new(claims),
            owner: self.owner,
        })
    }

    /// The state of a workspace with a registration that is complete and durable:
    /// the lock file comes last.
    fn find_state(&self, segments: &[&str]) -> Result<Option<Dir>, DiskError> {
        let path: Vec<&str> = segments.iter().copied().chain([STATE]).collect();
        match walk(&self.workspaces, &path)? {
            Walk::Dir(state) => Ok(state.stat(lock::LOCK)?.is_some().then_some(state)),
            Walk::Missing => Ok(None),
            Walk::Other { path, kind } => {
                let path = self.workspaces.path().join(path);
                Err(DiskError::not_a_directory(&path, kind))
            }
        }
    }

    fn register(&self, id: &str, segments: &[&str]) -> Result<Dir, WorkspaceError> {
        // If it is on a file system that hangs, then here, and not with the lock
        // that every other new workspace needs, too.
        let _ = walk(&self.dir, segments);
        let registry = self.ours.make_file(REGISTRY_LOCK)?;
        registry
            .lock()
            .map_err(|error| self.ours.error("lock", REGISTRY_LOCK, error))?;
        self.must_not_nest(id, segments)?;
        self.must_not_be_in_another_root(id, segments)?;
        self.agent_dir(id, segments)?;
        let state = self.make_ours(segments, STATE)?;
        state.make_own_dir(CLAIMS)?;
        state.write_atomic(OWNER, id.as_bytes(), PRIVATE_FILE)?;
        state.make_file(lock::LOCK)?;
        state.sync()?;
        Ok(state)
    }

    /// One of our folders for the workspace of that id.
    fn make_ours(&self, segments: &[&str], name: &str) -> Result<Dir, DiskError> {
        let mut dir = self.workspaces.make_own_dir(segments[0])?;
        for name in segments[1..].iter().copied().chain([name]) {
            dir = dir.make_own_dir(name)?;
        }
        Ok(dir)
    }

    /// Under the registry's lock.
    fn must_not_nest(&self, id: &str, segments: &[&str]) -> Result<(), WorkspaceError> {
        for depth in 1..segments.len() {
            let path: Vec<&str> = segments[..depth].iter().copied().chain([STATE]).collect();
            if let Walk::Dir(_) = walk(&self.workspaces, &path)? {
                let other = segments[..depth].join("/");
                return Err(rejected(id, Rejection::Inside { other }));
            }
        }
        if let Walk::Dir(own) = walk(&self.workspaces, segments)?
            && let Some(below) = workspace_below(&own)?
        {
            let other = format!("{id}/{below}");
            return Err(rejected(id, Rejection::Holds { other }));
        }
        Ok(())
    }

    /// A root that was there before this one. Only of a new workspace: what
    /// agents make in theirs later has no meaning, and no root opens in this one.
    fn must_not_be_in_another_root(
        &self,
        id: &str,
        segments: &[&str],
    ) -> Result<(), WorkspaceError> {
        let mut path = PathBuf::new();
        let mut inner = None;
        steps(segments, |dir, name| {
            path.push(name);
            let found = dir.unwrap_or(&self.dir).dir(name)?;
            if matches!(&found, Found::Dir(dir) if is_root(dir, Path::new(""))) {
                inner.get_or_insert_with(|| path.clone());
            }
            Ok(found)
        })?;
        match inner {
            Some(path) => Err(rejected(id, Rejection::OtherRoot { path })),
            None => Ok(()),
        }
    }

    /// The agent's directory, made if it is missing: also if it was
    /// removed since.
    fn agent_dir(&self, id: &str, segments: &[&str]) -> Result<Dir, WorkspaceError> {
        let found = match walk(&self.dir, segments)? {
            Walk::Missing => self.make_agent_dir(segments)?,
            found => found,
        };
        match found {
            Walk::Dir(dir) => {
                if let Some(owner) = self.owner {
                    dir.give_if_new(owner)?;
                }
                Ok(dir)
            }
            Walk::Other { path, kind } => {
                Err(rejected(id, Rejection::NotADirectory { path, found: kind }))
            }
            Walk::Missing => {
                let error = io::Error::from(io::ErrorKind::NotFound);
                let path = self.path().join(id);
                Err(DiskError::new("open directory", &path, error).into())
            }
        }
    }

    /// The folders above a home that is to be the agents': made, and seen to be
    /// such that no agent can put anything else in the place of that home.
    fn place_of_home(
        &self,
        id: &str,
        segments: &[&str],
        state: &Arc<Dir>,
    ) -> Result<HomePlace, WorkspaceError> {
        let (Some(_), true, [above @ .., last]) = (self.owner, self.own_homes, segments) else {
            return Ok(HomePlace {
                above: Arc::clone(state),
                name: CODEX_HOME.to_owned(),
            });
        };
        let way: Vec<&str> = [CODEX_HOMES].iter().chain(above).copied().collect();
        let mut path = PathBuf::new();
        let found = steps(&way, |dir, name| {
            path.push(name);
            Ok(match dir.unwrap_or(&self.dir).make_corridor(name)? {
                Found::Dir(dir) if !dir.is_ours_alone()? => Found::Other("another user's folder"),
                found => found,
            })
        })?;
        match found {
            Walk::Dir(dir) => Ok(HomePlace {
                above: Arc::new(dir),
                name: (*last).to_owned(),
            }),
            Walk::Missing => {
                let error = io::Error::from(io::ErrorKind::NotFound);
                Err(DiskError::new("open directory", &self.path().join(path), error).into())
            }
            Walk::Other { path, kind } => {
                Err(rejected(id, Rejection::WayToHome { path, found: kind }))
            }
        }
    }

    /// Makes what is missing, and makes every step durable.
    fn make_agent_dir(&self, segments: &[&str]) -> Result<Walk, DiskError> {
        let mut left = segments.len();
        steps(segments, |dir, name| {
            left -= 1;
            let dir = dir.unwrap_or(&self.dir);
            if self.owner.is_some() && left > 0 {
                dir.make_passage(name)
            } else {
                dir.make_dir(name, SHARED_DIR)
            }
        })
    }
}

/// Whether the directory is the workspace root of any pool. Another user's
/// records cannot be read, but count.
fn is_root(at: impl AsFd, path: &Path) -> bool {
    let kind = |path: &Path| -> rustix::io::Result<FileType> {
        let stat = rustix::fs::statat(&at, path, AtFlags::SYMLINK_NOFOLLOW)?;
        Ok(FileType::from_raw_mode(stat.st_mode))
    };
    let ours = path.join(OURS);
    kind(&ours) == Ok(FileType::Directory)
        && matches!(
            kind(&ours.join(WORKSPACES)),
            Ok(FileType::Directory) | Err(Errno::ACCESS)
        )
}

/// The root in which `path` lies, or would lie.
fn root_around(path: &Path) -> Option<PathBuf> {
    let path = std::path::absolute(path).ok()?;
    // Only what is there can be a symbolic link.
    let there = path
        .ancestors()
        .find_map(|above| above.canonicalize().ok())?;
    let itself = path.canonicalize().is_ok();
    let mut around = there.ancestors().skip(itself.into());
    let found = around.find(|above| is_root(CWD, above))?;
    Some(found.to_owned())
}

fn may_write(dir: &Dir) -> Result<(), DiskError> {
    let needed = Access::WRITE_OK | Access::EXEC_OK;
    rustix::fs::accessat(dir, ".", needed, AtFlags::EACCESS)
        .map_err(|errno| DiskError::new("write to", dir.path(), errno))
}

/// A rejection is one of the answers: the records can be read all the same.
fn usable<T>(found: Result<T, WorkspaceError>) -> Result<Result<T, Rejection>, WorkspaceError> {
    match found {
        Err(WorkspaceError::Rejected { why, .. }) => Ok(Err(why)),
        found => found.map(Ok),
    }
}

fn rejected(id: &str, why: Rejection) -> WorkspaceError {
    WorkspaceError::Rejected {
        workspace: id.to_owned(),
        why,
    }
}

fn walk(from: &Dir, segments: &[&str]) -> Result<Walk, DiskError> {
    steps(segments, |dir, name| dir.unwrap_or(from).dir(name))
}

fn steps(
    segments: &[&str],
    mut step: impl FnMut(Option<&Dir>, &str) -> Result<Found, DiskError>,
) -> Result<Walk, DiskError> {
    let mut dir: Option<Dir> = None;
    for (depth, name) in segments.iter().enumerate() {
        match step(dir.as_ref(), name)? {
            Found::Dir(next) => dir = Some(next),
            Found::Missing => return Ok(Walk::Missing),
            Found::Other(kind) => {
                let path = segments[..=depth].iter().collect();
                return Ok(Walk::Other { path, kind });
            }
        }
    }
    Ok(dir.map_or(Walk::Missing, Walk::Dir))
}

/// A registered workspace in the folders below one of the state tree. Folders
/// that a registration left when it died don't hold a workspace.
fn workspace_below(dir: &Dir) -> Result<Option<String>, DiskError> {
    for name in dir.names()? {
        if [STATE, REJECTED].contains(&name.as_str()) {
            continue;
        }
        if let Found::Dir(below) = dir.dir(&name)? {
            if matches!(below.dir(STATE)?, Found::Dir(_)) {
                return Ok(Some(name));
            }
            if let Some(deeper) = workspace_below(&below)? {
                return Ok(Some(format!("{name}/{deeper}")));
            }
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workspace::dir::kept;
    use crate::workspace::testing::{root, run_claim};
    use std::os::unix::fs::{PermissionsExt, symlink};

    fn rejection(root: &Root, id: &str) -> Rejection {
        let unusable = |workspace: Workspace| workspace.unusable();
        match root.workspace(id).map(unusable) {
            Err(WorkspaceError::Rejected { why, .. })
            | Ok(Some(WorkspaceError::Rejected { why, .. })) => why,
            other => panic!("{id}: {other:?}"),
        }
    }

    fn mode(path: &Path) -> u32 {
        std::fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn a_new_workspace_has_a_directory_and_private_state() {
        let (_tmp, root) = root();
        let workspace = root.workspace("acme/website").unwrap();
        assert_eq!(workspace.dir(), root.path().join("acme/website"));
        assert!(workspace.dir().is_dir());
        let state = root
            .path()
            .join(".turn-worker/workspaces/acme/website/.state");
        assert_eq!(workspace.state_dir(), state);
        assert_eq!(mode(&root.path().join(OURS)), 0o700);
        assert_eq!(mode(&state), 0o700);
        assert_eq!(mode(&state.join("claims")), 0o700);
        assert_eq!(mode(&state.join("lock")), 0o600);
    }

    #[test]
    fn opening_a_known_workspace_waits_for_no_disk_and_no_registry() {
        let (_tmp, root) = root();
        root.workspace("a/b").unwrap();
        let registry = root.ours.make_file(REGISTRY_LOCK).unwrap();
        registry.lock().unwrap();
        crate::workspace::durable::syncs::take();
        root.workspace("a/b").unwrap();
        assert_eq!(crate::workspace::durable::syncs::take(), 0);
    }

    /// One file for each conversation that there ever was.
    #[test]
    fn g10_opening_a_root_keeps_no_threads_in_memory() {
        let (tmp, root) = root();
        for _ in 0..2_000 {
            let thread = Uuid::new_v4().to_string();
            std::fs::write(root.ours.path().join(THREADS).join(thread), "a").unwrap();
        }
        kept::take();
        assert_eq!(root.threads.names().unwrap().len(), 2_000);
        assert_eq!(kept::take(), 2_000, "nothing is counted");
        Root::open(&tmp.path().join("root")).unwrap();
        assert_eq!(kept::take(), 0);
    }

    #[test]
    fn g3_a_root_inside_a_root_is_refused() {
        let (_tmp, outer) = root();
        for inner in ["a", "a/b/c"] {
            let inner = outer.path().join(inner);
            let error = Root::open(&inner).unwrap_err();
            assert!(matches!(error, RootError::Nested { .. }), "{error}");
            let text = error.to_string();
            for path in [&inner, outer.path()] {
                assert!(text.contains(path.to_str().unwrap()), "{text}");
            }
            assert!(!inner.exists(), "nothing was made");
        }
        // Also over a link, and where the directory is there.
        outer.workspace("w").unwrap();
        let link = outer.path().with_file_name("link");
        symlink(outer.path().join("w"), &link).unwrap();
        Root::open(&link).unwrap_err();
        // The same root again is no other.
        Root::open(outer.path()).unwrap();
    }

    #[test]
    fn g3_a_root_around_a_root_leaves_it_alone() {
        let tmp = tempfile::tempdir().unwrap();
        let around = tmp.path().join("root");
        let inner = Root::open(&around.join("team")).unwrap();
        inner.workspace("w").unwrap();
        inner.probe().unwrap();
        let outer = Root::open(&around).unwrap();
        let path = PathBuf::from("team");
        for id in ["team", "team/w", "team/new/w"] {
            let why = rejection(&outer, id);
            assert_eq!(why, Rejection::OtherRoot { path: path.clone() }, "{id}");
        }
        // What an agent makes in its own workspace is no root.
        let known = outer.workspace("other/w").unwrap();
        std::fs::create_dir_all(known.dir().join(OURS).join(WORKSPACES)).unwrap();
        assert!(outer.workspace("other/w").unwrap().unusable().is_none());
        // The inner one finds out, too.
        let found = crate::error::with_sources(&inner.probe().unwrap_err());
        assert!(found.contains("inside root"), "{found}");
        Root::open(inner.path()).unwrap_err();
    }

    #[test]
    fn g4_no_workspace_is_opened_where_another_file_system_was_mounted() {
        let (_tmp, root) = root();
        root.workspace("a").unwrap();
        // As if: a test can't mount.
        let hidden = root.path().with_file_name("hidden");
        std::fs::rename(root.path(), &hidden).unwrap();
        for covered in [false, true] {
            if covered {
                std::fs::create_dir_all(root.workspaces.path()).unwrap();
            }
            for id in ["a", "new"] {
                let opened = root.workspace(id);
                assert!(matches!(opened, Err(WorkspaceError::Io(_))), "{opened:?}");
            }
        }
        assert!(!hidden.join("new").exists());
    }

    #[test]
    fn g3_no_workspace_lies_inside_another() {
        let (_tmp, root) = root();
        root.workspace("a/b").unwrap();
        for id in ["a/b/c", "a/b/c/d"] {
            let other = "a/b".to_owned();
            assert_eq!(rejection(&root, id), Rejection::Inside { other });
        }
        let other = "a/b".to_owned();
        assert_eq!(rejection(&root, "a"), Rejection::Holds { other });
        assert!(!root.path().join("a/b/c").exists());
        for id in ["a/c", "a/bb", "b"] {
            root.workspace(id).unwrap();
        }
    }

    #[test]
    fn g3_of_nesting_workspaces_registered_at_once_one_comes_to_be() {
        for _ in 0..20 {
            let (_tmp, root) = root();
            let made: usize = std::thread::scope(|scope| {
                let racers = ["a", "a/b", "a/b/c"].map(|id| {
                    let root = &root;
                    scope.spawn(move || usize::from(root.workspace(id).is_ok()))
                });
                racers.into_iter().map(|r| r.join().unwrap()).sum()
            });
            assert_eq!(made, 1);
        }
    }

    #[test]
    fn a_registration_that_died_is_completed_and_blocks_no_other() {
        let (_tmp, root) = root();
        std::fs::create_dir_all(root.workspaces.path().join("a/b/c")).unwrap();
        root.workspace("a").unwrap();
        std::fs::create_dir_all(root.workspaces.path().join("x/y/.state")).unwrap();
        let other = "x/y".to_owned();
        assert_eq!(rejection(&root, "x"), Rejection::Holds { other });
        let workspace = root.workspace("x/y").unwrap();
        assert!(workspace.try_lock().is_ok());
    }

    /// As a file system shows it that does not distinguish the cases.
    #[test]
    fn g3_two_spellings_of_one_directory_are_not_two_workspaces() {
        let (_tmp, root) = root();
        root.workspace("acme/site").unwrap();
        let rename = |from: &str, to: &str| {
            let ours = root.workspaces.path();
            std::fs::rename(ours.join(from), ours.join(to)).unwrap();
        };
        rename("acme", "Acme");
        let other = "acme/site".to_owned();
        assert_eq!(rejection(&root, "Acme/site"), Rejection::Spelling { other });
        rename("Acme", "acme");
        root.workspace("acme/site").unwrap();
    }

    #[test]
    fn a_workspace_registered_before_ids_were_kept_is_known_still() {
        let (_tmp, root) = root();
        let state = root.workspace("a").unwrap().state_dir().to_owned();
        std::fs::remove_file(state.join(OWNER)).unwrap();
        root.workspace("a").unwrap();
    }

    #[test]
    fn a_removed_directory_is_made_again() {
        let (_tmp, root) = root();
        let workspace = root.workspace("a/b").unwrap();
        std::fs::remove_dir_all(root.path().join("a")).unwrap();
        root.workspace("a/b").unwrap();
        assert!(workspace.dir().is_dir());
    }

    #[test]
    fn g8_no_id_leads_out_of_the_root() {
        let (_tmp, root) = root();
        for id in [
            "",
            "/etc",
            "..",
            "a/../..",
            "../x",
            ".turn-worker",
            "a/.state",
        ] {
            rejection(&root, id);
        }
    }

    #[test]
    fn g8_no_segment_may_be_a_symlink_or_a_file() {
        let (tmp, root) = root();
        let outside = tmp.path().join("outside");
        std::fs::create_dir_all(outside.join("b/c")).unwrap();
        for known in [false, true] {
            for (at, id) in [
                ("s", "s"),
                ("t", "t/b/c"),
                ("u/b", "u/b/c"),
                ("v/w/c", "v/w/c"),
            ] {
                if known {
                    let _ = std::fs::remove_file(root.path().join(at));
                    root.workspace(id).unwrap();
                    std::fs::remove_dir_all(root.path().join(at)).unwrap();
                }
                let at = root.path().join(at);
                std::fs::create_dir_all(at.parent().unwrap()).unwrap();
                let _ = std::fs::remove_file(&at);
                symlink(&outside, &at).unwrap();
                let why = rejection(&root, id);
                assert!(
                    matches!(why, Rejection::NotADirectory { found, .. } if found == "a symbolic link"),
                    "{id}: {why}"
                );
                std::fs::remove_file(&at).unwrap();
                std::fs::write(&at, "").unwrap();
                let why = rejection(&root, id);
                assert!(
                    matches!(why, Rejection::NotADirectory { found, .. } if found == "a file"),
                    "{id}: {why}"
                );
            }
        }
        assert!(!outside.join("b/c/d").exists());
        assert_eq!(std::fs::read_dir(outside.join("b/c")).unwrap().count(), 0);
    }

    #[test]
    fn g5_verdicts_on_workspaces_that_can_not_be_are_kept_apart() {
        let (_tmp, root) = root();
        root.workspace("a").unwrap();
        for id in ["a/b", "a/c", "a"] {
            let claims = root.rejected_in(id).unwrap();
            assert_eq!(claims.find("t").unwrap(), None, "{id}");
            claims.claim("t", &run_claim()).unwrap();
            assert!(root.rejected_in(id).unwrap().find("t").unwrap().is_some());
        }
        assert_eq!(root.rejected().find("t").unwrap(), None);
        assert_eq!(
            root.workspace("a").unwrap().claims().find("t").unwrap(),
            None
        );
        // Nor does it count as a workspace.
        root.rejected_in("x/y").unwrap();
        root.workspace("x").unwrap();
    }

    #[test]
    fn g8_our_own_folders_are_not_reached_over_symlinks_either() {
        let (tmp, root) = root();
        let outside = tmp.path().join("outside");
        std::fs::create_dir_all(&outside).unwrap();
        symlink(&outside, root.workspaces.path().join("a")).unwrap();
        // Not the request's fault, and so no verdict on it.
        for id in ["a", "a/b"] {
            assert!(matches!(root.workspace(id), Err(WorkspaceError::Io(_))));
        }
        assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0);

        let other = tmp.path().join("other");
        std::fs::create_dir(&other).unwrap();
        symlink(&outside, other.join(OURS)).unwrap();
        assert!(Root::open(&other).is_err());
        assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0);
    }

    #[test]
    fn the_root_itself_may_be_reached_over_a_symlink() {
        let (tmp, root) = root();
        let link = tmp.path().join("link");
        symlink(root.path(), &link).unwrap();
        assert_eq!(Root::open(&link).unwrap().path(), root.path());
    }

    #[test]
    fn g4_a_root_that_can_be_written_to_passes_and_keeps_no_trace() {
        let (_tmp, root) = root();
        root.probe().unwrap();
        assert!(root.workspaces.names().unwrap().is_empty());
    }

    #[test]
    fn g4_a_root_with_replaced_folders_fails_until_they_are_back() {
        let (tmp, root) = root();
        let (ours, aside) = (root.ours.path().to_owned(), tmp.path().join("aside"));
        std::fs::rename(&ours, &aside).unwrap();
        let replaced: [&dyn Fn(); 4] = [
            &|| {},
            &|| std::fs::write(&ours, "").unwrap(),
            &|| symlink("/nowhere", &ours).unwrap(),
            &|| std::fs::create_dir_all(ours.join(WORKSPACES)).unwrap(),
        ];
        for replace in replaced {
            replace();
            let error = root.probe().unwrap_err();
            assert!(error.path.starts_with(&ours), "{error}");
            let _ = std::fs::remove_file(&ours);
            let _ = std::fs::remove_dir_all(&ours);
        }
        std::fs::rename(&aside, &ours).unwrap();
        root.probe().unwrap();
    }

    #[test]
    fn a_root_that_is_no_directory_names_path_and_variable() {
        let (tmp, _) = root();
        let file = tmp.path().join("file");
        std::fs::write(&file, "").unwrap();
        let error = Root::open(&file).unwrap_err().to_string();
        assert!(error.contains(VARIABLE), "{error}");
        assert!(error.contains(&file.display().to_string()), "{error}");
    }
}
