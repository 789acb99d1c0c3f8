//! The workers: processes of `turn-worker serve`, each behind a proxy of its
//! own, and a new one for each that ends.

use std::cell::{Cell, RefCell};
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::rc::Rc;
use std::time::Duration;

use rustix::process::Signal;
use tokio::task::{AbortHandle, spawn_local};
use tokio::time::{Instant, sleep, timeout};

use crate::broker::Broker;
use crate::process::{Process, Setup};
use crate::processes::reap_orphans;
use crate::proxy::Proxy;

/// Between two looks at who has ended.
const LOOK: Duration = Duration::from_millis(20);
/// Before a process is started on a host that lacks something, and may end at once.
const UNFIT_PAUSE: Duration = Duration::from_millis(300);
/// A process has found out by then what its host lacks.
const YOUNG: Duration = Duration::from_secs(15);
const LOOKS_PER_REAPING: u64 = 25;

pub struct Pool {
    pub setup: Setup,
    broker: Rc<Broker>,
    processes: RefCell<Vec<Rc<Process>>>,
    next: Cell<usize>,
    /// Whether there is to be a new one for each that ends.
    replaces: Cell<bool>,
    exits: RefCell<Vec<Exit>>,
    /// Until when the host lacks something, or did.
    unfit: Cell<Option<Instant>>,
    watching: RefCell<Option<AbortHandle>>,
}

#[derive(Debug, Clone)]
pub struct Exit {
    pub number: usize,
    pub pid: i32,
    pub killed: bool,
    /// Neither killed nor asked to end, or not with 0 when asked.
    pub by_itself: Option<ExitStatus>,
}

impl Pool {
    pub async fn start(setup: Setup, broker: Rc<Broker>) -> anyhow::Result<Rc<Self>> {
        let folders = [setup.stand_in_dir(), setup.dir.join("home")];
        for folder in setup.roots().into_iter().chain(folders) {
            fs::create_dir_all(folder)?;
        }
        let awkward = setup.stand_in_dir().join("awkward-process");
        std::os::unix::fs::symlink(&setup.programs.awkward, awkward)?;
        let pool = Rc::new(Self {
            setup,
            broker,
            processes: RefCell::default(),
            next: Cell::new(0),
            replaces: Cell::new(true),
            exits: RefCell::default(),
            unfit: Cell::new(None),
            watching: RefCell::default(),
        });
        while let Some(disk) = pool.lacking() {
            pool.spawn(disk, None).await?;
        }
        let watching = spawn_local(Rc::clone(&pool).watch()).abort_handle();
        *pool.watching.borrow_mut() = Some(watching);
        Ok(pool)
    }

    /// A proxy for another client of the same broker.
    pub async fn proxy(&self, prefer: usize) -> std::io::Result<Proxy> {
        let nodes = self.broker.nodes();
        let ports = (0..nodes).map(|node| self.broker.port(node)).collect();
        Proxy::before(self.setup.proxy_address(), ports, prefer % nodes).await
    }

    pub fn url(&self, proxy: &Proxy) -> String {
        format!("amqp://guest:guest@{}/{}", proxy.address, self.setup.vhost)
    }

    /// The disk that a process is to be started on; 0 if all share one.
    fn lacking(&self) -> Option<usize> {
        let serving = self.serving();
        let Some(disks) = &self.setup.disks else {
            return (serving.len() < self.setup.processes).then_some(0);
        };
        let wanted = self.setup.processes / disks.count();
        let on = |disk: usize| serving.iter().filter(|one| one.disk == disk).count();
        disks.there().into_iter().find(|disk| on(*disk) < wanted)
    }

    /// One more process; `failpoints` says where it dies.
    pub async fn spawn(&self, disk: usize, failpoints: Option<String>) -> anyhow::Result<()> {
        let number = self.next.replace(self.next.get() + 1);
        let proxy = self.proxy(number).await?;
        let process = Process::start(
            (number, disk),
            &self.url(&proxy),
            proxy,
            &self.setup,
            failpoints,
        )?;
        self.processes.borrow_mut().push(Rc::new(process));
        Ok(())
    }

    /// All that live, those that drain included.
    pub fn living(&self) -> Vec<Rc<Process>> {
        self.processes.borrow().clone()
    }

    pub fn serving(&self) -> Vec<Rc<Process>> {
        let mut processes = self.living();
        processes.retain(|process| !process.is_draining());
        processes
    }

    /// The host lacks something from now on for so long.
    pub fn lacks_something(&self, time: Duration) {
        let until = Instant::now() + time;
        self.unfit.set(self.unfit.get().max(Some(until)));
    }

    pub fn exits(&self) -> Vec<Exit> {
        self.exits.borrow().clone()
    }

    /// The one with the active sequencer.
    pub async fn active_sequencer(&self) -> Option<Rc<Process>> {
        for process in self.living() {
            if process.metric("turn_worker_sequencer_active").await == Some(1.0) {
                return Some(process);
            }
        }
        None
    }

    /// A metric, summed over all processes; `None` while one doesn't report it.
    pub async fn metric(&self, series: &str) -> Option<f64> {
        let mut sum = 0.0;
        for process in self.living() {
            sum += process.metric(series).await?;
        }
        Some(sum)
    }

    /// Asks all to end; what has not within the limit is killed. From here on
    /// none is replaced.
    pub async fn end(&self, limit: Duration) {
        self.replaces.set(false);
        for process in self.serving() {
            process.drain();
        }
        let gone = async {
            while !self.processes.borrow().is_empty() {
                sleep(LOOK).await;
            }
        };
        if timeout(limit, gone).await.is_err() {
            for process in self.living() {
                self.exits.borrow_mut().push(Exit {
                    number: process.number,
                    pid: process.pid,
                    killed: true,
                    by_itself: Some(ExitStatus::from_raw(9)),
                });
                process.signal(Signal::KILL);
            }
        }
        if let Some(watching) = self.watching.take() {
            watching.abort();
        }
    }

    /// Keeps as many serving as there are to be.
    async fn watch(self: Rc<Self>) {
        for look in 1_u64.. {
            if look.is_multiple_of(LOOKS_PER_REAPING) {
                reap_orphans();
            }
            let (gone, living) = (self.living().into_iter())
                .map(|process| (process.ended(), process))
                .partition::<Vec<_>, _>(|(ended, _)| ended.is_some());
            *self.processes.borrow_mut() = living.into_iter().map(|(_, process)| process).collect();
            for (status, process) in gone {
                let (Some(status), draining) = (status, process.is_draining()) else {
                    continue;
                };
                let killed = status.signal() == Some(9);
                // A process that finds no codex at its start, or can't write, ends then.
                let is_young = process.born.elapsed() < YOUNG;
                let unfit = is_young
                    && status.code() == Some(1)
                    && self.unfit.get().is_some_and(|until| until > process.born);
                let restarts = status.code() == Some(1)
                    && self.setup.hosts.is_some()
                    && process.has_logged("was mounted again");
                let expected = killed || unfit || restarts || (draining && status.success());
                self.exits.borrow_mut().push(Exit {
                    number: process.number,
                    pid: process.pid,
                    killed,
                    by_itself: (!expected).then_some(status),
                });
            }
            while self.replaces.get()
                && let Some(disk) = self.lacking()
            {
                if self.unfit.get().is_some_and(|until| until > Instant::now()) {
                    sleep(UNFIT_PAUSE).await;
                }
                if let Err(error) = self.spawn(disk, None).await {
                    eprintln!("can't start a process: {error:#}");
                    sleep(Duration::from_secs(1)).await;
                }
            }
            sleep(LOOK).await;
        }
    }
}
