//! Where workspaces live, as the active sequencer of a pool without shared storage
//! reports it.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::workspace::Pauses;

/// Kept short, as reports are many.
pub const MAX_HOSTS: usize = 100;
pub const MAX_ORDERS: usize = 16;

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct HomesReport {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hosts: Vec<HostReport>,
    /// Which the other processes of the pool heed, too.
    #[serde(default)]
    pub pauses: Pauses,
    /// What operators have ordered and is not carried out yet, and why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub orders: Vec<String>,
    /// Of these, and of the last ones that were settled, for the commands that wait for them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub progress: Vec<OrderProgress>,
}

/// What has become of an operator's order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrderProgress {
    pub order: Uuid,
    pub state: OrderState,
    /// Why it is in that state.
    pub detail: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OrderState {
    Pending,
    Done,
    Rejected,
}

impl HomesReport {
    /// Whether that disk is gone for good.
    pub fn has_lost(&self, disk: Uuid) -> bool {
        let mut hosts = self.hosts.iter();
        hosts.any(|host| host.lost && host.disk == disk)
    }
}

/// One host's disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostReport {
    pub disk: Uuid,
    pub host: String,
    /// Workspaces that live there.
    pub workspaces: u64,
    /// Of these, with turns in line.
    pub busy: u64,
    /// It is gone for good.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub lost: bool,
    /// For how long no process of it has been heard. Absent if it is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub away_ms: Option<u64>,
}
