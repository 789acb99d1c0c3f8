//! Whether the broker is there, is one that fits, and lets a worker do its work.

use std::time::Duration;

use turn_worker::amqp::declare_error::DeclareError;
use turn_worker::amqp::event_log::LogState;
use turn_worker::amqp::link::{Link, blocked};
use turn_worker::amqp::server::{FILTERS_SINCE, Server};
use turn_worker::amqp::topology::{Fanout, Topology};
use turn_worker::config::{EventLog, Settings};
use turn_worker::error::with_sources;
use turn_worker::operator::{Operator, OperatorError};
use turn_worker::sequencer;
use turn_worker::serve::{channels_needed, too_few_channels};
use turn_worker::versions::{NEWEST_RABBITMQ, OLDEST_RABBITMQ};
use turn_worker::workspace::Root;

use super::report::Report;

/// Sequencers report every two seconds.
const LISTEN: Duration = Duration::from_secs(5);
/// For a user that lacks a right.
const REMEDY: &str = "the script ops/deploy/rabbitmq/users gives the broker's user all that a worker needs: users set worker NAME";

pub(super) async fn check(settings: &Settings, report: &mut Report) {
    let connector = turn_worker::serve::connector(settings, "turn-worker check");
    let link = match connector.connect().await {
        Ok(link) => link,
        Err(error) => {
            report.fail("broker", &with_sources(&error));
            return;
        }
    };
    let target = link.target();
    let server = Server::ask(target).await;
    match &server {
        Some(server) => version(server, &target.to_string(), report),
        None => report.ok("broker", &format!("{target}, of which no version is known")),
    }
    if let Some(reason) = link.alarm().await {
        // What is to be tried waits for the end of it, too.
        report.fail("broker", &format!("{target}: {}", blocked(&reason)));
        link.close().await;
        return;
    }
    channels(settings, &link, report);
    let fits = topology(settings, &link, report).await;
    if fits {
        policies(settings, &link, report).await;
    }
    if let Some(log) = settings.event_log.filter(|_| fits) {
        event_log(settings, &log, &link, server, report).await;
    }
    link.close().await;
}

/// Whether a connection may have as many channels as the slots need.
fn channels(settings: &Settings, link: &Link, report: &mut Report) {
    let (needed, most) = (channels_needed(settings.slots), link.channel_max());
    match too_few_channels(settings.slots, most) {
        Some(lack) => report.fail("limits", &lack),
        None => report.ok(
            "limits",
            &format!("a connection may have {most} channels, of which {needed} are needed"),
        ),
    }
}

/// Whether a policy would lose turns.
async fn policies(settings: &Settings, link: &Link, report: &mut Report) {
    let topology = Topology::new(&settings.prefix, settings.dead_letter_limit);
    match topology.probe_policies(link).await {
        Ok(None) => report.ok("policies", "no policy was found that drops turns or their queue"),
        Ok(Some(loss)) => report.fail(
            "policies",
            &format!(
                "a policy applies to queues such as {}: {loss}; expected: no policy that loses turns; the policy \
                 in ops/deploy/rabbitmq/definitions.json keeps others off (docs/OPERATIONS.md, Policies)",
                topology.turns
            ),
        ),
        Err(error @ DeclareError::Forbidden { .. }) => report.warn(
            "policies",
            &format!("can't be tried: {}; {REMEDY}", with_sources(&error)),
        ),
        Err(error) => report.warn(
            "policies",
            &format!("can't be tried: {}", with_sources(&error)),
        ),
    }
}

async fn event_log(
    settings: &Settings,
    log: &EventLog,
    link: &Link,
    server: Option<Server>,
    report: &mut Report,
) {
    let topology = Topology::new(&settings.prefix, settings.dead_letter_limit);
    let queue = &topology.log;
    match topology.keep_log(link, log).await {
        LogState::Kept => {
            let slow = server.is_some_and(|server| !server.filters_streams());
            let release = FILTERS_SINCE;
            let note = match slow {
                true => format!(
                    "; readers read all of it to find a turn, as the broker can't leave out others before {}.{}",
                    release.0, release.1
                ),
                false => String::new(),
            };
            report.ok("event log", &format!("queue {queue} keeps all events{note}"));
        }
        LogState::Refused(error) => {
            let remedy = match error {
                DeclareError::Forbidden { .. } => format!("; {REMEDY} --event-log"),
                _ => String::new(),
            };
            report.fail("event log", &format!("{}{remedy}", with_sources(&error)));
        }
        LogState::Broken(why) => report.fail(
            "event log",
            &format!("{why}, so it is unbound, and turns go on without it; look at that queue, or delete it so that it is recreated"),
        ),
        LogState::Unknown(why) => report.warn("event log", &why),
    }
}

fn version(server: &Server, target: &str, report: &mut Report) {
    let Server { product, version } = server;
    let found = format!("{target}, {product} {version}");
    match server.number() {
        Some(number) if product == "RabbitMQ" && number < OLDEST_RABBITMQ => {
            let (major, minor) = OLDEST_RABBITMQ;
            report.fail(
                "broker",
                &format!("{found}; expected {major}.{minor} or newer"),
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

/// Whether the rest can be tried.
async fn topology(settings: &Settings, link: &Link, report: &mut Report) -> bool {
    let prefix = &settings.prefix;
    // Without a root there is a line about that already.
    let root = Root::open(&settings.workspace_root).map(|root| root.id());
    let topology = turn_worker::serve::topology(settings, root.unwrap_or_default());
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
            return false;
        }
    }
    match rights(&topology, link).await {
        Ok(()) => report.ok(
            "rights",
            "all that sequencer and worker read and write, they may read and write",
        ),
        Err(error) => report.fail("rights", &format!("{error}; {REMEDY}")),
    }
    private_queue(settings, &topology, link, report).await;
    if let Some(found) = foreign_consumer(settings, &topology, link).await {
        report.warn("consumers", &found);
    }
    true
}

/// Without a queue of its own, a worker works, but turns find the server of
/// their workspace less often.
async fn private_queue(settings: &Settings, topology: &Topology, link: &Link, report: &mut Report) {
    if !settings.roles.worker {
        return;
    }
    let queue = topology.new_private_work();
    match topology.declare_private_work(link, &queue).await {
        Ok(()) => topology.delete_private_work(link, &queue).await,
        Err(error) => report.warn(
            "rights",
            &format!(
                "a worker can't have a queue of its own for offers, so turns find the server of their \
                 workspace less often: {}; {REMEDY}",
                with_sources(&error)
            ),
        ),
    }
}

/// Whether anything but the pool's sequencers consumes turns. Listens only if
/// something does.
async fn foreign_consumer(settings: &Settings, topology: &Topology, link: &Link) -> Option<String> {
    let consumers = async || topology.depth(link, &topology.turns).await.ok();
    if consumers().await?.consumers == 0 {
        return None;
    }
    let connector = turn_worker::serve::connector(settings, "turn-worker check");
    let operator = Operator::new(connector, &settings.prefix);
    let sequencers = match operator.status(LISTEN).await {
        Ok(status) => status.sequencers.len() as u64,
        Err(OperatorError::Silent { .. }) => 0,
        Err(_) => return None,
    };
    // Again: one that came or went meanwhile is no finding.
    let consumers = consumers().await?.consumers;
    (consumers > sequencers)
        .then(|| sequencer::foreign_consumer(&topology.turns, consumers, sequencers))
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
