//! The seam between a turn and the way codex is run.
//!
//! A turn goes in, the CLI's events come out, the exit is a value. `exec`
//! starts one process a turn; `app-server` may keep its server for the next.

use std::collections::BTreeSet;
use std::future::Future;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::time::Duration;

use super::app_server::{IdleServers, Server};
use super::home::Home;
use super::process::Codex;
use super::protocol::CliEvent;
use crate::event::Tokens;
use crate::guard::Exit;
use crate::guard::{SpawnError, Tag, Unkillable};
use crate::labels::RateLimit;
use crate::request::{Effort, MediaType, OutputSchema, ServiceTier};

/// What the model is asked.
#[derive(Debug, Clone)]
pub struct Ask {
    pub prompt: String,
    pub images: Vec<Image>,
    /// What its answer is to look like.
    pub output_schema: Option<OutputSchema>,
    pub tier: Option<ServiceTier>,
}

/// An image, read.
#[derive(Debug, Clone)]
pub struct Image {
    pub media_type: MediaType,
    pub bytes: Vec<u8>,
}

/// A prompt alone.
impl From<&str> for Ask {
    fn from(prompt: &str) -> Self {
        Self {
            prompt: prompt.to_owned(),
            images: Vec::new(),
            output_schema: None,
            tier: None,
        }
    }
}

/// Where and how codex is to do it, and under which lock.
#[derive(Debug, Clone, Copy)]
pub struct TurnInput<'a> {
    pub model: Option<&'a str>,
    pub effort: Option<Effort>,
    /// Those that may be asked; any if there is no list.
    pub models: Option<&'a BTreeSet<String>>,
    /// A validated thread id; codex would silently start afresh on anything else.
    pub resume: Option<&'a str>,
    /// By which its processes are known.
    pub tag: &'a Tag,
    /// The workspace's directory, open: an agent may have made its path lead
    /// elsewhere.
    pub dir: BorrowedFd<'a>,
    pub dir_path: &'a Path,
    pub home: &'a Home,
    /// The workspace's lock, held by what runs the turn until all of it is gone.
    pub lock: BorrowedFd<'a>,
    /// Where the workspace's record is of what can't be killed.
    pub unkillable: BorrowedFd<'a>,
    /// For how long the lock may go unconfirmed before the turn is killed; `None` where it is
    /// not confirmed.
    pub lock_lost_after: Option<Duration>,
    /// The workspace's bell, where a server may be kept after the turn.
    pub bell: Option<BorrowedFd<'a>>,
}

#[derive(Debug)]
pub enum Output {
    Event(CliEvent),
    /// A line over the limit was thrown away.
    LineTooLong {
        bytes: u64,
    },
    /// A line without news of the turn: codex is not silent.
    Nothing,
    /// codex need not say anything for so long.
    Sleeps(Duration),
    /// A line that is no event of the CLI.
    Garbage {
        bytes: usize,
    },
    /// The thread that was to be resumed is gone; no turn was run.
    ThreadLost {
        message: String,
    },
    /// What codex reports of the account's allowance.
    RateLimits(Vec<RateLimit>),
    /// codex refuses to resume the thread; no turn was run.
    ThreadRefused {
        message: String,
    },
}

/// How it ended, once all its processes are gone, except for those that can't be killed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct End {
    pub exit: Exit,
    /// Processes besides codex that had to be killed.
    pub leftovers: u64,
    /// What lives on, and keeps the workspace locked.
    pub unkillable: Option<Unkillable>,
    /// Why the workspace's lock counts as lost, if that has ended it.
    pub lock_lost: Option<String>,
    /// The last of what codex wrote to stderr.
    pub stderr_tail: String,
}

/// A turn's tokens, as they were reported while they were spent, and what they
/// were spent on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reported {
    /// On the turn's own thread.
    pub own: Option<Tokens>,
    /// By its sub-agents.
    pub agents: Option<Tokens>,
    /// The thread's running total, from which the next turn counts.
    pub total: Option<Tokens>,
    /// The model that the turn's own agent asked.
    pub model: Option<String>,
}

pub trait Engine: Send + Sync + 'static {
    type Run: EngineRun;

    /// On the server that was kept, if that will do. What is asked is let go
    /// of as soon as codex has it.
    fn start(
        &self,
        input: TurnInput<'_>,
        ask: Ask,
        kept: Option<Server>,
    ) -> impl Future<Output = Result<Self::Run, SpawnError>> + Send;

    /// Rises when another program has taken the place of the one that is
    /// started, as an upgrade does it.
    fn generation(&self) -> u64;

    /// What is run, if it is codex.
    fn codex(&self) -> Option<&Codex> {
        None
    }

    /// Within which pieces of text are joined; `None` if texts come whole.
    fn delta_window(&self) -> Option<Duration> {
        None
    }

    /// Where servers wait between turns, if any are kept.
    fn idle(&self) -> Option<&IdleServers> {
        None
    }
}

/// One running turn. Dropping it ends it.
pub trait EngineRun: Send {
    /// The next event of codex, or `None` after the last one.
    /// Cancel-safe. codex's output is not read while this is not awaited, so
    /// that a slow reader slows codex down.
    fn next(&mut self) -> impl Future<Output = Option<Output>> + Send;

    /// What codex has reported of the turn's tokens so far. Returns `None` if it
    /// does not report them before the turn's end.
    fn reported(&self) -> Option<Reported> {
        None
    }

    /// Asks codex to stop: it ends its command and then itself.
    fn interrupt(&mut self) -> impl Future<Output = ()> + Send;

    /// Ends everything at once.
    fn kill(&mut self) -> impl Future<Output = ()> + Send;

    /// Completes when all processes of the turn are gone, except for those that can't be killed.
    fn end(&mut self) -> impl Future<Output = End> + Send;

    /// What can serve another turn, after this one's end.
    fn keep(self) -> Option<Server>
    where
        Self: Sized,
    {
        None
    }
}
