//! Who has a workspace's lock, for operators: what this host's kernel lists, and
//! what the journal says of the attempt that is open. A hint; no decision rests on it.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use rustix::fs::{major, minor};
use rustix::io::Errno;
use rustix::process::{Pid, test_kill_process};

use super::Workspace;
use super::journal::Started;
use super::lock::LOCK;
use crate::guard::proc;

/// All locks of a host. Of a longer list only the first part is read.
const MAX_LOCKS_BYTES: u64 = 4 << 20;

/// What is known of the holder of a lock.
#[derive(Debug, Clone, PartialEq)]
pub struct LockHolder {
    /// The process that took the lock on this host; `None` if none is listed: it is on
    /// another host, or in another PID namespace.
    pub pid: Option<i32>,
    /// That process is gone: one that has inherited its open file has the lock.
    pub is_inherited: bool,
    /// The name of its program.
    pub program: Option<String>,
    /// The attempt that has started last, if its end is not recorded.
    pub attempt: Option<Started>,
}

impl std::fmt::Display for LockHolder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let host = rustix::system::uname();
        let host = host.nodename().to_string_lossy();
        match (self.pid, &self.program) {
            (Some(pid), _) if self.is_inherited => write!(
                f,
                "locked by process {pid} on {host}, which has ended; one that it started has the lock now (fuser -v on the file names it)"
            )?,
            (Some(pid), Some(program)) => {
                write!(f, "locked by process {pid} ({program}) on {host}")?
            }
            (Some(pid), None) => write!(f, "locked by process {pid} on {host}")?,
            (None, _) => write!(f, "locked by a process that {host} does not see")?,
        }
        match &self.attempt {
            Some(started) => write!(
                f,
                "; attempt {} of turn {}, started by {} at {}, has no end yet",
                started.attempt, started.turn_id, started.worker, started.at
            ),
            None => f.write_str("; no attempt is open, so no worker has it for a turn"),
        }
    }
}

impl Workspace {
    /// Who holds the lock, as far as can be seen from here; `None` if it is free.
    /// Reads a bounded part of the journal, and waits for no lock.
    pub fn lock_holder(&self) -> Option<LockHolder> {
        let stat = self.state.stat(LOCK).ok()??;
        let mut locks = String::new();
        let list = File::open(Path::new("/proc/locks")).ok();
        let read = list.and_then(|list| list.take(MAX_LOCKS_BYTES).read_to_string(&mut locks).ok());
        let device = (major(stat.st_dev), minor(stat.st_dev));
        let pid = read.and_then(|_| holder_in(&locks, device, stat.st_ino));
        let attempt = self.open_attempt().ok().flatten();
        if pid.is_none() && matches!(self.try_lock(), Ok(Some(_))) {
            return None;
        }
        Some(LockHolder {
            pid,
            is_inherited: pid.is_some_and(has_ended),
            program: pid.and_then(proc::name),
            attempt,
        })
    }
}

fn has_ended(pid: i32) -> bool {
    let pid = Pid::from_raw(pid);
    pid.is_some_and(|pid| test_kill_process(pid) == Err(Errno::SRCH))
}

/// Of `/proc/locks`, with lines such as `1: FLOCK  ADVISORY  WRITE 912 fe:01:393 0 EOF`.
/// Some file systems list another device than `stat` reports: then the inode
/// decides, if only one lock has it.
fn holder_in(locks: &str, device: (u32, u32), inode: u64) -> Option<i32> {
    let holders = locks.lines().filter_map(|line| {
        let mut fields = line.split_ascii_whitespace().skip(1);
        // A process that waits has an arrow here.
        (fields.next() == Some("FLOCK")).then_some(())?;
        let pid: i32 = fields.nth(2)?.parse().ok()?;
        let mut place = fields.next()?.split(':');
        let mut number = |radix| u64::from_str_radix(place.next()?, radix).ok();
        let place = (number(16)?, number(16)?, number(10)?);
        (place.2 == inode && pid > 0).then_some((pid, (place.0, place.1)))
    });
    let holders: Vec<_> = holders.collect();
    let device = (u64::from(device.0), u64::from(device.1));
    let exact = holders.iter().find(|(_, of)| *of == device);
    match (exact, holders.as_slice()) {
        (Some((pid, _)), _) | (None, [(pid, _)]) => Some(*pid),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};
    use std::process::{Command, Stdio};

    use super::*;
    use crate::workspace::testing::{lock, started, workspace};

    #[test]
    fn the_holder_is_found_by_device_and_inode() {
        let locks = "\
1: FLOCK  ADVISORY  WRITE 912 fe:01:393 0 EOF
1: -> FLOCK  ADVISORY  WRITE 913 fe:01:393 0 EOF
2: POSIX  ADVISORY  WRITE 914 fe:01:394 0 EOF
3: FLOCK  ADVISORY  WRITE 915 00:1f:393 0 EOF
4: FLOCK  ADVISORY  WRITE 0 fe:01:395 0 EOF
5: FLOCK  ADVISORY  WRITE 916 00:1f:396 0 EOF
broken
";
        let of = |device, inode| holder_in(locks, device, inode);
        assert_eq!(of((0xfe, 1), 393), Some(912));
        assert_eq!(of((0, 0x1f), 393), Some(915));
        assert_eq!(of((0, 7), 393), None);
        assert_eq!(of((0xfe, 1), 394), None);
        assert_eq!(of((0xfe, 1), 395), None);
        assert_eq!(of((0, 7), 396), Some(916));
    }

    /// `flock` takes the lock on a descriptor of the shell's, and ends.
    #[test]
    fn a_lock_that_outlives_the_process_that_took_it_is_shown_as_such() {
        let (tmp, workspace) = workspace();
        drop(lock(&workspace));
        let file = tmp
            .path()
            .join("root/.turn-worker/workspaces/acme/website/.state/lock");
        let script = r#"exec 9<"$0" && flock 9 && echo locked && read -r line"#;
        let mut shell = Command::new("sh")
            .args(["-c", script])
            .arg(&file)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut out = BufReader::new(shell.stdout.take().unwrap());
        out.read_line(&mut line).unwrap();
        assert_eq!(line, "locked\n");
        let holder = workspace.lock_holder().unwrap();
        // Where the system lists locks.
        assert_eq!(holder.is_inherited, holder.pid.is_some());
        let text = holder.to_string();
        assert!(
            !holder.is_inherited || text.contains("which has ended"),
            "{text}"
        );
        drop(shell.stdin.take());
        shell.wait().unwrap();
    }

    #[test]
    fn the_holder_of_a_lock_is_reported_with_the_open_attempt() {
        let (_tmp, workspace) = workspace();
        assert_eq!(workspace.lock_holder(), None);
        let mut journal = lock(&workspace).open_journal(None).unwrap();
        journal.started(&started("t", 2)).unwrap();
        let holder = workspace.lock_holder().unwrap();
        // Where the system lists locks, it is this process.
        assert!(
            holder
                .pid
                .is_none_or(|pid| u32::try_from(pid) == Ok(std::process::id()))
        );
        assert!(
            holder
                .to_string()
                .contains("attempt 2 of turn t, started by w at ")
        );
    }
}
