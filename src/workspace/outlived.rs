//! Which attempt of another host has no processes left, though it has no end: a process that has held
//! the workspace's lock for long enough knows that its guard must have killed it.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::dir::{Dir, PRIVATE_FILE};
use super::error::{DiskError, StateError};
use super::journal::Started;
use super::line;

const OUTLIVED: &str = "outlived";
const MAX_BYTES: u64 = 1024;

/// Of the newest such attempt only: those before it are not open any more.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Outlived {
    turn_id: String,
    attempt: u32,
    /// When it started: a turn that was forgotten may come again under its id.
    at: Timestamp,
}

impl Outlived {
    fn of(started: &Started) -> Self {
        Self {
            turn_id: started.turn_id.clone(),
            attempt: started.attempt,
            at: started.at,
        }
    }
}

pub(super) fn is_noted(state: &Dir, started: &Started) -> Result<bool, DiskError> {
    let Some(bytes) = state.read(OUTLIVED, MAX_BYTES)? else {
        return Ok(false);
    };
    // What can't be read is outlived again.
    let noted = line::decode::<Outlived>(&bytes);
    Ok(noted.is_ok_and(|noted| noted == Outlived::of(started)))
}

pub(super) fn note(state: &Dir, started: &Started) -> Result<(), StateError> {
    let record = line::encode(&Outlived::of(started));
    Ok(state.write_atomic(OUTLIVED, &record, PRIVATE_FILE)?)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::workspace::testing::{started, workspace};

    #[test]
    fn g3_only_the_very_attempt_that_was_outlived_is_known_to_be_gone() {
        let (_tmp, workspace) = workspace();
        let attempt = started("t", 1);
        let is_gone = |started: &Started| workspace.is_gone(started).unwrap();
        assert!(!is_gone(&attempt));
        workspace.note_outlived(&attempt).unwrap();
        assert!(is_gone(&attempt));
        let later = attempt.at + Duration::from_secs(1);
        let again = Started {
            at: later,
            ..attempt.clone()
        };
        for other in [started("t", 2), started("u", 1), again] {
            assert!(!is_gone(&other), "{other:?}");
        }
        std::fs::write(workspace.state_dir().join(OUTLIVED), "damaged").unwrap();
        assert!(!is_gone(&attempt));
    }

    #[test]
    fn g3_an_attempt_that_lost_its_lock_is_gone() {
        let (_tmp, workspace) = workspace();
        workspace.claims().note_lost("t", 1).unwrap();
        assert!(workspace.is_gone(&started("t", 1)).unwrap());
        assert!(!workspace.is_gone(&started("t", 2)).unwrap());
    }
}
