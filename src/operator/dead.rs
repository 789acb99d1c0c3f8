//! Looks through the dead queue and leaves it as it was: all of it is held
//! unacked, and the connection closed in the end, upon which the broker puts it
//! back in its order. So it is, too, when this process is killed.
//!
//! All of it, since what comes back goes behind what came back before: a part
//! would change places with the rest at the second look. And never given back
//! one by one, which keeps no order on some versions.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use super::{DeadLetter, Operator, OperatorError};
use crate::amqp::consume::ConsumerHold;
use crate::amqp::link::Link;
use crate::amqp::topology::Topology;
use crate::fault;

/// How many can be held at once, and so be looked at: AMQP's largest prefetch.
pub const MAX_HELD: u64 = u16::MAX as u64;
/// After a silence of that length the queue is asked whether it still has any.
const SILENCE: Duration = Duration::from_secs(1);
/// Before the queue is retried, while another holds it.
const PAUSE: Duration = Duration::from_millis(200);

/// The dead queue's messages, from the oldest on.
#[derive(Debug)]
pub struct DeadLetters {
    total: u64,
    /// Of which no message came yet.
    left: u64,
    place: u64,
    held: ConsumerHold,
    topology: Topology,
}

impl Operator {
    /// Holds the dead queue's messages until the end of the walk. While another
    /// client does, that is waited for, until `until`.
    pub async fn dead_letters(&self, until: Instant) -> Result<DeadLetters, OperatorError> {
        loop {
            let link = self.connector.connect().await?;
            match self.hold(&link).await {
                // Perhaps one that is just done: the broker may be slow to notice.
                Err(OperatorError::InUse { .. }) if Instant::now() + PAUSE < until => {
                    link.close().await;
                    sleep(PAUSE).await;
                }
                Err(error) => {
                    link.close().await;
                    return Err(error);
                }
                Ok(letters) => return Ok(letters),
            }
        }
    }

    async fn hold(&self, link: &Link) -> Result<DeadLetters, OperatorError> {
        let dead = &self.topology.dead;
        let depth = self.topology.depth(link, dead).await;
        let depth = depth.map_err(|error| OperatorError::of_declare(link, error))?;
        // What that one holds is not counted, nor yet what one held that has just gone.
        if depth.consumers > 0 {
            return Err(OperatorError::InUse {
                queue: dead.clone(),
                target: Arc::clone(link.target()),
            });
        }
        let total = depth.ready;
        // Also of an empty queue, to learn whether it may be read.
        let held = ConsumerHold::open_alone(link.clone(), dead, u16::MAX).await;
        Ok(DeadLetters {
            total,
            left: total.min(MAX_HELD),
            place: 0,
            held: held.map_err(|error| OperatorError::of_consume(link, error))?,
            topology: self.topology.clone(),
        })
    }
}

impl DeadLetters {
    /// How many were in the queue when the walk started.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// The next one; `None` once all have come.
    pub async fn next(&mut self) -> Result<Option<DeadLetter>, OperatorError> {
        let held = &mut self.held;
        let mut seen_empty = false;
        while self.left > 0 {
            let Ok(delivery) = timeout(SILENCE, held.next()).await else {
                // Fewer may come than there were: the oldest go when the queue
                // is full. What has left it may still be on its way.
                if std::mem::replace(&mut seen_empty, is_empty(&self.topology, held).await?) {
                    break;
                }
                continue;
            };
            let delivery =
                delivery.map_err(|error| OperatorError::of_consume(held.link(), error))?;
            self.left -= 1;
            self.place += 1;
            fault::at("operator.holds");
            return Ok(Some(DeadLetter::of(self.place, delivery)));
        }
        Ok(None)
    }

    /// Lets go of all that came; the queue is as it was.
    pub async fn close(self) {
        self.held.close().await;
    }
}

async fn is_empty(topology: &Topology, held: &ConsumerHold) -> Result<bool, OperatorError> {
    let depth = topology.depth(held.link(), &topology.dead).await;
    let depth = depth.map_err(|error| OperatorError::of_declare(held.link(), error))?;
    Ok(depth.ready == 0)
}
