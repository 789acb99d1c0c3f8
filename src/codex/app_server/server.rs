//! A process of `codex app-server`, which serves one turn after another of one
//! workspace's conversation.

use std::collections::VecDeque;
use std::future::pending;
use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::pipe::{PipeFlags, pipe_with};
use tokio::io::AsyncWriteExt;
use tokio::net::unix::pipe::Sender;
use tokio::time::timeout;

use super::startup_inputs::StartupInputs;
use super::{Conversation, DismissReason, Load};
use crate::codex::engine::{End, TurnInput};
use crate::codex::lines::Line;
use crate::codex::process::{Codex, Process, WITHOUT_GOALS};
use crate::error::with_sources;
use crate::guard::{SpawnError, drop_elsewhere};

/// How long it may live on after its stdin was closed: it ends in a tenth of
/// a second, unless it hangs.
const LINGER: Duration = Duration::from_secs(10);

/// What it may keep to write from, in bytes.
const MAX_IDLE_BUFFER: usize = 64 << 10;

/// Dropping it ends it.
#[derive(Debug)]
pub struct Server {
    process: Process,
    pub(super) conversation: Conversation,
    /// `None` once it is to end.
    stdin: Option<Sender>,
    /// What it has not taken yet.
    unsent: VecDeque<u8>,
    startup: StartupInputs,
    /// What it took when it last came to rest, in bytes.
    memory: u64,
    /// The workspace's lock, which its guard has, too; `None` if it is
    /// not to be kept after its turn.
    lock: Option<OwnedFd>,
}

impl Server {
    pub(super) fn start(
        codex: &Codex,
        startup: StartupInputs,
        conversation: Conversation,
        input: TurnInput<'_>,
    ) -> Result<Self, SpawnError> {
        let (theirs, ours) = stdin().map_err(SpawnError::Pipes)?;
        let kept = |_| input.lock.try_clone_to_owned();
        let lock = input.bell.map(kept).transpose();
        let mut setup = codex.setup(&input);
        let command = ["app-server", "--stdio"].into_iter().chain(WITHOUT_GOALS);
        setup.args.splice(..0, command.map(str::to_owned));
        Ok(Self {
            lock: lock.map_err(SpawnError::Pipes)?,
            process: codex.start(setup, input, theirs, Vec::new())?,
            conversation,
            stdin: Some(ours),
            unsent: VecDeque::new(),
            startup,
            memory: 0,
        })
    }

    /// Whether a turn that goes on with that thread can be run here.
    pub(super) fn serves(&self, startup: &StartupInputs, load: &Load) -> bool {
        self.startup == *startup && self.conversation.has_loaded(load)
    }

    /// The next line that it writes, while pending input is sent to it.
    /// Cancel-safe.
    pub(super) async fn next_line(&mut self) -> Option<Line> {
        loop {
            if self.stdin.is_some() {
                self.unsent.extend(self.conversation.take_outgoing());
            }
            tokio::select! {
                biased;
                line = self.process.next_line() => return line,
                written = write(&mut self.stdin, self.unsent.as_slices().0) => match written {
                    Ok(written) => self.sent(written),
                    // It has closed its end; what it still says is worth hearing.
                    Err(_) => self.hang_up(),
                },
            }
        }
    }

    fn sent(&mut self, bytes: usize) {
        self.unsent.drain(..bytes);
        if self.unsent.is_empty() {
            // The images of one turn are not to take up memory until the next.
            self.unsent.shrink_to(MAX_IDLE_BUFFER);
        }
    }

    /// It ends by itself, on its closed stdin.
    pub(super) fn hang_up(&mut self) {
        self.stdin = None;
        self.unsent.clear();
    }

    /// As if codex had written it: for what is known only here.
    pub(super) fn note(&self, line: &str) {
        self.process.note(line);
    }

    pub(super) async fn kill(&mut self) {
        self.process.guard.kill().await;
    }

    /// Whether it may be kept after its turn.
    pub(super) fn can_be_kept(&self) -> bool {
        self.lock.is_some() && self.stdin.is_some()
    }

    /// A turn is about to start: processes that live now are not part of it.
    pub(super) async fn mark(&mut self) {
        if self.lock.is_some() {
            self.process.guard.mark().await;
        }
    }

    /// What it and its helpers take for themselves, in bytes; 0 before it has rested.
    pub(super) fn memory(&self) -> u64 {
        self.memory
    }

    /// Whether it is one that may serve several turns.
    pub(super) fn is_to_be_kept(&self) -> bool {
        self.lock.is_some()
    }

    /// What MCP servers have started while they started is not part of the turn.
    pub(super) async fn adopt_helpers(&mut self) {
        if self.conversation.take_mcp_started() && self.lock.is_some() {
            self.process.guard.adopt().await;
        }
    }

    /// After a turn: an error if something of it goes on, here or in its commands.
    pub(super) async fn rest(&mut self) -> Result<End, DismissReason> {
        if !self.can_be_kept() {
            return Err(DismissReason::Died);
        }
        if !self.unsent.is_empty() || !self.conversation.is_idle() {
            return Err(DismissReason::Agents);
        }
        let rest = self.process.guard.rest().await;
        self.memory = rest.ok_or(DismissReason::Died)??;
        Ok(self.process.so_far())
    }

    /// From now on it makes way for any other process that needs the workspace.
    pub(super) async fn wait(&mut self) {
        self.process.guard.wait().await;
    }

    /// For the next turn: the workspace's lock, unless it has made way.
    pub(super) async fn take(&mut self) -> Option<OwnedFd> {
        let lock = self.lock.as_ref()?.try_clone();
        if !self.process.guard.take().await {
            return None;
        }
        let lock = lock.inspect_err(|error| {
            tracing::warn!(error = with_sources(error), "can't keep a server's lock");
        });
        lock.ok()
    }

    /// Reads what it writes between turns; returns `None` once it is gone. Cancel-safe.
    pub(super) async fn hear_next(&mut self) -> Option<()> {
        if let Line::Whole(line) = self.next_line().await? {
            let _ = self.conversation.hear(&line);
        }
        Some(())
    }

    /// While it waits: completes when it rests no more, or is gone. Cancel-safe.
    pub(super) async fn stirs(&mut self) -> DismissReason {
        // What it says meanwhile is about itself, unless it works unasked.
        while self.hear_next().await.is_some() {
            if !self.conversation.others_rest() {
                return DismissReason::Unasked;
            }
        }
        self.end_of_process().await;
        self.why_gone()
    }

    /// Why one that has waited is gone.
    pub(super) fn why_gone(&mut self) -> DismissReason {
        self.process
            .guard
            .left()
            .map_or(DismissReason::Died, Into::into)
    }

    /// Completes when all its processes are gone. Cancel-safe.
    pub(super) async fn end(&mut self) -> End {
        self.hang_up();
        // Read on, or a full pipe would keep it from ending.
        while self.hear_next().await.is_some() {}
        self.end_of_process().await
    }

    async fn end_of_process(&mut self) -> End {
        let end = self.process.end().await;
        if end.lock_lost.is_some() {
            drop_elsewhere(self.lock.take());
        }
        end
    }

    /// As [`Self::end`], also where it hangs.
    pub(super) async fn dismiss(mut self) -> End {
        if let Ok(end) = timeout(LINGER, self.end()).await {
            return end;
        }
        tracing::warn!("an idle server does not end; killing it");
        self.kill().await;
        self.end().await
    }
}

fn stdin() -> io::Result<(OwnedFd, Sender)> {
    let (theirs, ours) = pipe_with(PipeFlags::CLOEXEC)?;
    Ok((theirs, Sender::from_owned_fd(ours)?))
}

/// Completes only when something was written, or can't be.
async fn write(stdin: &mut Option<Sender>, bytes: &[u8]) -> io::Result<usize> {
    match stdin {
        Some(stdin) if !bytes.is_empty() => stdin.write(bytes).await,
        _ => pending().await,
    }
}
