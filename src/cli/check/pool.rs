//! Whether a process with these settings fits to those of its pool that run.

use turn_worker::amqp::link::Link;
use turn_worker::amqp::topology::Topology;
use turn_worker::config::Settings;
use turn_worker::error::with_sources;
use turn_worker::pool::{Findings, Own, PoolError, compare};
use turn_worker::serve::{connector, process_id};
use turn_worker::workspace::Root;

use super::report::Report;

pub async fn check(settings: &Settings, root: &Root, report: &mut Report) {
    // Whether the broker can be reached is another check.
    let Ok(link) = connector(settings, "turn-worker check").connect().await else {
        return;
    };
    match compared(settings, root, &link).await {
        Ok((count, findings)) => show(root, count, findings, report),
        Err(error) => report.warn("pool", &with_sources(&error)),
    }
    link.close().await;
}

async fn compared(
    settings: &Settings,
    root: &Root,
    link: &Link,
) -> Result<(usize, Findings), PoolError> {
    let topology = Topology::new(&settings.prefix, settings.dead_letter_limit);
    let own = Own::new(&process_id(), root.id(), settings);
    compare(link, &topology, own, root.processes()).await
}

fn show(root: &Root, count: usize, findings: Findings, report: &mut Report) {
    if findings.is_empty() {
        let found = match count {
            0 => "no process of the pool was heard that reports what must agree".to_owned(),
            _ => format!(
                "root {}, settings and clock agree with {count} processes, and their locks hold here",
                root.id()
            ),
        };
        report.ok("pool", &found);
    }
    for failure in [findings.root, findings.locks].into_iter().flatten() {
        report.fail("pool", &failure);
    }
    for difference in [findings.settings, findings.clock].into_iter().flatten() {
        report.warn("pool", &difference);
    }
}
