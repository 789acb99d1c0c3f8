//! The dashboards, as files.

use std::collections::BTreeSet;
use std::process::Command;

use serde_json::Value;
use turn_worker::event::{ErrorCode, Reason, StopReason};

use super::{ALERTS, DASHBOARDS, RUNBOOK};
use super::{alert_names, exported, files, name_of, path, read, rules, selectors, text, yaml};

pub struct Dashboard {
    pub title: String,
    pub json: Value,
}

pub fn all() -> Vec<Dashboard> {
    let parsed = files(DASHBOARDS, "json").into_iter().map(|file| {
        let json: Value = serde_json::from_str(&read(&file)).unwrap();
        let title = text(&json, "title").to_owned();
        Dashboard { title, json }
    });
    parsed.collect()
}

impl Dashboard {
    /// Those that show something; rows are headings.
    pub fn panels(&self) -> impl Iterator<Item = &Value> {
        let panels = self.json["panels"].as_array().unwrap();
        panels.iter().filter(|panel| panel["type"] != "row")
    }

    pub fn variables(&self) -> &[Value] {
        self.json["templating"]["list"].as_array().unwrap()
    }
}

pub fn expressions(panel: &Value) -> impl Iterator<Item = &str> {
    let targets = panel["targets"].as_array().unwrap();
    targets.iter().map(|target| text(target, "expr"))
}

/// Metrics that no panel shows, and why not.
const NOT_CHARTED: &[(&str, &str)] = &[];

#[test]
fn they_are_what_their_source_makes() {
    let check = Command::new(path("ops/grafana/build"))
        .arg("--check")
        .output();
    let check = check.unwrap();
    assert!(check.status.success(), "{check:?}");
}

#[test]
fn each_metric_is_charted_or_listed_as_not() {
    let mut charted = BTreeSet::new();
    for dashboard in all() {
        for panel in dashboard.panels() {
            for expression in expressions(panel) {
                let names = selectors(expression);
                charted.extend(names.iter().map(|name| metric(name_of(name))));
            }
        }
    }
    let exported: BTreeSet<String> = exported().iter().map(|name| metric(name)).collect();
    let not: BTreeSet<String> = NOT_CHARTED
        .iter()
        .map(|(name, _)| (*name).to_owned())
        .collect();
    let missing: Vec<_> = exported
        .difference(&charted)
        .filter(|name| !not.contains(*name))
        .collect();
    assert!(missing.is_empty(), "on no dashboard: {missing:?}");
    let charted_after_all: Vec<_> = not.intersection(&charted).collect();
    assert!(
        charted_after_all.is_empty(),
        "listed for nothing: {charted_after_all:?}"
    );
    let unknown: Vec<_> = charted
        .iter()
        .filter(|name| name.starts_with("turn_worker_") && !exported.contains(*name))
        .collect();
    assert!(unknown.is_empty(), "no worker has {unknown:?}");
}

/// A histogram has three series.
fn metric(series: &str) -> String {
    let parts = ["_bucket", "_sum", "_count"];
    let stem = parts.iter().find_map(|part| series.strip_suffix(part));
    stem.unwrap_or(series).to_owned()
}

#[test]
fn panels_describe_what_they_show_and_can_be_narrowed() {
    let mut uids = BTreeSet::new();
    for dashboard in all() {
        let Dashboard { title, json } = &dashboard;
        assert!(
            uids.insert(text(json, "uid").to_owned()),
            "{title}: its uid is taken"
        );
        let variables: Vec<&str> = dashboard
            .variables()
            .iter()
            .map(|one| text(one, "name"))
            .collect();
        for wanted in ["datasource", "job", "instance", "runbook"] {
            assert!(variables.contains(&wanted), "{title} has no ${wanted}");
        }
        let mut titles = BTreeSet::new();
        for panel in dashboard.panels() {
            let name = text(panel, "title");
            assert!(titles.insert(name), "{title} has two panels {name:?}");
            assert!(!text(panel, "description").is_empty(), "{title}, {name}");
            assert!(!text(&panel["fieldConfig"]["defaults"], "unit").is_empty());
            assert_eq!(
                panel["datasource"]["uid"], "${datasource}",
                "{title}, {name}"
            );
            for expression in expressions(panel) {
                let over_time = ["rate(", "increase("]
                    .iter()
                    .any(|call| expression.contains(call));
                let window = ["[$__rate_interval]", "[$__range]"]
                    .iter()
                    .any(|window| expression.contains(window));
                assert_eq!(over_time, window, "{title}, {name}: {expression}");
                for selector in selectors(expression) {
                    let narrowed = ["job=~\"$job\"", "queue=~", "alertname=~"];
                    let is_narrowed = narrowed.iter().any(|matcher| selector.contains(matcher));
                    assert!(is_narrowed, "{title}, {name}: {selector}");
                }
                for variable in expression.split('$').skip(1) {
                    let end = variable.find(|c: char| !c.is_ascii_alphanumeric() && c != '_');
                    let variable = &variable[..end.unwrap_or(variable.len())];
                    let built_in = variable.starts_with("__");
                    assert!(
                        built_in || variables.contains(&variable),
                        "{title}, {name}: ${variable}"
                    );
                }
            }
        }
    }
}

/// From each panel to what to do, from the runbook to panels that are there.
#[test]
fn panels_alerts_and_runbook_lead_to_each_other() {
    let runbook = read(RUNBOOK);
    let mut linked = BTreeSet::new();
    let mut names = BTreeSet::new();
    for dashboard in all() {
        names.insert(dashboard.title.rsplit(' ').next().unwrap().to_owned());
        for panel in dashboard.panels() {
            names.insert(text(panel, "title").to_owned());
            for link in panel["links"].as_array().into_iter().flatten() {
                let title = text(link, "title").strip_prefix("What to do: ").unwrap();
                assert_eq!(
                    text(link, "url"),
                    format!("${{runbook}}#{}", title.to_lowercase())
                );
                linked.insert(title.to_owned());
            }
        }
        let links = dashboard.json["links"].as_array().unwrap();
        assert_eq!(
            links.len(),
            3,
            "{}: the others, alerts, runbook",
            dashboard.title
        );
    }
    assert_eq!(linked, alert_names(), "some panel links to each");
    names.extend(
        rules(ALERTS)
            .iter()
            .map(|alert| text(alert, "alert").replace("TurnWorker", "")),
    );
    for line in runbook.lines() {
        // Bold has two stars, and emphasis that is no name only small letters.
        let plain = line.replace("**", "");
        for name in plain.split('*').skip(1).step_by(2) {
            let is_name = name.starts_with(|c: char| c.is_ascii_uppercase());
            assert!(
                !is_name || names.contains(name),
                "{RUNBOOK}: no panel or alert {name:?}"
            );
        }
    }
}

#[test]
fn they_are_provisioned() {
    let folder = "ops/deploy/grafana/provisioning";
    let source = yaml(format!("{folder}/datasources/prometheus.yml"));
    let source = &source["datasources"][0];
    assert_eq!(source["type"], "prometheus");
    let interval = yaml(super::PROMETHEUS)["global"]["scrape_interval"].clone();
    assert_eq!(source["jsonData"]["timeInterval"], interval);
    let dashboards = yaml(format!("{folder}/dashboards/turn-worker.yml"));
    assert_eq!(dashboards["providers"][0]["type"], "file");
}

fn defaults(panel: &Value) -> &Value {
    &panel["fieldConfig"]["defaults"]
}

/// What an operator sees in an outage: a colour with a meaning, unknown as unknown, whole
/// numbers of things, one colour for one outcome, and the series that is not 0.
#[test]
fn panels_hold_in_bad_weather() {
    let mut colors = std::collections::BTreeMap::new();
    for dashboard in all() {
        for panel in dashboard.panels() {
            let name = format!("{}, {}", dashboard.title, text(panel, "title"));
            let of = defaults(panel);
            if of["unit"] == "none" {
                assert_eq!(of["decimals"], 0, "{name}");
            }
            let steps = of["thresholds"]["steps"].as_array().unwrap();
            if panel["type"] == "stat" {
                let informs = steps[0]["color"] == "text";
                assert!(
                    informs || steps.len() > 1,
                    "{name}: one colour for all values"
                );
                let unknown = &of["mappings"][0]["options"];
                assert_eq!(unknown["match"], "null+nan", "{name}");
                let color = if informs { "text" } else { "red" };
                assert_eq!(unknown["result"]["color"], color, "{name}");
                assert!(expressions(panel).all(|one| one.ends_with(" or vector(NaN)")));
            }
            if panel["type"] == "timeseries" {
                let drawn = &of["custom"];
                let stacked = drawn["stacking"]["mode"] == "normal";
                for expression in expressions(panel) {
                    assert!(
                        !stacked || expression.ends_with(" > 0"),
                        "{name}: {expression}"
                    );
                }
                let has_limit = steps.len() > 1;
                assert_eq!(
                    drawn["thresholdsStyle"]["mode"] == "line",
                    has_limit,
                    "{name}"
                );
                let legend = text(&panel["targets"][0], "legendFormat");
                let overrides = panel["fieldConfig"]["overrides"].as_array().unwrap();
                let fixed =
                    ["{{outcome}}", "{{reason}}", "{{code}}", "{{start}}"].contains(&legend);
                assert_eq!(fixed, !overrides.is_empty(), "{name}");
                for one in overrides {
                    let value = text(&one["matcher"], "options");
                    let color = text(&one["properties"][0]["value"], "fixedColor");
                    let known = colors
                        .entry(value.to_owned())
                        .or_insert_with(|| color.to_owned());
                    assert_eq!(known, color, "{name}: {value}");
                }
            }
        }
    }
    let named = StopReason::ALL.iter().map(|one| one.as_str());
    let named = named.chain(Reason::ALL.iter().map(|one| one.as_str()));
    for value in named.chain(ErrorCode::ALL.iter().map(|one| one.as_str())) {
        assert!(colors.contains_key(value), "no colour for {value}");
    }
}

/// The first thing on it.
#[test]
fn the_pool_dashboard_starts_with_the_alerts_that_fire() {
    let pool = all()
        .into_iter()
        .find(|one| one.title.ends_with("Pool"))
        .unwrap();
    let first = pool.panels().next().unwrap();
    assert_eq!(text(first, "title"), "Alerts firing");
    assert_eq!(first["gridPos"]["y"], 0);
}

/// The lines that panels show are where alerts fire.
#[test]
fn lines_are_the_alerts_limits() {
    let alerts = rules(ALERTS);
    for dashboard in all() {
        for panel in dashboard
            .panels()
            .filter(|panel| panel["type"] == "timeseries")
        {
            let Some(limit) = defaults(panel)["thresholds"]["steps"][1]["value"].as_f64() else {
                continue;
            };
            let mut links = panel["links"].as_array().into_iter().flatten();
            let fires = links.any(|link| {
                let name = text(link, "title").strip_prefix("What to do: ").unwrap();
                let mut of_that_name = alerts.iter().filter(|alert| alert["alert"] == name);
                of_that_name.any(|alert| {
                    let expression = text(alert, "expr");
                    expression.contains(&format!("> {limit}"))
                })
            });
            assert!(
                fires,
                "{}: no alert of it fires at {limit}",
                text(panel, "title")
            );
        }
    }
}
