//! Having the workspace for one turn: its lock, its journal, and the server
//! that an earlier turn has left there.

use std::time::Duration;

use tokio::task::block_in_place;
use tokio::time::{Instant, sleep};

use crate::codex::app_server::{IdleServers, Server};
use crate::fault;
use crate::guard::{TAG_VARIABLE, tree};
use crate::workspace::{LockedJournal, StateError, Workspace, WorkspaceLock};

/// A dying guard needs a moment to let go of the lock, and one whose server
/// waits for a turn to end that first.
const LOCK_WAIT: Duration = Duration::from_secs(2);
const LOCK_POLL: Duration = Duration::from_millis(50);
/// While a server makes way.
const RING_POLL: Duration = Duration::from_millis(10);

#[derive(Debug)]
pub(super) struct Hold {
    pub journal: LockedJournal,
    pub server: Option<Server>,
}

impl Hold {
    /// Takes the workspace; nothing where somebody else has it. `patient`:
    /// whether to wait a little for that.
    pub async fn take(
        workspace: &Workspace,
        idle: Option<&IdleServers>,
        patient: bool,
    ) -> Result<Option<Self>, StateError> {
        if let Some(idle) = idle
            && let Some(hold) = Self::take_kept(workspace, idle).await?
        {
            return Ok(Some(hold));
        }
        let (began, mut bell) = (Instant::now(), None);
        loop {
            let opened = block_in_place(|| {
                let lock = workspace.try_lock()?;
                lock.map(|lock| open(lock, workspace)).transpose()
            })?;
            if let Some(journal) = opened {
                let server = None;
                return Ok(Some(Self { journal, server }));
            }
            // It is to make way, whoever's it is.
            let idle = block_in_place(|| workspace.has_idle_server())?;
            if idle && bell.is_none() {
                bell = block_in_place(|| workspace.ring())?;
                fault::at("turn.ringing");
            }
            if !(patient || idle) || began.elapsed() >= LOCK_WAIT {
                return Ok(None);
            }
            sleep(if idle { RING_POLL } else { LOCK_POLL }).await;
        }
    }

    async fn take_kept(
        workspace: &Workspace,
        idle: &IdleServers,
    ) -> Result<Option<Self>, StateError> {
        let Some(taken) = idle.take(workspace.id()).await else {
            return Ok(None);
        };
        let journal = block_in_place(|| {
            let lock = workspace.held_lock(taken.lock)?;
            lock.map(WorkspaceLock::open_journal).transpose()
        })?;
        Ok(journal.map(|journal| Self {
            journal,
            server: Some(taken.server),
        }))
    }

    /// The turn is over and recorded: the workspace is anybody's.
    pub async fn release(self, workspace: &Workspace, idle: Option<&IdleServers>) {
        drop(self.journal);
        if let (Some(idle), Some(server)) = (idle, self.server) {
            idle.keep(workspace.id(), server).await;
        }
    }
}

/// Before anything runs, what a guard and a worker that were killed together
/// have left must be gone. An attempt that has ended, or a server that its
/// guard has ended, left nothing, so mostly there is nothing to look for.
fn open(lock: WorkspaceLock, workspace: &Workspace) -> Result<LockedJournal, StateError> {
    let lost_server = lock.has_lost_server()?;
    let journal = lock.open_journal()?;
    if lost_server || journal.has_open_attempt() {
        let dir = workspace.dir().to_string_lossy();
        let killed = tree::kill_tagged(TAG_VARIABLE, &dir);
        if killed > 0 {
            tracing::warn!(killed, "ended what an earlier attempt had left");
        }
    }
    if lost_server {
        journal.lock().forget_lost_server()?;
    }
    Ok(journal)
}
