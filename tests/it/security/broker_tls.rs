//! TLS to the broker: which CAs we trust, what we show, and how a refusal reads.

use std::fs;

use tokio::task::spawn_blocking;

use turn_worker::amqp::connect::{ConnectError, Connector};
use turn_worker::amqp::link::Link;
use turn_worker::config::Settings;
use turn_worker::error::with_sources;

use super::tls_node::{Node, PASSWORD, Set};
use crate::cli::call::Call;
use crate::pool::poison::{cancel, published, request};
use crate::support::poison::matrix;
use crate::support::pool::{Pool, Process, turn};
use crate::support::raw_amqp::RawProducer;

impl Node {
    /// A connection by these settings, to localhost.
    async fn connect(&self, port: u16, settings: &[Set]) -> Result<Link, ConnectError> {
        connect(&self.url(port), settings).await
    }
}

async fn connect(url: &str, settings: &[Set]) -> Result<Link, ConnectError> {
    connector(url, settings).connect().await
}

fn connector(url: &str, settings: &[Set]) -> Connector {
    let mut vars = vec![("TURN_WORKER_AMQP_URL".to_owned(), url.to_owned())];
    let named = |(name, value): &Set| (format!("TURN_WORKER_{name}"), value.clone());
    vars.extend(settings.iter().map(named));
    let (settings, _) = Settings::from_vars(vars).unwrap();
    turn_worker::serve::connector(&settings, "test")
}

async fn refused(result: Result<Link, ConnectError>) -> String {
    let error = result.map(|_| ()).unwrap_err();
    // Neither does the error hold the password, in any output.
    assert!(!format!("{error:?}").contains(PASSWORD), "{error:?}");
    with_sources(&error)
}

/// Guards `authorities` in `src/config/tls.rs` and `Connector::connect`, which
/// hands the URL's host to TLS.
#[tokio::test]
async fn g8_only_a_broker_that_our_authority_vouches_for_gets_the_password() {
    let node = Node::get().await;
    let ca = [node.ca()];
    node.connect(node.lenient, &ca).await.unwrap();

    let other = [("AMQP_CA_FILE", node.file("other-ca.pem"))];
    let to_address = format!("amqps://worker:{PASSWORD}@127.0.0.1:{}/%2f", node.lenient);
    for (result, parts) in [
        (
            // The system's authorities don't know ours.
            node.connect(node.lenient, &[]).await,
            ["no authority that is trusted", "TURN_WORKER_AMQP_CA_FILE"],
        ),
        (
            node.connect(node.lenient, &other).await,
            ["no authority that is trusted", "UnknownIssuer"],
        ),
        (
            node.connect(node.expired, &ca).await,
            ["its certificate has expired", "localhost:"],
        ),
        (
            connect(&to_address, &ca).await,
            ["for another host than the URL names", "\"localhost\""],
        ),
        (
            node.connect(node.broker.port(), &ca).await,
            ["no TLS is spoken on this port", "5671"],
        ),
    ] {
        let told = refused(result).await;
        for part in parts {
            assert!(told.contains(part), "no {part:?} in {told}");
        }
    }
}

/// The file's authorities replace the system's. Guards
/// `TlsFiles::connector` in `src/config/tls.rs`.
#[tokio::test]
async fn g8_an_authority_of_ones_own_is_the_only_one() {
    let node = Node::get().await;
    let url = format!("amqps://worker:{PASSWORD}@localhost:{}/%2f", node.lenient);
    let check = |ca: &str| {
        Call::new(&["check", "--json"])
            .set("AMQP_URL", &url)
            .set("AMQP_CA_FILE", ca)
            .set("WORKSPACE_ROOT", &node.file("workspaces"))
            .set("HTTP_ADDR", "127.0.0.1:0")
            // In place of the system's.
            .env("SSL_CERT_FILE", &node.file("ca.pem"))
            .run()
    };
    let by_the_system = check("").await;
    assert!(by_the_system.out.contains("the exchanges and queues"));
    let refused = check(&node.file("other-ca.pem")).await;
    assert!(
        refused.out.contains("no authority that is trusted"),
        "{refused:?}"
    );
}

/// Guards the client certificate in `TlsFiles::connector`, and `tls::told`.
#[tokio::test]
async fn a_broker_that_wants_a_certificate_is_shown_it() {
    let node = Node::get().await;
    let [certificate, key] = node.client("worker");
    let ours = [node.ca(), certificate, key];
    node.connect(node.strict, &ours).await.unwrap();

    let [certificate, key] = node.client("stranger");
    let others = [node.ca(), certificate, key];
    for settings in [&[node.ca()][..], &others] {
        let told = refused(node.connect(node.strict, settings).await).await;
        for part in ["client certificate", "TURN_WORKER_AMQP_CLIENT_CERT_FILE"] {
            assert!(told.contains(part), "no {part:?} in {told}");
        }
    }
}

/// Guards `target::parse`, which leaves the URL's query to the client library.
#[tokio::test]
async fn a_certificate_can_stand_for_user_and_password() {
    let node = Node::get().await;
    let [certificate, key] = node.client("worker");
    let settings = [node.ca(), certificate, key];
    let url = |port| format!("amqps://localhost:{port}/%2f?auth_mechanism=external");
    connect(&url(node.strict), &settings).await.unwrap();
    let told = refused(connect(&url(node.lenient), &[node.ca()]).await).await;
    assert!(told.contains("that of the client certificate"), "{told}");
}

/// All commands that speak to the broker, on a node that insists. Guards
/// `serve::connector` and `table::OF_PRODUCERS`.
#[tokio::test]
async fn every_command_speaks_tls() {
    let node = Node::get().await;
    let [certificate, key] = node.client("worker");
    let url = format!("amqps://worker:{PASSWORD}@localhost:{}/%2f", node.strict);
    let settings = [("AMQP_URL", url), node.ca(), certificate, key];
    let borrowed: Vec<(&str, &str)> = settings
        .iter()
        .map(|(name, value)| (*name, value.as_str()))
        .collect();
    let mut pool = Pool::on(&node.broker.url(), 1, &borrowed).await;
    let call = |arguments: &[&str]| {
        let call = Call::new(arguments);
        borrowed
            .iter()
            .fold(call, |call, (name, value)| call.set(name, value))
    };
    let submitted = call(&["submit", "-w", "a", "--json", "t\nsay Done."]);
    let done = submitted.run().await.ended(0);
    assert_eq!(done.events().last().unwrap()["text"], "Done.");

    pool.enqueue(&[turn("t1", "b", &["wait never"])]).await;
    pool.started("t1", 1).await;
    call(&["cancel", "t1"]).run().await.ended(0);
    assert_eq!(pool.events.ended("t1").await.stop_reason(), "cancelled");
    pool.stop().await;
}

/// Guards that `Connector::connect` filters what TLS carries.
#[tokio::test]
async fn g4_what_a_producer_publishes_ends_no_connection_over_tls() {
    let node = Node::get().await;
    spawn_blocking(|| {
        let broker = &Node::started().broker;
        broker.ctl(&["add_vhost", "poison"]);
        for user in ["guest", "worker"] {
            broker.ctl(&["set_permissions", "-p", "poison", user, ".*", ".*", ".*"]);
        }
    })
    .await
    .unwrap();
    let plain = node.broker.url().replace("%2f", "poison");
    let url = node.url(node.lenient).replace("%2f", "poison");
    let (name, ca) = node.ca();
    let pool = Pool::on(&plain, 2, &[("AMQP_URL", &url), (name, &ca)]).await;
    let mut producer = RawProducer::new(&plain);
    let mut turns = Vec::new();
    for (number, poison) in matrix().iter().step_by(7).enumerate() {
        let properties = poison.properties.clone();
        published(&mut producer, poison, &cancel(b"\xFC", properties.clone())).await;
        let id = format!("t{number}");
        if published(&mut producer, poison, &request(&id, "a", properties)).await {
            turns.push(id);
        }
    }
    for id in turns {
        assert_eq!(pool.events.ended(&id).await.stop_reason(), "end_turn");
    }
    pool.ready().await;
    assert!(pool.processes().iter().all(Process::lives));
    pool.metric_is("turn_worker_amqp_reconnects_total", 0.0)
        .await;
    pool.stop().await;
}

/// Rotation: what is in the files counts when a connection is made. Guards
/// `Connector::connect`, which asks for them every time.
#[tokio::test]
async fn certificates_are_read_again_for_every_connection() {
    let node = Node::get().await;
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let place = |ca: &str, client: &str| {
        for (from, to) in [
            (format!("{ca}.pem"), "ca"),
            (format!("{client}.pem"), "cert"),
            (format!("{client}-key.pem"), "key"),
        ] {
            fs::copy(node.file(&from), path(to)).unwrap();
        }
    };
    let connector = connector(
        &node.url(node.strict),
        &[
            ("AMQP_CA_FILE", path("ca")),
            ("AMQP_CLIENT_CERT_FILE", path("cert")),
            ("AMQP_CLIENT_KEY_FILE", path("key")),
        ],
    );
    let told = refused(connector.connect().await).await;
    for part in ["TURN_WORKER_AMQP_CA_FILE", &path("ca"), "can't be read"] {
        assert!(told.contains(part), "no {part:?} in {told}");
    }
    place("other-ca", "worker");
    let told = refused(connector.connect().await).await;
    assert!(told.contains("no authority that is trusted"), "{told}");
    place("ca", "stranger");
    let told = refused(connector.connect().await).await;
    assert!(told.contains("client certificate"), "{told}");
    place("ca", "worker");
    connector.connect().await.unwrap();
}
