//! What a pool is deployed with (compose, Kubernetes, systemd, the broker's definitions) fits the worker and each
//! other. Much of it can't be started here, so it is read as those would read it, and what can be started is.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod compose;
mod confined;
mod image;
mod kubernetes;
mod rabbitmq;
mod systemd;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;
use turn_worker::config::{SETTINGS, Settings};

/// How long a worker may take to settle, beyond its grace: see "Draining and stopping" in docs/OPERATIONS.md.
const SETTLING: Duration = Duration::from_secs(45);

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn read(name: &str) -> String {
    fs::read_to_string(path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn json(name: &str) -> Value {
    serde_json::from_str(&read(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn yaml(name: &str) -> Value {
    serde_saphyr::from_str(&read(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// A list's words; empty if it is missing.
fn words(list: &Value) -> Vec<&str> {
    let items = list.as_array().map(Vec::as_slice).unwrap_or_default();
    items.iter().map(|word| word.as_str().unwrap()).collect()
}

/// `10m45s`, as Go reads it, and so compose.
fn duration(text: &str) -> Duration {
    let (mut sum, mut digits) = (0, String::new());
    for c in text.chars() {
        let unit = match c {
            '0'..='9' => {
                digits.push(c);
                continue;
            }
            'h' => 3600,
            'm' => 60,
            's' => 1,
            _ => panic!("{text}"),
        };
        sum += digits.parse::<u64>().unwrap() * unit;
        digits.clear();
    }
    assert!(digits.is_empty(), "{text}");
    Duration::from_secs(sum)
}

/// The settings that a worker makes of an environment, in which every variable with its prefix is known.
fn settings(place: &str, environment: &BTreeMap<String, String>) -> Settings {
    let own: Vec<(String, String)> = environment
        .iter()
        .filter(|(name, _)| name.starts_with("TURN_WORKER_"))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    for (name, _) in &own {
        let known = SETTINGS.iter().any(|setting| setting.variable() == *name);
        assert!(known, "{place} sets {name}");
    }
    let (settings, warnings) =
        Settings::from_vars(own).unwrap_or_else(|error| panic!("{place}: {error}"));
    assert!(warnings.is_empty(), "{place}: {warnings:?}");
    settings
}

/// What running agents as another user takes, without `CAP_`.
fn needed_privileges() -> Vec<&'static str> {
    let needed = turn_worker::isolation::NEEDED.iter();
    let mut names: Vec<_> = needed
        .map(|(_, name)| name.trim_start_matches("CAP_"))
        .collect();
    names.sort_unstable();
    names
}

fn sorted(mut words: Vec<&str>) -> Vec<&str> {
    words.sort_unstable();
    words
}
