//! Processes that SIGKILL does not end: of another user, which this one may
//! not signal (a set-user-ID program, as `sudo` is), or in the middle of a
//! system call that does not return (state `D`: a file system that hangs).
//!
//! They hold only their workspace. What is known of them stands in
//! a record beside the workspace's lock, so that any process which finds the
//! workspace locked can report why. The record also outlives the lock's holder:
//! the next one asks by it whether they still live.

use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};
use std::{fmt, fs, io, thread};

use jiff::Timestamp;
use nix::unistd::{Uid, User};
use serde::{Deserialize, Serialize};

use super::proc;
use crate::fault;

/// Processes by what identifies them: pids are reused.
pub(super) type Identity = (i32, u64);

/// More are only counted.
const MAX_PROCESSES: usize = 50;
const MAX_COMMAND_CHARS: usize = 120;
const MAX_COMMAND_BYTES: usize = 4096;
const MAX_RECORD_BYTES: u64 = 256 << 10;
/// The memory of a process that hangs may be locked, and block a reader of its
/// command line.
const DESCRIBE_LIMIT: Duration = Duration::from_secs(2);

/// What holds a workspace after its turn's end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unkillable {
    pub host: String,
    pub since: Timestamp,
    pub processes: Vec<UnkillableProcess>,
    /// How many there are besides.
    #[serde(default)]
    pub more: usize,
    /// Which boot of the host, and which PID namespace, the pids belong to.
    place: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnkillableProcess {
    pub pid: i32,
    started: u64,
    /// Its name, or else its number.
    pub user: String,
    /// As `ps` shows it: `D` hangs in the system; any other belongs to a user
    /// with processes that may not be signalled.
    pub state: String,
    /// Printable, and bounded. In brackets, the program's name alone.
    pub command: String,
}

impl UnkillableProcess {
    fn identity(&self) -> Identity {
        (self.pid, self.started)
    }
}

impl Unkillable {
    pub fn of(processes: &[Identity]) -> Self {
        let host = rustix::system::uname();
        let listed = &processes[..processes.len().min(MAX_PROCESSES)];
        Self {
            host: host.nodename().to_string_lossy().into_owned(),
            since: Timestamp::now(),
            processes: describe(listed),
            more: processes.len() - listed.len(),
            place: place(),
        }
    }

    /// The record's content. An empty one means that there is no process, and one that
    /// can't be parsed is treated as absent: its writer holds the lock meanwhile.
    pub fn read(record: &File) -> io::Result<Option<Self>> {
        let length = record.metadata()?.len().min(MAX_RECORD_BYTES);
        let mut bytes = vec![0; usize::try_from(length).unwrap_or_default()];
        let mut read = 0;
        while read < bytes.len() {
            match record.read_at(&mut bytes[read..], read as u64)? {
                0 => break,
                more => read += more,
            }
        }
        Ok(serde_json::from_slice(&bytes[..read]).ok())
    }

    /// Not synced: what a power failure takes with it, it takes the processes, too.
    pub fn write(&self, record: &File) -> io::Result<()> {
        let bytes = serde_json::to_vec(self)?;
        record.set_len(0)?;
        record.write_all_at(&bytes, 0)
    }

    pub fn clear(record: &File) -> io::Result<()> {
        record.set_len(0)
    }

    /// Those that live, if this process could see them; `None` if it can't, as they are
    /// of another host, or of a container.
    pub fn living(&self) -> Option<Vec<Identity>> {
        let identities = self.processes.iter().map(UnkillableProcess::identity);
        (self.place == place()).then(|| identities.filter(|one| is_alive(*one)).collect())
    }
}

/// For logs and messages.
impl fmt::Display for Unkillable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const MOST: usize = 3;
        for (number, process) in self.processes.iter().take(MOST).enumerate() {
            let separator = if number > 0 { "; " } else { "" };
            write!(f, "{separator}{process}")?;
        }
        match self.processes.len().saturating_sub(MOST) + self.more {
            0 => {}
            more => write!(f, "; and {more} more")?,
        }
        write!(f, "; on {} since {}", self.host, self.since)
    }
}

impl fmt::Display for UnkillableProcess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            pid,
            user,
            state,
            command,
            ..
        } = self;
        write!(f, "pid {pid} of {user} (state {state}): {command}")
    }
}

pub(super) fn is_alive((pid, started): Identity) -> bool {
    proc::stat(pid).is_some_and(|stat| stat.alive && stat.started == started)
}

/// The boot of the host and the PID namespace: pids have no meaning elsewhere.
pub fn place() -> String {
    if fault::is_on("guard.place") {
        return "another host".to_owned();
    }
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let pids = fs::metadata("/proc/self/ns/pid").map_or(0, |namespace| namespace.ino());
    format!("{}/{pids}", boot.trim())
}

/// In a thread, which is abandoned where it hangs.
fn describe(processes: &[Identity]) -> Vec<UnkillableProcess> {
    let basic = |&(pid, started): &Identity| UnkillableProcess {
        pid,
        started,
        user: effective_uid(pid).map_or_else(|| "?".to_owned(), |uid| uid.to_string()),
        state: proc::state(pid).unwrap_or_else(|| "?".to_owned()),
        command: format!("[{}]", printable(&proc::name(pid).unwrap_or_default())),
    };
    let mut described: Vec<_> = processes.iter().map(basic).collect();
    let (tell, told) = channel();
    let asked: Vec<_> = processes.iter().map(|(pid, _)| *pid).collect();
    let names = move || {
        for (at, pid) in asked.into_iter().enumerate() {
            let user = effective_uid(pid).and_then(|uid| {
                let user = User::from_uid(Uid::from_raw(uid)).ok()??;
                Some(printable(&user.name))
            });
            let _ = tell.send((at, user, command_of(pid)));
        }
    };
    if thread::Builder::new().spawn(names).is_ok() {
        let until = Instant::now() + DESCRIBE_LIMIT;
        let left = || until.saturating_duration_since(Instant::now());
        while let Ok((at, user, command)) = told.recv_timeout(left()) {
            let process: &mut UnkillableProcess = &mut described[at];
            process.user = user.unwrap_or_else(|| std::mem::take(&mut process.user));
            process.command = command.unwrap_or_else(|| std::mem::take(&mut process.command));
        }
    }
    described
}

fn effective_uid(pid: i32) -> Option<u32> {
    let status = fs::read(format!("/proc/{pid}/status")).ok()?;
    let status = String::from_utf8_lossy(&status).into_owned();
    let uids = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
    uids.split_ascii_whitespace().nth(1)?.parse().ok()
}

fn command_of(pid: i32) -> Option<String> {
    use std::io::Read;
    let mut bytes = Vec::new();
    let file = File::open(format!("/proc/{pid}/cmdline")).ok()?;
    file.take(MAX_COMMAND_BYTES as u64)
        .read_to_end(&mut bytes)
        .ok()?;
    let text = String::from_utf8_lossy(&bytes).replace('\0', " ");
    Some(printable(text.trim())).filter(|text| !text.is_empty())
}

/// It is an agent's to choose: no part of it may pass for more than a word.
fn printable(text: &str) -> String {
    let plain = |c: char| {
        if c == ' ' || c.is_ascii_graphic() {
            c
        } else {
            '?'
        }
    };
    let mut chars = text.chars().map(plain);
    let mut out: String = chars.by_ref().take(MAX_COMMAND_CHARS).collect();
    if chars.next().is_some() {
        out.push_str("...");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn myself() -> Identity {
        let pid = std::process::id().cast_signed();
        (pid, proc::stat(pid).unwrap().started)
    }

    #[test]
    fn a_record_says_who_lives_until_it_is_cleared() {
        let file = tempfile::tempfile().unwrap();
        assert_eq!(Unkillable::read(&file).unwrap(), None);
        let (pid, started) = myself();
        let unkillable = Unkillable::of(&[(pid, started), (pid, started + 1)]);
        unkillable.write(&file).unwrap();
        let read = Unkillable::read(&file).unwrap().unwrap();
        assert_eq!(read, unkillable);
        // The other one has had this one's pid.
        assert_eq!(read.living(), Some(vec![(pid, started)]));
        let elsewhere = Unkillable {
            place: "another host".to_owned(),
            ..read
        };
        assert_eq!(elsewhere.living(), None);
        Unkillable::clear(&file).unwrap();
        assert_eq!(Unkillable::read(&file).unwrap(), None);
        file.write_all_at(b"{\"host\":", 0).unwrap();
        assert_eq!(Unkillable::read(&file).unwrap(), None);
    }

    #[test]
    fn g10_a_process_is_described_in_few_printable_words() {
        let described = Unkillable::of(&[myself()]).processes.remove(0);
        assert!(!described.user.is_empty() && described.state.len() == 1);
        assert!(!described.command.is_empty());
        let odd = format!("a\"b\u{1b}[31m\n{}", "x".repeat(1000));
        let shown = printable(&odd);
        assert!(shown.starts_with("a\"b?[31m?xxx"), "{shown}");
        assert!(shown.len() <= MAX_COMMAND_CHARS + 3);
        let many = vec![myself(); MAX_PROCESSES + 7];
        let unkillable = Unkillable::of(&many);
        assert_eq!(
            (unkillable.processes.len(), unkillable.more),
            (MAX_PROCESSES, 7)
        );
        assert!(unkillable.to_string().contains("; and 54 more; on "));
    }
}
