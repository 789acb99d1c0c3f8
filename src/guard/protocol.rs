//! What worker and guard say to each other over their socket.
//!
//! The worker's first message carries the five descriptors and says what to
//! start; after it, single bytes. The guard answers with JSON lines.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::confine::{Limits, User};

/// What to start, and with what. Sent as a length (4 bytes, big-endian) and
/// JSON; the descriptors of [`FDS`] ride on the length's bytes.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Start {
    pub program: PathBuf,
    pub args: Vec<String>,
    /// The whole environment: nothing is inherited.
    pub env: Vec<(String, String)>,
    /// As whom; the worker's own user where there is none.
    pub user: Option<User>,
    pub limits: Limits,
}

/// The lock, the directory to start in, then codex's stdin, stdout and stderr.
pub(super) const FDS: usize = 5;

/// The longest [`Start`]; only arguments and environment make it long.
pub(super) const MAX_START_BYTES: u32 = 4 << 20;

/// Sends codex SIGINT.
pub(super) const INTERRUPT: u8 = b'i';
/// Ends the whole tree at once.
pub(super) const KILL: u8 = b'k';

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Report {
    Started {
        pid: i32,
    },
    NotStarted {
        message: String,
        /// The system's number for what was wrong.
        errno: Option<i32>,
    },
    Exited {
        code: Option<i32>,
        signal: Option<i32>,
    },
    /// Nothing of the turn lives any more; the guard exits now.
    Gone {
        /// Processes killed besides codex itself.
        leftovers: u64,
    },
}
