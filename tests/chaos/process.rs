//! One process of `turn-worker serve`, behind a proxy of its own.

use std::cell::{Cell, RefCell};
use std::fs::{self, File};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::rc::Rc;
use std::time::Duration;

use anyhow::Context;
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use crate::args::Engines;
use crate::disks::Disks;
use crate::hosts::{self, Host, Hosts};
use crate::plan::settings::OwnSettings;
use crate::plan::{Plan, Sabotage};
use crate::proxy::Proxy;

/// An answer over HTTP takes no longer, unless the process is frozen.
const HTTP_LIMIT: Duration = Duration::from_secs(2);

#[derive(Debug, Clone)]
pub struct Programs {
    worker: PathBuf,
    /// Another version of it.
    beside: Option<PathBuf>,
    /// The stand-in for it.
    pub codex: PathBuf,
    /// What turns leave behind that is hard to see.
    pub awkward: PathBuf,
}

/// What all processes have in common.
pub struct Setup {
    pub programs: Programs,
    pub dir: PathBuf,
    pub vhost: String,
    pub processes: usize,
    /// Of each process, on average.
    pub slots: usize,
    pub engine: Engines,
    /// Decides in which settings they differ.
    pub plan: Plan,
    /// What all of them leave out.
    pub sabotage: Option<Sabotage>,
    /// Where they run, unless it is here.
    pub hosts: Option<Hosts>,
    /// Where their workspaces live, without shared storage.
    pub disks: Option<Rc<Disks>>,
}

impl Setup {
    /// Of all disks.
    pub fn roots(&self) -> Vec<PathBuf> {
        match &self.disks {
            Some(disks) => disks.roots(),
            None => vec![self.root(0)],
        }
    }

    pub fn root(&self, disk: usize) -> PathBuf {
        if let Some(disks) = &self.disks {
            return disks.root(disk);
        }
        match &self.hosts {
            Some(hosts) => hosts.root(),
            None => self.dir.join("workspaces"),
        }
    }

    /// As long as it is there, writes fail.
    pub fn full_disk(&self) -> PathBuf {
        self.dir.join("disk-is-full")
    }

    /// As long as it is there, no process can be started.
    pub fn no_processes(&self) -> PathBuf {
        self.dir.join("no-processes")
    }

    /// `FAILPOINTS` of all processes.
    fn faults(&self) -> String {
        match self.sabotage {
            Some(sabotage) => sabotage.failpoints().to_owned(),
            None => format!(
                "disk.write=return(full-while:{});process.start=return(none-while:{})",
                self.full_disk().display(),
                self.no_processes().display(),
            ),
        }
    }

    /// Where their way to the broker starts.
    pub fn proxy_address(&self) -> IpAddr {
        match &self.hosts {
            Some(_) => hosts::BROKER,
            None => Ipv4Addr::LOCALHOST.into(),
        }
    }

    pub fn stand_in_dir(&self) -> PathBuf {
        match &self.hosts {
            Some(hosts) => hosts.stand_in_dir(),
            None => self.dir.join("stand-in"),
        }
    }
}

impl Programs {
    /// Of the process with this number: each version on both engines.
    fn worker(&self, number: usize) -> &Path {
        let beside = self.beside.as_ref().filter(|_| matches!(number % 4, 1 | 2));
        beside.unwrap_or(&self.worker)
    }

    /// For commands.
    pub fn operator(&self) -> &Path {
        &self.worker
    }

    /// What cargo has built beside this program. A copy, for a run shall not
    /// change when something is built meanwhile.
    pub fn copied(to: &Path, beside: Option<&Path>) -> anyhow::Result<Self> {
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
            beside: beside.map(fs::canonicalize).transpose()?,
            worker: copied("turn-worker")?,
            codex: copied("examples/stand-in-codex")?,
            awkward: copied("examples/awkward-process")?,
        })
    }
}

pub struct Process {
    pub number: usize,
    /// Where its workspaces live.
    pub disk: usize,
    pub pid: i32,
    /// What has started it on another host, and ends with it.
    pub launcher: Option<i32>,
    pub proxy: Proxy,
    /// It is to die at a certain step.
    pub armed: bool,
    pub slots: usize,
    pub born: Instant,
    child: RefCell<Child>,
    log: PathBuf,
    http: Cell<Option<SocketAddr>>,
    draining: Cell<bool>,
}

impl Process {
    pub fn has_logged(&self, text: &str) -> bool {
        fs::read(&self.log).is_ok_and(|log| String::from_utf8_lossy(&log).contains(text))
    }

    /// `url` leads through `proxy`; `failpoints` says where it dies.
    pub fn start(
        (number, disk): (usize, usize),
        url: &str,
        proxy: Proxy,
        setup: &Setup,
        failpoints: Option<String>,
    ) -> anyhow::Result<Self> {
        let log = setup.dir.join(format!("worker-{number}.log"));
        let armed = failpoints.is_some();
        let faults = failpoints.into_iter().chain([setup.faults()]);
        let faults: Vec<String> = faults.collect();
        let OwnSettings {
            slots,
            backlog,
            warm,
            idle_ttl_s,
        } = setup.plan.settings(number, setup.processes, setup.slots);
        let host = setup.hosts.as_ref().map(|hosts| hosts.host(number));
        let host = host.transpose()?;
        let mut settings = vec![
            ("AMQP_URL", url.to_owned()),
            ("WORKSPACE_ROOT", shown(&setup.root(disk))),
            ("SLOTS", slots.to_string()),
            ("BACKLOG", backlog.to_string()),
            ("CODEX_BIN", shown(&setup.programs.codex)),
            ("CODEX_ENGINE", setup.engine.of(number).to_owned()),
            // Some servers are used again, some make way, some have waited long enough.
            ("CODEX_IDLE_TTL", format!("{idle_ttl_s}s")),
            ("CODEX_WARM", warm.to_string()),
            ("CODEX_ENV", "PATH,HOME,STAND_IN_DIR".to_owned()),
            (
                "HTTP_ADDR",
                host.as_ref()
                    .map_or("127.0.0.1:0".to_owned(), Host::http_address),
            ),
            ("METRICS_LINGER", "0s".to_owned()),
            ("LOG_FORMAT", "json".to_owned()),
            ("LOG", "info,turn_worker=debug".to_owned()),
            // As many as may be: of the turns that are killed, few are to give up.
            ("MAX_ATTEMPTS", "100".to_owned()),
            ("SHUTDOWN_GRACE", "2s".to_owned()),
            ("KILL_TIMEOUT", "1s".to_owned()),
        ];
        if host.is_some() {
            settings.push(("CODEX_HOME", "per-workspace".to_owned()));
        }
        let enter = host.as_ref().map(Host::enter).unwrap_or_default();
        if setup.disks.is_some() {
            fs::create_dir_all(setup.root(disk))?;
            settings.push(("WORKSPACE_STORAGE", "local".to_owned()));
            settings.push(("WORKSPACE_HOST", Disks::host(disk)));
        }
        // Dies with this process, as its main thread starts it.
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL"])
            .args(enter)
            .arg(setup.programs.worker(number))
            .arg("serve")
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", setup.dir.join("home"))
            .env("STAND_IN_DIR", setup.stand_in_dir())
            .env("FAILPOINTS", faults.join(";"))
            .envs(
                (settings.into_iter()).map(|(name, value)| (format!("TURN_WORKER_{name}"), value)),
            )
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&log)?)
            .spawn()
            .context("setpriv")?;
        let started = child.id().cast_signed();
        let launcher = host.is_some().then_some(started);
        Ok(Self {
            number,
            disk,
            pid: launcher.map_or(Ok(started), hosts::entered)?,
            launcher,
            proxy,
            armed,
            slots,
            born: Instant::now(),
            child: RefCell::new(child),
            log,
            http: Cell::new(None),
            draining: Cell::new(false),
        })
    }

    pub fn signal(&self, signal: Signal) {
        // Once it is reaped its pid may be another's.
        if self.ended().is_none()
            && let Some(pid) = Pid::from_raw(self.pid)
        {
            let _ = kill_process(pid, signal);
        }
    }

    pub fn is_draining(&self) -> bool {
        self.draining.get()
    }

    /// SIGTERM: a new one takes its place.
    pub fn drain(&self) {
        self.draining.set(true);
        self.signal(Signal::TERM);
    }

    /// Reaped then.
    pub fn ended(&self) -> Option<ExitStatus> {
        self.child.borrow_mut().try_wait().ok().flatten()
    }

    /// `None` while it does not answer.
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

    /// Where it listens, as it reports.
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

fn shown(path: &Path) -> String {
    path.display().to_string()
}
