//! The workers: processes of `turn-worker serve`, each behind a proxy of its
//! own, and a new one for each that ends.

use std::cell::{Cell, RefCell};
use std::fs::{self, File};
use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::rc::Rc;
use std::time::Duration;

use anyhow::Context;
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::{AbortHandle, spawn_local};
use tokio::time::{sleep, timeout};

use crate::broker::Broker;
use crate::processes::reap_orphans;
use crate::proxy::Proxy;

/// Between two looks at who has ended.
const LOOK: Duration = Duration::from_millis(20);
const LOOKS_PER_REAPING: u64 = 25;
/// An answer over HTTP takes no longer, unless the process is frozen.
const HTTP_LIMIT: Duration = Duration::from_secs(2);

#[derive(Debug, Clone)]
pub struct Programs {
    worker: PathBuf,
    /// The stand-in for it.
    codex: PathBuf,
}

/// What all processes have in common.
pub struct Setup {
    pub programs: Programs,
    pub dir: PathBuf,
    pub vhost: String,
    pub processes: usize,
    pub slots: usize,
    /// What all of them leave out.
    pub failpoints: Option<&'static str>,
}

impl Setup {
    pub fn root(&self) -> PathBuf {
        self.dir.join("workspaces")
    }

    pub fn stand_in_dir(&self) -> PathBuf {
        self.dir.join("stand-in")
    }
}

pub struct Pool {
    pub setup: Setup,
    broker: Rc<Broker>,
    processes: RefCell<Vec<Rc<Process>>>,
    next: Cell<usize>,
    /// Whether there is to be a new one for each that ends.
    replaces: Cell<bool>,
    exits: RefCell<Vec<Exit>>,
    watching: RefCell<Option<AbortHandle>>,
}

pub struct Process {
    pub number: usize,
    pub pid: i32,
    pub proxy: Proxy,
    child: RefCell<Child>,
    log: PathBuf,
    http: Cell<Option<SocketAddr>>,
    draining: Cell<bool>,
}

#[derive(Debug, Clone)]
pub struct Exit {
    pub number: usize,
    pub pid: i32,
    pub killed: bool,
    /// Neither killed nor asked to end, or not with 0 when asked.
    pub by_itself: Option<ExitStatus>,
}

impl Pool {
    pub async fn start(setup: Setup, broker: Rc<Broker>) -> anyhow::Result<Rc<Self>> {
        for folder in [setup.root(), setup.stand_in_dir(), setup.dir.join("home")] {
            fs::create_dir_all(folder)?;
        }
        let pool = Rc::new(Self {
            setup,
            broker,
            processes: RefCell::default(),
            next: Cell::new(0),
            replaces: Cell::new(true),
            exits: RefCell::default(),
            watching: RefCell::default(),
        });
        for _ in 0..pool.setup.processes {
            pool.spawn(None).await?;
        }
        let watching = spawn_local(Rc::clone(&pool).watch()).abort_handle();
        *pool.watching.borrow_mut() = Some(watching);
        Ok(pool)
    }

    /// A proxy for another client of the same broker.
    pub async fn proxy(&self, prefer: usize) -> std::io::Result<Proxy> {
        let nodes = self.broker.nodes();
        let ports = (0..nodes).map(|node| self.broker.port(node)).collect();
        Proxy::before(ports, prefer % nodes).await
    }

    pub fn url(&self, proxy: &Proxy) -> String {
        format!(
            "amqp://guest:guest@127.0.0.1:{}/{}",
            proxy.port, self.setup.vhost
        )
    }

    /// One more process; `failpoints` says where it dies.
    pub async fn spawn(&self, failpoints: Option<String>) -> anyhow::Result<()> {
        let number = self.next.replace(self.next.get() + 1);
        let proxy = self.proxy(number).await?;
        let log = self.setup.dir.join(format!("worker-{number}.log"));
        let failpoints = self.setup.failpoints.map(str::to_owned).or(failpoints);
        let settings = [
            ("AMQP_URL", self.url(&proxy)),
            ("WORKSPACE_ROOT", shown(&self.setup.root())),
            ("SLOTS", self.setup.slots.to_string()),
            ("CODEX_BIN", shown(&self.setup.programs.codex)),
            ("CODEX_ENV", "PATH,HOME,STAND_IN_DIR".to_owned()),
            ("HTTP_ADDR", "127.0.0.1:0".to_owned()),
            ("LOG_FORMAT", "json".to_owned()),
            ("LOG", "info,turn_worker=debug".to_owned()),
            // As many as may be: of the turns that are killed, few are to give up.
            ("MAX_ATTEMPTS", "100".to_owned()),
            ("SHUTDOWN_GRACE", "2s".to_owned()),
        ];
        // Dies with this process, whose main thread starts it.
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL"])
            .arg(&self.setup.programs.worker)
            .arg("serve")
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.setup.dir.join("home"))
            .env("STAND_IN_DIR", self.setup.stand_in_dir())
            .envs(failpoints.map(|failpoints| ("FAILPOINTS", failpoints)))
            .envs(settings.map(|(name, value)| (format!("TURN_WORKER_{name}"), value)))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&log)?)
            .spawn()
            .context("setpriv")?;
        self.processes.borrow_mut().push(Rc::new(Process {
            number,
            pid: child.id().cast_signed(),
            proxy,
            child: RefCell::new(child),
            log,
            http: Cell::new(None),
            draining: Cell::new(false),
        }));
        Ok(())
    }

    /// All that live, those that drain included.
    pub fn living(&self) -> Vec<Rc<Process>> {
        self.processes.borrow().clone()
    }

    pub fn serving(&self) -> Vec<Rc<Process>> {
        let mut processes = self.living();
        processes.retain(|process| !process.draining.get());
        processes
    }

    pub fn exits(&self) -> Vec<Exit> {
        self.exits.borrow().clone()
    }

    /// The one whose sequencer offers.
    pub async fn active_sequencer(&self) -> Option<Rc<Process>> {
        for process in self.living() {
            if process.metric("turn_worker_sequencer_active").await == Some(1.0) {
                return Some(process);
            }
        }
        None
    }

    /// A metric, summed over all processes; nothing while one doesn't tell.
    pub async fn metric(&self, series: &str) -> Option<f64> {
        let mut sum = 0.0;
        for process in self.living() {
            sum += process.metric(series).await?;
        }
        Some(sum)
    }

    /// Asks all to end; what has not within the limit is killed. From here on
    /// nobody is replaced.
    pub async fn end(&self, limit: Duration) {
        self.replaces.set(false);
        for process in self.serving() {
            process.drain();
        }
        let gone = async {
            while !self.processes.borrow().is_empty() {
                sleep(LOOK).await;
            }
        };
        if timeout(limit, gone).await.is_err() {
            for process in self.living() {
                self.exits.borrow_mut().push(Exit {
                    number: process.number,
                    pid: process.pid,
                    killed: true,
                    by_itself: Some(ExitStatus::from_raw(9)),
                });
                process.signal(Signal::KILL);
            }
        }
        if let Some(watching) = self.watching.take() {
            watching.abort();
        }
    }

    /// Keeps as many serving as there are to be.
    async fn watch(self: Rc<Self>) {
        for look in 1_u64.. {
            if look.is_multiple_of(LOOKS_PER_REAPING) {
                reap_orphans();
            }
            let (gone, living) = (self.living().into_iter())
                .map(|process| (process.ended(), process))
                .partition::<Vec<_>, _>(|(ended, _)| ended.is_some());
            *self.processes.borrow_mut() = living.into_iter().map(|(_, process)| process).collect();
            for (status, process) in gone {
                let (Some(status), draining) = (status, process.draining.get()) else {
                    continue;
                };
                let killed = status.signal() == Some(9);
                let expected = killed || (draining && status.success());
                self.exits.borrow_mut().push(Exit {
                    number: process.number,
                    pid: process.pid,
                    killed,
                    by_itself: (!expected).then_some(status),
                });
            }
            while self.replaces.get() && self.serving().len() < self.setup.processes {
                if let Err(error) = self.spawn(None).await {
                    eprintln!("can't start a process: {error:#}");
                    sleep(Duration::from_secs(1)).await;
                }
            }
            sleep(LOOK).await;
        }
    }
}

impl Process {
    pub fn signal(&self, signal: Signal) {
        // Not yet reaped by `ended`, so the pid is still its own.
        if let Some(pid) = Pid::from_raw(self.pid) {
            let _ = kill_process(pid, signal);
        }
    }

    /// SIGTERM: a new one takes its place.
    pub fn drain(&self) {
        self.draining.set(true);
        self.signal(Signal::TERM);
    }

    fn ended(&self) -> Option<ExitStatus> {
        self.child.borrow_mut().try_wait().ok().flatten()
    }

    /// Nothing while nobody answers.
    pub async fn metric(&self, series: &str) -> Option<f64> {
        let (_, body) = self.get("/metrics").await?;
        let values = body.lines().filter_map(|line| line.strip_prefix(series));
        let mut values = values.filter_map(|rest| rest.trim().parse::<f64>().ok());
        Some(values.next().unwrap_or_default())
    }

    pub async fn is_ready(&self) -> bool {
        self.get("/readyz")
            .await
            .is_some_and(|(status, _)| status == 200)
    }

    /// Status and body.
    async fn get(&self, path: &str) -> Option<(u16, String)> {
        let request = format!("GET {path} HTTP/1.1\r\nHost: chaos\r\nConnection: close\r\n\r\n");
        let asking = async {
            let mut stream = TcpStream::connect(self.http()?).await.ok()?;
            stream.write_all(request.as_bytes()).await.ok()?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.ok()?;
            let (head, body) = answer.split_once("\r\n\r\n")?;
            let status = head.split_whitespace().nth(1)?.parse().ok()?;
            Some((status, body.to_owned()))
        };
        timeout(HTTP_LIMIT, asking).await.ok()?
    }

    /// Where it listens, as it tells itself.
    fn http(&self) -> Option<SocketAddr> {
        if self.http.get().is_none() {
            let log = fs::read_to_string(&self.log).ok()?;
            let mut lines = log.lines().filter(|line| line.contains("\"starting\""));
            let starting: serde_json::Value = serde_json::from_str(lines.next()?).ok()?;
            self.http.set(starting["http"].as_str()?.parse().ok());
        }
        self.http.get()
    }
}

impl Programs {
    /// What cargo has built beside this program. A copy, for a run shall not
    /// change when something is built meanwhile.
    pub fn copied(to: &Path) -> anyhow::Result<Self> {
        let this = std::env::current_exe()?;
        let folder = this.parent().and_then(Path::parent);
        let folder = folder.context("where is this program?")?;
        fs::create_dir_all(to)?;
        let copied = |name: &str| {
            let (from, to) = (folder.join(name), to.join(name.replace('/', "-")));
            fs::copy(&from, &to).with_context(|| from.display().to_string())?;
            anyhow::Ok(to)
        };
        Ok(Self {
            worker: copied("turn-worker")?,
            codex: copied("examples/stand-in-codex")?,
        })
    }
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}
