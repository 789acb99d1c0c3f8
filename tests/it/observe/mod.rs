//! What operators see of a pool: rules, alerts, dashboards, runbook and log, each against what is really there.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod dashboards;
mod incidents;
mod live;
mod log;
mod prometheus;
mod rules;
mod telemetry;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use turn_worker::guard::Unkillable;
use turn_worker::labels::{RateLimit, RateLimitWindow};
use turn_worker::metrics::{Backlog, Metrics};

const PROMETHEUS: &str = "ops/deploy/prometheus/prometheus.yml";
const ALERTS: &str = "ops/deploy/prometheus/alerts.yml";
const RECORDING: &str = "ops/deploy/prometheus/recording.yml";
const DASHBOARDS: &str = "ops/deploy/grafana/dashboards";
const RUNBOOK: &str = "docs/runbook.md";

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn read(name: impl AsRef<Path>) -> String {
    let name = name.as_ref();
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", name.display()))
}

fn yaml(name: impl AsRef<Path>) -> Value {
    let text = read(&name);
    let name = name.as_ref().display();
    serde_saphyr::from_str(&text).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// The files of a folder with that extension, by name.
fn files(folder: &str, extension: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(path(folder)).unwrap();
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    files.retain(|file| file.extension().is_some_and(|found| found == extension));
    files.sort();
    assert!(!files.is_empty(), "{folder} has no .{extension}");
    files
}

/// The rules of a file, without their groups.
fn rules(file: &str) -> Vec<Value> {
    let groups = yaml(file)["groups"].as_array().unwrap().clone();
    let rules = groups
        .iter()
        .flat_map(|group| group["rules"].as_array().unwrap().clone());
    rules.collect()
}

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    let found = value[field].as_str();
    found.unwrap_or_else(|| panic!("no {field:?} in {value:#}"))
}

fn alert_names() -> BTreeSet<String> {
    let alerts = rules(ALERTS);
    alerts
        .iter()
        .map(|rule| text(rule, "alert").to_owned())
        .collect()
}

/// Of every metric that a worker has, the names of its series.
fn exported() -> BTreeSet<String> {
    let metrics = Metrics::new(None);
    // Only then has that metric series.
    let unkillable = Unkillable::of(&[(1, 0)]);
    metrics.set_held_workspaces(&[("a".to_owned(), unkillable)]);
    metrics.set_backlog(Some(Backlog::default()));
    metrics.set_workspaces_stuck(Some(0));
    metrics.rate_limits(&[RateLimit {
        window: RateLimitWindow::Primary,
        used_percent: 50,
        resets_at: Some(1_800_000_000),
    }]);
    let text = metrics.gather_text().unwrap();
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| line.split(['{', ' ']).next().unwrap().to_owned())
        .collect()
}

/// What an expression selects: names of series of ours, of the broker's, of
/// recorded ones and Prometheus' own, each with its matchers.
fn selectors(expression: &str) -> Vec<String> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    let mut found = Vec::new();
    let mut rest = expression;
    while let Some(start) = rest.find(is_name) {
        // A label's value is no name.
        if let Some(quote) = rest[..start].find('"') {
            let value = &rest[quote + 1..];
            rest = &value[value.find('"').unwrap() + 1..];
            continue;
        }
        let word = &rest[start..];
        let end = word.find(|c| !is_name(c)).unwrap_or(word.len());
        let (name, after) = word.split_at(end);
        rest = after;
        let is_series = ["turn_worker_", "rabbitmq_"]
            .iter()
            .any(|prefix| name.starts_with(prefix))
            || name.contains(":turn_worker_")
            || ["up", "ALERTS"].contains(&name);
        if is_series {
            let matchers = after
                .starts_with('{')
                .then(|| after.split_inclusive('}').next());
            found.push(format!("{name}{}", matchers.flatten().unwrap_or_default()));
        }
    }
    found
}

/// The part of a selector before its matchers.
fn name_of(selector: &str) -> &str {
    selector.split('{').next().unwrap()
}

#[test]
fn selectors_are_found_in_an_expression() {
    let expression = "sum by (job) (rate(turn_worker_turns_total{job=~\"up|x\",a!=\"b\"}[5m])) > 0.1 * \
                      job:turn_worker_turns:rate5m unless on (job) up == 0";
    let found = [
        "turn_worker_turns_total{job=~\"up|x\",a!=\"b\"}",
        "job:turn_worker_turns:rate5m",
        "up",
    ];
    assert_eq!(selectors(expression), found);
}
