//! RabbitMQ nodes for tests, run by `ops/rabbitmq/node`. One is shared by all
//! tests of the process, each in a vhost of its own; a test that stops or
//! kills its broker takes a private one.

#![allow(dead_code, reason = "not every test binary needs all of it")]

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Seek, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio, id};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use serde_json::json;

const NODE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/ops/rabbitmq/node");

/// Vhosts are made so many at a time, since each call of `rabbitmqctl` starts an Erlang of its own: the first with the
/// shared node, and the next whenever a test takes the first of those before.
const VHOSTS: usize = 64;

/// A node of its own folder and port.
#[derive(Debug)]
pub struct Broker {
    dir: PathBuf,
    /// 0 until the first start.
    port: u16,
    running: Option<Running>,
}

/// The node ends when this end of its standard input closes: also when this process is killed.
#[derive(Debug)]
struct Running {
    script: Child,
    stdin: ChildStdin,
}

impl Broker {
    /// The node that all tests of this process share. The first call starts it, which takes some seconds.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<Broker> = OnceLock::new();
        SHARED.get_or_init(|| {
            let mut broker = Self::new("shared");
            let vhosts = VHOSTS.to_string();
            broker.launch(&["--temporary", "--vhosts", &vhosts]);
            broker
        })
    }

    /// The URL of a vhost of the shared node of its own.
    pub fn vhost() -> String {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let shared = Self::shared();
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        if number.is_multiple_of(VHOSTS) {
            thread::spawn(move || shared.made_vhosts(number / VHOSTS + 1));
        }
        shared.made_vhosts(number / VHOSTS);
        format!("amqp://guest:guest@127.0.0.1:{}/t{number}", shared.port)
    }

    /// Until those vhosts are there.
    fn made_vhosts(&self, batch: usize) {
        static MADE: [OnceLock<()>; 32] = [const { OnceLock::new() }; 32];
        if batch == 0 {
            return;
        }
        MADE[batch].get_or_init(|| {
            let names = (batch * VHOSTS..(batch + 1) * VHOSTS).map(|number| format!("t{number}"));
            let (vhosts, permissions): (Vec<_>, Vec<_>) = names
                .map(|name| {
                    let all = ".*";
                    let permission = json!({"user": "guest", "vhost": name,
                        "configure": all, "write": all, "read": all});
                    (json!({"name": name}), permission)
                })
                .unzip();
            let definitions = json!({"vhosts": vhosts, "permissions": permissions});
            self.ctl_with(&["import_definitions"], &definitions.to_string());
        });
    }

    /// A running node for one test alone, which may stop, kill and start it.
    pub fn private() -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let mut broker = Self::new(&format!("private-{number}"));
        broker.start();
        broker
    }

    /// A running node with more lines in its `rabbitmq.conf`, in which `@DIR@` is its folder, and with plugins.
    /// `prepare` is given that folder first, and returns the lines.
    pub fn configured(
        name: &str,
        plugins: &str,
        prepare: impl FnOnce(&std::path::Path) -> String,
    ) -> Self {
        let mut broker = Self::new(name);
        let conf = broker.dir.join("more.conf");
        let lines = fs::create_dir_all(&broker.dir).map(|()| prepare(&broker.dir));
        let written = lines.and_then(|lines| fs::write(&conf, lines));
        written.unwrap_or_else(|error| panic!("{}: {error}", conf.display()));
        let conf = conf.to_string_lossy().into_owned();
        broker.launch(&["--temporary", "--conf", &conf, "--plugins", plugins]);
        broker
    }

    /// Of the default vhost; the same after a restart.
    pub fn url(&self) -> String {
        format!("amqp://guest:guest@127.0.0.1:{}/%2f", self.port)
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Takes it up again with its data, on its port.
    pub fn start(&mut self) {
        assert!(self.running.is_none(), "the node is running");
        self.launch(&[]);
    }

    /// Shuts it down in order, and waits for that.
    pub fn stop(&mut self) {
        if let Some(Running { mut script, stdin }) = self.running.take() {
            drop(stdin);
            let _ = script.wait();
        }
    }

    /// Kills it as a failing machine would, and waits until it is gone.
    ///
    /// Quorum queues declared within the last half second would not survive that (their registry is written late):
    /// a weakness that is not what tests want to see, so the registry is written first.
    pub fn kill(&mut self) {
        if self.running.is_some() {
            self.ctl(&["eval", "[dets:sync(Table) || Table <- dets:all()]."]);
        }
        self.end_now();
    }

    fn end_now(&mut self) {
        if let Some(Running { mut script, .. }) = self.running.take() {
            // The kernel kills the node along with the script.
            let _ = script.kill();
            let _ = script.wait();
            while TcpStream::connect(("127.0.0.1", self.port)).is_ok() {
                thread::sleep(Duration::from_millis(10));
            }
        }
    }

    /// Closes, from the broker's side, all connections to the vhost of that URL.
    pub fn close_all_connections(&self, url: &str) {
        let vhost = match url.rsplit('/').next() {
            Some("%2f") | None => "/",
            Some(name) => name,
        };
        self.ctl(&["close_all_connections", "-p", vhost, "a test wants it so"]);
    }

    /// `rabbitmqctl` on this node: a program and its first arguments.
    pub fn ctl_command(&self) -> [&std::ffi::OsStr; 4] {
        [
            NODE.as_ref(),
            "ctl".as_ref(),
            "--dir".as_ref(),
            self.dir.as_os_str(),
        ]
    }

    /// Runs `rabbitmqctl` and returns what it prints.
    pub fn ctl(&self, arguments: &[&str]) -> String {
        self.ctl_with(arguments, "")
    }

    fn ctl_with(&self, arguments: &[&str], stdin: &str) -> String {
        let [node, first @ ..] = self.ctl_command();
        let output = Command::new(node)
            .args(first)
            .arg("--quiet")
            .args(arguments)
            .stdin(with_content(stdin))
            .output()
            .unwrap_or_else(|error| panic!("{NODE}: {error}"));
        assert!(
            output.status.success(),
            "rabbitmqctl {arguments:?}: {}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr),
        );
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn new(name: &str) -> Self {
        let dir = format!("broker-{}-{name}", id());
        Self {
            dir: PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(dir),
            port: 0,
            running: None,
        }
    }

    fn launch(&mut self, options: &[&str]) {
        let mut script = Command::new(NODE)
            .args(["start", "--until-stdin-closes", "--dir"])
            .arg(&self.dir)
            .args(["--port", &self.port.to_string()])
            .args(options)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{NODE}: {error}"));
        let (Some(stdin), Some(stdout)) = (script.stdin.take(), script.stdout.take()) else {
            unreachable!("both are piped")
        };
        let mut line = String::new();
        let read = BufReader::new(stdout).read_line(&mut line);
        let port = line.trim().rsplit(':').next().map(str::parse);
        let (Ok(_), Some(Ok(port))) = (read, port) else {
            panic!("the broker did not start: {line:?}; what it said stands above");
        };
        self.port = port;
        self.running = Some(Running { script, stdin });
    }
}

/// A file to read from that has this in it.
fn with_content(text: &str) -> File {
    let file = tempfile::tempfile().and_then(|mut file| {
        file.write_all(text.as_bytes())?;
        file.rewind()?;
        Ok(file)
    });
    file.unwrap_or_else(|error| panic!("a temporary file: {error}"))
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.end_now();
        let _ = fs::remove_dir_all(&self.dir);
    }
}
