//! Removes the message at the head of `codex.turns` that the broker cannot
//! deliver: consumes as the [`HeadSearch`] says. See [`super::undeliverable`].

use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::restarts::cause;
use super::session::Sequencer;
use super::undeliverable::{HeadSearch, SearchStep, is_crash};
use crate::amqp::connect::{ConnectError, Connector};
use crate::amqp::consume::{ConsumeError, Consumer, Delivery};
use crate::amqp::dead_letter::keep_undeliverable;
use crate::amqp::declare_error::DeclareError;
use crate::amqp::link::{Link, LinkError};
use crate::amqp::publish::PublishError;
use crate::error::with_sources;

/// How long the other consumers may take to end.
const ALONE_LIMIT: Duration = Duration::from_secs(10);
const ALONE_POLL: Duration = Duration::from_millis(200);
/// How long a message, or the end of its channel, may take to come.
const STEP_LIMIT: Duration = Duration::from_secs(10);
/// For the whole search: 65,535 returned messages take less.
const SEARCH_LIMIT: Duration = Duration::from_secs(30 * 60);

#[derive(Debug, thiserror::Error)]
pub(super) enum RemovalError {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error(transparent)]
    Declare(#[from] DeclareError),
    #[error(transparent)]
    Consume(#[from] ConsumeError),
    #[error(transparent)]
    Link(#[from] LinkError),
    #[error("the record of it was not kept")]
    Record(#[source] PublishError),
    #[error(
        "found {0} consumers on the queue, expected none while the message is searched for: stop other programs, and processes of an older version"
    )]
    OtherConsumers(u64),
    #[error("no message came, and no channel ended, within {} s", STEP_LIMIT.as_secs())]
    Silence,
    #[error("found a message that can be delivered where the other one was expected")]
    Deliverable,
    #[error("the connection that excludes other processes ended: {0}")]
    LockLost(String),
    #[error("it was not found within {} min", SEARCH_LIMIT.as_secs() / 60)]
    TimedOut,
    #[error("the process is to end")]
    Drain,
}

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Removal {
    Removed,
    /// There is no such message: all were delivered, or another process has
    /// removed it and consumes.
    NotFound,
    /// Another process is at it.
    Elsewhere,
}

impl Sequencer {
    /// Without a session, and with the exclusive queue that keeps the other
    /// processes from consuming.
    pub(super) async fn remove_undeliverable(
        &self,
        connector: &Connector,
        drain: &CancellationToken,
    ) -> Result<Removal, RemovalError> {
        let lock = connector.connect().await?;
        if !self.topology.lock_turns(&lock).await? {
            lock.close().await;
            return Ok(Removal::Elsewhere);
        }
        let removed = tokio::select! {
            removed = timeout(SEARCH_LIMIT, self.search(connector, &lock)) => {
                removed.unwrap_or(Err(RemovalError::TimedOut))
            }
            reason = lock.closed() => Err(RemovalError::LockLost(reason)),
            () = drain.cancelled() => Err(RemovalError::Drain),
        };
        lock.close().await;
        removed
    }

    async fn search(&self, connector: &Connector, lock: &Link) -> Result<Removal, RemovalError> {
        let ready = match self.alone(lock).await {
            // It lives, so what is at the head was delivered to it.
            Err(RemovalError::OtherConsumers(_)) => return Ok(Removal::NotFound),
            ready => ready?,
        };
        if ready == 0 {
            return Ok(Removal::NotFound);
        }
        let mut search = HeadSearch::new(usize::try_from(ready).unwrap_or(usize::MAX));
        let mut open = None;
        loop {
            match search.next() {
                SearchStep::Rotate(count) => {
                    let link = match open.take().filter(Link::is_open) {
                        Some(link) => link,
                        None => connector.connect().await?,
                    };
                    match self.rotate(&link, count, &mut search).await {
                        Ok(()) => open = Some(link),
                        Err(error) => {
                            crash(&link, error).await?;
                            search.crashed();
                        }
                    }
                }
                SearchStep::Remove => {
                    if let Some(link) = open.take() {
                        link.close().await;
                    }
                    self.alone(lock).await?;
                    return self.remove(connector).await.map(|()| Removal::Removed);
                }
                SearchStep::NotFound => {
                    if let Some(link) = open.take() {
                        link.close().await;
                    }
                    return Ok(Removal::NotFound);
                }
            }
        }
    }

    /// Until no process consumes; how many messages are ready then.
    async fn alone(&self, lock: &Link) -> Result<u64, RemovalError> {
        let mut consumers = 0;
        let polls = async {
            loop {
                let depth = self.topology.depth(lock, &self.topology.turns).await?;
                consumers = depth.consumers;
                if consumers == 0 {
                    return Ok(depth.ready);
                }
                sleep(ALONE_POLL).await;
            }
        };
        match timeout(ALONE_LIMIT, polls).await {
            Ok(ready) => ready,
            Err(_) => Err(RemovalError::OtherConsumers(consumers)),
        }
    }

    /// Consumes `count` messages and returns them.
    async fn rotate(
        &self,
        link: &Link,
        count: u16,
        search: &mut HeadSearch,
    ) -> Result<(), RemovalError> {
        let mut consumer = Consumer::open(link, &self.topology.turns, count).await?;
        let mut fingerprints = Vec::with_capacity(count.into());
        for _ in 0..count {
            let delivery = timeout(STEP_LIMIT, consumer.next()).await;
            let delivery = delivery.map_err(|_| RemovalError::Silence)??;
            fingerprints.push(fingerprint(&delivery));
        }
        consumer.close().await?;
        for fingerprint in fingerprints {
            search.returned(fingerprint);
        }
        Ok(())
    }

    async fn remove(&self, connector: &Connector) -> Result<(), RemovalError> {
        let link = connector.connect().await?;
        // Before, so that no message is removed without a record.
        keep_undeliverable(&self.actor.publisher, &self.topology)
            .await
            .map_err(RemovalError::Record)?;
        match self.next_unacked(&link).await {
            Err(error) => {
                crash(&link, error).await?;
                self.metrics.undeliverable_turn();
                tracing::error!(
                    queue = self.topology.turns,
                    "removed a message that the broker could not deliver; its content is lost"
                );
                Ok(())
            }
            Ok(delivery) => {
                // Two equal laps say otherwise; still, it must not be lost.
                let kept = self.actor.publisher.publish_confirmed(
                    "",
                    &self.topology.turns,
                    delivery.properties,
                    &delivery.body,
                    true,
                );
                let kept = kept.await.map_err(|error| with_sources(&error));
                tracing::error!(
                    ?kept,
                    "published a turn anew that had been consumed by mistake"
                );
                link.close().await;
                Err(RemovalError::Deliverable)
            }
        }
    }

    /// The broker settles what it delivers here.
    async fn next_unacked(&self, link: &Link) -> Result<Delivery, RemovalError> {
        let mut consumer = Consumer::open_without_acks(link, &self.topology.turns).await?;
        let delivery = timeout(STEP_LIMIT, consumer.next()).await;
        Ok(delivery.map_err(|_| RemovalError::Silence)??)
    }
}

/// `error`, unless it came of a crash.
async fn crash(link: &Link, error: RemovalError) -> Result<(), RemovalError> {
    let reason = cause(link).await.unwrap_or_default();
    if is_crash(&reason) || is_crash(&with_sources(&error)) {
        return Ok(());
    }
    link.close().await;
    Err(error)
}

fn fingerprint(delivery: &Delivery) -> u64 {
    let mut hasher = DefaultHasher::new();
    delivery.body.hash(&mut hasher);
    let properties = &delivery.properties;
    let ids = [properties.message_id(), properties.correlation_id()];
    for id in ids {
        id.as_ref().map(|id| id.as_str()).hash(&mut hasher);
    }
    hasher.finish()
}
