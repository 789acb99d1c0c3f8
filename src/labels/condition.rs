//! What can be wrong around a process.

use serde::{Deserialize, Serialize};

/// A kind of trouble. It may be found in several places at once, for example on
/// two connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Condition {
    /// The broker takes no publishes: an alarm for memory or disk.
    BrokerBlocked,
    /// The connections of this process lead to different brokers.
    BrokersDiffer,
    /// The broker allows fewer channels or connections than `SLOTS` needs.
    BrokerLimits,
    /// A host's clock differs from this one.
    ClockDiffers,
    /// An operator has declared this host's disk lost.
    DiskLost,
    /// Events are refused for good, such as by a missing permission.
    EventsRefused,
    /// A consumer that is not a sequencer is on `codex.turns`.
    ForeignConsumer,
    /// Turns wait for the disk of a host of which no process is heard.
    HomeAway,
    /// A lock that one process holds can be taken by another.
    LocksNotExclusive,
    /// Operators have paused the pool, or workspaces.
    Paused,
    /// What another process writes in the workspace root is not seen here at once.
    ReadsStale,
    /// Another process of the pool has another workspace root.
    RootDiffers,
    /// Another process of the pool has other settings where they must agree.
    SettingsDiffer,
    /// The broker cannot deliver the message at the head of `codex.turns`.
    TurnUndeliverable,
}

impl Condition {
    pub const ALL: [Self; 14] = [
        Self::BrokerBlocked,
        Self::BrokersDiffer,
        Self::BrokerLimits,
        Self::ClockDiffers,
        Self::DiskLost,
        Self::EventsRefused,
        Self::ForeignConsumer,
        Self::HomeAway,
        Self::LocksNotExclusive,
        Self::Paused,
        Self::ReadsStale,
        Self::RootDiffers,
        Self::SettingsDiffer,
        Self::TurnUndeliverable,
    ];

    /// As logs, metrics and reports name it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::BrokerBlocked => "broker_blocked",
            Self::BrokersDiffer => "brokers_differ",
            Self::BrokerLimits => "broker_limits",
            Self::ClockDiffers => "clock_differs",
            Self::DiskLost => "disk_lost",
            Self::EventsRefused => "events_refused",
            Self::ForeignConsumer => "foreign_consumer",
            Self::HomeAway => "home_away",
            Self::LocksNotExclusive => "locks_not_exclusive",
            Self::Paused => "paused",
            Self::ReadsStale => "reads_stale",
            Self::RootDiffers => "root_differs",
            Self::SettingsDiffer => "settings_differ",
            Self::TurnUndeliverable => "turn_undeliverable",
        }
    }

    /// Whether the process is not ready while the condition holds. The others
    /// are warnings: turns run, but an operator has to look.
    pub fn is_blocking(self) -> bool {
        match self {
            Self::BrokerBlocked
            | Self::BrokersDiffer
            | Self::BrokerLimits
            | Self::DiskLost
            | Self::LocksNotExclusive
            | Self::ReadsStale
            | Self::RootDiffers
            | Self::TurnUndeliverable => true,
            Self::ClockDiffers
            | Self::EventsRefused
            | Self::ForeignConsumer
            | Self::HomeAway
            | Self::Paused
            | Self::SettingsDiffer => false,
        }
    }
}

/// A condition as reports carry it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConditionReport {
    pub condition: String,
    /// What was found, and what is expected or helps.
    pub found: String,
    /// The process is not ready because of it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub blocking: bool,
}

impl std::fmt::Display for ConditionReport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.condition, self.found)
    }
}
