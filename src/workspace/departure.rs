//! A workspace that was moved to another host's disk, in a pool without shared
//! storage: what is left of it here must not be run in again. The mark names the
//! root that was left, so that it means nothing in a copy of the records.

use std::thread::sleep;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::dir::PRIVATE_FILE;
use super::error::StateError;
use super::{Workspace, line};

const MOVED: &str = "moved";
const MAX_BYTES: u64 = 4096;

/// How long a server that waits for a turn may take to make way.
const LOCK_WAIT: Duration = Duration::from_secs(2);
const LOCK_POLL: Duration = Duration::from_millis(20);

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Moved {
    from: Uuid,
    to: Uuid,
}

impl Workspace {
    /// Marks it as moved to that disk, durably. False while a turn of it is under way.
    pub fn leave_for(&self, to: Uuid) -> Result<bool, StateError> {
        if to == self.root_id {
            return self.come_back();
        }
        let (began, mut bell) = (Instant::now(), None);
        let _lock = loop {
            if let Some(lock) = self.try_lock()? {
                break lock;
            }
            if bell.is_none() && self.has_idle_server()? {
                bell = self.ring()?;
            }
            if began.elapsed() >= LOCK_WAIT {
                return Ok(false);
            }
            sleep(LOCK_POLL);
        };
        let from = self.root_id;
        let moved = line::encode(&Moved { from, to });
        self.state.write_atomic(MOVED, &moved, PRIVATE_FILE)?;
        Ok(true)
    }

    fn come_back(&self) -> Result<bool, StateError> {
        self.state.remove(MOVED)?;
        self.state.sync()?;
        Ok(true)
    }

    /// Whether it lives on another disk now.
    pub fn has_left(&self) -> Result<bool, StateError> {
        let Some(bytes) = self.state.read(MOVED, MAX_BYTES)? else {
            return Ok(false);
        };
        let moved: Moved = line::decode(&bytes)
            .map_err(|why| StateError::unreadable(&self.state.path().join(MOVED), 0, why))?;
        Ok(moved.from == self.root_id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workspace::testing::root;

    #[test]
    fn a_workspace_that_has_left_is_known_here_and_not_where_its_records_were_copied() {
        let (_tmp, root) = root();
        let workspace = root.workspace("a").unwrap();
        assert!(!workspace.has_left().unwrap());
        let lock = workspace.try_lock().unwrap().unwrap();
        assert!(!workspace.leave_for(Uuid::from_u128(7)).unwrap());
        drop(lock);
        assert!(workspace.leave_for(Uuid::from_u128(7)).unwrap());
        assert!(workspace.has_left().unwrap());
        let copied = line::encode(&Moved {
            from: Uuid::from_u128(7),
            to: root.id(),
        });
        (workspace.state)
            .write_atomic(MOVED, &copied, PRIVATE_FILE)
            .unwrap();
        assert!(!workspace.has_left().unwrap());
        assert!(workspace.leave_for(Uuid::from_u128(7)).unwrap());
        assert!(workspace.leave_for(root.id()).unwrap());
        assert!(!workspace.has_left().unwrap());
    }
}
