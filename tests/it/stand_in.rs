//! The stand-in as `codex app-server` does what the real one was seen to do,
//! so that what is tested with it holds.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use turn_worker::codex::app_server::{Conversation, Heard, Load};
use turn_worker::codex::protocol::{CliEvent, ItemKind};
use turn_worker::config::Sandbox;

use crate::support::host::stand_in;

struct Server {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
    conversation: Conversation,
    heard: Vec<Heard>,
}

impl Server {
    fn start(dir: &Path) -> Self {
        let mut child = Command::new(stand_in())
            .args(["app-server", "--stdio"])
            .env("STAND_IN_DIR", dir)
            .current_dir(dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        Self {
            stdin: child.stdin.take().unwrap(),
            stdout: BufReader::new(child.stdout.take().unwrap()),
            child,
            conversation: Conversation::new(),
            heard: Vec::new(),
        }
    }

    /// `None` when the server has ended.
    fn next(&mut self) -> Option<Heard> {
        while self.heard.is_empty() {
            let out = self.conversation.take_outgoing();
            self.stdin.write_all(&out).unwrap();
            let mut line = Vec::new();
            self.stdout.read_until(b'\n', &mut line).unwrap();
            if line.is_empty() {
                return None;
            }
            self.heard = self.conversation.hear(&line);
        }
        Some(self.heard.remove(0))
    }

    fn load(&mut self, dir: &Path, resume: Option<&str>) -> Option<Heard> {
        let loaded = self.conversation.load(Load {
            cwd: dir.to_str().unwrap().to_owned(),
            sandbox: Sandbox::Bypass,
            model: None,
            resume: resume.map(str::to_owned),
        });
        loaded.map_or_else(
            || self.next(),
            |thread_id| Some(Heard::Loaded { thread_id }),
        )
    }

    /// A turn's events to its end; interrupted when a command begins.
    fn turn(&mut self, prompt: &str) -> Vec<CliEvent> {
        self.conversation.go(prompt);
        let mut events = Vec::new();
        while let Some(heard) = self.next() {
            let Heard::Event(event) = heard else {
                panic!("{heard:?}")
            };
            if is_command(&event) && prompt.contains("sleep") {
                self.conversation.interrupt();
            }
            events.push(event);
            if self.conversation.is_idle() {
                break;
            }
        }
        events
    }

    fn end(mut self) {
        drop(self.stdin);
        assert!(self.child.wait().unwrap().success());
    }
}

fn is_command(event: &CliEvent) -> bool {
    matches!(event, CliEvent::ItemStarted(item) if matches!(item.kind, ItemKind::Tool(_)))
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
    let mut server = Server::start(dir);
    let Some(Heard::Loaded { thread_id }) = server.load(dir, None) else {
        panic!("no thread")
    };
    let events = server.turn("t1\nsay Hello, you\nreconnect");
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
    server.turn("t2\nsay Wait.\nrun : ; sleep 5");
    assert_eq!(said(&server.turn("t3\nsay On.")), "On.");
    let failed = server.turn("t4\nfail rate limit");
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

    let mut other = Server::start(dir);
    let busy = other.load(dir, Some(&thread_id));
    assert!(matches!(busy, Some(Heard::Refused { message }) if message.ends_with("active writer")));
    server.end();
    let lost = other.load(dir, Some("01a201f0-dead-7750-a64c-17c79c2eb47b"));
    assert!(matches!(lost, Some(Heard::Lost { .. })));
    assert!(matches!(
        other.load(dir, Some(&thread_id)),
        Some(Heard::Loaded { .. })
    ));
    // Two answers each of t1 and t3, one of the interrupted t2, one of t5.
    other.turn("t5");
    let total = fs::read_to_string(dir.join("threads").join(&thread_id)).unwrap();
    assert!(total.starts_with("[600,"), "{total}");
    other.end();
}

#[test]
fn it_misbehaves_when_it_is_told_to() {
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
        let mut server = Server::start(dir);
        let heard = format!("{:?}", server.load(dir, None));
        assert!(heard.contains(is), "{word}: {heard}");
        drop(server.stdin);
        server.child.wait().unwrap();
    }
    fs::remove_file(dir.join("app-server")).unwrap();
    let mut server = Server::start(dir);
    server.load(dir, None);
    assert!(
        server
            .turn("t1\ndie")
            .iter()
            .all(|event| *event == CliEvent::TurnStarted)
    );
    server.child.wait().unwrap();
}
