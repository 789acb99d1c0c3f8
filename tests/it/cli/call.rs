//! One call of `turn-worker`: what it prints, what it says, how it ends.

use std::io::Read;
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use serde_json::Value;

use crate::support::pool::Deadline;

/// Not called yet: a command with its settings and an environment without other variables.
pub struct Call(Command);

impl Call {
    pub fn new(arguments: &[&str]) -> Self {
        Self::of(env!("CARGO_BIN_EXE_turn-worker"), arguments)
    }

    /// Of another program.
    pub fn of(program: &str, arguments: &[&str]) -> Self {
        // Who runs the tests in the background has Ctrl-C ignored, and with them all that they start.
        let mut command = Command::new("env");
        // Dies with the test, also where that is killed.
        command
            .arg("--default-signal=INT,QUIT,HUP")
            .args(["setpriv", "--pdeathsig", "KILL", program])
            .args(arguments)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        Self(command)
    }

    /// A setting, named without its prefix.
    pub fn set(mut self, name: &str, value: &str) -> Self {
        self.0.env(format!("TURN_WORKER_{name}"), value);
        self
    }

    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.0.env(name, value);
        self
    }

    pub fn stdin(mut self, stdin: impl Into<Stdio>) -> Self {
        self.0.stdin(stdin);
        self
    }

    pub fn start(mut self) -> Called {
        let mut child = self.0.spawn().unwrap();
        let stdout = child.stdout.take().unwrap();
        Called::new(child, stdout)
    }

    /// With a terminal for its stdout.
    pub fn start_on_terminal(mut self) -> Called {
        let terminal = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&terminal).unwrap();
        unlockpt(&terminal).unwrap();
        let name = ptsname(&terminal, Vec::new()).unwrap();
        let slave = std::fs::File::options()
            .write(true)
            .open(name.to_str().unwrap())
            .unwrap();
        self.0.stdout(slave);
        let child = self.0.spawn().unwrap();
        // With it goes our end of the slave, so that reading comes to an end.
        drop(self);
        Called::new(child, std::fs::File::from(terminal))
    }

    /// With a pipe that its reader closes.
    pub fn start_into(mut self, stdout: OwnedFd) -> Called {
        self.0.stdout(stdout);
        let child = self.0.spawn().unwrap();
        drop(self);
        Called::new(child, std::io::empty())
    }

    pub async fn run(self) -> Done {
        self.start().done().await
    }
}

/// Under way. Dropping it kills it.
pub struct Called {
    child: Child,
    out: Reader,
    err: Reader,
    deadline: Deadline,
}

impl Called {
    fn new(mut child: Child, stdout: impl Read + Send + 'static) -> Self {
        let err = Reader::start(child.stderr.take().unwrap());
        Self {
            child,
            out: Reader::start(stdout),
            err,
            deadline: Deadline::of_a_test(),
        }
    }

    /// Until its output has this in it.
    pub async fn printed(&self, text: &str) {
        let probe = async || self.out.text().contains(text).then_some(());
        self.deadline
            .until(&format!("{text:?} is printed"), probe)
            .await;
    }

    /// Until its stderr has this in it.
    pub async fn said(&self, text: &str) {
        let probe = async || self.err.text().contains(text).then_some(());
        self.deadline
            .until(&format!("{text:?} is said"), probe)
            .await;
    }

    pub fn err_so_far(&self) -> String {
        self.err.text()
    }

    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.child.id().cast_signed()).unwrap();
        kill_process(pid, signal).unwrap();
    }

    /// Until it has ended.
    pub async fn done(mut self) -> Done {
        let deadline = self.deadline;
        let probe = async || self.child.try_wait().unwrap();
        let status = deadline.until("the command ends", probe).await;
        Done {
            code: status.code(),
            out: self.out.whole(),
            err: self.err.whole(),
        }
    }
}

impl Drop for Called {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            eprintln!("--- printed\n{}", self.out.text());
            eprintln!("--- said\n{}", self.err.text());
        }
    }
}

/// Gathers what comes, so that the writer never waits for a reader.
struct Reader {
    bytes: Arc<Mutex<Vec<u8>>>,
    thread: Option<JoinHandle<()>>,
}

impl Reader {
    fn start(mut from: impl Read + Send + 'static) -> Self {
        let bytes = Arc::new(Mutex::new(Vec::new()));
        let gathered = Arc::clone(&bytes);
        let thread = thread::spawn(move || {
            let mut buffer = [0; 4096];
            // A terminal ends with an error.
            while let Ok(read @ 1..) = from.read(&mut buffer) {
                gathered.lock().unwrap().extend(&buffer[..read]);
            }
        });
        Self {
            bytes,
            thread: Some(thread),
        }
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes.lock().unwrap()).into_owned()
    }

    fn whole(&mut self) -> String {
        self.thread.take().unwrap().join().unwrap();
        self.text()
    }
}

/// What came of a call.
#[derive(Debug)]
pub struct Done {
    /// `None` if a signal ended it.
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl Done {
    /// That it ended so, and did not panic.
    #[track_caller]
    pub fn ended(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{self:#?}");
        assert!(!self.err.contains("panicked"), "{self:#?}");
        self
    }

    /// JSON lines.
    pub fn events(&self) -> Vec<Value> {
        let lines = self.out.lines();
        lines
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    pub fn kinds(&self) -> Vec<String> {
        let events = self.events();
        let kinds = events.iter().map(|event| event["type"].as_str().unwrap());
        kinds.map(str::to_owned).collect()
    }

    /// That its stderr is one line with all of these in it.
    #[track_caller]
    pub fn says(&self, parts: &[&str]) {
        assert_eq!(self.err.lines().count(), 1, "{self:#?}");
        self.says_at_last(parts);
    }

    /// That the last line of its stderr has all of these in it.
    #[track_caller]
    pub fn says_at_last(&self, parts: &[&str]) {
        let last = self.err.lines().last().unwrap_or_default();
        assert!(last.starts_with("turn-worker: "), "{self:#?}");
        for part in parts {
            assert!(last.contains(part), "no {part:?} in {self:#?}");
        }
    }
}
