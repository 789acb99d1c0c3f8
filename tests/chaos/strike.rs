//! Carries the plan's faults out, and notes what they hit.

use std::cell::{Cell, RefCell};
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process};
use tokio::time::{sleep, timeout};

use crate::broker::Broker;
use crate::clock::{Nanos, now};
use crate::disks::Disks;
use crate::full_reader::FullReader;
use crate::plan::Planned;
use crate::plan::fault::Fault;
use crate::poison;
use crate::pool::Pool;
use crate::process::Process;
use crate::proxy::Mode;
use crate::raw_amqp::{Answer, RawMessage, RawProducer};
use crate::record::runs::{self, Running};

const WORK: &str = "codex.turns.work";
const TURNS: &str = "codex.turns";
/// What opening a connection may take; the broker may be down.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);

/// Kinds of poisonous messages in one go, each to both exchanges.
const POISONS: usize = 8;
/// What the broker takes to confirm one, or else it is away.
const POISON_LIMIT: Duration = Duration::from_secs(10);
const NO_CANCEL: &[u8] = br#"{"action":"cancel","turn_id":"no-such-turn"}"#;
/// No turn is named, so there is no event of it, either.
const NO_REQUEST: &[u8] = b"{";

pub struct Striker {
    pub pool: Rc<Pool>,
    pub broker: Rc<Broker>,
    pub struck: RefCell<Vec<Struck>>,
    /// The codex processes with turns that may end without a word of theirs: they,
    /// or their guards, were killed.
    pub killed: RefCell<Vec<i32>>,
    /// Poisonous requests that the broker has confirmed. They can't be accepted,
    /// so each is in the dead queue in the end.
    pub poisoned: Cell<u64>,
}

/// A fault that was carried out.
#[derive(Debug, Clone)]
pub struct Struck {
    pub name: &'static str,
    pub from: Nanos,
    pub to: Nanos,
    /// What it hit, or why it had no target.
    pub detail: Result<String, String>,
}

impl Striker {
    pub async fn strike(self: Rc<Self>, planned: Planned) {
        let from = now();
        let done = self.carry_out(&planned).await;
        self.struck.borrow_mut().push(Struck {
            name: planned.fault.name(),
            from,
            to: now(),
            detail: done.map_err(|error| format!("{error:#}")),
        });
    }

    async fn carry_out(&self, &Planned { pick, fault, .. }: &Planned) -> anyhow::Result<String> {
        let pool = &self.pool;
        Ok(match fault {
            Fault::KillWorker => kill(&*self.process(pick)?),
            Fault::KillSequencer => kill(&*self.sequencer().await?),
            Fault::KillGuard | Fault::KillCodex | Fault::KillWorkerAndGuard => {
                let running = self.running(pick)?;
                self.kill_of_turn(fault, &running)
            }
            Fault::Freeze { ms } => {
                let process = self.process(pick)?;
                process.signal(Signal::STOP);
                pause(ms).await;
                process.signal(Signal::CONT);
                format!("process {} for {ms} ms", process.number)
            }
            Fault::FreezeSequencer { ms } => {
                let process = self.sequencer().await?;
                process.signal(Signal::STOP);
                process.proxy.set_all(Mode::HungUp);
                pause(ms).await;
                process.signal(Signal::CONT);
                process.proxy.set_all(Mode::Cut);
                format!("process {} for {ms} ms", process.number)
            }
            Fault::Drain => {
                let process = self.process(pick)?;
                process.drain();
                format!("process {}", process.number)
            }
            Fault::RollingReplacement => {
                let processes = pool.serving();
                for process in &processes {
                    process.drain();
                    pause(1_000).await;
                }
                format!("{} processes", processes.len())
            }
            Fault::Cut => {
                let process = self.process(pick)?;
                process.proxy.set_all(Mode::Cut);
                format!("process {}", process.number)
            }
            Fault::HalfOpen { up, down, ms } => {
                let process = self.process(pick)?;
                let connection = process.proxy.pick(pick >> 8);
                let connection = connection.context("it has no connection")?;
                connection.send_replace(Mode::Hold { up, down });
                pause(ms).await;
                connection.send_replace(Mode::Cut);
                format!(
                    "of process {} for {ms} ms (up: {up}, down: {down})",
                    process.number
                )
            }
            Fault::Partition { hang_up, ms } => {
                let process = self.sequencer().await?;
                process.proxy.let_in(false);
                process.proxy.set_all(match hang_up {
                    true => Mode::HungUp,
                    false => Mode::Hold {
                        up: true,
                        down: true,
                    },
                });
                pause(ms).await;
                process.proxy.let_in(true);
                process.proxy.set_all(Mode::Cut);
                format!(
                    "process {} for {ms} ms (hung up: {hang_up})",
                    process.number
                )
            }
            Fault::FullReader { ms } => {
                let proxy = pool.proxy(pick).await?;
                let url = pool.url(&proxy);
                let reader = timeout(CONNECT_LIMIT, FullReader::open(&url)).await;
                let _full = reader.context("no answer of the broker")??;
                pause(ms).await;
                format!("for {ms} ms")
            }
            Fault::Poison { from } => self.poison(from).await?,
            Fault::FullDisk { ms } => self.lacking(&pool.setup.full_disk(), ms).await?,
            Fault::NoProcesses { ms } => self.lacking(&pool.setup.no_processes(), ms).await?,
            Fault::NoCodex { ms } => {
                let codex = &pool.setup.programs.codex;
                let away = codex.with_extension("away");
                std::fs::rename(codex, &away)?;
                self.unfit(ms).await;
                std::fs::rename(&away, codex)?;
                format!("for {ms} ms")
            }
            Fault::Host { fault, seconds } => {
                let hosts = pool.setup.hosts.as_ref().context("there is one host")?;
                hosts.begin(fault).await?;
                pause(1_000 * u64::from(seconds)).await;
                hosts.end(fault).await?;
                format!("for {seconds} s")
            }
            Fault::DiskAway { how, ms } => self.disks()?.away(pool, pick, how, ms).await?,
            Fault::LoseDisk => self.disks()?.lose(pool, pick).await?,
            Fault::MoveHome => self.disks()?.move_one(pool, pick).await?,
            Fault::FailPoint { place, skip } => {
                let process = self.process(pick)?;
                let how = format!("{place}={skip}*off->1*return(kill)");
                // First, so that it is not replaced by another one.
                pool.spawn(process.disk, Some(how.clone())).await?;
                process.signal(Signal::KILL);
                format!("process {} becomes one with {how}", process.number)
            }
            at_broker => {
                // Not later: it would come when all is over.
                let alone = self.broker.busy.try_lock();
                let _alone = alone.context("another one is at the broker")?;
                self.at_broker(at_broker, pick).await?
            }
        })
    }

    async fn poison(&self, from: usize) -> anyhow::Result<String> {
        let proxy = self.pool.proxy(from).await?;
        let url = self.pool.url(&proxy);
        let mut producer = RawProducer::new(&url);
        let matrix = poison::matrix();
        let (mut taken, mut names) = (0, Vec::new());
        for poison in matrix
            .iter()
            .cycle()
            .skip(from % matrix.len())
            .take(POISONS)
        {
            for (exchange, key, body) in [
                ("codex.control", &b"J\xFC"[..], NO_CANCEL),
                ("codex.requests", b"turn", NO_REQUEST),
            ] {
                let properties = poison.properties.clone();
                let message = RawMessage::new(exchange, key, properties, body);
                // The broker may be away, or may take no such message.
                match timeout(POISON_LIMIT, producer.publish(&message)).await {
                    Ok(Answer::Taken) => {
                        taken += 1;
                        let request = u64::from(exchange == "codex.requests");
                        self.poisoned.set(self.poisoned.get() + request);
                    }
                    Ok(Answer::Refused(_)) => {}
                    // An answer that comes now would be taken for another message's.
                    Err(_) => producer = RawProducer::new(&url),
                }
            }
            names.push(poison.name.as_str());
        }
        if taken == 0 {
            bail!("the broker took none");
        }
        Ok(format!("{taken} messages: {}", names.join(", ")))
    }

    async fn at_broker(&self, fault: Fault, pick: usize) -> anyhow::Result<String> {
        let broker = &self.broker;
        let vhost = self.pool.setup.vhost.as_str();
        let node = pick % broker.nodes();
        Ok(match fault {
            Fault::CloseOne => {
                let listed = broker.ctl(node, &["list_connections", "pid"]).await?;
                let pids: Vec<&str> = listed
                    .lines()
                    .filter(|line| line.starts_with('<'))
                    .collect();
                let pid = pids.get((pick >> 8) % pids.len().max(1));
                let pid = pid.context("there are no connections")?;
                broker
                    .ctl(node, &["close_connection", pid, "chaos"])
                    .await?;
                (*pid).to_owned()
            }
            Fault::CloseAll => {
                let close = ["close_all_connections", "-p", vhost, "chaos"];
                broker.ctl(node, &close).await?;
                "all connections".to_owned()
            }
            Fault::PurgeOffers => {
                let work = self.work(pick)?;
                broker
                    .ctl(node, &["purge_queue", "-p", vhost, &work])
                    .await?;
                work
            }
            Fault::DeleteOffers => {
                let work = self.work(pick)?;
                broker
                    .ctl(node, &["delete_queue", "-p", vhost, &work])
                    .await?;
                work
            }
            Fault::StopBroker { ms } => {
                broker.ctl(node, &["stop_app"]).await?;
                pause(ms).await;
                broker.ctl(node, &["start_app"]).await?;
                format!("node {node} for {ms} ms")
            }
            Fault::KillBroker { ms } => {
                broker.kill(node).await?;
                pause(ms).await;
                broker.restart(node).await?;
                format!("node {node} for {ms} ms")
            }
            Fault::KillLeader { offers, ms } => {
                let queue = match offers {
                    true => self.work(pick)?,
                    false => TURNS.to_owned(),
                };
                let node = broker.leader(vhost, &queue).await?;
                broker.kill(node).await?;
                pause(ms).await;
                broker.restart(node).await?;
                format!("of {queue}, node {node}, for {ms} ms")
            }
            other => bail!("{} is none of the broker's", other.name()),
        })
    }

    fn disks(&self) -> anyhow::Result<&Rc<Disks>> {
        let disks = self.pool.setup.disks.as_ref();
        disks.context("all share one disk")
    }

    /// The work queue, of a disk that is there.
    fn work(&self, pick: usize) -> anyhow::Result<String> {
        let Ok(disks) = self.disks() else {
            return Ok(WORK.to_owned());
        };
        let there = disks.there();
        let disk = there.get(pick % there.len().max(1));
        let root = disks.root(*disk.context("no disk is there")?);
        let id = std::fs::read_to_string(root.join(".turn-worker/root-id"))?;
        Ok(format!("{WORK}.{}", id.trim()))
    }

    /// As long as that file is there.
    async fn lacking(&self, file: &Path, ms: u64) -> anyhow::Result<String> {
        std::fs::write(file, "")?;
        self.unfit(ms).await;
        // Gone already, if the same fault has struck twice.
        let _ = std::fs::remove_file(file);
        Ok(format!("for {ms} ms"))
    }

    async fn unfit(&self, ms: u64) {
        self.pool.lacks_something(Duration::from_millis(ms));
        pause(ms).await;
    }

    fn kill_of_turn(&self, fault: Fault, running: &Running) -> String {
        self.killed.borrow_mut().push(running.codex);
        match fault {
            Fault::KillGuard => kill_pid(running.guard),
            Fault::KillCodex => kill_pid(running.codex),
            _ => {
                running.worker.into_iter().for_each(kill_pid);
                kill_pid(running.guard);
            }
        }
        let Running {
            tag,
            codex,
            guard,
            worker,
        } = running;
        format!("of {tag}: codex {codex}, guard {guard}, worker {worker:?}")
    }

    fn process(&self, pick: usize) -> anyhow::Result<Rc<Process>> {
        let living = self.pool.living();
        let picked = living.get(pick % living.len().max(1));
        picked.cloned().context("no process lives")
    }

    async fn sequencer(&self) -> anyhow::Result<Rc<Process>> {
        let active = self.pool.active_sequencer().await;
        active.context("no sequencer is active")
    }

    /// A turn that runs under one of the pool's workers.
    fn running(&self, pick: usize) -> anyhow::Result<Running> {
        let setup = &self.pool.setup;
        let runs = runs::read(&setup.stand_in_dir(), &setup.roots());
        let living = self.pool.living();
        let mut running = runs::running(&runs);
        running.retain(|run| living.iter().any(|process| Some(process.pid) == run.worker));
        let picked = running.get(pick % running.len().max(1));
        picked.cloned().context("nothing runs")
    }
}

fn kill(process: &Process) -> String {
    process.signal(Signal::KILL);
    format!("process {}", process.number)
}

fn kill_pid(pid: i32) {
    if let Some(pid) = Pid::from_raw(pid) {
        let _ = kill_process(pid, Signal::KILL);
    }
}

async fn pause(ms: u64) {
    sleep(Duration::from_millis(ms)).await;
}
