use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::event::{ErrorCode, SealedEvent, StopReason, Tokens, Usage};
use crate::workspace::SessionFile;

/// One line of a journal.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "record", rename_all = "snake_case")]
pub(super) enum Record {
    Segment(Segment),
    Started(Started),
    Returned(Returned),
    Finished(Box<Finished>),
}

/// The first record of each file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Segment {
    /// Counts the workspace's files from 1: names the one that a checkpoint or
    /// `journal.old` belongs to.
    pub number: u64,
    /// What the earlier files amount to, so that no reader needs them for it.
    pub baseline: Option<Baseline>,
}

/// An attempt starts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Started {
    pub turn_id: String,
    /// From 1.
    pub attempt: u32,
    /// Of the request's body.
    pub fingerprint: u32,
    pub at: Timestamp,
    pub worker: String,
    /// The thread that it resumes; `None` for a new one.
    pub thread: Option<ThreadStart>,
    /// `None` where its guard does not confirm the lock, and from older versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fence: Option<Fence>,
}

/// That the attempt's processes are killed where the lock can't be confirmed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fence {
    /// The boot of the host and the PID namespace in which they run.
    pub place: String,
    /// After so long without a confirmation.
    pub after_ms: u64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ThreadStart {
    pub id: String,
    /// The thread's token total before; `None` if unknown.
    pub base: Option<Tokens>,
    /// Bytes in the thread's rollout file before; `None` if unknown.
    pub rollout_len: Option<u64>,
}

/// An attempt was cut off by the worker's shutdown and is not charged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Returned {
    pub turn_id: String,
    pub attempt: u32,
}

/// The turn has ended, for good.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Finished {
    pub turn_id: String,
    pub attempt: u32,
    pub at: Timestamp,
    pub stop_reason: StopReason,
    pub code: Option<ErrorCode>,
    /// What all agents of the turn spent.
    pub usage: Option<Usage>,
    /// The thread that it ran in; `None` if codex never got to one.
    pub thread: Option<ThreadEnd>,
    /// Every event that the broker had not confirmed by then, the ending included.
    pub unconfirmed: Vec<SealedEvent>,
    /// `error`, if there is one, and `message_end`.
    pub ending: Vec<SealedEvent>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ThreadEnd {
    pub id: String,
    /// The thread's token total after the turn; `None` if codex never reported it.
    pub total: Option<Tokens>,
    /// Set where the session file could not be made to name the thread.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unkept: Option<Unkept>,
}

/// The session file does not name the workspace's thread. As long as it stays
/// as it was then, the journal's thread counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unkept {
    /// The thread that it named instead, if it named any.
    pub instead: Option<Uuid>,
}

/// What the next turn's usage is counted from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Baseline {
    pub thread_id: String,
    /// `None` if the thread's last turn never reported it: then its total has moved
    /// by an unknown amount.
    pub total: Option<Tokens>,
    /// The turn and attempt that left it so.
    pub turn_id: String,
    pub attempt: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unkept: Option<Unkept>,
}

impl Baseline {
    /// The thread that counts in place of what the session file says, if that
    /// could not be written, and no one has written it since.
    pub fn instead_of(&self, session: &SessionFile) -> Option<Uuid> {
        let named = match session {
            SessionFile::Thread(thread) => Some(*thread),
            SessionFile::None | SessionFile::Unusable { .. } => None,
        };
        let unkept = self.unkept.filter(|unkept| unkept.instead == named);
        unkept.and_then(|_| self.thread_id.parse().ok())
    }
}

impl Finished {
    /// `None` if it touched no thread: then the baseline stays as it is.
    pub(super) fn baseline(&self) -> Option<Baseline> {
        let thread = self.thread.as_ref()?;
        Some(Baseline {
            thread_id: thread.id.clone(),
            total: thread.total,
            turn_id: self.turn_id.clone(),
            attempt: self.attempt,
            unkept: thread.unkept,
        })
    }
}

/// All that the journal knows of one turn.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TurnHistory {
    pub started: Vec<Started>,
    /// The attempts that were cut off by a shutdown, or lost their lock.
    pub returned: Vec<u32>,
    /// A turn ends once: should there be two, the first may be published.
    pub finished: Option<Finished>,
}

impl From<Finished> for TurnHistory {
    /// Of a turn of which only the end matters.
    fn from(finished: Finished) -> Self {
        Self {
            finished: Some(finished),
            ..Self::default()
        }
    }
}

impl TurnHistory {
    /// Higher than any attempt's before.
    pub fn next_attempt(&self) -> u32 {
        let attempts = self
            .started
            .iter()
            .map(|started| started.attempt)
            .chain(self.returned.iter().copied())
            .chain(self.finished.iter().map(|finished| finished.attempt));
        attempts.max().unwrap_or(0).saturating_add(1)
    }

    /// Whether no later attempt has started.
    pub fn is_newest(&self, attempt: u32) -> bool {
        self.next_attempt() <= attempt.saturating_add(1)
    }

    /// Attempts that died with their worker: started, neither finished nor
    /// cut off by a shutdown.
    pub fn charged(&self) -> usize {
        let ended = |attempt: u32| {
            self.returned.contains(&attempt)
                || (self.finished.as_ref()).is_some_and(|finished| finished.attempt == attempt)
        };
        self.started
            .iter()
            .filter(|started| !ended(started.attempt))
            .count()
    }

    pub(super) fn add(&mut self, record: Record) {
        match record {
            Record::Segment(_) => {}
            Record::Started(started) => self.started.push(started),
            Record::Returned(returned) => self.returned.push(returned.attempt),
            Record::Finished(finished) => {
                self.finished.get_or_insert(*finished);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workspace::testing::{finished, started};

    #[test]
    fn g9_an_attempt_cut_off_by_a_shutdown_is_not_charged() {
        let mut history = TurnHistory::default();
        assert_eq!((history.next_attempt(), history.charged()), (1, 0));
        history.add(Record::Started(started("t", 1)));
        assert_eq!((history.next_attempt(), history.charged()), (2, 1));
        history.add(Record::Started(started("t", 2)));
        assert!(!history.is_newest(1) && history.is_newest(2));
        history.add(Record::Returned(Returned {
            turn_id: "t".into(),
            attempt: 2,
        }));
        assert_eq!((history.next_attempt(), history.charged()), (3, 1));
        history.add(Record::Started(started("t", 3)));
        history.add(Record::Finished(Box::new(finished("t", 3, 1))));
        assert_eq!((history.next_attempt(), history.charged()), (4, 1));
    }

    #[test]
    fn g5_the_first_of_two_endings_counts() {
        let mut history = TurnHistory::default();
        history.add(Record::Finished(Box::new(finished("t", 1, 1))));
        history.add(Record::Finished(Box::new(finished("t", 2, 2))));
        assert_eq!(history.finished.unwrap(), finished("t", 1, 1));
    }
}
