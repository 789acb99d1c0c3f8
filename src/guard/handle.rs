//! The worker's side of a guard.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::{Mutex, PoisonError};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, send, sendmsg};
use rustix::pipe::{PipeFlags, pipe_with};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::OwnedWriteHalf;
use tokio::net::unix::pipe::Receiver;
use tokio::process::{Child, Command};
use tokio::sync::oneshot;

use super::confine::{Limits, User};
use super::own::{self, Own};
use super::protocol::{FDS, INTERRUPT, KILL, MAX_START_BYTES, Report, Start};
use super::{GUARD_ARG, TAG_VARIABLE, tree};
use crate::codex::Exit;
use crate::error::is_out_of_resources;
use crate::fault;

/// How long a guard may take to make room for more of what it is told.
const START_LIMIT: Timespec = Timespec {
    tv_sec: 10,
    tv_nsec: 0,
};

/// What a guard starts, and under which lock.
#[derive(Debug)]
pub struct GuardSpec<'a> {
    /// This binary; in tests, the one that was built beside them.
    pub guard_program: PathBuf,
    pub program: PathBuf,
    pub args: Vec<String>,
    /// The agent's whole environment; the workspace's tag is added to it.
    pub env: Vec<(String, String)>,
    /// Where codex starts.
    pub dir: BorrowedFd<'a>,
    /// The path of the workspace, by which stragglers are found; none where
    /// this is no turn.
    pub tag: Option<String>,
    /// As whom codex runs, if not as the worker.
    pub user: Option<User>,
    pub limits: Limits,
    /// What codex reads.
    pub stdin: OwnedFd,
    /// Its description goes to the guard, which holds it to the end.
    pub lock: BorrowedFd<'a>,
}

/// What codex writes.
#[derive(Debug)]
pub struct Pipes {
    pub stdout: Receiver,
    pub stderr: Receiver,
}

/// What is known once nothing of the turn lives any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Closed {
    pub exit: Exit,
    /// Processes besides codex that had to be killed.
    pub leftovers: u64,
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
    #[error("can't tell the guard what to start")]
    Start(#[source] io::Error),
}

impl SpawnError {
    /// See [`is_out_of_resources`].
    pub fn is_out_of_resources(&self) -> bool {
        let (Self::Pipes(source)
        | Self::Prompt(source)
        | Self::Spawn { source, .. }
        | Self::Start(source)) = self;
        is_out_of_resources(source)
    }
}

/// A running guard. Dropping it closes the worker's end, which ends the turn.
#[derive(Debug)]
pub struct Guard {
    orders: OwnedWriteHalf,
    watch: oneshot::Receiver<Closed>,
    closed: Option<Closed>,
}

impl Guard {
    /// Sends codex SIGINT, on which it stops its command and ends.
    pub async fn interrupt(&mut self) {
        self.order(INTERRUPT).await;
    }

    /// Ends the whole tree now.
    pub async fn kill(&mut self) {
        self.order(KILL).await;
    }

    async fn order(&mut self, byte: u8) {
        // A guard that is gone has already done what was wanted.
        let _ = self.orders.write_all(&[byte]).await;
    }

    /// Completes when nothing of the turn lives any more. Cancel-safe, and
    /// says the same whenever it is asked again.
    pub async fn closed(&mut self) -> Closed {
        if let Some(closed) = &self.closed {
            return closed.clone();
        }
        let closed = (&mut self.watch).await.unwrap_or(Closed {
            exit: Exit::GuardLost,
            leftovers: 0,
        });
        self.closed.insert(closed).clone()
    }
}

/// Starts codex under a guard. Needs a tokio runtime.
pub fn spawn(spec: GuardSpec<'_>) -> Result<(Guard, Pipes), SpawnError> {
    let (pipes, stdout, stderr) = pipes().map_err(SpawnError::Pipes)?;
    let (ours, theirs) = UnixStream::pair().map_err(SpawnError::Pipes)?;
    let theirs = theirs.into_std().map_err(SpawnError::Pipes)?;
    theirs.set_nonblocking(false).map_err(SpawnError::Pipes)?;
    let start = start_message(&spec).map_err(SpawnError::Start)?;

    let mut command = Command::new(&spec.guard_program);
    command
        .arg(GUARD_ARG)
        // Not even the guard has the worker's environment: it could be read in /proc.
        .env_clear()
        .envs(spec.tag.as_ref().and_then(|_| fault::environment()))
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .stdout(Stdio::null())
        .stderr(Stdio::inherit())
        // A terminal's Ctrl-C is for the worker alone, which then decides. The guard makes itself
        // a session of its own; a hook here that did so would have the whole worker forked.
        .process_group(0);
    let (child, own) = own::start(&mut command).map_err(|source| SpawnError::Spawn {
        program: spec.guard_program.clone(),
        source,
    })?;
    // Or the worker would hold the guard's end of the socket too.
    drop(command);
    let fds = [
        spec.lock,
        spec.dir,
        spec.stdin.as_fd(),
        stdout.as_fd(),
        stderr.as_fd(),
    ];
    let sent = send_start(ours.as_fd(), &start, fds);
    // Or the pipes would never end.
    drop((stdout, stderr));
    let (reports, orders) = ours.into_split();
    let (tell, watch) = oneshot::channel();
    // Watched also when it could not be told: it ends when `orders` is dropped.
    tokio::spawn(async move {
        let (exit, gone) = read_reports(BufReader::new(reports)).await;
        let _ = tell.send(close(child, own, exit, gone).await);
    });
    sent.map_err(SpawnError::Start)?;
    let guard = Guard {
        orders,
        watch,
        closed: None,
    };
    Ok((guard, pipes))
}

/// Codex's exit, and the leftovers if the guard has seen everything end.
async fn read_reports(
    mut reports: BufReader<tokio::net::unix::OwnedReadHalf>,
) -> (Option<Exit>, Option<u64>) {
    let (mut exit, mut gone) = (None, None);
    let mut line = String::new();
    while matches!(reports.read_line(&mut line).await, Ok(n) if n > 0) {
        match serde_json::from_str(&line) {
            Ok(Report::Started { pid }) => tracing::debug!(pid, "codex started"),
            Ok(Report::NotStarted { message, errno }) => {
                exit = Some(Exit::NotStarted { message, errno });
            }
            Ok(Report::Exited { code, signal }) => {
                exit = Some(match (code, signal) {
                    (Some(code), _) => Exit::Code(code),
                    (None, Some(signal)) => Exit::Signal(signal),
                    (None, None) => Exit::GuardLost,
                });
            }
            Ok(Report::Gone { leftovers }) => gone = Some(leftovers),
            Err(error) => tracing::warn!(%error, "the guard said something that is no report"),
        }
        line.clear();
    }
    (exit, gone)
}

async fn close(mut child: Child, own: Own, exit: Option<Exit>, gone: Option<u64>) -> Closed {
    let status = child.wait().await;
    drop(own);
    let Some(leftovers) = gone else {
        tracing::error!(?status, "a guard died before its turn; ending what it left");
        let killed = tokio::task::spawn_blocking(kill_orphans).await;
        return Closed {
            exit: exit.unwrap_or(Exit::GuardLost),
            leftovers: killed.unwrap_or(0),
        };
    };
    Closed {
        // Killed on our order: the guard had no time to see codex's own end.
        exit: exit.unwrap_or(Exit::Signal(9)),
        leftovers,
    }
}

/// One at a time: each must see all that is left, also what the other found.
fn kill_orphans() -> u64 {
    static HUNT: Mutex<()> = Mutex::new(());
    let _alone = HUNT.lock().unwrap_or_else(PoisonError::into_inner);
    tree::kill_orphans(own::pids)
}

/// With codex's ends of stdout and stderr.
fn pipes() -> io::Result<(Pipes, OwnedFd, OwnedFd)> {
    let (stdout_read, stdout_write) = pipe_with(PipeFlags::CLOEXEC)?;
    let (stderr_read, stderr_write) = pipe_with(PipeFlags::CLOEXEC)?;
    let pipes = Pipes {
        stdout: Receiver::from_owned_fd(stdout_read)?,
        stderr: Receiver::from_owned_fd(stderr_read)?,
    };
    Ok((pipes, stdout_write, stderr_write))
}

fn start_message(spec: &GuardSpec<'_>) -> io::Result<Vec<u8>> {
    let mut env = spec.env.clone();
    env.extend(
        spec.tag
            .iter()
            .map(|tag| (TAG_VARIABLE.to_owned(), tag.clone())),
    );
    Ok(serde_json::to_vec(&Start {
        program: spec.program.clone(),
        args: spec.args.clone(),
        env,
        user: spec.user.clone(),
        limits: spec.limits,
    })?)
}

/// Blocks while the socket's buffer is full, which the guard empties at once.
fn send_start(socket: BorrowedFd<'_>, json: &[u8], fds: [BorrowedFd<'_>; FDS]) -> io::Result<()> {
    let length = u32::try_from(json.len())
        .ok()
        .filter(|length| *length <= MAX_START_BYTES)
        .ok_or_else(|| {
            io::Error::other(format!(
                "arguments and environment have {} bytes; at most {MAX_START_BYTES} are allowed",
                json.len()
            ))
        })?
        .to_be_bytes();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !ancillary.push(SendAncillaryMessage::ScmRights(&fds)) {
        return Err(io::Error::other("no room for the descriptors"));
    }
    // The buffer is empty, so this never waits.
    let sent = sendmsg(
        socket,
        &[IoSlice::new(&length)],
        &mut ancillary,
        SendFlags::NOSIGNAL,
    )?;
    send_all(socket, &length[sent..])?;
    send_all(socket, json)
}

fn send_all(socket: BorrowedFd<'_>, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match send(socket, bytes, SendFlags::NOSIGNAL) {
            Ok(sent) => bytes = &bytes[sent..],
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => {
                let mut room = [PollFd::new(&socket, PollFlags::OUT)];
                match poll(&mut room, Some(&START_LIMIT)) {
                    Ok(0) => return Err(Errno::TIMEDOUT.into()),
                    Ok(_) | Err(Errno::INTR) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn g4_the_end_can_be_asked_for_again_by_who_was_interrupted_after_it() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let (tell, watch) = oneshot::channel();
        let mut guard = Guard {
            orders: ours.into_split().1,
            watch,
            closed: None,
        };
        let end = Closed {
            exit: Exit::Code(0),
            leftovers: 2,
        };
        tell.send(end.clone()).unwrap();
        for _ in 0..2 {
            assert_eq!(guard.closed().await, end);
        }
    }
}
