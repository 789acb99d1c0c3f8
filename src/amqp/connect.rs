//! Connects to the broker, again and again when it must.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use lapin::tcp::{AsyncTcpStream, RustlsConnector};
use lapin::{Connection, ConnectionProperties, ErrorKind};
use secrecy::SecretString;
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::sync::CancellationToken;

use super::frames::{self, RepairedFrame};
use super::link::{Link, Socket, WeakLink};
use super::tls;
use crate::config::target::{self, Target, UrlError};
use crate::error::with_sources;
use crate::throttle::Throttle;

/// How long connecting may take: name, TCP, TLS and the AMQP handshake together.
/// For publishing, for offers, for the sequencer, and for comparing itself with
/// the pool.
pub const CONNECTIONS_OF_A_PROCESS: usize = 4;
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// AMQP heartbeat interval, in seconds, unless the URL sets one. Either side
/// gives the connection up when two of them pass without a frame, so it bounds a
/// takeover.
pub const HEARTBEAT_S: u16 = 10;
/// The largest frame, in bytes: RabbitMQ's own default, and so the largest that
/// its clients agree on. It must not be smaller where strangers' messages
/// come in, since their headers have to fit into one frame. Asked for from the
/// start, since lapin's buffers (32 frames each way) take memory as they are
/// used then; grown later, they take it at once.
const FRAME_MAX_BYTES: u32 = 128 << 10;
/// The same where only publishing is done: no foreign headers come in, and
/// ours are small.
const PUBLISHING_FRAME_MAX_BYTES: u32 = 16 << 10;

pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// What becomes of a [`Connector`]'s connections.
#[derive(Debug, Clone)]
pub enum State {
    Connected(WeakLink),
    /// The broker takes no publishes; its reason.
    Blocked(String),
    Unblocked,
    /// Lost or closed; why.
    Disconnected(String),
    /// The broker allows no more connections; in full.
    LimitReached(String),
}

/// What a [`Connector`] calls for each frame that it has changed.
pub(super) type RepairHook = Arc<dyn Fn(&RepairedFrame<'_>) + Send + Sync>;
pub(super) type StateHook = Arc<dyn Fn(State) + Send + Sync>;

#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error("the AMQP URL can't be read")]
    Source(#[source] BoxError),
    #[error("the AMQP URL is invalid")]
    Url(#[source] UrlError),
    #[error("broker {target}: the host name can't be resolved")]
    Resolve {
        target: Arc<Target>,
        #[source]
        source: io::Error,
    },
    #[error("broker {target}: no TCP connection")]
    Tcp {
        target: Arc<Target>,
        #[source]
        source: io::Error,
    },
    #[error("TLS is not possible")]
    TlsFiles(#[source] BoxError),
    #[error("broker {target}: {}", tls::told(source))]
    Tls {
        target: Arc<Target>,
        #[source]
        source: Arc<io::Error>,
    },
    #[error("broker {target}: user {:?} or its password was refused: {detail}", .target.user)]
    AuthRefused { target: Arc<Target>, detail: String },
    #[error(
        "broker {target}: there is no virtual host {:?}; create it, or name another at the end of the URL{}: {detail}",
        .target.vhost,
        // A URL that ends with a slash names the empty one.
        if target.vhost.is_empty() { " (the virtual host / is written %2f)" } else { "" }
    )]
    VhostMissing { target: Arc<Target>, detail: String },
    #[error("broker {target}: user {:?} has no permissions in virtual host {:?}: {detail}", .target.user, .target.vhost)]
    VhostRefused { target: Arc<Target>, detail: String },
    #[error("broker {target}: virtual host {:?} is down; its node's log says why, and `rabbitmqctl restart_vhost` starts it: {detail}", .target.vhost)]
    VhostDown { target: Arc<Target>, detail: String },
    #[error(
        "broker {target}: a limit of connections is reached; each process needs {CONNECTIONS_OF_A_PROCESS}, and each command 1: raise it (rabbitmqctl set_user_limits, set_vhost_limits), or end other clients: {detail}"
    )]
    LimitReached { target: Arc<Target>, detail: String },
    #[error("broker {target}: the connection was refused: {detail}")]
    Refused { target: Arc<Target>, detail: String },
    #[error(
        "broker {target}: the AMQP handshake failed (is this the AMQP port, and the right one for amqp or amqps?)"
    )]
    Handshake {
        target: Arc<Target>,
        #[source]
        source: lapin::Error,
    },
    #[error("broker {target}: {phase} took longer than {} s", CONNECT_LIMIT.as_secs())]
    TimedOut {
        target: Arc<Target>,
        phase: &'static str,
    },
}

/// Where and how to connect.
#[derive(Clone)]
pub struct Connector {
    url: Arc<dyn Fn() -> Result<SecretString, BoxError> + Send + Sync>,
    tls: Arc<dyn Fn() -> Result<RustlsConnector, BoxError> + Send + Sync>,
    name: String,
    on_state: StateHook,
    on_repair: RepairHook,
    /// All connections of a process have one line a minute while the broker is away.
    still_away: Arc<Mutex<Throttle>>,
    /// In bytes.
    frame_max: u32,
}

impl Connector {
    /// `url` is asked before every attempt, so that a rotated password is
    /// taken up; `name` is what the broker's operator sees.
    pub fn new(
        name: impl Into<String>,
        url: impl Fn() -> Result<SecretString, BoxError> + Send + Sync + 'static,
    ) -> Self {
        Self {
            url: Arc::new(url),
            tls: Arc::new(|| Ok(RustlsConnector::new_with_native_certs()?)),
            name: name.into(),
            on_state: Arc::new(|_| {}),
            on_repair: Arc::new(|_| {}),
            still_away: Arc::default(),
            frame_max: FRAME_MAX_BYTES,
        }
    }

    /// How to speak TLS with a broker if its URL asks for it; it is asked before
    /// every attempt, too. Otherwise the system's authorities are trusted.
    pub fn with_tls(
        mut self,
        tls: impl Fn() -> Result<RustlsConnector, BoxError> + Send + Sync + 'static,
    ) -> Self {
        self.tls = Arc::new(tls);
        self
    }

    /// For a connection that only publishes, which needs less memory for it.
    pub fn publishing(mut self) -> Self {
        self.frame_max = PUBLISHING_FRAME_MAX_BYTES;
        self
    }

    /// Calls `hook` with every change of each connection's state.
    pub fn on_state(mut self, hook: impl Fn(State) + Send + Sync + 'static) -> Self {
        self.on_state = Arc::new(hook);
        self
    }

    /// Calls `hook`, on lapin's thread, for each frame that lapin could not have
    /// read and that was changed therefore.
    pub fn on_repair(mut self, hook: impl Fn(&RepairedFrame<'_>) + Send + Sync + 'static) -> Self {
        self.on_repair = Arc::new(hook);
        self
    }

    /// The same broker, under another connection name.
    pub fn named(&self, name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            ..self.clone()
        }
    }

    /// Tries once, within `CONNECT_LIMIT`.
    pub async fn connect(&self) -> Result<Link, ConnectError> {
        let url = (self.url)().map_err(ConnectError::Source)?;
        let (mut uri, target) = target::parse(&url).map_err(ConnectError::Url)?;
        uri.query.heartbeat.get_or_insert(HEARTBEAT_S);
        uri.query.frame_max = Some(self.frame_max);
        let tls = match target.tls {
            true => Some((self.tls)().map_err(ConnectError::TlsFiles)?),
            false => None,
        };

        let deadline = Instant::now() + CONNECT_LIMIT;
        let timed_out = |phase| {
            let target = Arc::clone(&target);
            move |_| ConnectError::TimedOut { target, phase }
        };

        let addresses: Vec<SocketAddr> = timeout_at(
            deadline,
            tokio::net::lookup_host((target.host.as_str(), target.port)),
        )
        .await
        .map_err(timed_out("resolving the host name"))?
        .map_err(|source| ConnectError::Resolve {
            target: Arc::clone(&target),
            source,
        })?
        .collect();

        let tcp_error = |source| ConnectError::Tcp {
            target: Arc::clone(&target),
            source,
        };
        let (connecting, runtime) = frames::runtime::current();
        let stream = timeout_at(deadline, AsyncTcpStream::connect(&connecting, addresses))
            .await
            .map_err(timed_out("the TCP connection"))?
            .map_err(tcp_error)?;
        let AsyncTcpStream::Plain(plain) = &stream else {
            return Err(tcp_error(io::Error::other("TLS before its handshake")));
        };
        let socket = plain
            .get_ref()
            .as_fd()
            .try_clone_to_owned()
            .map(|fd| Socket(fd.into()))
            .map_err(tcp_error)?;
        let stream = if let Some(tls) = tls {
            timeout_at(deadline, stream.into_rustls(&tls, &target.host))
                .await
                .map_err(timed_out("the TLS handshake"))?
                .map_err(|source| ConnectError::Tls {
                    target: Arc::clone(&target),
                    source: Arc::new(source),
                })?
        } else {
            stream
        };
        let stream = frames::runtime::filtered(stream, self.frame_max, self.on_repair.clone());

        // lapin connects on a thread of its own, without a timeout, and
        // does not expose the socket; so it gets one that is connected. What
        // ends in here drops `socket`, and with it that thread.
        let ready = Mutex::new(Some(stream));
        let hand_over = async move |_, _| {
            let stream = ready.lock().unwrap_or_else(PoisonError::into_inner).take();
            stream.ok_or_else(|| io::Error::other("a connection is made once only").into())
        };
        let properties = ConnectionProperties::default()
            .with_connection_name(self.name.as_str().into())
            .with_client_property("product".into(), env!("CARGO_PKG_NAME").into())
            .with_client_property("version".into(), crate::VERSION.into());
        let handshake = Connection::connector(uri, runtime, hand_over, properties);
        let connection = match timeout_at(deadline, handshake).await {
            Ok(Ok(connection)) => connection,
            Ok(Err(error)) => return Err(refused(target, error)),
            Err(elapsed) => return Err(timed_out("the AMQP handshake")(elapsed)),
        };
        Ok(Link::new(
            connection,
            socket,
            target,
            Arc::clone(&self.on_state),
        ))
    }

    /// Where it connects to now.
    pub fn target(&self) -> Result<Arc<Target>, ConnectError> {
        let url = (self.url)().map_err(ConnectError::Source)?;
        let (_, target) = target::parse(&url).map_err(ConnectError::Url)?;
        Ok(target)
    }

    /// Whether a line is due that says that the broker is still away.
    fn may_report(&self, now: std::time::Instant) -> bool {
        let still_away = self.still_away.lock();
        let mut still_away = still_away.unwrap_or_else(PoisonError::into_inner);
        still_away.admit(now).is_some()
    }

    /// Tries until it succeeds; `None` when `shutdown` came first. A failure
    /// is logged when it is another one than before, and then once a minute for
    /// all connections together.
    pub async fn connect_with_backoff(&self, shutdown: &CancellationToken) -> Option<Link> {
        let mut delays = backoff();
        let mut logged = None;
        let since = std::time::Instant::now();
        loop {
            let error = tokio::select! {
                result = self.connect() => match result {
                    Ok(link) => {
                        tracing::info!(broker = %link.target(), connection = self.name, "connected to the broker");
                        return Some(link);
                    }
                    Err(error) => {
                        let text = with_sources(&error);
                        if let ConnectError::LimitReached { .. } = error {
                            (self.on_state)(State::LimitReached(text.clone()));
                        }
                        text
                    }
                },
                () = shutdown.cancelled() => return None,
            };
            let now = std::time::Instant::now();
            let due = self.may_report(now);
            if logged.as_ref() == Some(&error) {
                let waited_s = now.duration_since(since).as_secs();
                if due {
                    tracing::warn!(
                        connection = self.name,
                        waited_s,
                        error,
                        "still not connected to the broker"
                    );
                } else {
                    tracing::debug!(connection = self.name, error, "still not connected");
                }
            } else {
                tracing::warn!(
                    connection = self.name,
                    error,
                    "not connected to the broker, trying again"
                );
                logged = Some(error);
            }
            tokio::select! {
                () = sleep(delays.next().unwrap_or(BACKOFF_MAX)) => {}
                () = shutdown.cancelled() => return None,
            }
        }
    }
}

impl std::fmt::Debug for Connector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connector")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

const BACKOFF_MIN: Duration = Duration::from_millis(200);
/// Half of what is allowed, since the jitter may double it.
const BACKOFF_MAX: Duration = Duration::from_secs(5);

/// The delays between attempts: 0.2 s, doubling, never above 10 s, endless,
/// and jittered, so that a pool does not come back to its broker all at once.
pub(crate) fn backoff() -> ExponentialBackoff {
    ExponentialBuilder::default()
        .with_min_delay(BACKOFF_MIN)
        .with_max_delay(BACKOFF_MAX)
        .without_max_times()
        .with_jitter()
        .build()
}

/// Why the broker ended the handshake, as far as its text shows.
fn refused(target: Arc<Target>, error: lapin::Error) -> ConnectError {
    let refusal = match error.kind() {
        ErrorKind::ProtocolError(refusal) => refusal,
        ErrorKind::IOError(source) if target.tls && tls::is_of_tls(source) => {
            let source = Arc::clone(source);
            return ConnectError::Tls { target, source };
        }
        _ => {
            return ConnectError::Handshake {
                target,
                source: error,
            };
        }
    };
    let detail = refusal.get_message().to_string();
    match refusal.get_id() {
        403 => ConnectError::AuthRefused { target, detail },
        530 if detail.contains("not found") => ConnectError::VhostMissing { target, detail },
        530 if detail.contains("limit (") => ConnectError::LimitReached { target, detail },
        530 if detail.ends_with("is down") => ConnectError::VhostDown { target, detail },
        530 if detail.contains("access to vhost") => ConnectError::VhostRefused { target, detail },
        530 => ConnectError::Refused { target, detail },
        _ => ConnectError::Handshake {
            target,
            source: error,
        },
    }
}
