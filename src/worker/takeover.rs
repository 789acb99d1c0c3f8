//! Offers that wait until another host's attempt must have ended: without a slot, or the death of
//! one host would keep the others from all work for as long.

use std::sync::Arc;

use tokio::sync::Semaphore;

use super::offer::Way;
use super::{Shutdown, Worker};
use crate::amqp::consume::Delivery;
use crate::codex::engine::Engine;
use crate::error::with_sources;
use crate::settlement::Settlement;
use crate::supervisor::PartName;
use crate::turn::Takeover;

/// So many at once: each has a lock's descriptors and a channel of the connection. Others are
/// dropped, and offered again after a while.
const AT_ONCE: usize = 256;

/// The permits of one process.
#[derive(Debug)]
pub(crate) struct Takeovers(Arc<Semaphore>);

impl Default for Takeovers {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(AT_ONCE)))
    }
}

impl<E: Engine> Worker<E> {
    /// Waits in a task of its own, then requeues the offer, for any free slot.
    pub(super) async fn take_over(
        self: &Arc<Self>,
        takeover: Takeover,
        delivery: Delivery,
        way: Way,
        shutdown: &Shutdown,
    ) {
        let Ok(permit) = Arc::clone(&self.takeovers.0).try_acquire_owned() else {
            drop(takeover);
            return self.settle(delivery, way, Settlement::Drop).await;
        };
        let (worker, drain) = (Arc::clone(self), shutdown.drain.clone());
        self.turns.spawn(async move {
            let waiting = async {
                let leave = async {
                    drain.cancelled().await;
                };
                let settlement = match takeover.outlive(leave).await {
                    Ok(true) => Settlement::GiveBack,
                    // Another process may take it now; this one takes no more.
                    Ok(false) if drain.is_cancelled() => Settlement::GiveBack,
                    Ok(false) => {
                        tracing::warn!("lost the lock of a workspace before its turn could start");
                        Settlement::Drop
                    }
                    Err(error) => {
                        tracing::error!(
                            error = with_sources(&error),
                            "can't take over another host's turn yet"
                        );
                        Settlement::Drop
                    }
                };
                worker.settle(delivery, way, settlement).await;
            };
            let _ = worker.supervisor.guard(PartName::Slot, waiting).await;
            drop(permit);
        });
    }
}
