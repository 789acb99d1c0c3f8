//! Processes as the system shows them.

#![allow(
    dead_code,
    clippy::unwrap_used,
    reason = "not every test needs all of it, and a test fails by panicking"
)]

use std::fs;
use std::io::Read;
use std::path::Path;

use turn_worker::guard::proc;
pub use turn_worker::guard::proc::lives;

use super::host::until;

/// Parent, process group and session of a process that is alive.
pub fn stat(pid: i32) -> Option<[i32; 3]> {
    let stat = proc::stat(pid).filter(|stat| stat.alive)?;
    Some([stat.parent, stat.group, stat.session])
}

pub fn parent(pid: i32) -> i32 {
    let stat = stat(pid);
    stat.unwrap_or_else(|| panic!("no process {pid}"))[0]
}

/// All processes of a turn in that workspace that did not shed their environment.
pub fn of_workspace(dir: &Path) -> Vec<i32> {
    let tag = format!("TURN_WORKER_WORKSPACE={}", dir.display()).into_bytes();
    let pids = proc::pids().unwrap().filter_map(|pid| {
        let mut environment = Vec::new();
        let read = proc::environment(pid)?.read_to_end(&mut environment);
        read.ok()?;
        let tagged = environment.split(|byte| *byte == 0).any(|set| set == tag);
        (tagged && lives(pid)).then_some(pid)
    });
    pids.collect()
}

/// The folders and files that a process watches, as inode numbers: one list for each inotify instance.
pub fn watched(pid: i32) -> Vec<Vec<u64>> {
    let open = fs::read_dir(format!("/proc/{pid}/fd"));
    let open = open.into_iter().flatten().flatten();
    let is_watcher = |entry: &fs::DirEntry| {
        fs::read_link(entry.path()).is_ok_and(|link| link.as_os_str() == "anon_inode:inotify")
    };
    let inodes = |entry: fs::DirEntry| {
        let info = format!("/proc/{pid}/fdinfo/{}", entry.file_name().display());
        let info = fs::read_to_string(info).unwrap_or_default();
        let inode = |line: &str| {
            let (_, inode) = line.strip_prefix("inotify ")?.split_once("ino:")?;
            u64::from_str_radix(inode.split_whitespace().next()?, 16).ok()
        };
        info.lines().filter_map(inode).collect()
    };
    open.filter(is_watcher).map(inodes).collect()
}

pub fn describe(pid: i32) -> String {
    let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let command = String::from_utf8_lossy(&command).replace('\0', " ");
    format!("{pid} {:?} {command}", stat(pid))
}

/// Until the lock is free. At the first moment when it is, no process of the
/// workspace's turn may live, nor any of `also`.
pub fn gone_when_free(dir: &Path, also: &[i32], mut is_free: impl FnMut() -> bool) {
    until("the lock is free", || is_free().then_some(()));
    let mut left = of_workspace(dir);
    left.extend(also.iter().copied().filter(|pid| lives(*pid)));
    let left: Vec<_> = left.into_iter().map(describe).collect();
    assert!(left.is_empty(), "live beside a free lock: {left:#?}");
}
