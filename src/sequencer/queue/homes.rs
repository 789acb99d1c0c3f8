//! Which disk a workspace's turns go to, in a pool without shared storage.
//!
//! A workspace without a home is given one before any of its turns is offered or
//! decided: the record is written to the log of homes, and counts once it was read
//! back. When a disk is lost, every turn that may have been started there ends
//! first, by name; turns that came later get a new home.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use uuid::Uuid;

use super::affinity::LOOK_AGAIN;
use super::held::{Held, Line};
use super::hosts::{AWAY_AFTER, HostQueue, Hosts};
use super::{Action, Queue, SHARED, Ticket, WorkerReport};
use crate::homes::{Disk, HomeRecord, Homes, LostDisk, LostTurns};

/// Until a home that could not be kept is asked for again.
const HOME_FAILED: Duration = Duration::from_secs(1);

/// Turns of one workspace that are remembered by name as lost; more than may wait at
/// once by default. The oldest go first.
const MOST_NAMED: usize = 2_000;

/// A disk, for operators.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HostSummary {
    pub disk: Uuid,
    pub host: Arc<str>,
    /// Workspaces that live there.
    pub workspaces: usize,
    /// Workspaces of them with turns in line.
    pub busy: usize,
    pub is_lost: bool,
    /// For how long no process of it has been heard, as far as this sequencer has
    /// listened. `None` if it is there.
    pub away_for: Option<Duration>,
}

/// The disks that an operator's name for a host may mean.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct CalledDisks {
    /// These can be gone for good.
    pub away: Vec<Disk>,
    pub heard: Vec<Disk>,
    /// Another one is gone for good.
    pub is_any_lost: bool,
}

impl Queue {
    /// Where each workspace lives on one host's disk. Until [`Queue::homes_read`]
    /// no message must be delivered.
    #[must_use]
    pub(crate) fn with_local_storage(mut self, now: Instant) -> Self {
        self.hosts = Hosts::local(self.guard);
        self.homes = Some(Homes::default());
        self.since = Some(now);
        self
    }

    pub(crate) fn is_local(&self) -> bool {
        self.homes.is_some()
    }

    pub(crate) fn homes(&self) -> Option<&Homes> {
        self.homes.as_ref()
    }

    pub(crate) fn homes_mut(&mut self) -> Option<&mut Homes> {
        self.homes.as_mut()
    }

    /// What the log says, before anything is delivered.
    pub(crate) fn homes_read(&mut self, now: Instant, homes: Homes) {
        self.since = Some(now);
        for (disk, host) in homes.disks() {
            self.hosts.open(disk, &host);
        }
        self.homes = Some(homes);
    }

    /// A record was read back from the log. False if another came first.
    pub(crate) fn home_set(
        &mut self,
        now: Instant,
        record: HomeRecord,
        out: &mut Vec<Action>,
    ) -> bool {
        let Some(homes) = &mut self.homes else {
            return false;
        };
        let workspace = Arc::clone(&record.workspace);
        let is_new = homes.set(record);
        if let Some(disk) = homes.disk_of(&workspace) {
            self.hosts.open(disk.id, &disk.host.clone());
        }
        if let Some(line) = self.lines.get_mut(&workspace) {
            line.asks_home = false;
        }
        self.settle_in(&workspace, now, out);
        is_new
    }

    /// A record could not be written to the log: it is tried again.
    pub(crate) fn home_failed(&mut self, now: Instant, workspace: &str) {
        let Some(line) = self.lines.get_mut(workspace) else {
            return;
        };
        line.asks_home = false;
        if let Some(head) = line.head() {
            self.set_timer(head, Some(now + HOME_FAILED));
        }
    }

    /// The log says that a disk is gone for good.
    pub(crate) fn disk_lost(&mut self, now: Instant, lost: LostDisk, out: &mut Vec<Action>) {
        let Some(homes) = &mut self.homes else {
            return;
        };
        let disk = lost.disk.id;
        if !homes.disk_lost(lost.clone()) {
            return;
        }
        let lives_there = |workspace: &str| {
            let record = homes.of(workspace);
            let home = record.and_then(|record| record.home.as_ref());
            home.is_some_and(|home| home.id == disk)
        };
        let lines = self.lines.iter();
        let lines = lines.filter(|(workspace, _)| lives_there(workspace));
        let lines: Vec<(Arc<str>, Vec<Ticket>)> = lines
            .map(|(workspace, line)| (Arc::clone(workspace), line.order.iter().copied().collect()))
            .collect();
        for (workspace, tickets) in lines {
            for ticket in tickets {
                if let Some(held) = self.turns.get_mut(&ticket) {
                    held.lost_with = Some(lost.loss());
                }
            }
            self.settle_in(&workspace, now, out);
        }
    }

    /// What is known of the disk of the turn, in [`Queue::delivered`].
    pub(super) fn find_home(&mut self, ticket: Ticket) {
        let Some(held) = self.turns.get_mut(&ticket) else {
            return;
        };
        let Some(homes) = &self.homes else {
            held.disk = Some(SHARED);
            return;
        };
        let workspace = &held.turn.workspace;
        held.disk = homes.disk_of(workspace).map(|disk| disk.id);
        let Some(record) = homes.of(workspace) else {
            return;
        };
        // It may have been started there by an offer of another sequencer. As long as no other home
        // follows, that also holds for turns that the record of the loss was written too early to name.
        let lost_now = || match &record.home {
            _ if !held.redelivered => None,
            Some(disk) => homes.loss_of(disk.id),
            None => record.lost.last().map(|lost| lost.loss.clone()),
        };
        let lost_before = record.loss_of(&held.turn.turn_id).cloned();
        held.lost_with = lost_before.or_else(lost_now);
    }

    /// The workspace's home has changed: what was under way with the one before does not count.
    fn settle_in(&mut self, workspace: &str, now: Instant, out: &mut Vec<Action>) {
        let Some(line) = self.lines.get(workspace) else {
            return;
        };
        let tickets: Vec<Ticket> = line.order.iter().copied().collect();
        let homes = self.homes.as_ref();
        let disk = homes.and_then(|homes| Some(homes.disk_of(workspace)?.id));
        for ticket in &tickets {
            let before = self.turns.get(ticket).and_then(|held| held.disk);
            if before == disk {
                continue;
            }
            self.let_go(*ticket, now);
            if let Some(held) = self.turns.get_mut(ticket) {
                held.disk = disk;
                held.last_offer = None;
                held.without_effect = None;
                held.was_offered = false;
                held.waits = 0;
                held.failures = 0;
                // Of a turn that has no home yet it is not known that it runs nowhere.
                if before.is_some() {
                    held.seen = None;
                    held.not_before = now;
                }
            }
        }
        for ticket in tickets {
            self.attend(ticket, now, out);
        }
    }

    /// Whether the turn's home is known. If not, one is asked for, and the time is
    /// returned at which to look again, unless another event will bring that about.
    pub(super) fn needs_home(
        &mut self,
        ticket: Ticket,
        now: Instant,
        out: &mut Vec<Action>,
    ) -> Option<Option<Instant>> {
        let held = self.turns.get_mut(&ticket)?;
        if let Some(disk) = held.disk {
            if std::mem::take(&mut held.to_be_received) {
                let turn = Arc::clone(&held.turn);
                out.push(Action::Receive { ticket, turn, disk });
            }
            return None;
        }
        let workspace = Arc::clone(&held.turn.workspace);
        let line = self.lines.get_mut(&workspace)?;
        if line.asks_home {
            return Some(None);
        }
        let homes = self.homes.as_ref()?;
        let ends_first = lost_turns(homes, line, &self.turns);
        let record = match ends_first {
            Some(lost) => HomeRecord {
                lost,
                ..homes.next(&workspace, None)
            },
            None => match self.choose_disk(now) {
                Some(disk) => homes.next(&workspace, Some(disk)),
                None => return Some(Some(now + LOOK_AGAIN)),
            },
        };
        if let Some(line) = self.lines.get_mut(&workspace) {
            line.asks_home = true;
        }
        if let Some(disk) = &record.home
            && let Some(host) = self.hosts.of(Some(disk.id))
        {
            host.chosen += 1;
        }
        out.push(Action::SetHome { record });
        Some(None)
    }

    /// The disk for a new workspace: with a free slot, or else the shortest queue for its slots; and with
    /// few workspaces for them. A turn that a process has just taken is in none of its heartbeats yet.
    fn choose_disk(&self, now: Instant) -> Option<Disk> {
        let homes = self.homes.as_ref()?;
        let hosts = self.hosts.iter();
        let there = hosts.filter(|(disk, _)| !homes.is_lost(*disk));
        let there = there.filter_map(|(disk, host): (Uuid, &HostQueue)| {
            let (slots, surplus) = host.affinity.surplus(now);
            let queue = (surplus + 1).max(0).cast_unsigned();
            let workspaces = homes.count(disk).max(host.chosen) + 1;
            // Compared as a fraction, of whole numbers.
            let by_slot = |count: usize| count.saturating_mul(1_000) / slots.max(1);
            (slots > 0).then_some((by_slot(queue), by_slot(workspaces), disk, host))
        });
        let best = there.min_by_key(|(queue, load, disk, _)| (*queue, *load, *disk));
        best.map(|(_, _, id, host)| Disk {
            id,
            host: Arc::clone(&host.host),
        })
    }

    /// A disk that was away has a process again: what waited for it goes on.
    pub(super) fn host_is_back(
        &mut self,
        report: &WorkerReport<'_>,
        now: Instant,
        out: &mut Vec<Action>,
    ) {
        let Some(Disk { id, .. }) = report.disk else {
            return;
        };
        // What it runs is about to be heard of.
        let runs = |held: &Held| {
            let name = (&*held.turn.workspace, &*held.turn.turn_id);
            report.running.contains(&name)
        };
        let held = self.turns.iter_mut();
        let waiting = held.filter(|(_, held)| held.disk == Some(*id) || held.disk.is_none());
        let waiting = waiting.filter(|(_, held)| !runs(held));
        let waiting: Vec<Ticket> = waiting
            .map(|(ticket, held)| {
                if held.asked.is_none() {
                    held.claim_not_before = now;
                }
                *ticket
            })
            .collect();
        for ticket in waiting {
            self.attend(ticket, now, out);
        }
    }

    /// Whether a turn of the workspace may be under way on its disk.
    pub(crate) fn may_run(&self, now: Instant, workspace: &str) -> bool {
        let head = self.lines.get(workspace).and_then(|line| line.head());
        let held = head.and_then(|head| self.turns.get(&head));
        held.is_some_and(|held| {
            held.in_flight
                || held.offered_to.is_some()
                || (held.seen).is_some_and(|seen| now < seen + super::REPEAT.first)
        })
    }

    /// The disk that a host of that name, or a disk of that id, has now: one that is
    /// there comes first.
    pub(crate) fn disk_called(&self, now: Instant, host: &str) -> Option<Disk> {
        let homes = self.homes.as_ref()?;
        let hosts = self.hosts.iter();
        let called = hosts.filter(|(disk, queue)| {
            !homes.is_lost(*disk) && (*queue.host == *host || disk.to_string() == host)
        });
        let (id, queue) =
            called.max_by_key(|(disk, queue)| (queue.is_there(now), queue.last_heard, *disk))?;
        Some(Disk {
            id,
            host: Arc::clone(&queue.host),
        })
    }

    /// The disks of hosts of that name, or the disk of that id, that are not lost.
    pub(crate) fn disks_called(&self, now: Instant, host: &str) -> CalledDisks {
        let mut called = CalledDisks::default();
        let Some(homes) = &self.homes else {
            return called;
        };
        let is_called = |id: Uuid, name: &str| name == host || id.to_string() == host;
        let hosts = self.hosts.iter();
        for (id, queue) in hosts.filter(|(id, queue)| is_called(*id, &queue.host)) {
            let disk = Disk {
                id,
                host: Arc::clone(&queue.host),
            };
            match (homes.is_lost(id), queue.is_away(now)) {
                (true, _) => {}
                (false, true) => called.away.push(disk),
                (false, false) => called.heard.push(disk),
            }
        }
        let mut lost = homes.lost();
        called.is_any_lost = lost.any(|lost| is_called(lost.disk.id, &lost.disk.host));
        called
    }

    /// Every disk that is known, for operators and metrics. Looks at every line.
    pub(crate) fn host_summaries(&self, now: Instant) -> Vec<HostSummary> {
        let Some(homes) = &self.homes else {
            return Vec::new();
        };
        let mut busy = HashMap::<Uuid, usize>::new();
        for workspace in self.lines.keys() {
            let record = homes.of(workspace);
            if let Some(disk) = record.and_then(|record| record.home.as_ref()) {
                *busy.entry(disk.id).or_default() += 1;
            }
        }
        let summary = |(disk, queue): (Uuid, &HostQueue)| HostSummary {
            disk,
            host: Arc::clone(&queue.host),
            workspaces: homes.count(disk),
            busy: busy.get(&disk).copied().unwrap_or_default(),
            is_lost: homes.is_lost(disk),
            away_for: self.away_for(now, queue),
        };
        let mut all: Vec<HostSummary> = self.hosts.iter().map(summary).collect();
        all.retain(|host| host.workspaces > 0 || host.is_lost || host.away_for.is_none());
        all.sort_unstable_by(|one, other| (&one.host, one.disk).cmp(&(&other.host, other.disk)));
        all
    }

    pub(super) fn away_for(&self, now: Instant, queue: &HostQueue) -> Option<Duration> {
        let listening = self.since.unwrap_or(now);
        let since = queue.last_heard.unwrap_or(listening);
        let away = now.saturating_duration_since(since);
        // One that was never heard has had the time to report.
        let is_away = queue.is_away(now) && away >= AWAY_AFTER;
        is_away.then_some(away)
    }

    /// The home of a workspace, and for how long it has been away.
    pub(crate) fn home_of(
        &self,
        now: Instant,
        workspace: &str,
    ) -> Option<(&Disk, Option<Duration>)> {
        let disk = self.homes.as_ref()?.disk_of(workspace)?;
        let queue = self.hosts.get(disk.id);
        let away = queue.and_then(|queue| self.away_for(now, queue));
        Some((disk, away))
    }

    /// The disk of a workspace's records: [`SHARED`] where all share one. `None` if
    /// it has no home.
    pub(crate) fn disk_of(&self, workspace: &str) -> Option<Uuid> {
        match &self.homes {
            None => Some(SHARED),
            Some(homes) => homes.disk_of(workspace).map(|disk| disk.id),
        }
    }
}

/// The turns in line that ended with their disk, with those of earlier losses, if
/// the log does not name them all.
fn lost_turns(
    homes: &Homes,
    line: &Line,
    turns: &BTreeMap<Ticket, Held>,
) -> Option<Vec<LostTurns>> {
    let held = line.order.iter().filter_map(|ticket| turns.get(ticket));
    let lost = held.filter_map(|held| Some((&held.turn, held.lost_with.as_ref()?)));
    let mut lost = lost.peekable();
    let (first, _) = lost.peek()?;
    let record = homes.of(&first.workspace)?;
    let lost = lost.filter(|(turn, _)| record.loss_of(&turn.turn_id).is_none());
    let mut all = record.lost.clone();
    let mut is_news = false;
    for (turn, loss) in lost {
        is_news = true;
        if all.last().is_none_or(|last| last.loss != *loss) {
            all.push(LostTurns {
                loss: loss.clone(),
                turn_ids: Vec::new(),
            });
        }
        if let Some(last) = all.last_mut()
            && !last.turn_ids.contains(&turn.turn_id)
        {
            last.turn_ids.push(Arc::clone(&turn.turn_id));
        }
    }
    let mut named = 0;
    for lost in all.iter_mut().rev() {
        let surplus = lost.turn_ids.len().saturating_sub(MOST_NAMED - named);
        lost.turn_ids.drain(..surplus);
        named += lost.turn_ids.len();
    }
    all.retain(|lost| !lost.turn_ids.is_empty());
    is_news.then_some(all)
}
