//! One process of codex under its guard, for a turn or for a question.

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::net::unix::pipe::Receiver;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout, timeout_at};

use super::default_model::DefaultModels;
use super::engine::{End, TurnInput};
use super::lines::{Line, Lines};
use super::program::{Launch, Program};
use super::workspace_config::{self, WorkspaceConfig, command_variable, without_git_status};
use crate::config::Sandbox;
use crate::guard::Exit;
use crate::guard::{FileArg, Guard, GuardSpec, SpawnError};

/// codex's setting for how much the model thinks.
pub(super) const EFFORT: &str = "model_reasoning_effort";
/// Goals have codex start turns by itself, without a request. This
/// form, unlike `--disable goals`, leaves the operator's arguments the last word.
pub(super) const WITHOUT_GOALS: [&str; 2] = ["-c", "features.goals=false"];

/// Enough for the last words of a failing start-up; the whole goes to the log, at debug.
const STDERR_TAIL_BYTES: usize = 8 << 10;
/// Longer lines of stderr are left out of the log.
const STDERR_LINE_BYTES: usize = 64 << 10;
/// How long the pipes may take to end once every process of the turn is gone:
/// only a descriptor handed to a foreign process keeps them open.
const DRAIN: Duration = Duration::from_secs(2);

/// codex as the operator has set it up.
#[derive(Debug, Clone)]
pub struct Codex {
    pub program: Program,
    pub launch: Launch,
    pub sandbox: Sandbox,
    /// The operator's own arguments.
    pub extra_args: Vec<String>,
    pub workspace_config: WorkspaceConfig,
    /// Variables of [`Launch::env`] that the agent's commands see empty.
    pub hidden_env: Vec<String>,
    pub max_line_bytes: usize,
    pub default_models: DefaultModels,
}

/// What codex is started with in one workspace.
#[derive(Debug)]
pub(super) struct Setup {
    /// For either engine: the operator's, then ours, which outrank them.
    pub args: Vec<String>,
    env: Vec<(String, String)>,
}

impl Codex {
    pub(super) fn setup(&self, input: &TurnInput<'_>) -> Setup {
        let mut env = self.launch.env.clone();
        if let Some(home) = input.home.own() {
            env.retain(|(name, _)| name != "CODEX_HOME");
            env.push(("CODEX_HOME".to_owned(), home.to_string_lossy().into_owned()));
        }
        let mut args = self.extra_args.clone();
        // Where codex finds itself, should the directory have been moved.
        let opened = format!("/proc/self/fd/{}", input.dir.as_raw_fd());
        let moved_to = std::fs::read_link(opened).ok();
        let paths: Vec<&Path> = [input.dir_path]
            .into_iter()
            .chain(moved_to.as_deref())
            .collect();
        args.extend(workspace_config::trust(self.workspace_config, &paths));
        if self.workspace_config == WorkspaceConfig::Ignored {
            args.extend(without_git_status(&mut env).into_iter().flatten());
        }
        let is_set = |name: &&String| env.iter().any(|(set, _)| set == *name);
        for name in self.hidden_env.iter().filter(is_set) {
            args.extend(command_variable(name, ""));
        }
        Setup { args, env }
    }

    pub(super) fn start(
        &self,
        setup: Setup,
        input: TurnInput<'_>,
        stdin: OwnedFd,
        files: Vec<FileArg>,
    ) -> Result<Process, SpawnError> {
        let bell = input.bell.map(|bell| bell.try_clone_to_owned());
        let bell = bell.transpose().map_err(SpawnError::Pipes)?;
        let (guard, pipes) = self.launch.guards.start(GuardSpec {
            program: self.program.path(),
            args: setup.args,
            env: setup.env,
            dir: input.dir,
            tag: Some(input.tag.clone()),
            user: self.launch.user.clone(),
            limits: self.launch.limits,
            files,
            stdin,
            lock: input.lock,
            unkillable: input.unkillable,
            kill_timeout: self.launch.kill_timeout,
            lock_lost_after: input.lock_lost_after,
            bell,
        })?;
        let tail = Arc::new(Mutex::new(Vec::new()));
        Ok(Process {
            lines: Lines::new(pipes.stdout, self.max_line_bytes),
            guard,
            drain_until: None,
            stderr: tokio::spawn(log_stderr(pipes.stderr, Arc::clone(&tail))),
            tail,
        })
    }
}

/// Dropping it ends it.
#[derive(Debug)]
pub(super) struct Process {
    lines: Lines<Receiver>,
    pub guard: Guard,
    /// Until when stdout may come to its end, once the turn's processes are gone.
    drain_until: Option<Instant>,
    stderr: JoinHandle<()>,
    tail: Arc<Mutex<Vec<u8>>>,
}

impl Process {
    /// The next line of stdout. Cancel-safe.
    pub(super) async fn next_line(&mut self) -> Option<Line> {
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

    /// Completes when all its processes are gone, except for those that can't be killed.
    pub(super) async fn end(&mut self) -> End {
        let closed = self.guard.closed().await;
        // Its end is near: all processes that could write to it are gone.
        if !self.stderr.is_finished() {
            let _ = timeout(DRAIN, &mut self.stderr).await;
        }
        let tail = self.tail.lock().unwrap_or_else(PoisonError::into_inner);
        End {
            exit: closed.exit,
            leftovers: closed.leftovers,
            unkillable: closed.unkillable,
            lock_lost: closed.lock_lost,
            stderr_tail: String::from_utf8_lossy(&tail).into_owned(),
        }
    }

    /// For a turn that ends before its process.
    pub(super) fn so_far(&mut self) -> End {
        let mut tail = self.tail.lock().unwrap_or_else(PoisonError::into_inner);
        End {
            exit: Exit::Code(0),
            leftovers: 0,
            unkillable: None,
            lock_lost: None,
            stderr_tail: String::from_utf8_lossy(&std::mem::take(&mut *tail)).into_owned(),
        }
    }

    /// As if codex had written it: for what is known only here.
    pub(super) fn note(&self, line: &str) {
        note(&self.tail, line.as_bytes());
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.stderr.abort();
    }
}

async fn log_stderr(stderr: Receiver, tail: Arc<Mutex<Vec<u8>>>) {
    let mut lines = Lines::new(stderr, STDERR_LINE_BYTES);
    while let Ok(Some(line)) = lines.next().await {
        let Line::Whole(line) = line else { continue };
        let text = String::from_utf8_lossy(&line);
        tracing::debug!(target: "codex::stderr", line = &*text, "codex wrote");
        note(&tail, &line);
    }
}

fn note(tail: &Mutex<Vec<u8>>, line: &[u8]) {
    let mut tail = tail.lock().unwrap_or_else(PoisonError::into_inner);
    tail.extend_from_slice(line);
    tail.push(b'\n');
    let over = tail.len().saturating_sub(STDERR_TAIL_BYTES);
    tail.drain(..over);
}
