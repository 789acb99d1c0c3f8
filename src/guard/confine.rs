//! What a process gives up on its way to becoming codex: the worker's user,
//! privileges and keys, core dumps, more processes and open files than it may have.

use std::os::fd::OwnedFd;
use std::{fmt, io, ptr, thread};

use nix::libc::{SYS_keyctl, c_int, syscall};
use rustix::io::Errno;
use rustix::process::{
    Gid, Pid, Resource, Rlimit, Signal, Uid, fchdir, getegid, geteuid, getppid,
    set_parent_process_death_signal, setrlimit,
};
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, set_capabilities, set_no_new_privs,
    set_thread_groups, set_thread_res_gid, set_thread_res_uid,
};
use serde::{Deserialize, Serialize};

use super::tag;

/// A user that is not the worker's own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    pub uid: u32,
    pub gid: u32,
    /// The other groups; those of the worker are dropped.
    pub groups: Vec<u32>,
}

impl fmt::Display for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "uid {}, gid {}", self.uid, self.gid)
    }
}

/// What the system lets codex and its commands have; `None`: what it lets
/// the worker have. They leave no core, which would hold their environment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Of the user, in all turns together. Not held against root.
    pub processes: Option<u64>,
    /// Of each process.
    pub open_files: Option<u64>,
}

/// What could not be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Step {
    Limits,
    Keyring,
    Groups,
    Group,
    User,
    Capabilities,
    StayOut,
    NoNewPrivileges,
    DeathSignal,
    Directory,
}

const WORDS: [&str; 10] = [
    "set its limits",
    "give up the worker's keys",
    "take on its groups",
    "take on its group",
    "take on its user",
    "give up capabilities",
    "give up the worker's user for good",
    "forbid new privileges",
    "tie it to its guard",
    "enter the workspace's directory",
];

/// What a [`Step`] would have done.
pub(super) fn in_words(step: u8) -> &'static str {
    WORDS.get(usize::from(step)).copied().unwrap_or("start it")
}

type Entered = Result<(), (Step, Errno)>;

trait At<T> {
    fn at(self, step: Step) -> Result<T, (Step, Errno)>;
}

impl<T> At<T> for rustix::io::Result<T> {
    fn at(self, step: Step) -> Result<T, (Step, Errno)> {
        self.map_err(|errno| (step, errno))
    }
}

/// Between fork and exec: no allocation in here.
pub(super) struct Confinement {
    pub user: Option<Switch>,
    pub limits: Limits,
    pub mark: Option<u64>,
    /// Open, since its path may lead elsewhere by now.
    pub dir: OwnedFd,
    pub guard: Pid,
}

impl Confinement {
    pub(super) fn enter(&self) -> Entered {
        // First, as raising a limit takes a privilege.
        self.limits.set().at(Step::Limits)?;
        if let Some(mark) = self.mark {
            tag::take_mark(mark);
        }
        if let Some(user) = &self.user {
            leave_keyring().at(Step::Keyring)?;
            user.become_for_good()?;
            set_no_new_privs(true).at(Step::NoNewPrivileges)?;
        }
        // A change of user clears it.
        set_parent_process_death_signal(Some(Signal::KILL)).at(Step::DeathSignal)?;
        // The guard may have died before the call above took effect.
        if getppid() != Some(self.guard) {
            return Err((Step::DeathSignal, Errno::SRCH));
        }
        // Only now: a user without access to the directory must not get in.
        fchdir(&self.dir).at(Step::Directory)
    }
}

/// Into an empty session keyring. The worker's would be inherited across the change
/// of user, and with it the use of all keys that are in there.
fn leave_keyring() -> rustix::io::Result<()> {
    const JOIN_SESSION_KEYRING: c_int = 1;
    #[expect(unsafe_code, reason = "no library of ours has this call")]
    // SAFETY: it names no keyring, so the system reads no memory of ours.
    let joined = unsafe { syscall(SYS_keyctl, JOIN_SESSION_KEYRING, ptr::null::<u8>()) };
    if joined != -1 {
        return Ok(());
    }
    match Errno::from_raw_os_error(nix::errno::Errno::last_raw()) {
        // If a container, or the system, has no keyring to use, neither has the agent.
        Errno::NOSYS | Errno::PERM | Errno::ACCESS => Ok(()),
        errno => Err(errno),
    }
}

impl Limits {
    fn set(self) -> rustix::io::Result<()> {
        let both = |limit| Rlimit {
            current: Some(limit),
            maximum: Some(limit),
        };
        setrlimit(Resource::Core, both(0))?;
        if let Some(processes) = self.processes {
            setrlimit(Resource::Nproc, both(processes))?;
        }
        if let Some(files) = self.open_files {
            setrlimit(Resource::Nofile, both(files))?;
        }
        Ok(())
    }
}

/// A [`User`] as the system takes it.
pub(super) struct Switch {
    uid: Uid,
    gid: Gid,
    groups: Vec<Gid>,
}

impl From<&User> for Switch {
    fn from(user: &User) -> Self {
        Self {
            uid: Uid::from_raw(user.uid),
            gid: Gid::from_raw(user.gid),
            groups: user.groups.iter().copied().map(Gid::from_raw).collect(),
        }
    }
}

impl Switch {
    /// Makes the calling thread this user, with no way back.
    fn become_for_good(&self) -> Entered {
        let (uid, gid, before) = (self.uid, self.gid, (geteuid(), getegid()));
        set_thread_groups(&self.groups).at(Step::Groups)?;
        set_thread_res_gid(gid, gid, gid).at(Step::Group)?;
        set_thread_res_uid(uid, uid, uid).at(Step::User)?;
        // The system drops them only where root becomes another user.
        set_capabilities(None, NO_CAPABILITIES).at(Step::Capabilities)?;
        let stuck = set_thread_res_uid(None, before.0, None).is_err()
            && (gid == before.1 || set_thread_res_gid(None, before.1, None).is_err())
            && capabilities(None).at(Step::StayOut)? == NO_CAPABILITIES;
        if stuck {
            Ok(())
        } else {
            Err((Step::StayOut, Errno::PERM))
        }
    }
}

const NO_CAPABILITIES: CapabilitySets = CapabilitySets {
    effective: CapabilitySet::empty(),
    permitted: CapabilitySet::empty(),
    inheritable: CapabilitySet::empty(),
};

/// Does `look` as the user, in a thread of its own: users are a thread's.
pub fn as_user<T: Send>(user: &User, look: impl FnOnce() -> T + Send) -> io::Result<T> {
    let switch = Switch::from(user);
    let looked = thread::scope(|scope| {
        let thread = scope.spawn(move || match switch.become_for_good() {
            Ok(()) => Ok(look()),
            Err((step, errno)) => Err(io::Error::other(format!(
                "can't {}: {errno}",
                in_words(step as u8)
            ))),
        });
        thread
            .join()
            .unwrap_or_else(|_| Err(io::Error::other("the look as another user panicked")))
    });
    // A change of user resets it, to what a setting of the system's says.
    super::hide()?;
    looked
}
