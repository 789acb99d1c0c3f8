//! The guard's own side: without a runtime, and with one thread, besides those which
//! confirm a lock and wait for the disk, so that little can go wrong in it.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread;
use std::time::Duration;

use nix::sys::signal::{self, SigHandler};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::FdFlags;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{
    Pid, Signal, WaitOptions, getpid, getppid, kill_process, set_child_subreaper,
    set_parent_process_death_signal, setpgid, setsid,
};

use super::Unkillable;
use super::confine::{self, Confinement};
use super::confirm::LockConfirmer;
use super::disk::{self, Disk};
use super::protocol::{FDS, INTERRUPT, KILL, Report, Start};
use super::receive::{exactly, next_start};
use super::tree::{Cleared, Clearing};
use super::warm::{Next, Server};
use crate::fault;

/// Guards one turn after the other; its standard input is the worker's socket.
pub fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("turn-worker guard: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> io::Result<()> {
    // What the agent may read of its ancestors in /proc must not include us.
    super::hide()?;
    set_child_subreaper(Some(getpid()))?;
    // An agent of our own user may stop us, and then no process could continue us. That the worker's
    // thread ends which has started us says so too, and does no harm.
    set_parent_process_death_signal(Some(Signal::CONT))?;
    // Caught, not ignored: a handler is gone after exec, so codex starts with the defaults.
    let caught = Arc::new(AtomicBool::new(false));
    for signal in [
        signal_hook::consts::SIGTERM,
        signal_hook::consts::SIGINT,
        signal_hook::consts::SIGHUP,
    ] {
        signal_hook::flag::register(signal, Arc::clone(&caught))?;
    }
    leave_session();
    seal_descriptors()?;
    let (children, ended) = UnixStream::pair()?;
    children.set_nonblocking(true)?;
    signal_hook::low_level::pipe::register(signal_hook::consts::SIGCHLD, ended)?;

    let mut worker = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    while let Some((start, fds)) = next_start(&mut worker)? {
        let Served {
            cleared:
                Cleared {
                    leftovers,
                    was_overdue,
                    is_reaped,
                },
            is_lock_lost,
        } = serve(&mut worker, &children, &start, fds)?;
        // What it has left below must fall to the worker.
        let again = !was_overdue && is_reaped && !is_lock_lost;
        send_report(&mut worker, &Report::Gone { leftovers, again });
        if !again {
            break;
        }
    }
    Ok(())
}

struct Served {
    cleared: Cleared,
    /// The file system of the lock may not answer.
    is_lock_lost: bool,
}

/// One turn, or the turns of a server, from what the worker wants started
/// until none of it is left, and its lock is released.
fn serve(
    worker: &mut UnixStream,
    children: &UnixStream,
    start: &Start,
    mut fds: Vec<OwnedFd>,
) -> io::Result<Served> {
    let mut more = fds.split_off(fds.len().min(FDS)).into_iter();
    let bell = if start.is_server { more.next() } else { None };
    let mut server = bell.map(Server::new);
    let files: Vec<OwnedFd> = more.collect();
    // This description is the workspace's lock.
    let [lock, record, dir, stdin, stdout, stderr] = exactly(fds)?;
    fault::at("guard.asked");
    let mut disk = Disk::default();
    let (codex, watched) = match spawn(start, dir, stdin, stdout, stderr, files) {
        Ok(codex) => match confirmer_of(start, &lock) {
            Ok(confirmer) => {
                disk.confirmer = confirmer;
                let pid = codex.as_raw_pid();
                send_report(worker, &Report::Started { pid });
                fault::at("guard.started");
                let watched = watch(worker, children, codex, &mut server, &disk);
                (Some(codex), watched)
            }
            Err(error) => {
                send_report(worker, &not_started(start, None, &error));
                (Some(codex), Ok(()))
            }
        },
        Err((step, error)) => {
            send_report(worker, &not_started(start, step, &error));
            (None, Ok(()))
        }
    };
    let record = Arc::new(File::from(record));
    let lost = disk.lost();
    if let Some(why) = &lost {
        let why = why.clone();
        send_report(worker, &Report::LockLost { why });
    }
    fault::at("guard.exited");
    // Also when watching failed.
    let cleared = match fault::is_on("sabotage.guard") {
        false => {
            let clearing = Clearing {
                codex,
                known: server.as_ref().map(Server::helpers),
                limit: start.kill_timeout,
            };
            let record = lost.is_none().then_some(&record);
            clear(&clearing, worker, children, &disk, record)
        }
        true => Cleared {
            leftovers: 0,
            was_overdue: false,
            is_reaped: false,
        },
    };
    fault::at("guard.cleared");
    // While it is confirmed, the lock must not be released: it would be acquired again.
    let lost_now = disk.stop();
    if let (None, Some(why)) = (&lost, &lost_now) {
        let why = why.clone();
        send_report(worker, &Report::LockLost { why });
    }
    if lost.or(lost_now).is_some() {
        // Even closing them may hang, and the worker waits for the report. This process ends after it.
        std::mem::forget((server, lock, record));
        return watched.map(|()| Served {
            cleared,
            is_lock_lost: true,
        });
    }
    let last = move || {
        let _ = fault::lock("guard.let_go");
        let let_go = server.map_or(Ok(()), |server| server.let_go(&lock));
        drop((lock, record));
        let_go
    };
    let (let_go, is_lock_lost) = match start.lock_lost_after {
        None => (last(), false),
        Some(limit) => match disk::within(limit, last) {
            Some(let_go) => (let_go, false),
            // The process ends after its report, and closes what is still open.
            None => (Ok(()), true),
        },
    };
    watched.and(let_go).map(|()| Served {
        cleared,
        is_lock_lost,
    })
}

/// `None` where the lock is not confirmed.
fn confirmer_of(start: &Start, lock: &OwnedFd) -> io::Result<Option<LockConfirmer>> {
    let of = |timeout| LockConfirmer::start(lock.try_clone()?, timeout);
    start.lock_lost_after.map(of).transpose()
}

/// Until all processes below this one have ended. What can't be killed is recorded and reported,
/// and then waited for: its end is a signal, so there is little to look for meanwhile.
/// Without a record, whose file system may not answer, it is not recorded.
fn clear(
    clearing: &Clearing<'_>,
    worker: &mut UnixStream,
    children: &UnixStream,
    disk: &Disk,
    record: Option<&Arc<File>>,
) -> Cleared {
    /// Shorter pauses are not worth a wake-up for each process that ends.
    const SHORT: Duration = Duration::from_millis(500);
    let overdue = |leftovers, left: &[_]| {
        let unkillable = Unkillable::of(left);
        let write = |record: &Arc<File>| {
            let (unkillable, record) = (unkillable.clone(), Arc::clone(record));
            disk.call(move || unkillable.write(&record))
        };
        if let Some(Err(error)) = record.map(write) {
            eprintln!("turn-worker guard: can't record what can't be killed: {error}");
        }
        let report = Report::Unkillable {
            leftovers,
            unkillable,
        };
        send_report(worker, &report);
    };
    let nap = |pause: Duration| {
        if pause <= SHORT {
            thread::sleep(pause);
            return;
        }
        let mut bytes = [0; 64];
        while matches!((&*children).read(&mut bytes), Ok(n) if n > 0) {}
        let mut ended = [PollFd::new(children, PollFlags::IN)];
        let _ = poll(&mut ended, Timespec::try_from(pause).ok().as_ref());
    };
    let cleared = clearing.run(overdue, nap);
    let empty = |record: &Arc<File>| {
        let record = Arc::clone(record);
        disk.call(move || Unkillable::clear(&record))
    };
    if cleared.was_overdue
        && let Some(Err(error)) = record.map(empty)
    {
        eprintln!("turn-worker guard: can't clear the record of what is gone: {error}");
    }
    cleared
}

fn not_started(start: &Start, step: Option<&str>, error: &io::Error) -> Report {
    let mut message = format!("{}: ", start.program.display());
    if let Some(step) = step {
        message.push_str(&format!("can't {step}: "));
    }
    message.push_str(&error.to_string());
    if let Some(user) = &start.user {
        message.push_str(&format!(" (as {user})"));
    }
    let errno = error.raw_os_error();
    Report::NotStarted { message, errno }
}

/// Into a session of one's own, out of reach of the worker's terminal. A process that
/// leads a group, as this process does from its start, can't leave its
/// session: so it joins the worker's for a moment, with signals caught.
fn leave_session() {
    let Some(group) = getppid().and_then(group_of) else {
        return;
    };
    // Fails only when the worker has died, and then there is no turn to start.
    let _ = setpgid(None, Some(group)).and_then(|()| setsid());
}

/// `None` if it is outside of this PID namespace, as that of a namespace's
/// first process may be.
fn group_of(worker: Pid) -> Option<Pid> {
    #[expect(
        unsafe_code,
        reason = "rustix makes a pid of the result, and 0 is not one"
    )]
    // SAFETY: a number goes in, and a number comes out.
    let group = unsafe { nix::libc::getpgid(worker.as_raw_pid()) };
    (group > 0).then(|| Pid::from_raw(group)).flatten()
}

/// What the worker itself inherited, and so passed on to this process, is
/// irrelevant for codex.
fn seal_descriptors() -> io::Result<()> {
    let inherited: Vec<RawFd> = fs::read_dir("/proc/self/fd")?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|&fd| fd > 2)
        .collect();
    for fd in inherited {
        #[expect(
            unsafe_code,
            reason = "an inherited descriptor has no owner to borrow it from"
        )]
        // SAFETY: only a flag is set, and one that is closed by now (the
        // folder's own) is answered with an error.
        let fd = unsafe { BorrowedFd::borrow_raw(fd) };
        let _ = rustix::io::fcntl_setfd(fd, FdFlags::CLOEXEC);
    }
    Ok(())
}

/// Until codex has ended, or the worker wants the end, or is gone, or a
/// server that waits is in somebody's way, or the lock is lost.
fn watch(
    worker: &mut UnixStream,
    children: &UnixStream,
    codex: Pid,
    server: &mut Option<Server>,
    disk: &Disk,
) -> io::Result<()> {
    let mut bytes = [0; 64];
    loop {
        let mut ready = [
            PollFd::new(&*worker, PollFlags::IN),
            PollFd::new(children, PollFlags::IN),
        ];
        let timeout = server.as_ref().and_then(Server::timeout);
        let tick = || Timespec::try_from(disk.confirmer.as_ref()?.tick()).ok();
        let timeout = timeout.or_else(tick);
        match poll(&mut ready, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let from_worker = !ready[0].revents().is_empty();
        while matches!((&*children).read(&mut bytes), Ok(n) if n > 0) {}
        if let Some(report) = reap(codex) {
            send_report(worker, &report);
            return Ok(());
        }
        if disk.lost().is_some() {
            return Ok(());
        }
        if from_worker {
            let read = match worker.read(&mut bytes) {
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => 0,
            };
            for byte in &bytes[..read] {
                match *byte {
                    // Reaped only above, so the pid is still codex's.
                    INTERRUPT => drop(kill_process(codex, Signal::INT)),
                    KILL => return Ok(()),
                    order => match server
                        .as_mut()
                        .map(|server| server.hear(order, codex, disk))
                    {
                        Some(Next::Report(report)) => send_report(worker, &report),
                        Some(Next::Nothing) | None => {}
                    },
                }
            }
            if read == 0 {
                return Ok(());
            }
        } else if let Some(why) = server
            .as_mut()
            .and_then(|server| server.leaves(codex, disk))
        {
            send_report(worker, &Report::Leaves { why });
            return Ok(());
        }
    }
}

/// Reaps all that has ended below us; reports codex's end if it is among it.
fn reap(codex: Pid) -> Option<Report> {
    let mut end = None;
    while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
        if pid == codex {
            end = Some(Report::Exited {
                code: status.exit_status(),
                signal: status.terminating_signal(),
            });
        }
    }
    end
}

fn send_report(worker: &mut UnixStream, report: &Report) {
    if let Ok(mut line) = serde_json::to_vec(report) {
        line.push(b'\n');
        // The worker may be gone; what remains to be done is the same.
        let _ = worker.write_all(&line);
    }
}

/// The descriptors have the same numbers in codex.
fn file_args(flags: &[String], files: &[OwnedFd]) -> Vec<String> {
    let arg =
        |(flag, file): (&String, &OwnedFd)| format!("{flag}/proc/self/fd/{}", file.as_raw_fd());
    flags.iter().zip(files).map(arg).collect()
}

/// A worker that was started in the background of a shell, or by nohup, ignores
/// SIGINT, and what it starts would, too: codex could not be interrupted.
fn heed_signals() {
    for signal in signal::Signal::iterator() {
        #[expect(
            unsafe_code,
            reason = "neither std nor rustix changes what a signal does"
        )]
        // SAFETY: it makes one system call, and no handler of ours is lost: it is
        // called between fork and exec. For two signals it fails, which can't be ignored.
        let _ = unsafe { signal::signal(signal, SigHandler::SigDfl) };
    }
}

/// With an error, in words, which step it was on the way to codex, if it was
/// one of ours.
fn spawn(
    start: &Start,
    dir: OwnedFd,
    stdin: OwnedFd,
    stdout: OwnedFd,
    stderr: OwnedFd,
    files: Vec<OwnedFd>,
) -> Result<Pid, (Option<&'static str>, io::Error)> {
    let mut command = Command::new(&start.program);
    command
        .args(&start.args)
        .args(file_args(&start.files, &files))
        .env_clear()
        .envs(start.env.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::from(stdin))
        .stdout(Stdio::from(stdout))
        .stderr(Stdio::from(stderr));
    let confinement = Confinement {
        user: start.user.as_ref().map(Into::into),
        limits: start.limits,
        mark: start.mark,
        dir,
        guard: getpid(),
    };
    let (failed, tell) = pipe_with(PipeFlags::CLOEXEC).map_err(|error| (None, error.into()))?;
    #[expect(
        unsafe_code,
        reason = "std has no death signal, groups, limits or fchdir; the closure makes system calls without allocating"
    )]
    // SAFETY: all of it is async-signal-safe, and this process has one thread: those which
    // confirm the lock and wait for the disk start later, and have ended before the next turn.
    unsafe {
        command.pre_exec(move || {
            heed_signals();
            for file in &files {
                // Of these, unlike all others, codex has the descriptor.
                rustix::io::fcntl_setfd(file, FdFlags::empty())?;
            }
            confinement.enter().map_err(|(step, errno)| {
                // The error itself reaches the guard as a bare number.
                let _ = rustix::io::write(&tell, &[step as u8]);
                errno.into()
            })
        });
    }
    let child = command.spawn();
    // With it goes our writing end.
    drop(command);
    let child = child.map_err(|error| {
        let mut step = [0];
        let read = rustix::io::read(&failed, &mut step);
        ((read == Ok(1)).then(|| confine::in_words(step[0])), error)
    })?;
    let pid = Pid::from_raw(child.id().cast_signed());
    pid.ok_or_else(|| (None, io::Error::other("codex has no pid")))
}
