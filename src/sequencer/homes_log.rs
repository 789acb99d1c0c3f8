//! The log of homes: a queue at the broker that the active sequencer consumes, and
//! acks only what newer entries replace. So its successor is delivered
//! all of it again. The broker gives it to one consumer at a time, as the turns.
//!
//! ```text
//! begin ─▶ … all entries before it … ─▶ read ─▶ turns are taken
//! record ─▶ log ─▶ read back ─▶ queue          operator's order ─▶ log ─▶ record
//! ```

use std::collections::{BTreeMap, VecDeque};
use std::future::pending;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use tokio::sync::mpsc;
use uuid::Uuid;

use super::actions::{Actor, Answer};
use super::intake::PREFETCH;
use super::remote_records::{ANSWER_LIMIT, unexpected};
use crate::amqp::consume::{ConsumeError, ConsumerHold, Delivery, Receipt};
use crate::amqp::link::Link;
use crate::amqp::messages::{MAX_ORDERS, OrderProgress, OrderState, RecordsAnswer, RecordsTask};
use crate::amqp::publish::{PublishError, json_properties};
use crate::error::with_sources;
use crate::event::SealedEvent;
use crate::fault;
use crate::homes::{HomeEntry, HomeRecord, Homes, Order};

/// Entries beyond which they are replaced by snapshots.
const MANY: usize = 1_000;
/// Entries beside the snapshots that are not worth new ones.
const FEW: usize = 16;
/// Ends of turns that are remembered for those who wait for them.
const MOST_ENDS: usize = 256;

/// What became of something that was written to the log, or asked for it.
#[derive(Debug)]
pub(super) enum LogAnswer {
    /// This session can't read the log.
    NotBegun(String),
    /// What an order leads to is in the log, or why it is not.
    Written {
        order: u64,
        written: Result<(), String>,
    },
    /// The workspace's disk lets go of it, or not yet, and why.
    Released {
        order: u64,
        released: Result<(), String>,
    },
    /// Snapshots stand for these entries; not if that failed.
    Replaced { entries: Vec<Receipt>, done: bool },
}

/// An operator's order that is not carried out yet.
#[derive(Debug)]
pub(super) struct PendingOrder {
    pub order: Order,
    receipt: Receipt,
    pub since: Instant,
    /// It is being carried out.
    pub is_under_way: bool,
    /// Why it is not.
    pub why: String,
    /// The workspace's disk may have let go of it, for this sequencer or for one before.
    pub may_be_released: bool,
    /// It is not to be carried out: the disk takes the workspace back first.
    pub rejected: Option<String>,
}

/// What an entry leads to.
#[derive(Debug)]
pub(super) enum LogStep {
    /// All is read.
    Read(Box<Homes>),
    /// Known now, and to be applied.
    Entry(HomeEntry),
    None,
}

/// One session's view of the log.
#[derive(Debug, Default)]
pub(super) struct HomesLog {
    open: Option<OpenLog>,
    orders: BTreeMap<u64, PendingOrder>,
    last_order: u64,
    /// The last ones that were settled.
    settled: VecDeque<OrderProgress>,
}

#[derive(Debug)]
struct OpenLog {
    consumer: ConsumerHold,
    nonce: Uuid,
    /// While the entries of predecessors are read.
    reading: Option<Box<Homes>>,
    kept: Vec<Receipt>,
    /// How many entries stood for all when they were last replaced.
    fewest: usize,
    is_replacing: bool,
    since: Instant,
}

impl HomesLog {
    pub(super) fn is_open(&self) -> bool {
        self.open.is_some()
    }

    pub(super) fn is_read(&self) -> bool {
        let open = self.open.as_ref();
        open.is_some_and(|open| open.reading.is_none())
    }

    /// Since when it has been open.
    pub(super) fn since(&self) -> Option<Instant> {
        self.open.as_ref().map(|open| open.since)
    }

    /// Consumes on the session's connection, which ends with it.
    pub(super) async fn open(
        &mut self,
        link: &Link,
        actor: &Actor,
        answers: &mpsc::UnboundedSender<Answer>,
    ) -> Result<(), ConsumeError> {
        let queue = &actor.topology.homes;
        let consumer = ConsumerHold::open(link.clone(), queue, PREFETCH).await?;
        let nonce = Uuid::new_v4();
        let (actor, answers) = (actor.clone(), answers.clone());
        tokio::spawn(async move {
            if let Err(error) = actor.write_log(&HomeEntry::Begin { nonce }).await {
                let _ = answers.send(Answer::Log(LogAnswer::NotBegun(with_sources(&error))));
            }
        });
        self.open = Some(OpenLog {
            consumer,
            nonce,
            reading: Some(Box::default()),
            kept: Vec::new(),
            fewest: 0,
            is_replacing: false,
            since: Instant::now(),
        });
        Ok(())
    }

    /// The next entry; never if it is not open. Cancel-safe.
    pub(super) async fn next(&mut self) -> Result<Delivery, ConsumeError> {
        match &mut self.open {
            Some(open) => open.consumer.next().await,
            None => pending().await,
        }
    }

    /// `Err` if the entry can't be read: what it says could be anything.
    pub(super) async fn take(&mut self, delivery: Delivery) -> Result<LogStep, String> {
        let Some(open) = &mut self.open else {
            return Ok(LogStep::None);
        };
        let entry = HomeEntry::decode(&delivery.body)?;
        match entry {
            HomeEntry::Begin { nonce } => {
                // Of this session, or of one before.
                let is_own = nonce == open.nonce;
                let _ = delivery.ack().await;
                let read = open.reading.take_if(|_| is_own);
                return Ok(read.map_or(LogStep::None, LogStep::Read));
            }
            HomeEntry::Order(order @ (Order::Lost { .. } | Order::Move { .. })) => {
                self.last_order += 1;
                let pending = PendingOrder {
                    order,
                    may_be_released: delivery.redelivered,
                    receipt: delivery.into_receipt(),
                    since: Instant::now(),
                    is_under_way: false,
                    why: "it has just come".to_owned(),
                    rejected: None,
                };
                self.orders.insert(self.last_order, pending);
                return Ok(LogStep::None);
            }
            HomeEntry::Home(_)
            | HomeEntry::DiskLost(_)
            | HomeEntry::Snapshot(_)
            | HomeEntry::Order(_) => {}
        }
        open.kept.push(delivery.into_receipt());
        let Some(homes) = &mut open.reading else {
            return Ok(LogStep::Entry(entry));
        };
        match entry {
            HomeEntry::Home(record) => drop(homes.set(record)),
            HomeEntry::DiskLost(lost) => drop(homes.disk_lost(lost)),
            HomeEntry::Snapshot(snapshot) => homes.snapshot(snapshot),
            HomeEntry::Order(order) => heed(homes, order),
            HomeEntry::Begin { .. } => {}
        }
        Ok(LogStep::None)
    }

    /// Replaces the entries by snapshots where that makes them fewer by far.
    pub(super) fn tidy(
        &mut self,
        homes: &Homes,
        actor: &Actor,
        answers: &mpsc::UnboundedSender<Answer>,
    ) {
        let Some(open) = &mut self.open else { return };
        let at_first = open.fewest == 0;
        let limit = if at_first { FEW } else { open.fewest + MANY };
        if open.reading.is_some() || open.is_replacing || open.kept.len() <= limit {
            return;
        }
        let snapshots = homes.snapshots();
        open.fewest = snapshots.len() + FEW;
        if open.kept.len() <= open.fewest {
            return;
        }
        open.is_replacing = true;
        let entries = std::mem::take(&mut open.kept);
        let (actor, answers) = (actor.clone(), answers.clone());
        tokio::spawn(async move {
            let mut done = true;
            for snapshot in snapshots {
                let written = actor.write_log(&HomeEntry::Snapshot(snapshot)).await;
                if let Err(error) = written {
                    let error = with_sources(&error);
                    tracing::warn!(error, "the log of homes is not made shorter yet");
                    done = false;
                    break;
                }
            }
            let _ = answers.send(Answer::Log(LogAnswer::Replaced { entries, done }));
        });
    }

    pub(super) async fn replaced(&mut self, entries: Vec<Receipt>, done: bool) {
        let Some(open) = &mut self.open else { return };
        open.is_replacing = false;
        if !done {
            open.kept.extend(entries);
            return;
        }
        for entry in entries {
            // A repeated delivery has no effect.
            if entry.ack().await.is_err() {
                return;
            }
        }
    }

    /// Orders that are not under way, by their numbers.
    pub(super) fn orders(&mut self) -> impl Iterator<Item = (u64, &mut PendingOrder)> {
        let orders = self.orders.iter_mut();
        orders
            .filter(|(_, order)| !order.is_under_way)
            .map(|(number, order)| (*number, order))
    }

    /// For operators.
    pub(super) fn pending(&self) -> Vec<String> {
        let orders = self.orders.values();
        let shown = orders.map(|pending| match &pending.order {
            Order::Lost { host, .. } => format!("home lost {host}: {}", pending.why),
            Order::Move {
                workspace, host, ..
            } => format!("home move {workspace} {host}: {}", pending.why),
            Order::Pause { .. } | Order::Resume { .. } | Order::ResumeAll => pending.why.clone(),
        });
        shown.take(8).collect()
    }

    /// For the commands that wait for them.
    pub(super) fn progress(&self) -> Vec<OrderProgress> {
        let pending = self.orders.values().take(MAX_ORDERS);
        let pending = pending.filter_map(|pending| {
            Some(OrderProgress {
                order: pending.order.id()?,
                state: OrderState::Pending,
                detail: pending.why.clone(),
            })
        });
        self.settled.iter().cloned().chain(pending).collect()
    }

    pub(super) fn order(&mut self, number: u64) -> Option<&mut PendingOrder> {
        self.orders.get_mut(&number)
    }

    /// It is carried out, or can't be.
    pub(super) async fn settle(&mut self, number: u64, state: OrderState, detail: String) {
        let Some(pending) = self.orders.remove(&number) else {
            return;
        };
        let (order, what) = (&pending.order, &*detail);
        match state {
            OrderState::Rejected => tracing::warn!(?order, what, "rejected an operator's order"),
            _ => tracing::info!(?order, what, "carried an operator's order out"),
        }
        if let Some(order) = order.id() {
            self.settled.truncate(MAX_ORDERS - 1);
            self.settled.push_front(OrderProgress {
                order,
                state,
                detail,
            });
        }
        let _ = pending.receipt.ack().await;
        fault::at("sequencer.order_settled");
    }
}

/// What holds from the moment at which it is read.
pub(super) fn heed(homes: &mut Homes, order: Order) {
    match order {
        Order::Pause { pause } => homes.pause(pause),
        Order::Resume { scope } => homes.resume(Some(&scope)),
        Order::ResumeAll => homes.resume(None),
        Order::Lost { .. } | Order::Move { .. } => {}
    }
}

impl Actor {
    pub(super) async fn write_log(&self, entry: &HomeEntry) -> Result<(), PublishError> {
        let queue = &self.topology.homes;
        let (properties, body) = (json_properties(), entry.encode());
        self.publisher
            .publish_confirmed("", queue, properties, &body, true)
            .await
    }

    /// A disk that the workspace was moved away from takes it back first.
    async fn keep_home(&self, record: HomeRecord) -> Result<(), String> {
        if let Some(disk) = record.home.as_ref().filter(|_| record.number > 1) {
            self.ask_release(disk.id, &record.workspace, disk.id)
                .await?;
        }
        let written = self.write_log(&HomeEntry::Home(record)).await;
        written.map_err(|error| with_sources(&error))
    }

    /// It counts when it was read back.
    pub(super) fn set_home(&self, record: HomeRecord, answers: &mpsc::UnboundedSender<Answer>) {
        let (actor, answers) = (self.clone(), answers.clone());
        let workspace = Arc::clone(&record.workspace);
        tokio::spawn(async move {
            let kept = actor.keep_home(record).await;
            fault::at("sequencer.home_written");
            if let Err(error) = kept {
                let name = &*workspace;
                tracing::warn!(
                    error,
                    workspace = name,
                    "a workspace's home is not kept yet"
                );
                let _ = answers.send(Answer::HomeFailed { workspace });
            }
        });
    }

    /// Writes what an order leads to. Of disks that are lost, what lies in their queues
    /// goes first: no part of it may be run if they come back.
    pub(super) fn write_for(
        &self,
        link: &Link,
        order: u64,
        entries: Vec<HomeEntry>,
        answers: &mpsc::UnboundedSender<Answer>,
    ) {
        let (actor, answers, link) = (self.clone(), answers.clone(), link.clone());
        tokio::spawn(async move {
            let mut written = Ok(());
            for entry in entries {
                if let HomeEntry::DiskLost(lost) = &entry {
                    actor.topology.delete_of_disk(&link, lost.disk.id).await;
                    fault::at("sequencer.lost_disk_deleted");
                }
                if let Err(error) = actor.write_log(&entry).await {
                    written = Err(with_sources(&error));
                    break;
                }
            }
            fault::at("sequencer.order_written");
            let _ = answers.send(Answer::Log(LogAnswer::Written { order, written }));
        });
    }

    /// `from` and `to` are the same for a disk that takes the workspace back.
    async fn ask_release(&self, from: Uuid, workspace: &str, to: Uuid) -> Result<(), String> {
        let workspace = workspace.to_owned();
        // Also here: one way for all disks.
        let task = RecordsTask::Release { workspace, to };
        match self.ask(from, task, ANSWER_LIMIT).await? {
            RecordsAnswer::Released(true) => Ok(()),
            RecordsAnswer::Released(false) => Err("a turn of it is under way".to_owned()),
            other => Err(unexpected(&other)),
        }
    }

    /// Has the disk `from` let go of a workspace that moves to `to`.
    pub(super) fn release(
        &self,
        order: u64,
        workspace: &str,
        from: Uuid,
        to: Uuid,
        answers: &mpsc::UnboundedSender<Answer>,
    ) {
        let (actor, answers) = (self.clone(), answers.clone());
        let workspace = workspace.to_owned();
        tokio::spawn(async move {
            let released = actor.ask_release(from, &workspace, to).await;
            fault::at("sequencer.released");
            let _ = answers.send(Answer::Log(LogAnswer::Released { order, released }));
        });
    }
}

/// Ends of turns that no records have, for replies. Clones are the same.
#[derive(Debug, Clone, Default)]
pub(super) struct LostEnds(Arc<Mutex<VecDeque<LostEnd>>>);

#[derive(Debug)]
struct LostEnd {
    workspace: Arc<str>,
    turn_id: Arc<str>,
    events: Vec<SealedEvent>,
}

impl LostEnds {
    pub(super) fn keep(&self, workspace: &Arc<str>, turn_id: &Arc<str>, events: Vec<SealedEvent>) {
        let mut ends = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        ends.push_back(LostEnd {
            workspace: Arc::clone(workspace),
            turn_id: Arc::clone(turn_id),
            events,
        });
        if ends.len() > MOST_ENDS {
            ends.pop_front();
        }
    }

    pub(super) fn take(&self, workspace: &str, turn_id: &str) -> Option<Vec<SealedEvent>> {
        let mut ends = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_it = |end: &LostEnd| *end.workspace == *workspace && *end.turn_id == *turn_id;
        let place = ends.iter().position(is_it)?;
        ends.remove(place).map(|end| end.events)
    }
}
