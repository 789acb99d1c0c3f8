//! Processes of awkward kinds, as a turn may leave them: its first argument
//! says which. Each writes its pid to the file that is named next, once it is
//! what it is to be, and then lives until it is killed.

#![allow(
    unsafe_code,
    clippy::unwrap_used,
    reason = "what it does, no library does safely, and it should fail loudly"
)]

use std::fs::{self, File};
use std::path::Path;
use std::time::Duration;
use std::{process, ptr, thread};

use nix::libc;

fn main() {
    let mut args = std::env::args().skip(1);
    let (kind, file) = (args.next().unwrap(), args.next().unwrap());
    let file = Path::new(&file);
    match kind.as_str() {
        "zombie-leader" => zombie_leader(file),
        "vfork" => vfork(file),
        "traced" => traced(file),
        "undumpable" => undumpable(file),
        "privileged" => privileged(file),
        other => panic!("no kind of process: {other}"),
    }
}

fn note(file: &Path, pid: u32) {
    let new = file.with_extension("new");
    fs::write(&new, pid.to_string()).unwrap();
    fs::rename(new, file).unwrap();
}

fn stay() -> ! {
    loop {
        thread::sleep(Duration::from_secs(3600));
    }
}

/// Its first thread exits; another one goes on, and holds a lock on `<file>.lives`.
fn zombie_leader(file: &Path) {
    let (file, lives) = (file.to_owned(), file.with_extension("lives"));
    thread::spawn(move || {
        // SAFETY: one system call that takes no memory. It fails for the leader of a group, which is no loss.
        let _ = unsafe { libc::setsid() };
        let stat = format!("/proc/{}/stat", process::id());
        while !fs::read_to_string(&stat).unwrap().contains(") Z ") {
            thread::sleep(Duration::from_millis(1));
        }
        let lives = File::create(lives).unwrap();
        lives.lock().unwrap();
        note(&file, process::id());
        stay();
    });
    // SAFETY: ends this thread alone, which owns no shared state.
    unsafe { libc::syscall(libc::SYS_exit, 0) };
}

/// Waits, uninterruptibly, for a child that never becomes another program.
fn vfork(file: &Path) {
    let flags = libc::CLONE_VFORK | libc::SIGCHLD;
    // SAFETY: without CLONE_VM the child has memory of its own, as after fork; there is one thread.
    let child = unsafe { libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) };
    if child == 0 {
        note(file, process::id());
        stay();
    }
}

/// Stopped by its own tracer.
fn traced(file: &Path) {
    // SAFETY: there is one thread, so the child may do anything.
    let child = unsafe { libc::fork() };
    let nothing = ptr::null_mut::<libc::c_void>();
    if child == 0 {
        // SAFETY: the system reads no memory for it.
        unsafe { libc::ptrace(libc::PTRACE_TRACEME, 0, nothing, nothing) };
        // SAFETY: a signal to itself.
        unsafe { libc::raise(libc::SIGSTOP) };
        stay();
    }
    // SAFETY: the status may be left out.
    assert_eq!(unsafe { libc::waitpid(child, ptr::null_mut(), 0) }, child);
    note(file, child.unsigned_abs());
    stay();
}

/// Its environment and the like are closed to its own user.
fn undumpable(file: &Path) {
    // SAFETY: numbers only.
    let failed = unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0) };
    assert_eq!(failed, 0);
    note(file, process::id());
    stay();
}

/// Root's, as by sudo; this program's file must be root's and set-user-ID.
/// Lives until `<file>.end` is there.
fn privileged(file: &Path) {
    // SAFETY: numbers only.
    let failed = unsafe { libc::setresuid(0, 0, 0) };
    assert_eq!(failed, 0, "the file is not set-user-ID root");
    note(file, process::id());
    let end = file.with_extension("end");
    while !end.exists() {
        thread::sleep(Duration::from_millis(5));
    }
}
