//! The work queues, and the processes that consume them: one for the whole pool
//! where it shares its root, else one for each disk. Pure.
//!
//! Each is a small pool of its own: which slot gets which head, what lies untaken,
//! and which process keeps which server is decided for each alone.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use uuid::Uuid;

use super::affinity::Affinity;
use super::held::LastOffer;
use super::{LIES_AT_MOST, WorkerReport};
use crate::homes::{Disk, SHARED};

/// A disk of which no process was heard for so long is away: five heartbeats.
pub(crate) const AWAY_AFTER: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub(super) struct HostQueue {
    pub affinity: Affinity,
    /// Offers made so far.
    pub offers: u64,
    /// The newest offer known to have been taken by a worker, by its number.
    pub taken: u64,
    /// Offers that lie in the work queue, as the broker said last.
    pub untaken: u64,
    /// New workspaces that were given to it lately.
    pub chosen: usize,
    pub host: Arc<str>,
    /// `None` in a pool that shares its root, which has no host to be away.
    pub last_heard: Option<Instant>,
    is_local: bool,
}

impl HostQueue {
    /// Whether an offer could be taken at once.
    pub(super) fn is_there(&self, now: Instant) -> bool {
        !self.is_local || self.affinity.processes.are_there(now)
    }

    /// No process of the disk has been heard for so long that offers would only lie there.
    pub(super) fn is_away(&self, now: Instant) -> bool {
        let since = self.last_heard.filter(|_| self.is_local);
        self.is_local && since.is_none_or(|at| now.saturating_duration_since(at) >= AWAY_AFTER)
    }

    pub(super) fn heard(&mut self, now: Instant) {
        self.last_heard = Some(now);
    }

    /// Whether the turn's newest offer is to be believed to wait in the work queue.
    pub(super) fn lies_untaken(&self, offer: Option<LastOffer>, now: Instant) -> bool {
        offer.is_some_and(|offer| {
            self.untaken > 0 && offer.newest > self.taken && now < offer.at + LIES_AT_MOST
        })
    }
}

#[derive(Debug)]
pub(super) struct Hosts {
    guard: Duration,
    is_local: bool,
    by_disk: HashMap<Uuid, HostQueue>,
}

impl Hosts {
    pub(super) fn shared(guard: Duration) -> Self {
        let mut hosts = Self {
            guard,
            is_local: false,
            by_disk: HashMap::new(),
        };
        hosts.open(SHARED, &"".into());
        hosts
    }

    pub(super) fn local(guard: Duration) -> Self {
        Self {
            guard,
            is_local: true,
            by_disk: HashMap::new(),
        }
    }

    /// Tickets have lost their meaning.
    pub(super) fn reset(&mut self) {
        for host in self.by_disk.values_mut() {
            host.affinity.reset();
            host.untaken = 0;
        }
    }

    pub(super) fn open(&mut self, disk: Uuid, host: &Arc<str>) -> &mut HostQueue {
        let (guard, is_local) = (self.guard, self.is_local);
        self.by_disk.entry(disk).or_insert_with(|| HostQueue {
            affinity: Affinity::new(guard),
            offers: 0,
            taken: 0,
            untaken: 0,
            chosen: 0,
            host: Arc::clone(host),
            last_heard: None,
            is_local,
        })
    }

    pub(super) fn get(&self, disk: Uuid) -> Option<&HostQueue> {
        self.by_disk.get(&disk)
    }

    pub(super) fn of(&mut self, disk: Option<Uuid>) -> Option<&mut HostQueue> {
        self.by_disk.get_mut(&disk?)
    }

    /// Where that process's disk is.
    pub(super) fn of_worker(&mut self, worker: &str) -> Option<&mut HostQueue> {
        match self.is_local {
            false => self.by_disk.get_mut(&SHARED),
            true => {
                let mut hosts = self.by_disk.values_mut();
                hosts.find(|host| host.affinity.processes.get(worker).is_some())
            }
        }
    }

    /// `None` for a process that reports no disk where each has one.
    pub(super) fn reporting(&mut self, report: &WorkerReport<'_>) -> Option<&mut HostQueue> {
        match (self.is_local, report.disk) {
            (false, _) => self.by_disk.get_mut(&SHARED),
            (true, Some(Disk { id, host })) => {
                let queue = self.open(*id, host);
                if queue.host != *host {
                    queue.host = Arc::clone(host);
                }
                Some(queue)
            }
            (true, None) => None,
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (Uuid, &HostQueue)> {
        self.by_disk.iter().map(|(disk, host)| (*disk, host))
    }
}
