//! The log of homes and operators' orders, as a session hears them.

use std::time::Instant;

use super::{Ended, Sequencer, Session};
use crate::amqp::consume::{ConsumeError, Consumer, Delivery};
use crate::amqp::link::Link;
use crate::amqp::messages::HomesReport;
use crate::conditions::Condition;
use crate::homes::{HomeEntry, Homes, LostDisk, Order};
use crate::sequencer::backlog_report;
use crate::sequencer::homes_log::{HomesLog, LogAnswer, LogStep, heed};
use crate::sequencer::queue::{AWAY_AFTER, HostSummary};

/// Questions about this disk's records that are under way.
const RECORDS_PREFETCH: u16 = 32;

/// What becomes of an order now.
enum Carried {
    Later(String),
    /// It can't be carried out.
    Dropped(String),
    Write(Vec<HomeEntry>),
    Release {
        workspace: String,
        from: uuid::Uuid,
        to: uuid::Uuid,
    },
    Done,
}

impl Sequencer {
    /// Where each host has a disk of its own, each of its processes answers for it.
    pub(super) async fn open_records(&self, link: &Link) -> Result<Option<Consumer>, ConsumeError> {
        let Some(disk) = self.pool.disk() else {
            return Ok(None);
        };
        let queue = self.topology.records_of(disk.id);
        let consumer = Consumer::open(link, &queue, RECORDS_PREFETCH).await?;
        Ok(Some(consumer))
    }
}

impl Session<'_> {
    pub(super) async fn log_entry(
        &mut self,
        log: &mut HomesLog,
        delivery: Delivery,
    ) -> Result<(), Ended> {
        let now = Instant::now();
        match log.take(delivery).await.map_err(Ended::Homes)? {
            LogStep::None => {}
            LogStep::Read(homes) => {
                tracing::info!(
                    lost = homes.lost().count(),
                    disks = homes.disks().len(),
                    "read where the workspaces live"
                );
                self.queue.homes_read(now, *homes);
                self.pauses_have_changed(now);
                self.homes_are_read = true;
            }
            LogStep::Entry(entry) => self.log_says(now, entry),
        }
        if let Some(homes) = self.queue.homes().filter(|_| log.is_read()) {
            log.tidy(homes, &self.sequencer.actor, &self.answers);
        }
        Ok(())
    }

    fn log_says(&mut self, now: Instant, entry: HomeEntry) {
        match entry {
            HomeEntry::Home(record) => {
                let (workspace, home) = (record.workspace.clone(), record.home.clone());
                if self.queue.home_set(now, record, &mut self.out) {
                    let host = home.as_ref().map(|disk| &*disk.host);
                    let workspace = &*workspace;
                    tracing::info!(workspace, host, "a workspace has a home");
                }
            }
            HomeEntry::DiskLost(lost) => {
                let LostDisk { disk, by, .. } = &lost;
                tracing::warn!(host = &*disk.host, disk = %disk.id, by, "a host's disk is lost: its open turns end");
                self.queue.disk_lost(now, lost, &mut self.out);
            }
            HomeEntry::Snapshot(snapshot) => {
                if let Some(homes) = self.queue.homes_mut() {
                    // All of it is known, but for what is paused.
                    let paused = homes.pauses().clone();
                    homes.snapshot(snapshot);
                    homes.set_pauses(paused);
                }
            }
            HomeEntry::Order(order) => {
                if let Some(homes) = self.queue.homes_mut() {
                    heed(homes, order);
                }
                self.pauses_have_changed(now);
            }
            HomeEntry::Begin { .. } => {}
        }
    }

    fn pauses_have_changed(&mut self, now: Instant) {
        let Some(homes) = self.queue.homes() else {
            return;
        };
        let pauses = homes.pauses().clone();
        self.sequencer.pauses.set(pauses.clone());
        self.queue.set_paused(now, pauses.into(), &mut self.out);
    }

    /// What the active sequencer reports, which hears it of itself, too.
    pub(super) fn heed_active(&self, process: &str, report: Option<HomesReport>) {
        let Some(report) = report.filter(|_| !self.active && self.queue.is_local()) else {
            return;
        };
        let pool = &self.sequencer.pool;
        if pool.disk().is_some_and(|disk| report.has_lost(disk.id)) {
            pool.set_lost(process);
        }
        self.sequencer.pauses.set(report.pauses);
    }

    pub(super) async fn log_answer(
        &mut self,
        log: &mut HomesLog,
        answer: LogAnswer,
    ) -> Result<(), Ended> {
        match answer {
            LogAnswer::NotBegun(why) => return Err(Ended::Homes(why)),
            LogAnswer::Replaced { entries, done } => log.replaced(entries, done).await,
            LogAnswer::Written { order, written } => match written {
                Ok(()) => log.settle(order).await,
                Err(why) => later(log, order, why),
            },
            LogAnswer::Released { order, released } => match released {
                Ok(()) => {
                    let entries = self.moved(log, order);
                    let actor = &self.sequencer.actor;
                    actor.write_for(&self.link, order, entries, &self.answers);
                }
                Err(why) => later(log, order, why),
            },
        }
        Ok(())
    }

    /// The record of a workspace that its disk has let go of.
    fn moved(&self, log: &mut HomesLog, number: u64) -> Vec<HomeEntry> {
        let Some(pending) = log.order(number) else {
            return Vec::new();
        };
        let Order::Move {
            workspace, host, ..
        } = &pending.order
        else {
            return Vec::new();
        };
        let disk = self.queue.disk_called(Instant::now(), host);
        let record = self.queue.homes().zip(disk);
        let record = record.map(|(homes, disk)| homes.next(&(**workspace).into(), Some(disk)));
        record.map(HomeEntry::Home).into_iter().collect()
    }

    /// Once it is known which disks are there.
    pub(super) async fn carry_out_orders(&mut self, log: &mut HomesLog) {
        let has_listened = log.since().is_some_and(|at| at.elapsed() >= AWAY_AFTER);
        if !log.is_read() || !has_listened || self.intake.deadline().is_some() {
            return;
        }
        let numbers: Vec<u64> = log.orders().map(|(number, _)| number).collect();
        for number in numbers {
            let Some(pending) = log.order(number) else {
                continue;
            };
            let carried = self.carry_out(&pending.order);
            let actor = &self.sequencer.actor;
            match carried {
                Carried::Later(why) => pending.why = why,
                Carried::Dropped(why) => {
                    tracing::warn!(order = ?pending.order, why, "dropped an operator's order");
                    log.settle(number).await;
                }
                Carried::Done => log.settle(number).await,
                Carried::Write(entries) => {
                    pending.is_under_way = true;
                    actor.write_for(&self.link, number, entries, &self.answers);
                }
                Carried::Release {
                    workspace,
                    from,
                    to,
                } => {
                    pending.is_under_way = true;
                    actor.release(number, &workspace, from, to, &self.answers);
                }
            }
        }
    }

    fn carry_out(&self, order: &Order) -> Carried {
        let (now, queue) = (Instant::now(), &*self.queue);
        match order {
            Order::Lost { host, at, by } => {
                let disks = queue.disks_to_lose(now, host);
                if disks.is_empty() {
                    return Carried::Dropped(format!(
                        "no disk is called {host:?} of which all processes are away"
                    ));
                }
                let lost = disks.into_iter().map(|disk| {
                    let (at, by) = (*at, by.clone());
                    HomeEntry::DiskLost(LostDisk { disk, at, by })
                });
                Carried::Write(lost.collect())
            }
            Order::Move {
                workspace, host, ..
            } => self.carry_out_move(now, workspace, host),
            Order::Pause { .. } | Order::Resume { .. } | Order::ResumeAll => Carried::Done,
        }
    }

    fn carry_out_move(&self, now: Instant, workspace: &str, host: &str) -> Carried {
        let queue = &*self.queue;
        let homes = queue.homes();
        let Some(from) = homes.and_then(|homes| homes.disk_of(workspace)) else {
            return Carried::Dropped("the workspace has no home".to_owned());
        };
        let Some(to) = queue.disk_called(now, host) else {
            return Carried::Dropped(format!("no disk is called {host:?}"));
        };
        if from.id == to.id {
            return Carried::Done;
        }
        let is_paused = homes.is_some_and(|homes| homes.pauses().of(workspace, None).is_some());
        if !is_paused {
            return Carried::Dropped("the workspace is not paused".to_owned());
        }
        if queue.may_run(now, workspace) {
            return Carried::Later("a turn of it is under way".to_owned());
        }
        Carried::Release {
            workspace: workspace.to_owned(),
            from: from.id,
            to: to.id,
        }
    }

    pub(super) fn homes_report(&self, now: Instant, log: &HomesLog) -> Option<HomesReport> {
        let homes: &Homes = self.queue.homes()?;
        if !self.active || !log.is_read() {
            return None;
        }
        let hosts = self.queue.host_summaries(now);
        let away = homes_away(&hosts);
        let conditions = &self.sequencer.conditions;
        conditions.set(Condition::HomeAway, "", away);
        Some(backlog_report::homes(hosts, homes, log.pending()))
    }
}

/// In words, of those that turns wait for. Without numbers that change: only
/// changes are logged.
fn homes_away(hosts: &[HostSummary]) -> Option<String> {
    let waited_for = |host: &&HostSummary| host.busy > 0 && !host.is_lost;
    let mut away = hosts.iter().filter(waited_for);
    let first = away.find(|host| host.away_for.is_some())?;
    let more = away.filter(|host| host.away_for.is_some()).count();
    let more = match more {
        0 => String::new(),
        more => format!(" (and {more} more)"),
    };
    let host = &first.host;
    Some(format!(
        "found home {host}{more} away, for which turns wait, expected a process of it: start one, \
         or, if its disk is gone for good, `turn-worker home lost {host}`"
    ))
}

fn later(log: &mut HomesLog, number: u64, why: String) {
    if let Some(order) = log.order(number) {
        order.is_under_way = false;
        order.why = why;
    }
}
