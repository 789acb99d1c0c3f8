//! The processes that are measured.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};

use crate::proc::Cpu;

const START_LIMIT: Duration = Duration::from_secs(60);
const STOP_LIMIT: Duration = Duration::from_secs(60);
/// Between two looks at something that a process does.
const LOOK: Duration = Duration::from_millis(10);

/// The binaries, all built for release.
#[derive(Debug, Clone)]
pub struct Programs {
    pub turn_worker: PathBuf,
    pub one_hop: PathBuf,
    pub codex: PathBuf,
    /// The real one, where it is known.
    pub real_codex: Option<PathBuf>,
}

/// Killed when it is dropped.
#[derive(Debug)]
pub struct Process {
    child: Child,
    log: PathBuf,
    http: String,
}

impl Process {
    /// A process of the real worker, once it is ready.
    pub async fn turn_worker(mut command: Command, log: PathBuf) -> Result<Self> {
        command.stdout(Stdio::null()).stderr(File::create(&log)?);
        let mut process = Self {
            child: command.spawn().context("turn-worker")?,
            log,
            http: String::new(),
        };
        process.http = process.told_address().await?;
        let began = Instant::now();
        while process.get("/readyz").is_none() {
            process.must_live()?;
            ensure!(
                began.elapsed() < START_LIMIT,
                "not ready: {}",
                process.log_text()
            );
            tokio::time::sleep(LOOK).await;
        }
        Ok(process)
    }

    pub fn one_hop(mut command: Command, log: PathBuf) -> Result<Self> {
        command.stdout(Stdio::piped()).stderr(File::create(&log)?);
        let mut child = command.spawn().context("one-hop")?;
        let stdout = child.stdout.take().context("one-hop has no stdout")?;
        let process = Self {
            child,
            log,
            http: String::new(),
        };
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        ensure!(line == "ready\n", "one-hop: {}", process.log_text());
        Ok(process)
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn cpu(&self) -> Result<Cpu> {
        Cpu::with_living_below(self.pid())
    }

    /// A gauge or counter: its name, followed by its labels if it has some.
    pub fn metric(&self, series: &str) -> Result<f64> {
        self.metric_if_any(series)?
            .with_context(|| format!("no metric {series}"))
    }

    /// Returns `None` if this version of the worker has no such series, or has not counted yet.
    pub fn metric_if_any(&self, series: &str) -> Result<Option<f64>> {
        let text = self.get("/metrics").context("no metrics")?;
        let value = text
            .lines()
            .find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        Ok(value.map(str::parse).transpose()?)
    }

    /// SIGKILL; when it returns, the process is gone.
    pub fn kill(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Alive, and frozen.
    pub fn freeze(&self) -> Result<()> {
        self.signal(Signal::STOP)
    }

    /// SIGTERM, and until it has ended. What has come to no end by itself is killed.
    pub async fn stop(mut self) -> Result<()> {
        self.signal(Signal::TERM)?;
        let began = Instant::now();
        while self.child.try_wait()?.is_none() && began.elapsed() < STOP_LIMIT {
            tokio::time::sleep(LOOK).await;
        }
        Ok(())
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let pid = Pid::from_raw(self.pid().cast_signed()).context("no pid")?;
        Ok(kill_process(pid, signal)?)
    }

    /// Where it listens, by its log.
    async fn told_address(&mut self) -> Result<String> {
        let began = Instant::now();
        loop {
            let log = self.log_text();
            let mut lines = log.lines().filter_map(|line| {
                let line: serde_json::Value = serde_json::from_str(line).ok()?;
                Some(line.get("http")?.as_str()?.to_owned())
            });
            if let Some(address) = lines.next() {
                return Ok(address);
            }
            self.must_live()?;
            ensure!(began.elapsed() < START_LIMIT, "does not start: {log}");
            tokio::time::sleep(LOOK).await;
        }
    }

    fn must_live(&mut self) -> Result<()> {
        if let Some(status) = self.child.try_wait()? {
            bail!("ended with {status}: {}", self.log_text());
        }
        Ok(())
    }

    /// The body, if the answer is a 200.
    fn get(&self, path: &str) -> Option<String> {
        let mut stream = TcpStream::connect(&self.http).ok()?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        head.starts_with("HTTP/1.1 200").then(|| body.to_owned())
    }

    fn log_text(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
