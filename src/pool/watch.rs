//! Listens to the other processes, now and then, and tries their locks.

use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::agreement::{Agreement, Standing};
use super::roster::{Own, PeerCheck, Roster};
use super::{Findings, Inner, Pool};
use crate::amqp::connect::Connector;
use crate::amqp::consume::{ConsumeError, Consumer};
use crate::amqp::declare_error::DeclareError;
use crate::amqp::link::Link;
use crate::amqp::messages::{Decoded, HomesReport, Status};
use crate::amqp::pool::PublisherLink;
use crate::amqp::publish::json_properties;
use crate::amqp::topology::{Fanout, Topology};
use crate::error::with_sources;
use crate::fault;
use crate::heartbeat::{HEARTBEAT, LISTEN};
use crate::workspace::{DiskError, LockTry, Processes};

/// Between two confirmations of this process's lock: a shared file system drops it while it does not
/// hear this host, and the others try it.
const KEEP_LOCK: Duration = Duration::from_secs(5);
/// Before a connection that ended is replaced.
const PAUSE: Duration = Duration::from_secs(1);
/// Between two times of listening: 2.5 s in each 32.5 s are 8 % of what always
/// listening would cost the broker.
const PERIOD: Duration = Duration::from_secs(30);
/// The same while something other than the root is wrong, and at first, for
/// processes that started at the same time and were slow to announce themselves.
const SHORT_PERIOD: Duration = Duration::from_secs(10);
const AT_FIRST: Duration = Duration::from_secs(60);
/// Where no process is on the pool's queues, only those have to be heard that
/// start at the same time, which announce themselves.
const ALONE: Duration = Duration::from_secs(1);
/// How often a process that starts announces itself, and for how long.
const ANNOUNCE: Duration = Duration::from_millis(500);
const ANNOUNCEMENTS: usize = 10;
/// How often it is decided upon what was heard.
const TICK: Duration = Duration::from_millis(250);
/// How long a process counts as doubtful after its lock could be taken.
const DOUBT: Duration = Duration::from_secs(20);
/// For how long a process that stands back listens on one queue.
const STANDING_BACK: Duration = Duration::from_secs(60);
/// For how long a lock is tried: reports that wait meanwhile look late.
const LOCK_LIMIT: Duration = Duration::from_secs(2);
/// Locks that are tried in one tick.
const LOCKS_AT_ONCE: usize = 10;
/// Status messages that are under way to this process.
const PREFETCH: u16 = 100;

#[derive(Debug, thiserror::Error)]
pub enum PoolError {
    #[error("cannot listen to the other processes")]
    Declare(#[from] DeclareError),
    #[error("cannot listen to the other processes")]
    Consume(#[from] ConsumeError),
}

impl PoolError {
    /// The broker understood, and did not want to.
    fn is_refusal(&self) -> bool {
        !matches!(
            self,
            Self::Declare(DeclareError::Link(_)) | Self::Consume(_)
        )
    }
}

impl Pool {
    /// Compares this process with the others until `drain`.
    pub async fn watch(
        self,
        connector: Connector,
        topology: Topology,
        publisher: PublisherLink,
        drain: CancellationToken,
    ) {
        // Only workers write there, and their messages are small.
        let connector = connector
            .named(format!("{} pool", self.0.own.id))
            .publishing();
        let announcing = self.announce(&topology, &publisher);
        let watching = async {
            while let Some(link) = connector.connect_with_backoff(&drain).await {
                let ended = tokio::select! {
                    ended = self.watch_on(&link, &topology) => ended.err(),
                    () = drain.cancelled() => None,
                };
                link.close().await;
                let Some(error) = ended else { return };
                tracing::warn!(
                    reason = with_sources(&error),
                    "this process is not compared with the others of its pool for now"
                );
                let pause = if error.is_refusal() {
                    // A missing right stops no turns: that was no condition before.
                    self.apply(true);
                    PERIOD
                } else {
                    PAUSE
                };
                tokio::select! {
                    () = sleep(pause) => {}
                    () = drain.cancelled() => return,
                }
            }
        };
        let announcing = async {
            tokio::select! {
                () = announcing => {}
                () = drain.cancelled() => {}
            }
        };
        tokio::join!(announcing, watching);
    }

    async fn watch_on(&self, link: &Link, topology: &Topology) -> Result<Infallible, PoolError> {
        *self.0.broker.lock().unwrap_or_else(PoisonError::into_inner) =
            Some(link.target().to_string());
        topology.declare(link).await?;
        if let Err(error) = self.keep_lock().await {
            log_unkept(&error);
        }
        // A disk that hangs does not keep this process from listening.
        tokio::select! {
            ended = self.compare_on(link, topology) => ended,
            never = self.hold_lock() => match never {},
        }
    }

    async fn compare_on(&self, link: &Link, topology: &Topology) -> Result<Infallible, PoolError> {
        loop {
            let findings = self.listen(link, topology).await?;
            let pause = match findings {
                Findings {
                    yields_to: Some(_), ..
                } => Duration::ZERO,
                findings if findings.is_empty() && self.0.own.started.elapsed() >= AT_FIRST => {
                    PERIOD
                }
                _ => SHORT_PERIOD,
            };
            // Not in step with the others.
            let jitter = uuid::Uuid::new_v4().as_u64_pair().0 % 5_000;
            tokio::select! {
                () = sleep(pause.saturating_sub(Duration::from_millis(jitter))) => {}
                () = self.0.look.notified() => {}
                reason = link.closed() => return Err(ConsumeError::Ended {
                    queue: topology.status.clone(),
                    reason,
                }.into()),
            }
        }
    }

    /// For as long as it takes for every process to report.
    async fn listen(&self, link: &Link, topology: &Topology) -> Result<Findings, PoolError> {
        let starting = self.0.host.is_barred();
        let queue = topology.declare_exclusive(link, Fanout::Status).await?;
        let alone = starting && !is_in_use(link, topology).await?;
        let needed = if alone { ALONE } else { LISTEN };
        let mut findings = Findings::default();
        let enough = |roster: &Roster, listened: Duration| {
            let joins =
                starting && roster.own_root_is_in_service() && !roster.must_hear_sequencer();
            let doubts = roster.is_in_doubt() && listened < DOUBT;
            (joins || listened >= needed)
                && !doubts
                && (listened >= STANDING_BACK || !self.stands_back())
        };
        let mut decide = |complete: bool| findings = self.apply(complete);
        let Inner {
            roster, processes, ..
        } = &*self.0;
        hear(link, &queue, roster, processes, enough, &mut decide).await?;
        decide(true);
        Ok(findings)
    }

    /// Two processes that start at once do no work yet and would not be heard.
    async fn announce(&self, topology: &Topology, publisher: &PublisherLink) {
        let mut left = ANNOUNCEMENTS;
        let mut ticks = interval(ANNOUNCE);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while left > 0 {
            ticks.tick().await;
            if !publisher.is_connected() {
                continue;
            }
            left -= 1;
            let status = Status::Pool {
                process: self.0.own.id.clone(),
                pool: self.agreement(),
            };
            let (exchange, body) = (&topology.status, status.encode());
            let published =
                publisher.publish_confirmed(exchange, "", json_properties(), &body, false);
            if let Err(error) = published.await {
                tracing::debug!(error = with_sources(&error), "an announcement failed");
            }
        }
    }

    async fn hold_lock(&self) -> Infallible {
        let mut kept = true;
        loop {
            sleep(KEEP_LOCK).await;
            match self.keep_lock().await {
                Ok(()) => kept = true,
                Err(error) if std::mem::take(&mut kept) => log_unkept(&error),
                Err(_) => {}
            }
        }
    }

    /// Holds the lock that is named after this process, also where its file was
    /// removed, or the file system has dropped it.
    async fn keep_lock(&self) -> Result<(), DiskError> {
        let pool = self.clone();
        let kept = tokio::task::spawn_blocking(move || pool.renew_lock()).await;
        kept.unwrap_or(Ok(()))
    }

    fn renew_lock(&self) -> Result<(), DiskError> {
        let Inner {
            own,
            processes,
            lock,
            ..
        } = &*self.0;
        // Not locked while the disk is asked, which may hang: heartbeats need it.
        let locked = || lock.lock().unwrap_or_else(PoisonError::into_inner);
        let confirmed = |at: Option<Instant>| {
            let mut last = (self.0.lock_confirmed.lock()).unwrap_or_else(PoisonError::into_inner);
            *last = at;
        };
        let (held, asked) = (locked().clone(), Instant::now());
        if held.is_some() && fault::lock("pool.lock").is_err() {
            confirmed(None);
            return Ok(());
        }
        let is_first = held.is_none();
        match held.as_ref().map(|held| held.retake()) {
            Some(Ok(true)) => {
                confirmed(Some(asked));
                return Ok(());
            }
            Some(Ok(false)) => confirmed(None),
            // A descriptor may stay bad after its file system is back.
            Some(Err(error)) => {
                confirmed(None);
                tracing::debug!(
                    error = with_sources(&error),
                    "cannot keep the lock of this process; taking a new one"
                );
            }
            None => processes.sweep()?,
        }
        let asked = Instant::now();
        let new = processes.hold(&own.id)?;
        if let Some(lost) = held {
            lost.forget();
        }
        confirmed(new.is_some().then_some(asked));
        *locked() = new.map(Arc::new);
        // Only now, or a process that starts would remove its files.
        if is_first {
            let new = processes.prober(&own.id)?;
            *self.0.prober.lock().unwrap_or_else(PoisonError::into_inner) = new;
        }
        Ok(())
    }
}

fn log_unkept(error: &DiskError) {
    let error = with_sources(error);
    tracing::warn!(error, "cannot hold the lock of this process");
}

/// What an operator is shown of a pool.
#[derive(Debug, Default)]
pub struct Compared {
    /// Each process that was heard.
    pub peers: Vec<PeerCheck>,
    pub findings: Findings,
}

/// Compares what is to join a pool with the processes that run, for an operator. Of each, so many
/// rounds are read.
pub async fn compare(
    link: &Link,
    topology: &Topology,
    own: Own,
    processes: &Processes,
    rounds: u32,
) -> Result<Compared, PoolError> {
    if !is_in_use(link, topology).await? {
        return Ok(Compared::default());
    }
    let queue = topology.declare_exclusive(link, Fanout::Status).await?;
    let roster = Mutex::new(Roster::new(own).reading(rounds));
    let enough = |roster: &Roster, listened: Duration| {
        listened >= LISTEN && (!roster.is_in_doubt() || listened >= doubted_for(rounds))
    };
    hear(link, &queue, &roster, processes, enough, &mut |_| {}).await?;
    let roster = roster.into_inner().unwrap_or_else(PoisonError::into_inner);
    Ok(Compared {
        peers: roster.peer_checks(),
        findings: roster.findings(Instant::now(), Standing::Starting),
    })
}

/// A round may come with every heartbeat, and now and then one is late.
fn doubted_for(rounds: u32) -> Duration {
    DOUBT.max(HEARTBEAT * 2 * rounds)
}

/// A sequencer, or a worker with a free slot.
async fn is_in_use(link: &Link, topology: &Topology) -> Result<bool, DeclareError> {
    for queue in [&topology.turns, &topology.work] {
        if topology.depth(link, queue).await?.consumers > 0 {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Puts what the processes report on `queue` into the roster, and tries their
/// locks, until it is `enough`; `decide` is called several times a second.
async fn hear(
    link: &Link,
    queue: &str,
    roster: &Mutex<Roster>,
    processes: &Processes,
    enough: impl Fn(&Roster, Duration) -> bool,
    decide: &mut impl FnMut(bool),
) -> Result<(), ConsumeError> {
    let locked = || roster.lock().unwrap_or_else(PoisonError::into_inner);
    let mut consumer = Consumer::open(link, queue, PREFETCH).await?;
    let begun = Instant::now();
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut counted = begun;
    loop {
        tokio::select! {
            delivery = consumer.next() => {
                let delivery = delivery?;
                if let Some(heard) = report(&delivery.body) {
                    let Report { process, agreement, homes } = heard;
                    if let Some(homes) = homes {
                        locked().homes_heard(&process, &homes);
                    }
                    locked().heard(Instant::now(), Timestamp::now(), &process, &agreement);
                    read_round(roster, processes, &process).await;
                }
                // A queue that goes with this connection needs no care.
                let _ = delivery.ack().await;
            }
            _ = ticks.tick() => {
                let now = Instant::now();
                locked().listened(now.duration_since(counted));
                counted = now;
                try_locks(roster, processes).await;
                expect_rounds(roster, processes).await;
                decide(false);
                if enough(&locked(), begun.elapsed()) {
                    break;
                }
            }
        }
    }
    // With its consumer, the queue goes.
    consumer.stop().await;
    Ok(())
}

/// What is compared of a process's report.
struct Report {
    process: String,
    agreement: Box<Agreement>,
    homes: Option<HomesReport>,
}

fn report(body: &[u8]) -> Option<Report> {
    let (process, agreement, homes) = match Status::decode(body) {
        Ok(Decoded::Known(Status::Heartbeat { worker, about, .. })) => (worker, about.pool?, None),
        Ok(Decoded::Known(Status::Sequencer {
            process,
            pool,
            homes,
            ..
        })) => (process, pool?, homes),
        Ok(Decoded::Known(Status::Pool { process, pool })) => (process, Box::new(pool), None),
        // Other types and versions carry no report for this one.
        Ok(Decoded::Known(_) | Decoded::Unknown(_)) | Err(_) => return None,
    };
    Some(Report {
        process,
        agreement,
        homes,
    })
}

/// Reads what the process has just reported, while it is new.
async fn read_round(roster: &Mutex<Roster>, processes: &Processes, process: &str) {
    let locked = || roster.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(round) = locked().round_to_read(Instant::now(), process) else {
        return;
    };
    let (name, processes) = (process.to_owned(), processes.clone());
    let reading = tokio::task::spawn_blocking(move || processes.check_round(&name, round));
    match timeout(LOCK_LIMIT, reading).await {
        Ok(Ok(Ok(unseen))) => locked().round_read(Instant::now(), process, unseen),
        Ok(Ok(Err(error))) => {
            tracing::debug!(
                error = with_sources(&error),
                process,
                "can't read a probe's round"
            );
        }
        // It panicked, or takes too long, and is read again with the next report.
        Ok(Err(_)) | Err(_) => {}
    }
}

/// Has the file system cache what precedes the next rounds: a turn's records are cached, too.
async fn expect_rounds(roster: &Mutex<Roster>, processes: &Processes) {
    let next = {
        let roster = roster.lock().unwrap_or_else(PoisonError::into_inner);
        roster.rounds_to_expect(LOCKS_AT_ONCE)
    };
    if next.is_empty() {
        return;
    }
    let processes = processes.clone();
    let looking = tokio::task::spawn_blocking(move || {
        for (process, number) in next {
            processes.look_at_round(&process, number);
        }
    });
    let _ = timeout(LOCK_LIMIT, looking).await;
}

/// A disk that does not answer is the concern of the host's own probe.
async fn try_locks(roster: &Mutex<Roster>, processes: &Processes) {
    let locked = || roster.lock().unwrap_or_else(PoisonError::into_inner);
    let due = locked().locks_to_try(Instant::now(), LOCKS_AT_ONCE);
    if due.is_empty() {
        return;
    }
    let (names, processes) = (due.clone(), processes.clone());
    let trying = tokio::task::spawn_blocking(move || {
        let tried = names.iter().map(|process| processes.try_lock(process));
        tried.collect::<Vec<_>>()
    });
    // One that was not answered is retried at the next time, as one that is held.
    let tried = timeout(LOCK_LIMIT, trying).await;
    let mut tried = tried.ok().and_then(Result::ok).into_iter().flatten();
    for process in due {
        let held = match tried.next() {
            Some(Ok(Some(LockTry::Free | LockTry::Missing))) => false,
            Some(Ok(Some(LockTry::Held) | None)) | None => true,
            Some(Err(error)) => {
                tracing::debug!(error = with_sources(&error), process, "cannot try a lock");
                true
            }
        };
        locked().lock_tried(Instant::now(), &process, held);
    }
}
