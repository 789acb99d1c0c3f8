//! What SIGKILL does not end: it holds its workspace, and neither its turn nor
//! a slot; and it is named.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use rustix::process::{Pid, Signal, kill_process};

use crate::support::host::{Host, awkward, is_root, until};
use crate::support::hung::{HungFolder, leave};
use crate::support::processes::{lives, parent};

/// Of no account. The worker's, and its agents', which become root as if by sudo.
const WORKER: u32 = 61_011;

/// A host with a worker that is not root, and the command that leaves a process of root's.
struct Privileged {
    host: Host,
    command: String,
}

impl Privileged {
    fn new() -> Option<Self> {
        if !is_root("processes of another user than the worker's") {
            return None;
        }
        let host = Host::new().by_user(WORKER).set("KILL_TIMEOUT", "1s");
        let program = host.copied(&awkward());
        fs::set_permissions(&program, fs::Permissions::from_mode(0o4755)).unwrap();
        let (program, file) = (program.display(), host.stand_in_file("of"));
        let of = file.display();
        let command = format!(
            "run {program} privileged {of} >/dev/null 2>&1 & until [ -e {of} ]; do sleep 0.01; done"
        );
        Some(Self { host, command })
    }

    fn end(&self) {
        fs::write(self.host.stand_in_file("of").with_extension("end"), "").unwrap();
    }

    /// No turn runs there, and the reason is reported.
    fn is_held_by(&self, pid: i32) {
        let refused = self.host.run("a", "u\nsay hi");
        assert_eq!((refused.code, refused.events.len()), (Some(1), 0));
        for words in [
            "workspace a is locked",
            &format!("pid {pid} of root (state"),
        ] {
            assert!(refused.log.contains(words), "{}", refused.log);
        }
        assert!(lives(pid));
    }

    fn is_free_again(&self, pid: i32) {
        self.end();
        until("it ends", || (!lives(pid)).then_some(()));
        until("the lock is free", || {
            self.host.lock_is_free("a").then_some(())
        });
        self.host.run("a", "v\nsay hi").assert_end_turn();
    }
}

fn stop(pid: i32) {
    kill_process(Pid::from_raw(pid).unwrap(), Signal::STOP).unwrap();
}

fn kill(pid: i32) {
    kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
}

/// Guards the limit in `Clearing::run`: without it, the turn would have no end.
#[test]
fn g3_g5_a_process_of_another_user_holds_the_workspace_and_not_the_turn() {
    let Some(privileged) = Privileged::new() else {
        return;
    };
    let host = &privileged.host;
    let prompt = format!("t\n{}\nsay hi", privileged.command);
    let turn = host.start("a", &prompt).leaving_something().ended();
    turn.assert_end_turn();
    let pid = host.pid_in("of");
    for words in [
        &format!("pid {pid} of root (state"),
        "awkward-process privileged",
    ] {
        assert!(turn.log.contains(words), "{}", turn.log);
    }
    // The guard has the lock, though its worker is gone.
    assert!(!host.lock_is_free("a"));
    privileged.is_held_by(pid);
    host.run("b", "w\nsay hi").assert_end_turn();
    privileged.is_free_again(pid);
}

/// Neither limits nor a cancel of a turn wait for what it has started.
#[test]
fn g5_a_turn_that_is_stopped_ends_though_a_process_of_it_does_not() {
    let Some(privileged) = Privileged::new() else {
        return;
    };
    let prompt = format!("t\n{}\nsay ready\nhang", privileged.command);
    let mut running = privileged.host.start("a", &prompt).leaving_something();
    running.said("ready");
    running.signal(Signal::INT);
    assert_eq!(running.ended().stop_reason(), "cancelled");
    let pid = privileged.host.pid_in("of");
    privileged.is_held_by(pid);
    privileged.is_free_again(pid);
}

/// The lock dies with its holder, the record does not. Guards `open` in src/turn/lease.rs.
#[test]
fn g3_the_workspace_stays_held_though_the_guard_is_killed() {
    let Some(privileged) = Privileged::new() else {
        return;
    };
    let host = &privileged.host;
    let prompt = format!("t\n{}\nsay hi", privileged.command);
    let turn = host.start("a", &prompt).leaving_something().ended();
    turn.assert_end_turn();
    let pid = host.pid_in("of");
    kill(parent(pid));
    until("the lock is free", || host.lock_is_free("a").then_some(()));
    privileged.is_held_by(pid);
    privileged.is_free_again(pid);
}

/// Then the worker has the tree. Guards `Held::until_gone` in src/guard/pool.rs.
#[test]
fn g3_g5_a_killed_guards_turn_ends_too_though_a_process_of_it_does_not() {
    let Some(privileged) = Privileged::new() else {
        return;
    };
    let host = &privileged.host;
    let prompt = format!("t\n{}\nsay ready\nhang", privileged.command);
    let mut running = host.start("a", &prompt).leaving_something();
    running.said("ready");
    kill(parent(host.runs()[0]));
    let turn = running.ended();
    assert_eq!(turn.error().0, "codex.exited");
    let pid = host.pid_in("of");
    privileged.is_held_by(pid);
    privileged.is_free_again(pid);
}

/// Of another user's process not even the environment shows. Guards `Tag::is_of`.
#[test]
fn g3_what_guard_and_worker_left_that_were_killed_at_once_holds_the_workspace_too() {
    let Some(privileged) = Privileged::new() else {
        return;
    };
    let host = &privileged.host;
    let prompt = format!("t\n{}\nsay ready\nhang", privileged.command);
    let mut running = host.start("a", &prompt).leaving_something();
    running.said("ready");
    let guard = parent(host.runs()[0]);
    stop(guard);
    running.signal(Signal::STOP);
    kill(guard);
    running.kill();
    until("the lock is free", || host.lock_is_free("a").then_some(()));
    let pid = host.pid_in("of");
    privileged.is_held_by(pid);
    privileged.is_free_again(pid);
}

/// In the middle of a system call that does not return, for any user of the worker.
#[test]
fn g3_g5_a_process_that_hangs_in_the_system_holds_the_workspace_and_not_the_turn() {
    let host = Host::new().set("KILL_TIMEOUT", "1s");
    let Some(hung) = HungFolder::at(&host.path().join("hung")) else {
        return;
    };
    let (folder, file) = (host.path().join("hung"), host.stand_in_file("of"));
    let prompt = format!("t\n{}\nsay hi", leave(&folder, &file));
    let turn = host.start("a", &prompt).leaving_something().ended();
    turn.assert_end_turn();
    let pid = host.pid_in("of");
    let words = format!("pid {pid} of root (state D)");
    assert!(turn.log.contains(&words), "{}", turn.log);
    let refused = host.run("a", "u\nsay hi");
    assert_eq!((refused.code, refused.events.len()), (Some(1), 0));
    assert!(refused.log.contains(&words), "{}", refused.log);
    assert!(lives(pid));
    drop(hung);
    until("the lock is free", || host.lock_is_free("a").then_some(()));
    assert!(!lives(pid));
    host.run("a", "v\nsay hi").assert_end_turn();
}
