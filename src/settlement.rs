//! What becomes of an offer: one table, for every outcome of a turn.

use crate::turn::Outcome;

/// What the worker does with the delivery that carried the offer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Settlement {
    /// The turn has ended: once its events are confirmed, report to the sequencer,
    /// which offers the workspace's next turn, and ack.
    Done,
    /// Ack and forget: the sequencer offers the turn again if no worker is
    /// heard running it, and so not at once.
    Drop,
    /// Back to the work queue, for another worker to take now.
    GiveBack,
}

impl Settlement {
    /// For a turn's span.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Drop => "dropped",
            Self::GiveBack => "returned",
        }
    }

    /// `again`: the offer was returned before.
    pub(crate) fn of(outcome: &Outcome, again: bool) -> Self {
        match outcome {
            Outcome::Ended(_) | Outcome::AlreadyEnded(_) | Outcome::Rejected { .. } => Self::Done,
            Outcome::Busy | Outcome::Held(_) => Self::Drop,
            // Another host may see the journal as it is; if all see the same, it comes after a while.
            Outcome::NotStarted(error) if error.is_old_read() && !again => Self::GiveBack,
            // The file system may take as long again to release the lock.
            Outcome::LockLost => Self::Drop,
            // Given back, it would come again at once, and this worker is well and would take it.
            Outcome::NotStarted(_) => Self::Drop,
            Outcome::Returned => Self::GiveBack,
            // Once another host's attempt must have ended; the worker keeps it unsettled until then.
            Outcome::Takeover(_) => Self::GiveBack,
            // It comes again after a while, so another turn is tried first: this one's
            // failure may be its own fault after all.
            Outcome::Unfit(finding) if finding.lack.is_of_account() => Self::Drop,
            // This worker takes no turns now, so another one will, or it waits in the queue.
            Outcome::Unfit(_) => Self::GiveBack,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{ErrorCode, Reason, TurnError};
    use crate::host::{Finding, Lack};
    use crate::turn::{Ended, NotStarted};
    use crate::workspace::StateError;

    #[test]
    fn g4_only_a_turn_that_has_ended_is_reported_done() {
        let ended = Outcome::AlreadyEnded(Ended {
            events: Vec::new(),
            other_body: false,
            decided_now: None,
            journal: None,
        });
        let rejected = Outcome::Rejected {
            error: TurnError {
                code: ErrorCode::WorkspaceRejected,
                message: "inside another".to_owned(),
                reason: Reason::Unknown,
                retryable: false,
            },
            events: Vec::new(),
        };
        let unusable = Outcome::NotStarted(NotStarted::Home(std::io::Error::other("no template")));
        let disk_full = Outcome::Unfit(Finding {
            lack: Lack::Disk,
            why: "no space left".to_owned(),
        });
        let no_login = Outcome::Unfit(Finding {
            lack: Lack::Auth,
            why: "no login".to_owned(),
        });
        let old_read = || {
            Outcome::NotStarted(NotStarted::State(StateError::OldRead {
                path: "journal".into(),
                found: "9 bytes".to_owned(),
                segment: 1,
                expected: 10,
            }))
        };
        assert_eq!(Settlement::of(&old_read(), true), Settlement::Drop);
        for (outcome, settlement) in [
            (old_read(), Settlement::GiveBack),
            (ended, Settlement::Done),
            (rejected, Settlement::Done),
            (Outcome::Busy, Settlement::Drop),
            (Outcome::LockLost, Settlement::Drop),
            (unusable, Settlement::Drop),
            (disk_full, Settlement::GiveBack),
            (no_login, Settlement::Drop),
            (Outcome::Returned, Settlement::GiveBack),
        ] {
            assert_eq!(Settlement::of(&outcome, false), settlement, "{outcome:?}");
        }
    }
}
