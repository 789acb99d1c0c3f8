//! A pool without shared storage: several disks, each the root of some processes.
//! Disks are away for a time, are lost, and workspaces move between them.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use rustix::process::Signal;
use tokio::process::Command;
use tokio::time::{Instant, sleep, timeout};

use crate::clock::{Nanos, now};
use crate::plan::fault::Absence;
use crate::pool::Pool;
use crate::process::Process;
use crate::proxy::Mode;
use crate::record::runs;

/// Each is replaced by an empty one.
const MOST_LOST: usize = 2;
/// What a command takes that is answered at all.
const COMMAND_LIMIT: Duration = Duration::from_secs(60);
/// What an order takes that is carried out at all, other faults included.
const ORDER_LIMIT: Duration = Duration::from_secs(240);
/// Until the guards of killed workers have ended what they guard.
const TREES_END: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_millis(500);

#[derive(Debug, Clone)]
pub struct Moved {
    pub workspace: String,
    pub to: usize,
    /// When its files had been copied.
    pub at: Nanos,
}

#[derive(Debug, Clone)]
pub struct Lost {
    pub disk: usize,
    /// When the command was first given: a workspace that ran by then had its home.
    pub ordered: Nanos,
    /// When the command returned.
    pub at: Nanos,
}

#[derive(Debug, Default, Clone)]
struct Disk {
    /// No process is started there.
    is_away: bool,
    is_lost: bool,
    /// Faults that need it as it is.
    in_use: usize,
}

pub struct Disks {
    dir: PathBuf,
    all: RefCell<Vec<Disk>>,
    moving: RefCell<BTreeSet<String>>,
    pub moved: RefCell<Vec<Moved>>,
    pub lost: RefCell<Vec<Lost>>,
}

impl Disks {
    pub fn new(dir: &Path, count: usize) -> Rc<Self> {
        Rc::new(Self {
            dir: dir.to_owned(),
            all: RefCell::new(vec![Disk::default(); count]),
            moving: RefCell::default(),
            moved: RefCell::default(),
            lost: RefCell::default(),
        })
    }

    pub fn root(&self, disk: usize) -> PathBuf {
        self.dir.join(format!("disk-{disk}"))
    }

    pub fn roots(&self) -> Vec<PathBuf> {
        let count = self.all.borrow().len();
        (0..count).map(|disk| self.root(disk)).collect()
    }

    pub fn host(disk: usize) -> String {
        format!("host-{disk}")
    }

    /// Those that processes can be started on.
    pub fn there(&self) -> Vec<usize> {
        let all = self.all.borrow();
        let there = all.iter().enumerate().filter(|(_, disk)| !disk.is_away);
        there.map(|(number, _)| number).collect()
    }

    pub fn count(&self) -> usize {
        self.all
            .borrow()
            .iter()
            .filter(|disk| !disk.is_lost)
            .count()
    }

    fn set_away(&self, disk: usize, is_away: bool) {
        self.all.borrow_mut()[disk].is_away = is_away;
    }

    fn free(&self) -> Vec<usize> {
        let all = self.all.borrow();
        let free = all.iter().enumerate();
        let free = free.filter(|(_, disk)| !disk.is_away && disk.in_use == 0);
        free.map(|(number, _)| number).collect()
    }

    fn use_of(self: &Rc<Self>, disks: &[usize]) -> Use {
        for disk in disks {
            self.all.borrow_mut()[*disk].in_use += 1;
        }
        Use {
            all: Rc::clone(self),
            disks: disks.to_vec(),
        }
    }

    /// A disk of which no process is heard for some time.
    pub async fn away(
        self: &Rc<Self>,
        pool: &Pool,
        pick: usize,
        how: Absence,
        ms: u64,
    ) -> anyhow::Result<String> {
        let free = self.free();
        ensure!(free.len() > 1, "no other disk is there");
        let disk = free[pick % free.len()];
        let _use = self.use_of(&[disk]);
        let processes = of_disk(pool, disk);
        match how {
            Absence::Killed => {
                self.set_away(disk, true);
                each(&processes, Signal::KILL);
            }
            Absence::Frozen => each(&processes, Signal::STOP),
            Absence::Cut => {
                for process in &processes {
                    process.proxy.let_in(false);
                    process.proxy.set_all(Mode::Hold {
                        up: true,
                        down: true,
                    });
                }
            }
        }
        sleep(Duration::from_millis(ms)).await;
        self.set_away(disk, false);
        each(&processes, Signal::CONT);
        if how == Absence::Cut {
            for process in &processes {
                process.proxy.let_in(true);
                process.proxy.set_all(Mode::Cut);
            }
        }
        Ok(format!("disk {disk} {how:?} for {ms} ms"))
    }

    /// A disk is gone for good, an operator says so, and an empty one takes its place.
    pub async fn lose(self: &Rc<Self>, pool: &Pool, pick: usize) -> anyhow::Result<String> {
        let free = self.free();
        let lost = self.all.borrow().iter().filter(|disk| disk.is_lost).count();
        ensure!(lost < MOST_LOST, "enough are lost");
        ensure!(free.len() > 1, "no other disk is there");
        let disk = free[pick % free.len()];
        {
            let mut all = self.all.borrow_mut();
            all[disk].is_away = true;
            all[disk].is_lost = true;
            all.push(Disk::default());
        }
        each(&of_disk(pool, disk), Signal::KILL);
        sleep(TREES_END).await;
        let operator = Operator::of(pool).await?;
        let ordered = now();
        operator.until(&["home", "lost", &Self::host(disk)]).await?;
        let at = now();
        self.lost.borrow_mut().push(Lost { disk, ordered, at });
        Ok(format!("disk {disk}"))
    }

    /// A workspace moves to another disk, as the docs say.
    pub async fn move_one(self: &Rc<Self>, pool: &Pool, pick: usize) -> anyhow::Result<String> {
        let setup = &pool.setup;
        let runs = runs::read(&setup.stand_in_dir(), &setup.roots());
        let run = runs.get(pick % runs.len().max(1)).context("nothing ran")?;
        let workspace = run.workspace.clone();
        let from = self.home(&workspace).context("its home is lost")?;
        let mut to = self.free();
        to.retain(|disk| *disk != from);
        let to = *to
            .get((pick >> 16) % to.len().max(1))
            .context("no other disk is there")?;
        ensure!(
            self.moving.borrow_mut().insert(workspace.clone()),
            "it moves"
        );
        let _use = self.use_of(&[from, to]);
        let operator = Operator::of(pool).await?;
        let moved = self.carry(&operator, &workspace, from, to).await;
        operator.until(&["resume", &workspace]).await?;
        self.moving.borrow_mut().remove(&workspace);
        moved?;
        Ok(format!("{workspace} from disk {from} to {to}"))
    }

    async fn carry(
        &self,
        operator: &Operator,
        workspace: &str,
        from: usize,
        to: usize,
    ) -> anyhow::Result<()> {
        operator.until(&["pause", workspace]).await?;
        let host = Self::host(to);
        let began = Instant::now();
        loop {
            match operator.run(&["home", "move", workspace, &host]).await {
                Ok((true, said)) if said.contains("lives on") => break,
                Ok((false, said)) if said.contains("rejected") => bail!(said),
                _ if began.elapsed() > ORDER_LIMIT => bail!("STUCK: never carried out"),
                _ => sleep(PAUSE).await,
            }
        }
        for part in [
            workspace.to_owned(),
            format!(".turn-worker/workspaces/{workspace}"),
        ] {
            let (source, copy) = (self.root(from).join(&part), self.root(to).join(&part));
            let _ = fs::remove_dir_all(&copy);
            fs::create_dir_all(copy.parent().context("it has a parent")?)?;
            let mut copying = Command::new("cp");
            copying.arg("-a").arg(&source).arg(&copy);
            ensure!(
                copying.status().await?.success(),
                "cp -a {source:?} {copy:?}"
            );
        }
        self.moved.borrow_mut().push(Moved {
            workspace: workspace.to_owned(),
            to,
            at: now(),
        });
        Ok(())
    }

    /// The disk with its records that has not let go of it.
    pub fn home(&self, workspace: &str) -> Option<usize> {
        let there = |disk: &usize| {
            !self.all.borrow()[*disk].is_lost && lives_in(&self.root(*disk), workspace)
        };
        (0..self.all.borrow().len()).find(there)
    }
}

/// Whether the root has records of the workspace, and it has not moved away.
pub fn lives_in(root: &Path, workspace: &str) -> bool {
    let state = (root.join(".turn-worker/workspaces").join(workspace)).join(".state");
    let Ok(id) = fs::read_to_string(root.join(".turn-worker/root-id")) else {
        return false;
    };
    let moved = fs::read_to_string(state.join("moved")).unwrap_or_default();
    state.join("lock").exists() && !moved.contains(&format!("\"from\":\"{}\"", id.trim()))
}

/// Disks that a fault needs as they are.
struct Use {
    all: Rc<Disks>,
    disks: Vec<usize>,
}

impl Drop for Use {
    fn drop(&mut self) {
        for disk in &self.disks {
            self.all.all.borrow_mut()[*disk].in_use -= 1;
        }
    }
}

fn of_disk(pool: &Pool, disk: usize) -> Vec<Rc<Process>> {
    let mut processes = pool.living();
    processes.retain(|process| process.disk == disk);
    processes
}

fn each(processes: &[Rc<Process>], signal: Signal) {
    for process in processes {
        process.signal(signal);
    }
}

/// Runs commands.
struct Operator {
    program: PathBuf,
    url: String,
    /// It carries the commands' connections.
    _proxy: crate::proxy::Proxy,
}

impl Operator {
    async fn of(pool: &Pool) -> anyhow::Result<Self> {
        let proxy = pool.proxy(0).await?;
        Ok(Self {
            program: pool.setup.programs.operator().to_owned(),
            url: pool.url(&proxy),
            _proxy: proxy,
        })
    }

    /// Whether it was successful, and what it printed.
    async fn run(&self, arguments: &[&str]) -> anyhow::Result<(bool, String)> {
        let mut command = Command::new(&self.program);
        command
            .args(arguments)
            .env_clear()
            .env("TURN_WORKER_AMQP_URL", &self.url)
            .env("TURN_WORKER_WORKSPACE_STORAGE", "local")
            .stdin(Stdio::null())
            .kill_on_drop(true);
        let output = timeout(COMMAND_LIMIT, command.output()).await;
        let output = output.with_context(|| format!("{arguments:?}"))??;
        let shown = [output.stdout, output.stderr].concat();
        let shown = String::from_utf8_lossy(&shown).into_owned();
        Ok((output.status.success(), shown))
    }

    async fn until(&self, arguments: &[&str]) -> anyhow::Result<()> {
        let began = Instant::now();
        let mut last = String::new();
        while began.elapsed() < ORDER_LIMIT {
            match self.run(arguments).await {
                Ok((true, _)) => return Ok(()),
                Ok((false, said)) => last = said,
                Err(error) => last = format!("{error:#}"),
            }
            // One that was confirmed unheard.
            if last.contains("is not paused") {
                return Ok(());
            }
            sleep(PAUSE).await;
        }
        bail!("STUCK: {arguments:?}: {last}")
    }
}
