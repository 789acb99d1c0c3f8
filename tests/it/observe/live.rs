//! Every expression of every panel and alert, put to a real Prometheus that
//! watches a real pool at work, and the broker that it is on.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::process::Command;

use super::dashboards::{self, Dashboard, expressions};
use super::prometheus::Prometheus;
use super::{ALERTS, RECORDING, log, path, rules, selectors, text};
use crate::support::broker::Broker;
use crate::support::hung::{HungFolder, leave};
use crate::support::pool::{Pool, persistent, turn};
use crate::support::ports::free_ports;

/// What gives no data when all is well, and so may be empty here: without a file
/// system that hangs, no process is unkillable.
const EMPTY_BY_NATURE: &[&str] = &[
    "turn-worker: Failures / Processes that can't be killed 0",
    "TurnWorkerProcessUnkillable turn_worker_unkillable_process_timestamp_seconds",
];

/// What the stand-in for codex does not report, or no turn here uses.
const NOT_REPORTED: &[&str] = &[
    // Of turns that name no model, or one that no setting names.
    "turn-worker: Tokens / Cost an hour 0",
    "turn-worker: Tokens / Cost an hour 1",
    "turn-worker: Tokens / Account's rate limits 0",
    "TurnWorkerUsageLimitNear turn_worker_codex_rate_limit_used_ratio",
    "TurnWorkerUsageLimitNear turn_worker_codex_rate_limit_reset_timestamp_seconds",
];

/// Grafana's own; the broker renews its queues' figures every 5 s.
const BUILT_IN: &[(&str, &str)] = &[
    ("$__rate_interval", "20s"),
    ("$__range_s", "300"),
    ("$__range", "5m"),
];

#[tokio::test]
async fn every_panel_and_alert_finds_its_data() {
    let [metrics] = free_ports();
    let conf = format!("prometheus.tcp.ip = 127.0.0.1\nprometheus.tcp.port = {metrics}\n");
    let start = move || Broker::configured("metrics", "rabbitmq_prometheus", |_| conf);
    let broker = tokio::task::spawn_blocking(start).await.unwrap();
    let prometheus = Prometheus::start(metrics);
    let mut pool = Pool::on(
        &broker.url(),
        1,
        &[
            ("CODEX_MODELS", "m1,m2,stand-in"),
            ("SLOTS", "8"),
            ("KILL_TIMEOUT", "1s"),
            // Its turns fail by them, and go on.
            ("ACCOUNT_FAULTS", " "),
            ("TENANTS", "a,b"),
            ("TENANT_FROM", "workspace"),
        ],
    )
    .await;
    pool.spawn(&[("CODEX_ENGINE", "app-server")]);
    pool.ready().await;
    prometheus.ready(pool.deadline).await;
    watch(&prometheus, &pool);

    let hung = HungFolder::at(&pool.stand_in_file("hung"));
    if hung.is_some() {
        hold(&mut pool).await;
    }
    let mut wanted = wanted(hung.is_some());
    for number in 0.. {
        round(&mut pool, number).await;
        if number == 1 {
            accidents(&mut pool, &broker, &prometheus).await;
        }
        find(&prometheus, &mut wanted).await;
        if wanted.is_empty() {
            break;
        }
        assert!(
            !pool.deadline.has_passed() && number < 60,
            "no data: {wanted:#?}"
        );
    }
    for process in pool.processes() {
        log::check(&process.log_text());
    }
    for dashboard in ["pool", "tokens", "failures", "broker"] {
        if dashboard != "failures" || hung.is_some() {
            draws(dashboard, &prometheus.url()).await;
        }
    }
    if hung.is_some() {
        drop(hung);
        pool.events.ended("held").await;
    }
    assert_eq!(prometheus.broken_rules().await.unwrap(), [""; 0]);
    pool.stop().await;
}

fn watch(prometheus: &Prometheus, pool: &Pool) {
    let workers = pool.processes().iter().map(|process| process.http_addr());
    prometheus.watch(&workers.map(|addr| addr.to_string()).collect::<Vec<_>>());
}

/// `ops/grafana/picture`, which made the README's.
async fn draws(dashboard: &str, prometheus: &str) {
    let picture = Command::new(path("ops/grafana/picture"))
        .args([
            "--prometheus",
            prometheus,
            "--minutes",
            "1",
            "--interval",
            "20s",
            dashboard,
        ])
        .kill_on_drop(true)
        .output();
    let picture = picture.await.unwrap();
    let drawn = String::from_utf8(picture.stdout).unwrap();
    assert!(
        picture.status.success(),
        "{dashboard}: {:?}",
        String::from_utf8(picture.stderr)
    );
    assert!(
        drawn.ends_with("</svg>\n") && !drawn.contains("no data"),
        "{drawn}"
    );
}

/// A workspace with a process that can't be killed, and a turn that waits for it, with any
/// set of workers.
async fn hold(pool: &mut Pool) {
    let leaves = leave(&pool.stand_in_file("hung"), &pool.stand_in_file("of"));
    pool.enqueue(&[turn("holds", "held", &[&leaves]), turn("held", "held", &[])])
        .await;
    pool.events.ended("holds").await;
}

/// Turns that end in each way that there is.
async fn round(pool: &mut Pool, number: u32) {
    let id = |name: &str| format!("{name}-{number}");
    let now = Timestamp::now().to_string();
    let good = ["think so", "run echo", "say hi", "reconnect"];
    let mut requests: Vec<Value> = ["a", "b", "c"]
        .map(|workspace| turn(&id(workspace), workspace, &good))
        .into();
    for (request, model) in requests.iter_mut().zip(["m1", "m2", "another"]) {
        request["model"] = json!(model);
        request["enqueued_at"] = json!(now);
    }
    let failures = [
        "unauthorized",
        "usage limit",
        "overloaded",
        "network",
        "unknown model",
    ];
    for (at, words) in failures.into_iter().enumerate() {
        let name = format!("f{at}");
        requests.push(turn(&id(&name), &name, &[&format!("fail {words}")]));
    }
    requests.push(turn(&id("exits"), "e", &["exit 3"]));
    requests.push(turn(
        &id("leaves"),
        "l",
        &[&format!("daemon {}", id("daemon"))],
    ));
    let mut slow = turn(&id("slow"), "s", &["hang"]);
    slow["timeout_s"] = json!(1);
    requests.push(slow);
    requests.push(turn(&id("cancelled"), "x", &["hang"]));
    requests.push(turn(&id("waits"), "x", &[]));
    requests.push(turn(&id("twice"), "t", &[]));
    requests.push(turn(&id("twice"), "t", &[]));
    let ids: Vec<String> = requests
        .iter()
        .map(|one| text(one, "turn_id").to_owned())
        .collect();
    pool.enqueue(&requests).await;
    pool.producer
        .enqueue_raw(&[(b"no request".to_vec(), persistent())])
        .await;
    pool.started(&id("cancelled"), 1).await;
    pool.cancel(&id("cancelled")).await;
    pool.events.all_ended(ids).await;
}

/// What happens now and then: connections are lost, and a worker.
async fn accidents(pool: &mut Pool, broker: &Broker, prometheus: &Prometheus) {
    pool.enqueue(&[turn("again", "again", &["wait go"])]).await;
    let run = pool.started("again", 1).await;
    broker.close_all_connections(&broker.url());
    let victim = pool.process_of(&run);
    pool.process(victim).kill();
    pool.spawn(&[]);
    pool.ready().await;
    watch(prometheus, pool);
    pool.started("again", 2).await;
    pool.release("go");
    pool.events.ended("again").await;
}

/// What must give data, by what it is for.
fn wanted(unkillable: bool) -> BTreeMap<String, String> {
    let mut wanted = BTreeMap::new();
    for dashboard in dashboards::all() {
        let Dashboard { title, .. } = &dashboard;
        for panel in dashboard.panels() {
            for (number, expression) in expressions(panel).enumerate() {
                let name = format!("{title} / {} {number}", text(panel, "title"));
                wanted.insert(name, substituted(expression, &dashboard));
            }
        }
        for annotation in dashboard.json["annotations"]["list"].as_array().unwrap() {
            let name = format!("{title} / annotation {}", text(annotation, "name"));
            wanted.insert(name, text(annotation, "expr").to_owned());
        }
        for variable in dashboard.variables() {
            if variable["type"] == "query" {
                let name = format!("{title} / ${}", text(variable, "name"));
                wanted.insert(name, substituted(text(variable, "definition"), &dashboard));
            }
        }
    }
    for rule in rules(RECORDING) {
        wanted.insert(
            text(&rule, "record").to_owned(),
            text(&rule, "record").to_owned(),
        );
    }
    for rule in rules(ALERTS) {
        for selector in selectors(text(&rule, "expr")) {
            let name = format!("{} {selector}", text(&rule, "alert"));
            wanted.insert(name, selector);
        }
    }
    for name in NOT_REPORTED {
        assert!(wanted.remove(*name).is_some(), "nothing is called {name:?}");
    }
    for name in EMPTY_BY_NATURE {
        assert!(wanted.contains_key(*name), "nothing is called {name:?}");
        if !unkillable {
            wanted.remove(*name);
        }
    }
    wanted
}

/// As Grafana does it, with all of each variable chosen.
fn substituted(expression: &str, dashboard: &Dashboard) -> String {
    let mut expression = expression.to_owned();
    for (name, value) in BUILT_IN {
        expression = expression.replace(name, value);
    }
    for variable in dashboard.variables() {
        let value = match variable["type"].as_str() {
            Some("query") => text(variable, "allValue"),
            Some("textbox") => text(variable, "query"),
            _ => continue,
        };
        expression = expression.replace(&format!("${}", text(variable, "name")), value);
    }
    expression
}

/// Takes out what has data now. What is no expression at all fails at once.
async fn find(prometheus: &Prometheus, wanted: &mut BTreeMap<String, String>) {
    let mut left = BTreeMap::new();
    for (name, expression) in std::mem::take(wanted) {
        let variable = expression.strip_prefix("label_values(");
        let found = match variable.and_then(|rest| rest.strip_suffix(')')?.rsplit_once(", ")) {
            Some((selector, label)) => {
                let values = prometheus.label_values(selector, label).await;
                values.map(|values| !values.is_empty())
            }
            None => prometheus
                .values(&expression)
                .await
                .map(|values| !values.is_empty()),
        };
        let found = found.unwrap_or_else(|error| panic!("{name}: {error}: {expression}"));
        if !found {
            left.insert(name, expression);
        }
    }
    *wanted = left;
}
