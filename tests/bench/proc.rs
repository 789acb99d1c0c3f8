//! What the system reports of processes.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};

/// Linux counts in hundredths of a second in all interfaces for programs.
const MS_PER_TICK: u64 = 10;

/// CPU time, user and system together.
#[derive(Debug, Clone, Copy, Default)]
pub struct Cpu {
    /// The process's own.
    pub own: Duration,
    /// That of its children, and of theirs which they have waited for.
    pub children: Duration,
}

impl Cpu {
    pub fn of(pid: u32) -> Result<Self> {
        let fields = stat(pid)?;
        let ticks = |number: usize| -> Result<u64> {
            // The first field after the name is number 3.
            let field = fields.get(number - 3).context("a short stat line")?;
            Ok(field.parse()?)
        };
        let time = |ticks: u64| Duration::from_millis(ticks * MS_PER_TICK);
        Ok(Self {
            own: time(ticks(14)? + ticks(15)?),
            children: time(ticks(16)? + ticks(17)?),
        })
    }

    /// Also that of all below it which live on, such as guards between two turns.
    pub fn with_living_below(pid: u32) -> Result<Self> {
        let mut cpu = Self::of(pid)?;
        for process in below(pid)? {
            // One that has just ended is among the reaped, next time.
            if let Ok(process) = Self::of(process) {
                cpu.children += process.own + process.children;
            }
        }
        Ok(cpu)
    }

    pub fn since(self, before: Self) -> Self {
        Self {
            own: self.own.saturating_sub(before.own),
            children: self.children.saturating_sub(before.children),
        }
    }
}

/// Resident memory of a process, in MiB.
#[derive(Debug, Clone, Copy)]
pub struct Memory {
    pub now: f64,
    pub peak: f64,
}

impl Memory {
    pub fn of(pid: u32) -> Result<Self> {
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        Ok(Self {
            now: mib(&status, "VmRSS:").context("no VmRSS")?,
            peak: mib(&status, "VmHWM:").context("no VmHWM")?,
        })
    }
}

impl Memory {
    pub fn text(self) -> String {
        format!("{:.1} / {:.1} MiB", self.now, self.peak)
    }
}

/// What a process takes, with its share of what it shares, in MiB. `None`
/// where this user may not look.
pub fn proportional(pid: u32) -> Option<f64> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    mib(&text, "Pss:")
}

/// The child processes of `pid`.
pub fn children(pid: u32) -> Result<Vec<u32>> {
    let all = fs::read_dir("/proc")?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    Ok(all
        .filter(|&child| stat(child).is_ok_and(|fields| fields.get(1) == Some(&pid.to_string())))
        .collect())
}

/// The processes that descend from `pid`.
pub fn below(pid: u32) -> Result<Vec<u32>> {
    let mut found = children(pid)?;
    let mut next = 0;
    while let Some(&process) = found.get(next) {
        found.extend(children(process)?);
        next += 1;
    }
    Ok(found)
}

/// The fields after the name, which may itself hold blanks.
fn stat(pid: u32) -> Result<Vec<String>> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let (_, fields) = text.rsplit_once(')').context("no stat line")?;
    Ok(fields.split_whitespace().map(str::to_owned).collect())
}

fn mib(text: &str, name: &str) -> Option<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    let kib: f64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kib / 1024.0)
}
