//! What a process reports of itself for the others to compare.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::homes::Disk;
use crate::workspace::ProbeRound;

/// What must agree among the processes of a pool, and what it is compared by.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Agreement {
    /// The random id of the workspace root; a fixed one where each host has its own.
    pub root: Uuid,
    /// The host's own root, in a pool without shared storage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk: Option<Disk>,
    /// For how long the process has run.
    pub uptime_ms: u64,
    /// Its wall clock when this was sent.
    pub clock: Timestamp,
    /// It has compared itself with the others and takes turns, as far as its
    /// roles and its host allow.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub in_service: bool,
    /// It takes no turns, as processes that it does not agree with are in
    /// service, or lately were. With neither, it has just started.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub stands_back: bool,
    /// It holds the lock in the root that is named after it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub holds_lock: bool,
    /// What it has written in the root last, for the others to read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probe: Option<ProbeRound>,
    /// The settings that decide about turns, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub settings: BTreeMap<String, String>,
    /// The broker that it is connected to, as its URL names it. For operators:
    /// one broker may have several names. `None` before it is connected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub broker: Option<String>,
}
