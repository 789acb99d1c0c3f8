//! Where one thing is measured: a vhost and a workspace root that no other run has
//! used before, and processes on them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;
use futures_util::future::try_join_all;

use crate::broker::Broker;
use crate::load::{Load, Turn};
use crate::process::{Process, Programs};

pub struct Bench {
    pub broker: Broker,
    pub programs: Programs,
    /// Everything is written in here, so this decides which disk is measured.
    pub dir: PathBuf,
    pub quick: bool,
    stages: u32,
}

pub struct Stage {
    url: String,
    dir: PathBuf,
    programs: Programs,
    processes: u32,
    /// HOME of all that is started here.
    pub home: PathBuf,
}

impl Bench {
    pub fn new(dir: &Path, programs: Programs, quick: bool) -> Result<Self> {
        Ok(Self {
            broker: Broker::start(&dir.join("rabbitmq"))?,
            programs,
            dir: dir.to_owned(),
            quick,
            stages: 0,
        })
    }

    pub fn stage(&mut self) -> Result<Stage> {
        let dir = self.dir.join(format!("stage-{}", self.stages));
        self.stages += 1;
        for folder in ["workspaces", "home", "codex"] {
            fs::create_dir_all(dir.join(folder))?;
        }
        Ok(Stage {
            url: self.broker.vhost(),
            home: dir.join("home"),
            dir,
            programs: self.programs.clone(),
            processes: 0,
        })
    }

    /// The same measured of the pool and of the one-hop worker, each alone.
    pub async fn ours_and_one_hop<T>(
        &mut self,
        slots: u32,
        measured: impl AsyncFn(&Load) -> Result<T>,
    ) -> Result<(T, T)> {
        let mut stage = self.stage()?;
        let one_hop = stage.one_hop(slots)?;
        let other = measured(&stage.load().await?).await?;
        one_hop.stop().await?;
        let mut stage = self.stage()?;
        let worker = stage.turn_worker(&[("SLOTS", &slots.to_string())]).await?;
        let our = measured(&stage.load().await?).await?;
        worker.stop().await?;
        Ok((our, other))
    }

    /// So many of something, or fewer where it has to be quick.
    pub fn many(&self, full: usize, quick: usize) -> usize {
        if self.quick { quick } else { full }
    }
}

impl Stage {
    pub fn url(&self) -> &str {
        &self.url
    }

    pub async fn load(&self) -> Result<Load> {
        Load::open(&self.url).await
    }

    /// As an operator would start it, with these settings besides.
    pub async fn turn_worker(&mut self, settings: &[(&str, &str)]) -> Result<Process> {
        let (command, log) = self.turn_worker_command(settings);
        Process::turn_worker(command, log).await
    }

    /// As many of the same at the same time, each once it is ready.
    pub async fn turn_workers(
        &mut self,
        count: usize,
        settings: &[(&str, &str)],
    ) -> Result<Vec<Process>> {
        let commands = (0..count).map(|_| self.turn_worker_command(settings));
        let commands: Vec<(Command, PathBuf)> = commands.collect();
        let starts = commands
            .into_iter()
            .map(|(command, log)| Process::turn_worker(command, log));
        try_join_all(starts).await
    }

    fn turn_worker_command(&mut self, settings: &[(&str, &str)]) -> (Command, PathBuf) {
        let mut command = self.command(&self.programs.turn_worker);
        command
            .arg("serve")
            .env("TURN_WORKER_AMQP_URL", &self.url)
            .env("TURN_WORKER_WORKSPACE_ROOT", self.dir.join("workspaces"))
            .env("TURN_WORKER_CODEX_BIN", &self.programs.codex)
            // So that each turn starts a process, as the one-hop worker's do.
            .env("TURN_WORKER_CODEX_ENGINE", "exec")
            .env("TURN_WORKER_CODEX_HOME", self.dir.join("codex"))
            .env("TURN_WORKER_HTTP_ADDR", "127.0.0.1:0");
        for (name, value) in settings {
            command.env(format!("TURN_WORKER_{name}"), value);
        }
        (command, self.log())
    }

    pub fn one_hop(&mut self, slots: u32) -> Result<Process> {
        let mut command = self.command(&self.programs.one_hop);
        command
            .arg(&self.url)
            .arg(self.dir.join("workspaces"))
            .arg(&self.programs.codex)
            .arg(slots.to_string());
        Process::one_hop(command, self.log())
    }

    /// Dies with the bench, also where that is killed.
    fn command(&self, program: &Path) -> Command {
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "KILL"])
            .arg(program)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", &self.home)
            .stdin(std::process::Stdio::null());
        command
    }

    fn log(&mut self) -> PathBuf {
        self.processes += 1;
        self.dir.join(format!("log-{}", self.processes))
    }
}

/// One turn in each of these workspaces, so that creating them is not measured.
pub async fn warm_up(load: &Load, workspaces: impl IntoIterator<Item = String>) -> Result<()> {
    let turns: Vec<Turn> = workspaces
        .into_iter()
        .map(|workspace| Turn::new(format!("warm-up-{workspace}"), workspace, "free"))
        .collect();
    load.run(&turns).await.map(drop)
}
