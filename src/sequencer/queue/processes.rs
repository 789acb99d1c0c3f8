//! The worker processes, as the sequencer sees them: who was heard when, what
//! runs there, and how many slots are free. Pure.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::held::Ticket;
use crate::homes::Disk;

/// Of processes in reports, no more are remembered.
const MOST_PROCESSES: usize = 1_000;

/// A process that has been silent for longer is not preferred: two and a half
/// heartbeats.
pub(super) const FRESH: Duration = Duration::from_secs(5);

/// A process that has been silent for longer is forgotten.
const REMEMBERED: Duration = Duration::from_secs(60);

/// For how long the report of a process that does not answer offers counts.
const OLDER_HEARD: Duration = Duration::from_secs(10);

/// A report may have been made before an offer was taken, and be heard so much later.
const CROSSING: Duration = Duration::from_secs(1);

/// A slot that has been free for so long has found the shared queue empty,
/// regardless of unanswered offers there.
const SETTLED: Duration = Duration::from_millis(200);

/// What a heartbeat reports of its process.
#[derive(Debug, Clone, Copy)]
pub(crate) struct WorkerReport<'a> {
    pub worker: &'a str,
    pub slots: usize,
    /// It takes offers: it does not drain and has all that it needs.
    pub serves: bool,
    /// Its private queue; `None` if it takes no offers there (now).
    pub offers_to: Option<&'a str>,
    /// What it runs, as pairs of workspace and turn id.
    pub running: &'a [(&'a str, &'a str)],
    /// Workspaces with a server that waits for the next turn.
    pub idle: &'a [&'a str],
    /// There are more than `idle` names.
    pub idle_is_cut: bool,
    /// It answers offers; older ones do not.
    pub answers: bool,
    /// The disk of its workspace root, in a pool without shared storage.
    pub disk: Option<&'a Disk>,
}

/// Workspace and turn id.
type TurnKey = (Arc<str>, Arc<str>);

#[derive(Debug)]
pub(super) struct Process {
    heard: Instant,
    serves: bool,
    offers_to: Option<Arc<str>>,
    slots: usize,
    /// An offer to it got no answer since its last heartbeat.
    doubted: bool,
    /// What it runs, and since when that is known.
    running: HashMap<TurnKey, Instant>,
    /// What it has ended: a report may have been made before that.
    ended: HashSet<TurnKey>,
    /// Private offers to it without an answer.
    offered: HashSet<Ticket>,
    /// Slots that were believed to be free when it declined an offer: what runs
    /// there has not been heard yet.
    unknown: usize,
    /// Since when a slot has been free.
    free_since: Option<Instant>,
}

impl Process {
    pub(super) fn has_room(&self) -> bool {
        self.room() > 0
    }

    fn room(&self) -> usize {
        let busy = self.running.len() + self.offered.len() + self.unknown;
        self.slots.saturating_sub(busy)
    }

    fn note_room(&mut self, now: Instant) {
        self.free_since = match self.has_room() {
            true => self.free_since.or(Some(now)),
            false => None,
        };
    }

    pub(super) fn was_heard(&self, now: Instant) -> bool {
        !self.doubted && now.saturating_duration_since(self.heard) < FRESH
    }

    pub(super) fn is_serving(&self, now: Instant) -> bool {
        self.serves && self.was_heard(now)
    }

    /// Until when its free slots may be about to take what lies in the shared queue.
    fn settles_at(&self, now: Instant) -> Instant {
        self.free_since.unwrap_or(now) + SETTLED
    }

    /// Its private queue, if an offer there is likely to be answered at once.
    pub(super) fn private_queue(&self, now: Instant) -> Option<&Arc<str>> {
        self.offers_to.as_ref().filter(|_| self.was_heard(now))
    }
}

/// Whether a turn that is offered to all would start at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Room {
    /// Not known: older workers do not report what they take, and without
    /// private queues a turn could not be given to the slot that gets free.
    Unknown,
    Free,
    /// Every slot of every process is taken.
    Full,
}

#[derive(Debug, Default)]
pub(super) struct Processes {
    by_worker: HashMap<Arc<str>, Process>,
    /// Offers in the shared queue without an answer, and since when.
    unanswered: BTreeSet<(Instant, Ticket)>,
    /// When a process that does not answer offers was heard last.
    older_heard: Option<Instant>,
    /// How long turns take, smoothed.
    pace: Option<Duration>,
}

impl Processes {
    /// Tickets have lost their meaning.
    pub(super) fn reset(&mut self) {
        self.unanswered.clear();
        for process in self.by_worker.values_mut() {
            process.offered.clear();
        }
    }

    pub(super) fn get(&self, worker: &str) -> Option<&Process> {
        self.by_worker.get(worker)
    }

    /// False if there are too many to remember this one.
    pub(super) fn report(&mut self, now: Instant, report: &WorkerReport<'_>) -> bool {
        if !report.answers {
            self.older_heard = Some(now);
        }
        self.by_worker.retain(|_, process| {
            // What is offered to it still has to be answered, or to fail.
            now.saturating_duration_since(process.heard) < REMEMBERED || !process.offered.is_empty()
        });
        let is_known = self.by_worker.contains_key(report.worker);
        if !is_known && self.by_worker.len() >= MOST_PROCESSES {
            return false;
        }
        let process = self.by_worker.entry(report.worker.into());
        let process = process.or_insert_with(|| Process {
            heard: now,
            serves: false,
            offers_to: None,
            slots: 0,
            doubted: false,
            running: HashMap::new(),
            ended: HashSet::new(),
            offered: HashSet::new(),
            unknown: 0,
            free_since: None,
        });
        process.heard = now;
        process.doubted = false;
        process.unknown = 0;
        process.serves = report.serves;
        process.slots = report.slots;
        if process.offers_to.as_deref() != report.offers_to {
            process.offers_to = report.offers_to.map(Arc::from);
        }
        let named = report.running.iter();
        let named: HashSet<TurnKey> = named.map(|(workspace, id)| key(workspace, id)).collect();
        process.ended.retain(|turn| named.contains(turn));
        process.running.retain(|turn, since| {
            named.contains(turn) || now.saturating_duration_since(*since) < CROSSING
        });
        for turn in named.difference(&process.ended) {
            process.running.entry(turn.clone()).or_insert(now);
        }
        process.note_room(now);
        true
    }

    /// Older workers were heard lately.
    pub(super) fn has_older(&self, now: Instant) -> bool {
        self.older_heard.is_some_and(|at| now < at + OLDER_HEARD)
    }

    pub(super) fn runs(&mut self, now: Instant, workspace: &str, turn_id: &str, worker: &str) {
        if let Some(process) = self.by_worker.get_mut(worker) {
            let key = key(workspace, turn_id);
            if !process.ended.contains(&key) {
                process.running.entry(key).or_insert(now);
            }
            process.note_room(now);
        }
    }

    /// `took`: `None` if that is not known.
    pub(super) fn ended(
        &mut self,
        now: Instant,
        workspace: &str,
        turn_id: &str,
        worker: &str,
        took: Option<Duration>,
    ) {
        if let Some(process) = self.by_worker.get_mut(worker) {
            let key = key(workspace, turn_id);
            if process.running.remove(&key).is_none() {
                process.unknown = process.unknown.saturating_sub(1);
            }
            process.ended.insert(key);
            process.note_room(now);
        }
        if let Some(took) = took {
            let before = self.pace.unwrap_or(took);
            self.pace = Some(before.mul_f64(0.8) + took.mul_f64(0.2));
        }
    }

    /// Whether a slot of that process is likely to be free within this time.
    pub(super) fn is_soon_free(&self, worker: &str, within: Duration) -> bool {
        let slots = self
            .by_worker
            .get(worker)
            .map_or(0, |process| process.slots);
        let slots = u32::try_from(slots).unwrap_or(u32::MAX).max(1);
        self.pace.is_some_and(|pace| pace / slots <= within)
    }

    pub(super) fn private_offer(&mut self, now: Instant, ticket: Ticket, worker: &str) {
        if let Some(process) = self.by_worker.get_mut(worker) {
            process.offered.insert(ticket);
            process.note_room(now);
        }
    }

    /// The private offer has an answer, of any kind.
    pub(super) fn private_answered(&mut self, now: Instant, ticket: Ticket, worker: &str) {
        if let Some(process) = self.by_worker.get_mut(worker) {
            process.offered.remove(&ticket);
            process.note_room(now);
        }
    }

    pub(super) fn private_declined(&mut self, now: Instant, ticket: Ticket, worker: &str) {
        self.private_answered(now, ticket, worker);
        if let Some(process) = self.by_worker.get_mut(worker) {
            process.unknown += process.room();
            process.note_room(now);
        }
    }

    /// The process does not answer: no offers go to it before its next heartbeat.
    pub(super) fn doubt(&mut self, worker: &str) {
        if let Some(process) = self.by_worker.get_mut(worker) {
            process.doubted = true;
        }
    }

    pub(super) fn shared_offer(&mut self, ticket: Ticket, since: Instant) {
        self.unanswered.insert((since, ticket));
    }

    pub(super) fn shared_answered(&mut self, ticket: Ticket, since: Instant) {
        self.unanswered.remove(&(since, ticket));
    }

    /// Offers in the shared queue that no worker is known to have taken.
    pub(super) fn unanswered(&self) -> usize {
        self.unanswered.len()
    }

    /// Since when the oldest offer in the shared queue has had no answer.
    pub(super) fn oldest_unanswered(&self) -> Option<Instant> {
        self.unanswered.first().map(|(since, _)| *since)
    }

    pub(super) fn room(&self, now: Instant) -> Room {
        if self.has_older(now) || !self.heard(now).any(|process| process.offers_to.is_some()) {
            return Room::Unknown;
        }
        let (mut settled, mut just_freed) = (0, 0);
        for process in self.serving(now) {
            match process.settles_at(now) <= now {
                true => settled += process.room(),
                false => just_freed += process.room(),
            }
        }
        // They take what lies in the shared queue first; a settled slot has left what lay there longer.
        let new = self.newly_unanswered(now).count();
        match settled > new || settled + just_freed > self.unanswered.len() {
            true => Room::Free,
            false => Room::Full,
        }
    }

    /// When slots that may be about to take shared offers count as free.
    pub(super) fn settles_at(&self, now: Instant) -> Option<Instant> {
        let free = self.serving(now).filter(|process| process.has_room());
        let settles = free.map(|process| process.settles_at(now)).min()?;
        let taken = self.newly_unanswered(now).next().map(|at| at + SETTLED);
        Some(match settles <= now {
            true => taken.unwrap_or(settles),
            false => settles,
        })
    }

    /// Since when offers have had no answer that a settled slot may be about to take.
    fn newly_unanswered(&self, now: Instant) -> impl Iterator<Item = Instant> {
        let all = self.unanswered.iter().map(|(since, _)| *since);
        all.skip_while(move |since| *since + SETTLED <= now)
    }

    /// Whether any process was heard lately.
    pub(super) fn are_there(&self, now: Instant) -> bool {
        self.heard(now).next().is_some()
    }

    /// The slots of the processes that take turns, and those that are free.
    pub(super) fn slots(&self, now: Instant) -> (usize, usize) {
        let serving = self.serving(now);
        serving.fold((0, 0), |(slots, free), process| {
            (slots + process.slots, free + process.room())
        })
    }

    /// The processes with free slots.
    pub(super) fn with_room(&self, now: Instant) -> Vec<Arc<str>> {
        let free = |(worker, process): (&Arc<str>, &Process)| {
            (process.is_serving(now) && process.has_room()).then(|| Arc::clone(worker))
        };
        self.by_worker.iter().filter_map(free).collect()
    }

    fn heard(&self, now: Instant) -> impl Iterator<Item = &Process> {
        let processes = self.by_worker.values();
        processes.filter(move |process| process.was_heard(now))
    }

    fn serving(&self, now: Instant) -> impl Iterator<Item = &Process> {
        let processes = self.by_worker.values();
        processes.filter(move |process| process.is_serving(now))
    }
}

fn key(workspace: &str, turn_id: &str) -> TurnKey {
    (workspace.into(), turn_id.into())
}

#[cfg(test)]
impl Processes {
    /// What is counted for a turn is what it says of itself.
    pub(crate) fn check(&self, ticket: Ticket, held: &super::held::Held) {
        if let Some(worker) = &held.offered_to
            && let Some(process) = self.by_worker.get(worker)
        {
            assert!(process.offered.contains(&ticket));
        }
        if let Some(since) = held.unanswered {
            assert!(self.unanswered.contains(&(since, ticket)));
        }
    }

    pub(crate) fn check_tickets(
        &self,
        turns: &std::collections::BTreeMap<Ticket, super::held::Held>,
    ) {
        for (worker, process) in &self.by_worker {
            for ticket in &process.offered {
                assert_eq!(turns[ticket].offered_to.as_ref(), Some(worker));
            }
        }
        for (since, ticket) in &self.unanswered {
            assert_eq!(turns[ticket].unanswered, Some(*since));
        }
    }
}
