//! One process of the pool, as its operator sees it.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
pub use turn_worker::guard::proc::lives as is_alive;
use turn_worker::guard::proc::stat;

use super::Deadline;
use crate::support::faults::{self, FAULTS};

/// Of a log, when a test fails.
const TAIL_LINES: usize = 40;

#[derive(Debug)]
pub struct Process {
    number: usize,
    child: Child,
    log: PathBuf,
    http: Cell<Option<SocketAddr>>,
    exit: Option<Option<i32>>,
    deadline: Deadline,
}

impl Process {
    pub(super) fn spawn(
        number: usize,
        log: PathBuf,
        settings: &[(String, String)],
        environment: &[(&str, PathBuf)],
        deadline: Deadline,
    ) -> Self {
        for (_, asked) in settings.iter().filter(|(name, _)| name == FAULTS) {
            faults::must_exist(asked);
        }
        // Dies with the test, also where that is killed.
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", env!("CARGO_BIN_EXE_turn-worker")])
            .arg("serve")
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .envs(environment.iter().map(|(name, value)| (name, value)))
            .envs(settings.iter().map(|(name, value)| (variable(name), value)))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&log).unwrap())
            .spawn()
            .unwrap();
        Self {
            number,
            child,
            log,
            http: Cell::new(None),
            exit: None,
            deadline,
        }
    }

    pub fn name(&self) -> String {
        format!("process {}", self.number)
    }

    pub fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).unwrap()
    }

    /// It was not ended from here; it may have ended by itself.
    pub fn lives(&self) -> bool {
        self.exit.is_none()
    }

    /// As the kernel does it when memory is short.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.exit = Some(self.child.wait().unwrap().code());
    }

    /// SIGTERM; not waited for.
    pub fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    /// SIGHUP; not waited for.
    pub fn hang_up(&self) {
        self.signal(Signal::HUP);
    }

    /// It stands still until thawed; don't ask it for anything meanwhile.
    pub fn freeze(&self) {
        self.signal(Signal::STOP);
    }

    pub fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.pid()).unwrap();
        kill_process(pid, signal).unwrap();
    }

    /// Whether it has, by itself or not.
    pub fn has_ended(&mut self) -> bool {
        self.exit.is_some() || self.child.try_wait().unwrap().is_some()
    }

    /// Its exit code, once it has ended; `None` if a signal ended it.
    pub async fn exited(&mut self) -> Option<i32> {
        if let Some(code) = self.exit {
            return code;
        }
        let what = format!("{} exits", self.name());
        let (deadline, child) = (self.deadline, &mut self.child);
        let probe = async || child.try_wait().unwrap();
        let code = deadline.until(&what, probe).await.code();
        self.exit = Some(code);
        code
    }

    /// Until `/readyz` says so.
    pub async fn ready(&self) {
        let what = format!("{} is ready", self.name());
        let probe = async || (self.get("/readyz").await?.0 == 200).then_some(());
        self.deadline.until(&what, probe).await;
    }

    /// Until `/readyz` gives this reason for not being ready.
    pub async fn unready(&self, reason: &str) {
        let what = format!("{} is not ready: {reason}", self.name());
        let probe = async || {
            let (status, body) = self.get("/readyz").await?;
            (status == 503 && body.contains(reason)).then_some(())
        };
        self.deadline.until(&what, probe).await;
    }

    /// Until it takes no more turns.
    pub async fn draining(&self) {
        self.unready("draining").await;
    }

    /// Until it has logged this message.
    pub async fn logged(&self, message: &str) {
        let what = format!("{} logs {message:?}", self.name());
        let probe = async || {
            let lines = self.log_lines();
            lines
                .iter()
                .any(|line| line["message"] == message)
                .then_some(())
        };
        self.deadline.until(&what, probe).await;
    }

    /// Until that metric is `value`.
    pub async fn metric_is(&self, series: &str, value: f64) {
        let what = format!("{series} of {} is {value}", self.name());
        let probe = async || (self.metrics().await.get(series) == value).then_some(());
        self.deadline.until(&what, probe).await;
    }

    pub async fn metrics(&self) -> Metrics {
        let what = format!("{} tells its metrics", self.name());
        let probe = async || Some(Metrics::parse(&self.get("/metrics").await?.1));
        self.deadline.until(&what, probe).await
    }

    /// Status and body; `None` while it does not answer.
    pub async fn get(&self, path: &str) -> Option<(u16, String)> {
        let mut stream = TcpStream::connect(self.http()?).await.ok()?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.ok()?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        let status = head.split_whitespace().nth(1)?.parse().ok()?;
        Some((status, body.to_owned()))
    }

    /// Where its metrics are, once it is ready.
    pub fn http_addr(&self) -> SocketAddr {
        self.http().unwrap()
    }

    /// Where it listens, as it reports.
    fn http(&self) -> Option<SocketAddr> {
        if self.http.get().is_none() {
            let starting = self
                .log_lines()
                .into_iter()
                .find(|line| line["message"] == "starting");
            let told = starting.and_then(|line| line["http"].as_str()?.parse().ok());
            self.http.set(told.or_else(|| self.http_in_text()));
        }
        self.http.get()
    }

    /// In a log that is not JSON.
    fn http_in_text(&self) -> Option<SocketAddr> {
        let log = self.log_text();
        let (_, rest) = log.split_once(" http=")?;
        rest.split('"').nth(1)?.parse().ok()
    }

    /// The log so far, without what is no JSON.
    pub fn log_lines(&self) -> Vec<Value> {
        let text = self.log_text();
        let lines = text.lines();
        lines
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect()
    }

    pub fn log_text(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    pub(super) fn tail(&self) -> String {
        format!(
            "--- {} (pid {}, {})\n{}",
            self.name(),
            self.pid(),
            if self.lives() { "not ended" } else { "ended" },
            last_lines(&self.log_text(), TAIL_LINES)
        )
    }
}

/// All are the worker's settings but OpenTelemetry's and the one that says which faults it has.
fn variable(name: &str) -> String {
    match name {
        FAULTS => name.to_owned(),
        _ if name.starts_with("OTEL_") => name.to_owned(),
        _ => format!("TURN_WORKER_{name}"),
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(super) fn last_lines(text: &str, most: usize) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(most)..].join("\n")
}

/// `None` if the process is gone.
pub(super) fn parent(pid: i32) -> Option<i32> {
    Some(stat(pid)?.parent)
}

/// What `/metrics` showed, by series with labels.
#[derive(Debug, Clone)]
pub struct Metrics(BTreeMap<String, f64>);

impl Metrics {
    fn parse(text: &str) -> Self {
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        let series = lines.filter_map(|line| {
            let (name, value) = line.rsplit_once(' ')?;
            Some((name.to_owned(), value.parse().ok()?))
        });
        Self(series.collect())
    }

    /// 0 for what is not there (yet).
    pub fn get(&self, series: &str) -> f64 {
        self.0.get(series).copied().unwrap_or(0.0)
    }
}
