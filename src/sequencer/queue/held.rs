//! What the queue knows of one turn, and of one workspace's line.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use uuid::Uuid;

use super::{Action, Verdict};
use crate::homes::Loss;
use crate::request::OnBusy;
use crate::workspace::Pauses;

/// A turn as it came out of `codex.turns`, already validated.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct QueuedTurn {
    /// In its one canonical spelling.
    pub workspace: Arc<str>,
    pub turn_id: Arc<str>,
    /// Of the request's body: distinguishes "published again" from "same id, other body".
    pub fingerprint: u64,
    /// The canonical request, to be put into offers as it is.
    pub request: Arc<[u8]>,
    /// It must have been started by then, counted from when a sequencer first
    /// received it.
    pub start_within: Option<Duration>,
    /// What becomes of it, or of those ahead of it, where it is not the first.
    pub on_busy: OnBusy,
    /// For which tenant it runs, see [`crate::tenants`].
    pub tenant: Option<Arc<str>>,
    /// As the producer says, for the age of the oldest waiting turn.
    pub enqueued_at: Option<Timestamp>,
}

impl QueuedTurn {
    pub(super) fn is_paused_by(&self, pauses: &Pauses) -> bool {
        pauses.of(&self.workspace, self.tenant.as_deref()).is_some()
    }
}

/// Names a held turn to the shell, and its place: turns that came later have
/// greater tickets. Never used twice, also not after [`Queue::reset`], so that
/// a late answer can't be taken for another turn's.
///
/// [`Queue::reset`]: super::Queue::reset
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Ticket(pub(super) u64);

#[derive(Debug, Clone, Copy)]
pub(super) struct LastOffer {
    /// Number of the turn's first offer, counted over all turns: the one that is
    /// surely taken once the turn runs.
    pub first: u64,
    /// Number of its newest.
    pub newest: u64,
    pub at: Instant,
}

/// Whether a turn has one of its workspace's `max_waiting` places.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LinePlace {
    /// It takes none: it was cancelled before it could.
    Uncounted,
    /// A turn of another workspace had its id first, and it is not known whether
    /// that one has ended.
    SharesId,
    /// It came when its line was full.
    OneTooMany,
    /// It must not wait, and it is not known whether it would have to.
    MustNotWait,
    Counted,
}

#[derive(Debug)]
pub(super) struct Held {
    pub turn: Arc<QueuedTurn>,
    /// The disk that its workspace lives on, as far as that is known.
    pub disk: Option<Uuid>,
    /// The loss of a disk on which it may have been started.
    pub lost_with: Option<Loss>,
    /// It may have been offered by another sequencer.
    pub redelivered: bool,
    /// When it was first received is to be kept, as soon as its home is known.
    pub to_be_received: bool,
    /// The delivery, and the redelivered duplicates that are acked with it.
    pub tags: Vec<u64>,
    pub received: Instant,
    /// The shell is creating the claim; it waits for the answer.
    pub asked: Option<Verdict>,
    /// Claims in a row that could not be had.
    pub claim_failures: u32,
    /// Before this no claim is asked for.
    pub claim_not_before: Instant,
    /// A cancel is out for it: heartbeats that name it repeat the cancel.
    pub cancelled: bool,
    /// The records have a cancel, and that the turn has been started.
    pub marked: bool,
    /// The cancel that they have is for this turn: heartbeats repeat it, too.
    pub superseded_by: Option<Arc<str>>,
    /// The records have its end, though its `done` has not been heard.
    pub has_ended: bool,
    /// By when it must have been started; `None` for a turn that has been.
    pub deadline: Option<Instant>,
    pub place: LinePlace,
    /// Before this it is not offered, head or not.
    pub not_before: Instant,
    /// When a heartbeat last reported it as running, or a worker first took it.
    pub seen: Option<Instant>,
    /// Since when a confirmed offer of it, which does not lie in the work queue, has had no effect.
    pub without_effect: Option<Instant>,
    /// The shell has an offer of it that the broker has not answered.
    pub in_flight: bool,
    /// The broker has confirmed an offer of it.
    pub was_offered: bool,
    pub last_offer: Option<LastOffer>,
    /// The process with an unanswered offer of it in its private queue.
    pub offered_to: Option<Arc<str>>,
    /// Since when an offer of it in the shared queue has had no answer.
    pub unanswered: Option<Instant>,
    /// Since when it could be offered and waits for a free slot.
    pub waits_since: Option<Instant>,
    /// When a worker was first heard to have it.
    pub taken_at: Option<Instant>,
    /// Waits in a row since it was offered or last seen running.
    pub waits: u32,
    /// Offers in a row that the broker did not take.
    pub failures: u32,
    /// Its entry among the timers.
    pub timer: Option<Instant>,
}

impl Held {
    pub(super) fn new(turn: Arc<QueuedTurn>, tag: u64, now: Instant, not_before: Instant) -> Self {
        // What is further away than the clock reaches never comes.
        let deadline = turn.start_within.and_then(|limit| now.checked_add(limit));
        Self {
            turn,
            disk: None,
            lost_with: None,
            redelivered: false,
            to_be_received: false,
            tags: vec![tag],
            received: now,
            asked: None,
            claim_failures: 0,
            claim_not_before: now,
            cancelled: false,
            marked: false,
            superseded_by: None,
            has_ended: false,
            deadline,
            place: LinePlace::Uncounted,
            not_before,
            seen: None,
            without_effect: None,
            in_flight: false,
            was_offered: false,
            last_offer: None,
            offered_to: None,
            unanswered: None,
            waits_since: None,
            taken_at: None,
            waits: 0,
            failures: 0,
            timer: None,
        }
    }

    /// For a worker that may have taken the turn after its cancel was sent.
    pub(super) fn repeat_cancel(&self, out: &mut Vec<Action>) {
        if self.cancelled || self.superseded_by.is_some() {
            out.push(Action::RepeatCancel {
                turn: Arc::clone(&self.turn),
                superseded_by: self.superseded_by.clone(),
            });
        }
    }
}

/// The turns of one workspace.
#[derive(Debug, Default)]
pub(super) struct Line {
    /// A home was asked for that is not kept yet.
    pub asks_home: bool,
    /// In the order in which they came; the first is the head.
    pub order: BTreeSet<Ticket>,
    pub by_id: HashMap<Arc<str>, Ticket>,
    /// How many of them count against `max_waiting`.
    pub counted: usize,
    /// Those that interrupt the turns ahead of them, unless they are known to
    /// have been decided themselves.
    pub interrupts: BTreeSet<Ticket>,
}

impl Line {
    pub(super) fn head(&self) -> Option<Ticket> {
        self.order.first().copied()
    }
}
