//! One connection of the sequencer: what it hears, and in which order it acts
//! on it. The queue decides everything; this only listens and obeys.

mod controls;
mod depths;
mod homes;
mod questions;
mod runs;
mod statuses;

use std::collections::HashMap;
use std::convert::Infallible;
use std::future::{pending, ready};
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};
use tokio::time::{MissedTickBehavior, interval, sleep_until};
use tokio_util::sync::CancellationToken;

use super::actions::{Actor, Answer};
use super::backlog_report;
use super::complaints::Complaints;
use super::describe::Questions;
use super::homes_log::HomesLog;
use super::intake::{Intake, KEPT_BYTES, NextTurn, PREFETCH};
use super::message::TurnMessage;
use super::peers::Peers;
use super::queue::{Action, Arrival, Queue, SHARED};
use super::rejection::Refused;
use super::remote_records::queued_turn;
use super::reply::Callers;
use super::stuck_log::StuckLog;
use super::watchdog::Watchdog;
use crate::amqp::connect::Connector;
use crate::amqp::consume::{ConsumeError, Consumer, ConsumerHold, Delivery, Receipt, SettleError};
use crate::amqp::declare_error::DeclareError;
use crate::amqp::link::Link;
use crate::amqp::messages::{BacklogReport, HomesReport};
use crate::amqp::reply::{ReplyAddress, ReplyOutcome};
use crate::amqp::topology::{Depth, Fanout, Topology};
use crate::conditions::{Condition, Conditions};
use crate::fault;
use crate::heartbeat::HEARTBEAT;
use crate::http::{Health, SequencerState};
use crate::metrics::{Backlog, Metrics};
use crate::pauses::PauseWatch;
use crate::pool::Pool;
use crate::request::{Limits, TurnRequest};
use crate::supervisor::Supervisor;
use crate::tenants::Tenants;

/// Status and control messages are tiny and handled at once.
const STATUS_PREFETCH: u16 = 1_000;
/// Control messages that are handled in one round of the loop. Producers send them, as many as they like.
const CONTROL_BATCH: usize = 100;
/// A message that cannot be delivered ends a session much sooner.
const HEALTHY: Duration = Duration::from_secs(10);
/// So that an idle loop shows that it lives.
const PULSE: Duration = Duration::from_secs(1);

/// What a sequencer is made of.
pub struct Sequencer {
    pub connector: Connector,
    pub topology: Topology,
    /// Turns that the queue has at once.
    pub backlog: usize,
    pub max_waiting: usize,
    /// How much later a turn may have come that is started before a waiting one.
    pub overtaking: Duration,
    pub limits: Limits,
    pub actor: Actor,
    pub metrics: Metrics,
    pub health: Health,
    pub conditions: Conditions,
    pub pool: Pool,
    pub pauses: PauseWatch,
    pub tenants: Tenants,
    pub supervisor: Supervisor,
}

#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error("what it needs can't be declared")]
    Declare(#[from] DeclareError),
    #[error(transparent)]
    Consume(#[from] ConsumeError),
    #[error("a delivery could not be acked")]
    Ack(#[from] SettleError),
    #[error("the pool has another workspace root than this process")]
    Barred,
    /// Not a failure: see [`super::intake`].
    #[error("it takes all turns again, for the requests that it did not keep")]
    TakeAgain,
    #[error("another process removes a message that the broker cannot deliver")]
    StandBack,
    #[error("the log of homes can't be read: {0}")]
    Homes(String),
    #[error("this host is disconnected from the workspaces' storage, and another sequencer is not")]
    NoStorage,
    #[error("it is asked to end")]
    Drain,
}

impl Sequencer {
    /// `backlog`: of an active sequencer. `describes`: it hears questions where a turn is.
    /// `homes`: of an active one, in a pool without shared storage.
    fn report(
        &self,
        id: &str,
        backlog: Option<BacklogReport>,
        describes: bool,
        homes: Option<HomesReport>,
    ) {
        let (conditions, pool) = (self.conditions.reports(), self.pool.agreement());
        let report = backlog_report::told(id, backlog, conditions, pool, describes, homes);
        self.actor.tell(report);
    }

    async fn session(
        &self,
        id: &str,
        link: &Link,
        queue: &mut Queue,
        first: bool,
        drain: &CancellationToken,
    ) -> Result<Infallible, Ended> {
        self.topology.declare(link).await?;
        // Bound before the first turn is taken, so that no `done` and no
        // heartbeat is missed; on the same connection, so that neither outlives the other.
        let status_queue = self
            .topology
            .declare_exclusive(link, Fanout::Status)
            .await?;
        let control_queue = self
            .topology
            .declare_exclusive(link, Fanout::Control)
            .await?;
        let mut status = Consumer::open(link, &status_queue, STATUS_PREFETCH).await?;
        let mut control = Consumer::open(link, &control_queue, STATUS_PREFETCH).await?;
        let mut records = self.open_records(link).await?;
        self.actor.asking.answers_to(status_queue.as_str().into());
        // Later, it may be a session of this process that has not ended yet.
        let before = match first {
            true => self.topology.depth(link, &self.topology.turns).await?,
            false => Depth::default(),
        };
        let mut turns = ConsumerHold::open(link.clone(), &self.topology.turns, PREFETCH).await?;
        self.health.set_sequencer(SequencerState::Standby);

        let began = Instant::now();
        let (answers, mut answered) = mpsc::unbounded_channel();
        let mut session = Session {
            sequencer: self,
            queue,
            intake: Intake::new(KEPT_BYTES),
            peers: Peers::new(began, id, before.consumers),
            looks_without_storage: 0,
            held: HashMap::new(),
            callers: HashMap::new(),
            next_tag: 0,
            active: false,
            reply_to: Arc::from(status_queue.as_str()),
            answers,
            out: Vec::new(),
            complaints: Complaints::default(),
            stuck: StuckLog::default(),
            questions: Questions::new(began),
            ready: 0,
            homes_are_read: !self.topology.is_local(),
            link: link.clone(),
        };
        let mut log = HomesLog::default();
        let own = [
            (Fanout::Status, status_queue.as_str()),
            (Fanout::Control, control_queue.as_str()),
        ];
        let mut upkeep = pin!(self.topology.keep(link, &own));
        let watchdog = Watchdog::start(link.clone(), &self.supervisor);
        let mut pulse = interval(PULSE);
        let depths = watch::Sender::new(None);
        let disks = watch::Sender::new(vec![SHARED]);
        let mut looks = pin!(self.watch_depths(link, &depths, &disks));
        let mut depths = depths.subscribe();
        let mut telling = interval(HEARTBEAT);
        telling.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut paused = self.pauses.subscribe();
        paused.mark_changed();
        session.observe();
        let mut heard_control = false;
        loop {
            let intake = session.intake.deadline();
            let intake = intake.filter(|_| session.homes_are_read);
            // Every second round at most, so that a flood of them delays no turn.
            let hears_control = !std::mem::take(&mut heard_control);
            let deadlines = [session.queue.next_deadline(), intake];
            let deadline = deadlines.into_iter().flatten().min();
            let deadline = deadline.unwrap_or_else(|| Instant::now() + PULSE);
            tokio::select! {
                biased;
                () = drain.cancelled() => {
                    turns.close().await;
                    return Err(Ended::Drain);
                }
                () = self.actor.records.host.turns_barred(true) => {
                    turns.close().await;
                    return Err(Ended::Barred);
                }
                Ok(()) = paused.changed() => {
                    let pauses = paused.borrow_and_update().clone();
                    session.queue.set_paused(Instant::now(), pauses, &mut session.out);
                }
                delivery = status.next() => session.status(delivery?).await?,
                deliveries = control.next_ready(CONTROL_BATCH), if hears_control => {
                    session.controls(deliveries?).await?;
                    heard_control = true;
                }
                delivery = log.next() => session.log_entry(&mut log, delivery?).await?,
                delivery = next_of(&mut records) => {
                    self.actor.serve_records(delivery?, &self.tenants);
                }
                Some(answer) = answered.recv() => match answer {
                    Answer::Log(answer) => session.log_answer(&mut log, answer).await?,
                    answer => session.answer(answer),
                },
                () = sleep_until(deadline.into()) => {
                    session.queue.tick(Instant::now(), &mut session.out);
                }
                delivery = turns.next() => session.arrived(delivery?),
                never = &mut upkeep => match never {},
                _ = pulse.tick() => {}
                _ = telling.tick() => {
                    if session.should_hand_over() {
                        turns.close().await;
                        return Err(Ended::NoStorage);
                    }
                    if began.elapsed() >= HEALTHY {
                        self.conditions.set(Condition::TurnUndeliverable, "", None);
                    }
                    session.carry_out_orders(&mut log).await;
                    disks.send_replace(session.queue.disks());
                    session.report(id, &log);
                }
                never = &mut looks => match never {},
                Ok(()) = depths.changed() => {
                    let depths = depths.borrow_and_update().clone();
                    if let Some(depths) = depths {
                        session.depths(&depths);
                    }
                }
                () = ready(()), if !hears_control => {}
            }
            if self.topology.is_local() && session.active && !log.is_open() {
                log.open(link, &self.actor, &session.answers).await?;
            }
            session.admit()?;
            session.act().await?;
            session.observe();
            watchdog.alive();
        }
    }
}

/// What belongs to one connection.
struct Session<'a> {
    sequencer: &'a Sequencer,
    queue: &'a mut Queue,
    /// What comes from `codex.turns`, until the queue takes it.
    intake: Intake<Receipt, TurnMessage>,
    peers: Peers,
    /// Looks in a row at which another sequencer had storage and this process did not.
    looks_without_storage: u32,
    /// Unacked deliveries that the queue has taken, by the tags that it knows.
    held: HashMap<u64, Receipt>,
    /// Who wants the end of a held turn sent to a queue, by the tag of the
    /// delivery that is acked when it has ended.
    callers: HashMap<u64, Callers>,
    next_tag: u64,
    /// It has been given turns: of all sequencers, the broker chose this one.
    active: bool,
    /// The queue for workers' answers to offers.
    reply_to: Arc<str>,
    answers: mpsc::UnboundedSender<Answer>,
    out: Vec<Action>,
    complaints: Complaints,
    stuck: StuckLog,
    questions: Questions,
    /// Turns that the broker has given to no consumer, as it said last.
    ready: u64,
    /// Before, no turn may be let in.
    homes_are_read: bool,
    link: Link,
}

impl Session<'_> {
    fn arrived(&mut self, mut delivery: Delivery) {
        fault::at("sequencer.received");
        let sequencer = self.sequencer;
        sequencer.health.set_sequencer(SequencerState::Active);
        sequencer.metrics.set_sequencer_active(true);
        self.active = true;
        self.peers.delivered();
        let returned = delivery.times_returned();
        let message = TurnMessage::take(&mut delivery);
        let bytes = message.bytes();
        let receipt = delivery.into_receipt();
        let kept = self.intake.keeps_all();
        self.intake
            .arrived(Instant::now(), returned, receipt, message, bytes);
        if kept && !self.intake.keeps_all() {
            tracing::debug!("requests beyond BACKLOG are left with the broker");
        }
    }

    /// Lets the queue have as many turns as it may have.
    fn admit(&mut self) -> Result<(), Ended> {
        let backlog = self.sequencer.backlog.max(1);
        if !self.homes_are_read {
            return Ok(());
        }
        while self.held.len() < backlog {
            match self.intake.next(Instant::now()) {
                NextTurn::Turn(receipt, message) => self.turn(receipt, message),
                // Not for each turn: all that is held is delivered again then.
                NextTurn::Again if self.held.len() > backlog / 2 => return Ok(()),
                NextTurn::Again => return Err(Ended::TakeAgain),
                NextTurn::None => return Ok(()),
            }
        }
        Ok(())
    }

    fn turn(&mut self, receipt: Receipt, mut message: TurnMessage) {
        let sequencer = self.sequencer;
        let tag = self.next_tag;
        self.next_tag += 1;
        let properties = message.properties();
        if let Some(expiration) = properties.expiration {
            self.complaints.expiration(expiration);
        }
        // The queue keeps what was understood of it: once is enough (G10).
        self.held.insert(tag, receipt);
        let redelivered = message.redelivered;
        let reply_to = message.reply_address().unwrap_or_else(|queue| {
            sequencer.metrics.reply(ReplyOutcome::Refused);
            self.complaints.reply_to(queue);
            None
        });
        match TurnRequest::parse(&message.body, &sequencer.limits, &properties) {
            Ok(request) => {
                let turn = queued_turn(&request, &sequencer.tenants);
                let now = Instant::now();
                match self
                    .queue
                    .delivered(now, tag, redelivered, turn, &mut self.out)
                {
                    Arrival::New => {}
                    Arrival::Duplicate { other_body } => {
                        sequencer.metrics.duplicate_turn();
                        tracing::info!(turn_id = %request.turn_id, workspace = %request.workspace,
                            trace_id = request.trace_id(), other_body, "a turn that is held already was published again");
                    }
                    Arrival::Redelivered { .. } => {}
                }
                if let Some(address) = reply_to {
                    self.called(&request, address);
                }
            }
            Err(rejection) => {
                let answers = self.answers.clone();
                // The turn that is in line came first; this one is only counted.
                let names_held = (rejection.turn_id.as_ref())
                    .is_some_and(|turn_id| self.queue.holds_turn_id(turn_id.as_str()));
                let mut body = std::mem::take(&mut message.body);
                // What is too large is kept in part: enough to see what it was (G10).
                body.truncate(sequencer.limits.max_request_bytes);
                let refused = Refused {
                    rejection,
                    body,
                    names_held,
                    redelivered,
                    reply_to,
                    is_local: sequencer.topology.is_local(),
                };
                sequencer.actor.reject(refused, move || {
                    // A session that is over has no use for it: the delivery comes again.
                    let _ = answers.send(Answer::Rejected { tag });
                });
            }
        }
    }

    /// Also by a request that is published again while its turn is held.
    fn called(&mut self, request: &TurnRequest, address: ReplyAddress) {
        let (workspace, turn_id) = (request.workspace.shared(), request.turn_id.shared());
        if let Some(tag) = self.queue.first_tag(&workspace, &turn_id) {
            let callers = self.callers.entry(tag);
            callers
                .or_insert_with(|| Callers::of(workspace, turn_id))
                .add(address);
        }
    }

    fn answer(&mut self, answer: Answer) {
        let now = Instant::now();
        let out = &mut self.out;
        match answer {
            Answer::OfferConfirmed(ticket) => self.queue.offer_confirmed(now, ticket, out),
            Answer::OfferFailed(ticket) => self.queue.offer_failed(now, ticket, out),
            Answer::Claim(ticket, answer) => self.queue.claim_answered(now, ticket, answer, out),
            Answer::Received { ticket, ago } => self.queue.was_received(now, ticket, ago, out),
            Answer::Rejected { tag } => out.push(Action::Ack { tag }),
            Answer::SecondLook(asked) => self.second_look(asked),
            Answer::HomeFailed { workspace } => self.queue.home_failed(now, &workspace),
            // Of the log, which the loop has.
            Answer::Log(_) => {}
        }
    }

    /// Carries out what the queue wants, in its order. Only acks are done
    /// here; what takes time goes to a task of its own.
    async fn act(&mut self) -> Result<(), SettleError> {
        for action in std::mem::take(&mut self.out) {
            match action {
                Action::Ack { tag } => {
                    if let Some(receipt) = self.held.remove(&tag) {
                        receipt.ack().await?;
                        fault::at("sequencer.acked");
                        if let Some(callers) = self.callers.remove(&tag) {
                            let disk = self.queue.disk_of(callers.workspace());
                            self.sequencer.actor.reply(callers, disk);
                        }
                    }
                }
                other => (self.sequencer.actor).act(other, &self.reply_to, &self.answers),
            }
        }
        Ok(())
    }

    fn report(&mut self, id: &str, log: &HomesLog) {
        let now = Instant::now();
        let stuck = self.queue.stuck(now);
        let known = self.active.then_some(stuck.len());
        self.sequencer.metrics.set_workspaces_stuck(known);
        self.stuck.log(now, &stuck);
        let (beyond, limit) = (self.intake.len(), self.sequencer.backlog);
        let backlog = || backlog_report::backlog(now, limit, beyond, self.queue, &stuck);
        let backlog = self.active.then(backlog);
        let homes = self.homes_report(now, log);
        self.sequencer.report(id, backlog, true, homes);
    }

    fn observe(&self) {
        let backlog = || Backlog {
            turns: self.queue.turns(),
            workspaces: self.queue.workspaces(),
            oldest: (self.queue.oldest_waiting(Instant::now())).map(|oldest| oldest.received),
        };
        // A standby holds no turn, and does not know what the active one holds.
        let known = self.active.then(backlog);
        self.sequencer.metrics.set_backlog(known);
    }
}

/// The next delivery; never if there is no consumer. Cancel-safe.
async fn next_of(consumer: &mut Option<Consumer>) -> Result<Delivery, ConsumeError> {
    match consumer {
        Some(consumer) => consumer.next().await,
        None => pending().await,
    }
}
