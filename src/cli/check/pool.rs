//! Whether a process with these settings fits to those of its pool that run.

use turn_worker::amqp::link::Link;
use turn_worker::config::Settings;
use turn_worker::error::with_sources;
use turn_worker::pool::{Compared, Own, PeerCheck, PoolError, compare};
use turn_worker::serve::{connector, process_id, topology};
use turn_worker::workspace::{Property, Root};

use super::report::Report;

/// Of each process, with `--peer`.
const ROUNDS: u32 = 5;

pub(super) async fn check(settings: &Settings, root: &Root, peer: bool, report: &mut Report) {
    // Whether the broker can be reached is another check.
    let Ok(link) = connector(settings, "turn-worker check").connect().await else {
        return;
    };
    let rounds = if peer { ROUNDS } else { 0 };
    match compared(settings, root, &link, rounds).await {
        Ok(compared) => {
            if peer {
                show_peers(&compared.peers, report);
            }
            show(root, compared, report);
        }
        Err(error) => report.warn("pool", &with_sources(&error)),
    }
    link.close().await;
}

async fn compared(
    settings: &Settings,
    root: &Root,
    link: &Link,
    rounds: u32,
) -> Result<Compared, PoolError> {
    let topology = topology(settings, root.id());
    let own = Own::new(&process_id(), root.id(), settings);
    compare(link, &topology, own, root.processes(), rounds).await
}

fn show(root: &Root, compared: Compared, report: &mut Report) {
    let Compared { peers, findings } = compared;
    if findings.is_empty() {
        let found = match peers.len() {
            0 => "no process of the pool was heard that reports what must agree".to_owned(),
            count => format!(
                "root {}, settings and clock agree with {count} processes, and their locks hold here",
                root.id()
            ),
        };
        report.ok("pool", &found);
    }
    for failure in [findings.root, findings.locks, findings.reads]
        .into_iter()
        .flatten()
    {
        report.fail("pool", &failure);
    }
    for difference in [findings.settings, findings.clock].into_iter().flatten() {
        report.warn("pool", &difference);
    }
}

/// A line for each property of each process.
fn show_peers(peers: &[PeerCheck], report: &mut Report) {
    const CHECK: &str = "peer";
    if peers.is_empty() {
        report.warn(
            CHECK,
            "no other process of the pool was heard: start a worker on another host, and try again",
        );
    } else if peers.iter().all(|peer| peer.same_host) {
        report.warn(
            CHECK,
            "all processes that were heard run on this host: other hosts were not checked",
        );
    }
    for peer in peers {
        let process = &peer.process;
        if !peer.same_root {
            report.fail(CHECK, &format!("{process}: it has another workspace root"));
            continue;
        }
        match peer.lock_holds {
            Some(true) => report.ok(CHECK, &format!("{process}: lock: held here, too")),
            Some(false) => report.fail(CHECK, &format!("{process}: lock: it can be taken here")),
            None => report.warn(
                CHECK,
                &format!("{process}: lock: unknown, it does not hold it"),
            ),
        }
        let others = Property::ALL
            .into_iter()
            .filter(|one| *one != Property::Lock);
        for property in others {
            let name = property.as_str();
            match (peer.rounds, peer.unseen) {
                (_, Some(unseen)) if unseen == property => report.fail(
                    CHECK,
                    &format!("{process}: {name}: what it had written and reported was not seen here at once"),
                ),
                (None, _) => report.warn(
                    CHECK,
                    &format!("{process}: {name}: unknown, it has no file to read (an older version?)"),
                ),
                (Some(_), Some(_)) => {
                    report.warn(CHECK, &format!("{process}: {name}: unknown, as the check ended before"));
                }
                (Some(rounds), None) if rounds < ROUNDS => report.warn(
                    CHECK,
                    &format!("{process}: {name}: seen at once in {rounds} of {ROUNDS} rounds, the others did not come in time"),
                ),
                (Some(rounds), None) => report.ok(
                    CHECK,
                    &format!("{process}: {name}: seen at once in {rounds} of {ROUNDS} rounds"),
                ),
            }
        }
    }
}
