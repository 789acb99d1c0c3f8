//! The users that `ops/deploy/rabbitmq/users` makes, on one virtual host.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

use serde::{Deserialize, Serialize};
use tokio::runtime::Handle;
use tokio::task::spawn_blocking;

use turn_worker::amqp::connect::Connector;
use turn_worker::amqp::link::Link;
use turn_worker::amqp::topology::Topology;

use crate::support::broker::Broker;
use crate::support::shared::shared;

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/ops/deploy/rabbitmq/users");

/// What the users' passwords have in common.
const MARK: &str = "zQ7";

#[derive(Serialize, Deserialize)]
pub struct Users {
    /// As the one who may do everything.
    pub admin: String,
    pub worker: String,
    pub producer: String,
    pub reader: String,
    /// A worker that may keep the event log, and a reader that may read it.
    pub keeper: String,
    pub late: String,
    pub operator: String,
    /// A producer that hears only of turns that start with its name.
    pub own: String,
    /// The name of that one.
    pub own_name: String,
    /// Every argument of every process that the script started.
    pub arguments: String,
}

impl Users {
    /// The first call in a run makes them, which takes seconds.
    pub async fn get() -> Self {
        let runtime = Handle::current();
        let get = move || shared("users", || runtime.block_on(Self::make()));
        spawn_blocking(get).await.unwrap()
    }

    async fn make() -> Self {
        let admin = Broker::vhost();
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("arguments");
        let ctl = dir.path().join("ctl");
        let node: Vec<String> = Broker::shared()
            .ctl_command()
            .iter()
            .map(|word| format!("'{}'", word.to_str().unwrap()))
            .collect();
        let text = format!(
            "#!/bin/sh\nprintf '%s\\n' \"$@\" >>'{}'\nexec {} \"$@\"\n",
            log.display(),
            node.join(" ")
        );
        std::fs::write(&ctl, text).unwrap();
        std::fs::set_permissions(&ctl, PermissionsExt::from_mode(0o755)).unwrap();

        let vhost = vhost(&admin);
        let make = |role: &str, name: &str, more: &[&str]| {
            let name = format!("{name}-{vhost}");
            let password = format!("{MARK}-{name}");
            let mut script = Command::new(SCRIPT)
                .args(["set", role, &name, "--vhost", vhost, "--password-file", "-"])
                .args(more)
                .env("RABBITMQCTL", &ctl)
                .stdin(Stdio::piped())
                .stdout(Stdio::null())
                .spawn()
                .unwrap();
            let mut stdin = script.stdin.take().unwrap();
            stdin.write_all(password.as_bytes()).unwrap();
            drop(stdin);
            assert!(script.wait().unwrap().success());
            as_user(&admin, &name, &password)
        };
        let worker = make("worker", "worker", &[]);
        let producer = make("producer", "producer", &[]);
        let reader = make("reader", "reader", &[]);
        let keeper = make("worker", "keeper", &["--event-log"]);
        let late = make("reader", "late", &["--event-log"]);
        let operator = make("operator", "operator", &[]);
        // A permission on the events' exchange needs that exchange.
        declare(&worker).await;
        let own = make("producer", "own", &["--own-turns"]);
        Self {
            worker,
            producer,
            reader,
            keeper,
            late,
            operator,
            own,
            own_name: format!("own-{vhost}"),
            arguments: std::fs::read_to_string(log).unwrap(),
            admin,
        }
    }
}

pub fn vhost(url: &str) -> &str {
    url.rsplit_once('/').unwrap().1
}

/// The URL of another user in the same virtual host.
pub fn as_user(url: &str, name: &str, password: &str) -> String {
    url.replacen("guest:guest", &format!("{name}:{password}"), 1)
}

pub async fn link(url: &str) -> Link {
    let url = url.to_owned();
    let connector = Connector::new("test", move || Ok(url.as_str().into()));
    connector.connect().await.unwrap()
}

/// By the worker's user, which is thereby seen to have all rights.
async fn declare(worker: &str) {
    let link = link(worker).await;
    let topology = Topology::new("codex", 10_000);
    topology.declare(&link).await.unwrap();
    assert_eq!(topology.missing_rights(&link).await.unwrap(), []);
    link.close().await;
}

#[tokio::test]
async fn g8_no_password_is_an_argument_of_a_process() {
    let users = Users::get().await;
    assert!(
        users.arguments.contains("add_user\n"),
        "{}",
        users.arguments
    );
    assert!(!users.arguments.contains(MARK), "{}", users.arguments);
}

/// Its own queues would be the broker's or the workers'.
#[test]
fn names_that_would_own_what_is_not_theirs_are_refused() {
    for (name, prefix, status) in [
        ("producer", "codex", true),
        ("amq", "codex", false),
        ("codex", "codex", false),
        ("team", "team.a", false),
        ("codex.turns", "codex", false),
        ("a b", "codex", false),
        (".*", "codex", false),
        ("a", "(", false),
    ] {
        let output = Command::new(SCRIPT)
            .args(["show", "producer", name, "--prefix", prefix])
            .output()
            .unwrap();
        assert_eq!(output.status.success(), status, "{name} {prefix}");
    }
}
