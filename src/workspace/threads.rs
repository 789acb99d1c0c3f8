//! Which workspace a codex thread belongs to, for the whole root.

use std::sync::Arc;

use uuid::Uuid;

use super::dir::Dir;
use super::durable::Created;
use super::error::DiskError;
use super::session::SessionFile;

/// Of one of the files; the longest id has 259.
const MAX_BYTES: u64 = 1024;

/// One small file per thread, named by its id, holding the workspace's id.
/// They are never removed: a forgotten one could be adopted by another workspace.
#[derive(Debug, Clone)]
pub struct Threads {
    dir: Arc<Dir>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Adoption {
    Adopted,
    AlreadyOurs,
    /// The other workspace's id.
    Other(String),
}

/// What a turn does about the thread before it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resume {
    /// There was no record.
    Fresh,
    Thread(Uuid),
    /// There is something that can't be used, and the turn starts a new thread.
    Ignored {
        why: String,
    },
}

impl Threads {
    pub(super) fn new(dir: Dir) -> Self {
        Self { dir: Arc::new(dir) }
    }

    #[cfg(test)]
    pub(super) fn names(&self) -> Result<Vec<String>, DiskError> {
        self.dir.names()
    }

    /// The id of the workspace that the thread belongs to.
    pub fn owner(&self, thread: Uuid) -> Result<Option<String>, DiskError> {
        let owner = self.dir.read(&thread.to_string(), MAX_BYTES)?;
        Ok(owner.map(|owner| String::from_utf8_lossy(&owner).trim_end().to_owned()))
    }

    /// Makes the thread this workspace's, unless it belongs to one. Durable.
    pub fn adopt(&self, thread: Uuid, workspace: &str) -> Result<Adoption, DiskError> {
        let line = format!("{workspace}\n");
        match self.owner(thread)? {
            Some(owner) => return Ok(Adoption::of(owner, workspace)),
            None => {
                let created = (self.dir).create_exclusive(&thread.to_string(), line.as_bytes())?;
                if created == Created::New {
                    return Ok(Adoption::Adopted);
                }
            }
        }
        let owner = self.owner(thread)?.unwrap_or_default();
        Ok(Adoption::of(owner, workspace))
    }
}

impl Adoption {
    fn of(owner: String, workspace: &str) -> Self {
        if owner == workspace {
            Self::AlreadyOurs
        } else {
            Self::Other(owner)
        }
    }
}

/// Judges what the session file names: a thread of this workspace is
/// resumed, one without an owner is adopted, another workspace's never.
pub fn resolve_session(
    session: SessionFile,
    workspace: &str,
    threads: &Threads,
) -> Result<Resume, DiskError> {
    Ok(match session {
        SessionFile::None => Resume::Fresh,
        SessionFile::Unusable { why } => Resume::Ignored { why },
        SessionFile::Thread(thread) => match threads.adopt(thread, workspace)? {
            Adoption::Adopted | Adoption::AlreadyOurs => Resume::Thread(thread),
            Adoption::Other(_) => Resume::Ignored {
                // Without the owner: one workspace's agent learns nothing of another.
                why: format!("thread {thread} belongs to another workspace"),
            },
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workspace::testing::root;

    const THREAD: Uuid = Uuid::from_u128(7);

    #[test]
    fn g8_a_thread_of_another_workspace_is_never_resumed() {
        let (_tmp, root) = root();
        let threads = root.threads();
        let resume =
            |workspace| resolve_session(SessionFile::Thread(THREAD), workspace, threads).unwrap();
        assert_eq!(threads.owner(THREAD).unwrap(), None);
        assert_eq!(resume("a"), Resume::Thread(THREAD));
        assert_eq!(threads.owner(THREAD).unwrap().as_deref(), Some("a"));
        assert!(matches!(resume("a/b"), Resume::Ignored { .. }));
        assert_eq!(resume("a"), Resume::Thread(THREAD));
    }

    #[test]
    fn g8_of_racing_adoptions_one_wins() {
        let (_tmp, root) = root();
        let names: Vec<String> = (0..6).map(|n| format!("w{n}")).collect();
        let adoptions: Vec<Adoption> = std::thread::scope(|scope| {
            let racers: Vec<_> = names
                .iter()
                .map(|name| {
                    let threads = root.threads();
                    scope.spawn(move || threads.adopt(THREAD, name).unwrap())
                })
                .collect();
            racers.into_iter().map(|r| r.join().unwrap()).collect()
        });
        let owner = root.threads().owner(THREAD).unwrap().unwrap();
        for (name, adoption) in names.iter().zip(adoptions) {
            if *name == owner {
                assert_eq!(adoption, Adoption::Adopted);
            } else {
                assert_eq!(adoption, Adoption::Other(owner.clone()));
            }
        }
        let again = root.threads().adopt(THREAD, &owner).unwrap();
        assert_eq!(again, Adoption::AlreadyOurs);
    }

    #[test]
    fn without_a_thread_the_turn_is_fresh() {
        let (_tmp, root) = root();
        let resume = |session| resolve_session(session, "a", root.threads()).unwrap();
        assert_eq!(resume(SessionFile::None), Resume::Fresh);
        let why = "it is odd".to_owned();
        let unusable = SessionFile::Unusable { why: why.clone() };
        assert_eq!(resume(unusable), Resume::Ignored { why });
    }
}
