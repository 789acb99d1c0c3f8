//! Servers that wait for the next turn of their workspace.

use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::sleep;

use super::{DismissReason, Server};
use crate::fault;
use crate::metrics::Metrics;

/// All that wait in a process; all clones are the same.
#[derive(Debug, Clone)]
pub struct IdleServers(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// How many wait at most.
    most: usize,
    /// How long one waits.
    ttl: Duration,
    waiting: Mutex<Waiting>,
    metrics: Metrics,
}

#[derive(Debug, Default)]
struct Waiting {
    /// The one that has waited longest first.
    servers: Vec<Entry>,
    last_number: u64,
    /// None is kept any more.
    closed: bool,
}

/// Dropping it ends the server.
#[derive(Debug)]
struct Entry {
    number: u64,
    workspace: String,
    call: oneshot::Sender<Call>,
}

/// What a server that waits is called for.
#[derive(Debug)]
enum Call {
    Turn(oneshot::Sender<Server>),
    End(DismissReason),
}

impl Entry {
    fn end(self, why: DismissReason) {
        // One that is ending by itself has no need of it.
        let _ = self.call.send(Call::End(why));
    }
}

/// A server that has waited, and the workspace's lock, which it has held.
#[derive(Debug)]
pub struct Taken {
    pub server: Server,
    pub lock: OwnedFd,
}

impl IdleServers {
    pub fn new(most: usize, ttl: Duration, metrics: Metrics) -> Self {
        Self(Arc::new(Inner {
            most,
            ttl,
            waiting: Mutex::default(),
            metrics,
        }))
    }

    /// For a server whose turn is over and recorded, or was not run. The
    /// workspace is anybody's from now on.
    pub async fn keep(&self, workspace: &str, mut server: Server) {
        if let Err(why) = server.rest().await {
            self.dismissed(why);
            server.dismiss().await;
            return;
        }
        server.wait().await;
        fault::at("server.kept");
        let (call, called) = oneshot::channel();
        let number = self.enter(workspace, call);
        let servers = self.clone();
        tokio::spawn(async move { servers.attend(number, server, called).await });
    }

    /// The server that waits in that workspace; nothing where it has made way.
    pub async fn take(&self, workspace: &str) -> Option<Taken> {
        let entry = self.leave(|entry| entry.workspace == workspace)?;
        let (reply, server) = oneshot::channel();
        entry.call.send(Call::Turn(reply)).ok()?;
        let mut server = server.await.ok()?;
        let Some(lock) = server.take().await else {
            self.dismissed(server.why_gone());
            return None;
        };
        self.0.metrics.server_reused();
        fault::at("server.taken");
        Some(Taken { server, lock })
    }

    /// Ends all, and keeps none any more.
    pub fn close(&self) {
        let mut waiting = self.waiting();
        waiting.closed = true;
        for entry in waiting.servers.drain(..) {
            entry.end(DismissReason::Shutdown);
        }
        self.count(&waiting);
    }

    /// A server that was to serve several turns ends.
    pub(super) fn dismissed(&self, why: DismissReason) {
        use DismissReason::{Agents, Died, Helper, Processes, Record, Script, Unasked};
        let reason = why.as_str();
        self.0.metrics.server_dismissed(why);
        match why {
            Agents | Died | Helper | Processes | Record | Script | Unasked => {
                tracing::info!(reason, "a server is not kept for the next turn");
            }
            _ => tracing::debug!(reason, "a server is not kept for the next turn"),
        }
    }

    /// Until the server is asked for, has waited long enough, or is gone.
    async fn attend(&self, number: u64, mut server: Server, called: oneshot::Receiver<Call>) {
        let call = tokio::select! {
            biased;
            call = called => call.unwrap_or(Call::End(DismissReason::Shutdown)),
            why = server.stirs() => Call::End(why),
            () = sleep(self.0.ttl) => Call::End(DismissReason::Idle),
        };
        // Who asks for it only now does without.
        self.leave(|entry| entry.number == number);
        match call {
            Call::Turn(reply) => drop(reply.send(server)),
            Call::End(why) => {
                self.dismissed(why);
                server.dismiss().await;
            }
        }
    }

    fn enter(&self, workspace: &str, call: oneshot::Sender<Call>) -> u64 {
        let mut waiting = self.waiting();
        waiting.last_number += 1;
        let number = waiting.last_number;
        if !waiting.closed {
            waiting.servers.push(Entry {
                number,
                workspace: workspace.to_owned(),
                call,
            });
        }
        let over = waiting.servers.len().saturating_sub(self.0.most);
        for entry in waiting.servers.drain(..over) {
            entry.end(DismissReason::Count);
        }
        self.count(&waiting);
        number
    }

    fn leave(&self, is_meant: impl Fn(&Entry) -> bool) -> Option<Entry> {
        let mut waiting = self.waiting();
        let at = waiting.servers.iter().position(is_meant)?;
        let entry = waiting.servers.remove(at);
        self.count(&waiting);
        Some(entry)
    }

    fn count(&self, waiting: &Waiting) {
        self.0.metrics.set_idle_servers(waiting.servers.len());
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        let waiting = self.0.waiting.lock();
        waiting.unwrap_or_else(PoisonError::into_inner)
    }
}
