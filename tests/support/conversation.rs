//! A conversation with a server process, real or not, without a worker.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use turn_worker::codex::app_server::{Conversation, Heard, Load};
use turn_worker::codex::protocol::CliEvent;
use turn_worker::config::Sandbox;

pub struct Server {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
    pub conversation: Conversation,
    /// What was heard and not taken yet.
    heard: Vec<Heard>,
}

impl Server {
    pub fn start(command: &mut Command) -> Self {
        let command = command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
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

    /// What comes of it; the warnings before that are nobody's.
    pub fn load(&mut self, dir: &Path, resume: Option<&str>) -> Option<Heard> {
        let load = Load {
            cwd: dir.to_str().unwrap().to_owned(),
            sandbox: Sandbox::Bypass,
            model: None,
            effort: None,
            resume: resume.map(str::to_owned),
        };
        self.conversation.load(load);
        loop {
            match self.next() {
                Some(Heard::Event(_)) => {}
                other => return other,
            }
        }
    }

    /// A turn's events to its end, or the server's; `interrupt` at such an event.
    pub fn turn(&mut self, prompt: &str, interrupt: impl Fn(&CliEvent) -> bool) -> Vec<CliEvent> {
        self.conversation.go(prompt.into());
        let mut events = Vec::new();
        while !self.conversation.is_idle() || !self.heard.is_empty() {
            match self.next() {
                Some(Heard::Event(event)) => {
                    if interrupt(&event) {
                        self.conversation.interrupt();
                    }
                    events.push(event);
                }
                Some(other) => panic!("{other:?}"),
                None => break,
            }
        }
        events
    }

    /// It ends by itself when its client stops speaking to it any more.
    pub fn end(self) {
        assert!(self.ended());
    }

    /// Whether it ended well.
    pub fn ended(mut self) -> bool {
        drop(self.stdin);
        self.child.wait().unwrap().success()
    }
}
