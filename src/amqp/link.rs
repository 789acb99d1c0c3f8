//! One connection to the broker, and how its end is noticed.

use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::StreamExt;
use lapin::options::ConfirmSelectOptions;
use lapin::{Channel, Connection, ConnectionStatus, Event};
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::connect::StateHook;
use super::target::Target;

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
    #[error("{what} failed")]
    Amqp {
        what: &'static str,
        #[source]
        source: lapin::Error,
    },
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
    target: Arc<Target>,
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
        // lapin's events go to one listener each, whatever its docs say, so
        // there is just this one.
        let events = connection.events_listener();
        let status = connection.status().clone();
        tokio::spawn(watch_state(
            events,
            status,
            Arc::clone(&socket),
            sender,
            on_state,
        ));
        Self(Arc::new(Inner {
            connection,
            socket,
            hung_up: AtomicBool::new(false),
            state,
            target,
        }))
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
        self.0.connection.status().blocked()
    }

    pub(super) fn is_same(&self, other: &Link) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Completes when the connection is gone, for whatever reason, and gives
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
                _ => "nobody watches the connection any more".to_owned(),
            }
        }
    }

    /// Completes when the broker takes publishes, or the connection is gone.
    pub async fn unblocked(&self) {
        let mut state = self.0.state.clone();
        // An error says that nobody watches any more, so the link is closed.
        let _ = state
            .wait_for(|state| !matches!(state, LinkState::Blocked(_)))
            .await;
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
    /// have no time limit, and some never end on a connection that is closing.
    pub(super) async fn bounded<T>(
        &self,
        what: &'static str,
        request: impl Future<Output = lapin::Result<T>>,
    ) -> Result<T, LinkError> {
        match timeout(RPC_LIMIT, request).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(_)) if !self.is_open() => Err(self.closed_error()),
            Ok(Err(source)) => Err(LinkError::Amqp { what, source }),
            Err(_) => Err(LinkError::TimedOut {
                what,
                limit: RPC_LIMIT,
            }),
        }
    }

    /// Closes in an orderly way, or hangs up after a few seconds. Consumers
    /// that are alive are not cancelled first.
    pub async fn close(&self) {
        // lapin would wait for the answer of a broker that it no longer hears.
        if !self.0.hung_up.load(Ordering::Relaxed) {
            let closing = self.0.connection.close(200, "OK".into());
            // Whatever comes out of it, the connection is gone afterwards.
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

/// Tells of blocking and of the end, then shuts the socket: the second handle
/// would keep it open.
async fn watch_state(
    events: impl futures_util::Stream<Item = Event>,
    status: ConnectionStatus,
    socket: Arc<Socket>,
    state: watch::Sender<LinkState>,
    on_state: StateHook,
) {
    let mut events = std::pin::pin!(events);
    let mut tick = interval(STATE_TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut block_reason = String::new();
    let mut close_reason = None;
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
            () = state.closed() => break,
        }
        let now = if status.blocked() {
            LinkState::Blocked(block_reason.clone())
        } else {
            LinkState::Open
        };
        state.send_if_modified(|state| {
            let changed = *state != now;
            *state = now;
            changed
        });
    }
    let reason = match close_reason {
        Some(error) => error.to_string(),
        None if status.closing() || status.closed() => "it was closed".to_owned(),
        None => "it was lost".to_owned(),
    };
    state.send_replace(LinkState::Closed(reason));
    on_state(super::connect::State::Disconnected);
    // An orderly close still has to hear the broker's answer.
    let _ = timeout(CLOSE_LIMIT, async {
        while status.closing() {
            tick.tick().await;
        }
    })
    .await;
    socket.shut();
}
