//! Having the workspace for one turn: its lock, its journal, and the server
//! that an earlier turn has left there.

use std::fs::File;
use std::time::Duration;

use tokio::task::block_in_place;
use tokio::time::{Instant, sleep};

use super::fence::Predecessor;
use crate::codex::app_server::{IdleServers, Server};
use crate::fault;
use crate::guard::{self, Tag, Unkillable, tree};
use crate::metrics::{Metrics, OldRead};
use crate::workspace::{JournalEnd, LockedJournal, StateError, Workspace, WorkspaceLock};

/// A dying guard needs a moment to release the lock, and one with a server that
/// waits for a turn to end that first.
const LOCK_WAIT: Duration = Duration::from_secs(2);
const LOCK_POLL: Duration = Duration::from_millis(50);
/// While a server makes way.
const RING_POLL: Duration = Duration::from_millis(10);
/// How long a journal that is older than known is read again: network file
/// systems cache for a second or a few.
const OLD_READ_WAIT: Duration = Duration::from_secs(5);
/// The first pause between two reads; each is twice as long, up to the limit.
const OLD_READ_PAUSE: Duration = Duration::from_millis(20);
const OLD_READ_PAUSE_LIMIT: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct Lease {
    pub journal: LockedJournal,
    pub server: Option<Server>,
    /// A server that waited, maybe of another process, has made way.
    pub took_over: bool,
    /// Its processes may still run, on another host.
    pub predecessor: Option<Predecessor>,
}

/// What the offer of a turn says besides the request.
#[derive(Debug, Clone, Copy, Default)]
pub struct Hints {
    /// Wait a little for the workspace's lock.
    pub patient: bool,
    /// How far the workspace's journal is known to reach.
    pub journal: Option<JournalEnd>,
}

/// What became of the try to take a workspace.
#[derive(Debug)]
pub(super) enum Taken {
    Lease(Box<Lease>),
    /// Another process has it.
    Busy,
    /// What an earlier turn has left there can't be killed.
    Held(Box<Unkillable>),
}

impl Lease {
    /// Takes the workspace, with a journal that must be as new as is known.
    pub(super) async fn take(
        workspace: &Workspace,
        idle: Option<&IdleServers>,
        hints: &Hints,
        metrics: &Metrics,
    ) -> Result<Taken, StateError> {
        let mut old = OldReads::new(metrics);
        if let Some(idle) = idle {
            let kept = Self::take_kept(workspace, idle, hints.journal.as_ref()).await;
            if let Some(Some(lease)) = old.unless_old(kept).await? {
                return Ok(Taken::Lease(Box::new(lease)));
            }
        }
        let (began, mut bell) = (Instant::now(), None);
        loop {
            let opened = block_in_place(|| match workspace.try_lock()? {
                Some(lock) => open(lock, workspace, hints.journal.as_ref()),
                None => Ok(recorded(workspace)?.map_or(Taken::Busy, Taken::Held)),
            });
            // The lock is free meanwhile: another host may see more.
            let Some(opened) = old.unless_old(opened).await? else {
                continue;
            };
            match opened {
                Taken::Busy => {}
                Taken::Lease(mut lease) => {
                    lease.took_over = bell.is_some();
                    old.over();
                    return Ok(Taken::Lease(lease));
                }
                Taken::Held(_) => return Ok(opened),
            }
            // It is to make way, in any process.
            let idle = block_in_place(|| workspace.has_idle_server())?;
            if idle && bell.is_none() {
                bell = block_in_place(|| workspace.ring())?;
                fault::at("turn.ringing");
            }
            if !(hints.patient || idle) || began.elapsed() >= LOCK_WAIT {
                return Ok(Taken::Busy);
            }
            sleep(if idle { RING_POLL } else { LOCK_POLL }).await;
        }
    }

    async fn take_kept(
        workspace: &Workspace,
        idle: &IdleServers,
        known: Option<&JournalEnd>,
    ) -> Result<Option<Self>, StateError> {
        let Some(taken) = idle.take(workspace.id()).await else {
            return Ok(None);
        };
        let journal = block_in_place(|| {
            let lock = workspace.held_lock(taken.lock)?;
            lock.map(|lock| lock.open_journal(known)).transpose()
        })?;
        Ok(journal.map(|journal| Self {
            journal,
            server: Some(taken.server),
            took_over: false,
            predecessor: None,
        }))
    }

    /// The lock is lost, and closing its files may hang.
    pub(super) fn abandon(self) {
        guard::drop_elsewhere(self);
    }

    /// The turn is over and recorded: the workspace is anybody's.
    pub(super) async fn release(self, workspace: &Workspace, idle: Option<&IdleServers>) {
        drop(self.journal);
        if let (Some(idle), Some(server)) = (idle, self.server) {
            idle.keep(workspace.id(), server).await;
        }
    }
}

/// Reads of a journal that is older than known.
struct OldReads<'a> {
    metrics: &'a Metrics,
    since: Option<Instant>,
    pause: Duration,
}

impl<'a> OldReads<'a> {
    fn new(metrics: &'a Metrics) -> Self {
        Self {
            metrics,
            since: None,
            pause: OLD_READ_PAUSE,
        }
    }

    /// Returns `None` after a pause if the journal is to be read again.
    async fn unless_old<T>(
        &mut self,
        read: Result<T, StateError>,
    ) -> Result<Option<T>, StateError> {
        let error = match read {
            Err(error @ StateError::OldRead { .. }) => error,
            read => return read.map(Some),
        };
        if self.since.is_none() {
            tracing::warn!(%error, "reading the journal again");
        }
        let since = *self.since.get_or_insert_with(Instant::now);
        if since.elapsed() >= OLD_READ_WAIT {
            self.metrics.old_read(OldRead::Returned);
            return Err(error);
        }
        sleep(self.pause).await;
        self.pause = (2 * self.pause).min(OLD_READ_PAUSE_LIMIT);
        Ok(None)
    }

    /// The journal was opened.
    fn over(&self) {
        if self.since.is_some() {
            tracing::info!("the journal is as new as the pool has seen it");
            self.metrics.old_read(OldRead::Recovered);
        }
    }
}

/// By which the processes of the workspace's turns are known.
pub(super) fn tag(workspace: &Workspace) -> Tag {
    Tag {
        root: workspace.root_id(),
        workspace: workspace.id().to_owned(),
        path: workspace.dir().to_string_lossy().into_owned(),
        directory: workspace.directory(),
    }
}

fn recorded(workspace: &Workspace) -> Result<Option<Box<Unkillable>>, StateError> {
    let record = workspace.unkillable()?;
    Ok(read(workspace, &record)?.map(Box::new))
}

fn read(workspace: &Workspace, record: &File) -> Result<Option<Unkillable>, StateError> {
    let read = Unkillable::read(record);
    read.map_err(|error| workspace.state_error("read", "unkillable", error).into())
}

/// Before anything runs, what a guard and a worker that were killed together
/// have left must be gone. An attempt that has ended, or a server that its
/// guard has ended, left no processes, so mostly there is no need to look.
fn open(
    lock: WorkspaceLock,
    workspace: &Workspace,
    known: Option<&JournalEnd>,
) -> Result<Taken, StateError> {
    let lost_server = lock.has_lost_server()?;
    let record = workspace.unkillable()?;
    if let Some(unkillable) = read(workspace, &record)? {
        match unkillable.living().map(|living| tree::kill_known(&living)) {
            Some(left) if left.is_empty() => {}
            Some(_) => return Ok(Taken::Held(Box::new(unkillable))),
            None => tracing::warn!(
                %unkillable,
                "processes that could not be killed were left where this host can't see them;                  going on, as the workspace's lock is free"
            ),
        }
        clear(workspace, &record)?;
    }
    let journal = lock.open_journal(known)?;
    let mut predecessor = None;
    if journal.has_open_attempt()
        && let Some(open) = workspace.open_attempt()?
        && !workspace.is_gone(&open)?
    {
        predecessor = Predecessor::of(open, &guard::place());
    }
    if (lost_server || journal.has_open_attempt()) && !fault::is_on("sabotage.sight") {
        let killed = tree::kill_tagged(&tag(workspace));
        if killed.count > 0 {
            let killed = killed.count;
            tracing::warn!(killed, "ended what an earlier attempt had left");
        }
        if !killed.left.is_empty() {
            let unkillable = Unkillable::of(&killed.left);
            let written = unkillable.write(&record);
            written.map_err(|error| workspace.state_error("write", "unkillable", error))?;
            return Ok(Taken::Held(Box::new(unkillable)));
        }
    }
    if lost_server {
        journal.lock().forget_lost_server()?;
    }
    Ok(Taken::Lease(Box::new(Lease {
        journal,
        server: None,
        took_over: false,
        predecessor,
    })))
}

fn clear(workspace: &Workspace, record: &File) -> Result<(), StateError> {
    let cleared = Unkillable::clear(record);
    cleared.map_err(|error| workspace.state_error("cut", "unkillable", error).into())
}
