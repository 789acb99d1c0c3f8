//! Which process keeps a server for a workspace, and whether it has room. Pure.
//!
//! A turn that finds the server of its workspace's last turn waiting skips a
//! cold start. So its offer goes to the private queue of the process that keeps
//! the server, if that process is known to have room. This is a preference and
//! nothing more: an offer that gets no answer goes to the shared queue.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::held::Ticket;

/// How many workspaces have a preferred process at most; the oldest go first.
pub(super) const MOST_KEPT: usize = 10_000;

/// Of processes in reports, no more are remembered.
const MOST_PROCESSES: usize = 1_000;

/// A process that has been silent for longer is not preferred: two and a half
/// heartbeats.
const FRESH: Duration = Duration::from_secs(5);

/// A process that has been silent for longer is forgotten.
const REMEMBERED: Duration = Duration::from_secs(60);

/// For how long the report of a process that does not answer offers counts.
const OLDER_HEARD: Duration = Duration::from_secs(10);

/// The guard while such a process is in the pool: older workers do not answer
/// offers, so what they take is known from their heartbeats only.
const GUARD_BESIDE_OLDER: Duration = Duration::from_secs(3);

/// How long a head waits for a full process at most: less than a cold start
/// costs elsewhere.
pub(super) const WAIT_FOR_ROOM: Duration = Duration::from_millis(500);

/// Where an offer goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Destination {
    /// To the process that keeps the workspace's server.
    Private {
        worker: Arc<str>,
        queue: Arc<str>,
    },
    Shared(WhyShared),
}

/// Why an offer goes to the shared queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhyShared {
    /// No process is known to keep a server for the workspace.
    NoServer,
    /// The process has no free slot.
    Full,
    /// The process has not been heard lately, or takes no offers now.
    Stale,
    /// Other turns have waited for too long.
    Guard,
    /// The private offer got no answer.
    NoWord,
    /// It was offered before.
    Repeat,
}

impl WhyShared {
    pub const ALL: [Self; 6] = [
        Self::NoServer,
        Self::Full,
        Self::Stale,
        Self::Guard,
        Self::NoWord,
        Self::Repeat,
    ];

    /// As metrics name it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NoServer => "none",
            Self::Full => "full",
            Self::Stale => "stale",
            Self::Guard => "guard",
            Self::NoWord => "no_word",
            Self::Repeat => "repeat",
        }
    }
}

/// What a heartbeat reports of its process.
#[derive(Debug, Clone, Copy)]
pub struct WorkerReport<'a> {
    pub worker: &'a str,
    pub slots: usize,
    /// Its private queue; `None` if it takes no offers there (now).
    pub offers_to: Option<&'a str>,
    /// What it runs, as pairs of workspace and turn id.
    pub running: &'a [(&'a str, &'a str)],
    /// Workspaces whose server waits for the next turn.
    pub idle: &'a [&'a str],
    /// There are more than `idle` names.
    pub idle_is_cut: bool,
    /// It answers offers; older ones do not.
    pub answers: bool,
}

/// Workspace and turn id.
type TurnKey = (Arc<str>, Arc<str>);

#[derive(Debug)]
struct Process {
    heard: Instant,
    offers_to: Option<Arc<str>>,
    slots: usize,
    /// An offer to it got no answer since its last heartbeat.
    doubted: bool,
    /// What it runs.
    running: HashSet<TurnKey>,
    /// What it has ended: a report may have been made before that.
    ended: HashSet<TurnKey>,
    /// Private offers to it without an answer.
    offered: HashSet<Ticket>,
    /// Heads that wait for one of its slots.
    awaited_by: BTreeSet<Ticket>,
}

impl Process {
    fn has_room(&self) -> bool {
        self.running.len() + self.offered.len() < self.slots
    }
}

#[derive(Debug)]
struct Kept {
    worker: Arc<str>,
    number: u64,
    /// The process's last heartbeat did not name it.
    missed: bool,
}

#[derive(Debug)]
pub(super) struct Affinity {
    /// How long others may be overtaken; zero: no process is preferred.
    guard: Duration,
    processes: HashMap<Arc<str>, Process>,
    /// By workspace.
    kept: HashMap<Arc<str>, Kept>,
    by_age: BTreeMap<u64, Arc<str>>,
    last_number: u64,
    /// Shared offers without an answer, and since when.
    unanswered: BTreeSet<(Instant, Ticket)>,
    /// When a process that does not answer offers was heard last.
    older_heard: Option<Instant>,
    /// How long turns take, smoothed.
    pace: Option<Duration>,
}

impl Affinity {
    pub fn new(guard: Duration) -> Self {
        Self {
            guard,
            processes: HashMap::new(),
            kept: HashMap::new(),
            by_age: BTreeMap::new(),
            last_number: 0,
            unanswered: BTreeSet::new(),
            older_heard: None,
            pace: None,
        }
    }

    /// Tickets mean nothing any more; which process keeps which server does.
    pub fn reset(&mut self) {
        self.unanswered.clear();
        for process in self.processes.values_mut() {
            process.offered.clear();
            process.awaited_by.clear();
        }
    }

    /// How many workspaces have a preferred process.
    pub fn kept(&self) -> usize {
        self.kept.len()
    }

    pub fn destination(&self, now: Instant, workspace: &str) -> Destination {
        let why = match self.kept.get(workspace) {
            None => WhyShared::NoServer,
            Some(_) if self.guard.is_zero() => WhyShared::NoServer,
            Some(kept) => match self.processes.get(&kept.worker) {
                Some(process) if process.is_fresh(now) => match &process.offers_to {
                    _ if self.is_guarded(now) => WhyShared::Guard,
                    _ if !process.has_room() => WhyShared::Full,
                    Some(queue) => {
                        return Destination::Private {
                            worker: Arc::clone(&kept.worker),
                            queue: Arc::clone(queue),
                        };
                    }
                    None => WhyShared::Stale,
                },
                _ => WhyShared::Stale,
            },
        };
        Destination::Shared(why)
    }

    /// Whether others have waited for so long that no turn may overtake them.
    fn is_guarded(&self, now: Instant) -> bool {
        let beside_older = self.older_heard.is_some_and(|at| now < at + OLDER_HEARD);
        let guard = match beside_older {
            true => self.guard.max(GUARD_BESIDE_OLDER),
            false => self.guard,
        };
        let oldest = self.unanswered.first();
        oldest.is_some_and(|(since, _)| now.saturating_duration_since(*since) >= guard)
    }

    pub fn private_offer(&mut self, ticket: Ticket, worker: &str) {
        if let Some(process) = self.processes.get_mut(worker) {
            process.offered.insert(ticket);
        }
    }

    /// The private offer has an answer, whichever.
    pub fn answered(&mut self, ticket: Ticket, worker: &str) {
        if let Some(process) = self.processes.get_mut(worker) {
            process.offered.remove(&ticket);
        }
    }

    /// The offer did not arrive, or got no answer.
    pub fn failed(&mut self, ticket: Ticket, worker: &str, workspace: &str) {
        self.answered(ticket, worker);
        self.forget(workspace);
        if let Some(process) = self.processes.get_mut(worker) {
            process.doubted = true;
        }
    }

    pub fn shared_offer(&mut self, ticket: Ticket, since: Instant) {
        self.unanswered.insert((since, ticket));
    }

    pub fn shared_answered(&mut self, ticket: Ticket, since: Instant) {
        self.unanswered.remove(&(since, ticket));
    }

    /// The process has the turn of that workspace now: a server that another
    /// process keeps makes way.
    pub fn runs(&mut self, workspace: &str, turn_id: &str, worker: &str) {
        if let Some(process) = self.processes.get_mut(worker) {
            let key = key(workspace, turn_id);
            if !process.ended.contains(&key) {
                process.running.insert(key);
            }
        }
        if self
            .worker_of(workspace)
            .is_some_and(|kept| &**kept != worker)
        {
            self.forget(workspace);
        }
    }

    /// The process has ended a turn there, and keeps the server or not. The
    /// turn took so long, if that is known.
    pub fn ended(
        &mut self,
        workspace: &str,
        turn_id: &str,
        worker: &str,
        warm: bool,
        took: Option<Duration>,
    ) {
        if let Some(process) = self.processes.get_mut(worker) {
            let key = key(workspace, turn_id);
            process.running.remove(&key);
            process.ended.insert(key);
        }
        if let Some(took) = took {
            let before = self.pace.unwrap_or(took);
            self.pace = Some(before.mul_f64(0.8) + took.mul_f64(0.2));
        }
        match warm {
            true => self.keep(workspace.into(), worker.into()),
            false => self.forget(workspace),
        }
    }

    pub fn heard(&mut self, now: Instant, report: &WorkerReport<'_>) {
        if !report.answers {
            self.older_heard = Some(now);
        }
        self.processes.retain(|_, process| {
            // What is offered to it still has to be answered, or to fail.
            now.saturating_duration_since(process.heard) < REMEMBERED
                || !process.offered.is_empty()
                || !process.awaited_by.is_empty()
        });
        let is_known = self.processes.contains_key(report.worker);
        if !is_known && self.processes.len() >= MOST_PROCESSES {
            return;
        }
        let worker: Arc<str> = report.worker.into();
        let process = (self.processes.entry(Arc::clone(&worker))).or_insert_with(|| Process {
            heard: now,
            offers_to: None,
            slots: 0,
            doubted: false,
            running: HashSet::new(),
            ended: HashSet::new(),
            offered: HashSet::new(),
            awaited_by: BTreeSet::new(),
        });
        process.heard = now;
        process.doubted = false;
        process.slots = report.slots;
        if process.offers_to.as_deref() != report.offers_to {
            process.offers_to = report.offers_to.map(Arc::from);
        }
        let named = report.running.iter();
        let named: HashSet<TurnKey> = named.map(|(workspace, id)| key(workspace, id)).collect();
        process.ended.retain(|turn| named.contains(turn));
        process.running = named.difference(&process.ended).cloned().collect();
        if report.offers_to.is_some() {
            self.compare(now, &worker, report);
        }
    }

    /// What the process reports to keep, beside what it was believed to keep.
    fn compare(&mut self, now: Instant, worker: &Arc<str>, report: &WorkerReport<'_>) {
        let busy = report.running.iter().map(|(workspace, _)| *workspace);
        let named: HashSet<&str> = report.idle.iter().copied().chain(busy).collect();
        let mut gone = Vec::new();
        for (workspace, kept) in &mut self.kept {
            if kept.worker != *worker {
                continue;
            }
            let missed = !report.idle_is_cut && !named.contains(&**workspace);
            // One report may have crossed with a turn's end.
            if missed && kept.missed {
                gone.push(Arc::clone(workspace));
            }
            kept.missed = missed;
        }
        gone.iter().for_each(|workspace| self.forget(workspace));
        // The newest last, so that it is dropped last.
        for workspace in report.idle.iter().rev() {
            let kept_by = self.worker_of(workspace);
            let kept_by = kept_by.and_then(|kept_by| self.processes.get(kept_by));
            if !kept_by.is_some_and(|process| process.is_fresh(now)) {
                self.keep((*workspace).into(), Arc::clone(worker));
            }
        }
    }

    fn worker_of(&self, workspace: &str) -> Option<&Arc<str>> {
        self.kept.get(workspace).map(|kept| &kept.worker)
    }

    fn keep(&mut self, workspace: Arc<str>, worker: Arc<str>) {
        self.last_number += 1;
        let kept = Kept {
            worker,
            number: self.last_number,
            missed: false,
        };
        self.by_age.insert(kept.number, Arc::clone(&workspace));
        if let Some(before) = self.kept.insert(workspace, kept) {
            self.by_age.remove(&before.number);
        }
        while self.kept.len() > MOST_KEPT
            && let Some((_, oldest)) = self.by_age.pop_first()
        {
            self.kept.remove(&oldest);
        }
    }

    fn forget(&mut self, workspace: &str) {
        if let Some(kept) = self.kept.remove(workspace) {
            self.by_age.remove(&kept.number);
        }
    }

    /// Until when the head may wait for a slot of its process; `None` if a slot
    /// there is not likely to be free in time.
    pub fn wait_for_room(
        &mut self,
        now: Instant,
        workspace: &str,
        ticket: Ticket,
    ) -> Option<Instant> {
        let worker = &self.kept.get(workspace)?.worker;
        let process = self.processes.get_mut(worker)?;
        let slots = u32::try_from(process.slots).unwrap_or(u32::MAX).max(1);
        if self.pace? / slots > WAIT_FOR_ROOM {
            return None;
        }
        process.awaited_by.insert(ticket);
        Some(now + WAIT_FOR_ROOM)
    }

    /// The head waits for no slot any more.
    pub fn waits_no_more(&mut self, ticket: Ticket) {
        for process in self.processes.values_mut() {
            process.awaited_by.remove(&ticket);
        }
    }

    /// The next head that waits for that process, if it has room.
    pub fn next_for(&self, worker: &str, after: Option<Ticket>) -> Option<Ticket> {
        let process = self.processes.get(worker)?;
        let mut waiting = process.awaited_by.iter().copied();
        let next = waiting.find(|ticket| after.is_none_or(|after| *ticket > after))?;
        process.has_room().then_some(next)
    }
}

fn key(workspace: &str, turn_id: &str) -> TurnKey {
    (workspace.into(), turn_id.into())
}

impl Process {
    fn is_fresh(&self, now: Instant) -> bool {
        !self.doubted
            && self.offers_to.is_some()
            && now.saturating_duration_since(self.heard) < FRESH
    }
}

#[cfg(test)]
impl Affinity {
    /// What is counted for a turn is what it says of itself.
    pub fn check(&self, ticket: Ticket, held: &super::held::Held) {
        if let Some(worker) = &held.offered_to
            && let Some(process) = self.processes.get(worker)
        {
            assert!(process.offered.contains(&ticket));
        }
        if let Some(since) = held.unanswered {
            assert!(self.unanswered.contains(&(since, ticket)));
        }
    }

    pub fn check_tickets(&self, turns: &BTreeMap<Ticket, super::held::Held>) {
        for (worker, process) in &self.processes {
            for ticket in &process.offered {
                assert_eq!(turns[ticket].offered_to.as_ref(), Some(worker));
            }
            for ticket in &process.awaited_by {
                assert!(turns[ticket].awaits_room.is_some());
            }
        }
        for (since, ticket) in &self.unanswered {
            assert_eq!(turns[ticket].unanswered, Some(*since));
        }
        assert_eq!(self.kept.len(), self.by_age.len());
    }
}
