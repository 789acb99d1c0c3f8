//! One connection to the broker, and how its end is noticed.

use std::net::{Shutdown, SocketAddr, TcpStream};
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures_util::{FutureExt, StreamExt};
use lapin::options::ConfirmSelectOptions;
use lapin::{Channel, Connection, ConnectionStatus, Event};
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use super::connect::{State, StateHook};
use crate::config::target::Target;
use crate::fault;

/// How long the broker may take to open a channel or to answer a declaration.
pub(super) const RPC_LIMIT: Duration = Duration::from_secs(15);
/// How long an orderly close may take before the socket is shut.
const CLOSE_LIMIT: Duration = Duration::from_secs(5);
/// How often the state is looked at, for the ends that lapin sends no event for.
const STATE_TICK: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkState {
    Open,
    /// The broker takes no publishes (memory or disk alarm); its reason.
    Blocked(String),
    /// Lost or closed; why.
    Closed(String),
}

#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    #[error("the connection to {target} is closed: {reason}")]
    Closed { target: Arc<Target>, reason: String },
    #[error("{what} took longer than {} s", .limit.as_secs())]
    TimedOut { what: &'static str, limit: Duration },
    #[error("{what}: {}", blocked(.reason))]
    Blocked { what: &'static str, reason: String },
    #[error("{what} failed")]
    Amqp {
        what: &'static str,
        #[source]
        source: lapin::Error,
    },
}

/// What a blocked connection means, with the broker's own reason.
pub fn blocked(reason: &str) -> String {
    let reason = match reason {
        "" => "it gives no reason",
        reason => reason,
    };
    format!(
        "the broker takes no publishes ({reason}): a memory or disk alarm; expected are no alarms; \
         free memory or disk on the broker's host (rabbitmq-diagnostics alarms), then all goes on"
    )
}

/// A connection. Clones are the same connection; the last one dropped hangs up.
#[derive(Debug, Clone)]
pub struct Link(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    connection: Connection,
    /// Closing through lapin needs its tasks to run and the broker to listen;
    /// shutting the socket needs neither.
    socket: Arc<Socket>,
    hung_up: AtomicBool,
    state: watch::Receiver<LinkState>,
    last_unblocked: watch::Receiver<Option<Instant>>,
    target: Arc<Target>,
}

/// A connection, kept open by others.
#[derive(Debug, Clone)]
pub struct WeakLink(Weak<Inner>);

impl WeakLink {
    /// Returns `None` if the connection is gone.
    pub fn upgrade(&self) -> Option<Link> {
        self.0.upgrade().map(Link).filter(Link::is_open)
    }
}

impl Link {
    pub(super) fn new(
        connection: Connection,
        socket: Socket,
        target: Arc<Target>,
        on_state: StateHook,
    ) -> Self {
        let socket = Arc::new(socket);
        let (sender, state) = watch::channel(LinkState::Open);
        let (unblocked, last_unblocked) = watch::channel(None);
        // lapin's events go to one listener each, contrary to its docs, so
        // there is just this one.
        let events = connection.events_listener();
        let watching = Watching {
            status: connection.status().clone(),
            socket: Arc::clone(&socket),
            state: sender,
            unblocked,
            on_state: Arc::clone(&on_state),
        };
        let link = Self(Arc::new(Inner {
            connection,
            socket,
            hung_up: AtomicBool::new(false),
            state,
            last_unblocked,
            target,
        }));
        // Before the watching starts, so that no end is reported first.
        on_state(State::Connected(link.downgrade()));
        tokio::spawn(async move {
            if (AssertUnwindSafe(watching.run(events)).catch_unwind().await).is_err() {
                watching.end("watching it panicked".to_owned());
                watching.socket.shut();
            }
        });
        link
    }

    pub fn downgrade(&self) -> WeakLink {
        WeakLink(Arc::downgrade(&self.0))
    }

    /// Where the connection ends. Returns `None` if the system does not say.
    pub fn peer(&self) -> Option<SocketAddr> {
        self.0.socket.0.peer_addr().ok()
    }

    /// How many channels the broker allows on this connection.
    pub fn channel_max(&self) -> u16 {
        match self.0.connection.configuration().channel_max() {
            // AMQP's word for no limit.
            0 => u16::MAX,
            most => most,
        }
    }

    pub fn target(&self) -> &Arc<Target> {
        &self.0.target
    }

    pub fn state(&self) -> LinkState {
        self.0.state.borrow().clone()
    }

    pub fn is_open(&self) -> bool {
        // Asked of lapin, which knows a little earlier than the watching task.
        self.0.connection.status().connected()
            && !matches!(*self.0.state.borrow(), LinkState::Closed(_))
    }

    pub(super) fn is_blocked(&self) -> bool {
        // lapin knows of a block a little earlier than the watching task, and of
        // its end, too: what waits for that end has to see both.
        self.0.connection.status().blocked()
            || matches!(*self.0.state.borrow(), LinkState::Blocked(_))
    }

    /// When the broker last let publish again, after a block.
    pub(super) fn last_unblocked(&self) -> Option<Instant> {
        *self.0.last_unblocked.borrow()
    }

    /// Whether that was within the last `limit`.
    pub(super) fn unblocked_since(&self, limit: Duration) -> bool {
        self.last_unblocked().is_some_and(|at| at.elapsed() < limit)
    }

    pub(super) fn is_same(&self, other: &Link) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Completes when the connection is gone, for any reason, and returns
    /// that. Does not keep the connection alive.
    pub fn closed(&self) -> impl Future<Output = String> + Send + use<> {
        let mut state = self.0.state.clone();
        async move {
            match state
                .wait_for(|state| matches!(state, LinkState::Closed(_)))
                .await
                .as_deref()
            {
                Ok(LinkState::Closed(reason)) => reason.clone(),
                _ => "the connection is no longer watched".to_owned(),
            }
        }
    }

    /// Completes when the broker takes publishes, or the connection is gone.
    pub async fn unblocked(&self) {
        let mut state = self.0.state.clone();
        // An error means that there is no watcher any more, so the link is closed.
        let _ = state
            .wait_for(|state| !matches!(state, LinkState::Blocked(_)))
            .await;
    }

    /// Completes when the broker takes no publishes, with its reason.
    pub(super) async fn blocked(&self) -> String {
        let mut state = self.0.state.clone();
        let blocked = state.wait_for(|state| matches!(state, LinkState::Blocked(_)));
        match blocked.await.as_deref() {
            Ok(LinkState::Blocked(reason)) => reason.clone(),
            _ => std::future::pending().await,
        }
    }

    /// A new channel. Fails within `RPC_LIMIT`.
    pub async fn channel(&self) -> Result<Channel, LinkError> {
        if !self.is_open() {
            return Err(self.closed_error());
        }
        self.bounded("opening a channel", self.0.connection.create_channel())
            .await
    }

    /// A new channel on which the broker confirms what is published.
    pub async fn confirm_channel(&self) -> Result<Channel, LinkError> {
        let channel = self.channel().await?;
        self.bounded(
            "switching confirms on",
            channel.confirm_select(ConfirmSelectOptions::default()),
        )
        .await?;
        Ok(channel)
    }

    /// Waits for an answer of the broker, but not for ever: lapin's requests
    /// have no timeout, and some never end on a connection that is closing.
    pub(super) async fn bounded<T>(
        &self,
        what: &'static str,
        request: impl Future<Output = lapin::Result<T>>,
    ) -> Result<T, LinkError> {
        match timeout(RPC_LIMIT, request).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(_)) if !self.is_open() => {
                // The broker's reason comes with the end of the connection.
                let _ = timeout(2 * STATE_TICK, self.closed()).await;
                Err(self.closed_error())
            }
            Ok(Err(source)) => Err(LinkError::Amqp { what, source }),
            Err(_) => Err(match self.state() {
                LinkState::Blocked(reason) => LinkError::Blocked { what, reason },
                _ => LinkError::TimedOut {
                    what,
                    limit: RPC_LIMIT,
                },
            }),
        }
    }

    /// Closes in an orderly way, or hangs up after a few seconds. Consumers
    /// that are alive are not cancelled first.
    pub async fn close(&self) {
        // lapin would wait for the answer of a broker that it no longer hears.
        if !self.0.hung_up.load(Ordering::Relaxed) {
            let closing = self.0.connection.close(200, "OK".into());
            // In either case the connection is gone afterwards.
            let _ = timeout(CLOSE_LIMIT, closing).await;
        }
        self.hang_up();
    }

    /// Ends the connection at once, without a word to the broker, which then
    /// returns what was delivered and not acked, in order.
    pub fn hang_up(&self) {
        self.0.hung_up.store(true, Ordering::Relaxed);
        self.0.socket.shut();
    }

    fn closed_error(&self) -> LinkError {
        let reason = match &*self.0.state.borrow() {
            LinkState::Closed(reason) => reason.clone(),
            _ => "it was just lost".to_owned(),
        };
        LinkError::Closed {
            target: Arc::clone(&self.0.target),
            reason,
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // lapin closes only when the last channel is dropped too.
        self.socket.shut();
    }
}

/// A second handle of the socket that lapin reads and writes on a thread of its
/// own. Dropped, it shuts the socket for both, so that the thread ends.
#[derive(Debug)]
pub(super) struct Socket(pub(super) TcpStream);

impl Socket {
    fn shut(&self) {
        // It fails only when the other side has closed already.
        let _ = self.0.shutdown(Shutdown::Both);
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.shut();
    }
}

/// Notices blocking and the end of a connection.
struct Watching {
    status: ConnectionStatus,
    socket: Arc<Socket>,
    state: watch::Sender<LinkState>,
    unblocked: watch::Sender<Option<Instant>>,
    on_state: StateHook,
}

impl Watching {
    /// Until the end; then it shuts the socket, which the second handle would
    /// keep open.
    async fn run(&self, events: impl futures_util::Stream<Item = Event>) {
        fault::at("link.watched");
        let mut events = std::pin::pin!(events);
        let mut tick = interval(STATE_TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut block_reason = String::new();
        let mut close_reason = None;
        let status = &self.status;
        while status.connected() {
            tokio::select! {
                event = events.next() => match event {
                    Some(Event::ConnectionBlocked(reason)) => block_reason = reason,
                    // A channel's error comes here too; then the connection lives on.
                    Some(Event::Error(error)) if !status.connected() => close_reason = Some(error),
                    Some(_) => {}
                    None => break,
                },
                _ = tick.tick() => {}
                () = self.state.closed() => break,
            }
            self.set(match status.blocked() {
                true => LinkState::Blocked(block_reason.clone()),
                false => LinkState::Open,
            });
        }
        let reason = match close_reason {
            Some(error) => error.to_string(),
            None if status.closing() || status.closed() => "it was closed".to_owned(),
            None => "it was lost".to_owned(),
        };
        self.end(reason);
        // An orderly close still has to hear the broker's answer.
        let _ = timeout(CLOSE_LIMIT, async {
            while status.closing() {
                tick.tick().await;
            }
        })
        .await;
        self.socket.shut();
    }

    fn end(&self, reason: String) {
        self.state.send_replace(LinkState::Closed(reason.clone()));
        (self.on_state)(State::Disconnected(reason));
    }

    fn set(&self, now: LinkState) {
        if *self.state.borrow() == now {
            return;
        }
        let news = match &now {
            LinkState::Blocked(reason) => State::Blocked(reason.clone()),
            _ => {
                // Before the state: its readers ask when that was.
                self.unblocked.send_replace(Some(Instant::now()));
                State::Unblocked
            }
        };
        self.state.send_replace(now);
        (self.on_state)(news);
    }
}
