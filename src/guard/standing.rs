//! What a guard's process may use, which others of its user can change.

use rustix::process::{Resource, Rlimit, getpriority_process, getrlimit};
use rustix::thread::{CpuSet, sched_getaffinity};

/// Handed down to whatever the guard starts. An agent that runs as the
/// worker's user can change it from outside (`prlimit`, `renice`, `taskset`).
#[derive(Debug, PartialEq)]
pub(super) struct Standing {
    limits: [Rlimit; LIMITS.len()],
    /// Nothing where the system does not tell.
    nice: Option<i32>,
    processors: Option<CpuSet>,
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

impl Standing {
    pub fn now() -> Self {
        Self {
            limits: LIMITS.map(getrlimit),
            nice: getpriority_process(None).ok(),
            processors: sched_getaffinity(None).ok(),
        }
    }
}

#[cfg(test)]
mod tests {
    use rustix::process::setrlimit;

    use super::*;

    #[test]
    fn g8_a_change_of_any_limit_shows() {
        let before = Standing::now();
        assert_eq!(Standing::now(), before);
        // No test needs a core of this process.
        let core = getrlimit(Resource::Core);
        let current = if core.current == Some(0) {
            Some(1)
        } else {
            Some(0)
        };
        let changed = Rlimit { current, ..core };
        if setrlimit(Resource::Core, changed).is_ok() {
            assert_ne!(Standing::now(), before);
        }
    }
}
