//! The publishing connection, rebuilt for ever, and its channels with confirms.

use std::time::Duration;

use deadpool::Runtime;
use deadpool::managed::{Manager, Metrics, Object, Pool, PoolError, RecycleError, RecycleResult};
use lapin::Channel;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::connect::{Connector, backoff};
use super::link::{Link, LinkError, LinkState, RPC_LIMIT, blocked};

/// How long a publish may wait for a channel that others hold. They hold one
/// while they wait for confirms, so it is as long as those may take.
const WAIT_LIMIT: Duration = Duration::from_secs(30);
/// A connection that ends sooner counts as a failed attempt to connect.
const STABLE: Duration = Duration::from_secs(10);

/// The process's connection for publishing. Clones share it.
///
/// Publishing and consuming have separate connections: the broker's flow
/// control stops a connection whole, and acks must not wait for publishes.
#[derive(Clone)]
pub struct PublisherLink {
    pool: Pool<ConfirmChannels>,
    current: watch::Receiver<Option<Link>>,
}

/// A channel with confirms, and the connection that it belongs to.
pub(super) struct ConfirmChannel {
    channel: Channel,
    link: Link,
}

#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    #[error("there is no connection to the broker")]
    NotConnected,
    #[error("{}", blocked(.0))]
    Blocked(String),
    #[error("all publishing channels were in use for {} s", WAIT_LIMIT.as_secs())]
    Exhausted,
    #[error("the publisher is shut down")]
    ShutDown,
    #[error(transparent)]
    Link(#[from] LinkError),
}

impl PublisherLink {
    /// Connects in the background and keeps connected until `cut`.
    pub fn start(connector: Connector, channels: usize, cut: CancellationToken) -> Self {
        let (publisher, keep_connected) = Self::new(connector, channels, cut);
        tokio::spawn(keep_connected);
        publisher
    }

    /// With the work of keeping it connected until `cut`, which must run in a
    /// task of its own. `channels` bounds what publishes at the same time: the
    /// slots and a few more.
    pub fn new(
        connector: Connector,
        channels: usize,
        cut: CancellationToken,
    ) -> (Self, impl Future<Output = ()> + Send + 'static) {
        let (sender, current) = watch::channel(None);
        let manager = ConfirmChannels {
            current: current.clone(),
        };
        #[expect(
            clippy::expect_used,
            reason = "a build fails only when time limits are set without a runtime"
        )]
        let pool = Pool::builder(manager)
            .max_size(channels.max(1))
            .wait_timeout(Some(WAIT_LIMIT))
            .create_timeout(Some(2 * RPC_LIMIT))
            .runtime(Runtime::Tokio1)
            .build()
            .expect("the pool has a runtime for its time limits");
        let keep_connected = keep_connected(connector, sender, pool.clone(), cut);
        (Self { pool, current }, keep_connected)
    }

    pub fn is_connected(&self) -> bool {
        self.current.borrow().as_ref().is_some_and(Link::is_open)
    }

    /// The connection that there is, whether it takes publishes or not.
    pub(super) fn link(&self) -> Option<Link> {
        self.current.borrow().clone().filter(Link::is_open)
    }

    /// Completes when the connection was let go of, after the `cut`.
    pub async fn closed(&self) {
        let mut current = self.current.clone();
        while current.changed().await.is_ok() {}
    }

    /// Waits for a connection that takes publishes; `None` once shut down.
    pub async fn ready(&self) -> Option<Link> {
        let mut current = self.current.clone();
        loop {
            let link = current
                .wait_for(|link| link.as_ref().is_some_and(Link::is_open))
                .await
                .ok()?
                .clone()?;
            link.unblocked().await;
            if link.is_open() {
                return Some(link);
            }
            // Lost, and not yet replaced: without this, the loop would spin.
            current.changed().await.ok()?;
        }
    }

    /// Why there is no connection that takes publishes.
    pub(super) fn not_ready(&self) -> ChannelError {
        match self.current.borrow().as_ref().map(Link::state) {
            Some(LinkState::Blocked(reason)) => ChannelError::Blocked(reason),
            _ => ChannelError::NotConnected,
        }
    }

    /// Borrows a channel, waiting a bounded time for one.
    pub(super) async fn lease(&self) -> Result<Lease, ChannelError> {
        match self.pool.get().await {
            Ok(pooled) => Ok(Lease::new(pooled)),
            Err(PoolError::Backend(error)) => Err(error),
            Err(PoolError::Timeout(_)) => Err(ChannelError::Exhausted),
            Err(
                PoolError::Closed | PoolError::NoRuntimeSpecified | PoolError::PostCreateHook(_),
            ) => Err(ChannelError::ShutDown),
        }
    }
}

/// One connection after the other, until `cut`.
async fn keep_connected(
    connector: Connector,
    current: watch::Sender<Option<Link>>,
    pool: Pool<ConfirmChannels>,
    cut: CancellationToken,
) {
    let mut delays = backoff();
    while let Some(link) = connector.connect_with_backoff(&cut).await {
        let since = Instant::now();
        current.send_replace(Some(link.clone()));
        let reason = tokio::select! {
            reason = link.closed() => reason,
            () = cut.cancelled() => {
                current.send_replace(None);
                link.close().await;
                break;
            }
        };
        tracing::warn!(broker = %link.target(), reason, "lost the publishing connection");
        current.send_replace(None);
        // Idle channels would keep what is left of the connection.
        pool.retain(|_, _| false);
        if since.elapsed() >= STABLE {
            delays = backoff();
        }
        tokio::select! {
            () = sleep(delays.next().unwrap_or(STABLE)) => {}
            () = cut.cancelled() => break,
        }
    }
    pool.close();
}

/// Opens channels on the current connection.
pub(super) struct ConfirmChannels {
    current: watch::Receiver<Option<Link>>,
}

impl Manager for ConfirmChannels {
    type Type = ConfirmChannel;
    type Error = ChannelError;

    async fn create(&self) -> Result<ConfirmChannel, ChannelError> {
        let link = self.current.borrow().clone();
        let link = link.ok_or(ChannelError::NotConnected)?;
        let channel = link.confirm_channel().await?;
        Ok(ConfirmChannel { channel, link })
    }

    async fn recycle(
        &self,
        pooled: &mut ConfirmChannel,
        _: &Metrics,
    ) -> RecycleResult<ChannelError> {
        let is_current = match &*self.current.borrow() {
            Some(link) => link.is_same(&pooled.link),
            None => false,
        };
        if !is_current {
            return Err(RecycleError::message("it belongs to an older connection"));
        }
        if !pooled.channel.status().connected() {
            return Err(RecycleError::message("it is closed"));
        }
        Ok(())
    }
}

impl std::fmt::Debug for PublisherLink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PublisherLink")
            .field("connected", &self.is_connected())
            .finish_non_exhaustive()
    }
}

/// A borrowed channel. It goes back to the pool only by [`Lease::give_back`]:
/// dropped in any other way, it is unknown what is still unconfirmed on it.
pub(super) struct Lease {
    pub(super) channel: Channel,
    pub(super) link: Link,
    pooled: Option<Object<ConfirmChannels>>,
}

impl Lease {
    fn new(pooled: Object<ConfirmChannels>) -> Self {
        Self {
            channel: pooled.channel.clone(),
            link: pooled.link.clone(),
            pooled: Some(pooled),
        }
    }

    /// For a channel on which everything is confirmed.
    pub(super) fn give_back(mut self) {
        drop(self.pooled.take());
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(pooled) = self.pooled.take() {
            drop(Object::take(pooled));
        }
    }
}
