//! The real codex, asking the stand-in for the model, which answers at once:
//! so what is measured is codex's and the pool's own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures_util::future::try_join_all;

use crate::load::Load;
use crate::model_server::ModelServer;
use crate::proc::Cpu;
use crate::process::Process;
use crate::stage::Bench;

/// What a turn asks for unless it asks for something else: one command, with
/// the tools of the model that codex uses by default.
pub const A_COMMAND: &str = "run: true";

/// As slow as a login shell with pyenv, nvm or conda at its best.
const PROFILE: &str = "sleep 0.4\n";
/// Where login shells look for it.
const PROFILES: [&str; 2] = [".profile", ".zprofile"];

/// What an operator's default settings add to every codex.
const ARGS: [&str; 6] = [
    "--disable",
    "unbounded_connection_retries",
    "--disable",
    "plugins",
    "-c",
    "analytics.enabled=false",
];

/// How a worker runs codex.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Engine {
    /// With the default settings.
    Default,
    Exec,
    /// A server for each turn.
    Cold,
    /// A server for each conversation, however many there are.
    Kept,
}

impl Engine {
    pub fn name(self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::Exec => "exec",
            Self::Cold => "a server for each turn",
            Self::Kept => "a server for each conversation",
        }
    }

    fn settings(self) -> &'static [(&'static str, &'static str)] {
        match self {
            // Empty is the default, where a stage would set another one.
            Self::Default => &[("CODEX_ENGINE", "")],
            Self::Exec => &[("CODEX_ENGINE", "exec")],
            Self::Cold => &[("CODEX_ENGINE", ""), ("CODEX_WARM", "0")],
            Self::Kept => &[
                ("CODEX_ENGINE", ""),
                ("CODEX_WARM", "1000"),
                ("CODEX_IDLE_TTL", "1h"),
            ],
        }
    }
}

/// A codex that asks this model.
pub struct RealCodex {
    program: PathBuf,
    codex_home: PathBuf,
    /// The user's HOME, with a profile.
    home: PathBuf,
    pub model: ModelServer,
}

/// Workers with it, and their load.
pub struct Pool {
    pub workers: Vec<Process>,
    pub load: Load,
}

impl RealCodex {
    pub fn new(bench: &Bench, name: &str) -> Result<Self> {
        let program = bench.programs.real_codex.clone();
        let model = ModelServer::start()?;
        let codex_home = bench.dir.join(format!("codex-home-{name}"));
        fs::create_dir(&codex_home)?;
        fs::write(codex_home.join("config.toml"), model.codex_config())?;
        let home = bench.dir.join(format!("home-{name}"));
        fs::create_dir(&home)?;
        for profile in PROFILES {
            fs::write(home.join(profile), PROFILE)?;
        }
        Ok(Self {
            program: program.context("--codex: where is the real one?")?,
            codex_home,
            home,
            model,
        })
    }

    /// `slots`: of all processes together.
    pub async fn pool(
        &self,
        bench: &mut Bench,
        engine: Engine,
        processes: usize,
        slots: usize,
    ) -> Result<Pool> {
        ensure!(
            slots.is_multiple_of(processes),
            "{slots} slots on {processes} processes"
        );
        let [program, home] = [&self.program, &self.codex_home].map(|path| path.to_string_lossy());
        let slots = (slots / processes).to_string();
        let mut settings = vec![
            ("SLOTS", &*slots),
            ("CODEX_BIN", &*program),
            ("CODEX_HOME", &*home),
        ];
        settings.extend(engine.settings());
        let mut stage = bench.stage()?;
        stage.home.clone_from(&self.home);
        Ok(Pool {
            workers: stage.turn_workers(processes, &settings).await?,
            load: stage.load().await?,
        })
    }

    /// `codex app-server` on its pipes, with the arguments and the environment that workers give it.
    pub fn app_server(&self, cwd: &Path) -> Command {
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "KILL"])
            .arg(&self.program)
            .args(["app-server", "--stdio", "-c", "features.goals=false"])
            .args(ARGS)
            .stderr(Stdio::null());
        self.within(&mut command, cwd);
        command
    }

    /// The same without a pool: new conversations, with the program that starts
    /// processes in the simplest way. Turns a second, and CPU a turn.
    pub fn bare_loop(&self, bench: &Bench, count: usize, at_once: u32) -> Result<(f64, Duration)> {
        const SCRIPT: &str = r#"
            n=$1 at_once=$2; shift 2
            seq "$n" | xargs -P "$at_once" -I{} "$@" >/dev/null"#;
        let before = Cpu::of(std::process::id())?;
        let began = Instant::now();
        let mut command = Command::new("sh");
        command
            .args(["-c", SCRIPT, "-"])
            .args([&count.to_string(), &at_once.to_string()])
            .arg(&self.program)
            .args(["exec", "--json", "--skip-git-repo-check"])
            .arg("--dangerously-bypass-approvals-and-sandbox")
            .args(ARGS)
            .arg(A_COMMAND)
            .stdin(Stdio::null())
            .stderr(Stdio::null());
        self.within(&mut command, &bench.dir);
        let status = command.status()?;
        let took = began.elapsed();
        ensure!(status.success(), "xargs: {status}");
        let cpu = Cpu::of(std::process::id())?.since(before);
        let a_second = count as f64 / took.as_secs_f64();
        Ok((a_second, cpu.children.div_f64(count as f64)))
    }

    fn within(&self, command: &mut Command, cwd: &Path) {
        command
            .current_dir(cwd)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", &self.home)
            .env("CODEX_HOME", &self.codex_home);
    }
}

impl Pool {
    /// Of all its processes, and of all below them.
    pub fn cpu(&self) -> Result<Duration> {
        let all = self.workers.iter().map(Process::cpu);
        all.map(|cpu| cpu.map(|cpu| cpu.own + cpu.children)).sum()
    }

    /// How many turns have found the server of an earlier turn waiting.
    pub fn warm_turns(&self) -> Result<f64> {
        self.workers.iter().map(warm_turns).sum()
    }

    pub async fn stop(self) -> Result<()> {
        try_join_all(self.workers.into_iter().map(Process::stop)).await?;
        Ok(())
    }
}

pub fn warm_turns(worker: &Process) -> Result<f64> {
    match worker.metric_if_any("turn_worker_server_starts_total{kind=\"warm\"}")? {
        Some(turns) => Ok(turns),
        None => worker.metric("turn_worker_servers_reused_total"),
    }
}
