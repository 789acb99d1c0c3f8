//! Starting codex, signals, and what codex finds itself in.

use std::fs;

use rustix::process::{Pid, Signal, kill_process};
use turn_worker::guard::Exit;
use turn_worker::guard::{GuardSpec, Guards, SpawnError};

use super::Script;
use crate::support::processes;

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_started_is_an_exit_that_names_it() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, mode: u32, text: &str| {
        let path = dir.path().join(name);
        fs::write(&path, text).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(mode);
        fs::set_permissions(&path, mode).unwrap();
        path.to_str().unwrap().to_owned()
    };
    for program in [
        "/nonexistent/codex".to_owned(),
        file("no-interpreter", 0o755, "#!/nonexistent/interpreter\n"),
        file("not-executable", 0o644, "#!/bin/sh\n"),
    ] {
        let mut script = Script::start_program(&program, &[]);
        let Exit::NotStarted { message, .. } = script.closed().await.exit else {
            panic!("{program} was started");
        };
        assert!(message.starts_with(&program), "{message}");
        script.unlocked();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_that_cannot_be_entered_is_an_exit_that_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    let mut script = Script::start_in(file, dir, "/bin/sh", &["-c", "true"]);
    let Exit::NotStarted { message, .. } = script.closed().await.exit else {
        panic!("it was started");
    };
    assert!(
        message.starts_with("/bin/sh: can't enter the workspace's directory: Not a directory"),
        "{message}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guard_that_cannot_be_started_is_an_error_that_names_it() {
    let dir = tempfile::tempdir().unwrap();
    let lock = fs::File::create(dir.path().join("lock")).unwrap();
    let spawned = Guards::new("/nonexistent/guard".into()).start(GuardSpec {
        program: "/bin/true".into(),
        args: Vec::new(),
        env: Vec::new(),
        dir: std::os::fd::AsFd::as_fd(&lock),
        tag: None,
        user: None,
        limits: turn_worker::guard::confine::Limits::default(),
        files: Vec::new(),
        stdin: fs::File::open("/dev/null").unwrap().into(),
        lock: std::os::fd::AsFd::as_fd(&lock),
        unkillable: std::os::fd::AsFd::as_fd(&lock),
        kill_timeout: super::KILL_TIMEOUT,
        lock_lost_after: None,
        bell: None,
    });
    let error = spawned.unwrap_err();
    assert!(matches!(error, SpawnError::Spawn { .. }));
    assert_eq!(
        error.to_string(),
        "can't start the guard /nonexistent/guard"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn more_environment_than_a_socket_holds_reaches_codex() {
    let dir = tempfile::tempdir().unwrap();
    let many: Vec<String> = (0..8).map(|_| "x".repeat(100_000)).collect();
    let mut args = vec!["-c", "echo $(($# * ${#1}))", "sh"];
    args.extend(many.iter().map(String::as_str));
    let mut script = Script::start_in(dir.path().to_owned(), dir, "/bin/sh", &args);
    assert_eq!(script.line().await, "800000");
    assert_eq!(script.closed().await.exit, Exit::Code(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupt_reaches_only_codex() {
    let mut script = Script::start(
        "trap 'echo interrupted; exit 7' INT
         setsid sh -c 'trap \"echo also\" INT; while :; do sleep 0.05; done' &
         sh -c 'trap \"echo also\" INT; while :; do sleep 0.05; done' &
         echo ready; while :; do sleep 0.05; done",
    );
    script.line().await;
    script.guard().interrupt().await;
    assert_eq!(script.line().await, "interrupted");
    assert_eq!(script.maybe_line().await, None);
    let closed = script.closed().await;
    assert_eq!(closed.exit, Exit::Code(7));
    assert!(closed.leftovers >= 2, "{closed:?}");
    // It is gone; that is no error.
    script.guard().interrupt().await;
    script.guard().kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn g3_signals_to_the_guard_do_not_end_it() {
    let mut script = Script::start("echo $PPID; read go; echo went");
    let guard: i32 = script.line().await.parse().unwrap();
    for signal in [Signal::TERM, Signal::INT, Signal::HUP] {
        kill_process(Pid::from_raw(guard).unwrap(), signal).unwrap();
    }
    script.go().await;
    assert_eq!(script.line().await, "went");
    assert_eq!(script.closed().await.exit, Exit::Code(0));
}

/// A terminal signals the foreground group of its session: neither guard nor
/// codex are in the worker's.
#[tokio::test(flavor = "multi_thread")]
async fn a_terminals_signals_do_not_reach_codex() {
    let mut script = Script::start("echo $$; read go");
    let codex: i32 = script.line().await.parse().unwrap();
    let guard = processes::parent(codex);
    let [_, group, session] = processes::stat(codex).unwrap();
    assert_eq!((group, session), (guard, guard));
    let [worker, ..] = processes::stat(guard).unwrap();
    assert_eq!(worker, std::process::id().cast_signed());
    script.go().await;
    script.closed().await;
}

/// The worker ignores SIGPIPE, as every Rust program, and catches others.
#[tokio::test(flavor = "multi_thread")]
async fn codex_starts_with_no_signal_ignored_or_blocked() {
    let text = "grep -E '^Sig(Blk|Ign)' /proc/self/status";
    let mut script = Script::start_program("/bin/sh", &["-c", text]);
    for name in ["SigBlk", "SigIgn"] {
        let line = script.line().await;
        let (of, mask) = line.split_once(":\t").unwrap();
        let mask = u64::from_str_radix(mask, 16).unwrap();
        // Above these are the C library's own.
        assert_eq!((of, mask & 0x7fff_ffff), (name, 0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn codex_that_dies_by_a_signal_is_reported_so() {
    let mut script = Script::start("kill -SEGV $$");
    assert_eq!(script.closed().await.exit, Exit::Signal(11));
}

/// Guards SIGCONT with each order: else an agent of the worker's user could
/// hold its slot for ever.
#[tokio::test(flavor = "multi_thread")]
async fn g4_a_guard_that_its_agent_has_stopped_obeys_all_the_same() {
    let mut script = Script::start("kill -STOP $PPID; echo stopped; sleep 1000");
    assert_eq!(script.line().await, "stopped");
    script.guard().kill().await;
    let closed = script.closed().await;
    assert_eq!(closed.exit, Exit::Signal(9));
    assert_eq!(script.live(), 0);
}
