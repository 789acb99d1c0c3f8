//! What the sequencers of a pool report of themselves: whether a consumer that is
//! no sequencer gets the turns, and which of them answers producers. Pure.
//!
//! The broker says only how many consumers are active, which on a queue with a
//! single active consumer is one at most, and not which. So it is inferred from
//! what the sequencers report, and from turns that no sequencer gets.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::amqp::topology::Depth;
use crate::heartbeat::{HEARTBEAT, LISTEN};

/// A sequencer reports with every heartbeat; a few may be late or lost.
const KNOWN_FOR: Duration = HEARTBEAT.saturating_mul(5);
/// Of strangers' reports, no more are kept.
const MOST: usize = 500;
/// Looks in a row: a sequencer may just have come, or be going.
const LOOKS: u32 = 2;

/// The other sequencers of the pool, by what is heard on the status exchange.
#[derive(Debug)]
pub(super) struct Peers {
    me: String,
    since: Instant,
    heard: HashMap<String, Peer>,
    /// Something consumed before this process did.
    came_second: bool,
    /// Turns have come to this process since the last look.
    delivered: bool,
    /// Looks in a row with turns ready, of which no sequencer got any.
    stalled: u32,
    /// At the last look the broker took no publishes, so others could not report.
    muted: bool,
}

/// What another sequencer reported last.
#[derive(Debug, Clone, Copy)]
struct Peer {
    at: Instant,
    report: PeerReport,
}

/// What a sequencer reports of itself, as far as the others decide by it.
#[derive(Debug, Clone, Copy)]
pub(super) struct PeerReport {
    pub active: bool,
    /// It would answer producers' questions.
    pub describes: bool,
    /// It holds its lock in this pool's workspace root, so it can read the records.
    pub has_storage: bool,
}

impl Peers {
    /// `before`: consumers that were there before this process.
    pub(super) fn new(now: Instant, me: &str, before: u64) -> Self {
        Self {
            me: me.to_owned(),
            since: now,
            heard: HashMap::new(),
            came_second: before > 0,
            delivered: false,
            stalled: 0,
            muted: false,
        }
    }

    pub(super) fn heard(&mut self, now: Instant, process: String, report: PeerReport) {
        self.forget(now);
        let known = self.heard.len() < MOST || self.heard.contains_key(&process);
        if process != self.me && known {
            self.heard.insert(process, Peer { at: now, report });
        }
    }

    /// Whether another sequencer could take over, with storage that works.
    pub(super) fn any_with_storage(&mut self, now: Instant) -> bool {
        self.forget(now);
        self.heard.values().any(|peer| peer.report.has_storage)
    }

    /// Whether this process answers producers' questions. The active sequencer
    /// does. The broker names it only by giving it a turn, so without a known one
    /// to be active, the process with the smallest id does.
    pub(super) fn is_to_describe(&mut self, now: Instant, active: bool) -> bool {
        self.forget(now);
        let yields_to = |(process, peer): (&String, &Peer)| {
            peer.report.active || peer.report.describes && *process < self.me
        };
        let has_listened = now.duration_since(self.since) >= LISTEN;
        active || has_listened && !self.heard.iter().any(yields_to)
    }

    /// A turn has come: this process is the one.
    pub(super) fn delivered(&mut self) {
        self.delivered = true;
        self.came_second = false;
    }

    /// `room`: this process can hold more turns. `muted`: the broker takes no
    /// publishes, so silence of other processes is no sign. Returns
    /// what was found if something else gets the turns.
    pub(super) fn look(
        &mut self,
        now: Instant,
        queue: &str,
        depth: Depth,
        room: bool,
        muted: bool,
    ) -> Option<String> {
        self.forget(now);
        // Afterwards others get the time to report again.
        if std::mem::replace(&mut self.muted, muted) || muted {
            self.since = now;
            self.stalled = 0;
            return None;
        }
        let others_active = self.heard.values().any(|peer| peer.report.active);
        let delivered = std::mem::take(&mut self.delivered);
        let stalls = depth.ready > 0 && depth.consumers > 0 && room;
        if others_active {
            self.came_second = false;
        }
        if others_active || delivered || !stalls {
            self.stalled = 0;
        } else {
            self.stalled += 1;
        }
        let listened = now.duration_since(self.since) >= KNOWN_FOR;
        if self.stalled >= LOOKS {
            let ready = depth.ready;
            return Some(format!(
                "found {ready} turns ready in {queue} and a consumer that takes none of them as a sequencer, expected that a sequencer gets them: {REMEDY}"
            ));
        }
        (self.came_second && listened && self.heard.is_empty())
            .then(|| foreign_consumer(queue, 1, 0))
    }

    fn forget(&mut self, now: Instant) {
        self.heard
            .retain(|_, peer| now.duration_since(peer.at) < KNOWN_FOR);
    }
}

const REMEDY: &str = "another program takes turns, or a sequencer is too old to report; find it with rabbitmqctl list_consumers, and stop it";

/// What is reported of more consumers than sequencers.
pub fn foreign_consumer(queue: &str, consumers: u64, sequencers: u64) -> String {
    format!(
        "found {consumers} consumers on {queue}, expected {sequencers} for the sequencers that report themselves: {REMEDY}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn depth(ready: u64) -> Depth {
        Depth {
            ready,
            consumers: 1,
        }
    }

    fn hear(peers: &mut Peers, now: Instant, process: String, active: bool, describes: bool) {
        let report = PeerReport {
            active,
            describes,
            has_storage: false,
        };
        peers.heard(now, process, report);
    }

    #[test]
    fn g2_only_a_live_sequencer_with_storage_can_take_over() {
        let now = Instant::now();
        let mut peers = Peers::new(now, "me", 0);
        hear(&mut peers, now, "without".to_owned(), false, true);
        assert!(!peers.any_with_storage(now));
        let report = PeerReport {
            active: false,
            describes: true,
            has_storage: true,
        };
        peers.heard(now, "me".to_owned(), report);
        assert!(!peers.any_with_storage(now));
        peers.heard(now, "with".to_owned(), report);
        assert!(peers.any_with_storage(now));
        assert!(!peers.any_with_storage(now + KNOWN_FOR));
    }

    #[test]
    fn turns_that_no_sequencer_gets_are_found_at_the_second_look() {
        let now = Instant::now();
        let mut peers = Peers::new(now, "me", 0);
        hear(&mut peers, now, "me".to_owned(), true, true);
        hear(&mut peers, now, "standby".to_owned(), false, true);
        assert_eq!(peers.look(now, "q", depth(3), true, false), None);
        assert!(peers.look(now, "q", depth(3), true, false).is_some());
        peers.delivered();
        assert_eq!(peers.look(now, "q", depth(3), true, false), None);
        for _ in 0..LOOKS {
            assert_eq!(peers.look(now, "q", depth(0), true, false), None);
            assert_eq!(peers.look(now, "q", depth(3), false, false), None);
        }
        hear(&mut peers, now, "active".to_owned(), true, true);
        for _ in 0..LOOKS {
            assert_eq!(peers.look(now, "q", depth(3), true, false), None);
        }
    }

    #[test]
    fn a_consumer_that_was_there_before_the_only_sequencer_is_found() {
        let start = Instant::now();
        let later = start + KNOWN_FOR;
        let mut peers = Peers::new(start, "me", 1);
        // Others may not have reported yet.
        assert_eq!(peers.look(start, "q", depth(0), true, false), None);
        hear(&mut peers, later, "me".to_owned(), false, true);
        assert!(peers.look(later, "q", depth(0), true, false).is_some());
        // It may be that one.
        hear(&mut peers, later, "other".to_owned(), false, true);
        assert_eq!(peers.look(later, "q", depth(0), true, false), None);
        let mut peers = Peers::new(start, "me", 1);
        peers.delivered();
        assert_eq!(peers.look(later, "q", depth(0), true, false), None);
    }

    #[test]
    fn a_broker_that_takes_no_publishes_makes_no_consumer_foreign() {
        let start = Instant::now();
        let mut peers = Peers::new(start, "me", 1);
        hear(&mut peers, start, "active".to_owned(), true, true);
        let mut second = Peers::new(start, "me", 1);
        let mut now = start;
        for _ in 0..=LOOKS {
            now += KNOWN_FOR;
            for peers in [&mut peers, &mut second] {
                assert_eq!(peers.look(now, "q", depth(3), true, true), None);
            }
        }
        // The first reports after it may take as long as at the start.
        for peers in [&mut peers, &mut second] {
            assert_eq!(
                peers.look(now + KNOWN_FOR, "q", depth(0), true, false),
                None
            );
        }
        let later = now + KNOWN_FOR * 2;
        let found = second.look(later, "q", depth(0), true, false);
        assert!(found.is_some());
        hear(&mut peers, later, "active".to_owned(), true, true);
        assert_eq!(peers.look(later, "q", depth(0), true, false), None);
    }

    #[test]
    fn one_sequencer_answers_questions_the_active_one_if_it_is_known() {
        let start = Instant::now();
        let now = start + LISTEN;
        let mut peers = Peers::new(start, "m", 0);
        assert!(!peers.is_to_describe(start, false), "others may be there");
        assert!(peers.is_to_describe(start, true));
        assert!(peers.is_to_describe(now, false));
        hear(&mut peers, now, "z".to_owned(), false, true);
        // It has no queue for questions, or is too old to answer any.
        hear(&mut peers, now, "b".to_owned(), false, false);
        assert!(peers.is_to_describe(now, false));
        hear(&mut peers, now, "a".to_owned(), false, true);
        assert!(!peers.is_to_describe(now, false));
        assert!(peers.is_to_describe(now, true));
        assert!(peers.is_to_describe(now + KNOWN_FOR, false));
        hear(&mut peers, now + KNOWN_FOR, "z".to_owned(), true, false);
        assert!(!peers.is_to_describe(now + KNOWN_FOR, false));
    }

    #[test]
    fn g10_few_reports_are_kept() {
        let now = Instant::now();
        let mut peers = Peers::new(now, "me", 0);
        for number in 0..2 * MOST {
            hear(&mut peers, now, number.to_string(), false, true);
        }
        assert_eq!(peers.heard.len(), MOST);
    }
}
