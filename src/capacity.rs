//! What the host can still spare for processes that only save time.

mod cgroup;
pub(crate) mod memory;
mod tasks;
mod watchers;

use crate::fault;
use crate::guard::confine::{User, as_user};

use memory::Memory;
use tasks::TaskCount;
pub use watchers::{WATCHERS_PER_SERVER, max_watchers};

/// Below this share of it, memory is scarce: more servers would take it from agents' commands.
const SCARCE_MEMORY: u64 = 4;
/// Below this share of it, memory is short, and what waits must go.
const SHORT_MEMORY: u64 = 16;
/// Processes and threads are scarce when more than this share of them is in use.
const MOST_TASKS: u64 = 2;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Headroom {
    /// For more of them.
    Ample,
    /// For those that are expected, and no more.
    Scarce(ScarceResource),
    /// Memory is short: end servers that wait.
    Short,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ScarceResource {
    Memory,
    /// Processes and threads, by a control group's limit.
    Tasks,
    /// inotify instances of the agents' user, or this process's open files.
    Watchers,
}

impl Headroom {
    /// For processes of that user; `None` if they run as this process does. Takes a
    /// fraction of a millisecond.
    pub(crate) fn now(user: Option<&User>) -> Self {
        let memory = Memory::now();
        if memory.is_some_and(is_short) {
            return Self::Short;
        }
        if fault::process("capacity.tasks").is_err() {
            return Self::Scarce(ScarceResource::Tasks);
        }
        if fault::is_on("capacity.ample") {
            return Self::Ample;
        }
        if memory.is_some_and(is_scarce) {
            return Self::Scarce(ScarceResource::Memory);
        }
        if TaskCount::now().is_some_and(are_scarce) {
            return Self::Scarce(ScarceResource::Tasks);
        }
        let free = match user {
            None => watchers::are_free(),
            // The watchers are unknown if the look fails.
            Some(user) => as_user(user, watchers::are_free).unwrap_or(true),
        };
        match free {
            true => Self::Ample,
            false => Self::Scarce(ScarceResource::Watchers),
        }
    }
}

fn is_scarce(memory: Memory) -> bool {
    memory.available < memory.limit / SCARCE_MEMORY
}

fn is_short(memory: Memory) -> bool {
    memory.available < memory.limit / SHORT_MEMORY
}

fn are_scarce(tasks: TaskCount) -> bool {
    tasks.used > tasks.limit / MOST_TASKS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_scarce_below_a_quarter_and_short_below_a_sixteenth() {
        let memory = |available| Memory {
            limit: 1600,
            available,
        };
        assert!(is_scarce(memory(399)) && !is_scarce(memory(400)));
        assert!(is_short(memory(99)) && !is_short(memory(100)));
    }

    #[test]
    fn tasks_are_scarce_above_a_half() {
        let tasks = |used| TaskCount { limit: 100, used };
        assert!(are_scarce(tasks(51)) && !are_scarce(tasks(50)));
    }
}
