//! The engine `codex exec`: one process a turn, the prompt on its stdin.

use std::fs::File;
use std::io::{self, Seek, Write};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::fs::{MemfdFlags, memfd_create};
use tokio::net::unix::pipe::Receiver;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout, timeout_at};

use super::engine::{End, Engine, EngineRun, Output, TurnInput};
use super::lines::{Line, Lines};
use super::program::{Launch, Program};
use super::protocol;
use crate::config::Sandbox;
use crate::guard::{Guard, GuardSpec, SpawnError};

/// The version whose every word these files were tried with; others are run
/// all the same.
pub const TESTED_VERSION: &str = "0.169.0";
/// Enough for the last words of a failing start-up; the whole goes to the log, at debug.
const STDERR_TAIL_BYTES: usize = 8 << 10;
/// Longer lines of stderr are left out of the log.
const STDERR_LINE_BYTES: usize = 64 << 10;
/// How long the pipes may take to end once every process of the turn is gone:
/// only a descriptor handed to a foreign process keeps them open.
const DRAIN: Duration = Duration::from_secs(2);

const fn sandbox_args(sandbox: Sandbox) -> &'static [&'static str] {
    match sandbox {
        Sandbox::Bypass => &["--dangerously-bypass-approvals-and-sandbox"],
        Sandbox::WorkspaceWrite => &["--sandbox", "workspace-write"],
        Sandbox::ReadOnly => &["--sandbox", "read-only"],
    }
}

#[derive(Debug, Clone)]
pub struct Exec {
    pub program: Program,
    pub launch: Launch,
    pub sandbox: Sandbox,
    /// The operator's own arguments.
    pub extra_args: Vec<String>,
    pub max_line_bytes: usize,
}

impl Exec {
    fn args(&self, model: Option<&str>, resume: Option<&str>) -> Vec<String> {
        let mut args = vec!["exec", "--json", "--skip-git-repo-check"];
        args.extend(sandbox_args(self.sandbox));
        args.extend(self.extra_args.iter().map(String::as_str));
        // One word, so that no value can be taken for a flag.
        let model = model.map(|model| format!("--model={model}"));
        args.extend(model.as_deref());
        if let Some(thread) = resume {
            args.extend(["resume", thread]);
        }
        // On stdin a prompt has no length limit of the system's and is never an argument.
        args.push("-");
        args.into_iter().map(str::to_owned).collect()
    }
}

impl Engine for Exec {
    type Run = ExecRun;

    fn generation(&self) -> u64 {
        self.program.generation()
    }

    fn start(&self, input: TurnInput<'_>) -> Result<ExecRun, SpawnError> {
        let mut env = self.launch.env.clone();
        if let Some(home) = input.home {
            env.retain(|(name, _)| name != "CODEX_HOME");
            env.push(("CODEX_HOME".to_owned(), home.to_string_lossy().into_owned()));
        }
        let stdin = whole(input.prompt.as_bytes()).map_err(SpawnError::Prompt)?;
        let (guard, pipes) = self.launch.guards.start(GuardSpec {
            program: self.program.path(),
            args: self.args(input.model, input.resume),
            env,
            dir: input.dir,
            tag: Some(input.dir_path.to_string_lossy().into_owned()),
            user: self.launch.user.clone(),
            limits: self.launch.limits,
            stdin,
            lock: input.lock,
        })?;
        let tail = Arc::new(Mutex::new(Vec::new()));
        Ok(ExecRun {
            lines: Lines::new(pipes.stdout, self.max_line_bytes),
            guard,
            drain_until: None,
            stderr: tokio::spawn(log_stderr(pipes.stderr, Arc::clone(&tail))),
            tail,
        })
    }
}

#[derive(Debug)]
pub struct ExecRun {
    lines: Lines<Receiver>,
    guard: Guard,
    /// Until when stdout may come to its end, once nothing of the turn lives.
    drain_until: Option<Instant>,
    stderr: JoinHandle<()>,
    tail: Arc<Mutex<Vec<u8>>>,
}

impl ExecRun {
    async fn next_line(&mut self) -> Option<Line> {
        let line = loop {
            if let Some(until) = self.drain_until {
                break timeout_at(until, self.lines.next()).await;
            }
            tokio::select! {
                biased;
                line = self.lines.next() => break Ok(line),
                _ = self.guard.closed() => self.drain_until = Some(Instant::now() + DRAIN),
            }
        };
        match line {
            Ok(Ok(line)) => line,
            Ok(Err(error)) => {
                tracing::warn!(%error, "reading codex's stdout failed");
                None
            }
            Err(_) => {
                tracing::warn!("codex's stdout is held open by a process that is not of its turn");
                None
            }
        }
    }
}

impl EngineRun for ExecRun {
    async fn next(&mut self) -> Option<Output> {
        Some(match self.next_line().await? {
            Line::Whole(line) => match protocol::parse_line(&line) {
                Ok(event) => Output::Event(event),
                Err(_) => Output::Garbage { bytes: line.len() },
            },
            Line::TooLong { bytes } => Output::LineTooLong { bytes },
        })
    }

    async fn interrupt(&mut self) {
        self.guard.interrupt().await;
    }

    async fn kill(&mut self) {
        self.guard.kill().await;
    }

    async fn end(&mut self) -> End {
        let closed = self.guard.closed().await;
        // Its end is near: nothing that could write to it lives.
        if !self.stderr.is_finished() {
            let _ = timeout(DRAIN, &mut self.stderr).await;
        }
        let tail = self.tail.lock().unwrap_or_else(PoisonError::into_inner);
        End {
            exit: closed.exit,
            leftovers: closed.leftovers,
            stderr_tail: String::from_utf8_lossy(&tail).into_owned(),
        }
    }
}

impl Drop for ExecRun {
    fn drop(&mut self) {
        self.stderr.abort();
    }
}

/// The prompt as a file in memory. Through a pipe codex would take the part
/// that a worker had handed over before it died for the whole prompt, and
/// begin to carry it out.
fn whole(prompt: &[u8]) -> io::Result<OwnedFd> {
    let mut file = File::from(memfd_create("prompt", MemfdFlags::CLOEXEC)?);
    file.write_all(prompt)?;
    file.rewind()?;
    Ok(file.into())
}

async fn log_stderr(stderr: Receiver, tail: Arc<Mutex<Vec<u8>>>) {
    let mut lines = Lines::new(stderr, STDERR_LINE_BYTES);
    while let Ok(Some(line)) = lines.next().await {
        let Line::Whole(line) = line else { continue };
        let text = String::from_utf8_lossy(&line);
        tracing::debug!(target: "codex::stderr", line = &*text, "codex wrote");
        let mut tail = tail.lock().unwrap_or_else(PoisonError::into_inner);
        tail.extend_from_slice(&line);
        tail.push(b'\n');
        let over = tail.len().saturating_sub(STDERR_TAIL_BYTES);
        tail.drain(..over);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exec() -> Exec {
        Exec {
            program: Program::find("/bin/sh", "".into()).unwrap(),
            launch: Launch {
                guards: crate::guard::Guards::new("/proc/self/exe".into()),
                env: Vec::new(),
                user: None,
                limits: Default::default(),
            },
            sandbox: Sandbox::Bypass,
            extra_args: vec!["--disable".into(), "plugins".into()],
            max_line_bytes: 1024,
        }
    }

    #[test]
    fn the_version_that_is_installed_for_tests_is_the_tested_one() {
        let package = include_str!("../../ops/codex/package.json");
        let package: serde_json::Value = serde_json::from_str(package).unwrap();
        assert_eq!(package["dependencies"]["@openai/codex"], TESTED_VERSION);
    }

    #[test]
    fn argv_is_the_one_that_the_cli_takes() {
        let thread = "01a201f5-61c9-7403-9850-cc317d92e3b1";
        assert_eq!(
            exec().args(Some("gpt-5.5"), Some(thread)).join(" "),
            format!(
                "exec --json --skip-git-repo-check --dangerously-bypass-approvals-and-sandbox \
                 --disable plugins --model=gpt-5.5 resume {thread} -"
            )
        );
        let mut fresh = exec();
        fresh.sandbox = Sandbox::ReadOnly;
        fresh.extra_args.clear();
        assert_eq!(
            fresh.args(None, None).join(" "),
            "exec --json --skip-git-repo-check --sandbox read-only -"
        );
    }

    #[test]
    fn g8_no_model_name_is_taken_for_a_flag() {
        let args = exec().args(Some("--config=x"), None);
        assert!(args.contains(&"--model=--config=x".to_owned()));
    }
}
