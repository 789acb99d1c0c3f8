//! The durable marks of cancels: written for a turn's next attempt to see, and
//! looked for, as a cancel may have come while this process was disconnected.
//!
//! All of it waits for the disk, which may hang. So the tasks that hear cancels
//! or send heartbeats only ask for it here. There is one job at a time for each
//! workspace: a folder that hangs keeps one thread, and holds up no other's marks.

use std::collections::{BTreeMap, HashMap, VecDeque};

use tokio::sync::{mpsc, watch};
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::{Duration, MissedTickBehavior, interval};

use super::running::RunningTurns;
use crate::error::with_sources;
use crate::request::WorkspaceId;
use crate::turn::NotStarted;
use crate::workspace::{CancelMark, Root};

/// How often the marks of what runs here are looked for.
const LOOK: Duration = Duration::from_secs(10);
/// Marks that are asked for and not taken over yet. One that finds no room is
/// asked for again, with the sequencer's next cancel.
const ASKED: usize = 1_000;

/// A turn that was cancelled here while it ran.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Cancelled {
    pub workspace: WorkspaceId,
    pub turn_id: String,
    pub superseded_by: Option<String>,
}

/// Asks for marks. Never waits for the disk.
#[derive(Debug)]
pub(super) struct CancelMarks {
    asked: mpsc::Sender<Ask>,
    unwritten: watch::Receiver<usize>,
}

#[derive(Debug)]
enum Ask {
    Write(Cancelled),
    Look,
}

/// Does what [`CancelMarks`] asks for.
#[derive(Debug)]
pub(super) struct MarkKeeper {
    root: Root,
    running: RunningTurns,
    asked: mpsc::Receiver<Ask>,
    to_write: VecDeque<Cancelled>,
    unwritten: watch::Sender<usize>,
    jobs: JoinSet<Done>,
    busy: HashMap<WorkspaceId, Job>,
}

#[derive(Debug)]
struct Job {
    id: Id,
    writes: bool,
    /// Looks that have found it at work.
    looks: u32,
}

#[derive(Debug)]
enum Done {
    Written(Result<(), NotStarted>, Cancelled),
    Looked(Vec<(String, Result<Option<CancelMark>, NotStarted>)>),
}

impl CancelMarks {
    pub(super) fn of(root: Root, running: RunningTurns) -> (Self, MarkKeeper) {
        let (ask, asked) = mpsc::channel(ASKED);
        let (unwritten, seen) = watch::channel(0);
        let marks = Self {
            asked: ask,
            unwritten: seen,
        };
        let keeper = MarkKeeper {
            root,
            running,
            asked,
            to_write: VecDeque::new(),
            unwritten,
            jobs: JoinSet::new(),
            busy: HashMap::new(),
        };
        (marks, keeper)
    }

    /// For the next attempt to see, should this one end without recording its end.
    pub(super) fn write(&self, cancelled: Cancelled) {
        self.ask(Ask::Write(cancelled));
    }

    /// Looks for the marks of all that runs here.
    pub(super) fn look(&self) {
        self.ask(Ask::Look);
    }

    fn ask(&self, ask: Ask) {
        if let Err(error) = self.asked.try_send(ask) {
            tracing::warn!(%error, "too many cancel marks are asked for");
        }
    }

    /// Completes when no mark is left to be written.
    pub(super) async fn written(&self) {
        let mut unwritten = self.unwritten.clone();
        // It ends with an error only together with the keeper.
        let _ = unwritten
            .wait_for(|count| *count == 0 && self.asked.capacity() == ASKED)
            .await;
    }
}

impl MarkKeeper {
    /// Works until it is dropped.
    pub(super) async fn run(mut self) {
        let mut ticks = interval(LOOK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                Some(ask) = self.asked.recv() => match ask {
                    Ask::Write(cancelled) => self.queue(cancelled),
                    Ask::Look => self.look(),
                },
                _ = ticks.tick() => {
                    self.report_hanging();
                    self.look();
                }
                Some(done) = self.jobs.join_next_with_id() => self.done(done),
            }
            self.write();
            let writing = self.busy.values().filter(|job| job.writes).count();
            self.unwritten.send_replace(self.to_write.len() + writing);
        }
    }

    /// Sequencers repeat a cancel as long as its turn runs: once is enough.
    fn queue(&mut self, cancelled: Cancelled) {
        let same = |other: &Cancelled| {
            (&other.workspace, &other.turn_id) == (&cancelled.workspace, &cancelled.turn_id)
        };
        if !self.to_write.iter().any(same) {
            self.to_write.push_back(cancelled);
        }
    }

    fn write(&mut self) {
        for cancelled in std::mem::take(&mut self.to_write) {
            if self.busy.contains_key(&cancelled.workspace) {
                self.to_write.push_back(cancelled);
                continue;
            }
            let (root, workspace) = (self.root.clone(), cancelled.workspace.clone());
            self.start(workspace, true, move || {
                Done::Written(write(&root, &cancelled), cancelled)
            });
        }
    }

    fn look(&mut self) {
        let mut turns: BTreeMap<WorkspaceId, Vec<String>> = BTreeMap::new();
        for (workspace, turn_id) in self.running.keys() {
            let of_workspace = turns.entry(workspace).or_default();
            of_workspace.push(turn_id.as_str().to_owned());
        }
        turns.retain(|workspace, _| !self.busy.contains_key(workspace));
        for (workspace, turns) in turns {
            let (root, name) = (self.root.clone(), workspace.clone());
            self.start(workspace, false, move || {
                let found = turns.into_iter().map(|turn_id| {
                    let mark = find(&root, &name, &turn_id);
                    (turn_id, mark)
                });
                Done::Looked(found.collect())
            });
        }
    }

    fn start(
        &mut self,
        workspace: WorkspaceId,
        writes: bool,
        job: impl FnOnce() -> Done + Send + 'static,
    ) {
        let id = self.jobs.spawn_blocking(job).id();
        let job = Job {
            id,
            writes,
            looks: 0,
        };
        self.busy.insert(workspace, job);
    }

    fn done(&mut self, done: Result<(Id, Done), JoinError>) {
        let id = match &done {
            Ok((id, _)) => *id,
            Err(error) => error.id(),
        };
        let job = self.busy.iter().find(|(_, job)| job.id == id);
        let Some((workspace, job)) = job
            .map(|(name, _)| name.clone())
            .and_then(|name| self.busy.remove_entry(&name))
        else {
            return;
        };
        if job.looks > 1 {
            tracing::info!(%workspace, "the disk answers again");
        }
        match done {
            Ok((_, Done::Written(Ok(()), _))) => {}
            Ok((_, Done::Written(Err(error), Cancelled { turn_id, .. }))) => {
                let error = with_sources(&error);
                tracing::error!(error, turn_id, "can't keep the cancel");
            }
            Ok((_, Done::Looked(found))) => {
                for (turn_id, mark) in found {
                    self.found(&workspace, &turn_id, mark);
                }
            }
            Err(error) => tracing::error!(%error, %workspace, "a look for cancels failed"),
        }
    }

    fn found(
        &self,
        workspace: &WorkspaceId,
        turn_id: &str,
        mark: Result<Option<CancelMark>, NotStarted>,
    ) {
        match mark {
            Ok(Some(mark)) => {
                let (workspace, by) = (Some(workspace.as_str()), mark.superseded_by.as_deref());
                drop(self.running.cancel(turn_id, workspace, by));
            }
            Ok(None) => {}
            Err(error) => {
                let error = with_sources(&error);
                tracing::warn!(error, %workspace, "can't look for missed cancels");
            }
        }
    }

    fn report_hanging(&mut self) {
        for (workspace, job) in &mut self.busy {
            job.looks += 1;
            // The second look: it has hung for one interval at least.
            if job.looks == 2 {
                tracing::warn!(%workspace, "the disk has not answered for {} s; cancels are heard, but \
                    not recorded", LOOK.as_secs());
            }
        }
    }
}

fn write(root: &Root, cancelled: &Cancelled) -> Result<(), NotStarted> {
    let workspace = root.workspace(cancelled.workspace.as_str())?;
    let by = cancelled.superseded_by.as_deref();
    workspace.claims().mark_cancelled(&cancelled.turn_id, by)?;
    Ok(())
}

fn find(
    root: &Root,
    workspace: &WorkspaceId,
    turn_id: &str,
) -> Result<Option<CancelMark>, NotStarted> {
    let workspace = root.workspace(workspace.as_str())?;
    Ok(workspace.claims().cancel_mark(turn_id)?)
}
