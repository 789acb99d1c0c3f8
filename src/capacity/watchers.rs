//! Whether the user may still have inotify instances.
//!
//! The system counts them by user, 128 by default, for all processes of the host together, and does not
//! report how many there are. Each codex app-server takes two (0.171.0). It works without them; agents' tools
//! that watch files fail.

use std::fs;

use rustix::fs::inotify::{CreateFlags, init};

/// How many a codex app-server takes.
pub const WATCHERS_PER_SERVER: usize = 2;

/// How many are tried at most.
const MOST: usize = 64;

/// How many a user may have; `None` if the system does not report it.
pub fn max_watchers() -> Option<usize> {
    let limit = fs::read_to_string("/proc/sys/fs/inotify/max_user_instances").ok()?;
    limit.trim().parse().ok()
}

/// Whether a quarter of what a user may have is free, by taking it for a moment.
pub(super) fn are_free() -> bool {
    max_watchers().is_none_or(|limit| has((limit / 4).min(MOST)))
}

fn has(count: usize) -> bool {
    // It also fails where the process may open no more files.
    let instances: Result<Vec<_>, _> = (0..count).map(|_| init(CreateFlags::CLOEXEC)).collect();
    instances.is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_are_free_than_the_system_allows() {
        assert!(has(0));
        let limit = fs::read_to_string("/proc/sys/user/max_inotify_instances").unwrap();
        let limit: usize = limit.trim().parse().unwrap();
        // Not to take more descriptors than this process may have.
        if limit < 1000 {
            assert!(!has(limit + 1));
        }
    }
}
