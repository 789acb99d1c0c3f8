//! Servers that wait for the next turn of their workspace.

use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, sleep_until};

use super::{DismissReason, Server};
use crate::fault;
use crate::host::memory::Memory;
use crate::metrics::Metrics;

/// How often the server that has waited longest looks whether memory is short.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Memory is short when less than this share of it is available.
const SHORT: u64 = 16;

/// How many servers may wait.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Their number.
    pub count: usize,
    /// What they take for themselves, in bytes.
    pub memory: u64,
    /// How long one waits.
    pub ttl: Duration,
}

/// All that wait in a process; all clones are the same.
#[derive(Debug, Clone)]
pub struct IdleServers(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    bounds: Bounds,
    waiting: Mutex<Waiting>,
    metrics: Metrics,
}

#[derive(Debug, Default)]
struct Waiting {
    /// The one that has waited longest first.
    servers: Vec<Entry>,
    last_number: u64,
    /// Servers are not kept any more.
    closed: bool,
}

/// Dropping it ends the server.
#[derive(Debug)]
struct Entry {
    number: u64,
    workspace: String,
    /// In bytes.
    memory: u64,
    call: oneshot::Sender<ServerCall>,
}

/// What a server that waits is called for.
#[derive(Debug)]
enum ServerCall {
    Turn(oneshot::Sender<Server>),
    End(DismissReason),
}

impl Bounds {
    /// Why one of these has to go, if one has to.
    fn exceeded_by(&self, servers: &[Entry]) -> Option<DismissReason> {
        if servers.len() > self.count {
            return Some(DismissReason::Count);
        }
        (memory_of(servers) > self.memory).then_some(DismissReason::Memory)
    }
}

fn memory_of(servers: &[Entry]) -> u64 {
    servers.iter().map(|entry| entry.memory).sum()
}

fn is_short(memory: Memory) -> bool {
    memory.available < memory.limit / SHORT
}

impl Entry {
    fn end(self, why: DismissReason) {
        // One that is ending by itself has no need of it.
        let _ = self.call.send(ServerCall::End(why));
    }
}

/// A server that has waited, and the workspace's lock, which it has held.
#[derive(Debug)]
pub struct Taken {
    pub server: Server,
    pub lock: OwnedFd,
}

impl IdleServers {
    pub fn new(bounds: Bounds, metrics: Metrics) -> Self {
        Self(Arc::new(Inner {
            bounds,
            waiting: Mutex::default(),
            metrics,
        }))
    }

    /// For a server with a turn that is over and recorded, or was not run. The
    /// workspace is free from now on.
    pub async fn keep(&self, workspace: &str, mut server: Server) {
        if let Err(why) = server.rest().await {
            self.dismissed(why);
            server.dismiss().await;
            return;
        }
        server.wait().await;
        fault::at("server.kept");
        let (call, called) = oneshot::channel();
        let number = self.enter(workspace, server.memory(), call);
        let servers = self.clone();
        tokio::spawn(async move { servers.attend(number, server, called).await });
    }

    /// The server that waits in that workspace; `None` if it has made way.
    pub async fn take(&self, workspace: &str) -> Option<Taken> {
        let entry = self.leave(|entry| entry.workspace == workspace)?;
        let (reply, server) = oneshot::channel();
        entry.call.send(ServerCall::Turn(reply)).ok()?;
        let mut server = server.await.ok()?;
        let Some(lock) = server.take().await else {
            self.dismissed(server.why_gone());
            return None;
        };
        self.0.metrics.server_reused();
        fault::at("server.taken");
        Some(Taken { server, lock })
    }

    /// Whether a server waits in that workspace.
    pub fn waits_in(&self, workspace: &str) -> bool {
        let waiting = self.waiting();
        waiting
            .servers
            .iter()
            .any(|entry| entry.workspace == workspace)
    }

    /// The workspaces in which servers wait, the newest first, at most so many.
    pub fn workspaces(&self, most: usize) -> Vec<String> {
        let waiting = self.waiting();
        let newest = waiting.servers.iter().rev().take(most);
        newest.map(|entry| entry.workspace.clone()).collect()
    }

    /// Ends all servers, and keeps no more.
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
    async fn attend(&self, number: u64, mut server: Server, called: oneshot::Receiver<ServerCall>) {
        let call = tokio::select! {
            biased;
            call = called => call.unwrap_or(ServerCall::End(DismissReason::Shutdown)),
            why = server.stirs() => ServerCall::End(why),
            why = self.has_to_go(number) => ServerCall::End(why),
        };
        // Who asks for it only now does without.
        self.leave(|entry| entry.number == number);
        match call {
            ServerCall::Turn(reply) => drop(reply.send(server)),
            ServerCall::End(why) => {
                self.dismissed(why);
                server.dismiss().await;
            }
        }
    }

    /// Completes when the server has waited for as long as it may, or its memory is needed.
    async fn has_to_go(&self, number: u64) -> DismissReason {
        let until = Instant::now() + self.0.bounds.ttl;
        loop {
            tokio::select! {
                () = sleep_until(until) => return DismissReason::Idle,
                () = sleep(LOOK_EVERY) => {}
            }
            if self.is_oldest(number) && Memory::now().is_some_and(is_short) {
                return DismissReason::Memory;
            }
        }
    }

    fn is_oldest(&self, number: u64) -> bool {
        let waiting = self.waiting();
        waiting
            .servers
            .first()
            .is_some_and(|entry| entry.number == number)
    }

    fn enter(&self, workspace: &str, memory: u64, call: oneshot::Sender<ServerCall>) -> u64 {
        let mut waiting = self.waiting();
        waiting.last_number += 1;
        let number = waiting.last_number;
        if !waiting.closed {
            waiting.servers.push(Entry {
                number,
                workspace: workspace.to_owned(),
                memory,
                call,
            });
        }
        while let Some(why) = self.0.bounds.exceeded_by(&waiting.servers) {
            waiting.servers.remove(0).end(why);
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
        let memory = memory_of(&waiting.servers);
        self.0
            .metrics
            .set_idle_servers(waiting.servers.len(), memory);
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        let waiting = self.0.waiting.lock();
        waiting.unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_one_that_has_waited_longest_goes_first_when_memory_is_short() {
        const MIB: u64 = 1 << 20;
        let bounds = Bounds {
            count: 3,
            memory: 100 * MIB,
            ttl: Duration::from_secs(60),
        };
        let servers = IdleServers::new(bounds, Metrics::new(None));
        let mut calls = Vec::new();
        let mut enter = |workspace: &str, memory: u64| {
            let (call, called) = oneshot::channel();
            servers.enter(workspace, memory * MIB, call);
            calls.push(called);
        };
        enter("a", 40);
        enter("b", 40);
        enter("c", 40);
        enter("d", 1);
        enter("e", 1);
        // More than all may take together.
        enter("f", 101);
        let ended: Vec<_> = calls
            .iter_mut()
            .map(|called| match called.try_recv() {
                Ok(ServerCall::End(why)) => why.as_str(),
                _ => "waits",
            })
            .collect();
        assert_eq!(
            ended,
            ["memory", "count", "count", "memory", "memory", "memory"]
        );
        assert!(servers.waiting().servers.is_empty());
    }

    #[test]
    fn memory_is_short_below_a_sixteenth() {
        let short = |available| {
            is_short(Memory {
                limit: 1600,
                available,
            })
        };
        assert!(short(99) && !short(100));
    }
}
