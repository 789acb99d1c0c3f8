//! `ops/deploy/rabbitmq`: the definitions are what a worker declares, and a broker that starts with them serves a pool.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};
use turn_worker::amqp::connect::Connector;
use turn_worker::amqp::topology::Topology;
use turn_worker::config::Settings;

use super::{json, path, read};
use crate::cli::call::Call;
use crate::support::broker::Broker;
use crate::support::host::stand_in;

const DEFINITIONS: &str = "ops/deploy/rabbitmq/definitions.json";
const CONF: &str = "ops/deploy/rabbitmq/rabbitmq.conf";

/// The objects of one virtual host, with their definitions.
fn objects(definitions: &Value, vhost: &str) -> Value {
    let of = |kind: &str, name: &str, fields: &[&str]| {
        let all = definitions[kind].as_array().unwrap().iter();
        let mut of_vhost: Vec<Value> = all
            .filter(|one| one["vhost"] == vhost)
            .map(|one| {
                fields
                    .iter()
                    .map(|&field| (field.to_owned(), one[field].clone()))
                    .collect()
            })
            .collect();
        of_vhost.sort_by_key(|one| one[name].as_str().unwrap().to_owned());
        of_vhost
    };
    let kept = ["name", "durable", "auto_delete", "arguments"];
    json!({
        "exchanges": of("exchanges", "name", &[&kept[..], &["type"]].concat()),
        "queues": of("queues", "name", &kept),
        "bindings": of("bindings", "destination", &["source", "destination", "destination_type", "routing_key", "arguments"]),
    })
}

#[tokio::test]
async fn the_definitions_are_what_a_worker_declares() {
    let url = Broker::vhost();
    let (settings, _) = Settings::from_vars([]).unwrap();
    let topology = Topology::new(&settings.prefix, settings.dead_letter_limit);
    let vhost = url.rsplit('/').next().unwrap().to_owned();
    let connector = Connector::new("test", move || Ok(url.as_str().into()));
    let link = connector.connect().await.unwrap();
    topology.declare(&link).await.unwrap();
    let exported = Broker::shared().ctl(&["export_definitions", "-"]);
    let exported: Value = serde_json::from_str(&exported).unwrap();
    let checked_in = json(DEFINITIONS);
    assert_eq!(objects(&checked_in, "turns"), objects(&exported, &vhost));
    // Secrets are made where they are used.
    assert!(checked_in.get("users").is_none(), "{DEFINITIONS} has users");
    link.close().await;
}

/// With the users of ops/deploy/docker/secrets, which may do what their parts need.
#[tokio::test]
async fn a_broker_that_starts_with_the_definitions_serves_a_pool() {
    let dir = tempfile::tempdir().unwrap();
    let secrets = dir.path().join("secrets");
    let make_secrets = |broker: &str| {
        let made = Command::new(path("ops/deploy/docker/secrets"))
            .args(["--broker", broker])
            .arg(&secrets)
            .output()
            .unwrap();
        assert!(made.status.success(), "{made:?}");
    };
    make_secrets("broker:5672");
    let broker = Broker::configured("definitions", "", |folder| {
        let definitions = folder.join("definitions.d");
        fs::create_dir(&definitions).unwrap();
        fs::copy(path(DEFINITIONS), definitions.join("10-objects.json")).unwrap();
        let users = secrets.join("broker-users.json");
        fs::copy(users, definitions.join("20-users.json")).unwrap();
        read(CONF).replace("/etc/rabbitmq/definitions.d", "@DIR@/definitions.d")
    });
    let url_file = |name: &str| {
        let file = secrets.join(name);
        let url = fs::read_to_string(&file).unwrap();
        let here = url.replace("@broker:5672", &format!("@127.0.0.1:{}", broker.port()));
        fs::write(&file, here).unwrap();
        file.to_str().unwrap().to_owned()
    };
    let (worker, producer) = (url_file("worker-url"), url_file("producer-url"));
    let host = Host::new(dir.path());

    let check = host
        .worker(&["check", "--json"], &worker)
        .run()
        .await
        .ended(0);
    for line in check.events() {
        let expected = match line["check"].as_str().unwrap() {
            "topology" | "rights" | "secrets" => "ok",
            _ => continue,
        };
        assert_eq!(line["status"], expected, "{line}");
    }

    let serve = host.worker(&["serve"], &worker).start();
    let submit = Call::new(&["submit", "--json", "-w", "acme/website", "t\nsay hi"])
        .set("AMQP_URL_FILE", &producer);
    let kinds = submit.run().await.ended(0).kinds();
    assert_eq!(kinds.first().unwrap(), "message_start");
    assert_eq!(kinds.last().unwrap(), "message_end");
    serve.signal(rustix::process::Signal::TERM);
    serve.done().await.ended(0);

    // Adding a secret keeps the others.
    let before = fs::read(secrets.join("worker-url")).unwrap();
    fs::remove_file(secrets.join("producer-url")).unwrap();
    make_secrets("broker:5672");
    assert_eq!(fs::read(secrets.join("worker-url")).unwrap(), before);
    assert!(secrets.join("producer-url").exists());
}

struct Host<'a>(&'a Path);

impl<'a> Host<'a> {
    fn new(dir: &'a Path) -> Self {
        for folder in ["home", "stand-in"] {
            fs::create_dir(dir.join(folder)).unwrap();
        }
        Self(dir)
    }

    fn worker(&self, arguments: &[&str], url_file: &str) -> Call {
        let path = |name: &str| self.0.join(name).to_str().unwrap().to_owned();
        Call::new(arguments)
            .set("AMQP_URL_FILE", url_file)
            .set("WORKSPACE_ROOT", &path("workspaces"))
            .set("CODEX_BIN", stand_in().to_str().unwrap())
            .set("CODEX_ENV", "PATH,HOME,STAND_IN_DIR")
            .set("HTTP_ADDR", "127.0.0.1:0")
            .env("HOME", &path("home"))
            .env("STAND_IN_DIR", &path("stand-in"))
    }
}
