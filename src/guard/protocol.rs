//! What worker and guard say to each other over their socket.
//!
//! A message of the worker starts with a byte that says what it is. [`START`]
//! carries the descriptors; the others are orders about what runs. The guard
//! answers with JSON lines. After [`Report::Gone`] it waits for the next start.
//!
//! A server that serves several turns goes round:
//!
//! ```text
//! START ─▶ turn ─ REST ─▶ resting ─ WAIT ─▶ waiting ─ the bell ─▶ gone
//!            ▲               │                 │
//!            └───────────────┴────── TAKE ─────┘
//! ```

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::confine::{Limits, User};
use super::{Unkillable, Unrest};

/// What to start, and with what. Sent as [`START`], on which the descriptors
/// of [`FDS`] ride, a length (4 bytes, big-endian) and JSON.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Start {
    pub program: PathBuf,
    pub args: Vec<String>,
    /// The whole environment: no variable is inherited.
    pub env: Vec<(String, String)>,
    /// The user to run as; the worker's own if absent.
    pub user: Option<User>,
    pub limits: Limits,
    /// More arguments, each with the path of a file that rides along to be read
    /// by codex: what stands before the path.
    pub files: Vec<String>,
    /// Whether it serves several turns: then the workspace's bell rides along, too.
    pub is_server: bool,
    /// How long what was killed may take to end.
    pub kill_timeout: Duration,
    /// For how long the lock may go unconfirmed; `None` where it is not confirmed.
    pub lock_lost_after: Option<Duration>,
    /// Of the workspace that it is for, by which its processes are known.
    pub mark: Option<u64>,
}

/// The lock, the record of what can't be killed, the directory to start in, then codex's
/// stdin, stdout and stderr.
pub(super) const FDS: usize = 6;

/// The most of [`Start::files`]; more than 253 descriptors no message carries.
pub(super) const MAX_FILES: usize = 32;

/// The longest [`Start`]; only arguments and environment make it long.
pub(super) const MAX_START_BYTES: u32 = 4 << 20;

/// Starts a turn; only while no other runs.
pub(super) const START: u8 = b's';
/// Sends codex SIGINT. Ignored, like the next one, where no turn runs: it may
/// have crossed with the end.
pub(super) const INTERRUPT: u8 = b'i';
/// Ends the whole tree at once.
pub(super) const KILL: u8 = b'k';

/// Of a server, before a turn: what lives now is its own, and no turn's.
/// Answered with [`Report::Marked`].
pub(super) const MARK: u8 = b'm';
/// Of a server, in a turn before the model's first answer: codex's MCP servers have
/// started, and what they have started so far is no turn's.
pub(super) const ADOPT: u8 = b'a';
/// Of a server: the turn is over. Answered with [`Report::Rested`], or with
/// [`Report::Restless`] if something of the turn goes on.
pub(super) const REST: u8 = b'r';
/// Of a server that rests: from now on it makes way for the next process to ring the bell.
pub(super) const WAIT: u8 = b'w';
/// Of a server that rests or waits: the next turn. Answered with [`Report::Taken`].
pub(super) const TAKE: u8 = b't';

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
    Marked,
    Rested {
        /// What lives has for itself, in bytes.
        memory: u64,
    },
    Restless {
        why: Unrest,
    },
    Taken,
    /// The lock is not known to be held any more: the tree is being killed.
    LockLost {
        why: String,
    },
    /// A server that waited ends now.
    Leaves {
        why: Leave,
    },
    /// What was killed takes longer than it may. The lock is kept, for as long as it lives;
    /// then comes [`Report::Gone`], and the guard exits.
    Unkillable {
        /// Processes killed so far, besides codex itself.
        leftovers: u64,
        unkillable: Unkillable,
    },
    /// All processes of the turn have ended, and its lock is released.
    Gone {
        /// Processes killed besides codex itself.
        leftovers: u64,
        /// Whether the guard waits for another turn; else it exits.
        again: bool,
    },
}

/// Why a guard ends a server that waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Leave {
    /// Another holder needs the workspace.
    Wanted,
    /// A helper of codex's was to end by itself, and has not in time.
    Helper,
}
