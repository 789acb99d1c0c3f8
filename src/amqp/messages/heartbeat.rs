//! What a worker's heartbeat carries.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::Agreement;
use crate::event::Tokens;
use crate::labels::ConditionReport;

/// How many workspaces of waiting servers a heartbeat names.
pub const MAX_IDLE: usize = 256;

/// What a worker reports about itself. Older ones don't.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct About {
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub host: String,
    /// The version of codex, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub codex: Option<String>,
    /// It takes no more turns.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub draining: bool,
    /// What its host lacks for running turns.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lacks: Vec<String>,
    /// Workspaces that processes hold which can't be killed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub held: Vec<HeldReport>,
    /// Turns that were offered to it in the last minutes and did not start.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub blocked: Vec<BlockedReport>,
    /// What is wrong around it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<ConditionReport>,
    /// What must agree among the processes of a pool.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool: Option<Box<Agreement>>,
    /// Its private queue for offers; `None` while it takes no offers there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offers_to: Option<String>,
    /// It answers offers.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub answers_offers: bool,
    /// Workspaces in which a server waits for the next turn, the newest first, at most
    /// [`MAX_IDLE`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub idle: Vec<String>,
}

/// A workspace that stays locked after its turn's end, and one of the processes that hold it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HeldReport {
    pub workspace: String,
    pub host: String,
    pub pid: i32,
    pub user: String,
    pub command: String,
    pub since: Timestamp,
    /// Processes besides this one.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub more: u64,
}

/// Kept short, as heartbeats are many.
pub const MAX_HELD: usize = 16;
/// The same, of turns that did not start.
pub const MAX_BLOCKED: usize = 32;

/// A turn that was offered and did not start.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BlockedReport {
    pub workspace: String,
    pub turn_id: String,
    pub why: Hindrance,
    /// In words: the lock's holder, or the file.
    pub detail: String,
    /// Since when this worker has found it so.
    pub since: Timestamp,
}

/// What keeps a workspace's turn from starting.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Hindrance {
    /// Another process has the workspace's lock.
    Locked,
    /// The workspace's records can't be read or written.
    Records,
    /// Anything else, also what a newer version reports.
    #[serde(other)]
    Other,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// A turn that a worker is running.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Running {
    pub workspace: String,
    pub turn_id: String,
    pub attempt: u32,
    pub started_at: Timestamp,
    /// What this attempt has spent so far, if codex reports that while it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spent: Option<Tokens>,
}
