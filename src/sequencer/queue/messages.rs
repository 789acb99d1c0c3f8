//! What the queue and its shell say to each other.

use std::sync::Arc;

use uuid::Uuid;

use crate::homes::HomeRecord;

use super::{Destination, QueuedTurn, Ticket, Verdict};

/// What the shell has to do. Turn and request are shared, not copied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Action {
    /// Ack this delivery, and no other (`multiple` unset).
    Ack { tag: u64 },
    /// Publish the turn to that queue, mandatory and persistent, and report
    /// [`offer_confirmed`] or [`offer_failed`]. `repeat`: an earlier offer of it
    /// was confirmed to this queue (a worker does not wait for the lock then).
    /// `next_waits`: another turn of its workspace stands behind it.
    ///
    /// [`offer_confirmed`]: super::Queue::offer_confirmed
    /// [`offer_failed`]: super::Queue::offer_failed
    Offer {
        ticket: Ticket,
        turn: Arc<QueuedTurn>,
        repeat: bool,
        to: Destination,
        /// The disk that the workspace lives on; [`SHARED`] in a pool that shares its root.
        ///
        /// [`SHARED`]: super::SHARED
        disk: Uuid,
        next_waits: bool,
    },
    /// Settle the turn's fate, off the loop, and call [`claim_answered`].
    /// For [`Verdict::Cancelled`] and [`Verdict::Superseded`] the durable cancel
    /// mark is written first, also where the turn turns out to have been run: its
    /// next attempt looks at it. But a turn that has a claim of its own supersedes
    /// no turn: then the answer is [`crate::amqp::messages::ClaimAnswer::Spent`]. For [`Verdict::IdTaken`]
    /// no event is published: they would reach the other turn's readers.
    ///
    /// [`claim_answered`]: super::Queue::claim_answered
    ///
    /// By a process of `disk`. `other`: that of the workspace that the verdict names.
    Claim {
        ticket: Ticket,
        turn: Arc<QueuedTurn>,
        verdict: Verdict,
        disk: Uuid,
        other: Option<Uuid>,
    },
    /// Write it to the log of homes, and report the record when it is read back
    /// ([`home_set`]), or that it could not be written ([`home_failed`]).
    ///
    /// [`home_set`]: super::Queue::home_set
    /// [`home_failed`]: super::Queue::home_failed
    SetHome { record: HomeRecord },
    /// Publish the cancel once more: a worker reports that it still runs the turn.
    /// Or for the first time, where another turn interrupts it.
    RepeatCancel {
        turn: Arc<QueuedTurn>,
        superseded_by: Option<Arc<str>>,
    },
    /// Keep, off the loop, when the turn was first received, unless that is
    /// kept already, and call [`was_received`] with how long ago it was, unless
    /// that fails.
    ///
    /// [`was_received`]: super::Queue::was_received
    Receive {
        ticket: Ticket,
        turn: Arc<QueuedTurn>,
        disk: Uuid,
    },
}

/// What became of a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Arrival {
    /// A turn of its own.
    New,
    /// A turn that is held already; acked.
    Duplicate { other_body: bool },
    /// A turn that is held already; acked together with it, as the two may be
    /// one message.
    Redelivered { other_body: bool },
}
