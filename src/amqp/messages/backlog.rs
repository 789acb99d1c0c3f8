//! What the active sequencer reports of the turns that it holds.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// How many workspaces are reported: those with the most turns. With the
/// longest names that is 110 KB.
pub const MAX_LINES: usize = 100;
/// How many turns of each are named.
pub const MAX_NEXT: usize = 5;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BacklogReport {
    /// How many turns its queue may have.
    pub limit: u64,
    pub turns: u64,
    /// Those of them without a known worker.
    pub waiting: u64,
    /// Turns that it holds beyond the limit, in the order in which they came.
    /// Older ones leave those with the broker.
    #[serde(default)]
    pub beyond: u64,
    pub workspaces: u64,
    /// The oldest that waits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oldest: Option<WaitReport>,
    /// Workspaces where the first turn was offered and does not start, while slots are
    /// free. Of more than 16 the others are left out; absent from older sequencers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stuck: Vec<StuckReport>,
    /// The longest lines first.
    pub top: Vec<LineReport>,
}

/// How many of those that are stuck are named.
pub const MAX_STUCK: usize = 16;

/// A workspace that is stuck.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StuckReport {
    pub workspace: String,
    /// The turn that does not start.
    pub turn_id: String,
    /// For how long, in milliseconds.
    pub for_ms: u64,
}

/// The turns of one workspace.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct LineReport {
    pub workspace: String,
    pub turns: u64,
    /// One of them is known to run.
    pub running: bool,
    /// It is paused: its turns are not offered.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub paused: bool,
    /// The oldest that waits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oldest: Option<WaitReport>,
    /// The ids of the first turns, in their order. Absent from older sequencers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub next: Vec<String>,
    /// The host that the workspace lives on, in a pool without shared storage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub home: Option<String>,
    /// For how long that has been away. Absent if it is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub home_away_ms: Option<u64>,
}

/// For how long a turn waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct WaitReport {
    /// How long this sequencer has held it, in milliseconds; its predecessor's
    /// time is not in it.
    pub held_ms: u64,
    /// When it was enqueued, as its producer says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enqueued_at: Option<Timestamp>,
}
