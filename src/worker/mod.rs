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
//! While the host can't run turns, none consumes: other hosts take the work.

mod heartbeat;
mod offer;
mod running;
mod sink;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::amqp::connect::{Connector, backoff};
use crate::amqp::consume::{ConsumeError, Consumer};
use crate::amqp::link::Link;
use crate::amqp::messages::Cancel;
use crate::amqp::outbox::OutboxSettings;
use crate::amqp::pool::PublisherLink;
use crate::amqp::topology::{Fanout, Topology};
use crate::codex::engine::Engine;
use crate::conditions::Conditions;
use crate::error::with_sources;
use crate::http::Health;
use crate::metrics::Metrics;
use crate::pool::Pool;
use crate::request::{Limits, WorkspaceId};
use crate::turn::Runner;

pub use running::RunningTurns;

/// A connection that ends sooner counts as a failed attempt.
const STABLE: Duration = Duration::from_secs(10);
/// How long the turns that are cut off may take to end: only processes that the
/// system can't kill at once, or a file system that hangs, take that long.
const CUT_LIMIT: Duration = Duration::from_secs(30);
/// Control messages are tiny and handled at once.
const CONTROL_PREFETCH: u16 = 100;

/// What a worker is made of.
pub struct Worker<E> {
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
    pub running: RunningTurns,
}

/// How a worker is brought to an end.
#[derive(Debug, Clone, Default)]
pub struct Shutdown {
    /// Take no more.
    pub drain: CancellationToken,
    /// Wait no longer for what runs.
    pub cut: CancellationToken,
    /// Everything is settled: let go of the last connections.
    pub end: CancellationToken,
}

impl<E: Engine> Worker<E> {
    /// Works until `drain`, and then until nothing runs any more.
    pub async fn run(self: Arc<Self>, shutdown: Shutdown) {
        let slots = Arc::new(Semaphore::new(self.slots));
        let turns = TaskTracker::new();
        let heartbeat = tokio::spawn(Arc::clone(&self).tell_heartbeats(shutdown.clone()));
        let connector = self.connector.named(format!("{} worker", self.id));
        let mut last_link = None;
        let mut delays = backoff();
        let mut logged = None;
        while let Some(link) = connector.connect_with_backoff(&shutdown.drain).await {
            let link = last_link.insert(link);
            let since = Instant::now();
            let reason = Arc::clone(&self)
                .consume(link, &slots, &turns, &shutdown)
                .await;
            self.set_consuming(false);
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
        turns.close();
        let running = self.running.len();
        if running > 0 {
            tracing::info!(running, "waiting for running turns");
        }
        tokio::select! {
            () = turns.wait() => {}
            () = shutdown.cut.cancelled() => {
                tracing::warn!(running = self.running.len(), "giving back what still runs");
                self.running.cut();
                if tokio::time::timeout(CUT_LIMIT, turns.wait()).await.is_err() {
                    // Their guards hold the locks until everything is gone.
                    tracing::error!(running = self.running.len(), "leaving what does not end");
                }
            }
        }
        if let Some(link) = last_link {
            link.close().await;
        }
        heartbeat.abort();
    }

    /// Serves one connection until it ends; tells why it did.
    async fn consume(
        self: Arc<Self>,
        link: &Link,
        slots: &Arc<Semaphore>,
        turns: &TaskTracker,
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
        tasks.spawn(Arc::clone(&self).listen_to_control(control));
        let (topology, own_link) = (self.topology.clone(), link.clone());
        tasks.spawn(async move {
            let own = [(Fanout::Control, queue.as_str())];
            match topology.keep(&own_link, &own).await {}
        });
        self.hear_missed_cancels();
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
            turns.spawn(async move {
                if let Err(error) = worker.serve_slot(&link, &shutdown).await {
                    let _ = failed.try_send(error);
                }
                drop(slot);
            });
        }
        // What runs may still be cancelled, and its offers acked.
        turns.close();
        tokio::select! {
            () = turns.wait() => "drained".to_owned(),
            reason = link.closed() => reason,
            Some(_) = tasks.join_next() => "the control queue ended".to_owned(),
            () = shutdown.cut.cancelled() => "cut off".to_owned(),
        }
    }

    /// One offer after the other, until the connection ends or the worker
    /// drains; none while the host can't run turns.
    async fn serve_slot(&self, link: &Link, shutdown: &Shutdown) -> Result<(), ConsumeError> {
        let host = &self.runner.host;
        loop {
            tokio::select! {
                () = host.fit() => {}
                () = shutdown.drain.cancelled() => return Ok(()),
                _ = link.closed() => return Ok(()),
            }
            let mut consumer = Consumer::open(link, &self.topology.work, 1).await?;
            loop {
                let delivery = tokio::select! {
                    // First, or what was just given back could be taken again.
                    biased;
                    () = shutdown.drain.cancelled() => {
                        consumer.stop().await;
                        return Ok(());
                    }
                    () = host.unfit() => {
                        consumer.stop().await;
                        break;
                    }
                    delivery = consumer.next() => delivery?,
                };
                self.serve_offer(delivery, shutdown).await;
            }
        }
    }

    fn set_consuming(&self, consuming: bool) {
        self.health.set_consuming(consuming);
        self.metrics.set_consumer_active(consuming);
    }

    async fn listen_to_control(self: Arc<Self>, mut control: Consumer) {
        while let Ok(delivery) = control.next().await {
            match Cancel::read(&delivery.body, &self.limits.roots) {
                Ok(cancel) => self.cancel(&cancel),
                // This process's sequencer hears it, too, which logs and counts it.
                Err(ignored) => tracing::debug!(%ignored, "ignored a control message"),
            }
            if delivery.ack().await.is_err() {
                return;
            }
        }
    }

    fn cancel(&self, cancel: &Cancel) {
        let workspace = cancel.workspace.as_ref().map(WorkspaceId::as_str);
        let (turn_id, superseded_by) = (&*cancel.turn_id, cancel.superseded_by.as_deref());
        for workspace in self.running.cancel(turn_id, workspace, superseded_by) {
            tracing::info!(turn_id, %workspace, superseded_by, "cancelling");
            self.mark_cancelled(&workspace, turn_id, superseded_by);
        }
    }

    /// A cancel that came while this worker was cut off has left its mark.
    fn hear_missed_cancels(&self) {
        for turn in self.running.snapshot() {
            let marked = tokio::task::block_in_place(|| {
                let workspace = self.runner.root.workspace(&turn.workspace)?;
                Ok::<_, crate::turn::NotStarted>(workspace.claims().cancel_mark(&turn.turn_id)?)
            });
            match marked {
                Ok(Some(mark)) => {
                    let (workspace, by) = (Some(&*turn.workspace), mark.superseded_by.as_deref());
                    drop(self.running.cancel(&turn.turn_id, workspace, by));
                }
                Ok(None) => {}
                Err(error) => {
                    tracing::warn!(
                        error = with_sources(&error),
                        "can't look for missed cancels"
                    );
                }
            }
        }
    }

    /// For the next attempt to see, should this one be cut off before its end.
    fn mark_cancelled(&self, workspace: &WorkspaceId, turn_id: &str, superseded_by: Option<&str>) {
        let marked = tokio::task::block_in_place(|| {
            let workspace = self.runner.root.workspace(workspace.as_str())?;
            workspace.claims().mark_cancelled(turn_id, superseded_by)?;
            Ok::<_, crate::turn::NotStarted>(())
        });
        if let Err(error) = marked {
            tracing::error!(
                error = with_sources(&error),
                turn_id,
                "can't keep the cancel"
            );
        }
    }
}
