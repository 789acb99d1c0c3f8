//! What the processes of one pool must agree on, and who stands back where
//! they do not.
//!
//! ```text
//! heartbeats, reports ─▶ watch ─▶ roster (pure) ─▶ findings ─┬▶ host: takes turns or not
//!                          └▶ process locks ─▶ roster        └▶ conditions
//! ```
//!
//! All guarantees rest on one workspace root with locks that exclude each
//! other. Each process reports the root's random id with its heartbeats, and a
//! process of another root than those in service takes no turns.
//!
//! Listening costs the broker one delivery per process and report, so N
//! processes that always listen cost N² of them. A process therefore listens
//! before it takes its first turn, and then for one interval in every thirty
//! seconds; all the time only while something is wrong.

mod agreement;
mod clock;
mod journal_ends;
mod roster;
mod watch;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use tokio::sync::Notify;
use uuid::Uuid;

use crate::conditions::{Condition, Conditions};
use crate::config::Settings;
use crate::error::with_sources;
use crate::fault;
use crate::homes::Disk;
use crate::host::Host;
use crate::workspace::{JournalEnd, ProbeRound, Prober, ProcessLock, Processes, Root};

pub use agreement::{Agreement, LOCAL_POOL, Standing};
pub use journal_ends::JournalEnds;
pub use roster::{Findings, Own, PeerCheck, Roster};
pub use watch::{Compared, PoolError, compare};

/// Between two log lines on refused offers.
const LOG_PERIOD: Duration = Duration::from_secs(60);

/// How long a process that stood back waits for those to come back that were in
/// service: a restart takes less.
const PATIENCE: Duration = Duration::from_secs(300);

/// Between two rounds on a local file system.
const ROUND_PERIOD: Duration = Duration::from_secs(30);
/// How long a heartbeat waits for a round.
const ROUND_LIMIT: Duration = Duration::from_millis(500);
/// A process that could not confirm its lock for so long does not report that it holds it: a shared file
/// system that does not hear it drops the lock some time later.
const LOCK_DOUBTED_AFTER: Duration = Duration::from_secs(15);

/// How many rounds of each process are read before the first turn is taken: one shows whether the
/// root is the same, and on a shared file system more show whether what is cached is renewed.
fn rounds_at_start(root: &Root) -> u32 {
    root.shared_file_system().map_or(1, |_| 3)
}

/// This process among those of its pool; cheap to clone.
#[derive(Debug, Clone)]
pub struct Pool(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    own: Own,
    processes: Processes,
    /// Held for the life of the process; `None` if the disk did not allow it.
    lock: Mutex<Option<Arc<ProcessLock>>>,
    /// When that was last known to be held.
    lock_confirmed: Mutex<Option<Instant>>,
    /// `None` while a round is being written, and before the lock is held.
    prober: Mutex<Option<Prober>>,
    /// The last round, and when it was written.
    round: Mutex<Option<(ProbeRound, Instant)>>,
    /// The root is on a shared file system.
    is_shared: bool,
    host: Host,
    conditions: Conditions,
    /// That it is connected to.
    broker: Mutex<Option<String>>,
    roster: Mutex<Roster>,
    /// This process stands back, for a reason that was last seen then.
    yielded: Mutex<Option<(Instant, Findings)>>,
    /// Something suggests that the pool has changed.
    look: Notify,
    refused: Mutex<Refused>,
    journal_ends: Mutex<JournalEnds>,
    /// Its disk is declared lost.
    is_lost: AtomicBool,
}

/// Offers of other roots' sequencers.
#[derive(Debug, Default)]
struct Refused {
    count: u64,
    logged: Option<Instant>,
}

impl Pool {
    /// Bars the host from taking turns until the other processes were heard.
    pub fn join(
        id: &str,
        root: &Root,
        settings: &Settings,
        host: Host,
        conditions: Conditions,
    ) -> Self {
        host.set_barred(true);
        let own = Own::new(id, root.id(), settings);
        Self(Arc::new(Inner {
            roster: Mutex::new(Roster::new(own.clone()).reading(rounds_at_start(root))),
            prober: Mutex::default(),
            round: Mutex::default(),
            is_shared: root.shared_file_system().is_some(),
            own,
            processes: root.processes().clone(),
            lock: Mutex::default(),
            lock_confirmed: Mutex::default(),
            host,
            conditions,
            broker: Mutex::default(),
            yielded: Mutex::default(),
            look: Notify::new(),
            refused: Mutex::default(),
            journal_ends: Mutex::default(),
            is_lost: AtomicBool::new(false),
        }))
    }

    /// What this process reports of itself.
    pub fn agreement(&self) -> Agreement {
        let Inner {
            own, host, broker, ..
        } = &*self.0;
        let uptime = own.started.elapsed().as_millis();
        Agreement {
            root: own.root,
            disk: own.disk.clone(),
            uptime_ms: u64::try_from(uptime).unwrap_or(u64::MAX),
            clock: Timestamp::now(),
            in_service: !host.is_barred(),
            stands_back: self.stands_back(),
            holds_lock: self.holds_lock(),
            probe: self.last_round().map(|(round, _)| round),
            settings: own.settings.clone(),
            broker: broker
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .clone(),
        }
    }

    fn holds_lock(&self) -> bool {
        let confirmed = self.0.lock_confirmed.lock();
        let confirmed = confirmed.unwrap_or_else(PoisonError::into_inner);
        confirmed.is_some_and(|at| at.elapsed() < LOCK_DOUBTED_AFTER)
    }

    /// The storage does not confirm the lock of this process any more: it is disconnected from it.
    pub fn is_without_storage(&self) -> bool {
        let held = self.0.lock.lock().unwrap_or_else(PoisonError::into_inner);
        held.is_some() && !self.holds_lock()
    }

    /// Writes the next round for the others to read, before a heartbeat reports it: at each one
    /// on a shared file system, seldom on a local one, where reads are never old.
    /// Waits for a disk that hangs only once, and briefly.
    pub async fn write_round(&self) {
        let seldom = match self.0.is_shared {
            true => Duration::ZERO,
            false => ROUND_PERIOD,
        };
        if self
            .last_round()
            .is_some_and(|(_, at)| at.elapsed() < seldom)
        {
            return;
        }
        let prober = self.0.prober.lock();
        let Some(mut prober) = prober.unwrap_or_else(PoisonError::into_inner).take() else {
            return;
        };
        let inner = Arc::clone(&self.0);
        let writing = tokio::task::spawn_blocking(move || {
            let round = prober.next_round().inspect_err(|error| {
                // The host's own probe is about that.
                tracing::debug!(error = with_sources(error), "can't write a probe's round");
            });
            *inner.round.lock().unwrap_or_else(PoisonError::into_inner) =
                round.ok().map(|round| (round, Instant::now()));
            let mut own = inner.prober.lock().unwrap_or_else(PoisonError::into_inner);
            own.get_or_insert(prober);
        });
        let _ = tokio::time::timeout(ROUND_LIMIT, writing).await;
    }

    fn last_round(&self) -> Option<(ProbeRound, Instant)> {
        let last = self.0.round.lock();
        *last.unwrap_or_else(PoisonError::into_inner)
    }

    /// What the processes of this pool report as their root.
    pub fn root(&self) -> Uuid {
        self.0.own.root
    }

    /// This host's disk, in a pool without shared storage.
    pub fn disk(&self) -> Option<&Disk> {
        self.0.own.disk.as_ref()
    }

    /// Of whose records an offer must be, to be taken here.
    pub fn records_root(&self) -> Uuid {
        self.disk().map_or(self.root(), |disk| disk.id)
    }

    /// By how much the clock of the host on which that process runs, or ran,
    /// is ahead of this one's. Zero if it is unknown, or within what is
    /// tolerated.
    pub fn clock_ahead(&self, process: &str) -> SignedDuration {
        let roster = self.0.roster.lock();
        let roster = roster.unwrap_or_else(PoisonError::into_inner);
        roster.clock_ahead(process).unwrap_or_default()
    }

    /// An offer of another root's sequencer came: one of both does not belong
    /// to this pool, so the others are listened to again, now.
    pub fn refused_offer(&self, of: Option<Uuid>) {
        self.0.look.notify_one();
        let mut refused = self
            .0
            .refused
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        refused.count += 1;
        if refused.logged.is_some_and(|at| at.elapsed() < LOG_PERIOD) {
            return;
        }
        refused.logged = Some(Instant::now());
        tracing::warn!(
            found = of.map(tracing::field::display),
            expected = %self.records_root(),
            refused = refused.count,
            "dropped an offer of a sequencer that has another workspace root"
        );
    }

    /// The furthest that the workspace's journal is known to reach.
    pub fn journal_end(&self, workspace: &str) -> Option<JournalEnd> {
        let ends = self.0.journal_ends.lock();
        ends.unwrap_or_else(PoisonError::into_inner).of(workspace)
    }

    /// A process has reported that the workspace's journal reaches that far.
    pub fn note_journal_end(&self, workspace: &str, end: JournalEnd) {
        let ends = self.0.journal_ends.lock();
        let mut ends = ends.unwrap_or_else(PoisonError::into_inner);
        ends.note(workspace, end);
    }

    /// As if the process had reported this.
    #[cfg(test)]
    pub fn heard(&self, process: &str, reported: &Agreement) {
        let mut roster = self.0.roster.lock().unwrap_or_else(PoisonError::into_inner);
        roster.heard(Instant::now(), Timestamp::now(), process, reported);
    }

    /// The active sequencer reports that this host's disk is lost: it takes no turn any more.
    pub fn set_lost(&self, sequencer: &str) {
        self.0.is_lost.store(true, Ordering::Relaxed);
        self.0.host.set_barred(true);
        let host = self.disk().map(|disk| disk.host.to_string());
        let found = format!(
            "an operator has declared the disk of host {} lost, as sequencer {sequencer} reports: its turns have ended, \
             and its workspaces live elsewhere; empty TURN_WORKER_WORKSPACE_ROOT and restart, which makes it a new disk",
            host.unwrap_or_default()
        );
        self.0.conditions.set(Condition::DiskLost, "", Some(found));
    }

    fn stands_back(&self) -> bool {
        let yielded = self.0.yielded.lock();
        yielded.unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// Carries out what the roster found. `complete`: everyone who is there
    /// has had the time to report.
    fn apply(&self, complete: bool) -> Findings {
        let standing = match (self.stands_back(), self.0.host.is_barred()) {
            (true, _) => Standing::StandsBack,
            (false, true) => Standing::Starting,
            (false, false) => Standing::InService,
        };
        let findings = self.with_patience(standing);
        for (condition, found) in [
            (Condition::RootDiffers, &findings.root),
            (Condition::LocksNotExclusive, &findings.locks),
            (Condition::ReadsStale, &findings.reads),
            (Condition::SettingsDiffer, &findings.settings),
            (Condition::ClockDiffers, &findings.clock),
        ] {
            self.0.conditions.set(condition, "", found.clone());
        }
        if let Some(sequencer) = &findings.lost {
            self.set_lost(sequencer);
        }
        let yields = findings.yields_to.is_some() || self.0.is_lost.load(Ordering::Relaxed);
        if yields || complete {
            self.0.host.set_barred(yields);
        }
        findings
    }

    /// A process that was in the way and is not heard may be about to restart:
    /// then its pool is to find its place free.
    fn with_patience(&self, standing: Standing) -> Findings {
        let now = Instant::now();
        let roster = self.0.roster.lock();
        let roster = roster.unwrap_or_else(PoisonError::into_inner);
        let mut findings = roster.findings(now, standing);
        let yielded = self.0.yielded.lock();
        let mut yielded = yielded.unwrap_or_else(PoisonError::into_inner);
        if findings.yields_to.is_some() {
            *yielded = Some((now, findings.clone()));
        } else if let Some((at, before)) = &*yielded {
            let is_there = |process: &String| roster.is_there(process);
            let over = now.duration_since(*at) >= PATIENCE
                || fault::is_on("sabotage.patience")
                || before.yields_to.as_ref().is_some_and(is_there)
                || roster.own_root_is_in_service();
            if over {
                *yielded = None;
            } else {
                findings.root = before.root.clone();
                findings.locks = before.locks.clone();
                findings.reads = before.reads.clone();
                findings.yields_to = before.yields_to.clone();
            }
        }
        findings
    }
}
