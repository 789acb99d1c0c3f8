//! Offers to this process alone: they come by a queue of its own, from a
//! sequencer that believes that a server waits here and that a slot is free.
//!
//! Each is answered at once: a free slot takes it, or it is declined, and the
//! broker moves it to the shared queue. As it stays unacked until its turn has
//! ended, the broker moves it there also when this process dies.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use std::future::pending;

use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, sleep, timeout_at};

use super::{Shutdown, Worker};
use crate::amqp::consume::{Consumer, Delivery};
use crate::amqp::declare_error::DeclareError;
use crate::amqp::link::Link;
use crate::amqp::messages::DeclineReason;
use crate::amqp::topology::Topology;
use crate::codex::engine::Engine;
use crate::error::with_sources;

/// A slot with a turn just reported done is free within a few
/// milliseconds: for so long an offer waits for one.
const SLOT_WAIT: Duration = Duration::from_millis(50);
/// Until a queue that was deleted is declared again.
const RETRY: Duration = Duration::from_secs(1);

/// What a process has for private offers.
#[derive(Debug)]
pub(crate) struct PrivateOffers {
    /// `None` where no servers are kept.
    queue: Option<String>,
    /// The queue is being consumed.
    open: AtomicBool,
    /// A heartbeat has news.
    pub(super) changed: Notify,
    warned: AtomicBool,
    pub(super) free: FreeSlots,
}

impl PrivateOffers {
    /// One queue for the life of the process.
    pub(crate) fn new(topology: &Topology, keeps_servers: bool) -> Self {
        Self {
            queue: keeps_servers.then(|| topology.new_private_work()),
            open: AtomicBool::new(false),
            changed: Notify::new(),
            warned: AtomicBool::new(false),
            free: FreeSlots::default(),
        }
    }

    /// The queue's name while offers are taken from it.
    pub(crate) fn offers_to(&self) -> Option<String> {
        let is_open = self.open.load(Ordering::Relaxed);
        self.queue.clone().filter(|_| is_open)
    }

    /// The queue's name, consumed or not.
    pub(crate) fn queue(&self) -> Option<&str> {
        self.queue.as_deref()
    }

    pub(super) fn set_open(&self, open: bool) {
        if self.open.swap(open, Ordering::Relaxed) != open {
            self.changed.notify_one();
        }
    }
}

impl<E: Engine> Worker<E> {
    /// On one connection, for as long as it is polled.
    pub(super) async fn take_private_offers(self: Arc<Self>, link: Link, shutdown: Shutdown) {
        if let Some(queue) = &self.private.queue {
            self.consume_private(queue, &link, &shutdown).await;
            self.private.set_open(false);
        }
        // Without it the process works as well.
        pending().await
    }

    async fn consume_private(&self, queue: &str, link: &Link, shutdown: &Shutdown) {
        let (host, private) = (&self.runner.host, &self.private);
        let prefetch = u16::try_from(self.slots + 1).unwrap_or(u16::MAX);
        loop {
            tokio::select! {
                () = host.fit() => {}
                () = shutdown.drain.cancelled() => return,
                _ = link.closed() => return,
            }
            match self.topology.declare_private_work(link, queue).await {
                Ok(()) => {}
                Err(DeclareError::Link(_)) => return,
                Err(error) => {
                    if !private.warned.swap(true, Ordering::Relaxed) {
                        tracing::warn!(
                            error = with_sources(&error),
                            "no private queue for offers: turns find their server less often"
                        );
                    }
                    return;
                }
            }
            let Ok(mut consumer) = Consumer::open(link, queue, prefetch).await else {
                return;
            };
            private.set_open(true);
            tracing::debug!(queue, "taking private offers");
            let ended = loop {
                tokio::select! {
                    biased;
                    () = shutdown.drain.cancelled() => break false,
                    () = host.admission_over(None) => break false,
                    delivery = consumer.next() => match delivery {
                        Ok(delivery) => self.hand_over(delivery).await,
                        Err(_) => break true,
                    },
                }
            };
            private.set_open(false);
            match ended {
                // It was deleted, or the connection ends.
                true => sleep(RETRY).await,
                false => consumer.stop().await,
            }
        }
    }

    async fn hand_over(&self, delivery: Delivery) {
        if self.runner.host.is_barred() {
            self.decline(delivery, DeclineReason::NotServing).await;
        } else if let Err(delivery) = self.private.free.give(delivery, SLOT_WAIT).await {
            self.decline(delivery, DeclineReason::Full).await;
        }
    }
}

/// The slots that wait for an offer.
#[derive(Debug, Clone, Default)]
pub(super) struct FreeSlots(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    waiting: Mutex<Waiting>,
    entered: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    last_number: u64,
    /// The one that has waited longest first.
    slots: VecDeque<(u64, oneshot::Sender<Delivery>)>,
}

/// One of them, until it is dropped.
#[derive(Debug)]
pub(super) struct FreeSlot {
    slots: FreeSlots,
    number: u64,
    given: oneshot::Receiver<Delivery>,
}

impl FreeSlots {
    pub(super) fn enter(&self) -> FreeSlot {
        let (sender, given) = oneshot::channel();
        let mut waiting = self.waiting();
        waiting.last_number += 1;
        let number = waiting.last_number;
        waiting.slots.push_back((number, sender));
        drop(waiting);
        self.0.entered.notify_one();
        FreeSlot {
            slots: self.clone(),
            number,
            given,
        }
    }

    /// Gives it to a slot, or requeues it if no slot is free within that time.
    async fn give(&self, mut delivery: Delivery, within: Duration) -> Result<(), Delivery> {
        let deadline = Instant::now() + within;
        loop {
            while let Some((_, slot)) = self.next() {
                match slot.send(delivery) {
                    Ok(()) => return Ok(()),
                    Err(back) => delivery = back,
                }
            }
            let entered = self.0.entered.notified();
            if timeout_at(deadline, entered).await.is_err() {
                return Err(delivery);
            }
        }
    }

    fn next(&self) -> Option<(u64, oneshot::Sender<Delivery>)> {
        self.waiting().slots.pop_front()
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        let waiting = self.0.waiting.lock();
        waiting.unwrap_or_else(PoisonError::into_inner)
    }
}

impl FreeSlot {
    /// The next private offer. Cancel-safe.
    pub(super) async fn given(&mut self) -> Delivery {
        match (&mut self.given).await {
            Ok(delivery) => delivery,
            // The sender goes with a delivery only.
            Err(_) => pending().await,
        }
    }

    /// It is free no more. Returns the offer that it was given at that moment.
    pub(super) fn leave(mut self) -> Option<Delivery> {
        self.take()
    }

    fn take(&mut self) -> Option<Delivery> {
        let mut waiting = self.slots.waiting();
        waiting.slots.retain(|(number, _)| *number != self.number);
        drop(waiting);
        self.given.try_recv().ok()
    }
}

impl Drop for FreeSlot {
    fn drop(&mut self) {
        if let Some(delivery) = self.take() {
            // Unsettled, it would lie here as long as the connection lasts.
            tokio::spawn(delivery.decline());
        }
    }
}
