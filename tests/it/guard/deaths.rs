//! The death of the worker, of the guard, and of both at once.

use std::fs;
use std::path::Path;
use std::process::{Child, Command};

use rustix::process::{Pid, Signal, kill_process};

use crate::support::engine::is_exec;
use crate::support::host::{Host, Running, awkward, is_root, until, write_program};
use crate::support::not_tested::not_tested;
use crate::support::processes::{lives, of_workspace, parent, stat};

/// Nobody's.
const AGENT: u32 = 61_001;

/// A turn that has left a daemon and a job behind and hangs.
struct Messy {
    host: Host,
    running: Running,
    codex: i32,
    guard: i32,
    daemon: i32,
}

/// With agents of the worker's own user, and of another one.
fn hosts() -> Vec<Host> {
    let mut hosts = vec![Host::new()];
    if is_root("the deaths of worker and guard of agents of another user") {
        hosts.push(Host::new().run_as(AGENT));
    }
    hosts
}

impl Messy {
    fn start(host: Host) -> Self {
        let mut running = host.start(
            "a",
            "t\ndaemon daemon\nrun nohup sleep 100000 >/dev/null 2>&1 &\nsay ready\nhang",
        );
        running.said("ready");
        let codex = host.runs()[0];
        let daemon = host.pid_in("daemon");
        // A process that is just becoming another program shows no environment.
        let all = || (of_workspace(&host.workspace("a")).len() >= 3).then_some(());
        until("codex, daemon and job live", all);
        assert!(!host.lock_is_free("a"));
        Self {
            guard: parent(codex),
            codex,
            daemon,
            host,
            running,
        }
    }
}

/// Stopped first, so that neither has the time to do anything about the
/// other's death.
fn kill_both(guard: i32, worker: Running) {
    kill(guard, Signal::STOP);
    worker.signal(Signal::STOP);
    kill(guard, Signal::KILL);
    worker.kill();
}

fn kill(pid: i32, signal: Signal) {
    kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap();
}

#[test]
fn g3_when_the_worker_is_killed_the_guard_ends_all_and_only_then_frees_the_lock() {
    for host in hosts() {
        let messy = Messy::start(host);
        messy.running.kill();
        messy.host.unlocked("a", &[messy.daemon]);
        // And the workspace works.
        messy.host.run("a", "u\nsay hi").assert_end_turn();
    }
}

#[test]
fn g3_a_worker_that_is_killed_while_it_is_stopped_leaves_no_process() {
    for host in hosts() {
        let messy = Messy::start(host);
        messy.running.signal(Signal::STOP);
        messy.running.kill();
        messy.host.unlocked("a", &[messy.daemon]);
    }
}

/// As an agent of the worker's user may stop it. Guards the guard's own death
/// signal, SIGCONT: the workspace would stay locked for ever.
#[test]
fn g3_a_guard_that_is_stopped_when_its_worker_dies_ends_all_the_same() {
    for host in hosts() {
        let messy = Messy::start(host);
        kill(messy.guard, Signal::STOP);
        messy.running.kill();
        messy.host.unlocked("a", &[messy.daemon]);
    }
}

#[test]
fn g3_when_the_guard_is_killed_the_worker_ends_all_before_it_publishes_the_end() {
    for host in hosts() {
        let messy = Messy::start(host);
        let host = messy.host;
        kill(messy.guard, Signal::KILL);
        // That all processes have ended when the end is published is checked for every turn.
        let turn = messy.running.ended();
        let (code, reason, retryable, message) = turn.error();
        assert_eq!((code, reason, retryable), ("codex.exited", "unknown", true));
        assert!(message.contains("guard died"), "{message}");
        host.unlocked("a", &[messy.daemon]);
        host.run("a", "u\nsay hi").assert_end_turn();
    }
}

#[test]
fn g3_what_guard_and_worker_left_that_were_killed_at_once_is_ended_by_the_next_turn() {
    for host in hosts() {
        let messy = Messy::start(host);
        let host = messy.host;
        kill_both(messy.guard, messy.running);
        // codex itself dies with its guard.
        until("codex dies", || (!lives(messy.codex)).then_some(()));
        until("the lock is free", || host.lock_is_free("a").then_some(()));
        assert!(lives(messy.daemon), "the test shows nothing");

        let look = format!("u\nrun sed 's/.*) //' /proc/{}/stat", messy.daemon);
        let turn = host.run("a", &look);
        turn.assert_end_turn();
        let seen = turn.printed()[0];
        // Gone, or dead and not yet fetched by its new parent.
        assert!(seen.is_empty() || seen.starts_with('Z'), "{seen}");
        assert_eq!(stat(messy.daemon), None);
    }
}

/// Its environment does not show where that of others does. Guards `proc::folder`.
#[test]
fn g3_what_both_left_is_ended_though_its_first_thread_has_exited() {
    for host in hosts() {
        let file = host.stand_in_file("of");
        let leave = format!(
            "t\nrun {} zombie-leader {} >/dev/null 2>&1 &\nsay ready\nhang",
            host.copied(&awkward()).display(),
            file.display()
        );
        let mut running = host.start("a", &leave);
        running.said("ready");
        let left = host.pid_in("of");
        let lives = || fs::File::open(file.with_extension("lives")).unwrap();
        assert!(lives().try_lock().is_err());
        kill_both(parent(host.runs()[0]), running);
        until("the lock is free", || host.lock_is_free("a").then_some(()));
        assert!(lives().try_lock().is_err(), "the test shows nothing");
        host.run("a", "u\nsay hi").assert_end_turn();
        assert_eq!(stat(left), None);
        assert!(
            lives().try_lock().is_ok(),
            "it lives on beside the next turn"
        );
    }
}

#[test]
fn g3_another_workspaces_processes_are_not_taken_for_left_ones() {
    for host in hosts() {
        let messy = Messy::start(host);
        let host = messy.host;
        kill_both(messy.guard, messy.running);
        until("the lock is free", || host.lock_is_free("a").then_some(()));
        host.run("ab", "u\nsay hi").assert_end_turn();
        assert!(lives(messy.daemon));
        host.run("a", "v\nsay hi").assert_end_turn();
        assert!(!lives(messy.daemon));
    }
}

/// What both have left is found with any change of its environment, and no other process is
/// taken for it. Guards `Tag::is_of`.
#[test]
fn g3_what_both_left_is_found_by_what_it_inherited_and_not_by_a_name() {
    for host in hosts() {
        let bare = host.stand_in_file("bare");
        let leave = format!(
            "run env -i setsid sh -c 'echo $$ > {}.new; mv {0}.new {0}; exec sleep 100000' >/dev/null 2>&1 &",
            bare.display()
        );
        let mut running = host.start("a", &format!("t\n{leave}\nsay ready\nhang"));
        running.said("ready");
        let left = host.pid_in("bare");
        let dir = host.workspace("a");
        // An operator's shell, there since before or after the turn's start.
        let shell = Bystander::start(&dir, "exec sleep 100000", &[]);
        // Another pool's turn in a workspace of the same path.
        let path = ("TURN_WORKER_WORKSPACE", dir.to_str().unwrap());
        let tag = ("TURN_WORKER_TAG", "3b0cfd3c-6c33-4f8d-8a5e-6ff7a3c1f5b0/a");
        let other = Bystander::start(&dir, "exec sleep 100000", &[path, tag]);
        // As older workers' processes are: their path is another directory where they live.
        let root = dir.parent().unwrap().display().to_string();
        let mount = format!("mount -t tmpfs none {root} && mkdir {root}/a && exec sleep 100000");
        let elsewhere = Bystander::in_mounts_of_its_own(&mount, &[path]);
        let older = Bystander::start(&dir, "exec sleep 100000", &[path]);
        kill_both(parent(host.runs()[0]), running);
        until("the lock is free", || host.lock_is_free("a").then_some(()));
        assert!(lives(left), "the test shows nothing");
        // Some of those have the workspace's path, and live on.
        let next = host.start("a", "u\nsay hi").leaving_something();
        next.ended().assert_end_turn();
        assert!(!lives(left), "it outlives its turn");
        assert!(shell.lives(), "a shell was taken for a turn's process");
        assert!(
            other.lives(),
            "another pool's turn was taken for this one's"
        );
        if let Some(elsewhere) = elsewhere {
            assert!(
                elsewhere.lives(),
                "another pool's turn was taken for this one's"
            );
        }
        assert!(!older.lives(), "an older worker's turn was not found");
    }
}

/// As a job is that a turn has handed to a foreign daemon. Guards `log_strays`.
#[test]
fn g3_what_works_in_the_workspace_without_being_of_the_turn_is_logged_and_left_alone() {
    let host = Host::new();
    let mut running = host.start("a", "t\nsay ready\nwait go");
    running.said("ready");
    let job = Bystander::start(&host.workspace("a"), "exec sleep 100000", &[]);
    fs::write(host.stand_in_file("go"), "").unwrap();
    let turn = running.ended();
    turn.assert_end_turn();
    assert!(job.lives());
    let pid = format!("pid {} of ", job.0.id());
    assert!(turn.log.contains(&pid), "{}", turn.log);
    let quiet = host.run("a", "u\nsay hi");
    assert!(!quiet.log.contains(&pid), "{}", quiet.log);
}

/// Guards `root_id`: by its path, it would not be found.
#[test]
fn g3_what_both_left_is_found_under_another_path_of_the_root() {
    let messy = Messy::start(Host::new());
    let host = messy.host;
    let (root, other) = (host.path().join("workspaces"), host.path().join("other"));
    fs::create_dir(&other).unwrap();
    let mount = |arguments: &[&std::ffi::OsStr]| {
        let mounted = Command::new("mount").args(arguments).status();
        mounted.is_ok_and(|status| status.success())
    };
    if !mount(&["--bind".as_ref(), root.as_ref(), other.as_ref()]) {
        not_tested("two paths of one root: nothing can be mounted here");
        return;
    }
    kill_both(messy.guard, messy.running);
    until("the lock is free", || host.lock_is_free("a").then_some(()));
    assert!(lives(messy.daemon), "the test shows nothing");
    let host = host.set("WORKSPACE_ROOT", &other);
    let turn = host.run("a", "u\nsay hi");
    let unmounted = Command::new("umount").arg("-l").arg(&other).status();
    assert!(unmounted.unwrap().success());
    turn.assert_end_turn();
    assert!(!lives(messy.daemon));
}

/// A process that no turn has started; it ends with the value.
struct Bystander(Child);

impl Bystander {
    fn start(dir: &Path, script: &str, variables: &[(&str, &str)]) -> Self {
        let mut shell = Command::new("sh");
        shell.args(["-c", script]).current_dir(dir);
        Self::run(shell, variables)
    }

    /// `None` if that is impossible.
    fn in_mounts_of_its_own(script: &str, variables: &[(&str, &str)]) -> Option<Self> {
        let mut shell = Command::new("unshare");
        shell.args(["-m", "sh", "-c", script]).current_dir("/");
        let mut started = Self::run(shell, variables);
        until("it has mounted, or can't", || {
            let ended = started.0.try_wait().unwrap().is_some();
            let command = fs::read(format!("/proc/{}/cmdline", started.0.id()));
            (ended || command.is_ok_and(|command| command.starts_with(b"sleep"))).then_some(())
        });
        started.lives().then_some(started)
    }

    fn run(mut command: Command, variables: &[(&str, &str)]) -> Self {
        command.envs(variables.iter().copied());
        Self(command.spawn().unwrap())
    }

    fn lives(&self) -> bool {
        lives(self.0.id().cast_signed())
    }
}

impl Drop for Bystander {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn g4_a_worker_that_dies_early_has_handed_over_the_whole_prompt() {
    if !is_exec() {
        // Half a line is no request of a server's.
        return;
    }
    let host = Host::new();
    let program = host.path().join("late-reader");
    let script = "#!/bin/sh
echo $$ > up.new && mv up.new up
until [ -e go ]; do sleep 0.01; done
wc -c > read.new && mv read.new read
";
    write_program(&program, script);
    let host = host.set("CODEX_BIN", &program);
    // More than a pipe holds.
    let prompt = "x".repeat(200_000);
    let running = host.start("a", &prompt);
    let file = |name: &str| host.workspace("a").join(name);
    let codex: i32 = until("codex is up", || {
        fs::read_to_string(file("up")).ok()?.trim().parse().ok()
    });
    // As good as dead for what it has not handed over yet; a dead one's guard would end codex.
    running.signal(Signal::STOP);
    fs::write(file("go"), "").unwrap();
    let read = until("codex has read", || fs::read_to_string(file("read")).ok());
    assert_eq!(read.trim(), "200000");
    running.kill();
    host.unlocked("a", &[codex]);
}
