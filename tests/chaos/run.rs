//! One run from the first process to the last record.

use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use anyhow::Context;
use tokio::sync::watch;
use tokio::task::{JoinSet, spawn_local};
use tokio::time::{Instant, sleep, timeout};

use crate::args::Engines;
use crate::broker::Broker;
use crate::clock::{Nanos, now};
use crate::disks::{Disks, lives_in};
use crate::hangs::Hangs;
use crate::hosts::Hosts;
use crate::judge::homes::HomesRecord;
use crate::judge::{After, Records};
use crate::load::{Load, Producer};
use crate::plan::turn::LASTS_LONGER_S;
use crate::plan::{Plan, Shape};
use crate::pool::Pool;
use crate::process::{Programs, Setup};
use crate::record::events::{self, Events};
use crate::record::logs::{self, Taken};
use crate::record::{journals, runs};
use crate::strike::{Striker, Struck};

/// Without any end for so long, while turns are to end, they never will.
const STALLED: Duration = Duration::from_secs(120);
/// What takes moments in a pool that is well.
pub const LIMIT: Duration = STALLED;
pub const LOOK: Duration = Duration::from_millis(100);
const PROGRESS: Duration = Duration::from_secs(20);

pub struct Order {
    pub programs: Programs,
    pub shape: Shape,
    pub length: Length,
    pub processes: usize,
    pub slots: usize,
    pub hosts: Option<Hosts>,
    pub engine: Engines,
    pub vhost: String,
    pub dir: PathBuf,
}

#[derive(Debug, Clone, Copy)]
pub enum Length {
    Turns(usize),
    Time(Duration),
}

/// What there is to judge, and to report.
pub struct Ran {
    pub records: Records,
    pub struck: Vec<Struck>,
    pub taken: Taken,
    pub start: Nanos,
    pub took: Duration,
}

pub async fn run(order: &Order, broker: Rc<Broker>) -> anyhow::Result<Ran> {
    let (start, began) = (now(), Instant::now());
    std::fs::create_dir_all(&order.dir)?;
    let pool = Pool::start(
        Setup {
            programs: order.programs.clone(),
            dir: order.dir.clone(),
            vhost: order.vhost.clone(),
            processes: order.processes,
            slots: order.slots,
            engine: order.engine,
            plan: Plan(order.shape),
            sabotage: order.shape.sabotage,
            hosts: order.hosts.clone(),
            disks: (order.shape.disks > 0).then(|| Disks::new(&order.dir, order.shape.disks)),
        },
        Rc::clone(&broker),
    )
    .await?;
    let proxy = pool.proxy(0).await?;
    let url = pool.url(&proxy);
    let events = Events::new(&order.dir.join("events"))?;
    let is_bound = watch::Sender::new(false);
    let mut bound = is_bound.subscribe();
    let reader = spawn_local({
        let (events, url) = (Rc::clone(&events), url.clone());
        async move { events.read(&url, is_bound).await }
    });
    // Before the first turn: what is published before a queue is bound is gone.
    bound.wait_for(|bound| *bound).await?;
    let run = Run {
        order,
        producer: Producer::new(url),
        striker: Rc::new(Striker {
            pool: Rc::clone(&pool),
            broker,
            struck: Default::default(),
            killed: Default::default(),
            poisoned: Default::default(),
        }),
        pool,
        events,
    };
    let after = run.play().await?;
    reader.abort();
    run.events.flush()?;
    if let Some(hosts) = &order.hosts {
        hosts.mount_here().await?;
    }
    let roots = run.pool.setup.roots().into_iter();
    let roots: Vec<PathBuf> = roots
        .map(|root| root.canonicalize())
        .collect::<Result<_, _>>()?;
    let disks = run.pool.setup.disks.as_ref();
    let homes = disks.map(|disks| homes(disks, &run.producer.load.borrow()));
    let mut by_loss: Vec<usize> = (0..roots.len()).collect();
    // What a lost disk has came before what a new home has.
    by_loss.sort_by_key(|disk| {
        homes
            .as_ref()
            .is_some_and(|homes| homes.lost_at(*disk).is_none())
    });
    let load = run.producer.load.take();
    let exits = run.pool.exits().into_iter().filter(|exit| exit.killed);
    let records = Records {
        told: run.events.told.take(),
        malformed: run.events.malformed.take(),
        runs: runs::read(&run.pool.setup.stand_in_dir(), &roots),
        journals: journals::read(by_loss.iter().map(|disk| &*roots[*disk]), &load)?,
        homes,
        killed: run.striker.killed.take(),
        dead_workers: exits.map(|exit| exit.pid).collect(),
        load,
        after,
        across_hosts: order.hosts.is_some(),
    };
    Ok(Ran {
        records,
        struck: run.striker.struck.take(),
        taken: logs::read(&order.dir)?,
        start,
        took: began.elapsed(),
    })
}

pub struct Run<'a> {
    pub order: &'a Order,
    pub pool: Rc<Pool>,
    events: Rc<Events>,
    pub producer: Rc<Producer>,
    pub striker: Rc<Striker>,
}

impl Run<'_> {
    async fn play(&self) -> anyhow::Result<After> {
        self.ready()
            .await
            .map_err(|who| anyhow::anyhow!("not ready: {who:?}"))?;
        let mut after = After::default();
        let hung = self.pool.setup.stand_in_dir().join("hung");
        let hangs = (self.order.hosts.is_none()).then(|| Hangs::start(&hung));
        let all_ended = self.under_fire().await?;
        drop(hangs);
        for struck in self.striker.struck.borrow().iter() {
            if let Err(why) = &struck.detail
                && why.contains("STUCK")
            {
                after.left_behind.push(format!("{}: {why}", struck.name));
            }
        }
        if all_ended {
            self.calm(&mut after).await?;
        } else {
            after
                .left_behind
                .push(format!("nothing has ended for {:?}", self.stalled()));
        }
        // A look at a process that is just ending would be a false alarm.
        let before = self.processes_left();
        sleep(10 * LOOK).await;
        after.processes = self.processes_left();
        after.processes.retain(|process| before.contains(process));
        self.pool.end(LIMIT).await;
        for exit in self.pool.exits() {
            if let Some(status) = exit.by_itself {
                after
                    .died
                    .push(format!("process {} ended: {status}", exit.number));
            }
        }
        self.producer.mark(events::QUEUE).await;
        if timeout(LIMIT, self.events.caught_up()).await.is_err() {
            after
                .left_behind
                .push("events that could not be read".to_owned());
        }
        after.left_behind.extend(self.messages_left().await?);
        Ok(after)
    }

    /// The load and the faults; false if the turns stopped ending.
    async fn under_fire(&self) -> anyhow::Result<bool> {
        let plan = Plan(self.order.shape);
        let end = match self.order.length {
            Length::Turns(_) => None,
            Length::Time(time) => Some(Instant::now() + time),
        };
        let turns = (0..).map_while(|number| {
            let goes_on = match (self.order.length, end) {
                (Length::Turns(turns), _) => number < turns,
                (_, end) => end.is_some_and(|end| Instant::now() < end),
            };
            goes_on.then(|| plan.turn(number))
        });
        // Enough for every workspace to have a line, and no more than a run's end can wait for.
        let most = 8 * self.order.shape.workspaces;
        let load = async {
            self.producer
                .run(turns, async |enqueued| {
                    let mut ended = self.events.ended.subscribe();
                    // Not for ever: what is due later must come also where all is stuck.
                    let room = ended.wait_for(|ended| enqueued < ended + most);
                    let _ = timeout(STALLED, room).await;
                })
                .await;
            self.all_ended().await
        };
        let mut load = std::pin::pin!(load);
        let mut ended = self.events.ended.subscribe();
        let mut strikes = JoinSet::new();
        let progress = spawn_local(progress(
            Rc::clone(&self.events),
            Rc::clone(&self.producer),
            Rc::clone(&self.striker),
        ));
        let mut all_ended = None;
        for planned in plan.faults() {
            tokio::select! {
                biased;
                done = &mut load => {
                    all_ended = Some(done);
                    break;
                }
                _ = ended.wait_for(|ended| *ended >= planned.after) => {}
            }
            strikes.spawn_local(Rc::clone(&self.striker).strike(planned));
        }
        while let Some(struck) = strikes.join_next().await {
            struck?;
        }
        progress.abort();
        all_ended.context("faults have no end")
    }

    /// Or else who is not.
    pub async fn ready(&self) -> Result<(), Vec<String>> {
        let deadline = Instant::now() + LIMIT;
        loop {
            let mut unready = Vec::new();
            for process in self.pool.serving() {
                if !process.is_ready().await {
                    unready.push(format!("process {} is not ready", process.number));
                }
            }
            if unready.is_empty() && self.pool.serving().len() == self.order.processes {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(unready);
            }
            sleep(LOOK).await;
        }
    }

    /// False if they stopped ending before.
    pub async fn all_ended(&self) -> bool {
        let mut ended = self.events.ended.subscribe();
        while !self.is_settled(&self.producer.load.borrow()) {
            if timeout(self.stalled(), ended.changed()).await.is_err() {
                return false;
            }
        }
        true
    }

    /// Turns that outlast a fault may be the only ones, and run again.
    fn stalled(&self) -> Duration {
        let lasting =
            (self.order.shape.host_fault).map_or(0, |(_, seconds)| 2 * (seconds + LASTS_LONGER_S));
        STALLED + Duration::from_secs(lasting.into())
    }

    fn is_settled(&self, load: &Load) -> bool {
        load.accepted
            .iter()
            .all(|accepted| self.events.has_ended(&accepted.turn.id))
    }
}

/// What was done to disks and homes.
fn homes(disks: &Disks, load: &Load) -> HomesRecord {
    let lost = disks.lost.borrow().clone();
    let lived = lost.iter().flat_map(|lost| {
        let workspaces = load
            .accepted
            .iter()
            .map(|accepted| &accepted.turn.workspace);
        let there = workspaces.filter(|name| lives_in(&disks.root(lost.disk), name));
        there.map(|name| (lost.disk, name.clone()))
    });
    HomesRecord {
        lived: lived.collect(),
        moved: disks.moved.borrow().clone(),
        lost,
    }
}

async fn progress(events: Rc<Events>, producer: Rc<Producer>, striker: Rc<Striker>) {
    let began = Instant::now();
    loop {
        sleep(PROGRESS).await;
        eprintln!(
            "  {:4} s: {} turns accepted, {} ended, {} faults",
            began.elapsed().as_secs(),
            producer.load.borrow().accepted.len(),
            *events.ended.borrow(),
            striker.struck.borrow().len(),
        );
    }
}
