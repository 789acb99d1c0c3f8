//! Pools without shared storage: each workspace lives on the disk of one host.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::support::pool::{Pool, turn};

/// Where the log of homes is.
const HOMES: &str = "codex.turns.homes";
const LOCAL: (&str, &str) = ("WORKSPACE_STORAGE", "local");

/// A pool of hosts that share nothing, each with one process.
struct Hosts {
    pool: Pool,
    roots: Vec<PathBuf>,
}

impl Hosts {
    async fn start(hosts: usize, settings: &[(&str, &str)]) -> Self {
        let settings: Vec<_> = [LOCAL, ("SLOTS", "1")]
            .into_iter()
            .chain(settings.iter().copied())
            .collect();
        let pool = Pool::start(0, &settings).await;
        let root = |number| pool.root().with_file_name(format!("disk-{number}"));
        let roots = (0..hosts).map(root).collect();
        let mut hosts = Self { pool, roots };
        for number in 0..hosts.roots.len() {
            hosts.spawn(number);
        }
        hosts.pool.ready().await;
        // Each has reported since all listen.
        hosts.pool.heartbeats(3 * hosts.roots.len()).await;
        hosts
    }

    /// Two hosts, after the turn `a1` in workspace `a`; with the number of its home, and
    /// that of the other.
    async fn start_with_a() -> (Self, usize, usize) {
        let mut hosts = Self::start(2, &[]).await;
        hosts.pool.enqueue(&[turn("a1", "a", &[])]).await;
        hosts.pool.events.ended("a1").await;
        hosts.pool.idle().await;
        let home = hosts.homes("a")[0];
        (hosts, home, 1 - home)
    }

    /// A process of that host.
    fn spawn(&mut self, host: usize) -> usize {
        let root = self.roots[host].to_str().unwrap().to_owned();
        let name = host_name(host);
        self.pool
            .spawn(&[("WORKSPACE_ROOT", &root), ("WORKSPACE_HOST", &name)])
    }

    /// The hosts on which the workspace's directory is.
    fn homes(&self, workspace: &str) -> Vec<usize> {
        let roots = self.roots.iter().enumerate();
        let has = roots.filter(|(_, root)| root.join(workspace).is_dir());
        has.map(|(number, _)| number).collect()
    }

    /// Copies a workspace and its records, as the docs say.
    fn copy(&self, workspace: &str, from: usize, to: usize) {
        for part in [
            workspace.to_owned(),
            format!(".turn-worker/workspaces/{workspace}"),
        ] {
            let (from, to) = (self.roots[from].join(&part), self.roots[to].join(&part));
            fs::create_dir_all(to.parent().unwrap()).unwrap();
            let copied = Command::new("cp").arg("-a").arg(&from).arg(&to).status();
            assert!(copied.unwrap().success());
        }
    }

    async fn command(&self, arguments: &[&str]) -> (bool, String) {
        command(&self.pool.url, arguments).await
    }

    /// Why the turns of a workspace wait, as `status` shows it.
    async fn why(&self, workspace: &str) -> String {
        let (_, shown) = self.command(&["status", "--json"]).await;
        let Ok(status) = serde_json::from_str::<Value>(&shown) else {
            return shown;
        };
        let lines = status["backlog"]["top"].as_array().cloned();
        let lines = lines.unwrap_or_default();
        let line = lines.iter().find(|line| line["workspace"] == workspace);
        let why = line.and_then(|line| line["why"].as_str());
        why.unwrap_or_default().to_owned()
    }

    async fn until_why(&self, workspace: &str, start: &str) {
        let probe = async || {
            let why = self.why(workspace).await;
            why.starts_with(start).then_some(())
        };
        self.pool.deadline.until("status says why", probe).await;
    }
}

fn host_name(host: usize) -> String {
    format!("host-{host}")
}

async fn command(url: &str, arguments: &[&str]) -> (bool, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_turn-worker"));
    command
        .args(arguments)
        .env_clear()
        .env("TURN_WORKER_AMQP_URL", url)
        .env("TURN_WORKER_WORKSPACE_STORAGE", "local");
    let output = tokio::task::spawn_blocking(move || command.output().unwrap());
    let output = output.await.unwrap();
    let shown = String::from_utf8_lossy(&output.stdout).into_owned();
    (
        output.status.success(),
        shown + &String::from_utf8_lossy(&output.stderr),
    )
}

fn root_id(root: &Path) -> String {
    let id = fs::read_to_string(root.join(".turn-worker/root-id")).unwrap();
    id.trim().to_owned()
}

/// Guards `Queue::needs_home` and `HostQueue`: a workspace lives where its first turn ran.
#[tokio::test]
async fn g1_without_shared_storage_a_workspaces_turns_run_on_one_host() {
    let mut hosts = Hosts::start(2, &[]).await;
    let mut ids = Vec::new();
    for round in 0..4 {
        for workspace in ["a", "b", "c", "d"] {
            let id = format!("{workspace}{round}");
            hosts.pool.enqueue(&[turn(&id, workspace, &[])]).await;
            ids.push(id);
        }
    }
    hosts.pool.events.all_ended(&ids).await;
    let homes: Vec<_> = ["a", "b", "c", "d"]
        .map(|workspace| hosts.homes(workspace))
        .into();
    assert!(homes.iter().all(|home| home.len() == 1), "{homes:?}");
    let (ok, shown) = hosts.command(&["home", "list", "--json"]).await;
    assert!(ok, "{shown}");
    let home = hosts.homes("a")[0];
    assert!(shown.contains(&root_id(&hosts.roots[home])), "{shown}");
    hosts.pool.stop().await;
}

/// Guards `HomesLog`: what the active sequencer knew, the next one reads.
#[tokio::test]
async fn g1_homes_outlive_sequencers_and_a_home_that_is_away_is_waited_for() {
    let (mut hosts, home, other) = Hosts::start_with_a().await;
    hosts.pool.process(home).kill();
    hosts.pool.enqueue(&[turn("a2", "a", &[])]).await;
    hosts.pool.enqueue(&[turn("b1", "b", &[])]).await;
    // A new workspace does not wait for it.
    hosts.pool.events.ended("b1").await;
    hosts
        .until_why("a", &format!("home {} is away", host_name(home)))
        .await;
    let condition = r#"turn_worker_condition{condition="home_away"}"#;
    hosts.pool.process(other).metric_is(condition, 1.0).await;
    assert_eq!(hosts.homes("a"), [home]);
    hosts.spawn(home);
    hosts.pool.events.ended("a2").await;
    assert_eq!(hosts.homes("a"), [home]);
    assert_eq!(hosts.homes("b"), [other]);
    hosts.pool.process(other).metric_is(condition, 0.0).await;
    hosts.pool.stop().await;
}

/// Guards `Actor::ask`: the active sequencer decides turns of workspaces that live elsewhere.
#[tokio::test]
async fn g5_waiting_turns_are_decided_on_the_disk_that_their_workspace_lives_on() {
    let mut hosts = Hosts::start(2, &[]).await;
    // Of two workspaces one lives elsewhere than the active sequencer.
    let first = [
        turn("a1", "a", &["say hi", "wait go"]),
        turn("b1", "b", &["say hi", "wait go"]),
    ];
    hosts.pool.enqueue(&first).await;
    hosts.pool.started("a1", 1).await;
    hosts.pool.started("b1", 1).await;
    for workspace in ["a", "b"] {
        let id = |number: usize| format!("{workspace}{number}");
        let mut busy = turn(&id(3), workspace, &[]);
        busy["on_busy"] = json!("reject");
        let mut late = turn(&id(4), workspace, &[]);
        late["start_within_s"] = json!(1);
        let waits = turn(&id(2), workspace, &[]);
        hosts.pool.enqueue(&[waits, busy, late]).await;
        hosts.pool.cancel(&id(2)).await;
        hosts.pool.events.all_ended([id(2), id(3), id(4)]).await;
        let turn = |number| hosts.pool.events.turn(&id(number));
        assert_eq!(turn(2).stop_reason(), "cancelled");
        assert_eq!(turn(3).error_code(), Some("workspace.busy"));
        assert_eq!(turn(4).error_code(), Some("turn.expired"));
    }
    hosts.pool.release("go");
    hosts.pool.events.all_ended(["a1", "b1"]).await;
    assert_eq!(hosts.homes("a").len() + hosts.homes("b").len(), 2);
    hosts.pool.stop().await;
}

/// Guards `Queue::disk_lost` and `Verdict::HostLost`.
#[tokio::test]
async fn g4_open_turns_of_a_lost_disk_end_with_an_error_and_run_nowhere() {
    let mut hosts = Hosts::start(2, &[]).await;
    let script = ["say hi", "wait never"];
    hosts.pool.enqueue(&[turn("a1", "a", &script)]).await;
    hosts.pool.started("a1", 1).await;
    hosts.pool.enqueue(&[turn("a2", "a", &[])]).await;
    let home = hosts.homes("a")[0];
    hosts.pool.process(home).kill();
    hosts
        .until_why("a", &format!("home {} is away", host_name(home)))
        .await;
    let (ok, shown) = hosts.command(&["home", "lost", &host_name(home)]).await;
    assert!(ok, "{shown}");
    hosts.pool.events.all_ended(["a1", "a2"]).await;
    for id in ["a1", "a2"] {
        assert_eq!(
            hosts.pool.events.turn(id).error_code(),
            Some("workspace.lost")
        );
    }
    hosts.pool.enqueue(&[turn("a3", "a", &[])]).await;
    hosts.pool.events.ended("a3").await;
    assert_eq!(hosts.pool.events.turn("a3").stop_reason(), "end_turn");
    assert_eq!(hosts.homes("a").len(), 2);
    assert_eq!(hosts.pool.runs().of_turn("a1").count(), 1);
    // One that comes back is told so, and takes no turns.
    let back = hosts.spawn(home);
    hosts.pool.process(back).unready("disk_lost").await;
    hosts.pool.process(back).kill();
    hosts.pool.stop().await;
}

/// Guards `Workspace::leave_for`, and that orders are kept until they are carried out.
#[tokio::test]
async fn g1_a_paused_workspace_is_moved_to_another_hosts_disk() {
    let (mut hosts, home, other) = Hosts::start_with_a().await;
    let (ok, shown) = hosts.command(&["pause", "a"]).await;
    assert!(ok, "{shown}");
    let (ok, shown) = hosts
        .command(&["home", "move", "a", &host_name(other)])
        .await;
    assert!(ok, "{shown}");
    hosts.pool.enqueue(&[turn("a2", "a", &[])]).await;
    let moved = hosts.roots[home].join(".turn-worker/workspaces/a/.state/moved");
    let left = async || moved.is_file().then_some(());
    hosts
        .pool
        .deadline
        .until("the disk lets go of it", left)
        .await;
    hosts.copy("a", home, other);
    let (ok, shown) = hosts.command(&["resume", "a"]).await;
    assert!(ok, "{shown}");
    hosts.pool.events.ended("a2").await;
    let run = hosts.pool.started("a2", 1).await;
    let there = hosts.roots[other].join("a").canonicalize().unwrap();
    assert_eq!(Path::new(&run.workspace), there);
    hosts.pool.stop().await;
}

/// Guards `Session::carry_out`: an order that can't be carried out is answered.
#[tokio::test]
async fn orders_that_cannot_be_carried_out_are_rejected_with_the_reason() {
    let (hosts, home, other) = Hosts::start_with_a().await;
    let (home, other) = (host_name(home), host_name(other));
    let url = &hosts.pool.url;
    let rejected = async |arguments: Vec<&str>, why: &str| {
        let (ok, shown) = command(url, &arguments).await;
        assert!(!ok && shown.contains("rejected"), "{arguments:?}: {shown}");
        assert!(shown.contains(why), "{arguments:?}: {shown}");
    };
    let unknown = "no disk of a host called host-9, expected host-0, host-1";
    tokio::join!(
        rejected(vec!["home", "move", "a", &other], "found a not paused"),
        rejected(vec!["home", "move", "b", &other], "found no home of b"),
        rejected(vec!["home", "move", "a", "host-9"], unknown),
        rejected(vec!["home", "lost", "host-9"], unknown),
        rejected(vec!["home", "lost", &home], "that are heard"),
    );
    hosts.pool.stop().await;
}

/// Guards `HomesLog::tidy`: what snapshots stand for is known after the next takeovers.
#[tokio::test]
async fn g1_homes_outlive_a_log_that_was_replaced_by_snapshots() {
    let mut hosts = Hosts::start(2, &[]).await;
    for host in [0, 1] {
        hosts.spawn(host);
    }
    hosts.pool.ready().await;
    let names: Vec<String> = (0..20).map(|number| format!("w{number}")).collect();
    let turns = |round: usize| {
        let turns = names
            .iter()
            .map(|name| turn(&format!("{name}-{round}"), name, &[]));
        turns.collect::<Vec<_>>()
    };
    let ids = |round: usize| names.iter().map(move |name| format!("{name}-{round}"));
    hosts.pool.enqueue(&turns(1)).await;
    hosts.pool.events.all_ended(ids(1)).await;
    hosts.pool.idle().await;
    let before: Vec<_> = names.iter().map(|name| hosts.homes(name)).collect();
    for round in [2, 3] {
        let active = hosts.pool.active_sequencer().await;
        hosts.pool.process(active).kill();
        // One of each host is left.
        hosts.spawn(active % 2);
        hosts.pool.enqueue(&turns(round)).await;
        hosts.pool.events.all_ended(ids(round)).await;
        hosts.pool.idle().await;
    }
    // Its reader has them unacked: what is ready is seen once none reads.
    for number in 0..hosts.pool.processes().len() {
        if hosts.pool.processes()[number].lives() {
            hosts.pool.process(number).terminate();
            assert_eq!(hosts.pool.process(number).exited().await, Some(0));
        }
    }
    hosts.pool.ready_in(HOMES, 2).await;
    let after: Vec<_> = names.iter().map(|name| hosts.homes(name)).collect();
    assert_eq!(before, after);
}

/// Guards `Actor::keep_home`: a disk that a workspace was moved away from can be its home again.
#[tokio::test]
async fn g1_a_workspace_returns_to_the_disk_it_left_when_its_new_one_is_lost() {
    let (mut hosts, home, other) = Hosts::start_with_a().await;
    let (ok, shown) = hosts.command(&["pause", "a"]).await;
    assert!(ok, "{shown}");
    let to = host_name(other);
    let (ok, shown) = hosts.command(&["home", "move", "a", &to]).await;
    assert!(ok && shown.contains("lives on"), "{shown}");
    hosts.copy("a", home, other);
    hosts.pool.process(other).kill();
    // A turn makes the sequencer that is left the active one, which carries orders out.
    hosts.pool.enqueue(&[turn("b1", "b", &[])]).await;
    hosts.pool.events.ended("b1").await;
    let (ok, shown) = hosts.command(&["home", "lost", &to]).await;
    assert!(ok, "{shown}");
    let (ok, shown) = hosts.command(&["resume", "a"]).await;
    assert!(ok, "{shown}");
    hosts.pool.enqueue(&[turn("a2", "a", &[])]).await;
    hosts.pool.events.ended("a2").await;
    assert_eq!(hosts.pool.events.turn("a2").stop_reason(), "end_turn");
    hosts.pool.stop().await;
}
