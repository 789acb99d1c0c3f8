//! What the figures were measured on.

use std::fmt;
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::thread::available_parallelism;
use std::time::Instant;

use anyhow::{Context, Result};
use serde::Serialize;

use crate::stats::Sample;

/// Appends that are synced, to see what the disk makes of durable writes.
const SYNCS: usize = 50;

#[derive(Debug, Serialize)]
pub struct Machine {
    pub cores: usize,
    pub processor: String,
    pub memory_gib: u64,
    pub linux: String,
    pub rabbitmq: String,
    /// A small append that is synced (fdatasync), median in ms.
    pub sync_ms: f64,
}

impl Machine {
    /// `dir`: on the disk that everything is written to.
    pub fn look(dir: &Path, rabbitmq: String) -> Result<Self> {
        let memory = field("/proc/meminfo", "MemTotal")?;
        let kib: u64 = memory
            .split_whitespace()
            .next()
            .context("no memory")?
            .parse()?;
        Ok(Self {
            cores: available_parallelism()?.get(),
            processor: field("/proc/cpuinfo", "model name")
                .unwrap_or_else(|_| "unknown".to_owned()),
            memory_gib: kib.div_ceil(1 << 20),
            linux: fs::read_to_string("/proc/sys/kernel/osrelease")?
                .trim()
                .to_owned(),
            rabbitmq,
            sync_ms: sync(dir)?,
        })
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} cores ({}), {} GiB, Linux {}, RabbitMQ {}; a synced append takes {:.1} ms",
            self.cores, self.processor, self.memory_gib, self.linux, self.rabbitmq, self.sync_ms
        )
    }
}

fn field(file: &str, name: &str) -> Result<String> {
    let text = fs::read_to_string(file)?;
    let value = text.lines().find_map(|line| {
        let (found, value) = line.split_once(':')?;
        (found.trim() == name).then(|| value.trim().to_owned())
    });
    value.with_context(|| format!("{file} has no {name}"))
}

fn sync(dir: &Path) -> Result<f64> {
    let path = dir.join("sync");
    let mut file = File::create(&path)?;
    let mut times = Vec::new();
    for _ in 0..SYNCS {
        let began = Instant::now();
        file.write_all(&[b'x'; 300])?;
        file.sync_data()?;
        times.push(began.elapsed().as_secs_f64() * 1000.0);
    }
    fs::remove_file(path)?;
    Ok(Sample::of(times).context("no syncs")?.median())
}
