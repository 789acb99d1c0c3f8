//! A TCP proxy before the broker: it can go silent, lose what either side says,
//! cut the connection, and speak for the broker.

use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Mutex, watch};

pub struct Proxy {
    /// The URL, through the proxy.
    pub url: String,
    shared: Arc<Shared>,
}

#[derive(Clone, Copy, PartialEq)]
enum Mode {
    Pass,
    /// Keeps it until thawed.
    Freeze,
    /// Takes it and forgets it.
    Lose,
}

struct Shared {
    broker: String,
    from_broker: watch::Sender<Mode>,
    from_client: watch::Sender<Mode>,
    /// Bytes lost, from either side.
    lost: watch::Sender<usize>,
    /// Bytes that wait, or waited, for a thaw.
    kept: watch::Sender<usize>,
    cut: watch::Sender<u32>,
    /// Where the last client listens.
    client: Mutex<Option<OwnedWriteHalf>>,
}

impl Proxy {
    pub async fn before(url: &str) -> Self {
        let (user, rest) = url.split_once('@').unwrap();
        let (broker, vhost) = rest.split_once('/').unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            broker: broker.to_owned(),
            from_broker: watch::Sender::new(Mode::Pass),
            from_client: watch::Sender::new(Mode::Pass),
            lost: watch::Sender::new(0),
            kept: watch::Sender::new(0),
            cut: watch::Sender::new(0),
            client: Mutex::new(None),
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

    /// The broker's words get lost. Confirms are whole frames, so that the
    /// stream stays well-formed as long as nothing else is said.
    pub fn lose_confirms(&self) {
        self.shared.from_broker.send_replace(Mode::Lose);
    }

    pub fn thaw(&self) {
        self.shared.from_broker.send_replace(Mode::Pass);
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

    /// Sends the client a `connection.blocked`, as at a memory alarm.
    pub async fn block(&self) {
        self.speak(&[0, 10, 0, 60, 3, b'm', b'e', b'm']).await;
    }

    pub async fn unblock(&self) {
        self.speak(&[0, 10, 0, 61]).await;
    }

    /// A method frame on channel 0. Only while the broker is silent.
    async fn speak(&self, method: &[u8]) {
        let mut frame = vec![1, 0, 0];
        frame.extend(u32::try_from(method.len()).unwrap().to_be_bytes());
        frame.extend(method);
        frame.push(0xCE);
        let mut client = self.shared.client.lock().await;
        client.as_mut().unwrap().write_all(&frame).await.unwrap();
    }
}

impl Shared {
    async fn accept(self: Arc<Self>, listener: TcpListener) {
        loop {
            let (inward, _) = listener.accept().await.unwrap();
            let outward = TcpStream::connect(&self.broker).await.unwrap();
            let (from_client, to_client) = inward.into_split();
            let (from_broker, to_broker) = outward.into_split();
            *self.client.lock().await = Some(to_client);
            let mut cut = self.cut.subscribe();
            let shared = Arc::clone(&self);
            tokio::spawn(async move {
                let was_cut = cut.clone();
                let was_cut = || was_cut.has_changed().unwrap_or(true);
                tokio::select! {
                    () = shared.inward(from_broker) => {}
                    () = shared.outward(from_client, to_broker, was_cut) => {}
                    _ = cut.changed() => {}
                }
                // Both halves closed, both sides see the end.
                shared.client.lock().await.take();
            });
        }
    }

    async fn inward(&self, mut from_broker: OwnedReadHalf) {
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(length @ 1..) = from_broker.read(&mut buffer).await {
            if !self.passes(&self.from_broker, length).await {
                continue;
            }
            let mut client = self.client.lock().await;
            let Some(to_client) = client.as_mut() else {
                return;
            };
            if to_client.write_all(&buffer[..length]).await.is_err() {
                return;
            }
        }
    }

    async fn outward(
        &self,
        mut from_client: OwnedReadHalf,
        mut to_broker: OwnedWriteHalf,
        was_cut: impl Fn() -> bool,
    ) {
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(length @ 1..) = from_client.read(&mut buffer).await {
            if self.passes(&self.from_client, length).await
                && !was_cut()
                && to_broker.write_all(&buffer[..length]).await.is_err()
            {
                return;
            }
        }
    }

    /// Whether what was read is to be passed on; waits while frozen.
    async fn passes(&self, mode: &watch::Sender<Mode>, length: usize) -> bool {
        let mut mode = mode.subscribe();
        if *mode.borrow() == Mode::Freeze {
            self.kept.send_modify(|kept| *kept += length);
        }
        let mode = *mode.wait_for(|mode| *mode != Mode::Freeze).await.unwrap();
        if mode == Mode::Lose {
            self.lost.send_modify(|lost| *lost += length);
        }
        mode == Mode::Pass
    }
}
