//! The worker's side of a guard while it has a turn.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::time::Duration;

use rustix::process::{Signal, pidfd_send_signal};
use tokio::io::AsyncWriteExt;
use tokio::net::unix::OwnedWriteHalf;
use tokio::net::unix::pipe::Receiver;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::oneshot;

use super::Exit;
use super::confine::{Limits, User};
use super::pool::{Guards, Seat};
use super::protocol::{ADOPT, INTERRUPT, KILL, MARK, REST, TAKE, WAIT};
use super::{Leave, Tag, Unkillable, Unrest};
use crate::error::is_out_of_resources;

/// What a guard starts, and under which lock.
#[derive(Debug)]
pub struct GuardSpec<'a> {
    pub program: PathBuf,
    pub args: Vec<String>,
    /// The agent's whole environment; the workspace's tag is added to it.
    pub env: Vec<(String, String)>,
    /// Where codex starts.
    pub dir: BorrowedFd<'a>,
    /// `None` outside of a turn.
    pub tag: Option<Tag>,
    /// The user that codex runs as, if not the worker's.
    pub user: Option<User>,
    pub limits: Limits,
    /// What codex finds named by more arguments.
    pub files: Vec<FileArg>,
    /// What codex reads.
    pub stdin: OwnedFd,
    /// Its description goes to the guard, which holds it to the end.
    pub lock: BorrowedFd<'a>,
    /// Where the guard records what it can't kill.
    pub unkillable: BorrowedFd<'a>,
    /// How long that may take to end before the turn ends without it.
    pub kill_timeout: Duration,
    /// For how long the lock may go unconfirmed before the turn is killed; `None` where
    /// it is not confirmed.
    pub lock_lost_after: Option<Duration>,
    /// Of a server that is to serve several turns: what another process locks that
    /// needs the workspace between two of them; in a description of its own.
    pub bell: Option<OwnedFd>,
}

/// A file that only codex can open, by the path that its last argument names:
/// it has no other name, and is gone with the last process that has it open.
#[derive(Debug)]
pub struct FileArg {
    /// What stands before the path, such as `--image=`.
    pub flag: &'static str,
    pub file: OwnedFd,
}

/// What codex writes.
#[derive(Debug)]
pub struct Pipes {
    pub stdout: Receiver,
    pub stderr: Receiver,
}

/// What is known once all processes of the turn have ended, but for those that can't be killed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Closed {
    pub exit: Exit,
    /// Processes besides codex that had to be killed.
    pub leftovers: u64,
    /// What lives on, and keeps the workspace locked.
    pub unkillable: Option<Unkillable>,
    /// Why the workspace's lock counts as lost, if that has ended the turn: calls on its
    /// file system may hang.
    pub lock_lost: Option<String>,
}

#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    #[error("can't make the guard's pipes")]
    Pipes(#[source] io::Error),
    #[error("can't keep the prompt for codex to read")]
    Prompt(#[source] io::Error),
    #[error("can't start the guard {}", program.display())]
    Spawn {
        program: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("can't send the guard what to start")]
    Start(#[source] io::Error),
    #[error("processes of an earlier turn can't be killed: {0}")]
    Held(Box<Unkillable>),
}

impl SpawnError {
    /// See [`is_out_of_resources`].
    pub fn is_out_of_resources(&self) -> bool {
        match self {
            Self::Pipes(source)
            | Self::Prompt(source)
            | Self::Spawn { source, .. }
            | Self::Start(source) => is_out_of_resources(source),
            Self::Held(_) => false,
        }
    }
}

/// A guard that has a turn. Dropping it closes the worker's end, which ends
/// the turn.
#[derive(Debug)]
pub struct Guard {
    /// `None` once the turn is over.
    orders: Option<OwnedWriteHalf>,
    /// `None` if the system has no such value.
    process: Option<OwnedFd>,
    watch: oneshot::Receiver<Over>,
    answers: UnboundedReceiver<Answer>,
    left: Option<Leave>,
    closed: Option<Closed>,
    guards: Guards,
}

/// What a server's guard answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    Marked,
    /// With the memory that it takes, in bytes.
    Rested(u64),
    Restless(Unrest),
    Taken,
    Leaves(Leave),
}

/// What the task that listens to a guard says at last.
#[derive(Debug)]
pub(super) struct Over {
    pub closed: Closed,
    /// The guard itself, where it can have another turn.
    pub seat: Option<Seat>,
}

impl Guard {
    pub(super) fn new(
        orders: OwnedWriteHalf,
        process: Option<OwnedFd>,
        watch: oneshot::Receiver<Over>,
        answers: UnboundedReceiver<Answer>,
        guards: Guards,
    ) -> Self {
        Self {
            orders: Some(orders),
            process,
            watch,
            answers,
            left: None,
            closed: None,
            guards,
        }
    }

    /// Sends codex SIGINT, on which it stops its command and ends.
    pub async fn interrupt(&mut self) {
        self.order(INTERRUPT).await;
    }

    /// Ends the whole tree now.
    pub async fn kill(&mut self) {
        self.order(KILL).await;
    }

    /// Of a server, before a turn: what lives now is its own, and no turn's.
    pub async fn mark(&mut self) {
        self.order(MARK).await;
        self.answer(|answer| answer == Answer::Marked).await;
    }

    /// Of a server with its MCP servers started, before the agent can do anything:
    /// what they have started is their own.
    pub async fn adopt(&mut self) {
        self.order(ADOPT).await;
    }

    /// Of a server after its turn: whether all of the turn has ended, so
    /// that it rests now and may have another, and how many bytes of memory it takes.
    /// Returns `None` if it is gone.
    pub async fn rest(&mut self) -> Option<Result<u64, Unrest>> {
        self.order(REST).await;
        let is_meant = |answer| matches!(answer, Answer::Rested(_) | Answer::Restless(_));
        match self.answer(is_meant).await? {
            Answer::Rested(memory) => Some(Ok(memory)),
            Answer::Restless(why) => Some(Err(why)),
            Answer::Marked | Answer::Taken | Answer::Leaves(_) => None,
        }
    }

    /// Of a server that rests: from now on, the next process to ring the bell gets its lock.
    pub async fn wait(&mut self) {
        self.order(WAIT).await;
    }

    /// Of a server that rests or waits: whether the lock is still held, for
    /// the next turn. If not, it has made way for another, or is gone.
    pub async fn take(&mut self) -> bool {
        self.order(TAKE).await;
        self.answer(|answer| answer == Answer::Taken)
            .await
            .is_some()
    }

    /// Why the guard has ended a server that waited. Returns `None` if it has not.
    pub fn left(&mut self) -> Option<Leave> {
        while let Ok(answer) = self.answers.try_recv() {
            self.note(answer);
        }
        self.left
    }

    fn note(&mut self, answer: Answer) {
        if let Answer::Leaves(why) = answer {
            self.left = Some(why);
        }
    }

    /// Leaves out what was asked for by a caller that did not wait for it;
    /// returns `None` from a guard that ends all.
    async fn answer(&mut self, is_meant: impl Fn(Answer) -> bool) -> Option<Answer> {
        loop {
            let answer = self.answers.recv().await?;
            if is_meant(answer) {
                return Some(answer);
            }
            self.note(answer);
        }
    }

    async fn order(&mut self, byte: u8) {
        // An agent of the same user may have stopped it, and would then never end.
        if let Some(process) = &self.process {
            let _ = pidfd_send_signal(process, Signal::CONT);
        }
        if let Some(orders) = &mut self.orders {
            // A guard that is gone has already done what was wanted.
            let _ = orders.write_all(&[byte]).await;
        }
    }

    /// Completes when all processes of the turn have ended, but for those that can't be
    /// killed. Cancel-safe, and says the same whenever it is asked again.
    pub async fn closed(&mut self) -> Closed {
        if let Some(closed) = &self.closed {
            return closed.clone();
        }
        let over = (&mut self.watch).await.unwrap_or(Over {
            closed: Closed {
                exit: Exit::GuardLost,
                leftovers: 0,
                unkillable: None,
                lock_lost: None,
            },
            seat: None,
        });
        if let (Some(seat), Some(orders)) = (over.seat, self.orders.take()) {
            self.guards.give_back(seat, orders);
        }
        self.closed.insert(over.closed).clone()
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::UnixStream;
    use tokio::sync::mpsc::unbounded_channel;

    use super::*;

    #[tokio::test]
    async fn g4_the_end_can_be_asked_for_again_by_who_was_interrupted_after_it() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let (tell, watch) = oneshot::channel();
        let guards = Guards::new("/nonexistent".into());
        let (_, answers) = unbounded_channel();
        let mut guard = Guard::new(ours.into_split().1, None, watch, answers, guards);
        let end = Closed {
            exit: Exit::Code(0),
            leftovers: 2,
            unkillable: None,
            lock_lost: None,
        };
        let over = Over {
            closed: end.clone(),
            seat: None,
        };
        tell.send(over).unwrap();
        for _ in 0..2 {
            assert_eq!(guard.closed().await, end);
        }
    }
}
