//! What codex writes, and what becomes of it.

use crate::support::engine::is_exec;
use crate::support::host::{Host, write_program};

#[test]
fn g6_a_flood_arrives_whole_and_in_order() {
    let turn = Host::new().run("a", "t\nflood 20000");
    turn.assert_end_turn();
    let said = turn.said();
    assert_eq!(said.len(), 20_000);
    for (n, text) in said.iter().enumerate() {
        assert_eq!(*text, format!("message {n}"));
    }
}

#[test]
fn g10_a_line_over_the_limit_is_left_out_with_a_notice_and_the_turn_goes_on() {
    let host = Host::new().set("MAX_LINE_BYTES", "2KiB");
    let turn = host.run(
        "a",
        "t\nsay before\nlong 1000\nlong 500000\nlong 2000\nsay after",
    );
    turn.assert_end_turn();
    // The second of them is within the limit only without what stands around it.
    assert_eq!(turn.notices(), ["codex.line_too_long"; 2]);
    let said: Vec<usize> = turn.said().iter().map(String::len).collect();
    // Texts that come in pieces are not lost with the line that has them whole.
    let [before, after] = ["before", "after"].map(str::len);
    match is_exec() {
        true => assert_eq!(said, [before, 1000, after]),
        false => assert_eq!(said, [before, 1000, 500_000, 2000, after]),
    }
    assert_eq!(turn.end()["text"], "after");
}

#[test]
fn lines_that_are_no_events_are_left_out() {
    let turn = Host::new().run("a", "t\nsay before\ngarbage\nsay after");
    turn.assert_end_turn();
    assert_eq!(turn.said(), ["before", "after"]);
}

#[test]
fn what_holds_codexs_stdout_does_not_hold_the_turn() {
    let turn = Host::new().run("a", "t\ndaemon d\nsay bye");
    turn.assert_end_turn();
    assert_eq!(turn.said(), ["bye"]);
}

#[test]
fn a_broken_connection_that_codex_mends_is_a_notice() {
    let turn = Host::new().run("a", "t\nreconnect\nsay there");
    turn.assert_end_turn();
    assert_eq!(turn.notices(), ["codex.reconnecting"]);
}

#[test]
fn a_long_prompt_reaches_codex_whole() {
    let host = Host::new().set("MAX_REQUEST_BYTES", "2MiB");
    let comment = "x".repeat(1_000_000);
    let turn = host.run("a", &format!("t\n# {comment}\nsay read"));
    turn.assert_end_turn();
}

#[test]
fn codex_that_does_not_read_its_prompt_is_no_reason_to_hang() {
    let host = Host::new().set("MAX_REQUEST_BYTES", "2MiB");
    let program = host.path().join("codex");
    write_program(&program, "#!/bin/sh\necho no prompt for me >&2\nexit 4\n");
    let host = host.set("CODEX_BIN", &program);
    let turn = host.run("a", &"x".repeat(1_000_000));
    let (code, _, _, message) = turn.error();
    assert_eq!(code, "codex.exited");
    assert!(message.ends_with("no prompt for me"), "{message}");
}

#[test]
fn the_small_event_set_counts_without_a_gap_too() {
    let host = Host::new().set("EVENTS", "minimal");
    let turn = host.run(
        "a",
        "t\nthink hm\nrun echo hi\nsay there\nreconnect\nsay bye",
    );
    turn.assert_end_turn();
    assert_eq!(
        turn.kinds(),
        ["message_start", "text_delta", "text_delta", "message_end"]
    );
}

/// Which engine can hold it to its turn.
#[test]
fn a_service_tier_is_for_the_engine_app_server() {
    let host = Host::new();
    let mut command = host.command("a");
    command.args(["--service-tier", "flex"]);
    if !is_exec() {
        let turn = host.start_command(command, "a", "say hi").ended();
        return turn.assert_end_turn();
    }
    let mut command = host.call(&["run", "-w", "a", "--service-tier", "flex", "say hi"]);
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.contains("service_tier: found \"flex\""), "{stderr}");
}

#[test]
fn g8_only_how_the_model_is_asked_becomes_an_argument() {
    let host = Host::new();
    let mut command = host.command("a");
    command.args(["--model", "gpt-5.5", "--effort", "high"]);
    let prompt = "--help\nsay hi";
    host.start_command(command, "a", prompt)
        .ended()
        .assert_end_turn();
    let argv = host.argv();
    assert!(!argv.contains("--help"), "{argv}");
    if is_exec() {
        let asked = " --model=gpt-5.5 --config=model_reasoning_effort=\"high\" ";
        assert!(argv.contains(asked), "{argv}");
        assert!(argv.ends_with(" -"), "{argv}");
    } else {
        assert!(!argv.contains("gpt-5.5"), "{argv}");
    }
}
