//! Which turn has started a conversation because it was asked to, and which one.
//!
//! The session file alone does not show a later attempt of that turn whether
//! what it names is the turn's own conversation or the one before it.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::dir::{Dir, PRIVATE_FILE};
use super::error::{DiskError, StateError};
use super::line;

const BEGUN: &str = "begun";
const MAX_BYTES: u64 = 1024;

/// Of the newest such turn only: those before it have ended.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct StartedThread {
    turn_id: String,
    thread: Uuid,
}

/// The thread that the turn has started, durably so.
pub(super) fn find(state: &Dir, turn_id: &str) -> Result<Option<Uuid>, StateError> {
    let Some(bytes) = state.read(BEGUN, MAX_BYTES)? else {
        return Ok(None);
    };
    match line::decode::<StartedThread>(&bytes) {
        Ok(begun) => Ok((begun.turn_id == turn_id).then_some(begun.thread)),
        Err(why) => Err(StateError::unreadable(&state.path().join(BEGUN), 0, why)),
    }
}

/// For the lock's holder only.
pub(super) fn write(state: &Dir, turn_id: &str, thread: Uuid) -> Result<(), DiskError> {
    let turn_id = turn_id.to_owned();
    let record = line::encode(&StartedThread { turn_id, thread });
    state.write_atomic(BEGUN, &record, PRIVATE_FILE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workspace::testing::workspace;

    #[test]
    fn a_turn_finds_only_the_conversation_that_it_started() {
        let (_tmp, workspace) = workspace();
        let find = |turn_id| workspace.started_thread(turn_id).unwrap();
        assert_eq!(find("t"), None);
        for thread in [Uuid::from_u128(1), Uuid::from_u128(2)] {
            workspace.write_started_thread("t", thread).unwrap();
            assert_eq!(find("t"), Some(thread));
        }
        assert_eq!(find("u"), None);
        workspace.write_started_thread("u", Uuid::nil()).unwrap();
        assert_eq!((find("t"), find("u")), (None, Some(Uuid::nil())));
    }

    #[test]
    fn a_damaged_record_is_an_error_not_another_conversation() {
        let (_tmp, workspace) = workspace();
        workspace.write_started_thread("t", Uuid::nil()).unwrap();
        let path = workspace.state_dir().join(BEGUN);
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, text.replace("\"t\"", "\"u\"")).unwrap();
        let error = workspace.started_thread("t").unwrap_err();
        assert!(matches!(error, StateError::Damaged { .. }), "{error}");
    }
}
