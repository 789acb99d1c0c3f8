//! How turns end, and how they are ended.

use std::fs;
use std::os::unix::process::CommandExt;

use rustix::process::{Pid, Signal, kill_process_group};

use crate::support::host::{Host, Turn, awkward, write_program};
use crate::support::processes::lives;

#[test]
fn codex_that_is_deaf_to_signals_is_killed_when_its_time_is_up() {
    let script = "t\nignore-signals\nsay ready\nhang";
    let turn = Host::new().run_out_of_time(script, |turn| !turn.said().is_empty());
    let (code, _, retryable, message) = turn.error();
    assert_eq!((code, retryable), ("turn.timeout", true));
    assert_eq!(message, "the turn ran longer than its limit");
    assert_eq!(turn.said(), ["ready"]);
    // What it said counts, though it was cut off.
    assert_eq!(turn.end()["text"], "ready");
}

#[test]
fn codex_that_is_silent_is_interrupted() {
    let host = Host::new().set("TURN_IDLE_TIMEOUT", "300ms");
    let turn = host.run("a", "t\nsay ready\nhang");
    assert_eq!(turn.stop_reason(), "timeout");
    assert_eq!(turn.error().0, "turn.idle_timeout");
}

#[test]
fn a_command_that_was_cut_off_has_a_result_that_says_so() {
    let is_running = |turn: &Turn| turn.kinds().iter().any(|kind| kind == "tool_use");
    let turn = Host::new().run_out_of_time("t\nrun sleep 100000", is_running);
    let result = turn
        .events
        .iter()
        .find(|event| event["type"] == "tool_result")
        .unwrap();
    assert_eq!(result["is_error"], true);
    assert_eq!(result["content"]["status"], "unfinished");
}

#[test]
fn codex_that_is_killed_half_way_is_an_error_worth_trying_again() {
    let turn = Host::new().run("a", "t\nsay half\ndie");
    let (code, reason, retryable, message) = turn.error();
    assert_eq!((code, reason, retryable), ("codex.exited", "unknown", true));
    assert!(message.contains("ended by signal 9"), "{message}");
    assert_eq!(turn.said(), ["half"]);
}

#[test]
fn an_exit_without_a_word_about_the_end_is_an_error_with_codexs_last_words() {
    for code in [0, 3] {
        let prompt = format!("t\nsay half\nstderr all is\nstderr lost\nexit {code}");
        let turn = Host::new().run("a", &prompt);
        let (error, _, retryable, message) = turn.error();
        assert_eq!((error, retryable), ("codex.exited", false));
        assert!(
            message.contains(&format!("exited with code {code}")),
            "{message}"
        );
        assert!(message.ends_with("all is\nlost"), "{message}");
    }
}

#[test]
fn a_failure_that_codex_reports_is_classified() {
    let turn = Host::new().run("a", "t\nsay half\nfail You’ve hit your usage limit.");
    assert_eq!(
        turn.error(),
        (
            "turn.failed",
            "usage_limit",
            true,
            "You’ve hit your usage limit."
        )
    );
}

#[test]
fn codex_that_cannot_be_started_is_an_error_of_the_turn() {
    let host = Host::new();
    let program = host.path().join("codex");
    write_program(&program, "#!/nonexistent/interpreter\n");
    let turn = host.set("CODEX_BIN", &program).run("a", "t\nsay hi");
    let (code, reason, retryable, message) = turn.error();
    assert_eq!(
        (code, reason, retryable),
        ("codex.start_failed", "config", false)
    );
    assert!(message.contains(program.to_str().unwrap()), "{message}");
    assert!(turn.usage().is_none());
}

#[test]
fn a_missing_codex_is_reported_before_any_turn_starts() {
    let turn = Host::new()
        .set("CODEX_BIN", "/nonexistent/codex")
        .run("a", "t\nsay hi");
    assert_eq!((turn.code, turn.events.len()), (Some(1), 0));
    assert!(turn.log.contains("TURN_WORKER_CODEX_BIN"), "{}", turn.log);
    assert!(turn.log.contains("/nonexistent/codex"), "{}", turn.log);
}

/// Its first thread has exited, so that it shows as a zombie. Guards `proc::stat`.
#[test]
fn g3_g5_a_turn_ends_that_leaves_a_process_without_its_first_thread() {
    for (rest, outcome) in [("say hi", "end_turn"), ("hang", "timeout")] {
        let host = Host::new().set("TURN_TIMEOUT", "10s");
        let (program, file) = (awkward(), host.stand_in_file("of"));
        let (program, of) = (program.display(), file.display());
        let leave = format!(
            "run {program} zombie-leader {of} >/dev/null 2>&1 & until [ -e {of} ]; do :; done"
        );
        let turn = host.run("a", &format!("t\n{leave}\n{rest}"));
        assert_eq!(turn.stop_reason(), outcome);
        let lives = fs::File::open(file.with_extension("lives")).unwrap();
        assert!(lives.try_lock().is_ok(), "it outlives its turn");
    }
}

#[test]
fn an_interrupt_cancels_the_turn() {
    let host = Host::new();
    let mut running = host.start("a", "t\nsay ready\ndaemon d\nhang");
    running.said("ready");
    let daemon = host.pid_in("d");
    running.signal(Signal::INT);
    let turn = running.ended();
    assert_eq!(turn.stop_reason(), "cancelled");
    assert!(!lives(daemon));
    host.run("a", "u\nsay hi").assert_end_turn();
}

/// As the terminal does it: to the whole group of the worker.
#[test]
fn ctrl_c_cancels_the_turn_and_reaches_codex_by_its_guard_only() {
    let host = Host::new();
    let mut command = host.command("a");
    command.process_group(0);
    let mut running = host.start_command(command, "a", "t\nignore-signals\nsay ready\nwait go");
    running.said("ready");
    let group = Pid::from_raw(running.pid()).unwrap();
    kill_process_group(group, Signal::INT).unwrap();
    // Were it in the group, it would be gone before it can go on.
    fs::write(host.stand_in_file("go"), "").unwrap();
    let turn = running.ended();
    // It came to its end within the grace time, so that is how it ended.
    assert_eq!(turn.stop_reason(), "end_turn");
}

#[test]
fn a_second_turn_in_a_busy_workspace_is_reported() {
    let host = Host::new();
    let mut running = host.start("a", "t\nsay ready\nwait go");
    running.said("ready");
    let second = host.run("a", "u\nsay hi");
    assert_eq!((second.code, second.events.len()), (Some(1), 0));
    assert!(
        second.log.contains("workspace a is in use by another turn"),
        "{}",
        second.log
    );
    // In another one it runs.
    host.run("b", "v\nsay hi").assert_end_turn();
    fs::write(host.stand_in_file("go"), "").unwrap();
    running.ended().assert_end_turn();
    assert_eq!(host.runs().len(), 2);
}

#[test]
fn the_turn_goes_on_without_a_reader_of_its_events() {
    let host = Host::new();
    let mut running = host.start("a", "t\nflood 2000\ntouch over");
    running.said("message 0");
    running.deaf();
    assert!(host.stand_in_file("over").exists());
}

#[test]
fn a_guarded_turn_needs_no_terminal_event_to_end_with_its_worker() {
    let host = Host::new();
    let mut running = host.start("a", "t\nignore-signals\nsay ready\nhang");
    running.said("ready");
    running.kill();
    host.unlocked("a", &[]);
}
