//! Processes as `/proc` shows them. The one place that decides whether a
//! process is alive: tests and tools ask it, too.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

/// One process as `/proc/<pid>/stat` describes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    pub parent: i32,
    pub group: i32,
    pub session: i32,
    /// Whether any thread of it can still run, regardless of its first one's state.
    pub alive: bool,
    /// In clock ticks since boot. With the pid, the process's identity: pids are reused.
    pub started: u64,
}

/// Returns `None` if there is no such process.
pub fn stat(pid: i32) -> Option<Stat> {
    // A name may be any bytes.
    let text = fs::read(format!("/proc/{pid}/stat")).ok()?;
    parse(&String::from_utf8_lossy(&text))
}

/// Now, in the unit of [`Stat::started`]; 0 if it is not known.
pub fn now() -> u64 {
    let uptime = fs::read_to_string("/proc/uptime").unwrap_or_default();
    let seconds = uptime.split_ascii_whitespace().next().unwrap_or_default();
    // Linux reports hundredths of a second to programs, with two decimals.
    seconds.replace('.', "").parse().unwrap_or_default()
}

/// The state of its first thread, as one letter.
pub fn state(pid: i32) -> Option<String> {
    let text = fs::read(format!("/proc/{pid}/stat")).ok()?;
    let text = String::from_utf8_lossy(&text);
    let mut fields = text.get(text.rfind(')')? + 1..)?.split_ascii_whitespace();
    fields.next().map(str::to_owned)
}

/// Of its program, cut to 15 bytes. Never waits for the process, unlike its command line.
pub fn name(pid: i32) -> Option<String> {
    let name = fs::read(format!("/proc/{pid}/comm")).ok()?;
    Some(String::from_utf8_lossy(&name).trim_end().to_owned())
}

/// The memory that it has for itself, in bytes, swapped out or not: without what is
/// mapped from files. 0 if it is gone.
pub fn memory(pid: i32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let kib = status.lines().filter_map(|line| {
        let (name, value) = line.split_once(':')?;
        let counts = matches!(name, "RssAnon" | "RssShmem" | "VmSwap");
        let value = value.split_ascii_whitespace().next().filter(|_| counts);
        value?.parse::<u64>().ok()
    });
    kib.sum::<u64>() * 1024
}

/// Whether the process exists and is more than an exit status to be reaped.
pub fn lives(pid: i32) -> bool {
    stat(pid).is_some_and(|stat| stat.alive)
}

/// All processes at about one moment; in no particular order.
pub fn all() -> io::Result<impl Iterator<Item = (i32, Stat)>> {
    Ok(pids()?.filter_map(|pid| Some((pid, stat(pid)?))))
}

pub fn pids() -> io::Result<impl Iterator<Item = i32>> {
    let entries = fs::read_dir("/proc")?;
    Ok(entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()))
}

/// The folder in `/proc` of a thread that can still run. What a process has
/// (environment, directories, descriptors) shows in the folder of its first
/// thread only until that thread exits. Returns `None` if no thread can run.
pub fn folder(pid: i32) -> Option<PathBuf> {
    let process = PathBuf::from(format!("/proc/{pid}"));
    if thread_runs(&process)? {
        return Some(process);
    }
    let threads = fs::read_dir(process.join("task")).ok()?;
    let mut folders = threads.filter_map(|thread| Some(thread.ok()?.path()));
    folders.find(|folder| thread_runs(folder) == Some(true))
}

/// The environment that the process was started with, unless it was changed.
pub fn environment(pid: i32) -> Option<File> {
    File::open(folder(pid)?.join("environ")).ok()
}

fn thread_runs(folder: &Path) -> Option<bool> {
    let text = fs::read(folder.join("stat")).ok()?;
    let text = String::from_utf8_lossy(&text);
    let mut fields = text.get(text.rfind(')')? + 1..)?.split_ascii_whitespace();
    // Of one thread: whether others run is asked of those.
    Some(is_alive(fields.next()?, 1))
}

/// The fields after the name, which may itself hold spaces and parentheses.
fn parse(text: &str) -> Option<Stat> {
    let mut fields = text.get(text.rfind(')')? + 1..)?.split_ascii_whitespace();
    let state = fields.next()?;
    let mut number = || fields.next()?.parse().ok();
    let (parent, group, session) = (number()?, number()?, number()?);
    // The fields are numbered from 1, in proc(5): the session is number 6.
    let threads = fields.nth(20 - 7)?.parse().ok()?;
    let started = fields.nth(22 - 21)?.parse().ok()?;
    Some(Stat {
        parent,
        group,
        session,
        alive: is_alive(state, threads),
        started,
    })
}

/// The state in `stat` is that of the first thread alone. Where that one has
/// exited by itself (`pthread_exit` in `main`), the process shows as a zombie
/// for as long as its other threads run; only a zombie without any is dead.
/// Every other state is one of the living: also stopped (`T`), traced (`t`) and
/// uninterruptible (`D`) processes go on sooner or later.
fn is_alive(state: &str, threads: u64) -> bool {
    match state {
        "Z" => threads > 1,
        "X" | "x" => false,
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(state: &str, threads: u64) -> String {
        format!(
            "4711 (a) R (b) {state} 12 13 14 0 -1 4194304 95 0 0 0 0 0 0 0 20 0 {threads} 0 987654 2486272 188"
        )
    }

    #[test]
    fn a_process_has_memory_for_itself() {
        let held = vec![1_u8; 16 << 20];
        assert!(memory(std::process::id().cast_signed()) >= held.len() as u64);
        assert_eq!(memory(i32::MAX), 0);
    }

    #[test]
    fn reads_a_stat_line_with_parentheses_and_spaces_in_its_name() {
        let stat = Stat {
            parent: 12,
            group: 13,
            session: 14,
            alive: true,
            started: 987_654,
        };
        assert_eq!(parse(&line("S", 1)), Some(stat));
        assert_eq!(parse("4711 (a"), None);
    }

    #[test]
    fn g3_a_process_is_alive_as_long_as_one_of_its_threads_is() {
        for (state, threads, alive) in [
            ("R", 1, true),
            ("S", 1, true),
            ("D", 1, true),
            ("T", 1, true),
            ("t", 1, true),
            ("I", 1, true),
            // Its first thread has exited, another one runs.
            ("Z", 2, true),
            ("Z", 1, false),
            // Reaped while it was looked at.
            ("Z", 0, false),
            ("X", 0, false),
        ] {
            let stat = parse(&line(state, threads)).unwrap();
            assert_eq!(stat.alive, alive, "{state} {threads}");
        }
    }
}
