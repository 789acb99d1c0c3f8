//! Where a head is offered: to the process that keeps its workspace's server, to
//! the process with a newly free slot, or to all. Pure.
//!
//! A turn that finds the server of its workspace's last turn waiting skips a
//! cold start. So its offer goes to the private queue of the process that keeps
//! the server, if that process is known to have room. While no process has room,
//! heads wait here, and each slot that gets free is offered the oldest head with a
//! server there, or the oldest of all if that one has waited for longer by
//! more than the guard. An offer stays a hint: one that gets no answer goes to
//! the shared queue.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::held::Ticket;
use super::processes::{FRESH, Process, Processes, Room, WorkerReport};
use super::waiting_heads::{Group, Waiting, WaitingHead};
use crate::labels::WhyShared;

/// How many workspaces have a preferred process at most; the oldest go first.
pub(super) const MOST_KEPT: usize = 10_000;

/// The guard while older workers are in the pool: they do not answer offers, so
/// what they take is known from their heartbeats only.
const GUARD_BESIDE_OLDER: Duration = Duration::from_secs(3);

/// How long a head waits for its process at most while another one has room:
/// less than a cold start costs there.
pub(super) const WAIT_FOR_ROOM: Duration = Duration::from_millis(500);

/// After this a head that waits is looked at again: processes may have gone.
pub(super) const LOOK_AGAIN: Duration = FRESH;

/// Where an offer goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Destination {
    /// To one process: it keeps the workspace's server, or has a slot that has
    /// just got free.
    Private {
        worker: Arc<str>,
        queue: Arc<str>,
    },
    Shared(WhyShared),
}

impl Destination {
    /// Returns `None` if it is one process.
    pub(crate) fn why_shared(&self) -> Option<WhyShared> {
        match self {
            Self::Private { .. } => None,
            Self::Shared(why) => Some(*why),
        }
    }
}

/// What becomes of a head that could be offered.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Placement {
    Offer(Destination),
    /// It waits for a slot, and is looked at again at this time.
    Wait(Instant),
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
    pub processes: Processes,
    /// By workspace.
    kept: HashMap<Arc<str>, Kept>,
    by_age: BTreeMap<u64, Arc<str>>,
    last_number: u64,
    waiting: Waiting,
}

impl Affinity {
    pub(super) fn new(guard: Duration) -> Self {
        Self {
            guard,
            processes: Processes::default(),
            kept: HashMap::new(),
            by_age: BTreeMap::new(),
            last_number: 0,
            waiting: Waiting::default(),
        }
    }

    /// Tickets have lost their meaning; which process keeps which server has not.
    pub(super) fn reset(&mut self) {
        self.processes.reset();
        self.waiting.clear();
    }

    /// All slots of the processes, and how many turns more than free slots there are
    /// for them: negative while slots remain free.
    pub(super) fn surplus(&self, now: Instant) -> (usize, isize) {
        let (slots, free) = self.processes.slots(now);
        let turns = self.processes.unanswered() + self.waiting.len();
        (slots, turns.cast_signed() - free.cast_signed())
    }

    /// How many workspaces have a preferred process.
    #[cfg(test)]
    pub(super) fn kept(&self) -> usize {
        self.kept.len()
    }

    fn room(&self, now: Instant) -> Room {
        match self.guard.is_zero() {
            true => Room::Unknown,
            false => self.processes.room(now),
        }
    }

    /// The process that keeps the workspace's server, if offers to it are
    /// likely to be answered.
    fn preferred(&self, now: Instant, workspace: &str) -> Result<Preferred<'_>, WhyShared> {
        let kept = self.kept.get(workspace);
        let kept = kept.filter(|_| !self.guard.is_zero());
        let worker = &kept.ok_or(WhyShared::NoServer)?.worker;
        let process = self.processes.get(worker).ok_or(WhyShared::Stale)?;
        let queue = process.private_queue(now).ok_or(WhyShared::Stale)?;
        Ok(Preferred {
            worker,
            queue,
            process,
        })
    }

    /// Decides for a head that could be offered now. `since`: when it started to
    /// wait, if it does.
    pub(super) fn place(
        &mut self,
        now: Instant,
        workspace: &str,
        ticket: Ticket,
        since: Option<Instant>,
    ) -> Placement {
        let (room, preferred) = (self.room(now), self.preferred(now, workspace));
        let why = match &preferred {
            Ok(_) if room == Room::Unknown && self.is_guarded(now) => WhyShared::Guard,
            Ok(preferred) if !preferred.process.has_room() => WhyShared::Full,
            Ok(preferred) if room != Room::Full => {
                return Placement::Offer(preferred.destination());
            }
            Ok(_) => WhyShared::Full,
            Err(why) => *why,
        };
        let group: Group = preferred.as_ref().ok().map(|it| Arc::clone(it.worker));
        let since = since.unwrap_or(now);
        let patience = match &group {
            Some(worker) if why == WhyShared::Full => self.patience(worker),
            _ => Duration::ZERO,
        };
        let mut until = since + patience;
        if room == Room::Full && until <= now {
            until = now + LOOK_AGAIN;
        }
        if until <= now {
            return Placement::Offer(Destination::Shared(why));
        }
        self.waiting.insert(group, WaitingHead { since, ticket });
        Placement::Wait(until)
    }

    /// The head waits: no process is there that an offer could reach.
    pub(super) fn wait(
        &mut self,
        now: Instant,
        ticket: Ticket,
        since: Option<Instant>,
    ) -> Placement {
        let since = since.unwrap_or(now);
        self.waiting.insert(None, WaitingHead { since, ticket });
        Placement::Wait(now + LOOK_AGAIN)
    }

    /// How long a head of the process waits for it while others have room.
    fn patience(&self, worker: &str) -> Duration {
        match self.processes.is_soon_free(worker, WAIT_FOR_ROOM) {
            true => WAIT_FOR_ROOM,
            false => Duration::ZERO,
        }
    }

    /// The head waits for no slot any more.
    pub(super) fn waits_no_more(&mut self, ticket: Ticket) {
        self.waiting.remove(ticket);
    }

    /// The waiting head that the process's free slot is for, and its way there.
    pub(super) fn next_for(&self, now: Instant, worker: &str) -> Option<(Ticket, Destination)> {
        let process = self.processes.get(worker)?;
        if !process.is_serving(now) || !process.has_room() {
            return None;
        }
        let own = self.waiting.first(&Some(worker.into()));
        let next = match self.room(now) {
            Room::Full => return None,
            Room::Unknown => own,
            Room::Free => {
                let others = self.waiting.firsts();
                let others = others.filter(|(group, head)| self.may_leave(now, group, *head));
                let oldest = others.map(|(_, head)| head).min();
                let passes = |own: &WaitingHead| {
                    oldest.is_none_or(|oldest| own.since <= oldest.since + self.guard)
                };
                own.filter(passes).or(oldest)
            }
        }?;
        let to = match process.private_queue(now) {
            Some(queue) => Destination::Private {
                worker: worker.into(),
                queue: Arc::clone(queue),
            },
            None => Destination::Shared(WhyShared::Full),
        };
        Some((next.ticket, to))
    }

    /// When slots that are free count as such, if heads wait for that.
    pub(super) fn slots_settle(&self, now: Instant) -> Option<Instant> {
        let waits = !self.waiting.is_empty() && self.room(now) == Room::Full;
        waits.then(|| self.processes.settles_at(now)).flatten()
    }

    /// Whether the head waits no longer for the process that keeps its server.
    fn may_leave(&self, now: Instant, group: &Group, head: WaitingHead) -> bool {
        let process = group
            .as_deref()
            .and_then(|worker| self.processes.get(worker));
        match (group, process) {
            (Some(worker), Some(process)) if process.private_queue(now).is_some() => {
                head.since + self.patience(worker) <= now
            }
            _ => true,
        }
    }

    /// Whether others have waited for so long that no turn may overtake them.
    fn is_guarded(&self, now: Instant) -> bool {
        let guard = match self.processes.has_older(now) {
            true => self.guard.max(GUARD_BESIDE_OLDER),
            false => self.guard,
        };
        let oldest = self.processes.oldest_unanswered();
        oldest.is_some_and(|since| now.saturating_duration_since(since) >= guard)
    }

    /// The private offer did not arrive, or got no answer.
    pub(super) fn failed(&mut self, now: Instant, ticket: Ticket, worker: &str, workspace: &str) {
        self.processes.private_answered(now, ticket, worker);
        self.processes.doubt(worker);
        self.forget(workspace);
    }

    /// The process has the turn of that workspace now: a server that another
    /// process keeps makes way.
    pub(super) fn runs(&mut self, now: Instant, workspace: &str, turn_id: &str, worker: &str) {
        self.processes.runs(now, workspace, turn_id, worker);
        if self
            .worker_of(workspace)
            .is_some_and(|kept| &**kept != worker)
        {
            self.forget(workspace);
        }
    }

    /// A turn has ended there, and its server waits for the next one or not.
    pub(super) fn keeps(&mut self, workspace: &str, worker: &str, warm: bool) {
        match warm {
            true => self.keep(workspace.into(), worker.into()),
            false => self.forget(workspace),
        }
    }

    pub(super) fn heard(&mut self, now: Instant, report: &WorkerReport<'_>) {
        if self.processes.report(now, report) && report.offers_to.is_some() {
            self.compare(now, &report.worker.into(), report);
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
            if kept_by.is_none_or(|process| process.private_queue(now).is_none()) {
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
}

struct Preferred<'a> {
    worker: &'a Arc<str>,
    queue: &'a Arc<str>,
    process: &'a Process,
}

impl Preferred<'_> {
    fn destination(&self) -> Destination {
        Destination::Private {
            worker: Arc::clone(self.worker),
            queue: Arc::clone(self.queue),
        }
    }
}

#[cfg(test)]
impl Affinity {
    /// What is counted for turns is what they say of themselves.
    pub(crate) fn check(&self, disk: uuid::Uuid, turns: &BTreeMap<Ticket, super::held::Held>) {
        for (ticket, held) in turns.iter().filter(|(_, held)| held.disk == Some(disk)) {
            self.processes.check(*ticket, held);
        }
        self.processes.check_tickets(turns);
        for ticket in self.waiting.tickets() {
            assert!(turns[&ticket].waits_since.is_some());
        }
        assert_eq!(self.kept.len(), self.by_age.len());
    }

    pub(crate) fn waits(&self, ticket: Ticket) -> bool {
        self.waiting.contains(ticket)
    }
}
