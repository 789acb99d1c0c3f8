//! What a guard's process may use, which others of its user can change.

use std::{fs, mem, ptr};

use nix::libc::{self, SYS_ioprio_get, SYS_sched_getattr, c_int, rlimit, syscall};
use rustix::process::{Pid, Resource, Signal, getpid, kill_process};
use rustix::thread::{CpuSet, sched_getaffinity};

/// Inherited by all that the guard starts. An agent that runs as the
/// worker's user can change it from outside (`prlimit`, `renice`, `chrt`,
/// `ionice`, `taskset`), and one that is root can do all of it and more. What
/// the system does not report is `None`.
#[derive(Debug, PartialEq)]
pub(super) struct ProcessLimits {
    limits: [Option<[u64; 2]>; LIMITS.len()],
    scheduling: Option<[u32; SCHEDULING]>,
    io_priority: i64,
    processors: Option<CpuSet>,
    oom_score: Option<Vec<u8>>,
    cgroup: Option<Vec<u8>>,
}

const LIMITS: [Resource; 16] = [
    Resource::Cpu,
    Resource::Fsize,
    Resource::Data,
    Resource::Stack,
    Resource::Core,
    Resource::Rss,
    Resource::Nproc,
    Resource::Nofile,
    Resource::Memlock,
    Resource::As,
    Resource::Locks,
    Resource::Sigpending,
    Resource::Msgqueue,
    Resource::Nice,
    Resource::Rtprio,
    Resource::Rttime,
];

/// As many words has the system's `struct sched_attr`: the policy, the nice
/// value and all else that a scheduler goes by.
const SCHEDULING: usize = 14;

impl ProcessLimits {
    pub(super) fn now() -> Self {
        Self::of(getpid())
    }

    pub(super) fn of(process: Pid) -> Self {
        let read = |name: &str| fs::read(format!("/proc/{}/{name}", process.as_raw_pid())).ok();
        Self {
            limits: LIMITS.map(|limit| limit_of(process, limit)),
            scheduling: scheduling_of(process),
            io_priority: io_priority_of(process),
            processors: sched_getaffinity(Some(process)).ok(),
            oom_score: read("oom_score_adj"),
            cgroup: read("cgroup"),
        }
    }
}

/// Whether a child of this process that waits can be used as if it had just
/// been started: with what this process has. A stopped one is continued.
pub(super) fn is_as_new(child: Pid) -> bool {
    kill_process(child, Signal::CONT).is_ok() && ProcessLimits::of(child) == ProcessLimits::now()
}

fn limit_of(process: Pid, limit: Resource) -> Option<[u64; 2]> {
    let mut found = rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    #[expect(unsafe_code, reason = "rustix only sets another process's limits")]
    // SAFETY: no value is set, and the system writes no more than `found`.
    let failed = unsafe {
        libc::prlimit(
            process.as_raw_pid(),
            limit as u32 as _,
            ptr::null(),
            &raw mut found,
        )
    };
    (failed == 0).then_some([found.rlim_cur, found.rlim_max])
}

fn scheduling_of(process: Pid) -> Option<[u32; SCHEDULING]> {
    let mut found = [0; SCHEDULING];
    #[expect(unsafe_code, reason = "no library of ours has this call")]
    // SAFETY: the system writes no more than the given size.
    let failed = unsafe {
        syscall(
            SYS_sched_getattr,
            process.as_raw_pid(),
            found.as_mut_ptr(),
            mem::size_of_val(&found),
            0,
        )
    };
    (failed == 0).then_some(found)
}

fn io_priority_of(process: Pid) -> i64 {
    const OF_A_PROCESS: c_int = 1;
    #[expect(unsafe_code, reason = "no library of ours has this call")]
    // SAFETY: it gets only numbers.
    unsafe {
        syscall(SYS_ioprio_get, OF_A_PROCESS, process.as_raw_pid())
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command};

    use rustix::process::{Rlimit, prlimit};

    use super::*;

    #[test]
    fn g8_a_change_of_any_limit_shows() {
        let child = Waiting::start();
        for limit in LIMITS {
            let before = ProcessLimits::of(child.pid());
            let one = Rlimit {
                current: Some(1),
                maximum: Some(1),
            };
            match prlimit(Some(child.pid()), limit, one) {
                Ok(_) => assert_ne!(ProcessLimits::of(child.pid()), before, "{limit:?}"),
                // Some start at zero, and only root may raise them.
                Err(why) => eprintln!("not looked at: {limit:?}: {why}"),
            }
        }
    }

    /// A look that did not take in what the system reports would show no change.
    #[test]
    fn a_process_is_as_its_children_are() {
        let child = Waiting::start();
        let now = ProcessLimits::now();
        assert!(now.limits.iter().all(Option::is_some));
        assert!(now.scheduling.is_some() && now.processors.is_some());
        assert!(now.oom_score.is_some() && now.cgroup.is_some());
        assert_eq!(now, ProcessLimits::of(child.pid()));
    }

    struct Waiting(Child);

    impl Waiting {
        fn start() -> Self {
            Self(Command::new("sleep").arg("1000").spawn().unwrap())
        }

        fn pid(&self) -> Pid {
            Pid::from_child(&self.0)
        }
    }

    impl Drop for Waiting {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    /// By the programs that an agent would use.
    #[test]
    fn g8_what_an_agent_can_change_from_outside_shows() {
        let unchanged = Waiting::start();
        // By thread, and this test's may not be like the first one.
        let before = ProcessLimits::of(unchanged.pid());
        for change in [
            "prlimit --pid $1 --cpu=1000",
            "renice -n $(( $(nice) == 19 ? 18 : 19 )) -p $1",
            "chrt --idle -p 0 $1",
            "ionice -c 3 -p $1",
            "taskset -p -c $(taskset -cp $$ | grep -o '[0-9]*$') $1",
            "echo 777 > /proc/$1/oom_score_adj",
        ] {
            let child = Waiting::start();
            assert_eq!(ProcessLimits::of(child.pid()), before, "{change}");
            let pid = child.0.id().to_string();
            let changed = Command::new("sh").args(["-c", change, "sh", &pid]).output();
            let changed = changed.unwrap();
            if changed.status.success() && !(change.starts_with("taskset") && one_processor()) {
                assert_ne!(ProcessLimits::of(child.pid()), before, "{change}");
            } else {
                eprintln!("not looked at: {change}: {changed:?}");
            }
        }
    }

    fn one_processor() -> bool {
        std::thread::available_parallelism().is_ok_and(|count| count.get() == 1)
    }
}
