//! The log of homes and operators' orders, as a session hears them.

use std::time::{Duration, Instant};

use super::{Ended, Sequencer, Session};
use crate::amqp::consume::{ConsumeError, Consumer, Delivery};
use crate::amqp::link::Link;
use crate::amqp::messages::{HomesReport, OrderState};
use crate::conditions::Condition;
use crate::heartbeat::HEARTBEAT;
use crate::homes::{Disk, HomeEntry, Homes, LostDisk, Order};
use crate::sequencer::backlog_report;
use crate::sequencer::homes_log::{HomesLog, LogAnswer, LogStep, PendingOrder, heed};
use crate::sequencer::queue::{AWAY_AFTER, HostSummary};

/// Questions about this disk's records that are under way.
const RECORDS_PREFETCH: u16 = 32;

/// By then the last process of a disk that ended just before an order is not heard any more.
const ENDED_WITHIN: Duration = AWAY_AFTER.saturating_add(HEARTBEAT.saturating_mul(2));

/// What becomes of an order now.
enum Carried {
    Later(String),
    /// It can't be carried out.
    Rejected(String),
    Write(Vec<HomeEntry>),
    Release {
        workspace: String,
        from: uuid::Uuid,
        to: Disk,
    },
    /// It can't be carried out, and the disk may have let go of the workspace for it.
    TakeBack {
        workspace: String,
        home: uuid::Uuid,
        why: String,
    },
    Done(String),
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
            LogAnswer::Written { order, written } => {
                let pending = log.order(order).map(|pending| &pending.order);
                match (written, pending) {
                    (Ok(()), Some(lost @ Order::Lost { .. })) => {
                        let done = done(lost);
                        log.settle(order, OrderState::Done, done).await;
                    }
                    // It is done when that was read back, unless another record came first.
                    (Ok(()), _) => later(log, order, "it is being written".to_owned()),
                    (Err(why), _) => later(log, order, why),
                }
            }
            LogAnswer::Released { order, released } => match released {
                Ok(()) => {
                    let rejected = log.order(order).and_then(|order| order.rejected.take());
                    if let Some(why) = rejected {
                        log.settle(order, OrderState::Rejected, why).await;
                        return Ok(());
                    }
                    // It may have been resumed meanwhile, or the other disk lost.
                    let carried = log.order(order).map(|pending| self.carry_out(pending));
                    let homes = self.queue.homes();
                    match (carried, homes) {
                        (Some(Carried::Release { workspace, to, .. }), Some(homes)) => {
                            let record = homes.next(&workspace.into(), Some(to));
                            let entries = vec![HomeEntry::Home(record)];
                            let actor = &self.sequencer.actor;
                            actor.write_for(&self.link, order, entries, &self.answers);
                        }
                        _ => later(log, order, "what it needs has changed".to_owned()),
                    }
                }
                Err(why) => later(log, order, why),
            },
        }
        Ok(())
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
            let carried = self.carry_out(pending);
            let actor = &self.sequencer.actor;
            match carried {
                Carried::Later(why) => pending.why = why,
                Carried::Rejected(why) => log.settle(number, OrderState::Rejected, why).await,
                Carried::Done(what) => log.settle(number, OrderState::Done, what).await,
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
                    pending.may_be_released = true;
                    actor.release(number, &workspace, from, to.id, &self.answers);
                }
                Carried::TakeBack {
                    workspace,
                    home,
                    why,
                } => {
                    pending.is_under_way = true;
                    pending.rejected = Some(why);
                    actor.release(number, &workspace, home, home, &self.answers);
                }
            }
        }
    }

    fn carry_out(&self, pending: &PendingOrder) -> Carried {
        let (now, queue) = (Instant::now(), &*self.queue);
        match &pending.order {
            Order::Lost { host, at, by, .. } => {
                let called = queue.disks_called(now, host);
                if called.away.is_empty() {
                    return match (called.heard.is_empty(), called.is_any_lost) {
                        (true, true) => Carried::Done(done(&pending.order)),
                        (true, false) => Carried::Rejected(self.unknown_host(now, host)),
                        (false, _) if pending.since.elapsed() < ENDED_WITHIN => {
                            Carried::Later("its processes were heard just now".to_owned())
                        }
                        (false, _) => Carried::Rejected(format!(
                            "found processes of {host} that are heard, expected that all have ended: \
                             a disk in use can't be lost"
                        )),
                    };
                }
                let lost = called.away.into_iter().map(|disk| {
                    let (at, by) = (*at, by.clone());
                    HomeEntry::DiskLost(LostDisk { disk, at, by })
                });
                Carried::Write(lost.collect())
            }
            Order::Move {
                workspace, host, ..
            } => self.carry_out_move(now, pending, workspace, host),
            Order::Pause { .. } | Order::Resume { .. } | Order::ResumeAll => {
                Carried::Done(String::new())
            }
        }
    }

    fn carry_out_move(
        &self,
        now: Instant,
        pending: &PendingOrder,
        workspace: &str,
        host: &str,
    ) -> Carried {
        let queue = &*self.queue;
        let homes = queue.homes();
        let Some(from) = homes.and_then(|homes| homes.disk_of(workspace)) else {
            return Carried::Rejected(format!(
                "found no home of {workspace}, expected that it has had a turn"
            ));
        };
        // A disk that has let go of it for an order that is rejected takes it back.
        let rejected = |why: String| match pending.may_be_released {
            false => Carried::Rejected(why),
            true => Carried::TakeBack {
                workspace: workspace.to_owned(),
                home: from.id,
                why,
            },
        };
        let Some(to) = queue.disk_called(now, host) else {
            return rejected(self.unknown_host(now, host));
        };
        if from.id == to.id {
            return Carried::Done(done(&pending.order));
        }
        let is_paused = homes.is_some_and(|homes| homes.pauses().of(workspace, None).is_some());
        if !is_paused {
            return rejected(format!(
                "found {workspace} not paused, expected that it is: `turn-worker pause {workspace}` first"
            ));
        }
        if queue.may_run(now, workspace) {
            return Carried::Later("a turn of it is under way".to_owned());
        }
        Carried::Release {
            workspace: workspace.to_owned(),
            from: from.id,
            to,
        }
    }

    fn unknown_host(&self, now: Instant, host: &str) -> String {
        const SHOWN: usize = 8;
        let hosts = self.queue.host_summaries(now);
        let known = hosts.iter().filter(|host| !host.is_lost);
        let mut known: Vec<&str> = known.map(|host| &*host.host).collect();
        known.dedup();
        let more = known.len().saturating_sub(SHOWN);
        known.truncate(SHOWN);
        let known = match (known.is_empty(), more) {
            (true, _) => "a host that has reported".to_owned(),
            (false, 0) => known.join(", "),
            (false, more) => format!("{} or one of {more} more", known.join(", ")),
        };
        format!("found no disk of a host called {host}, expected {known}")
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
        let (orders, progress) = (log.pending(), log.progress());
        Some(backlog_report::homes(hosts, homes, orders, progress))
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

/// What is reported of an order that is carried out.
fn done(order: &Order) -> String {
    match order {
        Order::Lost { host, .. } => format!("the disk of {host} is lost: its open turns end"),
        Order::Move {
            workspace, host, ..
        } => format!("{workspace} lives on {host}"),
        Order::Pause { .. } | Order::Resume { .. } | Order::ResumeAll => String::new(),
    }
}

fn later(log: &mut HomesLog, number: u64, why: String) {
    if let Some(order) = log.order(number) {
        order.is_under_way = false;
        order.rejected = None;
        order.why = why;
    }
}
