//! What the tiles of *Pool* show in each incident: a worker's own metrics, as it would
//! export them then, put to a real Prometheus.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde_json::Value;
use turn_worker::conditions::Conditions;
use turn_worker::config::Roles;
use turn_worker::host::{Host, Lack};
use turn_worker::http::{self, Health};
use turn_worker::metrics::{Backlog, Metrics};

use super::dashboards::{self, expressions};
use super::prometheus::Prometheus;
use super::text;
use crate::support::pool::Deadline;
use crate::support::ports::free_ports;

/// An incident, and the tiles that are not green in it.
struct Incident {
    name: &'static str,
    happens: fn(&Metrics),
    shown: &'static [(&'static str, &'static str)],
}

const INCIDENTS: &[Incident] = &[
    Incident {
        name: "all is well",
        happens: |_| {},
        shown: &[],
    },
    Incident {
        name: "the broker is down",
        happens: |metrics| {
            metrics.set_connected(false);
            metrics.set_consumer_active(false);
            metrics.set_sequencer_active(false);
            metrics.set_backlog(None);
        },
        shown: &[
            ("Taking turns", "red"),
            ("Sequencers active", "orange"),
            ("Turns held", "unknown"),
            ("Longest wait", "unknown"),
        ],
    },
    Incident {
        name: "the login has expired",
        happens: |metrics| {
            metrics.set_consumer_active(false);
            metrics.set_host_unfit(Lack::Auth, true);
            metrics.set_backlog(waiting(40, 700));
        },
        shown: &[
            ("Taking turns", "red"),
            ("Longest wait", "orange"),
            ("Hosts unfit", "red"),
        ],
    },
    Incident {
        name: "the disk is full",
        happens: |metrics| {
            metrics.set_consumer_active(false);
            metrics.set_host_unfit(Lack::Disk, true);
        },
        shown: &[("Taking turns", "red"), ("Hosts unfit", "red")],
    },
    Incident {
        name: "a workspace is hot",
        happens: |metrics| metrics.set_backlog(waiting(8_500, 2_100)),
        shown: &[("Turns held", "orange"), ("Longest wait", "red")],
    },
    Incident {
        name: "a workspace stands still",
        happens: |metrics| metrics.set_backlog(waiting(3, 2_100)),
        shown: &[("Longest wait", "red")],
    },
    Incident {
        name: "the sequencer hangs",
        happens: |metrics| {
            metrics.set_sequencer_active(false);
            metrics.set_backlog(None);
        },
        shown: &[
            ("Sequencers active", "orange"),
            ("Turns held", "unknown"),
            ("Longest wait", "unknown"),
        ],
    },
];

fn waiting(turns: usize, oldest_s: u64) -> Option<Backlog> {
    Some(Backlog {
        turns,
        workspaces: 1,
        oldest: Instant::now().checked_sub(Duration::from_secs(oldest_s)),
    })
}

/// Serves what a worker would that is well but for the incident.
async fn worker(incident: &Incident) -> SocketAddr {
    let metrics = Metrics::new(None);
    metrics.set_slots(8);
    metrics.set_turn_timeout(Duration::from_secs(3600));
    metrics.set_connected(true);
    metrics.set_consumer_active(true);
    metrics.set_sequencer_active(true);
    metrics.set_backlog(Some(Backlog::default()));
    (incident.happens)(&metrics);
    let roles = Roles {
        sequencer: true,
        worker: true,
    };
    let host = Host::new([], Metrics::new(None));
    let health = Health::new(roles, host, Conditions::new(Metrics::new(None)));
    let listener = http::bind(([127, 0, 0, 1], 0).into()).await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(http::serve(
        listener,
        metrics,
        health,
        std::future::pending(),
    ));
    addr
}

/// The colour of a tile, or `unknown`.
async fn colour(prometheus: &Prometheus, panel: &Value, instance: &str) -> String {
    let expression = expressions(panel).next().unwrap();
    let expression = expression
        .replace("$job", "turn-worker")
        .replace("$instance", instance)
        .replace("$__range", "5m");
    let values = prometheus.values(&expression).await.unwrap();
    let [value] = values[..] else {
        assert!(values.is_empty(), "{expression}: {values:?}");
        return "unknown".to_owned();
    };
    let steps = &panel["fieldConfig"]["defaults"]["thresholds"]["steps"];
    let mut steps = steps.as_array().unwrap().iter();
    let holds = |step: &&Value| step["value"].as_f64().is_none_or(|from| value >= from);
    text(steps.rfind(holds).unwrap(), "color").to_owned()
}

#[tokio::test]
async fn the_tiles_show_each_incident() {
    let [no_broker] = free_ports();
    let prometheus = Prometheus::start(no_broker);
    let mut instances = Vec::new();
    for incident in INCIDENTS {
        instances.push(worker(incident).await.to_string());
    }
    let deadline = Deadline::of_a_test();
    prometheus.ready(deadline).await;
    prometheus.watch(&instances);
    let all_seen = async || {
        let seen = prometheus.values("turn_worker_slots").await.ok()?;
        (seen.len() == INCIDENTS.len()).then_some(())
    };
    deadline.until("all are scraped", all_seen).await;

    let dashboards = dashboards::all();
    let pool = dashboards.iter().find(|one| one.title.ends_with("Pool"));
    let tiles: Vec<&Value> = pool
        .unwrap()
        .panels()
        .filter(|panel| panel["type"] == "stat")
        // What is of the time shown, and not of now.
        .filter(|panel| !text(panel, "title").ends_with("in this time"))
        .collect();
    for (incident, instance) in INCIDENTS.iter().zip(&instances) {
        let mut expected: BTreeMap<&str, &str> = BTreeMap::new();
        for tile in &tiles {
            expected.insert(text(tile, "title"), "green");
        }
        for (tile, colour) in incident.shown {
            assert!(expected.insert(tile, colour).is_some(), "no tile {tile}");
        }
        for tile in &tiles {
            let (title, shown) = (
                text(tile, "title"),
                colour(&prometheus, tile, instance).await,
            );
            assert_eq!(shown, expected[title], "{}: {title}", incident.name);
        }
    }
    // Without any worker no panel is green either.
    for tile in &tiles {
        assert_eq!(colour(&prometheus, tile, "none").await, "unknown");
    }
}
