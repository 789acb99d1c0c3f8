//! Who may keep a connection open: a new one always, at the cost of an older one.
//!
//! A connection that has sent its whole head moves on to be answered, and those
//! two phases have limits of their own. So connections that send no request take
//! no room from answers, and clients that do not read their answers take none
//! from new requests.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;

/// The connections of both phases; cheap to clone, all clones share them.
#[derive(Debug, Clone)]
pub(super) struct ConnectionLimit {
    shared: Arc<Mutex<Phases>>,
}

#[derive(Debug)]
struct Phases {
    next_number: u64,
    asking: Phase,
    answered: Phase,
}

/// Connections by the order in which they came.
#[derive(Debug)]
struct Phase {
    most: usize,
    held: BTreeMap<u64, Guest>,
}

#[derive(Debug, Clone)]
struct Guest {
    peer: IpAddr,
    evicted: CancellationToken,
}

/// One connection's permit, until it is dropped.
#[derive(Debug)]
pub(super) struct ConnectionPermit {
    limit: ConnectionLimit,
    number: u64,
    evicted: CancellationToken,
    asked: CancellationToken,
}

impl ConnectionLimit {
    /// How many connections may be in each phase, at least one.
    pub(super) fn new(asking: usize, answered: usize) -> Self {
        let phase = |most: usize| Phase {
            most: most.max(1),
            held: BTreeMap::new(),
        };
        let phases = Phases {
            next_number: 0,
            asking: phase(asking),
            answered: phase(answered),
        };
        Self {
            shared: Arc::new(Mutex::new(phases)),
        }
    }

    /// A permit for a new connection.
    pub(super) fn enter(&self, peer: IpAddr) -> ConnectionPermit {
        let evicted = CancellationToken::new();
        let guest = Guest {
            peer,
            evicted: evicted.clone(),
        };
        let mut phases = self.lock();
        let number = phases.next_number;
        phases.next_number += 1;
        phases.asking.admit(number, guest);
        drop(phases);
        ConnectionPermit {
            limit: self.clone(),
            number,
            evicted,
            asked: CancellationToken::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Phases> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ConnectionPermit {
    /// The whole head has come. Called for each request of the connection.
    pub(super) fn answer(&self) {
        self.asked.cancel();
        let mut phases = self.limit.lock();
        if let Some(guest) = phases.asking.held.remove(&self.number) {
            phases.answered.admit(self.number, guest);
        }
    }

    /// Until the whole head has come.
    pub(super) async fn asked(&self) {
        self.asked.cancelled().await;
    }

    /// Until the permit is needed for a newer connection.
    pub(super) async fn evicted(&self) {
        self.evicted.cancelled().await;
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        let mut phases = self.limit.lock();
        phases.asking.held.remove(&self.number);
        phases.answered.held.remove(&self.number);
    }
}

impl Phase {
    fn admit(&mut self, number: u64, guest: Guest) {
        while self.held.len() >= self.most
            && let Some(oldest) = self.oldest_of_the_most()
            && let Some(guest) = self.held.remove(&oldest)
        {
            guest.evicted.cancel();
        }
        self.held.insert(number, guest);
    }

    /// The oldest connection of the peer that has the most: one that opens many
    /// competes with itself first.
    fn oldest_of_the_most(&self) -> Option<u64> {
        let mut counts: HashMap<IpAddr, usize> = HashMap::new();
        for guest in self.held.values() {
            *counts.entry(guest.peer).or_default() += 1;
        }
        let most = counts.values().copied().max()?;
        let mut oldest_first = self.held.iter();
        let (number, _) = oldest_first.find(|(_, guest)| counts.get(&guest.peer) == Some(&most))?;
        Some(*number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(number: u8) -> IpAddr {
        [10, 0, 0, number].into()
    }

    fn evicted(permits: &[ConnectionPermit]) -> Vec<bool> {
        permits
            .iter()
            .map(|permit| permit.evicted.is_cancelled())
            .collect()
    }

    #[test]
    fn the_oldest_connection_makes_room_for_a_new_one() {
        let limit = ConnectionLimit::new(2, 2);
        let entered: Vec<_> = (0..3).map(|_| limit.enter(peer(1))).collect();
        assert_eq!(evicted(&entered), [true, false, false]);
    }

    #[test]
    fn a_connection_that_ends_frees_its_place() {
        let limit = ConnectionLimit::new(2, 1);
        let kept = limit.enter(peer(1));
        drop(limit.enter(peer(1)));
        let answered = limit.enter(peer(1));
        answered.answer();
        let last = limit.enter(peer(1));
        assert_eq!(evicted(&[kept, answered, last]), [false; 3]);
    }

    #[test]
    fn a_peer_with_many_connections_competes_with_itself() {
        let limit = ConnectionLimit::new(4, 4);
        let probe = limit.enter(peer(1));
        let many: Vec<_> = (0..5).map(|_| limit.enter(peer(2))).collect();
        assert_eq!(evicted(&many), [true, true, false, false, false]);
        assert!(!probe.evicted.is_cancelled());
    }

    #[test]
    fn the_two_phases_take_no_place_from_each_other() {
        let limit = ConnectionLimit::new(2, 2);
        let answered: Vec<_> = (0..3).map(|_| limit.enter(peer(1))).collect();
        answered[1].answer();
        answered[2].answer();
        let asking: Vec<_> = (0..3).map(|_| limit.enter(peer(1))).collect();
        assert_eq!(evicted(&answered), [true, false, false]);
        assert_eq!(evicted(&asking), [true, false, false]);
        // A second request on the same connection does not change that, nor does an evicted one's.
        answered[1].answer();
        answered[0].answer();
        asking[2].answer();
        assert_eq!(evicted(&answered), [true, true, false]);
    }
}
