//! Alerts and recorded series: Prometheus takes them, each alert fires in its
//! case and not in the near miss, and leads to the runbook.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde_json::Value;

use super::{ALERTS, PROMETHEUS, RECORDING, RUNBOOK};
use super::{alert_names, exported, files, name_of, path, read, rules, selectors, text, yaml};

const TESTS: &str = "ops/prometheus/tests";

fn promtool(arguments: &[&str]) {
    let output = Command::new("promtool")
        .args(arguments)
        .current_dir(path("."))
        .output()
        .unwrap_or_else(|error| panic!("promtool: {error}; ops/setup installs it"));
    let said = [output.stdout, output.stderr].concat();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&said)
    );
}

#[test]
fn prometheus_takes_the_configuration() {
    promtool(&["check", "config", PROMETHEUS]);
}

#[test]
fn each_alert_fires_in_its_case_and_is_silent_in_a_near_miss() {
    let tests = files(TESTS, "yml");
    let tests: Vec<&str> = tests.iter().map(|file| file.to_str().unwrap()).collect();
    promtool(&[&["test", "rules"][..], &tests].concat());
}

#[test]
fn no_alert_is_without_a_case_and_a_near_miss() {
    let mut fires = BTreeSet::new();
    let mut silent = BTreeSet::new();
    for file in files(TESTS, "yml") {
        let all = yaml(&file);
        for test in all["tests"].as_array().unwrap() {
            for alert in test["alert_rule_test"].as_array().unwrap() {
                let name = text(alert, "alertname").to_owned();
                match alert["exp_alerts"].as_array().unwrap().is_empty() {
                    true => silent.insert(name),
                    false => fires.insert(name),
                };
            }
        }
    }
    assert_eq!(fires, alert_names(), "fire in their case");
    assert_eq!(silent, alert_names(), "are silent in a near miss");
}

#[test]
fn each_alert_describes_itself_and_links_to_the_runbook() {
    for alert in rules(ALERTS) {
        let name = text(&alert, "alert");
        assert!(name.starts_with("TurnWorker"), "{name}");
        let severity = text(&alert["labels"], "severity");
        assert!(
            ["critical", "warning"].contains(&severity),
            "{name}: {severity}"
        );
        let annotations = &alert["annotations"];
        let link = format!("{{{{ $externalLabels.runbook }}}}#{}", name.to_lowercase());
        assert_eq!(text(annotations, "runbook_url"), link);
        for field in ["summary", "description"] {
            assert!(!text(annotations, field).is_empty(), "{name}: {field}");
        }
    }
    let runbook = text(&yaml(PROMETHEUS)["global"]["external_labels"], "runbook").to_owned();
    assert_eq!(runbook, RUNBOOK);
}

/// In the order of the alerts' file: what to know of each, without those that are gone.
#[test]
fn the_runbook_has_a_section_for_each_alert() {
    let runbook = read(RUNBOOK);
    let sections: BTreeMap<&str, &str> = runbook
        .split("\n### ")
        .skip(1)
        .map(|section| section.split_once('\n').unwrap())
        .collect();
    let told = sections.keys().map(|name| (*name).to_owned());
    assert_eq!(told.collect::<BTreeSet<_>>(), alert_names());
    for (name, section) in sections {
        for part in ["**Means** ", "**Look** ", "**Do** ", "**Over** "] {
            assert_eq!(section.matches(part).count(), 1, "{name}: {part}");
        }
    }
}

/// A misspelt name would never fire.
#[test]
fn rules_ask_for_series_that_workers_or_rules_make() {
    let mut made = exported();
    let recorded = rules(RECORDING);
    made.extend(recorded.iter().map(|rule| text(rule, "record").to_owned()));
    for rule in recorded.iter().chain(&rules(ALERTS)) {
        let all = selectors(text(rule, "expr"));
        assert!(!all.is_empty(), "{rule:#}");
        for selector in all {
            let name = name_of(&selector);
            let is_ours = name.contains("turn_worker_");
            assert!(!is_ours || made.contains(name), "{rule:#}: {name}");
        }
    }
}

#[test]
fn every_recorded_series_is_used() {
    let asked: BTreeSet<String> = rules(ALERTS)
        .iter()
        .flat_map(|rule| selectors(text(rule, "expr")))
        .map(|selector| name_of(&selector).to_owned())
        .collect();
    for rule in rules(RECORDING) {
        let name = text(&rule, "record");
        assert!(asked.contains(name), "no alert asks for {name}");
    }
}

/// A burst, or a single bad turn, is no reason to page.
#[test]
fn counts_are_asked_for_in_a_long_and_a_short_window() {
    for alert in rules(ALERTS) {
        let (name, expression) = (text(&alert, "alert"), text(&alert, "expr"));
        let waits = alert["for"].is_string();
        // Of a rate that goes on for hours.
        let by_rate = expression.contains("rate1h");
        if waits && !by_rate && expression.contains("increase") {
            let windows: BTreeSet<&str> = ["1h]", "15m", "10m]", "5m", "3m]", "2m]"]
                .into_iter()
                .filter(|window| expression.contains(window))
                .collect();
            assert!(
                windows.len() >= 2 || expression.contains(">= 3"),
                "{name}: {expression}"
            );
        }
    }
}

#[test]
fn the_operators_rules_are_these_rules() {
    let check = Command::new(path("ops/prometheus/operator"))
        .arg("--check")
        .output();
    let check = check.unwrap();
    assert!(check.status.success(), "{check:?}");
    let object = yaml("ops/deploy/prometheus/prometheusrule.yaml");
    let groups = object["spec"]["groups"].as_array().unwrap();
    let rules_of = |file: &str| yaml(file)["groups"].as_array().unwrap().clone();
    assert_eq!(*groups, [rules_of(RECORDING), rules_of(ALERTS)].concat());
}

/// Routes by the severities that there are; inhibitions by alerts that there are.
#[test]
fn the_example_for_alertmanager_fits_the_alerts() {
    let config = yaml("ops/deploy/prometheus/alertmanager.yml");
    let receivers: BTreeSet<&str> = (config["receivers"].as_array().unwrap().iter())
        .map(|receiver| text(receiver, "name"))
        .collect();
    let route = &config["route"];
    let mut severities = BTreeSet::new();
    for route in route["routes"].as_array().unwrap() {
        assert!(receivers.contains(text(route, "receiver")), "{route}");
        for matcher in route["matchers"].as_array().unwrap() {
            let severity = matcher.as_str().unwrap().strip_prefix("severity = ");
            severities.extend(severity.map(str::to_owned));
        }
    }
    assert!(receivers.contains(text(route, "receiver")));
    let used = rules(ALERTS);
    let used = used
        .iter()
        .map(|alert| text(&alert["labels"], "severity").to_owned());
    assert_eq!(severities, used.collect());
    let alerts = alert_names();
    for rule in config["inhibit_rules"].as_array().unwrap() {
        for side in ["source_matchers", "target_matchers"] {
            for matcher in rule[side].as_array().unwrap() {
                let matcher = matcher.as_str().unwrap();
                let Some(names) = matcher.strip_prefix("alertname =~ ") else {
                    assert!(matcher.starts_with("severity = "), "{matcher}");
                    continue;
                };
                for name in names.split('|') {
                    assert!(alerts.contains(name), "{matcher}: {name}");
                }
            }
        }
    }
}

/// `docker-compose.yml` and the code say where the metrics are.
#[test]
fn what_is_scraped_is_where_it_is_served() {
    let config = yaml(PROMETHEUS);
    let (settings, _) = turn_worker::config::Settings::from_vars([]).unwrap();
    let compose = yaml("docker-compose.yml");
    for scrape in config["scrape_configs"].as_array().unwrap() {
        let service = &scrape["dns_sd_configs"][0];
        let name = service["names"][0].as_str().unwrap();
        assert!(compose["services"][name].is_object(), "no service {name}");
        let port = match text(scrape, "job_name") {
            "turn-worker" => u64::from(settings.http_addr.port()),
            _ => 15692,
        };
        assert_eq!(service["port"], Value::from(port));
    }
}
