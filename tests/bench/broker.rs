//! A RabbitMQ node of the bench's own, run by `ops/rabbitmq/node`.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};

use anyhow::{Context, Result, bail};
use turn_worker::amqp::connect::Connector;
use turn_worker::amqp::server::Server;

const NODE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/ops/rabbitmq/node");
/// More than there are stages.
const VHOSTS: u32 = 100;

pub struct Broker {
    script: Child,
    /// The node ends when this closes: also when this process is killed.
    stdin: Option<ChildStdin>,
    url: String,
    used: u32,
    dir: PathBuf,
}

impl Broker {
    pub fn start(dir: &Path) -> Result<Self> {
        let mut script = Command::new(NODE)
            .args(["start", "--until-stdin-closes", "--temporary", "--dir"])
            .arg(dir)
            .args(["--vhosts", &VHOSTS.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context(NODE)?;
        let stdin = script.stdin.take();
        let mut ready = String::new();
        let stdout = script.stdout.take().context("the node has no stdout")?;
        BufReader::new(stdout).read_line(&mut ready)?;
        let Some(url) = ready.trim().strip_prefix("ready ") else {
            bail!("the broker did not start");
        };
        Ok(Self {
            script,
            stdin,
            url: url.to_owned(),
            used: 0,
            dir: dir.to_owned(),
        })
    }

    /// The URL of a vhost that is unused.
    pub fn vhost(&mut self) -> String {
        let number = self.used;
        self.used += 1;
        assert!(number < VHOSTS, "the bench has more stages than vhosts");
        format!("{}/t{number}", self.url)
    }

    /// As the broker reports it.
    pub async fn version(&self) -> Result<String> {
        let url = self.url.clone();
        let link = Connector::new("bench", move || Ok(url.clone().into()));
        let link = link.connect().await?;
        let server = Server::ask(link.target()).await;
        link.close().await;
        Ok(server.map_or("of an unknown version".to_owned(), |server| server.version))
    }

    /// Of the node itself, not of the script that looks after it.
    pub fn pid(&self) -> Result<u32> {
        let file = self.dir.join("pid");
        let text = std::fs::read_to_string(&file).with_context(|| file.display().to_string())?;
        Ok(text.trim().parse()?)
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        drop(self.stdin.take());
        let _ = self.script.wait();
    }
}
