//! What only the engine `codex app-server` does.

use std::fs;

use crate::support::host::{Host, Turn};

fn host() -> Host {
    Host::new().set("CODEX_ENGINE", "app-server")
}

fn pieces<'a>(turn: &'a Turn, kind: &str, id: &str) -> Vec<(&'a str, &'a str)> {
    let events = turn.events.iter().filter(|event| event["type"] == kind);
    events
        .map(|event| (event[id].as_str().unwrap(), event["text"].as_str().unwrap()))
        .collect()
}

/// Guards the coalescer's place (`turn::process`) and that the exec engine has no coalescer.
#[test]
fn texts_and_output_come_in_pieces_that_are_the_whole() {
    let script = "t\nthink Let me see.\nrun echo out\nsay Here you are.";
    let turn = host().set("DELTA_WINDOW", "0s").run("a", script);
    turn.assert_end_turn();
    let text = pieces(&turn, "text_delta", "item_id");
    assert!(text.len() > 1, "{text:?}");
    assert!(text.iter().all(|(item, _)| *item == text[0].0));
    assert_eq!(turn.said(), ["Here you are."]);
    assert_eq!(turn.end()["text"], "Here you are.");
    assert!(pieces(&turn, "thinking_delta", "item_id").len() > 1);
    let output = pieces(&turn, "tool_output", "tool_use_id");
    assert_eq!(output[0].1, "out\n");
    assert_eq!(turn.printed(), ["out\n"]);

    // With the longest window, everything after the first piece is joined.
    let joined = host().set("DELTA_WINDOW", "10s").run("a", script);
    assert_eq!(pieces(&joined, "text_delta", "item_id").len(), 2);
    assert_eq!(joined.said(), ["Here you are."]);

    let exec = Host::new().set("CODEX_ENGINE", "exec").run("a", script);
    assert_eq!(pieces(&exec, "text_delta", "item_id").len(), 1);
    assert_eq!(exec.said(), turn.said());
}

#[test]
fn g5_a_server_that_fails_before_the_turn_ends_only_that_one() {
    let host = host();
    let word = host.stand_in_file("app-server");
    for (how, code) in [
        ("die-initialize", "codex.exited"),
        ("die-load", "codex.exited"),
        ("refuse-initialize", "turn.failed"),
        ("mute-initialize", "turn.idle_timeout"),
        ("mute-load", "turn.idle_timeout"),
        ("mute-turn", "turn.idle_timeout"),
    ] {
        fs::write(&word, how).unwrap();
        let mut command = host.command("a");
        // Only if no event is to come: what does come may take its time.
        if how.starts_with("mute") {
            command.env("TURN_WORKER_TURN_IDLE_TIMEOUT", "2s");
        }
        let turn = host.start_command(command, "a", "t\nsay hi").ended();
        let error = turn.error();
        assert_eq!((error.0, error.1), (code, "unknown"), "{how}: {turn:#?}");
        host.unlocked("a", &[]);
    }
    fs::write(&word, "garbage long").unwrap();
    let turn = host.run("a", "u\nsay hi");
    turn.assert_end_turn();
    assert_eq!(turn.said(), ["hi"]);
}

/// Guards that both leave the thread free, and count from what the other left.
#[test]
fn g1_g7_a_conversation_changes_engines() {
    let mut host = Host::new();
    let mut thread = None;
    for (n, engine) in ["exec", "app-server", "exec", "app-server", "app-server"]
        .into_iter()
        .enumerate()
    {
        host = host.set("CODEX_ENGINE", engine);
        let turn = host.run("a", &format!("t{n}\nsay {engine}"));
        turn.assert_end_turn();
        assert_eq!(turn.notices(), [""; 0]);
        assert_eq!(turn.usage(), Some([200, 80, 40]), "{n}");
        let same = thread.get_or_insert_with(|| turn.thread().to_owned());
        assert_eq!(turn.thread(), same);
    }
}

/// Guards that the guard is asked for the rest: codex itself lets the command live on.
#[test]
fn g3_an_interrupted_turns_command_does_not_outlive_it() {
    let host = host();
    let pid = host.stand_in_file("pid");
    let turn = host.run_out_of_time(
        "t\nsay hi\nrun echo $$ > \"$STAND_IN_DIR/pid\"; sleep 100000",
        |_| fs::read(&pid).is_ok_and(|pid| !pid.is_empty()),
    );
    // What was answered before the interrupt is counted.
    assert_eq!(turn.usage(), Some([100, 40, 20]));
    let pid = fs::read_to_string(pid).unwrap();
    assert!(!crate::support::processes::lives(
        pid.trim().parse().unwrap()
    ));
    host.run("a", "u\nsay on").assert_end_turn();
}

/// Guards that the answer decides, and not the idle timeout, which would have it run twice.
#[test]
fn g5_a_turn_with_an_odd_end_report_ends_with_its_answer() {
    let long = "x".repeat(20_000);
    for (script, text, notices) in [
        ("say hi\nend-as missing", "hi", &[][..]),
        ("say hi\nend-as garbled", "hi", &[]),
        // Its end repeats the message.
        (
            "say before\nlong 20000",
            &long,
            &["codex.line_too_long", "codex.line_too_long"],
        ),
    ] {
        let host = host().set("MAX_LINE_BYTES", "10KiB");
        let turn = host.run("a", &format!("t\n{script}"));
        turn.assert_end_turn();
        assert_eq!(turn.end()["text"], text, "{script}");
        assert_eq!(turn.notices(), notices, "{script}");
        assert!(turn.usage().is_some(), "{script}");
    }
    // One that failed has failed.
    let turn = host().run("a", "t\nend-as missing\nfail it is overloaded");
    assert_eq!(turn.error().3, "it is overloaded");
}

/// Guards that any line of codex's counts, and a sleep that it has announced.
#[test]
fn codex_is_idle_only_where_it_is_silent() {
    let host = host().set("TURN_IDLE_TIMEOUT", "2s");
    host.run("a", "t\nnap 4000\nsay rested").assert_end_turn();
    let turn = host.run("a", "t\nnap 1000\nhang");
    assert_eq!(turn.error().0, "turn.idle_timeout");
}
