//! A TCP proxy before the broker: it can go silent, lose what either side says,
//! cut connections, and speak for the broker or for a client.

#![allow(
    dead_code,
    clippy::unwrap_used,
    reason = "not every test needs all of it, and a test fails by panicking"
)]

use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex as StdMutex, OnceLock};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Mutex, watch};
use tokio::time::sleep;

/// AMQP's frame for it, on channel 0.
const HEARTBEAT: [u8; 8] = [8, 0, 0, 0, 0, 0, 0, FRAME_END];
/// A third of the shortest interval that there is.
const BEAT: Duration = Duration::from_millis(300);
const FRAME_END: u8 = 0xCE;
const METHOD: u8 = 1;
/// Class and method.
const DELIVER: [u8; 4] = [0, 60, 0, 60];
const ACK: [u8; 4] = [0, 60, 0, 80];

pub struct Proxy {
    /// The URL, through the proxy.
    pub url: String,
    shared: Arc<Shared>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Mode {
    Pass,
    /// Keeps it until thawed.
    Freeze,
    /// As that, with heartbeats in its place: who listens goes on believing.
    Pretend,
    /// Takes it and forgets it.
    Lose,
}

impl Mode {
    fn is_frozen(self) -> bool {
        matches!(self, Self::Freeze | Self::Pretend)
    }
}

struct Shared {
    broker: StdMutex<String>,
    /// Part of the names of the connections that it has power over.
    part: String,
    from_broker: watch::Sender<Mode>,
    from_client: watch::Sender<Mode>,
    /// Bytes lost, from either side.
    lost: watch::Sender<usize>,
    /// Bytes that wait, or waited, for a thaw.
    kept: watch::Sender<usize>,
    cut: watch::Sender<u32>,
    connections: StdMutex<Vec<Arc<Connection>>>,
}

struct Connection {
    /// As the client calls it, once it has said so.
    name: OnceLock<String>,
    to_client: Mutex<Option<OwnedWriteHalf>>,
    to_broker: Mutex<OwnedWriteHalf>,
    /// On which the last delivery came; 0 before one.
    channel: AtomicU16,
}

impl Proxy {
    pub async fn before(url: &str) -> Self {
        Self::before_some(url, "").await
    }

    /// All connections go through it, and those with this in their name
    /// obey it.
    pub async fn before_some(url: &str, part: &str) -> Self {
        let (user, rest) = url.split_once('@').unwrap();
        let (broker, vhost) = rest.split_once('/').unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            broker: StdMutex::new(broker.to_owned()),
            part: part.to_owned(),
            from_broker: watch::Sender::new(Mode::Pass),
            from_client: watch::Sender::new(Mode::Pass),
            lost: watch::Sender::new(0),
            kept: watch::Sender::new(0),
            cut: watch::Sender::new(0),
            connections: StdMutex::default(),
        });
        tokio::spawn(Arc::clone(&shared).accept(listener));
        Self {
            url: format!("{user}@{address}/{vhost}"),
            shared,
        }
    }

    /// The broker's words come no more, until thawed.
    pub fn freeze(&self) {
        self.shared.from_broker.send_replace(Mode::Freeze);
    }

    /// The client's words come no more, until thawed.
    pub fn freeze_client(&self) {
        self.shared.from_client.send_replace(Mode::Freeze);
    }

    /// All traffic stops until thawed, and the client does not notice.
    pub fn deceive(&self) {
        self.freeze_client();
        self.shared.from_broker.send_replace(Mode::Pretend);
    }

    /// The broker's words get lost. Confirms are whole frames, so that the
    /// stream stays well-formed if no other frame follows.
    pub fn lose_confirms(&self) {
        self.shared.from_broker.send_replace(Mode::Lose);
    }

    pub fn thaw(&self) {
        self.shared.from_broker.send_replace(Mode::Pass);
        self.shared.from_client.send_replace(Mode::Pass);
    }

    /// The client's words get lost, up to the next cut.
    pub fn swallow(&self) {
        self.shared.from_client.send_replace(Mode::Lose);
    }

    pub async fn has_lost(&self, bytes: usize) {
        let mut lost = self.shared.lost.subscribe();
        lost.wait_for(|lost| *lost >= bytes).await.unwrap();
    }

    pub async fn has_kept(&self, bytes: usize) {
        let mut kept = self.shared.kept.subscribe();
        kept.wait_for(|kept| *kept >= bytes).await.unwrap();
    }

    /// Ends the connections that there are, and lets the next ones speak.
    pub fn cut(&self) {
        // In this order: what a cut connection still had to say stays unsaid.
        self.shared.cut.send_modify(|cuts| *cuts += 1);
        self.shared.from_client.send_replace(Mode::Pass);
    }

    /// The next connections lead there, a host and a port.
    pub fn redirect(&self, broker: &str) {
        *self.shared.broker.lock().unwrap() = broker.to_owned();
    }

    /// Sends the client a `connection.blocked`, as at a memory alarm.
    pub async fn block(&self) {
        self.speak(&[0, 10, 0, 60, 3, b'm', b'e', b'm']).await;
    }

    pub async fn unblock(&self) {
        self.speak(&[0, 10, 0, 61]).await;
    }

    /// Only while the broker is silent.
    async fn speak(&self, method: &[u8]) {
        let connection = self.shared.newest();
        let mut client = connection.to_client.lock().await;
        let frame = frame(0, method);
        client.as_mut().unwrap().write_all(&frame).await.unwrap();
    }

    /// Acks, in the client's name, a delivery that there never was, on the
    /// channel of its last one, which the broker closes for that. Only while
    /// the client is silent.
    pub async fn ack_what_never_came(&self) {
        let connection = self.shared.newest();
        let mut method = ACK.to_vec();
        method.extend(u64::MAX.to_be_bytes());
        method.push(0);
        let frame = frame(connection.channel.load(Ordering::SeqCst), &method);
        let mut broker = connection.to_broker.lock().await;
        broker.write_all(&frame).await.unwrap();
    }
}

fn frame(channel: u16, method: &[u8]) -> Vec<u8> {
    let mut frame = vec![METHOD];
    frame.extend(channel.to_be_bytes());
    frame.extend(u32::try_from(method.len()).unwrap().to_be_bytes());
    frame.extend(method);
    frame.push(FRAME_END);
    frame
}

impl Shared {
    async fn accept(self: Arc<Self>, listener: TcpListener) {
        loop {
            let (inward, _) = listener.accept().await.unwrap();
            // The broker may be down; then the client sees its connection end.
            let broker = self.broker.lock().unwrap().clone();
            let Ok(outward) = TcpStream::connect(broker).await else {
                continue;
            };
            let (from_client, to_client) = inward.into_split();
            let (from_broker, to_broker) = outward.into_split();
            let connection = Arc::new(Connection {
                name: OnceLock::new(),
                to_client: Mutex::new(Some(to_client)),
                to_broker: Mutex::new(to_broker),
                channel: AtomicU16::new(0),
            });
            let mut connections = self.connections.lock().unwrap();
            connections.push(Arc::clone(&connection));
            drop(connections);
            let mut cut = self.cut.subscribe();
            let shared = Arc::clone(&self);
            tokio::spawn(async move {
                let was_cut = cut.clone();
                let was_cut = || was_cut.has_changed().unwrap_or(true);
                tokio::select! {
                    () = shared.inward(&connection, from_broker) => {}
                    () = shared.outward(&connection, from_client, was_cut) => {}
                    () = shared.pretend(&connection) => {}
                    _ = cut.changed() => {}
                }
                // All halves closed, both sides see the end.
                connection.to_client.lock().await.take();
                let mut connections = shared.connections.lock().unwrap();
                connections.retain(|other| !Arc::ptr_eq(other, &connection));
            });
        }
    }

    async fn inward(&self, connection: &Connection, mut from_broker: OwnedReadHalf) {
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(length @ 1..) = from_broker.read(&mut buffer).await {
            connection.note_deliveries(&buffer[..length]);
            if !self.passes(&self.from_broker, connection, length).await {
                continue;
            }
            let mut client = connection.to_client.lock().await;
            let Some(to_client) = client.as_mut() else {
                return;
            };
            if to_client.write_all(&buffer[..length]).await.is_err() {
                return;
            }
        }
        // Its end is something that it says, too.
        self.passes(&self.from_broker, connection, 0).await;
    }

    async fn outward(
        &self,
        connection: &Connection,
        mut from_client: OwnedReadHalf,
        was_cut: impl Fn() -> bool,
    ) {
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(length @ 1..) = from_client.read(&mut buffer).await {
            connection.note_name(&buffer[..length]);
            if self.passes(&self.from_client, connection, length).await && !was_cut() {
                let mut to_broker = connection.to_broker.lock().await;
                if to_broker.write_all(&buffer[..length]).await.is_err() {
                    return;
                }
            }
        }
        self.passes(&self.from_client, connection, 0).await;
    }

    async fn pretend(&self, connection: &Connection) {
        let mut mode = self.from_broker.subscribe();
        loop {
            let pretending = mode.wait_for(|mode| *mode == Mode::Pretend).await;
            drop(pretending.unwrap());
            if connection.obeys(self)
                && let Some(to_client) = connection.to_client.lock().await.as_mut()
                && to_client.write_all(&HEARTBEAT).await.is_err()
            {
                return;
            }
            sleep(BEAT).await;
        }
    }

    /// Whether what was read is to be passed on; waits while frozen.
    async fn passes(
        &self,
        mode: &watch::Sender<Mode>,
        connection: &Connection,
        length: usize,
    ) -> bool {
        if !connection.obeys(self) {
            return true;
        }
        let mut mode = mode.subscribe();
        if mode.borrow().is_frozen() {
            self.kept.send_modify(|kept| *kept += length);
        }
        let mode = *mode.wait_for(|mode| !mode.is_frozen()).await.unwrap();
        if mode == Mode::Lose {
            self.lost.send_modify(|lost| *lost += length);
        }
        mode == Mode::Pass
    }

    /// Of those that obey.
    fn newest(&self) -> Arc<Connection> {
        let connections = self.connections.lock().unwrap();
        let mut newest_first = connections.iter().rev();
        Arc::clone(newest_first.find(|one| one.obeys(self)).unwrap())
    }
}

impl Connection {
    fn obeys(&self, shared: &Shared) -> bool {
        let name = self.name.get().map_or("", String::as_str);
        name.contains(&shared.part)
    }

    /// The client's first words hold it, as a long string among its properties.
    fn note_name(&self, words: &[u8]) {
        const KEY: &[u8] = b"connection_nameS";
        if self.name.get().is_some() {
            return;
        }
        let Some(at) = find(words, KEY) else { return };
        let value = &words[at + KEY.len()..];
        let length = u32::from_be_bytes(value[..4].try_into().unwrap()) as usize;
        let name = String::from_utf8_lossy(&value[4..4 + length]);
        self.name.set(name.into_owned()).unwrap();
    }

    fn note_deliveries(&self, words: &[u8]) {
        let mut frames = words.windows(11);
        if let Some(head) = frames.rfind(|head| head[0] == METHOD && head[7..] == DELIVER) {
            let channel = u16::from_be_bytes([head[1], head[2]]);
            self.channel.store(channel, Ordering::SeqCst);
        }
    }
}

fn find(text: &[u8], part: &[u8]) -> Option<usize> {
    text.windows(part.len()).position(|window| window == part)
}
