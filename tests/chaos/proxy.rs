//! Stands between one client and the broker: finds a node that is up, and
//! lets connections go silent, end on one side only, or be cut.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{AbortHandle, spawn_local};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Pass,
    /// What is said in these directions waits.
    Hold {
        up: bool,
        down: bool,
    },
    /// The broker was notified of its end, the client was not.
    HungUp,
    Cut,
}

pub struct Proxy {
    pub address: SocketAddr,
    shared: Rc<Shared>,
    accept: AbortHandle,
}

struct Shared {
    nodes: Vec<u16>,
    /// The node to try first.
    prefer: Cell<usize>,
    connections: RefCell<BTreeMap<u64, watch::Sender<Mode>>>,
    next: Cell<u64>,
    /// For new connections.
    open: watch::Sender<bool>,
}

impl Proxy {
    /// `nodes`: their ports; `prefer`: which of them to try first.
    pub async fn before(address: IpAddr, nodes: Vec<u16>, prefer: usize) -> std::io::Result<Self> {
        let listener = TcpListener::bind((address, 0)).await?;
        let address = listener.local_addr()?;
        let shared = Rc::new(Shared {
            nodes,
            prefer: Cell::new(prefer),
            connections: RefCell::default(),
            next: Cell::new(0),
            open: watch::Sender::new(true),
        });
        let accept = spawn_local(Rc::clone(&shared).accept(listener)).abort_handle();
        Ok(Self {
            address,
            shared,
            accept,
        })
    }

    /// All connections there are.
    pub fn set_all(&self, mode: Mode) {
        for connection in self.shared.connections.borrow().values() {
            connection.send_replace(mode);
        }
    }

    /// Picks one connection, if there is any.
    pub fn pick(&self, pick: usize) -> Option<watch::Sender<Mode>> {
        let connections = self.shared.connections.borrow();
        let picked = connections.values().nth(pick % connections.len().max(1));
        picked.cloned()
    }

    /// Whether new connections get through.
    pub fn let_in(&self, open: bool) {
        self.shared.open.send_replace(open);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accept.abort();
        self.set_all(Mode::Cut);
        self.let_in(true);
    }
}

impl Shared {
    async fn accept(self: Rc<Self>, listener: TcpListener) {
        while let Ok((client, _)) = listener.accept().await {
            let number = self.next.replace(self.next.get() + 1);
            let mode = watch::Sender::new(Mode::Pass);
            self.connections.borrow_mut().insert(number, mode.clone());
            let shared = Rc::clone(&self);
            spawn_local(async move {
                shared.serve(client, mode).await;
                shared.connections.borrow_mut().remove(&number);
            });
        }
    }

    async fn serve(&self, client: TcpStream, mode: watch::Sender<Mode>) {
        let _ = self.open.subscribe().wait_for(|open| *open).await;
        let Some(broker) = self.connect().await else {
            return;
        };
        let _ = client.set_nodelay(true);
        let _ = broker.set_nodelay(true);
        let (mut from_client, mut to_client) = client.into_split();
        let mut ends = mode.subscribe();
        {
            let (mut from_broker, mut to_broker) = broker.into_split();
            let up = |mode: &Mode| matches!(mode, Mode::Hold { up: true, .. });
            let down = |mode: &Mode| matches!(mode, Mode::Hold { down: true, .. });
            tokio::select! {
                () = pump(&mut from_client, &mut to_broker, mode.subscribe(), up) => return,
                () = pump(&mut from_broker, &mut to_client, mode.subscribe(), down) => return,
                _ = ends.wait_for(|mode| matches!(mode, Mode::HungUp | Mode::Cut)) => {}
            }
        }
        // The broker's side is closed; the client's is as soon as it may hear of it.
        let _ = ends.wait_for(|mode| *mode == Mode::Cut).await;
    }

    /// To the first node that is up.
    async fn connect(&self) -> Option<TcpStream> {
        for offset in 0..self.nodes.len() {
            let node = (self.prefer.get() + offset) % self.nodes.len();
            if let Ok(stream) = TcpStream::connect(("127.0.0.1", self.nodes[node])).await {
                return Some(stream);
            }
        }
        None
    }
}

/// Until either side has ended.
async fn pump(
    from: &mut OwnedReadHalf,
    to: &mut OwnedWriteHalf,
    mut mode: watch::Receiver<Mode>,
    holds: impl Fn(&Mode) -> bool,
) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        if mode.wait_for(|mode| !holds(mode)).await.is_err()
            || to.write_all(&buffer[..length]).await.is_err()
        {
            return;
        }
    }
}
