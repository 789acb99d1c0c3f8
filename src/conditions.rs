//! What is wrong around a process at the moment: a blocked connection, another
//! root in the pool, a queue with an undeliverable head.
//!
//! One place keeps all of them. The log, `/readyz`, the metric
//! `turn_worker_condition`, heartbeats and with them `turn-worker status`
//! follow from it, so a check only has to report what it found.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

pub use crate::labels::{Condition, ConditionReport};
use crate::metrics::Metrics;

/// The longest text of a condition, in characters.
const MAX_TEXT_CHARS: usize = 500;

/// The conditions that hold now. Clones share them.
#[derive(Debug, Clone)]
pub struct Conditions(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    metrics: Metrics,
    /// By condition, and by the place where it was found.
    found: Mutex<BTreeMap<(Condition, String), String>>,
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
