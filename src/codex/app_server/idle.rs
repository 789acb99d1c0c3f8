//! Servers that wait for the next turn of their workspace.

use std::fmt;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, sleep_until};

use super::reuse::Reuse;
use super::{DismissReason, Server};
use crate::capacity::{Headroom, ScarceResource};
use crate::fault;
use crate::metrics::Metrics;

/// How often the host's room is checked while servers wait.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Where room is missing, this share of those that wait goes at each look.
const SHARE_TO_END: usize = 8;

/// Of those that no turn will find, so many make way for a new one.
const SURPLUS_TO_END: usize = 2;

/// How many servers may wait.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    pub count: ServerCount,
    /// What they take for themselves, in bytes.
    pub memory: u64,
    /// How long one waits.
    pub ttl: Duration,
}

/// The number of servers that may wait.
#[derive(Debug, Clone, Copy)]
pub enum ServerCount {
    AtMost(usize),
    /// More than expected only while the host has ample room, and turns find them.
    Range {
        expected: usize,
        most: usize,
    },
}

/// Reports the host's room. It may read files.
pub(super) type LookForHeadroom = Box<dyn Fn() -> Headroom + Send + Sync>;

/// All that wait in a process; all clones are the same.
#[derive(Debug, Clone)]
pub struct IdleServers(Arc<Inner>);

struct Inner {
    bounds: Bounds,
    look: LookForHeadroom,
    /// What it has found last, and when.
    room: Mutex<Option<(Instant, Headroom)>>,
    waiting: Mutex<Waiting>,
    reuse: Mutex<Reuse>,
    metrics: Metrics,
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IdleServers")
            .field("bounds", &self.bounds)
            .finish_non_exhaustive()
    }
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
    /// Why one of these has to go, if one has to. The host's room is only asked for where it counts.
    fn exceeded_by(
        &self,
        servers: &[Entry],
        room: impl FnOnce() -> Headroom,
    ) -> Option<DismissReason> {
        let too_many = match self.count {
            ServerCount::AtMost(most) => (servers.len() > most).then_some(DismissReason::Count),
            ServerCount::Range { most, .. } if servers.len() > most => Some(DismissReason::Count),
            ServerCount::Range { expected, .. } if servers.len() > expected => surplus_goes(room()),
            ServerCount::Range { .. } => None,
        };
        too_many.or_else(|| (memory_of(servers) > self.memory).then_some(DismissReason::Memory))
    }

    /// Why the servers that have waited longest have to go, if they have to.
    fn lack(&self, waiting: usize, room: Headroom) -> Option<DismissReason> {
        match (self.count, room) {
            (_, Headroom::Short) => Some(DismissReason::Memory),
            (ServerCount::Range { expected, .. }, room) if waiting > expected => surplus_goes(room),
            _ => None,
        }
    }
}

fn surplus_goes(room: Headroom) -> Option<DismissReason> {
    match room {
        Headroom::Ample => None,
        Headroom::Short | Headroom::Scarce(ScarceResource::Memory) => Some(DismissReason::Memory),
        Headroom::Scarce(ScarceResource::Tasks) => Some(DismissReason::Tasks),
        Headroom::Scarce(ScarceResource::Watchers) => Some(DismissReason::Watchers),
    }
}

fn memory_of(servers: &[Entry]) -> u64 {
    servers.iter().map(|entry| entry.memory).sum()
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
    pub(crate) fn new(bounds: Bounds, look: LookForHeadroom, metrics: Metrics) -> Self {
        Self(Arc::new(Inner {
            bounds,
            look,
            room: Mutex::default(),
            waiting: Mutex::default(),
            reuse: Mutex::default(),
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
        self.reuse().record(workspace);
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
            why = self.idles(number) => ServerCall::End(why),
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

    /// Completes when the server has waited for as long as it may. The one that has
    /// waited longest looks for all whether the host has room for them.
    async fn idles(&self, number: u64) -> DismissReason {
        let until = Instant::now() + self.0.bounds.ttl;
        loop {
            tokio::select! {
                () = sleep_until(until) => return DismissReason::Idle,
                () = sleep(LOOK_EVERY) => {}
            }
            if self.is_oldest(number) {
                self.make_room();
            }
        }
    }

    /// Ends some of those that have waited longest, if the host lacks room for them.
    fn make_room(&self) {
        let room = self.room();
        let mut waiting = self.waiting();
        let count = waiting.servers.len();
        let Some(why) = self.0.bounds.lack(count, room) else {
            return;
        };
        for entry in waiting.servers.drain(..count.div_ceil(SHARE_TO_END)) {
            entry.end(why);
        }
        self.reuse().record_bound(waiting.servers.len());
        self.count(&waiting);
    }

    /// The host's room, looked for again if that was a while ago.
    fn room(&self) -> Headroom {
        let found = self.0.room.lock();
        let mut found = found.unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        match *found {
            Some((at, room)) if now < at + LOOK_EVERY => room,
            _ => {
                let room = (self.0.look)();
                *found = Some((now, room));
                room
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
        let bounds = self.0.bounds;
        while let Some(why) = bounds.exceeded_by(&waiting.servers, || self.room()) {
            waiting.servers.remove(0).end(why);
            if why != DismissReason::Count {
                self.reuse().record_bound(waiting.servers.len());
            }
        }
        // Not all at once, as to end them costs the turns' CPU time.
        let useful = self.useful();
        let surplus = waiting.servers.len().saturating_sub(useful);
        for entry in waiting.servers.drain(..surplus.min(SURPLUS_TO_END)) {
            entry.end(DismissReason::Count);
        }
        self.count(&waiting);
        number
    }

    /// How many servers the next turns will find.
    fn useful(&self) -> usize {
        match self.0.bounds.count {
            ServerCount::AtMost(most) => most,
            ServerCount::Range { expected, most } => self.reuse().useful(expected, most),
        }
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

    fn reuse(&self) -> MutexGuard<'_, Reuse> {
        let reuse = self.0.reuse.lock();
        reuse.unwrap_or_else(PoisonError::into_inner)
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        let waiting = self.0.waiting.lock();
        waiting.unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    type Call = oneshot::Receiver<ServerCall>;

    fn servers(count: ServerCount, room: &'static Mutex<Headroom>) -> IdleServers {
        let bounds = Bounds {
            count,
            memory: 100 * MIB,
            ttl: Duration::from_secs(60),
        };
        let look = Box::new(|| *room.lock().unwrap());
        IdleServers::new(bounds, look, Metrics::new(None))
    }

    /// The host's room, for a test to change.
    fn room() -> &'static Mutex<Headroom> {
        Box::leak(Box::new(Mutex::new(Headroom::Ample)))
    }

    /// Lets a server of so many MiB wait.
    fn enter(servers: &IdleServers, memory: u64) -> Call {
        let (call, called) = oneshot::channel();
        servers.enter("a", memory * MIB, call);
        called
    }

    /// What has become of each.
    fn ended(calls: &mut [Call]) -> Vec<&'static str> {
        let ended = calls.iter_mut().map(|called| match called.try_recv() {
            Ok(ServerCall::End(why)) => why.as_str(),
            _ => "waits",
        });
        ended.collect()
    }

    #[test]
    fn the_one_that_has_waited_longest_goes_first() {
        let servers = servers(ServerCount::AtMost(3), room());
        // The last alone takes more than all may take together.
        let mut calls = [40, 40, 40, 1, 1, 101].map(|memory| enter(&servers, memory));
        assert_eq!(
            ended(&mut calls),
            ["memory", "count", "count", "memory", "memory", "memory"]
        );
        assert!(servers.waiting().servers.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn more_than_expected_wait_while_the_host_has_ample_room() {
        let room = room();
        let count = ServerCount::Range {
            expected: 2,
            most: 20,
        };
        let servers = servers(count, room);
        let mut first = enter(&servers, 1);
        let mut calls: Vec<Call> = (0..20).map(|_| enter(&servers, 1)).collect();
        assert!(ended(&mut calls).iter().all(|how| *how == "waits"));
        assert!(matches!(
            first.try_recv(),
            Ok(ServerCall::End(DismissReason::Count))
        ));

        // New ones take the place of old ones, and the old ones give way.
        *room.lock().unwrap() = Headroom::Scarce(ScarceResource::Tasks);
        tokio::time::advance(LOOK_EVERY).await;
        servers.make_room();
        assert_eq!(servers.waiting().servers.len(), 17);
        while servers.waiting().servers.len() > 2 {
            servers.make_room();
        }
        servers.make_room();
        calls.push(enter(&servers, 1));
        let mut expected = vec!["tasks"; 19];
        expected.extend(["waits"; 2]);
        assert_eq!(ended(&mut calls), expected);

        // Short of memory, none is kept.
        *room.lock().unwrap() = Headroom::Short;
        tokio::time::advance(LOOK_EVERY).await;
        servers.make_room();
        servers.make_room();
        assert!(servers.waiting().servers.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_number_that_is_set_counts_whatever_is_scarce() {
        let room = room();
        *room.lock().unwrap() = Headroom::Scarce(ScarceResource::Watchers);
        let servers = servers(ServerCount::AtMost(3), room);
        let mut calls: Vec<Call> = (0..3).map(|_| enter(&servers, 1)).collect();
        servers.make_room();
        assert_eq!(ended(&mut calls), ["waits"; 3]);
    }
}
