//! The real codex, asking the stand-in for the model, which answers at once:
//! so what is measured is codex's and the pool's own.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::load::Load;
use crate::model_server::ModelServer;
use crate::proc::Cpu;
use crate::process::Process;
use crate::stage::Bench;

/// How a worker runs codex.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Engine {
    Exec,
    /// A server for each turn.
    Cold,
    /// A server for each conversation.
    Warm,
}

impl Engine {
    pub const ALL: [Self; 3] = [Self::Exec, Self::Cold, Self::Warm];

    pub fn name(self) -> &'static str {
        match self {
            Self::Exec => "exec",
            Self::Cold => "app-server",
            Self::Warm => "app-server, warm",
        }
    }

    fn settings(self) -> [(&'static str, &'static str); 3] {
        let [engine, warm] = match self {
            Self::Exec => ["exec", "0"],
            Self::Cold => ["app-server", "0"],
            Self::Warm => ["app-server", "1000"],
        };
        [
            ("CODEX_ENGINE", engine),
            ("CODEX_WARM", warm),
            ("CODEX_IDLE_TTL", "1h"),
        ]
    }
}

/// A codex that asks this model.
pub struct RealCodex {
    program: PathBuf,
    home: PathBuf,
    pub model: ModelServer,
}

/// A worker with it, and its load.
pub struct Running {
    pub worker: Process,
    pub load: Load,
}

impl RealCodex {
    pub fn new(bench: &Bench, name: &str) -> Result<Self> {
        let program = bench.programs.real_codex.clone();
        let model = ModelServer::start()?;
        let home = bench.dir.join(format!("codex-home-{name}"));
        fs::create_dir(&home)?;
        fs::write(home.join("config.toml"), model.codex_config())?;
        Ok(Self {
            program: program.context("--codex: where is the real one?")?,
            home,
            model,
        })
    }

    pub async fn run(&self, bench: &mut Bench, engine: Engine, slots: usize) -> Result<Running> {
        let [program, home] = [&self.program, &self.home].map(|path| path.to_string_lossy());
        let slots = slots.to_string();
        let mut settings = vec![
            ("SLOTS", &*slots),
            ("CODEX_BIN", &*program),
            ("CODEX_HOME", &*home),
        ];
        settings.extend(engine.settings());
        let mut stage = bench.stage()?;
        Ok(Running {
            worker: stage.turn_worker(&settings).await?,
            load: stage.load().await?,
        })
    }

    /// The same without a pool: new conversations, by whatever starts
    /// processes with the least ado. Turns a second, and CPU a turn.
    pub fn bare_loop(&self, bench: &Bench, count: usize, at_once: u32) -> Result<(f64, Duration)> {
        const SCRIPT: &str = "seq $1 | xargs -P $2 -I{} $3 exec --json --skip-git-repo-check \
            --dangerously-bypass-approvals-and-sandbox --disable unbounded_connection_retries \
            --disable plugins -c analytics.enabled=false 'turn {}' >/dev/null";
        let before = Cpu::of(std::process::id())?;
        let began = Instant::now();
        let status = Command::new("sh")
            .args(["-c", SCRIPT, "-"])
            .args([&count.to_string(), &at_once.to_string()])
            .arg(&self.program)
            .current_dir(&bench.dir)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", &bench.dir)
            .env("CODEX_HOME", &self.home)
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .status()?;
        let took = began.elapsed();
        ensure!(status.success(), "xargs: {status}");
        let cpu = Cpu::of(std::process::id())?.since(before);
        let a_second = count as f64 / took.as_secs_f64();
        Ok((a_second, cpu.children.div_f64(count as f64)))
    }
}
