//! The guard: that no process of a turn outlives it, whatever is killed.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod deaths;
mod many;
mod program;
mod reuse;
mod secrets;
mod start_stop;
mod trees;
mod unkillable;
mod warm;

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::pipe::PipeFlags;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::unix::pipe::{Receiver, Sender};
use tokio::task::block_in_place;
use tokio::time::timeout;
use turn_worker::guard::confine::Limits;
use turn_worker::guard::{Closed, Guard, GuardSpec, Guards, Tag};
use uuid::Uuid;

use crate::support::host::until;
use crate::support::limit::LIMIT;
use crate::support::processes;

/// Of what can't be killed, soon; of what can, in time on a busy machine.
const KILL_TIMEOUT: Duration = Duration::from_secs(20);

fn guards() -> Guards {
    Guards::new(env!("CARGO_BIN_EXE_turn-worker").into())
}

/// A shell script in codex's place, under a guard of its own.
struct Script {
    /// `None` once it was dropped on purpose.
    guard: Option<Guard>,
    stdin: Option<Sender>,
    stdout: Lines<BufReader<Receiver>>,
    stderr: Receiver,
    dir: TempDir,
    /// What a worker has, too, of a server's lock.
    worker_lock: Option<File>,
}

impl Script {
    /// That serves several turns.
    fn server(text: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let workspace = dir.path().to_owned();
        let opened = File::open(&workspace).unwrap();
        let bell = File::create(workspace.join("bell")).unwrap();
        let args = ["-c", text];
        Self::start_with(
            &guards(),
            opened,
            &workspace,
            dir,
            "/bin/sh",
            &args,
            Some(bell),
        )
    }

    fn start(text: &str) -> Self {
        Self::start_program("/bin/sh", &["-c", text])
    }

    /// Under a guard of these, which may have had a turn before.
    fn start_under(guards: &Guards, text: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let workspace = dir.path().to_owned();
        let opened = File::open(&workspace).unwrap();
        Self::start_opened_under(guards, opened, &workspace, dir, "/bin/sh", &["-c", text])
    }

    fn start_program(program: &str, args: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self::start_in(dir.path().to_owned(), dir, program, args)
    }

    fn start_in(workspace: PathBuf, dir: TempDir, program: &str, args: &[&str]) -> Self {
        let opened = File::open(&workspace).unwrap();
        Self::start_opened(opened, &workspace, dir, program, args)
    }

    /// `opened` is what was at the path of the workspace.
    fn start_opened(
        opened: File,
        workspace: &Path,
        dir: TempDir,
        program: &str,
        args: &[&str],
    ) -> Self {
        Self::start_opened_under(&guards(), opened, workspace, dir, program, args)
    }

    fn start_opened_under(
        guards: &Guards,
        opened: File,
        workspace: &Path,
        dir: TempDir,
        program: &str,
        args: &[&str],
    ) -> Self {
        Self::start_with(guards, opened, workspace, dir, program, args, None)
    }

    fn start_with(
        guards: &Guards,
        opened: File,
        workspace: &Path,
        dir: TempDir,
        program: &str,
        args: &[&str],
        bell: Option<File>,
    ) -> Self {
        let is_server = bell.is_some();
        let lock = File::create(dir.path().join("lock")).unwrap();
        lock.try_lock().unwrap();
        let unkillable = File::create(dir.path().join("unkillable")).unwrap();
        let path = std::env::var("PATH").unwrap();
        let (stdin, ours) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).unwrap();
        let (guard, pipes) = guards
            .start(GuardSpec {
                program: program.into(),
                args: args.iter().map(|arg| (*arg).to_owned()).collect(),
                env: vec![("PATH".to_owned(), path)],
                dir: opened.as_fd(),
                tag: Some(Tag {
                    root: Uuid::nil(),
                    workspace: workspace.to_str().unwrap().to_owned(),
                    path: workspace.to_str().unwrap().to_owned(),
                    directory: None,
                }),
                user: None,
                limits: Limits::default(),
                files: Vec::new(),
                stdin,
                lock: lock.as_fd(),
                unkillable: unkillable.as_fd(),
                kill_timeout: KILL_TIMEOUT,
                lock_lost_after: None,
                bell: bell.map(Into::into),
            })
            .unwrap();
        Self {
            guard: Some(guard),
            stdin: Some(Sender::from_owned_fd(ours).unwrap()),
            stdout: BufReader::new(pipes.stdout).lines(),
            stderr: pipes.stderr,
            dir,
            worker_lock: is_server.then_some(lock),
        }
    }

    /// `None` once no process holds its stdout any more.
    async fn maybe_line(&mut self) -> Option<String> {
        let line = timeout(LIMIT, self.stdout.next_line()).await;
        line.unwrap().unwrap()
    }

    async fn line(&mut self) -> String {
        let Some(line) = self.maybe_line().await else {
            let mut errors = String::new();
            let _ = self.stderr.read_to_string(&mut errors).await;
            panic!("the script ended: {errors}");
        };
        line
    }

    /// Lets a script that does `read go` go on.
    async fn go(&mut self) {
        let stdin = self.stdin.as_mut().unwrap();
        stdin.write_all(b"go\n").await.unwrap();
    }

    fn guard(&mut self) -> &mut Guard {
        self.guard.as_mut().unwrap()
    }

    async fn closed(&mut self) -> Closed {
        timeout(LIMIT, self.guard().closed()).await.unwrap()
    }

    fn lock_is_free(&self) -> bool {
        let lock = File::open(self.dir.path().join("lock")).unwrap();
        lock.try_lock().is_ok()
    }

    /// The pids that the script wrote into the file `pids`, one a line.
    fn pids(&self) -> Vec<i32> {
        let pids = fs::read_to_string(self.dir.path().join("pids")).unwrap_or_default();
        pids.lines().map(|pid| pid.parse().unwrap()).collect()
    }

    fn live(&self) -> usize {
        processes::of_workspace(self.dir.path()).len()
    }

    fn until_live(&self, count: usize) {
        let enough = || (self.live() + self.pids().len() >= count).then_some(());
        block_in_place(|| until("it has made its mess", enough));
    }

    /// Until the lock is free; at that moment all of the turn must have ended.
    fn unlocked(&self) {
        let pids = self.pids();
        block_in_place(|| {
            processes::gone_when_free(self.dir.path(), &pids, || self.lock_is_free());
        });
    }
}
