//! What operators have paused: the whole pool, or workspaces. Kept in one file
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
const PAUSED_LOCK: &str = "paused.lock";
const MAX_BYTES: u64 = 1 << 20;

/// How many may be paused at once.
pub const MAX_PAUSES: usize = 1_000;

/// Something that is paused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pause {
    /// A workspace and all below it (`acme` is `acme`, too, and `acme/website`);
    /// `None`: the whole pool.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workspace: Option<String>,
    pub since: Timestamp,
    /// The process of the command that set it.
    pub by: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl Pause {
    fn holds(&self, workspace: &str) -> bool {
        let Some(paused) = self.workspace.as_deref() else {
            return true;
        };
        let below = workspace.strip_prefix(paused);
        below.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }
}

impl std::fmt::Display for Pause {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let since = Timestamp::from_second(self.since.as_second()).unwrap_or(self.since);
        match &self.workspace {
            Some(workspace) => write!(f, "{workspace} is paused since {since}")?,
            None => write!(f, "the pool is paused since {since}")?,
        }
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
    /// Why no turn of that workspace may start; `None` if it may.
    pub fn of(&self, workspace: &str) -> Option<&Pause> {
        self.pauses.iter().find(|pause| pause.holds(workspace))
    }

    /// Whether the whole pool is paused.
    pub fn of_pool(&self) -> Option<&Pause> {
        self.pauses.iter().find(|pause| pause.workspace.is_none())
    }

    pub fn is_empty(&self) -> bool {
        self.pauses.is_empty()
    }

    /// For people; `None` if nothing is paused.
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

    pub fn read(&self) -> Result<Pauses, StateError> {
        let Some(bytes) = self.0.read(PAUSED, MAX_BYTES)? else {
            return Ok(Pauses::default());
        };
        line::decode(&bytes)
            .map_err(|why| StateError::unreadable(&self.0.path().join(PAUSED), 0, why))
    }

    /// Adds a pause, or replaces that of the same workspace. False if there are too many.
    pub fn pause(&self, pause: Pause) -> Result<bool, StateError> {
        self.change(|all| {
            all.retain(|other| other.workspace != pause.workspace);
            let has_room = all.len() < MAX_PAUSES;
            if has_room {
                all.push(pause);
            }
            has_room
        })
    }

    /// Ends the pause of that workspace, or of the pool. False if there is none.
    pub fn resume(&self, workspace: Option<&str>) -> Result<bool, StateError> {
        self.change(|all| {
            let before = all.len();
            all.retain(|pause| pause.workspace.as_deref() != workspace);
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

    fn pause(workspace: Option<&str>) -> Pause {
        Pause {
            workspace: workspace.map(str::to_owned),
            since: time(),
            by: "host-1".to_owned(),
            reason: Some("a fix".to_owned()),
        }
    }

    #[test]
    fn a_pause_holds_for_a_workspace_and_all_below_it() {
        let all = Pauses {
            pauses: vec![pause(Some("acme"))],
        };
        for (workspace, holds) in [
            ("acme", true),
            ("acme/website", true),
            ("acme-2", false),
            ("other", false),
        ] {
            assert_eq!(all.of(workspace).is_some(), holds, "{workspace}");
        }
        let pool = Pauses {
            pauses: vec![pause(None)],
        };
        assert!(pool.of("any").is_some() && all.of_pool().is_none());
        assert_eq!(
            pool.in_words().unwrap(),
            "the pool is paused since 2023-11-14T22:13:20Z (a fix); `turn-worker resume` ends it"
        );
    }

    #[test]
    fn pauses_outlive_whoever_sets_them_and_are_bounded() {
        let (tmp, root) = root();
        let path = tmp.path().join("root");
        let file = PauseFile::open(&path).unwrap();
        assert_eq!(root.pauses().read().unwrap(), Pauses::default());
        assert!(file.pause(pause(None)).unwrap());
        assert!(file.pause(pause(Some("acme"))).unwrap());
        assert!(file.pause(pause(Some("acme"))).unwrap());
        assert_eq!(root.pauses().read().unwrap().pauses.len(), 2);
        assert!(file.resume(None).unwrap());
        assert!(!file.resume(None).unwrap());
        assert!(root.pauses().read().unwrap().of("other").is_none());
        let many = (0..MAX_PAUSES).map(|n| pause(Some(&format!("w{n}"))));
        let many = Pauses {
            pauses: many.collect(),
        };
        file.0
            .write_atomic(PAUSED, &line::encode(&many), PRIVATE_FILE)
            .unwrap();
        assert!(!file.pause(pause(None)).unwrap());
        std::fs::write(path.join(OURS).join(PAUSED), "damaged").unwrap();
        assert!(file.read().is_err() && file.pause(pause(None)).is_err());
        file.resume_all().unwrap();
        assert!(root.pauses().read().unwrap().is_empty());
    }
}
