//! The stand-in as `codex app-server` does what the real one was seen to do,
//! so that what is tested with it holds.

use std::fs;
use std::path::Path;
use std::process::Command;

use turn_worker::codex::app_server::Heard;
use turn_worker::codex::protocol::CliEvent;

use crate::support::conversation::Server;
use crate::support::host::stand_in;

fn start(dir: &Path) -> Server {
    Server::start(
        Command::new(stand_in())
            .args(["app-server", "--stdio"])
            .env("STAND_IN_DIR", dir)
            .current_dir(dir),
    )
}

fn never(_: &CliEvent) -> bool {
    false
}

/// A command that runs, not one that is about to.
fn is_output(event: &CliEvent) -> bool {
    matches!(event, CliEvent::OutputDelta { .. })
}

fn said(events: &[CliEvent]) -> String {
    let pieces = events.iter().filter_map(|event| match event {
        CliEvent::TextDelta { text, .. } => Some(text.as_str()),
        _ => None,
    });
    pieces.collect()
}

#[test]
fn it_serves_turn_after_turn_on_a_thread_that_has_one_writer() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let mut server = start(dir);
    let Some(Heard::Loaded { thread_id }) = server.load(dir, None) else {
        panic!("no thread")
    };
    let events = server.turn("t1\nsay Hello, you\nreconnect", never);
    assert_eq!(said(&events), "Hello, you");
    assert!(
        events
            .iter()
            .filter(|event| matches!(event, CliEvent::TextDelta { .. }))
            .count()
            > 1
    );
    let retried = "Reconnecting... 1/5 (stream disconnected)".to_owned();
    assert!(events.contains(&CliEvent::Retrying { message: retried }));
    // A command that is interrupted lives on, beside the next turn.
    let living =
        "t2\nsay Wait.\nrun echo up; while [ -e \"$STAND_IN_DIR/log\" ]; do sleep 0.01; done";
    server.turn(living, is_output);
    assert_eq!(said(&server.turn("t3\nsay On.", never)), "On.");
    let failed = server.turn("t4\nfail rate limit", never);
    assert!(
        matches!(failed.last(), Some(CliEvent::TurnFailed { message, .. }) if message == "rate limit")
    );
    let log = fs::read_to_string(dir.join("log")).unwrap();
    let did = log.lines().map(|line| {
        let words: Vec<&str> = line.split(' ').collect();
        format!("{} {}", words[0], words[3])
    });
    assert_eq!(
        did.collect::<Vec<_>>(),
        [
            "start t1",
            "end t1",
            "start t2",
            "start t3",
            "overlap t3",
            "end t3",
            "start t4",
            "overlap t4",
            "end t4"
        ]
    );

    let mut other = start(dir);
    let busy = other.load(dir, Some(&thread_id));
    assert!(
        matches!(busy, Some(Heard::NotResumed { message }) if message.ends_with("active writer"))
    );
    server.end();
    let lost = other.load(dir, Some("01a201f0-dead-7750-a64c-17c79c2eb47b"));
    assert!(matches!(lost, Some(Heard::Lost { .. })));
    assert!(matches!(
        other.load(dir, Some(&thread_id)),
        Some(Heard::Loaded { .. })
    ));
    // Two answers each of t1 and t3, one of the interrupted t2, one of t5.
    other.turn("t5", never);
    let total = fs::read_to_string(dir.join("threads").join(&thread_id)).unwrap();
    assert!(total.starts_with("[600,"), "{total}");
    other.end();
}

#[test]
fn it_misbehaves_on_request() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    for (word, is) in [
        ("refuse-initialize", "Refused"),
        ("die-initialize", "None"),
        ("die-load", "None"),
        ("garbage", "Garbage { bytes: 12 }"),
        ("long", "Garbage { bytes: 33554433 }"),
    ] {
        fs::write(dir.join("app-server"), word).unwrap();
        let mut server = start(dir);
        let heard = format!("{:?}", server.load(dir, None));
        assert!(heard.contains(is), "{word}: {heard}");
        server.ended();
    }
    fs::remove_file(dir.join("app-server")).unwrap();
    let mut server = start(dir);
    server.load(dir, None);
    assert!(
        server
            .turn("t1\ndie", never)
            .iter()
            .all(|event| *event == CliEvent::TurnStarted)
    );
    assert!(!server.ended());
}
