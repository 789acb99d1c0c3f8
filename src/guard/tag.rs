//! By what a turn's processes are recognised once their parents are gone.
//!
//! Each inherits two signs, which name the workspace by the random id of its root and its own
//! id: so another pool's workspace of the same path is not meant, and the same one under another
//! path is.
//!
//! - A variable of the environment. It goes with the environment (`env -i`, `sudo`, `su -`), and
//!   can't be read where a process is undumpable or another user's.
//! - The limit on locks (`RLIMIT_LOCKS`), which the system has not enforced since Linux 2.4, set to
//!   a number made of the same ids. It outlives any `exec` and change of user, any process may read it,
//!   and no program has a reason to set it. Only on purpose can a process change it: to a lower
//!   number, or, as root, to any.
//!
//! Processes of workers before this one have a variable with a path only. That is looked up as
//! such a process sees it, and counts where it is the workspace's very directory.

use std::fs;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, setrlimit};
use uuid::Uuid;

use super::proc;

/// With the workspace's path as its value; for agents, and for workers that know no other sign.
const PATH_VARIABLE: &str = "TURN_WORKER_WORKSPACE";
const VARIABLE: &str = "TURN_WORKER_TAG";
/// What every agent's environment has besides what the operator lets through.
pub const VARIABLES: [&str; 2] = [PATH_VARIABLE, VARIABLE];

/// As much as the system lets a program start with, and some more. A process
/// may afterwards call any part of its memory its environment, of any size.
const MAX_ENVIRONMENT: u64 = 8 << 20;
/// The memory of a process that hangs in the system may be locked.
const READ_LIMIT: Duration = Duration::from_secs(1);

/// Which workspace a turn's processes belong to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tag {
    /// The random id of the workspace's root.
    pub root: Uuid,
    /// Its own id.
    pub workspace: String,
    /// The path of its directory.
    pub path: String,
    /// The directory itself, by device and inode; `None` if it can't be used.
    pub directory: Option<(u64, u64)>,
}

impl Tag {
    pub(super) fn variables(&self) -> [(String, String); 2] {
        [
            (PATH_VARIABLE.to_owned(), self.path.clone()),
            (VARIABLE.to_owned(), self.value()),
        ]
    }

    fn value(&self) -> String {
        format!("{}/{}", self.root, self.workspace)
    }

    /// FNV-1a, as a number that is never "unlimited" to a reader.
    pub(super) fn mark(&self) -> u64 {
        let hash = self
            .value()
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
                (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
            });
        (hash >> 2) | 1 << 32
    }

    /// Whether the process belongs to the workspace, as far as this one can see.
    pub(super) fn is_of(&self, pid: i32) -> bool {
        match mark_of(pid) {
            Some(mark) if mark == self.mark() => !is_of_another(pid, self),
            _ => self.is_in_environment(pid),
        }
    }

    fn is_in_environment(&self, pid: i32) -> bool {
        let (own, path) = variables_of(pid);
        match (own, path) {
            (Some(own), _) => own == self.value().as_bytes(),
            (None, Some(path)) => {
                self.directory.is_some() && directory(pid, &path) == self.directory
            }
            (None, None) => false,
        }
    }
}

/// Two ids may make one mark: then the environment decides, if it is there.
fn is_of_another(pid: i32, tag: &Tag) -> bool {
    let (own, _) = variables_of(pid);
    own.is_some_and(|own| own != tag.value().as_bytes())
}

/// For a process on its way to becoming codex. Where a container, or an outer turn, has set a
/// lower limit, the environment has to do.
pub(super) fn take_mark(mark: u64) {
    let limit = Rlimit {
        current: Some(mark),
        maximum: Some(mark),
    };
    let _ = setrlimit(Resource::Locks, limit);
}

/// Returns `None` if it has no tag, as nearly every process on the host.
pub fn mark_of(pid: i32) -> Option<u64> {
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).ok()?;
    let locks = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max file locks"))?;
    locks.split_ascii_whitespace().nth(1)?.parse().ok()
}

/// What the process, in its own mount namespace, has at that path.
fn directory(pid: i32, path: &[u8]) -> Option<(u64, u64)> {
    let path = std::str::from_utf8(path).ok()?;
    let seen = proc::folder(pid)?
        .join("root")
        .join(path.strip_prefix('/')?);
    let meta = fs::metadata(seen).ok()?;
    Some((meta.dev(), meta.ino()))
}

type Value = Option<Vec<u8>>;

/// The values of both variables. One that hangs in the system is asked in a thread, which is
/// abandoned if it is not answered.
fn variables_of(pid: i32) -> (Value, Value) {
    let Some(environment) = proc::environment(pid) else {
        return (None, None);
    };
    if proc::state(pid).as_deref() != Some("D") {
        return variables_in(environment);
    }
    let (tell, told) = channel();
    let read = move || drop(tell.send(variables_in(environment)));
    match thread::Builder::new().spawn(read) {
        Ok(_) => told.recv_timeout(READ_LIMIT).unwrap_or_default(),
        Err(_) => (None, None),
    }
}

fn variables_in(environment: impl Read) -> (Value, Value) {
    let mut bytes = Vec::new();
    // Where it can't be read to its end, what was read may be enough.
    let _ = environment.take(MAX_ENVIRONMENT).read_to_end(&mut bytes);
    let value = |name: &str| {
        let mut all = bytes.split(|&byte| byte == 0);
        let value = all.find_map(|set| set.strip_prefix(name.as_bytes())?.strip_prefix(b"="));
        value.map(<[u8]>::to_owned)
    };
    (value(VARIABLE), value(PATH_VARIABLE))
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    fn tag(root: u128, workspace: &str) -> Tag {
        Tag {
            root: Uuid::from_u128(root),
            workspace: workspace.to_owned(),
            path: "/w".to_owned(),
            directory: None,
        }
    }

    /// It is in limits of processes that older workers have left.
    #[test]
    fn a_mark_is_of_root_and_workspace_and_stays_what_it_is() {
        assert_eq!(tag(1, "a").mark(), tag(1, "a").mark());
        assert_ne!(tag(1, "a").mark(), tag(1, "b").mark());
        assert_ne!(tag(1, "a").mark(), tag(2, "a").mark());
        // Below what 32-bit programs and others take for unlimited.
        for number in 0..1000 {
            let mark = tag(number, "a").mark();
            assert!(mark > u64::from(u32::MAX) && mark < 1 << 62, "{mark}");
        }
    }

    #[test]
    fn an_ordinary_process_has_no_mark() {
        assert_eq!(mark_of(1), None);
    }

    /// An agent may give its processes an environment without end.
    #[test]
    fn g10_no_more_of_an_environment_is_read_than_a_process_can_start_with() {
        assert_eq!(variables_in(Endless(0)), (None, None));
        let both = |own: Option<&str>, path: Option<&str>| {
            let value = |value: Option<&str>| value.map(|value| value.as_bytes().to_vec());
            (value(own), value(path))
        };
        for (environment, found) in [
            (&b"A=1\0TURN_WORKER_TAG=x/w\0"[..], both(Some("x/w"), None)),
            (b"TURN_WORKER_TAG=x/w", both(Some("x/w"), None)),
            (
                b"TURN_WORKER_WORKSPACE=/w\0TURN_WORKER_TAG=x/w\0",
                both(Some("x/w"), Some("/w")),
            ),
            (
                b"A=TURN_WORKER_TAG=x\0XTURN_WORKER_TAG=x\0TURN_WORKER_TAGS=x",
                both(None, None),
            ),
            (b"", both(None, None)),
        ] {
            assert_eq!(variables_in(environment), found);
            // Also where it is torn: the process may be changing it.
            assert_eq!(variables_in(environment.chain(Broken)), found);
        }
    }

    struct Endless(u64);

    impl Read for Endless {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.0 += buffer.len() as u64;
            assert!(self.0 < 4 * MAX_ENVIRONMENT, "all of it would be read");
            buffer.fill(b'x');
            Ok(buffer.len())
        }
    }

    struct Broken;

    impl Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::Error::other("broken"))
        }
    }
}
