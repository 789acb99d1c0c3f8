//! Reports to the sequencers what runs here.

use std::sync::Arc;

use tokio::time::{MissedTickBehavior, interval};

use super::{Shutdown, Worker};
use crate::amqp::messages::{About, HeldReport, MAX_HELD, MAX_IDLE, Status};
use crate::amqp::publish::json_properties;
use crate::codex::engine::Engine;
use crate::error::with_sources;
use crate::heartbeat::HEARTBEAT;
use crate::host::Finding;

/// Of what the system says of a host's lack, which has a path in it.
const MAX_LACK_CHARS: usize = 500;

impl<E: Engine> Worker<E> {
    /// Waits for the broker only; for a disk once, and briefly.
    pub(super) async fn tell_heartbeats(self: Arc<Self>, shutdown: Shutdown) {
        let mut ticks = interval(HEARTBEAT);
        // Skip missed ticks: a late heartbeat is useless.
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                // Sequencers must not prefer a process that takes no more offers.
                () = self.private.changed.notified() => {}
                () = shutdown.cut.cancelled() => return,
            }
            if !self.publisher.is_connected() {
                continue;
            }
            self.pool.write_round().await;
            let status = Status::Heartbeat {
                worker: self.id.clone(),
                version: crate::VERSION.to_owned(),
                slots: u32::try_from(self.slots).unwrap_or(u32::MAX),
                running: self.running.snapshot(),
                about: self.about(shutdown.drain.is_cancelled()),
            };
            let body = status.encode();
            let published = self.publisher.publish_confirmed(
                &self.topology.status,
                "",
                json_properties(),
                &body,
                false,
            );
            if let Err(error) = published.await {
                tracing::debug!(
                    error = with_sources(&error),
                    "failed to publish a heartbeat"
                );
            }
        }
    }

    fn held(&self) -> Vec<HeldReport> {
        let held = self.runner.held.snapshot().into_iter();
        let reports = held.filter_map(|(workspace, held)| {
            let process = held.processes.first()?;
            Some(HeldReport {
                workspace,
                host: held.host.clone(),
                pid: process.pid,
                user: process.user.clone(),
                command: process.command.clone(),
                since: held.since,
                more: (held.processes.len() - 1 + held.more) as u64,
            })
        });
        reports.take(MAX_HELD).collect()
    }

    fn about(&self, draining: bool) -> About {
        let lacks = self.runner.host.findings();
        let describe = |finding: &Finding| -> String {
            let whole = format!("{}: {}", finding.lack, finding.why);
            whole.chars().take(MAX_LACK_CHARS).collect()
        };
        About {
            host: rustix::system::uname()
                .nodename()
                .to_string_lossy()
                .into_owned(),
            codex: self.metrics.codex_version(),
            draining,
            lacks: lacks.iter().map(describe).collect(),
            held: self.held(),
            blocked: self.blocked.snapshot(),
            conditions: self.conditions.reports(),
            pool: Some(Box::new(self.pool.agreement())),
            offers_to: self.private.offers_to().filter(|_| !draining),
            answers_offers: true,
            idle: (self.runner.engine.idle())
                .map(|idle| idle.workspaces(MAX_IDLE))
                .unwrap_or_default(),
        }
    }
}
