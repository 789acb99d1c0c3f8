//! What the broker has delivered and the queue has not taken yet. Pure: no
//! clock, no I/O.
//!
//! The consumer's prefetch is the largest that AMQP has ([`PREFETCH`]), for any
//! the settings: the order of a workspace's turns rests on it. The broker keeps
//! what was returned to it in a queue of its own, ahead of all other messages,
//! and a channel that closes returns what it holds to that queue's *end*. So a
//! consumer that held a part, and then died, would put that part behind the
//! rest. One that always holds all returned messages cannot.
//!
//! Older processes hold a part (their `BACKLOG` was the prefetch), and so does a
//! process that isolates a message. What they leave is put in order here: the
//! broker counts how often each message was returned, and a part that was
//! returned once more was ahead of the rest. So redelivered messages are
//! gathered until no more of them come, and sorted by that count.
//!
//! # Memory
//!
//! The queue takes `BACKLOG` turns. Of those beyond, the requests are kept up
//! to [`KEPT_BYTES`], and of the rest only what it takes to hold their place.
//! When their turn comes ([`NextTurn::Again`]), the session ends, the broker has
//! everything back in order, and the next session gets the requests again.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// As many as can be. See the module.
pub(super) const PREFETCH: u16 = u16::MAX;

/// How many bytes of requests are kept beyond those that the queue takes.
pub(super) const KEPT_BYTES: usize = 64 << 20;

/// Returned messages are delivered one right after the other: after a pause of
/// this length no more are expected.
pub(super) const QUIET: Duration = Duration::from_millis(500);

/// A message's place: the more often it was returned, the further ahead it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Precedence {
    returned: Reverse<u64>,
    arrival: u64,
}

#[derive(Debug)]
struct Arrived<R, C> {
    receipt: R,
    bytes: usize,
    content: Option<C>,
}

/// Whether returned messages may still come.
#[derive(Debug, Clone, Copy)]
enum Gathering {
    NotBegun,
    Since { last: Instant },
    Over,
}

/// What the queue can take next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NextTurn<R, C> {
    Turn(R, C),
    /// There is one, but its request was not kept.
    Again,
    /// There is no such message, or returned messages may still come.
    None,
}

/// `R` is what a message is acked by, `C` what is in it.
#[derive(Debug)]
pub(super) struct Intake<R, C> {
    entries: BTreeMap<Precedence, Arrived<R, C>>,
    /// From here on its content is gone.
    first_without: Option<Precedence>,
    bytes: usize,
    kept_bytes: usize,
    arrivals: u64,
    gathering: Gathering,
}

impl<R, C> Intake<R, C> {
    /// `kept_bytes`: of contents, at most; the first is kept in any case.
    pub(super) fn new(kept_bytes: usize) -> Self {
        Self {
            entries: BTreeMap::new(),
            first_without: None,
            bytes: 0,
            kept_bytes,
            arrivals: 0,
            gathering: Gathering::NotBegun,
        }
    }

    /// `returned`: how often the broker had it back, `None` for a message that
    /// is delivered for the first time.
    pub(super) fn arrived(
        &mut self,
        now: Instant,
        returned: Option<u64>,
        receipt: R,
        content: C,
        bytes: usize,
    ) {
        self.gathering = match (returned, self.gathering) {
            // Returned messages come before all others.
            (None, _) | (Some(_), Gathering::Over) => Gathering::Over,
            (Some(_), _) => Gathering::Since { last: now },
        };
        let place = Precedence {
            returned: Reverse(returned.unwrap_or_default()),
            arrival: self.arrivals,
        };
        self.arrivals += 1;
        let kept = self.first_without.is_none_or(|first| place < first);
        let entry = Arrived {
            receipt,
            bytes: if kept { bytes } else { 0 },
            content: kept.then_some(content),
        };
        self.bytes += entry.bytes;
        self.entries.insert(place, entry);
        self.bound();
    }

    /// How many messages it has.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether every message has its content.
    pub(super) fn keeps_all(&self) -> bool {
        self.first_without.is_none()
    }

    /// When [`Intake::next`] may have one that it has not had before.
    pub(super) fn deadline(&self) -> Option<Instant> {
        match self.gathering {
            Gathering::Since { last } => Some(last + QUIET),
            Gathering::NotBegun | Gathering::Over => None,
        }
    }

    /// Takes the first one out.
    pub(super) fn next(&mut self, now: Instant) -> NextTurn<R, C> {
        if let Some(deadline) = self.deadline() {
            if now < deadline && self.entries.len() < usize::from(PREFETCH) {
                return NextTurn::None;
            }
            self.gathering = Gathering::Over;
        }
        match self.entries.first_entry() {
            None => NextTurn::None,
            Some(entry) if entry.get().content.is_none() => NextTurn::Again,
            Some(entry) => {
                let entry = entry.remove();
                self.bytes -= entry.bytes;
                match entry.content {
                    Some(content) => NextTurn::Turn(entry.receipt, content),
                    None => NextTurn::None,
                }
            }
        }
    }

    /// Drops contents from the end.
    fn bound(&mut self) {
        while self.bytes > self.kept_bytes {
            let kept = match self.first_without {
                Some(first) => self.entries.range_mut(..first).next_back(),
                None => self.entries.iter_mut().next_back(),
            };
            let Some((&place, entry)) = kept else {
                return;
            };
            if self.bytes == entry.bytes {
                return; // it is the first
            }
            self.bytes -= std::mem::take(&mut entry.bytes);
            entry.content = None;
            self.first_without = Some(place);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::VecDeque;

    fn all(intake: &mut Intake<u32, u32>, now: Instant) -> Vec<u32> {
        let mut taken = Vec::new();
        while let NextTurn::Turn(_, turn) = intake.next(now) {
            taken.push(turn);
        }
        taken
    }

    #[test]
    fn fresh_turns_are_taken_at_once_in_their_order() {
        let (mut intake, now) = (Intake::new(100), Instant::now());
        for turn in [3, 1, 2] {
            intake.arrived(now, None, turn, turn, 1);
        }
        assert_eq!(all(&mut intake, now), [3, 1, 2]);
        assert_eq!(intake.deadline(), None);
    }

    #[test]
    fn g1_a_part_that_was_returned_once_more_goes_ahead_of_the_rest() {
        let (mut intake, now) = (Intake::new(100), Instant::now());
        for turn in [4, 5, 6] {
            intake.arrived(now, Some(1), turn, turn, 1);
        }
        assert_eq!(intake.next(now), NextTurn::None);
        for turn in [1, 2, 3] {
            intake.arrived(now, Some(2), turn, turn, 1);
        }
        assert_eq!(intake.deadline(), Some(now + QUIET));
        assert_eq!(all(&mut intake, now + QUIET), [1, 2, 3, 4, 5, 6]);
        intake.arrived(now, None, 7, 7, 1);
        assert_eq!(all(&mut intake, now), [7]);
    }

    #[test]
    fn a_fresh_turn_ends_the_gathering() {
        let (mut intake, now) = (Intake::new(100), Instant::now());
        intake.arrived(now, Some(1), 2, 2, 1);
        intake.arrived(now, Some(2), 1, 1, 1);
        intake.arrived(now, None, 3, 3, 1);
        assert_eq!(all(&mut intake, now), [1, 2, 3]);
    }

    #[test]
    fn g10_requests_beyond_the_limit_are_asked_for_again() {
        let (mut intake, now) = (Intake::new(10), Instant::now());
        for turn in [1, 2, 3, 4] {
            intake.arrived(now, None, turn, turn, 4);
        }
        assert_eq!((intake.len(), intake.bytes), (4, 8));
        assert_eq!(all(&mut intake, now), [1, 2]);
        // Its place comes after those without requests.
        intake.arrived(now, None, 5, 5, 4);
        assert_eq!(intake.next(now), NextTurn::Again);
        assert_eq!((intake.len(), intake.bytes), (3, 0));
    }

    #[test]
    fn g1_g10_what_comes_late_and_was_ahead_is_kept_in_place_of_the_last() {
        let (mut intake, now) = (Intake::new(8), Instant::now());
        for turn in [3, 4, 5] {
            intake.arrived(now, Some(1), turn, turn, 4);
        }
        for turn in [1, 2] {
            intake.arrived(now, Some(2), turn, turn, 4);
        }
        assert_eq!(all(&mut intake, now + QUIET), [1, 2]);
        assert_eq!(intake.next(now + QUIET), NextTurn::Again);
    }

    #[test]
    fn g10_one_that_is_larger_than_the_limit_is_taken_all_the_same() {
        let (mut intake, now) = (Intake::new(10), Instant::now());
        intake.arrived(now, None, 1, 1, 100);
        intake.arrived(now, None, 2, 2, 1);
        assert_eq!(all(&mut intake, now), [1]);
        assert_eq!(intake.next(now), NextTurn::Again);
    }

    /// RabbitMQ's quorum queue, as far as the order goes.
    #[derive(Debug, Default)]
    struct Broker {
        returned: VecDeque<(u32, u64)>,
        fresh: VecDeque<u32>,
    }

    impl Broker {
        fn deliver(&mut self, prefetch: usize) -> Vec<(u32, Option<u64>)> {
            let mut out = Vec::new();
            while out.len() < prefetch {
                if let Some((turn, count)) = self.returned.pop_front() {
                    out.push((turn, Some(count)));
                } else if let Some(turn) = self.fresh.pop_front() {
                    out.push((turn, None));
                } else {
                    break;
                }
            }
            out
        }

        fn close(&mut self, held: impl IntoIterator<Item = (u32, Option<u64>)>) {
            let counted = held
                .into_iter()
                .map(|(turn, count)| (turn, count.unwrap_or_default() + 1));
            self.returned.extend(counted);
        }
    }

    proptest! {
        /// However many messages earlier consumers held when they died, and
        /// with all that was published in between.
        #[test]
        fn g1_any_history_of_prefetches_is_put_in_order(
            sessions in prop::collection::vec((1usize..12, 0u32..4), 0..20),
        ) {
            let mut broker = Broker::default();
            let mut published = 0;
            for (prefetch, more) in sessions {
                for _ in 0..more {
                    broker.fresh.push_back(published);
                    published += 1;
                }
                let held = broker.deliver(prefetch);
                broker.close(held);
            }
            let (mut intake, now) = (Intake::new(1_000), Instant::now());
            for (turn, returned) in broker.deliver(usize::from(PREFETCH)) {
                intake.arrived(now, returned, turn, turn, 1);
            }
            let wanted: Vec<u32> = (0..published).collect();
            prop_assert_eq!(all(&mut intake, now + QUIET), wanted);
        }
    }
}
