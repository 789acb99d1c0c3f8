//! Guards, started and kept for the next turn.
//!
//! Starting a program takes longer than all that a guard does in a turn. So
//! one with its turn over and no process left below it, waits for another: it
//! has let go of the lock by then, and keeps no state of the turn.

use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::pipe::Receiver;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::process::{Child, Command};
use tokio::sync::mpsc::{self, UnboundedSender};
use tokio::sync::oneshot;

use super::Exit;
use super::child_pids::{self, ChildPid};
use super::handle::{Answer, Closed, Guard, GuardSpec, Over, Pipes, SpawnError};
use super::protocol::Report;
use super::send::{send_start, start_message};
use super::tree::Killed;
use super::{GUARD_ARG, HeldWorkspaces, Unkillable, process_limits, tree};
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
    held: HeldWorkspaces,
}

/// A guard's process, without the half of its socket that gives orders.
#[derive(Debug)]
pub(super) struct Seat {
    reports: BufReader<OwnedReadHalf>,
    child: Child,
    own: ChildPid,
    /// Whether it may have another turn.
    again: bool,
}

impl Guards {
    pub fn new(program: PathBuf) -> Self {
        Self {
            program,
            waiting: Arc::default(),
            held: HeldWorkspaces::default(),
        }
    }

    /// The workspaces with turns that have ended, but for what can't be killed.
    pub fn held_workspaces(&self) -> &HeldWorkspaces {
        &self.held
    }

    /// Starts codex under a guard. Needs a tokio runtime.
    pub fn start(&self, spec: GuardSpec<'_>) -> Result<(Guard, Pipes), SpawnError> {
        let is_turn = spec.tag.is_some();
        let (pipes, stdout, stderr) = pipes().map_err(SpawnError::Pipes)?;
        let start = start_message(&spec).map_err(SpawnError::Start)?;
        let held = Held::of(&spec, &self.held).map_err(SpawnError::Start)?;
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
        // Watched even if it could not be informed: it ends when `orders` is dropped.
        tokio::spawn(seat.watch(answer, held, say));
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
        let (child, own) = child_pids::start(&mut command).map_err(|source| SpawnError::Spawn {
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
            // It may have been killed meanwhile, stopped or changed it.
            let lives = matches!(seat.child.try_wait(), Ok(None));
            if lives && seat.pid().is_some_and(process_limits::is_as_new) {
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

    /// Listens until all processes of the turn have ended. Returns that, or before that what of it
    /// can't be killed.
    async fn watch(
        mut self,
        answers: UnboundedSender<Answer>,
        held: Held,
        say: oneshot::Sender<Over>,
    ) {
        let (mut exit, mut line, mut say) = (None, String::new(), Some(say));
        let mut lock_lost = None;
        let mut over = |closed, seat| {
            if let Some(say) = say.take() {
                let _ = say.send(Over { closed, seat });
            }
        };
        // Killed on our order, the guard has no time to see codex's own end.
        const KILLED: Exit = Exit::Signal(9);
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
                Ok(Report::Rested { memory }) => drop(answers.send(Answer::Rested(memory))),
                Ok(Report::Restless { why }) => drop(answers.send(Answer::Restless(why))),
                Ok(Report::Taken) => drop(answers.send(Answer::Taken)),
                Ok(Report::Leaves { why }) => drop(answers.send(Answer::Leaves(why))),
                Ok(Report::LockLost { why }) => {
                    tracing::error!(
                        why,
                        "lost the workspace's lock; killing the turn's processes"
                    );
                    lock_lost = Some(why);
                }
                Ok(Report::Unkillable {
                    leftovers,
                    unkillable,
                }) => {
                    held.note(&unkillable);
                    let closed = Closed {
                        exit: exit.take().unwrap_or(KILLED),
                        leftovers,
                        unkillable: Some(unkillable),
                        lock_lost: lock_lost.clone(),
                    };
                    over(closed, None);
                }
                Ok(Report::Gone { leftovers, again }) => {
                    let closed = Closed {
                        exit: exit.unwrap_or(KILLED),
                        leftovers,
                        unkillable: None,
                        lock_lost,
                    };
                    // Before its end is reported.
                    match closed.lock_lost {
                        None => drop(held),
                        Some(_) => drop_elsewhere(held),
                    }
                    return over(closed, again.then_some(self));
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
        let limit = held.kill_timeout;
        let killed = tokio::task::spawn_blocking(move || kill_orphans(limit)).await;
        let Killed { count, left } = killed.unwrap_or_default();
        let unkillable = (!left.is_empty()).then(|| held.until_gone(left));
        let closed = Closed {
            exit: exit.unwrap_or(Exit::GuardLost),
            leftovers: count,
            unkillable,
            lock_lost,
        };
        over(closed, None);
    }
}

/// What this process has of a turn's workspace, should the turn's guard die: then it is the
/// worker that must keep the lock until all of the turn has ended.
struct Held {
    lock: OwnedFd,
    record: OwnedFd,
    kill_timeout: Duration,
    workspace: Option<String>,
    all: HeldWorkspaces,
}

/// What is known to be unkillable below this process: no other guard's.
static UNKILLABLE: LazyLock<Mutex<HashSet<(i32, u64)>>> = LazyLock::new(Mutex::default);

fn unkillable() -> MutexGuard<'static, HashSet<(i32, u64)>> {
    UNKILLABLE.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Held {
    fn of(spec: &GuardSpec<'_>, all: &HeldWorkspaces) -> io::Result<Self> {
        Ok(Self {
            lock: spec.lock.try_clone_to_owned()?,
            record: spec.unkillable.try_clone_to_owned()?,
            kill_timeout: spec.kill_timeout,
            workspace: spec.tag.as_ref().map(|tag| tag.workspace.clone()),
            all: all.clone(),
        })
    }

    fn note(&self, unkillable: &Unkillable) {
        match &self.workspace {
            Some(workspace) => self.all.note(workspace, unkillable, self.record.as_fd()),
            None => tracing::error!(%unkillable, "a process can't be killed"),
        }
    }

    /// Keeps the lock until all of them have ended, in a thread that ends with the process.
    fn until_gone(self, left: Vec<(i32, u64)>) -> Unkillable {
        unkillable().extend(left.iter().copied());
        let described = Unkillable::of(&left);
        self.note(&described);
        let record = File::from(self.record);
        if let Err(error) = described.write(&record) {
            tracing::error!(%error, "can't record what can't be killed");
        }
        let lock = self.lock;
        thread::spawn(move || {
            tree::outlive(&left);
            unkillable().retain(|one| !left.contains(one));
            if let Err(error) = Unkillable::clear(&record) {
                tracing::error!(%error, "can't clear the record of what is gone");
            }
            drop(lock);
        });
        described
    }
}

/// Closes descriptors of a file system that may not answer: closing may hang, too. If no thread
/// can be started, it is done here.
pub fn drop_elsewhere(what: impl Send + 'static) {
    let closing = thread::Builder::new().name("close".to_owned());
    let _ = closing.spawn(move || drop(what));
}

/// One at a time: each must see all that is left, also what the other found.
fn kill_orphans(limit: Duration) -> Killed {
    static HUNT: Mutex<()> = Mutex::new(());
    let _alone = HUNT.lock().unwrap_or_else(PoisonError::into_inner);
    let known = unkillable().clone();
    tree::kill_orphans(child_pids::pids, &known, limit)
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
    use super::*;
    use crate::guard::Tag;
    use crate::guard::confine::Limits;

    /// It lives, but has closed its end already.
    #[tokio::test]
    async fn g4_a_waiting_guard_that_is_dying_costs_no_turn() {
        let guards = Guards::new("/nonexistent/guard".into());
        let (ours, theirs) = UnixStream::pair().unwrap();
        drop(theirs);
        let mut command = Command::new("sleep");
        let (child, own) = child_pids::start(command.arg("1000").kill_on_drop(true)).unwrap();
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
            tag: Some(Tag {
                root: uuid::Uuid::nil(),
                workspace: "w".to_owned(),
                path: "/w".to_owned(),
                directory: None,
            }),
            user: None,
            limits: Limits::default(),
            files: Vec::new(),
            stdin: nothing.try_clone().unwrap().into(),
            lock: nothing.as_fd(),
            unkillable: nothing.as_fd(),
            kill_timeout: Duration::from_secs(30),
            lock_lost_after: None,
            bell: None,
        };
        // A new one was tried: there is no old one here.
        let error = guards.start(spec).unwrap_err();
        assert!(matches!(error, SpawnError::Spawn { .. }), "{error:?}");
    }
}
