//! Whether the broker is there, is one that fits, and lets a worker do its work.

use turn_worker::amqp::declare_error::DeclareError;
use turn_worker::amqp::link::Link;
use turn_worker::amqp::server::Server;
use turn_worker::amqp::topology::{Fanout, Topology};
use turn_worker::config::Settings;
use turn_worker::error::with_sources;
use turn_worker::tested::{NEWEST_RABBITMQ, OLDEST_RABBITMQ};

use super::report::Report;

/// For a user that lacks a right.
const REMEDY: &str = "the script ops/rabbitmq/users gives the broker's user all that a worker needs: users set worker NAME";

pub async fn check(settings: &Settings, report: &mut Report) {
    let connector = turn_worker::serve::connector(settings, "turn-worker check");
    let link = match connector.connect().await {
        Ok(link) => link,
        Err(error) => {
            report.fail("broker", &with_sources(&error));
            return;
        }
    };
    let target = link.target();
    match Server::ask(target).await {
        Some(server) => version(&server, &target.to_string(), report),
        None => report.ok("broker", &format!("{target}, of which no version is known")),
    }
    topology(settings, &link, report).await;
    link.close().await;
}

fn version(server: &Server, target: &str, report: &mut Report) {
    let Server { product, version } = server;
    let found = format!("{target}, {product} {version}");
    match server.number() {
        Some(number) if product == "RabbitMQ" && number < OLDEST_RABBITMQ => {
            let (major, minor) = OLDEST_RABBITMQ;
            report.fail(
                "broker",
                &format!("{found}; needed is {major}.{minor} or newer"),
            );
        }
        Some(number) if product == "RabbitMQ" && number <= NEWEST_RABBITMQ => {
            report.ok("broker", &found);
        }
        _ => {
            let (major, minor) = NEWEST_RABBITMQ;
            report.warn(
                "broker",
                &format!("{found}; tried was RabbitMQ up to {major}.{minor}"),
            );
        }
    }
}

async fn topology(settings: &Settings, link: &Link, report: &mut Report) {
    let prefix = &settings.prefix;
    let topology = Topology::new(prefix, settings.dead_letter_limit);
    match topology.declare(link).await {
        Ok(()) => report.ok(
            "topology",
            &format!("the exchanges and queues {prefix}.* are there as they should be"),
        ),
        Err(error) => {
            report.fail("topology", &with_sources(&error));
            if let DeclareError::Forbidden { .. } = error {
                report.fail("rights", REMEDY);
            }
            return;
        }
    }
    match rights(&topology, link).await {
        Ok(()) => report.ok(
            "rights",
            "all that sequencer and worker read and write, they may read and write",
        ),
        Err(error) => report.fail("rights", &format!("{error}; {REMEDY}")),
    }
}

/// What workers and sequencers do besides declaring.
async fn rights(topology: &Topology, link: &Link) -> Result<(), String> {
    for fanout in [Fanout::Control, Fanout::Status] {
        topology
            .declare_exclusive(link, fanout)
            .await
            .map_err(|error| with_sources(&error))?;
    }
    let missing = topology
        .missing_rights(link)
        .await
        .map_err(|error| with_sources(&error))?;
    if missing.is_empty() {
        return Ok(());
    }
    let missing: Vec<String> = missing.iter().map(ToString::to_string).collect();
    let user = &link.target().user;
    Err(format!("user {user:?} has {}", missing.join(", ")))
}
