//! The processes that were heard, and what follows from what they report. Pure.
//!
//! A process stands back if another one, with another root, outranks its own
//! camp. A camp is the processes of one root. In this order:
//!
//! 1. A camp that is in service outranks one that is not, so a newcomer never
//!    stops a pool; and one that starts outranks one that stands back, so a
//!    pool that is restarted finds its place again.
//! 2. Of two in service (they could not hear each other before), the one that
//!    has run for longer stays, by uptimes: clocks may differ. Uptimes are
//!    compared at the time of hearing, so two processes may measure a little
//!    differently. Near the limit both then stand back rather than both go on,
//!    and the third rule decides.
//! 3. Of two that both start, or stand back, the smaller id goes on. That needs no
//!    measurement, so all processes decide alike.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use uuid::Uuid;

use super::agreement::{Agreement, LOCAL_POOL, Standing, printable, settings_of};
use super::clock::{Skew, TOLERATED};
use crate::amqp::messages::HomesReport;
use crate::config::Settings;
use crate::heartbeat::HEARTBEAT;
use crate::homes::Disk;
use crate::workspace::{ProbeRound, Property};

/// Kept of what is heard, in processes.
const MAX_PEERS: usize = 500;
const MAX_ID_CHARS: usize = 200;
/// A process that was not heard for so long, while listening, has ended.
const GONE: Duration = HEARTBEAT.saturating_mul(3);
/// Processes that started within this time of each other are of one age.
const SAME_AGE: Duration = Duration::from_secs(5);
/// What the two sides may differ by in measuring that.
const AGE_ERROR: Duration = Duration::from_secs(1);
/// How often a lock that is held as it should be is retried.
const LOCK_PERIOD: Duration = Duration::from_secs(300);
/// A process must be heard this long after its lock could be taken: what
/// was under way when it died does not count.
const LOCK_SETTLE: Duration = Duration::from_secs(2);
/// How often a lock must have been free while its process lived.
const LOCK_MISSES: u32 = 2;
/// How often a round is read of a process of which enough were.
const PROBE_PERIOD: Duration = Duration::from_secs(300);
/// A process reports in several ways, and a round twice.
const PROBE_PAUSE: Duration = Duration::from_secs(1);

/// What the other processes are compared with.
#[derive(Debug, Clone)]
pub struct Own {
    pub id: String,
    /// As the processes of the pool have it in common, see [`Agreement::root`].
    pub root: Uuid,
    pub disk: Option<Disk>,
    pub settings: BTreeMap<String, String>,
    pub started: Instant,
}

impl Own {
    pub fn new(id: &str, root: Uuid, settings: &Settings) -> Self {
        let disk = settings.disk(root);
        Self {
            id: id.to_owned(),
            root: disk.as_ref().map_or(root, |_| LOCAL_POOL),
            disk,
            settings: settings_of(settings),
            started: Instant::now(),
        }
    }
}

#[derive(Debug)]
pub struct Roster {
    own: Own,
    peers: BTreeMap<String, Peer>,
    /// For how long this process has listened, in sum.
    listened: Duration,
    /// How many rounds of each process are to be read at first.
    rounds: u32,
    /// The sequencer that reports this host's disk lost.
    lost: Option<String>,
}

#[derive(Debug)]
struct Peer {
    agreement: Agreement,
    /// By this process's clock; the earliest that its reports have shown.
    started: Instant,
    /// When it was last heard, in time that was spent listening.
    heard: Duration,
    clock: Skew,
    lock: LockRecord,
    probe: ProbeRecord,
}

/// What was found when another process's lock was tried.
#[derive(Debug, Default)]
struct LockRecord {
    misses: u32,
    tried: Option<Instant>,
    heard_since: bool,
    broken: bool,
}

/// What was found when another process's rounds were read.
#[derive(Debug, Default)]
struct ProbeRecord {
    /// How many were seen as they should be.
    good: u32,
    checked: Option<Instant>,
    /// What was not there. Its process may have ended, and removed its files.
    suspected: Option<(Instant, Property)>,
    /// For good: what was seen too late once may be so again.
    unseen: Option<Property>,
}

/// What is known of one other process, for an operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerCheck {
    pub process: String,
    pub same_root: bool,
    pub same_host: bool,
    /// `None` if its lock was not tried.
    pub lock_holds: Option<bool>,
    /// How many of its rounds were read; `None` if it does not report that, as older versions do.
    pub rounds: Option<u32>,
    pub unseen: Option<Property>,
}

/// What is wrong, in words for the operator.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Findings {
    pub root: Option<String>,
    pub locks: Option<String>,
    pub reads: Option<String>,
    pub settings: Option<String>,
    pub clock: Option<String>,
    /// The sequencer that reports this host's disk lost.
    pub lost: Option<String>,
    /// The process that is in the way of this one, which must take no turns.
    pub yields_to: Option<String>,
}

#[derive(Debug, Clone, Copy)]
struct Rank<'a> {
    standing: Standing,
    started: Instant,
    key: &'a str,
}

impl Findings {
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl Roster {
    pub fn new(own: Own) -> Self {
        Self {
            own,
            peers: BTreeMap::new(),
            listened: Duration::ZERO,
            rounds: 0,
            lost: None,
        }
    }

    /// So many rounds of each process are to be read at first.
    #[must_use]
    pub fn reading(self, rounds: u32) -> Self {
        Self { rounds, ..self }
    }

    /// A report of another process, at `now`, which is `clock` on this host.
    pub fn heard(&mut self, now: Instant, clock: Timestamp, process: &str, reported: &Agreement) {
        let process = printable(process, MAX_ID_CHARS);
        if process == self.own.id {
            return;
        }
        if !self.peers.contains_key(&process) && self.peers.len() >= MAX_PEERS && !self.forget_one()
        {
            return;
        }
        let uptime = Duration::from_millis(reported.uptime_ms);
        // Longer than this host is up: taken for this process's own age.
        let started = now.checked_sub(uptime).unwrap_or(self.own.started);
        let listened = self.listened;
        let peer = self.peers.entry(process).or_insert_with(|| Peer {
            agreement: reported.bounded(),
            started,
            heard: listened,
            clock: Skew::default(),
            lock: LockRecord::default(),
            probe: ProbeRecord::default(),
        });
        peer.started = peer.started.min(started);
        peer.heard = listened;
        peer.clock.heard(reported.clock, clock);
        match reported.holds_lock {
            true => peer.lock.heard(now),
            // It knows that it has lost it, as a host without its storage does.
            false => peer.lock = LockRecord::default(),
        }
        peer.probe.heard(now);
        peer.agreement = reported.bounded();
    }

    /// The active sequencer's report of where workspaces live.
    pub fn homes_heard(&mut self, sequencer: &str, report: &HomesReport) {
        let own = self.own.disk.as_ref();
        if own.is_some_and(|disk| report.has_lost(disk.id)) {
            self.lost = Some(printable(sequencer, MAX_ID_CHARS));
        }
    }

    /// Whether it must hear the active sequencer before it takes turns.
    pub fn must_hear_sequencer(&self) -> bool {
        self.own.disk.is_some()
    }

    /// This process has listened for so long since the last call.
    pub fn listened(&mut self, time: Duration) {
        self.listened += time;
    }

    /// How many other processes are there.
    pub fn count(&self) -> usize {
        self.live().count()
    }

    /// A process of this root is in service, and no other root's.
    pub fn own_root_is_in_service(&self) -> bool {
        let in_service = self.live().filter(|(_, peer)| peer.agreement.in_service);
        let mut in_service = in_service.peekable();
        in_service.peek().is_some() && in_service.all(|(_, peer)| !self.conflicts(peer))
    }

    /// A lock could be taken, and it is not yet known whether its process lives; or too few
    /// rounds of a process were read.
    pub fn is_in_doubt(&self) -> bool {
        let mut live = self.live();
        live.any(|(_, peer)| {
            (peer.lock.misses > 0 && !peer.lock.broken)
                || peer.probe.is_suspected()
                || self.has_to_be_read(peer)
        })
    }

    /// Whether both have the records of one root before them.
    fn shares_disk(&self, peer: &Peer) -> bool {
        let id = |disk: &Option<Disk>| disk.as_ref().map(|disk| disk.id);
        peer.agreement.root == self.own.root && id(&peer.agreement.disk) == id(&self.own.disk)
    }

    fn has_to_be_read(&self, peer: &Peer) -> bool {
        self.shares_disk(peer)
            && peer.agreement.probe.is_some()
            && peer.probe.good < self.rounds
            && peer.probe.suspected.is_none()
    }

    /// The round of that process which was just reported, if it is to be read.
    pub fn round_to_read(&self, now: Instant, process: &str) -> Option<ProbeRound> {
        let peer = self.peers.get(process)?;
        let round = peer.agreement.probe?;
        let pause = match self.has_to_be_read(peer) {
            true => PROBE_PAUSE,
            false => PROBE_PERIOD,
        };
        let is_due = peer
            .probe
            .checked
            .is_none_or(|at| now.duration_since(at) >= pause);
        let is_of_use = self.rounds > 0 && self.shares_disk(peer) && peer.probe.suspected.is_none();
        (is_due && is_of_use).then_some(round)
    }

    /// Processes of which the next round is to be read, with its number.
    pub fn rounds_to_expect(&self, most: usize) -> Vec<(String, u64)> {
        let due = self.live().filter(|(_, peer)| self.has_to_be_read(peer));
        let next = due.filter_map(|(id, peer)| {
            Some((id.clone(), peer.agreement.probe?.number.saturating_add(1)))
        });
        next.take(most).collect()
    }

    /// A round was read that was reported; `unseen`: what was not there.
    pub fn round_read(&mut self, now: Instant, process: &str, unseen: Option<Property>) {
        if let Some(peer) = self.peers.get_mut(process) {
            peer.probe.checked = Some(now);
            match unseen {
                None => peer.probe.good = peer.probe.good.saturating_add(1),
                Some(property) => peer.probe.suspected = Some((now, property)),
            }
        }
    }

    /// What is known of each process that is there, for an operator.
    pub fn peer_checks(&self) -> Vec<PeerCheck> {
        let check = |(id, peer): (&String, &Peer)| PeerCheck {
            process: id.clone(),
            same_root: peer.agreement.root == self.own.root,
            same_host: host_of(id) == host_of(&self.own.id),
            lock_holds: peer.lock.tried.map(|_| peer.lock.misses == 0),
            rounds: peer.agreement.probe.map(|_| peer.probe.good),
            unseen: peer.probe.unseen,
        };
        // Processes of another disk have no records in common with this one.
        let compared = |(_, peer): &(&String, &Peer)| {
            peer.agreement.root != self.own.root || self.shares_disk(peer)
        };
        self.live().filter(compared).map(check).collect()
    }

    /// Processes of which the locks are to be tried now.
    pub fn locks_to_try(&self, now: Instant, most: usize) -> Vec<String> {
        let due = self.live().filter(|(_, peer)| {
            self.shares_disk(peer) && peer.agreement.holds_lock && peer.lock.is_due(now)
        });
        due.map(|(id, _)| id.clone()).take(most).collect()
    }

    /// The lock of a process was tried; `held`: that process, or another, had it.
    pub fn lock_tried(&mut self, now: Instant, process: &str, held: bool) {
        if let Some(peer) = self.peers.get_mut(process) {
            peer.lock.tried(now, held);
        }
    }

    /// By how much the clock of the process's host is ahead of this one's;
    /// `None` if that is unknown, or within what is tolerated.
    pub fn clock_ahead(&self, process: &str) -> Option<SignedDuration> {
        let host = host_of(process)?;
        if host_of(&self.own.id) == Some(host) {
            return None;
        }
        let of_host = |id: &String| host_of(id) == Some(host);
        let mut peers = self.peers.iter();
        let same_host = peers.find(|(id, peer)| of_host(id) && peer.clock.ahead().is_some());
        let peer = self.peers.get(process).or(same_host.map(|(_, peer)| peer));
        peer?.clock.ahead()
    }

    /// Whether that process was heard lately.
    pub fn is_there(&self, process: &str) -> bool {
        self.live().any(|(id, _)| id == process)
    }

    pub fn findings(&self, now: Instant, standing: Standing) -> Findings {
        let root = self.outranked_by(now, standing, false);
        let of_lock = self.outranked_by(now, standing, true);
        let broken = self.live().find(|(_, peer)| peer.lock.broken);
        let mut live = self.live();
        let stale = live.find_map(|(id, peer)| Some((id, peer.probe.unseen?)));
        Findings {
            yields_to: root.or(of_lock).map(|(id, _)| id.clone()),
            lost: self.lost.clone(),
            root: root.map(|(id, peer)| match self.own.root == LOCAL_POOL || peer.agreement.root == LOCAL_POOL {
                true => format!(
                    "found TURN_WORKER_WORKSPACE_STORAGE={} here, expected {}, which process {id} has: \
                     set the same in all processes, or use another TURN_WORKER_PREFIX; no turns are taken",
                    storage(self.own.root), storage(peer.agreement.root)
                ),
                false => format!(
                    "found workspace root {} here, expected root {}, which process {id} has: \
                     mount the pool's root at TURN_WORKER_WORKSPACE_ROOT, or use another TURN_WORKER_PREFIX; \
                     no turns are taken",
                    self.own.root, peer.agreement.root
                ),
            }),
            locks: broken.map(|(id, _)| {
                format!(
                    "found that the lock of process {id}, which lives, can be taken here, expected it to be held: \
                     the workspace root is a copy, or its file system does not lock between these hosts or mounts"
                )
            }),
            reads: stale.map(|(id, property)| {
                format!(
                    "what process {id} had written and reported was not seen here at once ({}), expected it to be: \
                     the workspace root is a copy, or its file system's caches are not coherent between these hosts or mounts",
                    property.as_str()
                )
            }),
            settings: self.settings_differ(),
            clock: self.clock_differs(),
        }
    }

    fn settings_differ(&self) -> Option<String> {
        let mut found: BTreeMap<&str, (&str, &str, &str, usize)> = BTreeMap::new();
        for (id, peer) in self.live() {
            for (name, theirs) in &peer.agreement.settings {
                let Some(ours) = self.own.settings.get(name) else {
                    continue;
                };
                if ours != theirs {
                    found.entry(name).or_insert((ours, theirs, id, 0)).3 += 1;
                }
            }
        }
        let texts: Vec<_> = found
            .iter()
            .map(|(name, (ours, theirs, id, count))| {
                let more = match count - 1 {
                    0 => String::new(),
                    more => format!(" and differs at {more} more"),
                };
                format!("{name} is {ours} here, {theirs} at process {id}{more}")
            })
            .collect();
        (!texts.is_empty()).then(|| format!("{}; expected equal settings", texts.join("; ")))
    }

    fn clock_differs(&self) -> Option<String> {
        let skews = self
            .live()
            .filter_map(|(id, peer)| Some((id, peer.clock.ahead()?)));
        let (id, ahead) = skews.max_by_key(|(_, ahead)| ahead.abs())?;
        let direction = if ahead.is_positive() {
            "ahead of"
        } else {
            "behind"
        };
        Some(format!(
            "the clock of process {id} is {:.1} s {direction} this one, expected at most {} s: synchronize the hosts' clocks (NTP)",
            ahead.abs().as_secs_f64(),
            TOLERATED.as_secs()
        ))
    }

    /// The process that this one stands back for, if there is one: of another
    /// root, or, `same_root`, of the same one with locks that do not exclude.
    fn outranked_by(
        &self,
        now: Instant,
        standing: Standing,
        same_root: bool,
    ) -> Option<(&String, &Peer)> {
        let own_root = self.own.root.to_string();
        let own_key = if same_root { &self.own.id } else { &own_root };
        let friends = self.live().filter(|(_, peer)| !self.conflicts(peer));
        let friends = friends.map(|(_, peer)| (peer.agreement.standing(), peer.started));
        let own = camp(friends.chain([(standing, self.own.started)]), own_key, now);
        let others = self.live().filter(|(_, peer)| {
            self.conflicts(peer) && (peer.agreement.root == self.own.root) == same_root
        });
        for (id, peer) in others {
            let root = peer.agreement.root;
            let key = if same_root {
                id.clone()
            } else {
                root.to_string()
            };
            let members = self
                .live()
                .filter(|(member, one)| match same_root {
                    true => *member == id,
                    false => one.agreement.root == root,
                })
                .map(|(_, one)| (one.agreement.standing(), one.started));
            if own.yields_to(camp(members, &key, now)) {
                return Some((id, peer));
            }
        }
        None
    }

    fn conflicts(&self, peer: &Peer) -> bool {
        peer.agreement.root != self.own.root || peer.lock.broken || peer.probe.unseen.is_some()
    }

    fn live(&self) -> impl Iterator<Item = (&String, &Peer)> {
        let listened = self.listened;
        let live = move |peer: &Peer| listened.saturating_sub(peer.heard) <= GONE;
        self.peers.iter().filter(move |(_, peer)| live(peer))
    }

    /// Makes room: the one that has been silent for longest goes, if it has ended.
    fn forget_one(&mut self) -> bool {
        let oldest = self.peers.iter().min_by_key(|(_, peer)| peer.heard);
        let gone = oldest.filter(|(_, peer)| self.listened.saturating_sub(peer.heard) > GONE);
        let Some(id) = gone.map(|(id, _)| id.clone()) else {
            return false;
        };
        self.peers.remove(&id).is_some()
    }
}

impl LockRecord {
    fn is_due(&self, now: Instant) -> bool {
        let Some(tried) = self.tried else { return true };
        match self.misses {
            0 => now.duration_since(tried) >= LOCK_PERIOD,
            _ => self.heard_since,
        }
    }

    fn tried(&mut self, now: Instant, held: bool) {
        self.tried = Some(now);
        self.heard_since = false;
        self.misses = if held {
            0
        } else {
            self.misses.saturating_add(1)
        };
        self.broken &= !held;
    }

    fn heard(&mut self, now: Instant) {
        let settled = |tried| now.duration_since(tried) >= LOCK_SETTLE;
        self.heard_since |= self.tried.is_some_and(settled);
        self.broken |= self.misses >= LOCK_MISSES && self.heard_since;
    }
}

impl ProbeRecord {
    fn is_suspected(&self) -> bool {
        self.suspected.is_some() && self.unseen.is_none()
    }

    fn heard(&mut self, now: Instant) {
        // What was under way when it ended does not count.
        if let Some((at, property)) = self.suspected
            && now.duration_since(at) >= LOCK_SETTLE
        {
            self.unseen = Some(property);
        }
    }
}

/// Of those with the highest standing, the one that has run for longest.
fn camp<'a>(
    members: impl Iterator<Item = (Standing, Instant)>,
    key: &'a str,
    now: Instant,
) -> Rank<'a> {
    let first = members.min_by_key(|(standing, started)| (Reverse(*standing), *started));
    let (standing, started) = first.unwrap_or((Standing::StandsBack, now));
    Rank {
        standing,
        started,
        key,
    }
}

impl Rank<'_> {
    fn yields_to(self, other: Rank<'_>) -> bool {
        if self.standing != other.standing {
            return self.standing < other.standing;
        }
        if self.standing != Standing::InService {
            return other.key < self.key;
        }
        let older = self.started.saturating_duration_since(other.started);
        let younger = other.started.saturating_duration_since(self.started);
        older > SAME_AGE - AGE_ERROR || (other.key < self.key && younger < SAME_AGE + AGE_ERROR)
    }
}

fn storage(root: Uuid) -> &'static str {
    match root {
        LOCAL_POOL => "local",
        _ => "shared",
    }
}

/// Process ids are `host-pid-random`.
fn host_of(process: &str) -> Option<&str> {
    let mut parts = process.rsplitn(3, '-');
    parts.nth(2).filter(|host| !host.is_empty())
}

#[cfg(test)]
mod tests;
