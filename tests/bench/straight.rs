//! The limit: a server of codex for each conversation, driven over its pipes by
//! the least that can, which keeps no queue, order or record.

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use futures_util::future::try_join_all;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::Semaphore;

use crate::proc::Cpu;
use crate::real_codex::{A_COMMAND, RealCodex};

pub struct Straight {
    servers: Vec<Server>,
    at_once: usize,
}

/// Killed when it is dropped.
struct Server {
    child: Child,
    stdin: ChildStdin,
    lines: Lines<BufReader<ChildStdout>>,
    thread: String,
    asked: u64,
}

impl Straight {
    /// With a thread each, in folders of their own in `dir`.
    pub async fn start(
        codex: &RealCodex,
        dir: &Path,
        conversations: usize,
        at_once: usize,
    ) -> Result<Self> {
        let permits = Semaphore::new(at_once);
        let starts = (0..conversations).map(async |n| {
            let _permit = permits.acquire().await?;
            let cwd = dir.join(format!("w{n}"));
            std::fs::create_dir_all(&cwd)?;
            Server::start(codex, &cwd).await
        });
        Ok(Self {
            servers: try_join_all(starts).await?,
            at_once,
        })
    }

    /// So many turns in each conversation. Turns a second, and the servers' CPU a turn.
    pub async fn run(&mut self, each: usize) -> Result<(f64, Duration)> {
        let (before, began) = (self.cpu()?, Instant::now());
        let permits = Semaphore::new(self.at_once);
        let runs = self.servers.iter_mut().map(async |server| -> Result<()> {
            for _ in 0..each {
                let _permit = permits.acquire().await?;
                server.turn().await?;
            }
            Ok(())
        });
        try_join_all(runs).await?;
        let took = began.elapsed();
        let count = (each * self.servers.len()) as f64;
        let cpu = self.cpu()?.saturating_sub(before);
        Ok((count / took.as_secs_f64(), cpu.div_f64(count)))
    }

    fn cpu(&self) -> Result<Duration> {
        let of = |server: &Server| -> Result<Duration> {
            let pid = server.child.id().context("a server has ended")?;
            let cpu = Cpu::with_living_below(pid)?;
            Ok(cpu.own + cpu.children)
        };
        self.servers.iter().map(of).sum()
    }

    /// By closing their stdin, as a worker does.
    pub async fn stop(self) -> Result<()> {
        let ends = self.servers.into_iter().map(async |mut server| {
            drop(server.stdin);
            server.child.wait().await.map(drop)
        });
        try_join_all(ends).await?;
        Ok(())
    }
}

impl Server {
    async fn start(codex: &RealCodex, cwd: &Path) -> Result<Self> {
        let mut command = Command::from(codex.app_server(cwd));
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let (stdin, stdout) = child
            .stdin
            .take()
            .zip(child.stdout.take())
            .context("pipes")?;
        let mut server = Self {
            child,
            stdin,
            lines: BufReader::new(stdout).lines(),
            thread: String::new(),
            asked: 0,
        };
        let client = json!({"clientInfo": {"name": "bench", "version": "0"}});
        server.ask("initialize", client).await?;
        server.write(&json!({"method": "initialized"})).await?;
        let thread =
            json!({"cwd": cwd, "approvalPolicy": "never", "sandbox": "danger-full-access"});
        let started = server.ask("thread/start", thread).await?;
        server.thread = started["thread"]["id"]
            .as_str()
            .context("a thread without an id")?
            .to_owned();
        Ok(server)
    }

    async fn turn(&mut self) -> Result<()> {
        let input = json!([{"type": "text", "text": A_COMMAND}]);
        let turn = json!({"threadId": self.thread, "input": input});
        self.ask("turn/start", turn).await?;
        loop {
            let message = self.hear().await?;
            if message["method"] == "turn/completed" {
                let status = &message["params"]["turn"]["status"];
                ensure!(status == "completed", "a turn ended otherwise: {message}");
                return Ok(());
            }
        }
    }

    /// Returns the result; what is read before that is dropped.
    async fn ask(&mut self, method: &str, params: Value) -> Result<Value> {
        self.asked += 1;
        let id = self.asked;
        self.write(&json!({"id": id, "method": method, "params": params}))
            .await?;
        loop {
            let mut message = self.hear().await?;
            if message["id"] == id && message.get("method").is_none() {
                ensure!(message.get("error").is_none(), "{method}: {message}");
                return Ok(message["result"].take());
            }
        }
    }

    async fn hear(&mut self) -> Result<Value> {
        let line = self.lines.next_line().await?.context("a server ended")?;
        let message: Value = serde_json::from_str(&line)?;
        if message.get("id").is_some() && message.get("method").is_some() {
            bail!("a server asks for something: {message}");
        }
        Ok(message)
    }

    async fn write(&mut self, message: &Value) -> Result<()> {
        let mut line = message.to_string();
        line.push('\n');
        Ok(self.stdin.write_all(line.as_bytes()).await?)
    }
}
