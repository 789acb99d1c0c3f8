//! A real Prometheus, with the project's configuration but for what must be
//! others here: places, and how often it looks.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{PROMETHEUS, path, yaml};
use crate::support::pool::Deadline;
use crate::support::ports::free_ports;

pub struct Prometheus {
    dir: TempDir,
    port: u16,
    child: Child,
}

impl Prometheus {
    /// It looks at the broker's plugin on that port, and at workers that are named later.
    pub fn start(broker: u16) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let [port] = free_ports();
        let workers = workers_file(dir.path());
        fs::write(&workers, "[]").unwrap();
        let config = configured(&workers, broker);
        fs::write(dir.path().join("prometheus.yml"), config.to_string()).unwrap();
        let child = Command::new("setpriv")
            .args([
                "--pdeathsig",
                "KILL",
                "prometheus",
                "--config.file=prometheus.yml",
            ])
            .args(["--storage.tsdb.path=data", "--log.level=warn"])
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .current_dir(dir.path())
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        Self { dir, port, child }
    }

    /// Which workers it looks at from now on; it notices by itself.
    pub fn watch(&self, workers: &[String]) {
        let file = workers_file(self.dir.path());
        let new = file.with_extension("new");
        fs::write(&new, json!([{"targets": workers}]).to_string()).unwrap();
        fs::rename(new, file).unwrap();
    }

    /// What it answers to an expression: the values that are numbers.
    pub async fn values(&self, expression: &str) -> Result<Vec<f64>, String> {
        let answer = self
            .ask(&format!("query?query={}", encoded(expression)))
            .await?;
        let result = answer["result"].as_array().ok_or("no vector")?;
        let values = result
            .iter()
            .map(|series| series["value"][1].as_str().unwrap());
        let values = values.map(|value| value.parse().unwrap_or(f64::NAN));
        Ok(values.filter(|value: &f64| !value.is_nan()).collect())
    }

    /// `label_values(SELECTOR, LABEL)` of Grafana's.
    pub async fn label_values(&self, selector: &str, label: &str) -> Result<Vec<String>, String> {
        let query = format!("label/{label}/values?match[]={}", encoded(selector));
        let answer = self.ask(&query).await?;
        let values = answer.as_array().ok_or("no list")?;
        Ok(values
            .iter()
            .map(|value| value.as_str().unwrap().to_owned())
            .collect())
    }

    /// What went wrong when it evaluated the rules.
    pub async fn broken_rules(&self) -> Result<Vec<String>, String> {
        let answer = self.ask("rules").await?;
        let groups = answer["groups"].as_array().ok_or("no groups")?;
        let rules = groups
            .iter()
            .flat_map(|group| group["rules"].as_array().unwrap());
        let broken = rules.filter(|rule| rule["health"] != "ok");
        Ok(broken.map(|rule| rule.to_string()).collect())
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub async fn ready(&self, deadline: Deadline) {
        let probe = async || self.values("vector(1)").await.ok();
        deadline.until("Prometheus answers", probe).await;
    }

    async fn ask(&self, what: &str) -> Result<Value, String> {
        let said = |error: std::io::Error| error.to_string();
        let mut stream = TcpStream::connect(("127.0.0.1", self.port))
            .await
            .map_err(said)?;
        // The older version, as its answers come in one piece.
        let request = format!("GET /api/v1/{what} HTTP/1.0\r\nHost: test\r\n\r\n");
        stream.write_all(request.as_bytes()).await.map_err(said)?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.map_err(said)?;
        let (_, body) = answer.split_once("\r\n\r\n").ok_or(&*answer)?;
        let mut body: Value =
            serde_json::from_str(body).map_err(|error| format!("{error}: {body}"))?;
        match body["status"].as_str() {
            Some("success") => Ok(body["data"].take()),
            _ => Err(body["error"].to_string()),
        }
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn workers_file(dir: &Path) -> PathBuf {
    dir.join("workers.json")
}

/// JSON, which is YAML.
fn configured(workers: &Path, broker: u16) -> Value {
    let mut config = yaml(PROMETHEUS);
    let global = &mut config["global"];
    for interval in ["scrape_interval", "evaluation_interval"] {
        global[interval] = json!("1s");
    }
    let folder = path(PROMETHEUS).parent().unwrap().to_owned();
    for file in config["rule_files"].as_array_mut().unwrap() {
        *file = json!(folder.join(file.as_str().unwrap()));
    }
    for scrape in config["scrape_configs"].as_array_mut().unwrap() {
        let is_ours = scrape["job_name"] == "turn-worker";
        let scrape = scrape.as_object_mut().unwrap();
        scrape.remove("dns_sd_configs").unwrap();
        match is_ours {
            true => scrape.insert("file_sd_configs".into(), json!([{"files": [workers]}])),
            false => scrape.insert(
                "static_configs".into(),
                json!([{"targets": [format!("127.0.0.1:{broker}")]}]),
            ),
        };
    }
    config
}

fn encoded(text: &str) -> String {
    let byte = |byte: u8| match byte {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'_' | b'.' => char::from(byte).to_string(),
        byte => format!("%{byte:02X}"),
    };
    text.bytes().map(byte).collect()
}
