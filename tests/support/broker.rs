//! RabbitMQ nodes for tests, run by `ops/rabbitmq/node`. One is shared by all
//! tests of a run, each in a vhost of its own; a test that stops or
//! kills its broker takes a private one.

#![allow(dead_code, reason = "not every test binary needs all of it")]

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio, id};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use super::shared;

const NODE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/ops/rabbitmq/node");

/// Lets the node answer on a port of its own: with the name of a new vhost or, if the caller sends an expression, with its
/// value. `rabbitmqctl` would start an Erlang for each, which costs about a second of a core.
const ANSWER: &str = r#"
    Self = self(),
    spawn(fun() ->
        {ok, Listener} = gen_tcp:listen(0, [binary, {active, false}, {exit_on_close, false}, {ip, {127, 0, 0, 1}}]),
        {ok, Port} = inet:port(Listener),
        Self ! {answers, Port},
        Read = fun Read(Caller, Before) ->
            case gen_tcp:recv(Caller, 0) of
                {ok, More} -> Read(Caller, <<Before/binary, More/binary>>);
                {error, closed} -> Before
            end
        end,
        NewVhost = fun(Number) ->
            Name = iolist_to_binary(["t", integer_to_list(Number)]),
            All = <<".*">>,
            rabbit_vhost:add(Name, <<"test">>),
            rabbit_auth_backend_internal:set_permissions(<<"guest">>, Name, All, All, All, <<"test">>),
            Name
        end,
        Value = fun(Text) ->
            {ok, Tokens, _} = erl_scan:string(binary_to_list(Text)),
            {ok, Expressions} = erl_parse:parse_exprs(Tokens),
            {value, Result, _} = erl_eval:exprs(Expressions, []),
            io_lib:format("~tp", [Result])
        end,
        Accept = fun Accept(Number) ->
            {ok, Caller} = gen_tcp:accept(Listener),
            spawn(fun() ->
                Answer = case Read(Caller, <<>>) of
                    <<>> -> NewVhost(Number);
                    Text -> Value(Text)
                end,
                gen_tcp:send(Caller, [Answer, "\n"]),
                gen_tcp:close(Caller)
            end),
            Accept(Number + 1)
        end,
        Accept(0)
    end),
    receive {answers, Port} -> Port end.
"#;

/// A node of its own folder and port.
#[derive(Debug)]
pub struct Broker {
    dir: PathBuf,
    /// 0 until the first start.
    port: u16,
    running: Option<Running>,
}

#[derive(Debug)]
struct Running {
    script: Child,
    /// The node ends when this end of its standard input closes: also when this process is killed. A node of the run
    /// ends with the run.
    stdin: Option<ChildStdin>,
}

impl Broker {
    /// The node that all tests of a run share. The first call starts it, which takes some seconds.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<Broker> = OnceLock::new();
        SHARED.get_or_init(|| {
            Self::of_the_run("broker", |broker| {
                broker.launch(&["--temporary"], Some("broker"));
            })
        })
    }

    /// A node that the run has once, of that name.
    pub fn of_the_run(name: &str, start: impl FnOnce(&mut Self)) -> Self {
        let (dir, port) = shared::shared(name, || {
            let mut broker = Self::new(name);
            start(&mut broker);
            let node = (broker.dir.clone(), broker.port);
            // It is the run's now, and outlives this process.
            std::mem::forget(broker);
            node
        });
        Self {
            dir,
            port,
            running: None,
        }
    }

    /// The value of an Erlang expression on the shared node.
    pub fn eval(expression: &str) -> String {
        assert!(!expression.is_empty());
        Self::answer(expression)
    }

    fn answer(question: &str) -> String {
        let port: u16 = shared::shared("answers", || {
            let port = Self::shared().ctl(&["eval", ANSWER]);
            port.trim()
                .parse()
                .unwrap_or_else(|_| panic!("no port: {port:?}"))
        });
        let mut answer = String::new();
        let read = TcpStream::connect(("127.0.0.1", port)).and_then(|mut node| {
            node.write_all(question.as_bytes())?;
            node.shutdown(Shutdown::Write)?;
            node.read_to_string(&mut answer)
        });
        let whole = read.is_ok() && answer.ends_with('\n');
        assert!(whole, "no answer to {question:?}: {read:?}");
        answer
    }

    /// The URL of a vhost of the shared node of its own.
    pub fn vhost() -> String {
        let shared = Self::shared();
        let name = Self::answer("");
        format!(
            "amqp://guest:guest@127.0.0.1:{}/{}",
            shared.port,
            name.trim()
        )
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
        broker.launch_configured(plugins, prepare, None);
        broker
    }

    /// The same for [`Self::of_the_run`], in its `start`.
    pub fn launch_configured(
        &mut self,
        plugins: &str,
        prepare: impl FnOnce(&std::path::Path) -> String,
        of_the_run: Option<&str>,
    ) {
        let conf = self.dir.join("more.conf");
        let lines = fs::create_dir_all(&self.dir).map(|()| prepare(&self.dir));
        let written = lines.and_then(|lines| fs::write(&conf, lines));
        written.unwrap_or_else(|error| panic!("{}: {error}", conf.display()));
        let conf = conf.to_string_lossy().into_owned();
        let options = ["--temporary", "--conf", &conf, "--plugins", plugins];
        self.launch(&options, of_the_run);
    }

    /// Of the default vhost; the same after a restart.
    pub fn url(&self) -> String {
        format!("amqp://guest:guest@127.0.0.1:{}/%2f", self.port)
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn dir(&self) -> &std::path::Path {
        &self.dir
    }

    /// Takes it up again with its data, on its port.
    pub fn start(&mut self) {
        assert!(self.running.is_none(), "the node is running");
        self.launch(&[], None);
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
        let [node, first @ ..] = self.ctl_command();
        let output = Command::new(node)
            .args(first)
            .arg("--quiet")
            .args(arguments)
            .stdin(Stdio::null())
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

    /// `of_the_run` names a node that ends with the run, rather than with this process.
    fn launch(&mut self, options: &[&str], of_the_run: Option<&str>) {
        let mut command = Command::new(NODE);
        command
            .args(["start", "--until-stdin-closes", "--dir"])
            .arg(&self.dir)
            .args(["--port", &self.port.to_string()])
            .args(options)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let log = of_the_run.map(|name| {
            let (path, file) = shared::log(name);
            command.stdin(shared::until_the_run_ends()).stderr(file);
            path
        });
        let spawned = command.spawn();
        let mut script = spawned.unwrap_or_else(|error| panic!("{NODE}: {error}"));
        let stdin = script.stdin.take();
        let mut line = String::new();
        let read = script.stdout.take().map(BufReader::new);
        let read = read.map(|mut stdout| stdout.read_line(&mut line));
        let port = line.trim().rsplit(':').next().map(str::parse);
        let (Some(Ok(_)), Some(Ok(port))) = (read, port) else {
            let said = log.and_then(|log| fs::read_to_string(log).ok());
            panic!("the broker did not start: {line:?}; what it said: {said:?}, or stands above");
        };
        self.port = port;
        self.running = Some(Running { script, stdin });
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.end_now();
        let _ = fs::remove_dir_all(&self.dir);
    }
}
