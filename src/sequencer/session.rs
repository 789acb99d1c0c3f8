//! One connection of the sequencer: what it hears, and in which order it acts
//! on it. The queue decides everything; this only listens and obeys.

mod homes;
mod questions;

use std::collections::HashMap;
use std::convert::Infallible;
use std::future::{pending, ready};
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};
use tokio::time::{MissedTickBehavior, interval, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::actions::{Actor, Answer};
use super::backlog_report;
use super::complaints::Complaints;
use super::describe::Questions;
use super::homes_log::HomesLog;
use super::intake::{Intake, KEPT_BYTES, NextTurn, PREFETCH};
use super::message::TurnMessage;
use super::peers::{PeerReport, Peers};
use super::queue::{Action, Arrival, Queue, SHARED, WorkerReport};
use super::rejection::Refused;
use super::remote_records::queued_turn;
use super::removal::{Removal, RemovalError};
use super::reply::Callers;
use super::restarts::{Restarts, cause};
use super::stuck_log::StuckLog;
use super::undeliverable::{CrashCount, HeadState, is_crash};
use super::watchdog::Watchdog;
use crate::amqp::connect::Connector;
use crate::amqp::consume::{
    ConsumeError, Consumer, ConsumerHold, Delivery, Receipt, SettleError, ack_all,
};
use crate::amqp::declare_error::DeclareError;
use crate::amqp::link::Link;
use crate::amqp::messages::{
    About, BacklogReport, Cancel, ControlRequest, DeclineReason, Decoded, HomesReport,
    IgnoredControl, MAX_IDLE, Running, Status,
};
use crate::amqp::reply::{ReplyAddress, ReplyOutcome};
use crate::amqp::topology::{Depth, Fanout, Topology};
use crate::conditions::{Condition, Conditions};
use crate::error::with_sources;
use crate::fault;
use crate::heartbeat::HEARTBEAT;
use crate::http::{Health, SequencerState};
use crate::metrics::{Backlog, Metrics, OfferAnswer};
use crate::pauses::PauseWatch;
use crate::pool::Pool;
use crate::request::{Limits, TurnRequest, WorkspaceId};
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
/// How often the broker is asked how full the queues are.
const DEPTH_PULSE: Duration = Duration::from_secs(10);

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
    /// Until `drain`: then it closes its connection at once, and the next
    /// process's sequencer takes over with everything that is unacked.
    pub async fn run(self, id: &str, drain: CancellationToken) {
        let mut queue = Queue::new(self.max_waiting, rand_seed()).with_guard(self.overtaking);
        if self.topology.is_local() {
            queue = queue.with_local_storage(Instant::now());
        }
        let connector = self.connector.named(format!("{id} sequencer"));
        let mut restarts = Restarts::default();
        let mut crashes = CrashCount::default();
        let mut first = true;
        while self.admitted(id, &drain).await
            && let Some(link) = connector.connect_with_backoff(&drain).await
        {
            let began = Instant::now();
            // A process that has seen no crash has no reason to ask.
            let ended = match crashes.any() {
                true => self.stand_back(&link).await,
                false => Ok(()),
            };
            let ended = match ended {
                Ok(()) => self.session(id, &link, &mut queue, first, &drain).await,
                Err(ended) => Err(ended),
            };
            first = false;
            let closed = cause(&link).await;
            // Never by cancelling the consumer: its successor would start before
            // the unacked deliveries are back, out of order (G1).
            link.close().await;
            queue.reset();
            self.health.set_sequencer(SequencerState::Absent);
            self.metrics.set_sequencer_active(false);
            self.metrics.set_backlog(None);
            self.metrics.set_workspaces_stuck(None);
            self.conditions.set(Condition::HomeAway, "", None);
            let Err(ended) = ended;
            let text = with_sources(&ended);
            match ended {
                Ended::Drain => return,
                Ended::TakeAgain => {
                    tracing::info!("the sequencer takes all turns again");
                    continue;
                }
                Ended::StandBack => {}
                _ => {
                    let crashed = is_crash(&text) || closed.as_deref().is_some_and(is_crash);
                    crashes.ended(crashed, began.elapsed());
                }
            }
            let pause = restarts.pause(began.elapsed(), closed, &text);
            tokio::select! {
                () = sleep(pause) => {}
                () = drain.cancelled() => return,
            }
            let isolating = connector.named(format!("{id} isolation"));
            self.attend_to_head(&mut crashes, &isolating, &drain).await;
        }
    }

    /// Another process removes a message, and no process may consume meanwhile.
    async fn stand_back(&self, link: &Link) -> Result<(), Ended> {
        match self.topology.turns_are_locked(link).await? {
            true => Err(Ended::StandBack),
            false => Ok(()),
        }
    }

    /// Alerts, and then removes the message at the head of `codex.turns`, if
    /// session after session crashes on it.
    async fn attend_to_head(
        &self,
        crashes: &mut CrashCount,
        connector: &Connector,
        drain: &CancellationToken,
    ) {
        let state = crashes.state();
        if state == HeadState::Deliverable {
            return;
        }
        let found = format!(
            "found a message at the head of {} that the broker cannot deliver (connections end with INTERNAL_ERROR), expected one that it can: it is searched for and removed, and recorded in {}",
            self.topology.turns, self.topology.dead
        );
        self.conditions
            .set(Condition::TurnUndeliverable, "", Some(found));
        // If the broker itself is the trouble, the other connections end, too.
        if state == HeadState::Suspicious || !self.actor.publisher.is_connected() {
            return;
        }
        let removal = self.remove_undeliverable(connector, drain).await;
        crashes.tried();
        match removal {
            Ok(Removal::Removed) => {
                self.conditions.set(Condition::TurnUndeliverable, "", None);
            }
            Ok(Removal::Elsewhere | Removal::NotFound) | Err(RemovalError::Drain) => {}
            Err(error) => tracing::error!(
                error = with_sources(&error),
                "can't remove the message that cannot be delivered yet"
            ),
        }
    }

    /// Waits until this process may take turns and has storage; false if drained before. Until
    /// then it only reports that it is there.
    async fn admitted(&self, id: &str, drain: &CancellationToken) -> bool {
        let host = &self.actor.records.host;
        let mut telling = interval(HEARTBEAT);
        telling.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let has_storage = !self.pool.is_without_storage();
            tokio::select! {
                biased;
                () = drain.cancelled() => return false,
                () = host.turns_barred(false), if has_storage => return true,
                _ = telling.tick() => self.report(id, None, false, None),
            }
        }
    }

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

/// What the broker says of the queues.
#[derive(Debug, Clone)]
struct Depths {
    /// Offers that lie in each work queue.
    offers: Vec<(Uuid, u64)>,
    turns: Depth,
}

impl Sequencer {
    /// Asks for as long as it is polled. What the broker does not answer is
    /// asked again; a link that is gone ends the session by itself.
    async fn watch_depths(
        &self,
        link: &Link,
        depths: &watch::Sender<Option<Depths>>,
        disks: &watch::Sender<Vec<Uuid>>,
    ) -> Infallible {
        let mut pulse = interval(DEPTH_PULSE);
        pulse.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            pulse.tick().await;
            let mut offers = Vec::new();
            let known = disks.borrow().clone();
            for disk in known {
                let work = self.topology.work_of(disk);
                // That of a disk that never came is not there.
                if let Ok(depth) = self.topology.depth(link, &work).await {
                    offers.push((disk, depth.ready));
                }
            }
            let turns = self.topology.depth(link, &self.topology.turns).await;
            if let Ok(turns) = turns {
                depths.send_replace(Some(Depths { offers, turns }));
            }
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

    async fn status(&mut self, delivery: Delivery) -> Result<(), SettleError> {
        let now = Instant::now();
        match Status::decode(&delivery.body) {
            Ok(Decoded::Known(Status::Done {
                workspace,
                turn_id,
                worker,
                warm,
                journal,
            })) => {
                fault::at("sequencer.done");
                if let Some(end) = journal {
                    self.sequencer.pool.note_journal_end(&workspace, end);
                }
                let (queue, out) = (&mut *self.queue, &mut self.out);
                queue.served(now, &workspace, &turn_id, &worker, warm);
                // Heads that wait for a slot there came first.
                queue.use_room(now, &worker, out);
                queue.done(now, &workspace, &turn_id, out);
            }
            Ok(Decoded::Known(Status::Taken {
                workspace,
                turn_id,
                worker,
            })) => {
                self.sequencer.metrics.offer_answered(OfferAnswer::Taken);
                let (queue, out) = (&mut *self.queue, &mut self.out);
                queue.offer_taken(now, &workspace, &turn_id, &worker, out);
            }
            Ok(Decoded::Known(Status::Declined {
                workspace,
                turn_id,
                worker,
                why,
            })) => {
                // Of a requeued one, the answer is counted already.
                if why != DeclineReason::Requeued.as_str() {
                    self.sequencer.metrics.offer_answered(OfferAnswer::Declined);
                }
                tracing::debug!(turn_id, workspace, worker, why, "an offer was declined");
                let (queue, out) = (&mut *self.queue, &mut self.out);
                queue.offer_declined(now, &workspace, &turn_id, &worker, out);
            }
            Ok(Decoded::Known(Status::Heartbeat {
                worker,
                slots,
                running,
                about,
                ..
            })) => {
                self.heartbeat(now, &worker, slots, &running, &about);
                self.stuck.heard(now, about.blocked);
            }
            Ok(Decoded::Known(Status::Sequencer {
                process,
                active,
                describes,
                homes,
                pool,
                ..
            })) => {
                let report = PeerReport {
                    active,
                    describes,
                    has_storage: pool.is_some_and(|pool| {
                        pool.holds_lock && pool.root == self.sequencer.pool.root()
                    }),
                };
                self.heed_active(&process, homes);
                self.peers.heard(now, process, report);
            }
            Ok(Decoded::Known(Status::Recorded { nonce, answer })) => {
                self.sequencer.actor.asking.answered(nonce, answer);
            }
            Ok(Decoded::Known(Status::Pool { .. })) => {}
            Ok(Decoded::Unknown(what)) => tracing::debug!(what, "unknown status message"),
            Err(error) => tracing::warn!(error = with_sources(&error), "ignored a status message"),
        }
        delivery.ack().await
    }

    /// Without storage no turn can be looked up, so none would be offered. A single look may
    /// come while the lock is taken again.
    fn should_hand_over(&mut self) -> bool {
        const LOOKS: u32 = 2;
        let can = self.active && self.sequencer.pool.is_without_storage();
        let should = can && self.peers.any_with_storage(Instant::now());
        self.looks_without_storage = match should {
            true => self.looks_without_storage + 1,
            false => 0,
        };
        self.looks_without_storage >= LOOKS
    }

    fn heartbeat(
        &mut self,
        now: Instant,
        worker: &str,
        slots: u32,
        running: &[Running],
        about: &About,
    ) {
        let sequencer = self.sequencer;
        let root = about.pool.as_ref().map(|pool| pool.root);
        let running = running.iter();
        let running: Vec<(&str, &str)> = running
            .map(|turn| (&*turn.workspace, &*turn.turn_id))
            .collect();
        let idle: Vec<&str> = about
            .idle
            .iter()
            .take(MAX_IDLE)
            .map(|name| &**name)
            .collect();
        let is_serving = !about.draining && about.lacks.is_empty();
        let report = WorkerReport {
            worker,
            slots: usize::try_from(slots).unwrap_or(usize::MAX),
            serves: is_serving,
            offers_to: (about.offers_to.as_deref())
                .filter(|queue| is_serving && sequencer.topology.is_private_work(queue)),
            running: &running,
            idle: &idle,
            idle_is_cut: about.idle.len() >= MAX_IDLE,
            answers: about.answers_offers,
            disk: about.pool.as_ref().and_then(|pool| pool.disk.as_ref()),
        };
        // Workspaces of another root have the same names.
        if root.is_none_or(|root| root == sequencer.pool.root()) {
            self.queue.worker_heard(now, &report, &mut self.out);
        }
        self.queue.heartbeat(now, running, &mut self.out);
    }

    async fn controls(&mut self, deliveries: Vec<Delivery>) -> Result<(), SettleError> {
        for delivery in &deliveries {
            self.control(delivery);
        }
        ack_all(deliveries).await
    }

    fn control(&mut self, delivery: &Delivery) {
        fault::at("sequencer.control");
        match ControlRequest::read(&delivery.body, &self.sequencer.limits.roots) {
            // Another sequencer's word to the workers: which turn interrupts which is in the records.
            Ok(ControlRequest::Cancel(Cancel {
                superseded_by: Some(_),
                ..
            })) => {}
            Ok(ControlRequest::Cancel(Cancel {
                turn_id, workspace, ..
            })) => {
                let workspace = workspace.as_ref().map(WorkspaceId::as_str);
                self.queue
                    .cancel(Instant::now(), &turn_id, workspace, &mut self.out);
            }
            Ok(ControlRequest::Describe(turn)) => self.asked(turn, delivery),
            Err(ignored) => self.ignored(&ignored),
        }
    }

    fn ignored(&mut self, ignored: &IgnoredControl) {
        self.sequencer.metrics.control_ignored(ignored.fault);
        self.complaints.control(ignored);
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

    fn depths(&mut self, depths: &Depths) {
        for (disk, offers) in &depths.offers {
            self.queue.work_queue_depth(*disk, *offers);
        }
        self.ready = depths.turns.ready;
        let sequencer = self.sequencer;
        let turns = &sequencer.topology.turns;
        let room = self.held.len() + self.intake.len() < usize::from(PREFETCH);
        let muted = sequencer.conditions.holds(Condition::BrokerBlocked);
        let found = (self.peers).look(Instant::now(), turns, depths.turns, room, muted);
        sequencer
            .conditions
            .set(Condition::ForeignConsumer, "", found);
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

/// Sequencers should not wait in step.
fn rand_seed() -> u64 {
    uuid::Uuid::new_v4().as_u64_pair().0
}
