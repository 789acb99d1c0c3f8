//! The sequencer's queue: which turn is offered when, and which delivery is
//! acked when. Pure: no clock, no I/O. The shell feeds it what it hears and
//! carries out the [`Action`]s it gets back, in their order.
//!
//! A queue belongs to one consumer of `codex.turns`: delivery tags have no meaning
//! beyond their channel. When that ends, [`Queue::reset`] lets go of the turns
//! and keeps the cancels. A standby feeds its queue the cancels it hears too,
//! so that they outlive the sequencer that heard them with it.
//!
//! # What holds at all times
//!
//! 1. *What could be lost is not acked.* A delivery is acked when its turn is
//!    done (its end is recorded and its events are confirmed), when a claim that
//!    ends it is answered (written, published and confirmed), or when it is a
//!    duplicate, delivered for the first time, of a turn that is held unacked.
//!    Each is acked once, by its own tag, never "all up to".
//! 2. *Only heads are offered.* The turns of a workspace stand in the order in
//!    which they were delivered; each is offered only after all ahead of it have
//!    ended. A turn's end is for ever, so an offer that lies about for long, or
//!    comes from a sequencer that was deposed without knowing, breaks no order.
//! 3. *A fate is asked for, not assumed.* Cancelled, rejected and expired turns keep their
//!    place until the claim is answered; no turn behind them moves up before,
//!    since the claim may show that the turn has been run.
//! 4. *Every head is cared for.* It has an offer in flight, a claim in flight, or
//!    a timer, or it is paused. One that waits for a free slot is looked at every
//!    five seconds, and at each report of a process. So anything that gets lost outside (offer, `done`, worker, claim), the
//!    head comes up again.
//! 5. *Lines do not know of each other*, but for the slots that they share (see
//!    `affinity.rs`) and for what the pool has taken (see
//!    [`Queue::work_queue_depth`]), and that only delays repeats.
//! 6. *Memory* is what the prefetch lets in, and at most 10,000 cancels.
//!
//! Safety rests on lock and journal, not on these: an offer too many costs a
//! look into the journal, a `done` too many is ignored.
//!
//! # Rules worth a reason
//!
//! - *Redelivered turns.* A predecessor may have offered it, so it may run. What is
//!   listened for is time since the delivery (the status queue was bound before),
//!   not since it became head: a turn that becomes head later has been listened
//!   for in line, and heartbeats that named it there count. That is no theory: when
//!   the predecessor's last acks are lost, the running turn comes back in second place.
//! - *Lost `done`.* Not remembered for turns that are yet to be delivered: the head
//!   is offered, and the worker answers from its journal with the events and
//!   `done`. A memory would save that once per takeover and would swallow the
//!   answer to a producer that publishes a finished turn again.
//! - *`start_within`* counts from when a sequencer first received the turn. That
//!   is kept on disk, so a takeover does not restart it; what is not kept yet
//!   counts from this queue's own delivery. When the time is over the claim is asked for,
//!   wherever the turn is: in line, in the work queue, or with a worker, which makes
//!   the other claim. Where that came first, the turn is never asked about again.
//! - *`on_busy: reject`* asks whether any turn ahead in line has not ended, and that
//!   only the records show: one with a lost ack or `done` stands in line and
//!   has ended. Ended is for ever, and turns join a line at its end only. So
//!   a turn that was once let in is let in by every later sequencer, too, and needs
//!   no record of that.
//! - *`on_busy: interrupt`* supersedes all turns ahead in line, at its arrival,
//!   each by a claim, or by a mark where it runs. A later sequencer does it again, and
//!   so finishes what was started. It holds as long as the interrupting turn has no
//!   claim itself, which the shell looks at each time: one that has ended and is
//!   published again stands behind turns that it does not concern. Where the
//!   interrupting turn is superseded itself, the next one behind it takes its place.
//! - *A turn id that is live in another workspace.* The events of both turns would share
//!   a routing key, and any producer can send a turn under an id that it has seen. So
//!   the first turn to arrive keeps the id until it has ended. Whether it has is decided
//!   by its records, as with `on_busy: reject`. The second turn is refused by a claim,
//!   since a predecessor that accepted both may have started it. This is decided before
//!   any other reason to end the turn, as those publish an ending under the shared key,
//!   and before the turn interrupts any other.
//! - *`max_waiting`* counts the turns held for a workspace: with the head, running
//!   or not; without those with a claim asked for on arrival. A turn beyond it
//!   is never rejected outright, since it may have run before this sequencer knew
//!   it: the claim decides.

mod affinity;
mod backoff;
mod cancels;
mod claiming;
mod counts;
mod held;
mod homes;
mod hosts;
mod messages;
#[cfg(test)]
mod model;
mod offering;
mod processes;
mod stuck;
#[cfg(test)]
mod tests;
mod waiting_heads;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

pub(crate) use affinity::Destination;
use backoff::{Backoff, Jitter};
use cancels::Cancels;
pub(crate) use counts::{LineSummary, Oldest, Place};
use held::{Held, Line, LinePlace};
pub(crate) use held::{QueuedTurn, Ticket};
pub(crate) use homes::HostSummary;
pub(crate) use hosts::AWAY_AFTER;
use hosts::Hosts;
pub(crate) use messages::{Action, Arrival};
pub(crate) use processes::WorkerReport;
pub(crate) use stuck::StuckTurn;

use uuid::Uuid;

pub(crate) use crate::amqp::messages::{ClaimAnswer, Verdict};
use crate::fault;
use crate::heartbeat::LISTEN;
use crate::homes::Homes;
pub(crate) use crate::homes::SHARED;
use crate::workspace::Pauses;

/// Until an offered head without a sign of life is offered again. The first
/// wait is five heartbeats: a worker that lost a few is not doubted yet.
const REPEAT: Backoff = Backoff {
    first: Duration::from_secs(10),
    most: Duration::from_secs(5 * 60),
};

/// Until a private offer without an answer is made again, to all. Mostly the
/// answer takes some milliseconds; a cold start elsewhere costs more than this.
const NO_WORD: Duration = Duration::from_millis(500);

/// How much later a head may have come that is offered before a waiting one,
/// unless [`Queue::with_guard`] says otherwise.
const GUARD: Duration = Duration::from_secs(1);

/// Until an offer that the broker did not take is tried again.
const OFFER_FAILED: Backoff = Backoff {
    first: Duration::from_millis(500),
    most: Duration::from_secs(30),
};

/// Until a claim that could not be written or published is tried again.
const CLAIM_FAILED: Backoff = Backoff {
    first: Duration::from_secs(1),
    most: Duration::from_secs(60),
};

/// For how long an offer may be believed to lie in the work queue untaken.
const LIES_AT_MOST: Duration = Duration::from_secs(60 * 60);

/// Longer than any sequencer lives, and not too long to be added to a time.
const NEVER: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

/// See the module.
#[derive(Debug)]
pub(crate) struct Queue {
    max_waiting: usize,
    /// All held turns, in the order in which they came.
    turns: BTreeMap<Ticket, Held>,
    lines: HashMap<Arc<str>, Line>,
    /// For cancels without a workspace.
    by_id: HashMap<Arc<str>, BTreeSet<Ticket>>,
    timers: BTreeSet<(Instant, Ticket)>,
    cancels: Cancels,
    /// The work queues, and what is known of their processes.
    hosts: Hosts,
    /// `None` where all hosts share the workspace root.
    homes: Option<Homes>,
    /// Since when processes have been listened to, where disks can be away.
    since: Option<Instant>,
    guard: Duration,
    jitter: Jitter,
    next_ticket: u64,
    /// What is not offered.
    paused: Arc<Pauses>,
    /// When slots that are free now are looked at again.
    slots_settle: Option<Instant>,
}

impl Queue {
    /// `max_waiting`: turns held of one workspace, at least 1. `seed` decides
    /// the jitter only; sequencers should not share it.
    pub(crate) fn new(max_waiting: usize, seed: u64) -> Self {
        Self {
            max_waiting: max_waiting.max(1),
            turns: BTreeMap::new(),
            lines: HashMap::new(),
            by_id: HashMap::new(),
            timers: BTreeSet::new(),
            cancels: Cancels::default(),
            hosts: Hosts::shared(GUARD),
            homes: None,
            since: None,
            guard: GUARD,
            jitter: Jitter::new(seed),
            next_ticket: 0,
            paused: Arc::default(),
            slots_settle: None,
        }
    }

    /// `guard`: how much later a head may have come that is offered before a
    /// waiting one, as its server waits where the slot is free; zero: no
    /// process is preferred.
    pub(crate) fn with_guard(mut self, guard: Duration) -> Self {
        self.guard = guard;
        self.hosts = Hosts::shared(guard);
        self
    }

    /// The consumer is gone, and with it every delivery: they will come again,
    /// here or elsewhere. Answers still under way for them will be ignored.
    pub(crate) fn reset(&mut self) {
        self.turns.clear();
        self.lines.clear();
        self.by_id.clear();
        self.timers.clear();
        self.hosts.reset();
        self.slots_settle = None;
    }

    /// A delivery of `codex.turns`.
    pub(crate) fn delivered(
        &mut self,
        now: Instant,
        tag: u64,
        redelivered: bool,
        turn: QueuedTurn,
        out: &mut Vec<Action>,
    ) -> Arrival {
        // Before any limit: a turn that is in line must not be rejected for a full line.
        if let Some(ticket) = self.find(&turn.workspace, &turn.turn_id)
            && let Some(held) = self.turns.get_mut(&ticket)
        {
            let other_body = held.turn.fingerprint != turn.fingerprint;
            if redelivered {
                held.tags.push(tag);
                return Arrival::Redelivered { other_body };
            }
            out.push(Action::Ack { tag });
            return Arrival::Duplicate { other_body };
        }

        let turn = Arc::new(turn);
        let not_before = if redelivered { now + LISTEN } else { now };
        let mut held = Held::new(Arc::clone(&turn), tag, now, not_before);
        held.cancelled = self.cancels.names(now, &turn.turn_id, &turn.workspace);
        let shares_id = self.by_id.contains_key(&turn.turn_id);
        if shares_id {
            held.place = LinePlace::SharesId;
        }
        held.redelivered = redelivered;
        held.to_be_received = held.deadline.is_some();

        let ticket = Ticket(self.next_ticket);
        self.next_ticket += 1;
        let line = self.lines.entry(Arc::clone(&turn.workspace)).or_default();
        line.order.insert(ticket);
        line.by_id.insert(Arc::clone(&turn.turn_id), ticket);
        self.by_id
            .entry(Arc::clone(&turn.turn_id))
            .or_default()
            .insert(ticket);
        self.turns.insert(ticket, held);
        self.find_home(ticket);
        if !shares_id {
            self.take_place(ticket, now, out);
        }
        self.attend(ticket, now, out);
        Arrival::New
    }

    /// A worker reports that the turn has ended and its events are confirmed.
    /// False: it is not held here, which is no fault (a second `done`, or an
    /// offer that outlived its turn).
    pub(crate) fn done(
        &mut self,
        now: Instant,
        workspace: &str,
        turn_id: &str,
        out: &mut Vec<Action>,
    ) -> bool {
        let Some(ticket) = self.find(workspace, turn_id) else {
            return false;
        };
        self.was_taken(ticket, now);
        self.end(ticket, now, out);
        true
    }

    /// A worker reports what it runs, as pairs of workspace and turn id.
    pub(crate) fn heartbeat<'a>(
        &mut self,
        now: Instant,
        running: impl IntoIterator<Item = (&'a str, &'a str)>,
        out: &mut Vec<Action>,
    ) {
        for (workspace, turn_id) in running {
            let Some(ticket) = self.find(workspace, turn_id) else {
                continue;
            };
            self.was_taken(ticket, now);
            let wait = self.jitter.wait(REPEAT, 0);
            let Some(held) = self.turns.get_mut(&ticket) else {
                continue;
            };
            held.seen = Some(now);
            held.without_effect = None;
            held.waits = 0;
            held.not_before = now + wait;
            held.repeat_cancel(out);
            self.attend(ticket, now, out);
        }
        // What runs is no longer expected to take a slot: of a turn that was offered again, too.
        self.use_all_room(now, out);
    }

    /// The turn is to be cancelled. Without a workspace, every turn of
    /// that id is meant; if no such turn is held, any that comes later.
    pub(crate) fn cancel(
        &mut self,
        now: Instant,
        turn_id: &str,
        workspace: Option<&str>,
        out: &mut Vec<Action>,
    ) {
        let tickets: Vec<Ticket> = match workspace {
            Some(workspace) => self.find(workspace, turn_id).into_iter().collect(),
            None => self
                .by_id
                .get(turn_id)
                .map(|tickets| tickets.iter().copied().collect())
                .unwrap_or_default(),
        };
        if tickets.is_empty() {
            let workspace = workspace.map(Arc::from);
            self.cancels.remember(now, turn_id.into(), workspace);
        }
        for ticket in tickets {
            let Some(held) = self.turns.get_mut(&ticket) else {
                continue;
            };
            // Also of a held turn, since it may come again to this queue after
            // a reset; then of this workspace's only.
            let QueuedTurn {
                workspace, turn_id, ..
            } = &*held.turn;
            self.cancels
                .remember(now, Arc::clone(turn_id), Some(Arc::clone(workspace)));
            if !std::mem::replace(&mut held.cancelled, true) {
                self.attend(ticket, now, out);
            }
        }
    }

    /// How many offers lie in the work queue, ready and untaken, as the broker
    /// says (by a passive declare).
    ///
    /// When the pool is full, offers lie there for as long as turns run, and
    /// repeating them all every five minutes would only pile up copies. The work
    /// queue is first in, first out: while something lies in it and no later offer
    /// has been taken, an offer is not lost but waiting, and is repeated only after
    /// an hour. A shell that never reports it gets plain repeats.
    ///
    /// `disk`: that of the work queue; [`SHARED`] for that of a pool that shares its root.
    pub(crate) fn work_queue_depth(&mut self, disk: Uuid, ready: u64) {
        if let Some(host) = self.hosts.of(Some(disk)) {
            host.untaken = ready;
        }
    }

    /// The disks with a work queue in use.
    pub(crate) fn disks(&self) -> Vec<Uuid> {
        self.hosts.iter().map(|(disk, _)| disk).collect()
    }

    /// What operators have paused. Its turns keep their places and are not offered;
    /// those that run go on, and cancels and deadlines hold. What is not paused any more is
    /// offered at once: workers drop the offers that they get meanwhile.
    pub(crate) fn set_paused(&mut self, now: Instant, paused: Arc<Pauses>, out: &mut Vec<Action>) {
        let before = std::mem::replace(&mut self.paused, paused);
        let changed = |line: &Line| {
            let head = line.head()?;
            let turn = &self.turns.get(&head)?.turn;
            let is = turn.is_paused_by(&self.paused);
            (turn.is_paused_by(&before) != is).then_some((head, is))
        };
        let heads: Vec<(Ticket, bool)> = self.lines.values().filter_map(changed).collect();
        for (head, is_paused) in heads {
            if let Some(held) = self.turns.get_mut(&head) {
                held.without_effect = None;
                if !is_paused && held.waits > 0 {
                    held.waits = 0;
                    held.not_before = held.not_before.min(now);
                }
            }
            self.attend(head, now, out);
        }
    }

    /// Time has passed. Due is what [`Queue::next_deadline`] returned, or more.
    pub(crate) fn tick(&mut self, now: Instant, out: &mut Vec<Action>) {
        if self.slots_settle.is_some_and(|at| at <= now) {
            self.slots_settle = None;
            self.use_all_room(now, out);
        }
        while let Some(&(at, ticket)) = self.timers.first()
            && at <= now
        {
            self.timers.pop_first();
            if let Some(held) = self.turns.get_mut(&ticket) {
                held.timer = None;
            }
            self.attend(ticket, now, out);
        }
    }

    /// When [`Queue::tick`] has something to do next.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        let timer = self.timers.first().map(|(at, _)| *at);
        [timer, self.slots_settle].into_iter().flatten().min()
    }

    /// Of a held turn: the delivery that is acked when it has ended.
    pub(crate) fn first_tag(&self, workspace: &str, turn_id: &str) -> Option<u64> {
        let held = self.turns.get(&self.find(workspace, turn_id)?)?;
        held.tags.first().copied()
    }

    fn find(&self, workspace: &str, turn_id: &str) -> Option<Ticket> {
        self.lines.get(workspace)?.by_id.get(turn_id).copied()
    }

    /// A worker has the turn or had it, so at least its first offer was taken.
    fn was_taken(&mut self, ticket: Ticket, now: Instant) {
        let Some(held) = self.turns.get_mut(&ticket) else {
            return;
        };
        // One that was private only has no number: it overtook others.
        if let Some(offer) = held.last_offer
            && let Some(host) = self.hosts.of(held.disk)
        {
            host.taken = host.taken.max(offer.first);
        }
        held.taken_at.get_or_insert(now);
        self.let_go(ticket, now);
    }

    /// Acks the turn, takes it out of line, and lets the next one move up.
    fn end(&mut self, ticket: Ticket, now: Instant, out: &mut Vec<Action>) {
        self.let_go(ticket, now);
        let Some(held) = self.turns.remove(&ticket) else {
            return;
        };
        out.extend(held.tags.iter().map(|&tag| Action::Ack { tag }));
        if let Some(at) = held.timer {
            self.timers.remove(&(at, ticket));
        }
        let QueuedTurn {
            workspace, turn_id, ..
        } = &*held.turn;
        if let Some(tickets) = self.by_id.get_mut(turn_id) {
            tickets.remove(&ticket);
            if tickets.is_empty() {
                self.by_id.remove(turn_id);
            }
        }
        let Some(line) = self.lines.get_mut(workspace) else {
            return;
        };
        line.order.remove(&ticket);
        line.interrupts.remove(&ticket);
        line.by_id.remove(turn_id);
        line.counted -= usize::from(held.place == LinePlace::Counted);
        match line.head() {
            Some(head) => self.attend(head, now, out),
            None => {
                self.lines.remove(workspace);
            }
        }
    }

    /// The one place that decides what a turn needs now: to be claimed, to be
    /// offered, or to be looked at again at a certain time.
    fn attend(&mut self, ticket: Ticket, now: Instant, out: &mut Vec<Action>) {
        if let Some(lost) = self.ends_with_its_disk(ticket) {
            self.ask(ticket, lost, now, out);
            return;
        }
        if let Some(wake) = self.needs_home(ticket, now, out) {
            self.set_timer(ticket, wake);
            return;
        }
        let wanted = self.wanted(ticket, now, out);
        let (mut offers, mut claims) = (false, None);
        let Some(held) = self.turns.get(&ticket) else {
            return;
        };
        let is_paused = held.turn.is_paused_by(&self.paused);
        if is_paused && !held.in_flight {
            // Workers drop its offers unanswered: they do not count as waiting.
            self.let_go(ticket, now);
        }
        let Some(held) = self.turns.get_mut(&ticket) else {
            return;
        };
        let line = self.lines.get(&held.turn.workspace);
        let is_head = line.and_then(Line::head) == Some(ticket) || fault::is_on("sabotage.order");
        let wake = match (&held.asked, wanted) {
            (Some(_), _) => None,
            (None, Some(_)) if held.claim_not_before > now => Some(held.claim_not_before),
            (None, Some(verdict)) => {
                claims = Some(verdict);
                None
            }
            (None, None) => {
                let next = if !is_head || held.in_flight || is_paused {
                    None
                } else if held.not_before > now {
                    Some(held.not_before)
                } else if (self.hosts.of(held.disk))
                    .is_some_and(|host| host.lies_untaken(held.last_offer, now))
                {
                    held.not_before = now + self.jitter.wait(REPEAT, held.waits);
                    held.waits = held.waits.saturating_add(1);
                    Some(held.not_before)
                } else {
                    offers = true;
                    None
                };
                [next, held.deadline].into_iter().flatten().min()
            }
        };
        let mut wake = wake;
        if offers {
            let until = self.offer(ticket, now, out);
            wake = [wake, until].into_iter().flatten().min();
        } else if let Some(host) = self.hosts.of(held.disk) {
            host.affinity.waits_no_more(ticket);
        }
        if let Some(verdict) = claims {
            self.ask(ticket, verdict, now, out);
        } else {
            self.set_timer(ticket, wake);
        }
    }

    /// Asks for the turn's claim, unless one is asked for, or not yet due.
    fn ask(&mut self, ticket: Ticket, verdict: Verdict, now: Instant, out: &mut Vec<Action>) {
        let Some(held) = self.turns.get_mut(&ticket) else {
            return;
        };
        let wake = match held.asked {
            Some(_) => None,
            None if held.claim_not_before > now => Some(held.claim_not_before),
            None => {
                held.asked = Some(verdict.clone());
                let other = match &verdict {
                    Verdict::IdTaken { workspace } => Some(Arc::clone(workspace)),
                    _ => None,
                };
                let (turn, disk) = (Arc::clone(&held.turn), held.disk);
                out.push(Action::Claim {
                    ticket,
                    turn,
                    verdict,
                    disk: disk.unwrap_or(SHARED),
                    other: other.and_then(|workspace| self.disk_of(&workspace)),
                });
                None
            }
        };
        self.set_timer(ticket, wake);
    }

    /// Of a turn that may have been started on a disk that is gone for good, once
    /// the log says so of it by name.
    fn ends_with_its_disk(&self, ticket: Ticket) -> Option<Verdict> {
        let held = self.turns.get(&ticket)?;
        held.lost_with.as_ref()?;
        let record = self.homes.as_ref()?.of(&held.turn.workspace)?;
        let loss = record.loss_of(&held.turn.turn_id)?.clone();
        Some(Verdict::HostLost { loss })
    }

    fn set_timer(&mut self, ticket: Ticket, wake: Option<Instant>) {
        let Some(held) = self.turns.get_mut(&ticket) else {
            return;
        };
        if held.timer != wake {
            if let Some(at) = std::mem::replace(&mut held.timer, wake) {
                self.timers.remove(&(at, ticket));
            }
            if let Some(at) = wake {
                self.timers.insert((at, ticket));
            }
        }
    }
}
