//! Outcomes that label series, and are no part of other interfaces.

use crate::amqp::reply::ReplyOutcome;

/// The outcome of an offer after its workspace's journal was read in an old state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OldRead {
    /// A later read showed all of it.
    Recovered,
    /// No read did, so the offer was returned.
    Returned,
}

impl OldRead {
    pub const ALL: [Self; 2] = [Self::Recovered, Self::Returned];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Recovered => "recovered",
            Self::Returned => "returned",
        }
    }
}

/// What became of an offer, as far as its sequencer knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OfferAnswer {
    Taken,
    /// A private one, which the broker has moved to the shared queue.
    Declined,
    /// A private one that did not arrive.
    Returned,
    /// A private one without an answer.
    NoWord,
}

/// What became of a producer's question where a turn is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DescriptionOutcome {
    Sent,
    /// The queue for the answer is gone.
    Unroutable,
    /// The records could not be read, or the broker did not confirm the answer.
    Failed,
    /// There were too many.
    Dropped,
}

impl DescriptionOutcome {
    pub const ALL: [Self; 4] = [Self::Sent, Self::Unroutable, Self::Failed, Self::Dropped];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Sent => "sent",
            Self::Unroutable => "unroutable",
            Self::Failed => "failed",
            Self::Dropped => "dropped",
        }
    }
}

impl From<ReplyOutcome> for DescriptionOutcome {
    fn from(outcome: ReplyOutcome) -> Self {
        match outcome {
            ReplyOutcome::Sent => Self::Sent,
            ReplyOutcome::Unroutable => Self::Unroutable,
            ReplyOutcome::Failed | ReplyOutcome::Refused => Self::Failed,
        }
    }
}

impl OfferAnswer {
    pub const ALL: [Self; 4] = [Self::Taken, Self::Declined, Self::Returned, Self::NoWord];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Taken => "taken",
            Self::Declined => "declined",
            Self::Returned => "returned",
            Self::NoWord => "no_word",
        }
    }
}

/// Where a turn's server comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServerStart {
    /// It has waited here since the workspace's last turn.
    Warm,
    Cold,
    /// It is started, and one that waited has made way, mostly in another process.
    TookOver,
}

impl ServerStart {
    pub const ALL: [Self; 3] = [Self::Warm, Self::Cold, Self::TookOver];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Warm => "warm",
            Self::Cold => "cold",
            Self::TookOver => "took_over",
        }
    }
}
