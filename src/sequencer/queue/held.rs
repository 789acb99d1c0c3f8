//! What the queue knows of one turn, and of one workspace's line.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Instant;

use jiff::Timestamp;

/// A turn as it came out of `codex.turns`, already validated.
#[derive(Debug, PartialEq, Eq)]
pub struct QueuedTurn {
    /// In its one canonical spelling.
    pub workspace: Arc<str>,
    pub turn_id: Arc<str>,
    /// Of the request's body: tells "published again" from "same id, other body".
    pub fingerprint: u64,
    /// The canonical request, to be put into offers as it is.
    pub request: Arc<[u8]>,
    /// As the producer says, for the age of the oldest waiting turn.
    pub enqueued_at: Option<Timestamp>,
}

/// Names a held turn to the shell, and its place: turns that came later have
/// greater tickets. Never used twice, also not after [`Queue::reset`], so that
/// a late answer can't be taken for another turn's.
///
/// [`Queue::reset`]: super::Queue::reset
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub(super) u64);

/// How a turn ends that does not run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// Somebody cancelled it.
    Cancelled,
    /// Its workspace has as many turns in line as it may have.
    BacklogFull,
}

/// Whether the turn may go on towards a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// Nothing speaks against it.
    Open,
    /// The shell is creating the claim; nothing happens before its answer.
    Asked { verdict: Verdict, failures: u32 },
    /// The claim is to be asked for (again) at this time.
    ToAsk {
        verdict: Verdict,
        failures: u32,
        at: Instant,
    },
}

#[derive(Debug, Clone, Copy)]
pub(super) struct LastOffer {
    /// Number of the turn's first offer, counted over all turns: the one that is
    /// surely taken once the turn runs.
    pub first: u64,
    /// Number of its newest.
    pub newest: u64,
    pub at: Instant,
}

#[derive(Debug)]
pub(super) struct Held {
    pub turn: Arc<QueuedTurn>,
    /// The delivery, and the redelivered duplicates that are acked with it.
    pub tags: Vec<u64>,
    pub received: Instant,
    pub fate: Fate,
    /// A cancel is out for it: heartbeats that name it repeat the cancel.
    pub cancelled: bool,
    /// It takes one of its workspace's `max_waiting` places.
    pub counted: bool,
    /// Before this it is not offered, head or not.
    pub not_before: Instant,
    /// When a heartbeat last told of it running.
    pub seen: Option<Instant>,
    /// The shell has an offer of it that the broker has not answered.
    pub in_flight: bool,
    /// The broker has confirmed an offer of it.
    pub was_offered: bool,
    pub last_offer: Option<LastOffer>,
    /// Waits in a row since it was offered or last seen running.
    pub waits: u32,
    /// Offers in a row that the broker did not take.
    pub failures: u32,
    /// Its entry among the timers.
    pub timer: Option<Instant>,
}

impl Held {
    pub fn new(turn: Arc<QueuedTurn>, tag: u64, now: Instant, not_before: Instant) -> Self {
        Self {
            turn,
            tags: vec![tag],
            received: now,
            fate: Fate::Open,
            cancelled: false,
            counted: true,
            not_before,
            seen: None,
            in_flight: false,
            was_offered: false,
            last_offer: None,
            waits: 0,
            failures: 0,
            timer: None,
        }
    }
}

/// The turns of one workspace.
#[derive(Debug, Default)]
pub(super) struct Line {
    /// In the order in which they came; the first is the head.
    pub order: BTreeSet<Ticket>,
    pub by_id: HashMap<Arc<str>, Ticket>,
    /// How many of them count against `max_waiting`.
    pub counted: usize,
}

impl Line {
    pub fn head(&self) -> Option<Ticket> {
        self.order.first().copied()
    }
}
