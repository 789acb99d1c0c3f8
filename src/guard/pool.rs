//! Guards, started and kept for the next turn.
//!
//! Starting a program takes longer than all that a guard does in a turn. So
//! one whose turn is over, with nothing left below it, waits for another: it
//! has let go of the lock by then, and knows nothing of the turn any more.

use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::pipe::Receiver;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::process::{Child, Command};
use tokio::sync::mpsc::{self, UnboundedSender};
use tokio::sync::oneshot;

use super::handle::{Answer, Closed, Guard, GuardSpec, Over, Pipes, SpawnError};
use super::own::{self, Own};
use super::protocol::Report;
use super::send::{send_start, start_message};
use super::{GUARD_ARG, standing, tree};
use crate::codex::Exit;
use crate::fault;

/// So many wait at most: half a megabyte each. More turns than that never end
/// at the very moment in which as many others start.
const MOST_WAITING: usize = 16;

/// All guards of a process; all clones are the same.
#[derive(Debug, Clone)]
pub struct Guards {
    /// This binary; in tests, the one that was built beside them.
    program: PathBuf,
    waiting: Arc<Mutex<Vec<(Seat, OwnedWriteHalf)>>>,
}

/// A guard's process, without the half of its socket that gives orders.
#[derive(Debug)]
pub(super) struct Seat {
    reports: BufReader<OwnedReadHalf>,
    child: Child,
    own: Own,
    /// Whether it may have another turn.
    again: bool,
}

impl Guards {
    pub fn new(program: PathBuf) -> Self {
        Self {
            program,
            waiting: Arc::default(),
        }
    }

    /// Starts codex under a guard. Needs a tokio runtime.
    pub fn start(&self, spec: GuardSpec<'_>) -> Result<(Guard, Pipes), SpawnError> {
        let is_turn = spec.tag.is_some();
        let (pipes, stdout, stderr) = pipes().map_err(SpawnError::Pipes)?;
        let start = start_message(&spec).map_err(SpawnError::Start)?;
        let tell = |(seat, orders): (Seat, OwnedWriteHalf)| {
            let sent = send_start(&orders, &start, &spec, &stdout, &stderr);
            (seat, orders, sent)
        };
        // One that waited may be dying; a new one may not.
        let waiting = is_turn.then(|| self.take_waiting()).flatten().map(tell);
        let (seat, orders, sent) = match waiting.filter(|(_, _, sent)| sent.is_ok()) {
            Some(told) => told,
            None => tell(self.spawn(is_turn)?),
        };
        let process = seat.pid().map(|pid| pidfd_open(pid, PidfdFlags::empty()));
        // Or the pipes would never end.
        drop((stdout, stderr));
        let (say, watch) = oneshot::channel();
        let (answer, answers) = mpsc::unbounded_channel();
        // Watched also when it could not be told: it ends when `orders` is dropped.
        tokio::spawn(async move {
            let _ = say.send(seat.watch(answer).await);
        });
        sent.map_err(SpawnError::Start)?;
        let process = process.and_then(Result::ok);
        let guard = Guard::new(orders, process, watch, answers, self.clone());
        Ok((guard, pipes))
    }

    fn spawn(&self, is_turn: bool) -> Result<(Seat, OwnedWriteHalf), SpawnError> {
        let (ours, theirs) = UnixStream::pair().map_err(SpawnError::Pipes)?;
        let theirs = theirs.into_std().map_err(SpawnError::Pipes)?;
        theirs.set_nonblocking(false).map_err(SpawnError::Pipes)?;
        let mut command = Command::new(&self.program);
        command
            .arg(GUARD_ARG)
            // Not even the guard has the worker's environment: it could be read in /proc.
            .env_clear()
            .envs(is_turn.then(fault::environment).flatten())
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            .stderr(Stdio::inherit())
            // A terminal's Ctrl-C is for the worker alone, which then decides. The guard makes itself
            // a session of its own; a hook here that did so would have the whole worker forked.
            .process_group(0);
        let (child, own) = own::start(&mut command).map_err(|source| SpawnError::Spawn {
            program: self.program.clone(),
            source,
        })?;
        // Or the worker would hold the guard's end of the socket too.
        drop(command);
        let (reports, orders) = ours.into_split();
        let seat = Seat {
            reports: BufReader::new(reports),
            child,
            own,
            // What is tried apart from any turn is tried from its very start.
            again: is_turn,
        };
        Ok((seat, orders))
    }

    fn take_waiting(&self) -> Option<(Seat, OwnedWriteHalf)> {
        let mut waiting = self.waiting();
        while let Some((mut seat, orders)) = waiting.pop() {
            // Somebody may have killed it meanwhile, stopped or changed it.
            let lives = matches!(seat.child.try_wait(), Ok(None));
            if lives && seat.pid().is_some_and(standing::is_as_new) {
                return Some((seat, orders));
            }
        }
        None
    }

    /// One that is not kept ends when its socket closes, and the runtime reaps it.
    pub(super) fn give_back(&self, seat: Seat, orders: OwnedWriteHalf) {
        let mut waiting = self.waiting();
        if seat.again && waiting.len() < MOST_WAITING {
            waiting.push((seat, orders));
        }
    }

    fn waiting(&self) -> MutexGuard<'_, Vec<(Seat, OwnedWriteHalf)>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seat {
    fn pid(&self) -> Option<Pid> {
        Pid::from_raw(self.child.id()?.cast_signed())
    }

    /// Listens until nothing of the turn lives any more.
    async fn watch(mut self, answers: UnboundedSender<Answer>) -> Over {
        let (mut exit, mut line) = (None, String::new());
        while matches!(self.reports.read_line(&mut line).await, Ok(n) if n > 0) {
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
                Ok(Report::Marked) => drop(answers.send(Answer::Marked)),
                Ok(Report::Rested) => drop(answers.send(Answer::Rested)),
                Ok(Report::Restless) => drop(answers.send(Answer::Restless)),
                Ok(Report::Taken) => drop(answers.send(Answer::Taken)),
                Ok(Report::Gone { leftovers, again }) => {
                    let closed = Closed {
                        // Killed on our order: the guard had no time to see codex's own end.
                        exit: exit.unwrap_or(Exit::Signal(9)),
                        leftovers,
                    };
                    let seat = again.then_some(self);
                    return Over { closed, seat };
                }
                Err(error) => {
                    tracing::warn!(%error, "the guard said something that is no report");
                }
            }
            line.clear();
        }
        let status = self.child.wait().await;
        drop(self.own);
        tracing::error!(?status, "a guard died before its turn; ending what it left");
        let killed = tokio::task::spawn_blocking(kill_orphans).await;
        let closed = Closed {
            exit: exit.unwrap_or(Exit::GuardLost),
            leftovers: killed.unwrap_or(0),
        };
        Over { closed, seat: None }
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

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsFd;

    use super::*;
    use crate::guard::confine::Limits;

    /// It lives, but has closed its end already.
    #[tokio::test]
    async fn g4_a_waiting_guard_that_is_dying_costs_no_turn() {
        let guards = Guards::new("/nonexistent/guard".into());
        let (ours, theirs) = UnixStream::pair().unwrap();
        drop(theirs);
        let mut command = Command::new("sleep");
        let (child, own) = own::start(command.arg("1000").kill_on_drop(true)).unwrap();
        let (reports, orders) = ours.into_split();
        let seat = Seat {
            reports: BufReader::new(reports),
            child,
            own,
            again: true,
        };
        guards.give_back(seat, orders);

        let nothing = File::open("/dev/null").unwrap();
        let spec = GuardSpec {
            program: "/bin/true".into(),
            args: Vec::new(),
            env: Vec::new(),
            dir: nothing.as_fd(),
            tag: Some("/w".to_owned()),
            user: None,
            limits: Limits::default(),
            files: Vec::new(),
            stdin: nothing.try_clone().unwrap().into(),
            lock: nothing.as_fd(),
            bell: None,
        };
        // A new one was tried: here there is none.
        let error = guards.start(spec).unwrap_err();
        assert!(matches!(error, SpawnError::Spawn { .. }), "{error:?}");
    }
}
