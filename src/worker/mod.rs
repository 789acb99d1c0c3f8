//! The worker: takes offers from the work queue, one for each free slot.
//!
//! ```text
//! connection ─▶ one consumer a free slot ─▶ offer ─▶ take ─▶ confirm ─▶ done ─▶ ack
//!            └▶ control queue ─▶ cancel           heartbeat ─▶ status
//! ```
//!
//! A slot is a consumer with a prefetch of one, so that no offer ever waits in
//! a worker that has no room for it (G2). When the connection is lost, slots
//! that run a turn keep running it; only free slots consume on the next one.
//! While the host can't run turns, no slot consumes: other hosts take the work.
//!
//! A process also has a queue of its own, for turns with a server that it keeps. What
//! comes there goes to a free slot, with its own consumer stopped meanwhile.

mod blocked_turns;
mod cancel_marks;
mod error_log;
mod heartbeat;
mod newest_attempt;
mod offer;
mod private_offers;
mod reply;
mod running;
mod sink;
mod takeover;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::task::TaskTracker;

use crate::amqp::connect::{Connector, backoff};
use crate::amqp::consume::{ConsumeError, Consumer, Delivery, ack_all};
use crate::amqp::link::Link;
use crate::amqp::messages::{Cancel, ControlRequest, DeclineReason};
use crate::amqp::outbox::OutboxSettings;
use crate::amqp::pool::PublisherLink;
use crate::amqp::topology::{Fanout, Topology};
use crate::codex::engine::Engine;
use crate::conditions::Conditions;
use crate::config::LogErrors;
use crate::error::with_sources;
use crate::http::Health;
use crate::metrics::Metrics;
use crate::pauses::PauseWatch;
use crate::pool::Pool;
use crate::request::{Limits, WorkspaceId};
use crate::supervisor::{PartName, Supervisor};
use crate::telemetry::Telemetry;
use crate::tenants::Tenants;
use crate::turn::Runner;

use cancel_marks::{CancelMarks, Cancelled};
use offer::{Served, Way};
use private_offers::FreeSlot;

pub(crate) use crate::supervisor::Shutdown;
pub(crate) use blocked_turns::BlockedTurns;
pub(crate) use private_offers::PrivateOffers;
pub(crate) use running::RunningTurns;
pub(crate) use takeover::Takeovers;

/// A connection that ends sooner counts as a failed attempt.
const STABLE: Duration = Duration::from_secs(10);
/// How long the turns that are cut off may take to end: only processes that the
/// system can't kill at once, or a file system that hangs, take that long.
const CUT_LIMIT: Duration = Duration::from_secs(30);
/// How long a drained worker waits for cancel marks to be written.
const MARKS_LIMIT: Duration = Duration::from_secs(5);
/// How long a slot waits for the next offer of the same workspace before it
/// takes any other: that one is a few milliseconds away.
const RESERVATION: Duration = Duration::from_millis(30);
/// Control messages are tiny and handled at once.
const CONTROL_PREFETCH: u16 = 100;

/// What a worker is made of.
pub(crate) struct Worker<E> {
    pub runner: Runner<E>,
    /// Names this process in heartbeats.
    pub id: String,
    pub slots: usize,
    pub connector: Connector,
    pub publisher: PublisherLink,
    pub topology: Topology,
    pub outbox: OutboxSettings,
    pub limits: Limits,
    pub metrics: Metrics,
    pub health: Health,
    pub conditions: Conditions,
    pub pool: Pool,
    pub pauses: PauseWatch,
    pub tenants: Tenants,
    pub telemetry: Telemetry,
    pub running: RunningTurns,
    pub blocked: BlockedTurns,
    pub log_errors: LogErrors,
    /// How many requests of failed turns are kept for each workspace.
    pub failed_requests: usize,
    pub private: PrivateOffers,
    pub takeovers: Takeovers,
    /// The slots that are at work.
    pub turns: TaskTracker,
    pub supervisor: Supervisor,
}

impl<E: Engine> Worker<E> {
    /// Works until `drain`, and then until all turns have ended.
    pub(crate) async fn run(self: Arc<Self>, shutdown: Shutdown) {
        let slots = Arc::new(Semaphore::new(self.slots));
        let heartbeats = Arc::clone(&self).tell_heartbeats(shutdown.clone());
        let heartbeats = self
            .supervisor
            .spawn(PartName::Heartbeats, &shutdown.cut, heartbeats);
        let (marks, keeper) = CancelMarks::of(self.runner.root.clone(), self.running.clone());
        let marks = Arc::new(marks);
        let keeper = self
            .supervisor
            .spawn(PartName::CancelMarks, &shutdown.end, keeper.run());
        let connector = self.connector.named(format!("{} worker", self.id));
        let mut last_link = None;
        let mut delays = backoff();
        let mut logged = None;
        while let Some(link) = connector.connect_with_backoff(&shutdown.drain).await {
            let link = last_link.insert(link);
            let since = Instant::now();
            let reason = Arc::clone(&self)
                .consume(link, &slots, &marks, &shutdown)
                .await;
            self.set_consuming(false);
            self.private.set_open(false);
            if shutdown.drain.is_cancelled() {
                break;
            }
            if since.elapsed() >= STABLE {
                delays = backoff();
                logged = None;
            }
            if logged.as_ref() == Some(&reason) {
                tracing::debug!(reason, "still taking no offers");
            } else {
                tracing::warn!(reason, "taking no offers until the broker is back");
                logged = Some(reason);
            }
            link.close().await;
            tokio::select! {
                () = sleep(delays.next().unwrap_or(STABLE)) => {}
                () = shutdown.drain.cancelled() => break,
            }
        }
        self.turns.close();
        let running = self.running.len();
        if running > 0 {
            tracing::info!(running, "waiting for running turns");
        }
        tokio::select! {
            () = self.turns.wait() => {}
            () = shutdown.cut.cancelled() => self.cut().await,
        }
        if timeout(MARKS_LIMIT, marks.written()).await.is_err() {
            tracing::error!("shutting down with cancel marks not written");
        }
        if let Some(link) = last_link {
            if let Some(queue) = self.private.queue() {
                self.topology.delete_private_work(&link, queue).await;
            }
            link.close().await;
        }
        heartbeats.abort();
        keeper.abort();
    }

    /// Cuts off what runs, and waits for its end.
    pub(crate) async fn cut(&self) {
        tracing::warn!(running = self.running.len(), "giving back what still runs");
        self.running.cut();
        self.turns.close();
        if timeout(CUT_LIMIT, self.turns.wait()).await.is_err() {
            // Their guards hold the locks until everything is gone.
            tracing::error!(
                running = self.running.len(),
                "shutting down with turns still running"
            );
        }
    }

    /// Serves one connection until it ends; returns why it did.
    async fn consume(
        self: Arc<Self>,
        link: &Link,
        slots: &Arc<Semaphore>,
        marks: &Arc<CancelMarks>,
        shutdown: &Shutdown,
    ) -> String {
        if let Err(error) = self.topology.declare(link).await {
            return with_sources(&error);
        }
        // Bound before the first offer is taken: a cancel must not be missed.
        let queue = match self.topology.declare_exclusive(link, Fanout::Control).await {
            Ok(queue) => queue,
            Err(error) => return with_sources(&error),
        };
        let control = match Consumer::open(link, &queue, CONTROL_PREFETCH).await {
            Ok(control) => control,
            Err(error) => return with_sources(&error),
        };
        let mut tasks = JoinSet::new();
        let listening = Arc::clone(&self).listen_to_control(control, Arc::clone(marks));
        let supervisor = self.supervisor.clone();
        tasks.spawn(async move {
            let _ = supervisor.guard(PartName::Control, listening).await;
        });
        let (topology, own_link) = (self.topology.clone(), link.clone());
        let supervisor = self.supervisor.clone();
        tasks.spawn(async move {
            let own = [(Fanout::Control, queue.as_str())];
            let keeping = topology.keep(&own_link, &own);
            let _ = supervisor.guard(PartName::Topology, keeping).await;
        });
        let offers = Arc::clone(&self).take_private_offers(link.clone(), shutdown.clone());
        let supervisor = self.supervisor.clone();
        tasks.spawn(async move {
            let _ = supervisor.guard(PartName::PrivateOffers, offers).await;
        });
        // A cancel that came while this worker was disconnected has left its mark.
        marks.look();
        let host = &self.runner.host;
        // A slot that can't consume ends this connection, also for the others.
        let (failed, mut failures) = tokio::sync::mpsc::channel(1);
        loop {
            let fit = host.is_fit();
            self.set_consuming(fit);
            let slot = tokio::select! {
                slot = Arc::clone(slots).acquire_owned() => slot,
                () = host.turns_out(!fit) => continue,
                Some(error) = failures.recv() => return with_sources(&error),
                Some(_) = tasks.join_next() => return "the control queue ended".to_owned(),
                reason = link.closed() => return reason,
                () = shutdown.drain.cancelled() => break,
            };
            // The semaphore is never closed.
            let Ok(slot) = slot else { continue };
            let (worker, link, failed, shutdown) = (
                Arc::clone(&self),
                link.clone(),
                failed.clone(),
                shutdown.clone(),
            );
            self.turns.spawn(async move {
                let serving = worker.serve_slot(&link, &shutdown);
                let served = worker.supervisor.guard(PartName::Slot, serving).await;
                if let Some(Err(error)) = served {
                    let _ = failed.try_send(error);
                }
                drop(slot);
            });
        }
        // What runs may still be cancelled, and its offers acked.
        self.turns.close();
        tokio::select! {
            () = self.turns.wait() => "drained".to_owned(),
            reason = link.closed() => reason,
            Some(_) = tasks.join_next() => "the control queue ended".to_owned(),
            () = shutdown.cut.cancelled() => "cut off".to_owned(),
        }
    }

    /// One offer after the other, until the connection ends or the worker
    /// drains; no consumers while the host can't run turns, but for trials.
    async fn serve_slot(
        self: &Arc<Self>,
        link: &Link,
        shutdown: &Shutdown,
    ) -> Result<(), ConsumeError> {
        let host = &self.runner.host;
        loop {
            let trial = tokio::select! {
                trial = host.admission() => trial,
                () = shutdown.drain.cancelled() => return Ok(()),
                _ = link.closed() => return Ok(()),
            };
            let mut slot = self.private.free.enter();
            let mut consumer = Consumer::open(link, &self.topology.work, 1).await?;
            loop {
                let delivery = tokio::select! {
                    // First, or what was just given back could be taken again.
                    biased;
                    () = shutdown.drain.cancelled() => {
                        self.leave(slot).await;
                        consumer.stop().await;
                        return Ok(());
                    }
                    () = host.admission_over(trial.as_ref()) => {
                        self.leave(slot).await;
                        consumer.stop().await;
                        break;
                    }
                    private = slot.given() => {
                        // No other offer may lie here while it runs (G2).
                        tokio::join!(self.serve_private(private, shutdown), consumer.stop());
                        break;
                    }
                    delivery = consumer.next() => delivery?,
                };
                self.leave(slot).await;
                let mut served = self.serve_offer(&delivery, Way::Shared, shutdown).await;
                if let Some(takeover) = served.takeover.take() {
                    served.trace.settled(served.settlement);
                    self.take_over(*takeover, delivery, Way::Shared, shutdown)
                        .await;
                    // Its only offer stays unsettled.
                    consumer.stop().await;
                    break;
                }
                if trial.is_some() {
                    // A trial is one turn.
                    self.settle_served(delivery, Way::Shared, &mut served).await;
                    consumer.stop().await;
                    break;
                }
                // Before the ack, on which the broker delivers any other offer.
                slot = self.private.free.enter();
                let next = self.reserved(&mut slot, &served).await;
                self.settle_served(delivery, Way::Shared, &mut served).await;
                if let Some(private) = next {
                    tokio::join!(self.serve_private(private, shutdown), consumer.stop());
                    break;
                }
            }
        }
    }

    /// Private offers, one after the other, as long as the next one of the
    /// workspace comes at once.
    async fn serve_private(self: &Arc<Self>, mut delivery: Delivery, shutdown: &Shutdown) {
        loop {
            let mut served = self.serve_offer(&delivery, Way::Private, shutdown).await;
            let mut slot = self.private.free.enter();
            if let Some(takeover) = served.takeover.take() {
                served.trace.settled(served.settlement);
                self.take_over(*takeover, delivery, Way::Private, shutdown)
                    .await;
            } else {
                self.settle_served(delivery, Way::Private, &mut served)
                    .await;
            }
            match self.reserved(&mut slot, &served).await {
                Some(next) => delivery = next,
                None => {
                    // It may have been given one just now.
                    let Some(next) = slot.leave() else { return };
                    delivery = next;
                }
            }
        }
    }

    /// The private offer that follows at once, where one is to be expected.
    async fn reserved(&self, slot: &mut FreeSlot, served: &Served) -> Option<Delivery> {
        if !served.next_waits {
            return None;
        }
        timeout(RESERVATION, slot.given()).await.ok()
    }

    async fn leave(&self, slot: FreeSlot) {
        if let Some(private) = slot.leave() {
            self.decline(private, DeclineReason::Full).await;
        }
    }

    fn set_consuming(&self, consuming: bool) {
        self.health.set_consuming(consuming);
        self.metrics.set_consumer_active(consuming);
    }

    async fn listen_to_control(self: Arc<Self>, mut control: Consumer, marks: Arc<CancelMarks>) {
        while let Ok(deliveries) = control.next_ready(CONTROL_PREFETCH.into()).await {
            for delivery in &deliveries {
                match ControlRequest::read(&delivery.body, &self.limits.roots) {
                    Ok(ControlRequest::Cancel(cancel)) => self.cancel(&cancel, &marks),
                    // For sequencers.
                    Ok(ControlRequest::Describe(_)) => {}
                    // This process's sequencer hears it, too, which logs and counts it.
                    Err(ignored) => tracing::debug!(%ignored, "ignored a control message"),
                }
            }
            if ack_all(deliveries).await.is_err() {
                return;
            }
        }
    }

    fn cancel(&self, cancel: &Cancel, marks: &CancelMarks) {
        let workspace = cancel.workspace.as_ref().map(WorkspaceId::as_str);
        let (turn_id, superseded_by) = (&*cancel.turn_id, cancel.superseded_by.as_deref());
        for workspace in self.running.cancel(turn_id, workspace, superseded_by) {
            tracing::info!(turn_id, %workspace, superseded_by, "cancelling");
            marks.write(Cancelled {
                workspace,
                turn_id: turn_id.to_owned(),
                superseded_by: cancel.superseded_by.clone(),
            });
        }
    }
}
