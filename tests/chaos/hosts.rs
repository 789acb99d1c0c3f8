//! Several hosts with a shared file system, as `ops/hosts` has made them:
//! namespaces on this machine, each with an address of its own in every network.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use tokio::process::Command;

use crate::plan::fault::HostFault;

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/ops/hosts");
const ENTER_LIMIT: Duration = Duration::from_secs(30);

/// Where the driver and the broker are in the hosts' network to the broker.
pub const BROKER: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 77, 2, 1));

#[derive(Debug, Clone)]
pub struct Hosts {
    /// See `paths` in the script.
    pub dir: PathBuf,
}

/// One of them.
pub struct Host {
    number: usize,
    /// The first process in its namespaces.
    init: String,
}

impl Hosts {
    /// The mount point of the shared file system, on each host.
    pub fn root(&self) -> PathBuf {
        self.dir.join("root")
    }

    /// On a disk that all hosts see directly, except for what must be each
    /// host's own.
    pub fn stand_in_dir(&self) -> PathBuf {
        self.dir.join("stand-in")
    }

    /// Where the worker of that number runs, among the hosts that live.
    pub fn host(&self, worker: usize) -> anyhow::Result<Host> {
        let mut living: Vec<Host> = fs::read_dir(self.dir.join("scratch/state"))?
            .filter_map(|entry| {
                let entry = entry.ok()?;
                let name = entry.file_name().into_string().ok()?;
                Some(Host {
                    number: name.strip_prefix("host-")?.parse().ok()?,
                    init: fs::read_to_string(entry.path()).ok()?.trim().to_owned(),
                })
            })
            .collect();
        living.sort_by_key(|host| host.number);
        let picked = worker % living.len().max(1);
        (living.into_iter().nth(picked)).context("no host lives")
    }

    pub async fn begin(&self, fault: HostFault) -> anyhow::Result<()> {
        strike("begin", fault.name()).await
    }

    pub async fn end(&self, fault: HostFault) -> anyhow::Result<()> {
        strike("end", fault.name()).await
    }

    /// Mounts the shared file system here, for a look at the journals: a client
    /// that has just come has no old reads.
    pub async fn mount_here(&self) -> anyhow::Result<()> {
        strike("begin", "judge").await
    }
}

impl Host {
    /// What comes before a command that is to run there.
    pub fn enter(&self) -> Vec<&str> {
        vec!["nsenter", "-t", &self.init, "-n", "-m", "-p", "-u"]
    }

    pub fn http_address(&self) -> String {
        format!("10.77.3.{}:0", 10 + self.number)
    }
}

async fn strike(when: &str, fault: &str) -> anyhow::Result<()> {
    let mut command = Command::new(SCRIPT);
    command
        .args(["__strike", when, fault])
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    let status = command.status().await.context(SCRIPT)?;
    ensure!(status.success(), "{SCRIPT} {when} {fault}: {status}");
    Ok(())
}

/// The process in a host, once `nsenter` has started it.
pub fn entered(nsenter: i32) -> anyhow::Result<i32> {
    let children = PathBuf::from(format!("/proc/{nsenter}/task/{nsenter}/children"));
    let deadline = Instant::now() + ENTER_LIMIT;
    while Instant::now() < deadline {
        if let Some(pid) = first(&children) {
            return Ok(pid);
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    anyhow::bail!("nsenter has started no process")
}

fn first(children: &Path) -> Option<i32> {
    let children = fs::read_to_string(children).ok()?;
    children.split_whitespace().next()?.parse().ok()
}
