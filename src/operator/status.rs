//! What a pool reports, received on the status exchange for as long as it
//! takes for all to report.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use tokio::time::{Instant, timeout_at};
use uuid::Uuid;

use super::{Operator, OperatorError};
use crate::amqp::consume::Consumer;
use crate::amqp::declare_error::DeclareError;
use crate::amqp::link::Link;
use crate::amqp::messages::{
    About, BacklogReport, BlockedReport, Decoded, HeldReport, HomesReport, HostReport, MAX_BLOCKED,
    MAX_HELD, MAX_HOSTS, MAX_ORDERS, OrderProgress, Running, Status,
};
use crate::amqp::topology::Fanout;
use crate::conditions::ConditionReport;
use crate::heartbeat::LISTEN;
use crate::homes::SHARED;
use crate::pool::Agreement;

/// Status messages on their way to us.
const PREFETCH: u16 = 100;
/// Kept of what is heard, from any sender: more is only counted.
const MAX_PROCESSES: usize = 500;
const MAX_RUNNING: usize = 20_000;
/// Of a name that a process gives itself.
const MAX_NAME_CHARS: usize = 200;
/// Of one process.
const MAX_CONDITIONS: usize = 32;

/// A pool as its processes reported it.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct PoolStatus {
    pub workers: Vec<WorkerStatus>,
    pub sequencers: Vec<SequencerStatus>,
    /// Of the active sequencer; `None` if no process has reported to be it.
    pub backlog: Option<BacklogReport>,
    /// Where workspaces live, in a pool without shared storage; of the active sequencer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub homes: Option<HomesReport>,
    /// Turns that no sequencer's queue has taken: they are beyond its limit, or
    /// no sequencer is there. `None`, as the next three, if the broker does not
    /// let this user ask: RabbitMQ 4.3 wants the right to configure a queue.
    pub turns_not_held: Option<u64>,
    /// Consumers of the queue of turns that the broker counts, mostly only the active one.
    pub turns_consumers: Option<u64>,
    /// Offers that lie there for want of a free slot.
    pub offers_untaken: Option<u64>,
    pub dead_letters: Option<u64>,
    /// Messages that were not kept, as there were too many.
    pub not_kept: u64,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct WorkerStatus {
    pub name: String,
    pub version: String,
    pub slots: u32,
    pub busy: usize,
    #[serde(flatten)]
    pub about: About,
    pub running: Vec<Running>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SequencerStatus {
    pub name: String,
    pub version: String,
    /// It has been given turns; else it stands by.
    pub active: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<ConditionReport>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pool: Option<Box<Agreement>>,
}

/// What was heard so far, the newest of each process.
#[derive(Debug, Default)]
struct Heard {
    workers: BTreeMap<String, WorkerStatus>,
    sequencers: BTreeMap<String, (SequencerStatus, Option<BacklogReport>)>,
    running: usize,
    not_kept: u64,
    homes: Option<HomesReport>,
}

impl Operator {
    /// Listens for a little longer than a heartbeat takes, and for up to `limit`
    /// where no worker or no sequencer has reported by then.
    pub async fn status(&self, limit: Duration) -> Result<PoolStatus, OperatorError> {
        let link = self.connector.connect().await?;
        let status = self.hear(&link, limit).await;
        link.close().await;
        status
    }

    async fn hear(&self, link: &Link, limit: Duration) -> Result<PoolStatus, OperatorError> {
        let topology = &self.topology;
        let queue = topology.declare_exclusive(link, Fanout::Status).await;
        let queue = queue.map_err(|error| OperatorError::of_declare(link, error))?;
        let opened = Consumer::open(link, &queue, PREFETCH).await;
        let mut consumer = opened.map_err(|error| OperatorError::of_consume(link, error))?;
        let begun = Instant::now();
        let until = begun + limit;
        let mut heard = Heard::default();
        loop {
            let next = if heard.both() { begun + LISTEN } else { until };
            let Ok(delivery) = timeout_at(next.min(until), consumer.next()).await else {
                break;
            };
            let delivery = delivery.map_err(OperatorError::Consume)?;
            // A message that this version can't read is skipped.
            if let Ok(Decoded::Known(status)) = Status::decode(&delivery.body) {
                heard.take(status);
            }
            let _ = delivery.ack().await;
        }
        if heard.workers.is_empty() && heard.sequencers.is_empty() {
            if let Some(reason) = link.alarm().await {
                let target = Arc::clone(link.target());
                return Err(OperatorError::Blocked { target, reason });
            }
            return Err(OperatorError::Silent {
                exchange: topology.status.clone(),
                target: Arc::clone(link.target()),
                limit,
            });
        }
        let depth = async |queue: &str| match topology.depth(link, queue).await {
            Ok(depth) => Ok(Some(depth)),
            Err(DeclareError::Forbidden { .. }) => Ok(None),
            Err(error) => Err(OperatorError::of_declare(link, error)),
        };
        let status = heard.into_status();
        let beyond = status.backlog.as_ref().map_or(0, |backlog| backlog.beyond);
        let turns = depth(&topology.turns).await?;
        Ok(PoolStatus {
            turns_not_held: turns.map(|turns| turns.ready.saturating_add(beyond)),
            turns_consumers: turns.map(|turns| turns.consumers),
            offers_untaken: self.offers(link, &status).await?,
            dead_letters: depth(&topology.dead).await?.map(|dead| dead.ready),
            ..status
        })
    }
}

impl Operator {
    /// Offers that lie in the work queues; `None` if that is not known.
    async fn offers(&self, link: &Link, status: &PoolStatus) -> Result<Option<u64>, OperatorError> {
        let agreements = (status.sequencers.iter()).filter_map(|sequencer| sequencer.pool.as_ref());
        let disks = agreements.filter_map(|pool| Some(pool.disk.as_ref()?.id));
        let mut disks: BTreeSet<Uuid> = disks.collect();
        if let Some(homes) = &status.homes {
            disks.extend(homes.hosts.iter().map(|host| host.disk));
        }
        if disks.is_empty() {
            disks.insert(SHARED);
        }
        let mut offers = None;
        for disk in disks {
            let queue = self.topology.work_of(disk);
            match self.topology.depth(link, &queue).await {
                Ok(depth) => *offers.get_or_insert(0) += depth.ready,
                Err(DeclareError::Forbidden { .. }) => {}
                // That of a disk that has been away for long, or is lost.
                Err(DeclareError::Refused { .. }) if disk != SHARED => {}
                Err(error) => return Err(OperatorError::of_declare(link, error)),
            }
        }
        Ok(offers)
    }
}

impl Heard {
    fn both(&self) -> bool {
        !self.workers.is_empty() && !self.sequencers.is_empty()
    }

    fn take(&mut self, status: Status) {
        match status {
            // One that has just started is heard again as worker or sequencer.
            Status::Done { .. }
            | Status::Taken { .. }
            | Status::Declined { .. }
            | Status::Recorded { .. }
            | Status::Pool { .. } => {}
            Status::Heartbeat {
                worker,
                version,
                slots,
                running,
                about,
            } => {
                let worker = bounded(&worker);
                let before = self.workers.get(&worker);
                let others = self.running - before.map_or(0, |before| before.running.len());
                let known = before.is_some() || self.workers.len() < MAX_PROCESSES;
                if !known || others + running.len() > MAX_RUNNING {
                    self.not_kept += 1;
                    return;
                }
                self.running = others + running.len();
                let told = WorkerStatus {
                    name: worker.clone(),
                    version: bounded(&version),
                    slots,
                    busy: running.len(),
                    about: bounded_about(about),
                    running,
                };
                self.workers.insert(worker, told);
            }
            Status::Sequencer {
                process,
                version,
                active,
                backlog,
                conditions,
                pool,
                describes: _,
                homes,
            } => {
                let process = bounded(&process);
                let known = self.sequencers.contains_key(&process);
                if !known && self.sequencers.len() >= MAX_PROCESSES {
                    self.not_kept += 1;
                    return;
                }
                let told = SequencerStatus {
                    name: process.clone(),
                    version: bounded(&version),
                    active,
                    conditions: bounded_conditions(conditions),
                    pool: bounded_pool(pool),
                };
                // Of several that take themselves for it one is right; which, is not known.
                self.sequencers.insert(process, (told, backlog));
                if active && homes.is_some() {
                    self.homes = homes.map(bounded_homes);
                }
            }
        }
    }

    fn into_status(self) -> PoolStatus {
        let mut status = PoolStatus {
            workers: self.workers.into_values().collect(),
            not_kept: self.not_kept,
            homes: self.homes,
            ..PoolStatus::default()
        };
        for (sequencer, backlog) in self.sequencers.into_values() {
            if sequencer.active && status.backlog.is_none() {
                status.backlog = backlog;
            }
            status.sequencers.push(sequencer);
        }
        for worker in &mut status.workers {
            worker.running.sort_by_key(|running| running.started_at);
        }
        status
    }
}

fn bounded_homes(homes: HomesReport) -> HomesReport {
    let hosts = homes.hosts.into_iter().take(MAX_HOSTS);
    HomesReport {
        hosts: hosts
            .map(|host| HostReport {
                host: bounded(&host.host),
                ..host
            })
            .collect(),
        pauses: homes.pauses,
        orders: homes
            .orders
            .iter()
            .take(8)
            .map(|order| bounded(order))
            .collect(),
        progress: (homes.progress.into_iter().take(2 * MAX_ORDERS))
            .map(|progress| OrderProgress {
                detail: progress.detail.chars().take(1_000).collect(),
                ..progress
            })
            .collect(),
    }
}

fn bounded(text: &str) -> String {
    text.chars().take(MAX_NAME_CHARS).collect()
}

fn bounded_about(about: About) -> About {
    About {
        host: bounded(&about.host),
        codex: about.codex.as_deref().map(bounded),
        draining: about.draining,
        lacks: about
            .lacks
            .iter()
            .take(8)
            .map(|lack| lack.chars().take(1_000).collect())
            .collect(),
        held: about
            .held
            .into_iter()
            .take(MAX_HELD)
            .map(|held| HeldReport {
                workspace: bounded(&held.workspace),
                host: bounded(&held.host),
                user: bounded(&held.user),
                command: bounded(&held.command),
                ..held
            })
            .collect(),
        blocked: about
            .blocked
            .into_iter()
            .take(MAX_BLOCKED)
            .map(|blocked| BlockedReport {
                workspace: bounded(&blocked.workspace),
                turn_id: bounded(&blocked.turn_id),
                detail: blocked.detail.chars().take(1_000).collect(),
                ..blocked
            })
            .collect(),
        conditions: bounded_conditions(about.conditions),
        pool: bounded_pool(about.pool),
        // For sequencers.
        offers_to: None,
        answers_offers: about.answers_offers,
        idle: Vec::new(),
    }
}

fn bounded_pool(pool: Option<Box<Agreement>>) -> Option<Box<Agreement>> {
    pool.map(|pool| Box::new(pool.bounded()))
}

fn bounded_conditions(reports: Vec<ConditionReport>) -> Vec<ConditionReport> {
    reports
        .into_iter()
        .take(MAX_CONDITIONS)
        .map(|report| ConditionReport {
            condition: bounded(&report.condition),
            found: report.found.chars().take(1_000).collect(),
            ..report
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::Timestamp;

    fn heartbeat(worker: &str, running: usize) -> Status {
        let turn = Running {
            workspace: "a".to_owned(),
            turn_id: "t".to_owned(),
            attempt: 1,
            started_at: Timestamp::UNIX_EPOCH,
            spent: None,
        };
        Status::Heartbeat {
            worker: worker.to_owned(),
            version: "0.1.0".to_owned(),
            slots: 4,
            running: vec![turn; running],
            about: About::default(),
        }
    }

    #[test]
    fn g10_little_is_kept_of_any_report() {
        let mut heard = Heard::default();
        for number in 0..2 * MAX_PROCESSES {
            heard.take(heartbeat(&format!("{number}-{}", "w".repeat(10_000)), 100));
            heard.take(Status::Sequencer {
                process: format!("{number}"),
                version: "v".repeat(10_000),
                active: false,
                backlog: None,
                conditions: Vec::new(),
                pool: None,
                describes: false,
                homes: None,
            });
        }
        // The same one again takes no more.
        for _ in 0..10 {
            heard.take(heartbeat("0-", 1));
        }
        let status = heard.into_status();
        let running: usize = status
            .workers
            .iter()
            .map(|worker| worker.running.len())
            .sum();
        assert!(running <= MAX_RUNNING && status.workers.len() <= MAX_PROCESSES);
        assert_eq!(status.sequencers.len(), MAX_PROCESSES);
        assert!(status.not_kept >= 1_000, "{}", status.not_kept);
        let names = status.workers.iter().map(|worker| worker.name.len());
        assert!(names.max().unwrap() <= MAX_NAME_CHARS);
    }

    #[test]
    fn the_newest_word_of_a_worker_counts() {
        let mut heard = Heard::default();
        heard.take(heartbeat("w", 3));
        heard.take(heartbeat("w", 1));
        assert!(!heard.both());
        let status = heard.into_status();
        assert_eq!((status.workers.len(), status.workers[0].busy), (1, 1));
    }
}
