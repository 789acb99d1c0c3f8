//! How a workspace comes to be under the root.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::nesting::is_root;
use super::walk::{Walk, steps, walk, workspace_below};
use super::{Root, rejected};
use crate::workspace::claims::Claims;
use crate::workspace::dir::{Dir, Found, PRIVATE_FILE, SHARED_DIR};
use crate::workspace::error::{DiskError, Rejection, WorkspaceError};
use crate::workspace::{CLAIMS, HomePlace, STATE, Workspace, id, lock};

/// A workspace's own CODEX_HOME, among its records or, where agents are
/// another user and must reach it, outside of them. No workspace starts so.
const CODEX_HOME: &str = "codex-home";
const CODEX_HOMES: &str = ".codex-homes";
/// Held while a new workspace is registered, by one process of all.
pub(super) const REGISTRY_LOCK: &str = "registry.lock";

/// The id that a workspace was registered by. Where the file system takes `A`
/// for `a`, both are one directory, and must not be two workspaces.
pub(super) const OWNER: &str = "id";
const MAX_OWNER_BYTES: u64 = 1024;

impl Root {
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

/// A rejection is one of the answers: the records can be read all the same.
fn usable<T>(found: Result<T, WorkspaceError>) -> Result<Result<T, Rejection>, WorkspaceError> {
    match found {
        Err(WorkspaceError::Rejected { why, .. }) => Ok(Err(why)),
        found => found.map(Ok),
    }
}
