//! The turns that this process has taken and not settled yet.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;

use crate::amqp::messages::Running;
use crate::event::Tokens;
use crate::request::{TurnId, TurnRequest, WorkspaceId};
use crate::turn::{Stop, StopHandle};

type Key = (WorkspaceId, TurnId);

#[derive(Debug, Clone, Default)]
pub(crate) struct RunningTurns(Arc<Mutex<HashMap<Key, Taken>>>);

#[derive(Debug, Clone)]
struct Taken {
    stop: StopHandle,
    attempt: Arc<AtomicU32>,
    spent: Arc<Mutex<Option<Tokens>>>,
    since: Timestamp,
}

/// A turn that is this process's, until it is dropped.
#[derive(Debug)]
pub(crate) struct Entry {
    turns: RunningTurns,
    key: Key,
    taken: Taken,
}

impl RunningTurns {
    /// `None` if the turn is here already: a second offer of it.
    pub(crate) fn enter(&self, request: &TurnRequest) -> Option<Entry> {
        let key = (request.workspace.clone(), request.turn_id.clone());
        let taken = Taken {
            stop: StopHandle::new(),
            attempt: Arc::new(AtomicU32::new(0)),
            spent: Arc::default(),
            since: Timestamp::now(),
        };
        let mut turns = self.lock();
        if turns.contains_key(&key) {
            return None;
        }
        turns.insert(key.clone(), taken.clone());
        Some(Entry {
            turns: self.clone(),
            key,
            taken,
        })
    }

    /// Stops every turn of that id, in that workspace if one is named; for
    /// another turn, if given. Returns the workspaces.
    pub(crate) fn cancel(
        &self,
        turn_id: &str,
        workspace: Option<&str>,
        superseded_by: Option<&str>,
    ) -> Vec<WorkspaceId> {
        let turns = self.lock();
        let meant = turns.iter().filter(|((in_workspace, id), _)| {
            id.as_str() == turn_id && workspace.is_none_or(|name| name == in_workspace.as_str())
        });
        meant
            .map(|((workspace, _), taken)| {
                taken.stop.cancel(superseded_by.map(str::to_owned));
                workspace.clone()
            })
            .collect()
    }

    /// The worker can't wait for them any longer.
    pub(crate) fn cut(&self) {
        for taken in self.lock().values() {
            taken.stop.stop(Stop::Shutdown);
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.lock().len()
    }

    pub(crate) fn keys(&self) -> Vec<(WorkspaceId, TurnId)> {
        self.lock().keys().cloned().collect()
    }

    /// For heartbeats.
    pub(crate) fn snapshot(&self) -> Vec<Running> {
        let turns = self.lock();
        turns
            .iter()
            .map(|((workspace, turn_id), taken)| Running {
                workspace: workspace.as_str().to_owned(),
                turn_id: turn_id.as_str().to_owned(),
                attempt: taken.attempt.load(Ordering::Relaxed),
                started_at: taken.since,
                spent: *taken.spent.lock().unwrap_or_else(PoisonError::into_inner),
            })
            .collect()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Taken>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entry {
    pub(crate) fn turn_id(&self) -> &str {
        let (_, turn_id) = &self.key;
        turn_id.as_str()
    }

    pub(crate) fn stop_handle(&self) -> &StopHandle {
        &self.taken.stop
    }

    /// As codex has reported it.
    pub(crate) fn spent(&self, so_far: Tokens) {
        let mut spent = self
            .taken
            .spent
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *spent = Some(so_far);
    }

    /// Known from its events, as soon as there are any.
    pub(crate) fn in_attempt(&self, attempt: u32) {
        self.taken.attempt.store(attempt, Ordering::Relaxed);
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.turns.lock().remove(&self.key);
    }
}
