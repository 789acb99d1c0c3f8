//! How many processes and threads this process and what it starts may have.

use std::path::Path;

use super::cgroup;

/// Processes and threads of a control group, as `pids.max` counts them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TaskCount {
    pub limit: u64,
    pub used: u64,
}

impl TaskCount {
    /// Of the fullest control group; `None` without a limit.
    pub(super) fn now() -> Option<Self> {
        Self::under(Path::new("/"))
    }

    fn under(root: &Path) -> Option<Self> {
        let groups = cgroup::groups(root, "pids").into_iter();
        let tasks = groups.filter_map(|group| {
            Some(Self {
                limit: group.number("pids.max")?,
                used: group.number("pids.current")?,
            })
        });
        tasks.min_by_key(|tasks| tasks.limit.saturating_sub(tasks.used))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn the_fullest_group_counts() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(TaskCount::under(root.path()), None);
        for (name, text) in [
            ("proc/self/cgroup", "8:pids:/a/b\n0::/\n"),
            ("sys/fs/cgroup/pids/a/b/pids.max", "max\n"),
            ("sys/fs/cgroup/pids/a/b/pids.current", "60\n"),
            ("sys/fs/cgroup/pids/a/pids.max", "100\n"),
            ("sys/fs/cgroup/pids/a/pids.current", "70\n"),
            ("sys/fs/cgroup/pids/pids.max", "1000\n"),
            ("sys/fs/cgroup/pids/pids.current", "500\n"),
        ] {
            let file = root.path().join(name);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, text).unwrap();
        }
        let fullest = TaskCount {
            limit: 100,
            used: 70,
        };
        assert_eq!(TaskCount::under(root.path()), Some(fullest));
    }
}
