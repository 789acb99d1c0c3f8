//! How many waiting servers the next turns will find.
//!
//! Where conversations take turns evenly and there are more of them than servers can wait, the one that has
//! waited longest always makes way just before its turn comes: all wait in vain. And each that waits makes each cold
//! start dearer. How long ago, counted in other conversations, each of the last turns' conversations had its turn
//! before (its LRU stack distance) says for any number of servers how many of these turns would have found theirs.

use std::collections::VecDeque;

/// That many turns are looked back on.
const TURNS: usize = 256;
/// So many conversations are known; `CODEX_WARM` allows as many servers.
const CONVERSATIONS: usize = 1000;
/// For so many turns it counts that the host had room for no more servers. Then more are tried again.
const BOUND_TURNS: usize = 4 * TURNS;
/// A cold start with so many servers waiting takes twice the CPU time: codex opens some forty files of skills in
/// it, and each open wakes all servers of the same `CODEX_HOME` (1.4 of 200 ms for each server, codex 0.171.0).
const DOUBLING: usize = 128;

/// The last turns of a process.
#[derive(Debug, Default)]
pub(super) struct Reuse {
    /// Conversations by their latest turn, which is last.
    latest: VecDeque<String>,
    /// For each of the last [`TURNS`] turns: how many other conversations have had one since its own had
    /// one; `None` if it is not known to have had one.
    distances: VecDeque<Option<usize>>,
    bound: Option<Bound>,
}

/// The host had room for no more servers.
#[derive(Debug)]
struct Bound {
    servers: usize,
    /// Since then.
    turns: usize,
}

impl Reuse {
    /// A turn of that workspace starts.
    pub(super) fn record(&mut self, workspace: &str) {
        self.bound = self.bound.take().and_then(Bound::after_turn);
        let known = self.latest.iter().rposition(|known| known == workspace);
        let distance = known.map(|at| self.latest.len() - 1 - at);
        let known = known.and_then(|at| self.latest.remove(at));
        (self.latest).push_back(known.unwrap_or_else(|| workspace.to_owned()));
        if self.latest.len() > CONVERSATIONS {
            self.latest.pop_front();
        }
        self.distances.push_back(distance);
        if self.distances.len() > TURNS {
            self.distances.pop_front();
        }
    }

    /// One has to make way, as the host has room for so many servers at the most.
    pub(super) fn record_bound(&mut self, servers: usize) {
        let servers = match &self.bound {
            Some(bound) => bound.servers.min(servers),
            None => servers,
        };
        self.bound = Some(Bound { servers, turns: 0 });
    }

    /// How many servers should wait, `least` to `most` of them, so that cold starts take the least CPU time.
    pub(super) fn useful(&self, least: usize, most: usize) -> usize {
        let bound = self.bound.as_ref().map(|bound| bound.servers);
        let most = bound.map_or(most, |bound| most.min(bound.max(least)));
        if self.distances.len() < TURNS || least >= most {
            return most;
        }
        // How many turns would have found one more server, the one that has waited longest.
        let mut found_by = vec![0; most];
        for distance in self.distances.iter().flatten() {
            if let Some(found) = found_by.get_mut(*distance) {
                *found += 1;
            }
        }
        let mut cold = self.distances.len();
        let mut best = (usize::MAX, least);
        for (server, found) in found_by.into_iter().enumerate() {
            cold -= found;
            let waiting = server + 1;
            let cost = cold * (DOUBLING + waiting);
            // In doubt more: nothing has to start for them.
            if waiting >= least && cost <= best.0 {
                best = (cost, waiting);
            }
        }
        best.1
    }
}

impl Bound {
    fn after_turn(self) -> Option<Self> {
        let turns = self.turns + 1;
        (turns < BOUND_TURNS).then_some(Self { turns, ..self })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// After turns of these conversations.
    fn after(conversations: impl IntoIterator<Item = usize>) -> Reuse {
        let mut reuse = Reuse::default();
        for conversation in conversations {
            reuse.record(&format!("w{conversation}"));
        }
        reuse
    }

    #[test]
    fn all_that_turns_find_may_wait() {
        let by_turns = after((0..400).map(|n| n % 60));
        assert_eq!(by_turns.useful(16, 64), 64);
        // Some find theirs far back.
        let skewed = after((0..1000).map(|n| if n % 8 == 0 { n / 8 % 60 } else { 100 + n % 7 }));
        assert_eq!(skewed.useful(16, 200), 200);
        // With few turns there is no telling.
        assert_eq!(after(0..TURNS - 1).useful(16, 64), 64);
    }

    #[test]
    fn none_wait_in_vain() {
        // One conversation too many: the oldest server is always the next that is needed.
        assert_eq!(after((0..400).map(|n| n % 65)).useful(16, 64), 16);
        assert_eq!(after((0..400).map(|n| n % 65)).useful(16, 65), 65);
        // Each conversation has one turn.
        assert_eq!(after(0..400).useful(16, 64), 16);
        // It is forgotten when turns find their servers again.
        let better = after(
            (0..400)
                .map(|n| n % 256)
                .chain((0..TURNS + 40).map(|n| n % 40)),
        );
        assert_eq!(better.useful(16, 64), 64);
    }

    #[test]
    fn a_conversation_that_took_few_turns_ago_is_found_among_few() {
        // A busy half, and others that come once.
        let half = after((0..600).map(|n| if n % 2 == 0 { n / 2 % 20 } else { 1000 + n }));
        assert_eq!(half.useful(16, 64), 40);
    }

    #[test]
    fn what_the_host_has_room_for_bounds_them_for_a_time() {
        let mut reuse = after((0..400).map(|n| n % 100));
        assert_eq!(reuse.useful(16, 1000), 1000);
        reuse.record_bound(120);
        assert_eq!(reuse.useful(16, 1000), 120);
        reuse.record_bound(48);
        assert_eq!(reuse.useful(16, 1000), 16);
        (0..BOUND_TURNS).for_each(|n| reuse.record(&format!("w{}", n % 100)));
        assert_eq!(reuse.useful(16, 1000), 1000);
        // Those that are expected wait in any case.
        reuse.record_bound(8);
        assert_eq!(reuse.useful(16, 1000), 16);
    }

    #[test]
    fn no_more_conversations_are_known_than_servers_can_wait() {
        let reuse = after(0..3000);
        assert_eq!(reuse.latest.len(), CONVERSATIONS);
        assert_eq!(reuse.useful(1, CONVERSATIONS), 1);
    }
}
