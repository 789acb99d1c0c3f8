//! What operators have paused: the whole pool, workspaces, or tenants. Kept in one file
//! of the root, so it outlives all processes, and all of them see it.

use std::path::Path;
use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::dir::{Dir, PRIVATE_FILE};
use super::error::{DiskError, StateError};
use super::root::OURS;
use super::{id, line};

const PAUSED: &str = "paused";
/// Its presence marks a root of a pool without shared storage.
const LOCAL: &str = "local";
const PAUSED_LOCK: &str = "paused.lock";
const MAX_BYTES: u64 = 1 << 20;

/// How many may be paused at once.
pub const MAX_PAUSES: usize = 1_000;

/// What is paused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PauseScope {
    Pool,
    /// A workspace and all below it (`acme` is `acme`, too, and `acme/website`).
    Workspace(String),
    /// See [`crate::tenants`].
    Tenant(String),
}

impl PauseScope {
    fn holds(&self, workspace: &str, tenant: Option<&str>) -> bool {
        match self {
            Self::Pool => true,
            Self::Workspace(paused) => {
                let below = workspace.strip_prefix(&**paused);
                below.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            }
            Self::Tenant(paused) => tenant == Some(paused),
        }
    }
}

impl std::fmt::Display for PauseScope {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Pool => f.write_str("the pool"),
            Self::Workspace(workspace) => write!(f, "workspace {workspace}"),
            Self::Tenant(tenant) => write!(f, "tenant {tenant}"),
        }
    }
}

/// Something that is paused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pause {
    pub scope: PauseScope,
    pub since: Timestamp,
    /// The process of the command that set it.
    pub by: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl std::fmt::Display for Pause {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let since = Timestamp::from_second(self.since.as_second()).unwrap_or(self.since);
        write!(f, "{} is paused since {since}", self.scope)?;
        match &self.reason {
            Some(reason) => write!(f, " ({reason})"),
            None => Ok(()),
        }
    }
}

/// All that is paused.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pauses {
    pub pauses: Vec<Pause>,
}

impl Pauses {
    /// Why no turn of that workspace and tenant may start; `None` if it may.
    pub fn of(&self, workspace: &str, tenant: Option<&str>) -> Option<&Pause> {
        let mut pauses = self.pauses.iter();
        pauses.find(|pause| pause.scope.holds(workspace, tenant))
    }

    /// Whether the whole pool is paused.
    pub fn of_pool(&self) -> Option<&Pause> {
        let mut pauses = self.pauses.iter();
        pauses.find(|pause| pause.scope == PauseScope::Pool)
    }

    pub fn is_empty(&self) -> bool {
        self.pauses.is_empty()
    }

    /// For people; `None` if not paused.
    pub fn in_words(&self) -> Option<String> {
        let all = || self.pauses.iter();
        let first = self.of_pool().or_else(|| all().next())?;
        let more = match all().count() - 1 {
            0 => String::new(),
            more => format!(", and {more} more"),
        };
        Some(format!("{first}{more}; `turn-worker resume` ends it"))
    }
}

/// The file. Clones are the same.
#[derive(Debug, Clone)]
pub struct PauseFile(Arc<Dir>);

impl PauseFile {
    /// Fails if there is no workspace root of a pool at `root`.
    pub fn open(root: &Path) -> Result<Self, DiskError> {
        Dir::open(&root.join(OURS)).map(|ours| Self(Arc::new(ours)))
    }

    pub(super) fn of(ours: &Arc<Dir>) -> Self {
        Self(Arc::clone(ours))
    }

    /// Whether the root is one host's of a pool without shared storage, which does not
    /// read the file: see [`crate::homes`].
    pub fn is_unread(&self) -> Result<bool, DiskError> {
        Ok(self.0.stat(LOCAL)?.is_some())
    }

    pub(super) fn set_unread(&self) -> Result<(), DiskError> {
        self.0.create_exclusive(LOCAL, b"\n").map(drop)
    }

    pub fn read(&self) -> Result<Pauses, StateError> {
        let Some(bytes) = self.0.read(PAUSED, MAX_BYTES)? else {
            return Ok(Pauses::default());
        };
        line::decode(&bytes)
            .map_err(|why| StateError::unreadable(&self.0.path().join(PAUSED), 0, why))
    }

    /// Adds a pause, or replaces that of the same scope. False if there are too many.
    pub fn pause(&self, pause: Pause) -> Result<bool, StateError> {
        self.change(|all| {
            all.retain(|other| other.scope != pause.scope);
            let has_room = all.len() < MAX_PAUSES;
            if has_room {
                all.push(pause);
            }
            has_room
        })
    }

    /// Ends the pause of that scope. False if there is no pause.
    pub fn resume(&self, scope: &PauseScope) -> Result<bool, StateError> {
        self.change(|all| {
            let before = all.len();
            all.retain(|pause| pause.scope != *scope);
            all.len() < before
        })
    }

    /// Ends all pauses, also where the file can't be read.
    pub fn resume_all(&self) -> Result<(), StateError> {
        let _alone = self.alone()?;
        self.0.remove(PAUSED)?;
        Ok(self.0.sync()?)
    }

    fn change(&self, change: impl FnOnce(&mut Vec<Pause>) -> bool) -> Result<bool, StateError> {
        let _alone = self.alone()?;
        let mut pauses = self.read()?;
        let changed = change(&mut pauses.pauses);
        if changed {
            self.0
                .write_atomic(PAUSED, &line::encode(&pauses), PRIVATE_FILE)?;
        }
        Ok(changed)
    }

    fn alone(&self) -> Result<std::fs::File, DiskError> {
        let lock = self.0.make_file(PAUSED_LOCK)?;
        lock.lock()
            .map_err(|error| self.0.error("lock", PAUSED_LOCK, error))?;
        Ok(lock)
    }
}

/// Whether a workspace can be paused by that name.
pub fn can_be_paused(workspace: &str) -> bool {
    id::segments(workspace).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workspace::testing::{root, time};

    fn pause(scope: PauseScope) -> Pause {
        Pause {
            scope,
            since: time(),
            by: "host-1".to_owned(),
            reason: Some("a fix".to_owned()),
        }
    }

    fn workspace(name: &str) -> PauseScope {
        PauseScope::Workspace(name.to_owned())
    }

    #[test]
    fn a_pause_holds_for_a_workspace_and_all_below_it() {
        let all = Pauses {
            pauses: vec![pause(workspace("acme"))],
        };
        for (workspace, holds) in [
            ("acme", true),
            ("acme/website", true),
            ("acme-2", false),
            ("other", false),
        ] {
            assert_eq!(
                all.of(workspace, Some("acme")).is_some(),
                holds,
                "{workspace}"
            );
        }
        let pool = Pauses {
            pauses: vec![pause(PauseScope::Pool)],
        };
        assert!(pool.of("any", None).is_some() && all.of_pool().is_none());
        assert_eq!(
            pool.in_words().unwrap(),
            "the pool is paused since 2023-11-14T22:13:20Z (a fix); `turn-worker resume` ends it"
        );
    }

    #[test]
    fn a_tenants_pause_holds_for_its_turns_in_any_workspace() {
        let all = Pauses {
            pauses: vec![pause(PauseScope::Tenant("acme".to_owned()))],
        };
        for (tenant, holds) in [(Some("acme"), true), (Some("acme-2"), false), (None, false)] {
            assert_eq!(
                all.of("acme/website", tenant).is_some(),
                holds,
                "{tenant:?}"
            );
        }
        let words = all.in_words().unwrap();
        assert!(words.starts_with("tenant acme is paused since"), "{words}");
    }

    #[test]
    fn pauses_outlive_their_process_and_are_bounded() {
        let (tmp, root) = root();
        let path = tmp.path().join("root");
        let file = PauseFile::open(&path).unwrap();
        assert_eq!(root.pauses().read().unwrap(), Pauses::default());
        assert!(file.pause(pause(PauseScope::Pool)).unwrap());
        assert!(file.pause(pause(workspace("acme"))).unwrap());
        assert!(file.pause(pause(workspace("acme"))).unwrap());
        assert_eq!(root.pauses().read().unwrap().pauses.len(), 2);
        assert!(file.resume(&PauseScope::Pool).unwrap());
        assert!(!file.resume(&PauseScope::Pool).unwrap());
        assert!(root.pauses().read().unwrap().of("other", None).is_none());
        let many = (0..MAX_PAUSES).map(|n| pause(workspace(&format!("w{n}"))));
        let many = Pauses {
            pauses: many.collect(),
        };
        file.0
            .write_atomic(PAUSED, &line::encode(&many), PRIVATE_FILE)
            .unwrap();
        assert!(!file.pause(pause(PauseScope::Pool)).unwrap());
        std::fs::write(path.join(OURS).join(PAUSED), "damaged").unwrap();
        assert!(file.read().is_err() && file.pause(pause(PauseScope::Pool)).is_err());
        file.resume_all().unwrap();
        assert!(root.pauses().read().unwrap().is_empty());
    }
}
