//! Decides when the message at the head of `codex.turns` cannot be delivered,
//! and which one it is. Pure: no clock, no I/O.
//!
//! RabbitMQ 4 takes messages over AMQP 1.0 that it cannot convert to AMQP 0-9-1,
//! such as one with a UUID among its application properties. The channel that
//! such a message is delivered to ends with `INTERNAL_ERROR`, and with it the
//! connection, over and over, on every process of the pool. What is known of
//! the message is only when a channel ended.
//!
//! # How it is found
//!
//! No other process may consume meanwhile. A consumer with a prefetch of 1 is
//! handed one message. Whether its channel is closed or ends by itself, the
//! message goes to the end of the returned ones, so such consumers go through
//! all of them in a circle. After two equal laps it is known after which
//! message a channel ends, and so when the next one to be delivered is the one
//! that cannot be. That one is consumed with `no_ack`: the broker settles it
//! before it converts it. A consumer with `no_ack` and any larger prefetch, or
//! at another message, would lose turns.
//!
//! The messages that went round are in another order now, but each was returned
//! once more than those behind it: the [intake](super::intake) puts them right.

use std::time::Duration;

use super::restarts::LASTING;

/// Crashes in a row after which an operator is alerted.
const SUSPICIOUS: u32 = 2;
/// Crashes in a row after which the message is searched for.
const CERTAIN: u32 = 3;
/// Of crashes in a row that are no lap: other messages may follow.
const MOST_ALONE: usize = 20;
const FEWEST_ALONE: usize = 3;

/// Whether the connection ended as it does when a message cannot be delivered,
/// by lapin's text for it: by the broker's `INTERNAL_ERROR` (541), or by bytes
/// that lapin cannot read.
pub(super) fn is_crash(reason: &str) -> bool {
    ["INTERNAL-ERROR", "INTERNAL_ERROR", "failed to parse"]
        .iter()
        .any(|text| reason.contains(text))
}

/// What the crashes so far say of the head of the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum HeadState {
    Deliverable,
    Suspicious,
    /// It is to be searched for.
    Undeliverable,
}

/// Counts sessions that crashed, one after the other.
#[derive(Debug, Default)]
pub(super) struct CrashCount(u32);

impl CrashCount {
    /// A session of length `lasted` has ended.
    pub(super) fn ended(&mut self, crashed: bool, lasted: Duration) {
        if !crashed || lasted >= LASTING {
            self.0 = 0;
        }
        self.0 += u32::from(crashed);
    }

    /// It was searched for, here or elsewhere: what comes must prove itself again.
    pub(super) fn tried(&mut self) {
        self.0 = 1;
    }

    pub(super) fn any(&self) -> bool {
        self.0 > 0
    }

    pub(super) fn state(&self) -> HeadState {
        match self.0 {
            ..SUSPICIOUS => HeadState::Deliverable,
            SUSPICIOUS..CERTAIN => HeadState::Suspicious,
            CERTAIN.. => HeadState::Undeliverable,
        }
    }
}

/// What became of one consumer with a prefetch of 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Seen {
    /// It was handed a message, by its fingerprint, and returned it.
    Returned(u64),
    /// Its channel ended.
    Crash,
}

/// What to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SearchStep {
    /// Consume so many messages at once, and return them.
    Rotate(u16),
    /// The message at the head is the one: consume it with `no_ack`.
    Remove,
    /// All of them were delivered: there is no such message.
    NotFound,
}

/// Goes through the returned messages in circles.
#[derive(Debug)]
pub(super) struct HeadSearch {
    seen: Vec<Seen>,
    /// Where the next lap is, that must equal the last: its first step, once
    /// two laps were equal.
    lap: Option<usize>,
    /// Messages in the queue when the search started: as many as may have been
    /// returned.
    ready: usize,
    /// A channel has ended since the search started.
    crashed: bool,
}

impl HeadSearch {
    pub(super) fn new(ready: usize) -> Self {
        Self {
            seen: Vec::new(),
            lap: None,
            ready,
            crashed: false,
        }
    }

    pub(super) fn next(&self) -> SearchStep {
        let Some(next) = self.lap else {
            return match !self.crashed && self.seen.len() > self.ready {
                true => SearchStep::NotFound,
                false => SearchStep::Rotate(1),
            };
        };
        let ahead = self.seen[next..]
            .iter()
            .take_while(|seen| **seen != Seen::Crash);
        match ahead.take(usize::from(u16::MAX)).count() {
            0 => SearchStep::Remove,
            ahead => SearchStep::Rotate(u16::try_from(ahead).unwrap_or(u16::MAX)),
        }
    }

    /// A message was handed over, and is returned.
    pub(super) fn returned(&mut self, fingerprint: u64) {
        self.note(Seen::Returned(fingerprint));
    }

    /// The channel ended.
    pub(super) fn crashed(&mut self) {
        self.crashed = true;
        self.note(Seen::Crash);
        if self.lap.is_none() {
            self.lap = self.lap();
        }
    }

    fn note(&mut self, seen: Seen) {
        if let Some(next) = self.lap {
            // Not what was foreseen: another consumer interferes, or messages
            // that were returned for the first time have joined.
            self.lap = (self.seen[next] == seen).then_some(next + 1);
            if self.lap.is_none() {
                self.seen.clear();
            }
        }
        self.seen.push(seen);
    }

    /// After a crash: where the lap before it started, if the lap before that was
    /// the same.
    fn lap(&self) -> Option<usize> {
        let (seen, end) = (&self.seen, self.seen.len());
        let alone = seen.iter().rev().take_while(|one| **one == Seen::Crash);
        let alone = alone.count();
        if alone > self.ready.clamp(FEWEST_ALONE - 1, MOST_ALONE) {
            return Some(end - 1);
        }
        (alone + 1..=end / 2)
            .find(|length| seen[end - length..] == seen[end - 2 * length..end - length])
            .map(|length| end - length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::VecDeque;

    const SOON: Duration = Duration::from_secs(1);

    #[test]
    fn crashes_count_only_in_a_row() {
        let mut count = CrashCount::default();
        count.ended(true, LASTING);
        assert_eq!(count.state(), HeadState::Deliverable);
        count.ended(true, SOON);
        assert_eq!(count.state(), HeadState::Suspicious);
        count.ended(true, SOON);
        assert_eq!(count.state(), HeadState::Undeliverable);
        count.ended(true, LASTING);
        assert_eq!(count.state(), HeadState::Deliverable);
        count.tried();
        assert!(count.any());
        count.ended(false, SOON);
        assert!(!count.any());
    }

    #[test]
    fn lapins_texts_are_recognized() {
        let refused = lapin::protocol::AMQPError::new(
            lapin::protocol::AMQPErrorKind::Hard(lapin::protocol::AMQPHardError::INTERNALERROR),
            "INTERNAL_ERROR".into(),
        );
        let refused = lapin::Error::from(lapin::ErrorKind::ProtocolError(refused));
        assert!(is_crash(&refused.to_string()), "{refused}");
        assert!(!is_crash("it was lost"));
        assert!(!is_crash(
            "CONNECTION_FORCED - broker forced connection closure"
        ));
    }

    /// Returned messages of a broker: `Err` is one that it cannot deliver.
    type Line = VecDeque<Result<u64, u64>>;

    /// Searches until one is removed; which it was, and after how many steps.
    fn remove(line: &mut Line, ready: usize) -> (Option<Result<u64, u64>>, usize) {
        let mut search = HeadSearch::new(ready);
        for steps in 0..10_000 {
            match search.next() {
                SearchStep::Remove => return (line.pop_front(), steps),
                SearchStep::NotFound => return (None, steps),
                SearchStep::Rotate(count) => {
                    let count = usize::from(count).min(line.len());
                    let out: Vec<_> = line.drain(..count).collect();
                    line.extend(&out);
                    match out.iter().copied().collect::<Result<Vec<u64>, u64>>() {
                        Ok(messages) => messages.iter().for_each(|one| search.returned(*one)),
                        Err(_) => search.crashed(),
                    }
                }
            }
        }
        panic!("not found in {line:?}");
    }

    #[test]
    fn one_alone_is_removed_though_others_wait_behind() {
        for ready in [1, 2, 5, 1_000] {
            let mut line = Line::from([Err(0)]);
            let (removed, steps) = remove(&mut line, ready);
            assert_eq!(removed, Some(Err(0)));
            assert!(steps <= MOST_ALONE + 1);
        }
    }

    #[test]
    fn g4_several_at_the_head_are_not_taken_for_all() {
        let mut line: Line = [Err(0), Err(0), Err(0), Ok(1), Ok(2)].into();
        for _ in 0..3 {
            let ready = line.len();
            assert_eq!(remove(&mut line, ready).0, Some(Err(0)));
        }
        assert!(line.iter().all(Result::is_ok));
    }

    #[test]
    fn g4_nothing_is_removed_where_all_can_be_delivered() {
        let mut line: Line = [Ok(1), Ok(2), Ok(3)].into();
        assert_eq!(remove(&mut line, 3), (None, 4));
        assert_eq!(line.len(), 3);
    }

    #[test]
    fn what_interferes_starts_the_search_again() {
        let mut search = HeadSearch::new(3);
        for _ in 0..2 {
            search.crashed();
            search.returned(1);
            search.returned(2);
        }
        search.crashed();
        assert_eq!(search.next(), SearchStep::Rotate(2));
        search.returned(2);
        assert_eq!(search.next(), SearchStep::Rotate(1));
    }

    proptest! {
        /// At any place and in any number, up to what is distinguished.
        #[test]
        fn g4_only_what_cannot_be_delivered_is_removed(
            line in prop::collection::vec(any::<bool>(), 1..40),
            behind in 0usize..50,
        ) {
            let bad = line.iter().filter(|bad| **bad).count();
            let numbered = line.iter().zip(0u64..);
            let mut line: Line = numbered
                .map(|(bad, number)| if *bad { Err(number) } else { Ok(number) })
                .collect();
            prop_assume!(bad <= MOST_ALONE);
            for _ in 0..bad {
                let ready = line.len() + behind;
                let (removed, _) = remove(&mut line, ready);
                prop_assert!(removed.is_some_and(|one| one.is_err()), "{removed:?} of {line:?}");
            }
            prop_assert!(line.iter().all(Result::is_ok));
        }
    }
}
