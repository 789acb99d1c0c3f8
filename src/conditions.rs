//! What is wrong around a process at the moment: a blocked connection, another
//! root in the pool, a queue with an undeliverable head.
//!
//! One place keeps all of them. The log, `/readyz`, the metric
//! `turn_worker_condition`, heartbeats and with them `turn-worker status`
//! follow from it, so a check only has to report what it found.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use crate::metrics::Metrics;

/// The longest text of a condition, in characters.
const MAX_TEXT_CHARS: usize = 500;

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

/// The conditions that hold now. Clones share them.
#[derive(Debug, Clone)]
pub struct Conditions(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    metrics: Metrics,
    /// By condition, and by the place where it was found.
    found: Mutex<BTreeMap<(Condition, String), String>>,
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

impl Conditions {
    pub fn new(metrics: Metrics) -> Self {
        Self(Arc::new(Inner {
            metrics,
            found: Mutex::default(),
        }))
    }

    /// Reports what was found at `place`, such as a connection's name; `None`
    /// says that all is well there. Only changes are logged.
    pub fn set(&self, condition: Condition, place: &str, found: Option<String>) {
        let mut all = self.0.found.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (condition, place.to_owned());
        let name = condition.as_str();
        match found {
            Some(found) => {
                let found: String = found.chars().take(MAX_TEXT_CHARS).collect();
                if all.get(&key).is_none() {
                    tracing::warn!(condition = name, place, found, "a condition was found");
                } else if all.get(&key) != Some(&found) {
                    tracing::debug!(condition = name, place, found, "a condition changed");
                }
                all.insert(key, found);
            }
            None => {
                if all.remove(&key).is_some() {
                    tracing::info!(condition = name, place, "a condition is over");
                }
            }
        }
        let holds = all.keys().any(|(one, _)| *one == condition);
        self.0.metrics.set_condition(condition, holds);
    }

    pub fn holds(&self, condition: Condition) -> bool {
        let all = self.0.found.lock().unwrap_or_else(PoisonError::into_inner);
        all.keys().any(|(one, _)| *one == condition)
    }

    /// Everything that holds, for reports.
    pub fn reports(&self) -> Vec<ConditionReport> {
        let all = self.0.found.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter()
            .map(|((condition, place), found)| ConditionReport {
                condition: condition.as_str().to_owned(),
                found: match place.as_str() {
                    "" => found.clone(),
                    place => format!("{place}: {found}"),
                },
                blocking: condition.is_blocking(),
            })
            .collect()
    }
}

impl std::fmt::Display for ConditionReport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.condition, self.found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gauge(metrics: &Metrics, condition: Condition) -> bool {
        let name = condition.as_str();
        let line = format!("turn_worker_condition{{condition=\"{name}\"}} 1\n");
        metrics.gather_text().unwrap().contains(&line)
    }

    #[test]
    fn a_condition_holds_until_every_place_is_well() {
        let metrics = Metrics::new(None);
        let conditions = Conditions::new(metrics.clone());
        let set = |place, found: Option<&str>| {
            conditions.set(Condition::BrokerBlocked, place, found.map(str::to_owned));
        };
        set("publisher", Some("low on memory"));
        set("sequencer", Some("low on memory"));
        set("publisher", None);
        assert!(gauge(&metrics, Condition::BrokerBlocked));
        let shown: Vec<_> = conditions.reports().iter().map(|r| r.to_string()).collect();
        assert_eq!(shown, ["broker_blocked: sequencer: low on memory"]);
        set("sequencer", None);
        assert!(!gauge(&metrics, Condition::BrokerBlocked));
        assert!(!conditions.holds(Condition::BrokerBlocked));
    }

    #[test]
    fn all_names_every_condition_once() {
        let names: std::collections::BTreeSet<_> =
            Condition::ALL.iter().map(|one| one.as_str()).collect();
        assert_eq!(names.len(), Condition::ALL.len());
    }

    #[test]
    fn g10_texts_are_bounded() {
        let conditions = Conditions::new(Metrics::new(None));
        conditions.set(Condition::ClockDiffers, "", Some("x".repeat(100_000)));
        assert_eq!(conditions.reports()[0].found.len(), MAX_TEXT_CHARS);
    }
}
