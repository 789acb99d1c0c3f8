//! RabbitMQ of a run's own: a node, or three of them as a cluster.

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, ChildStdin, Command};
use tokio::sync::Mutex;
use tokio::time::{sleep, timeout};

const NODE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/ops/rabbitmq/node");
/// Far above what a node needs on a busy machine.
/// That it hangs; far above what either takes on a busy machine.
const START_LIMIT: Duration = Duration::from_secs(600);
const CTL_LIMIT: Duration = START_LIMIT;

pub struct Broker {
    nodes: Vec<Node>,
    epmd: Option<Script>,
    /// Held by who stops, kills or commands it: one at a time.
    pub busy: Mutex<()>,
}

struct Node {
    name: String,
    dir: PathBuf,
    port: u16,
    running: RefCell<Option<Script>>,
}

/// It ends when its standard input closes: so also when this process dies.
struct Script {
    child: Child,
    _stdin: ChildStdin,
}

impl Broker {
    /// With the vhosts t0, t1 … for as many runs.
    pub async fn start(dir: &Path, nodes: usize, vhosts: usize) -> anyhow::Result<Self> {
        let mut broker = Self {
            nodes: Vec::new(),
            epmd: None,
            busy: Mutex::new(()),
        };
        let mut common = Vec::new();
        if nodes > 1 {
            let (epmd, ready) = script(&["epmd"], &dir.join("epmd")).await?;
            broker.epmd = Some(epmd);
            common = vec![
                "--epmd".to_owned(),
                ready,
                "--cookie".to_owned(),
                "chaos".to_owned(),
            ];
        }
        for number in 1..=nodes {
            let name = format!("n{number}");
            let mut options = vec!["--name".to_owned(), name.clone()];
            options.extend(common.iter().cloned());
            if number == 1 {
                options.extend(["--vhosts".to_owned(), vhosts.to_string()]);
            } else {
                options.extend(["--join".to_owned(), "n1".to_owned()]);
            }
            let dir = dir.join(&name);
            let (running, port) = launch(&dir, 0, &options).await?;
            broker.nodes.push(Node {
                name,
                dir,
                port,
                running: RefCell::new(Some(running)),
            });
        }
        Ok(broker)
    }

    pub fn nodes(&self) -> usize {
        self.nodes.len()
    }

    pub fn port(&self, node: usize) -> u16 {
        self.nodes[node].port
    }

    pub async fn version(&self) -> anyhow::Result<String> {
        let version = self.ctl(0, &["version"]).await?;
        Ok(version.trim().to_owned())
    }

    /// Runs `rabbitmqctl` and returns what it prints.
    pub async fn ctl(&self, node: usize, arguments: &[&str]) -> anyhow::Result<String> {
        let mut command = Command::new(NODE);
        command
            .arg("ctl")
            .arg("--dir")
            .arg(&self.nodes[node].dir)
            .arg("--quiet")
            .args(arguments)
            .stdin(Stdio::null())
            .kill_on_drop(true);
        let output = timeout(CTL_LIMIT, command.output()).await;
        let output = output.with_context(|| format!("rabbitmqctl {arguments:?} hangs"))??;
        if !output.status.success() {
            let error = String::from_utf8_lossy(&output.stderr);
            bail!("rabbitmqctl {arguments:?}: {}", error.trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Kills it as a failing machine would.
    pub async fn kill(&self, node: usize) -> anyhow::Result<()> {
        // Queues declared within the last half second would not survive: their registry
        // is written late. That is not a finding here.
        let flush = "[dets:sync(Table) || Table <- dets:all()].";
        let _ = self.ctl(node, &["eval", flush]).await;
        let running = self.nodes[node].running.borrow_mut().take();
        let Some(mut script) = running else {
            bail!("{} is not running", self.nodes[node].name);
        };
        // The kernel kills the node along with the script.
        script.child.kill().await?;
        while tokio::net::TcpStream::connect(("127.0.0.1", self.port(node)))
            .await
            .is_ok()
        {
            sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    }

    /// Takes it up again with its data, on its port.
    pub async fn restart(&self, node: usize) -> anyhow::Result<()> {
        let Node {
            name,
            dir,
            port,
            running,
        } = &self.nodes[node];
        let mut options = vec!["--name".to_owned(), name.clone()];
        if self.epmd.is_some() {
            let ports = std::fs::read_to_string(dir.join("ports"))?;
            let (_, epmd) = ports.trim().rsplit_once('=').context("no port of epmd")?;
            options.extend(["--epmd", epmd, "--cookie", "chaos"].map(ToOwned::to_owned));
        }
        let (script, _) = launch(dir, *port, &options).await?;
        *running.borrow_mut() = Some(script);
        Ok(())
    }

    /// The node on which that queue's leader is.
    pub async fn leader(&self, vhost: &str, queue: &str) -> anyhow::Result<usize> {
        let leaders = self
            .ctl(0, &["list_queues", "-p", vhost, "name", "leader"])
            .await?;
        let leader = leaders
            .lines()
            .find_map(|line| line.strip_prefix(queue)?.strip_prefix('\t'));
        let leader = leader.with_context(|| format!("{queue} has no leader"))?;
        let found = self.nodes.iter().position(|node| {
            leader
                .strip_prefix(&node.name)
                .is_some_and(|rest| rest.starts_with('@'))
        });
        found.with_context(|| format!("{queue} is led by {leader}"))
    }

    /// Messages of each queue: ready and unacked.
    pub async fn depths(&self, vhost: &str) -> anyhow::Result<Vec<(String, u64, u64)>> {
        let columns = ["name", "messages_ready", "messages_unacknowledged"];
        let listed = self
            .ctl(0, &[&["list_queues", "-p", vhost], &columns[..]].concat())
            .await?;
        let rows = listed.lines().filter_map(|line| {
            let mut words = line.split('\t');
            let name = words.next()?.to_owned();
            Some((
                name,
                words.next()?.parse().ok()?,
                words.next()?.parse().ok()?,
            ))
        });
        Ok(rows.collect())
    }

    /// Ends it; its data is of no use any more.
    pub async fn end(self) {
        for node in self.nodes {
            if let Some(mut script) = node.running.take() {
                let _ = script.child.kill().await;
            }
        }
        if let Some(mut epmd) = self.epmd {
            let _ = epmd.child.kill().await;
        }
    }
}

async fn launch(dir: &Path, port: u16, options: &[String]) -> anyhow::Result<(Script, u16)> {
    let port = port.to_string();
    let mut arguments = vec!["start", "--port", &port];
    arguments.extend(options.iter().map(String::as_str));
    let (script, ready) = script(&arguments, dir).await?;
    let port = ready.rsplit(':').next().and_then(|port| port.parse().ok());
    Ok((
        script,
        port.with_context(|| format!("a node is ready at {ready:?}"))?,
    ))
}

/// What it says when it is ready.
async fn script(arguments: &[&str], dir: &Path) -> anyhow::Result<(Script, String)> {
    let mut child = Command::new(NODE)
        .args(arguments)
        .arg("--until-stdin-closes")
        .arg("--dir")
        .arg(dir)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .context(NODE)?;
    let stdin = child.stdin.take().context("its stdin is piped")?;
    let stdout = child.stdout.take().context("its stdout is piped")?;
    let mut line = String::new();
    let mut stdout = BufReader::new(stdout);
    timeout(START_LIMIT, stdout.read_line(&mut line))
        .await
        .context("RabbitMQ does not start")??;
    let Some(ready) = line.trim().strip_prefix("ready ") else {
        bail!("RabbitMQ did not start: {line:?}; what it said stands above");
    };
    let script = Script {
        child,
        _stdin: stdin,
    };
    Ok((script, ready.to_owned()))
}
