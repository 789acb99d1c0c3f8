//! Processes as `/proc` shows them.

use std::fs;
use std::io::Read;
use std::path::Path;

use rustix::process::{Pid, WaitOptions, getpid, set_child_subreaper, waitpid};

/// One that only waits to be reaped does not.
pub use turn_worker::guard::proc::lives;
use turn_worker::guard::proc::{environment, pids, stat};

fn all() -> impl Iterator<Item = i32> {
    pids().into_iter().flatten()
}

pub fn parent(pid: i32) -> Option<i32> {
    Some(stat(pid)?.parent)
}

fn name(pid: i32) -> Option<String> {
    let name = fs::read(format!("/proc/{pid}/comm")).ok()?;
    Some(String::from_utf8_lossy(&name).trim_end().to_owned())
}

/// What a worker leaves that is killed falls to this process from now on.
pub fn adopt_orphans() -> std::io::Result<()> {
    Ok(set_child_subreaper(Some(getpid()))?)
}

/// Many of them would make every look at `/proc` slow, also those of guards.
pub fn reap_orphans() {
    // These are not children that this process has started and waits for itself.
    const OF_TURNS: [&str; 8] = [
        "exe",
        "stand-in-codex",
        "sh",
        "sleep",
        "nohup",
        "setsid",
        "cat",
        "awkward-process",
    ];
    let us = getpid().as_raw_pid();
    for pid in all() {
        let is_orphan = stat(pid).is_some_and(|stat| !stat.alive && stat.parent == us)
            && name(pid).is_some_and(|name| OF_TURNS.contains(&name.as_str()));
        if is_orphan && let Some(pid) = Pid::from_raw(pid) {
            let _ = waitpid(Some(pid), WaitOptions::NOHANG);
        }
    }
}

pub fn is_guard(pid: i32) -> bool {
    command(pid).is_some_and(|command| command.split('\0').nth(1) == Some("__guard"))
}

fn command(pid: i32) -> Option<String> {
    let command = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    Some(String::from_utf8_lossy(&command).into_owned())
}

/// All that belongs to a run's turns: guards below this process that don't
/// wait for their worker's next turn, and all that have one of the run's
/// folders in its environment and are not in `workers`.
pub fn of_turns(dir: &Path, workers: &[i32]) -> Vec<String> {
    let found = all().filter(|pid| {
        lives(*pid)
            && !workers.contains(pid)
            && ((is_guard(*pid) && is_below_us(*pid) && !waits(*pid, workers))
                || mentions(*pid, dir))
    });
    found.map(describe).collect()
}

/// A guard with a living worker, and no process below it.
fn waits(guard: i32, workers: &[i32]) -> bool {
    parent(guard).is_some_and(|worker| workers.contains(&worker) && lives(worker))
        && !all().any(|pid| parent(pid) == Some(guard))
}

fn is_below_us(pid: i32) -> bool {
    let us = getpid().as_raw_pid();
    let mut at = pid;
    while let Some(parent) = parent(at).filter(|parent| *parent > 1) {
        if parent == us {
            return true;
        }
        at = parent;
    }
    false
}

fn mentions(pid: i32, dir: &Path) -> bool {
    let wanted = format!("{}/", dir.display());
    let read = environment(pid).map(|mut file| {
        let mut environment = Vec::new();
        file.read_to_end(&mut environment).map(|_| environment)
    });
    read.is_some_and(|environment| {
        let environment = environment.unwrap_or_default();
        let mut set = environment.split(|byte| *byte == 0);
        set.any(|set| {
            let set = String::from_utf8_lossy(set);
            let value = set.split_once('=').map_or("", |(_, value)| value);
            value.starts_with(&wanted)
        })
    })
}

fn describe(pid: i32) -> String {
    let command = command(pid).unwrap_or_default().replace('\0', " ");
    format!(
        "{pid} (of {}) {}",
        parent(pid).unwrap_or_default(),
        command.trim()
    )
}
