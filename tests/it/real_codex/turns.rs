//! Turns that come to their end.

use std::fs;
use std::net::TcpListener;

use super::Codex;
use crate::support::processes::of_workspace;

#[test]
fn a_question_gets_its_answer() {
    let codex = Codex::new();
    let turn = codex.run("a", "Who are you?\nsay: A stand-in.");
    turn.assert_end_turn();
    assert_eq!(turn.said(), ["A stand-in."]);
    assert_eq!(turn.end()["text"], "A stand-in.");
    assert_eq!(turn.notices(), [""; 0]);
    assert_eq!(turn.usage(), codex.cost("Who are you?"));
    let asked = codex.asked("Who are you?", 1);
    assert_eq!(asked.thread, turn.thread());
    // The one secret that the operator let through.
    assert_eq!(
        asked.authorization.as_deref(),
        Some("Bearer key-of-the-test")
    );
}

#[test]
fn g7_three_turns_of_a_conversation_each_report_their_own_tokens() {
    let codex = Codex::new();
    let first = codex.run("a", "I am Ada.");
    let second = codex.run("a", "I like trains.\nrun: echo one\nrun: echo two");
    let third = codex.run("a", "Who am I?");
    for turn in [&first, &second, &third] {
        turn.assert_end_turn();
        assert_eq!(turn.thread(), first.thread());
        assert_eq!(turn.notices(), [""; 0]);
    }
    // The model was shown all of it.
    let answer = "You have said 3 things; the first was “I am Ada.”, the last “Who am I?”.";
    assert_eq!(third.said(), [answer]);
    assert_eq!(first.usage(), codex.cost("I am Ada."));
    assert_eq!(second.usage(), codex.cost("I like trains."));
    assert_eq!(third.usage(), codex.cost("Who am I?"));
    assert_eq!(codex.model.requests().len(), 5);
    let other = codex.run("b", "Who am I?");
    assert_eq!(other.said(), ["You have said 1 thing: “Who am I?”."]);
    assert_ne!(other.thread(), first.thread());
}

#[test]
fn a_command_is_published_with_its_result() {
    let codex = Codex::new();
    let turn = codex.run(
        "a",
        "Look.\nthink: Let me see.\nrun: echo here; pwd; exit 3\nsay: Seen.",
    );
    turn.assert_end_turn();
    assert_eq!(
        turn.kinds(),
        [
            "message_start",
            "thinking_delta",
            "tool_use",
            "tool_result",
            "text_delta",
            "message_end"
        ]
    );
    let (used, result) = (&turn.events[2], &turn.events[3]);
    assert_eq!(used["name"], "command_execution");
    assert_eq!(result["tool_use_id"], used["id"]);
    let command = used["input"]["command"].as_str().unwrap();
    assert!(command.contains("echo here"), "{command}");
    let here = codex.workspace("a");
    let printed = format!("here\n{}\n", here.to_str().unwrap());
    assert_eq!(result["content"]["aggregated_output"], printed);
    assert_eq!(result["content"]["exit_code"], 3);
    assert_eq!(result["is_error"], true);
}

#[test]
fn a_patch_changes_the_workspace() {
    let codex = Codex::new();
    let turn = codex.run("a", "Write.\npatch: notes.txt");
    turn.assert_end_turn();
    let used = turn
        .events
        .iter()
        .find(|event| event["type"] == "tool_use")
        .unwrap();
    assert_eq!(used["name"], "file_change");
    let written = fs::read_to_string(codex.workspace("a").join("notes.txt")).unwrap();
    assert_eq!(written, "Written by the stand-in.\n");
}

#[test]
fn g8_commands_see_only_the_allowed_environment() {
    let codex = Codex::new().map(|host| {
        host.set("AMQP_URL", "amqp://user:wonderland@127.0.0.1:1/%2f")
            .env("SECRET", "wonderland")
    });
    let turn = codex.run("a", "Look.\nrun: env; ls /proc/self/fd | tr '\\n' ' '");
    turn.assert_end_turn();
    let printed = turn.printed()[0];
    assert!(printed.contains("TURN_WORKER_WORKSPACE="), "{printed}");
    assert!(!printed.contains("wonderland"), "{printed}");
    assert!(!printed.contains("TURN_WORKER_AMQP_URL"), "{printed}");
    assert!(printed.ends_with("0 1 2 3 "), "{printed}");
}

#[test]
fn a_message_of_megabytes_arrives_whole() {
    let codex = Codex::new();
    let turn = codex.run("a", "Talk.\nbig: 3000000");
    turn.assert_end_turn();
    assert_eq!(turn.said()[0].len(), 3_000_000);
}

/// codex repeats its last message in the line that ends the turn.
#[test]
fn g10_a_message_longer_than_a_line_may_be_is_published_in_pieces_and_ends_its_turn() {
    let codex = Codex::new().map(|host| {
        host.set("CODEX_ENGINE", "app-server")
            .set("MAX_LINE_BYTES", "128KiB")
    });
    let turn = codex.run("a", "Talk.\nbig: 300000");
    turn.assert_end_turn();
    assert_eq!(turn.said()[0].len(), 300_000);
    assert_eq!(turn.end()["text"].as_str().unwrap().len(), 300_000);
    assert_eq!(turn.notices(), ["codex.line_too_long"; 2]);
    assert_eq!(turn.usage(), codex.cost("Talk."));
}

#[test]
fn g3_what_commands_leave_in_the_background_is_gone_after_the_turn() {
    let codex = Codex::new();
    let turn = codex.run(
        "a",
        "Leave things.\n\
         run: nohup sleep 100000 >/dev/null 2>&1 &\n\
         run: setsid sh -c 'trap \"\" TERM INT HUP; echo $$ > daemon; exec sleep 100000' >/dev/null 2>&1 </dev/null & \
              while ! [ -e daemon ]; do sleep 0.01; done\n\
         run: sleep 100000 & disown; ps -o pid= -C sleep\n\
         leave: sleep 100000",
    );
    turn.assert_end_turn();
    let daemon = fs::read_to_string(codex.workspace("a").join("daemon")).unwrap();
    let seen = turn.printed();
    let lived = seen
        .iter()
        .any(|printed| printed.split_whitespace().any(|pid| pid == daemon.trim()));
    assert!(lived, "the daemon did not live during the turn: {seen:?}");
    assert_eq!(of_workspace(&codex.workspace("a")), [0; 0]);
    assert!(codex.lock_is_free("a"));
}

/// All that codex requests from elsewhere goes to the proxy, which does not answer.
#[test]
fn codex_asks_only_the_model() {
    let proxy = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", proxy.local_addr().unwrap());
    let codex = Codex::new().map(|host| {
        host.env("HTTPS_PROXY", &url)
            .env("HTTP_PROXY", &url)
            .env("ALL_PROXY", &url)
            .env("NO_PROXY", "127.0.0.1")
            .set(
                "CODEX_ENV",
                "PATH,HOME,STAND_IN_KEY,HTTPS_PROXY,HTTP_PROXY,ALL_PROXY,NO_PROXY",
            )
    });
    codex
        .run("a", "Hello.\nrun: echo hi\nsay: Bye.")
        .assert_end_turn();
    codex.run("a", "Again.").assert_end_turn();
    // Connections that are not accepted would wait in here.
    proxy.set_nonblocking(true).unwrap();
    let asked = proxy.accept();
    assert!(asked.is_err(), "codex connected to the proxy");
}
