//! How a turn ended, as its thread's record has it.

use std::io;

use serde_json::Value;

use super::{CHUNK, MAX_LINE, Rollout, json, lines};

const END: &str = "task_complete";

/// The most that is read for it, in bytes: it is the last thing of a turn.
const MAX_READ_FOR_END: u64 = 1 << 20;

/// Why a turn failed, in codex's words and as its code.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct RecordedFailure {
    pub message: String,
    pub info: Value,
}

impl Rollout {
    /// Of the thread's last turn. Returns `None` if it did not fail, or has
    /// not ended.
    ///
    /// # Errors
    /// The file can't be read, or has too much behind the last end.
    pub(crate) fn last_failure(&self) -> io::Result<Option<RecordedFailure>> {
        let file = self.open()?;
        let end = file.metadata()?.len();
        let ended = lines::backwards(file, end, MAX_READ_FOR_END, CHUNK, MAX_LINE, ended)?;
        Ok(ended.flatten())
    }
}

/// Of a line that is a turn's end.
fn ended(line: &[u8]) -> Option<Option<RecordedFailure>> {
    memchr::memmem::find(line, END.as_bytes())?;
    let line = json::from_slice(line).ok()?;
    let payload = line.get("payload")?;
    if line.get("type")? != "event_msg" || payload.get("type")? != END {
        return None;
    }
    let error = payload.get("error");
    Some(error.and_then(|error| {
        Some(RecordedFailure {
            message: error.get("message")?.as_str()?.to_owned(),
            info: error.get("codex_error_info")?.clone(),
        })
    }))
}
