//! How much memory this process and what it starts may use: the machine's, or
//! that of the tightest cgroup that it is in.

use std::fs;
use std::path::Path;

use super::cgroup::{self, Cgroup, CgroupVersion};

/// In bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Memory {
    pub limit: u64,
    /// What can be allocated before anything has to be swapped or killed.
    pub available: u64,
}

impl Memory {
    /// Returns `None` if the system does not report it.
    pub(crate) fn now() -> Option<Self> {
        Self::under(Path::new("/"))
    }

    fn under(root: &Path) -> Option<Self> {
        let machine = machine(&fs::read_to_string(root.join("proc/meminfo")).ok()?)?;
        let limits = cgroup::groups(root, "memory").into_iter().filter_map(limit);
        Some(limits.fold(machine, |one, other| Self {
            limit: one.limit.min(other.limit),
            available: one.available.min(other.available),
        }))
    }
}

fn machine(meminfo: &str) -> Option<Memory> {
    let kib = |name: &str| field(meminfo, name).map(|kib| kib * 1024);
    Some(Memory {
        limit: kib("MemTotal:")?,
        available: kib("MemAvailable:")?,
    })
}

/// The number behind a name at the beginning of a line.
fn field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

/// Returns `None` for a group without a limit.
fn limit(group: Cgroup) -> Option<Memory> {
    let (max, current, inactive) = match group.version {
        CgroupVersion::V2 => ("memory.max", "memory.current", "inactive_file "),
        CgroupVersion::V1 => (
            "memory.limit_in_bytes",
            "memory.usage_in_bytes",
            "total_inactive_file ",
        ),
    };
    // In older kernels "no limit" is a huge number.
    let limit = group.number(max)?;
    let stat = group.text("memory.stat").unwrap_or_default();
    let used = group.number(current)?;
    let used = used.saturating_sub(field(&stat, inactive).unwrap_or(0));
    let available = limit.saturating_sub(used);
    Some(Memory { limit, available })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(root: &Path, files: &[(&str, &str)]) {
        for (name, text) in files {
            let file = root.join(name);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, text).unwrap();
        }
    }

    #[test]
    fn the_tightest_limit_counts() {
        const MEMINFO: (&str, &str) = (
            "proc/meminfo",
            "MemTotal:       4000 kB\nMemFree:         100 kB\nMemAvailable:   3000 kB\n",
        );
        let machine = Memory {
            limit: 4000 << 10,
            available: 3000 << 10,
        };
        let v2 = [
            ("proc/self/cgroup", "0::/a/b\n"),
            ("sys/fs/cgroup/a/b/memory.max", "max\n"),
            ("sys/fs/cgroup/a/b/memory.current", "700\n"),
            ("sys/fs/cgroup/a/memory.max", "1000\n"),
            ("sys/fs/cgroup/a/memory.current", "700\n"),
            ("sys/fs/cgroup/a/memory.stat", "anon 1\ninactive_file 200\n"),
        ];
        let v1 = [
            ("proc/self/cgroup", "4:memory:/x\n1:cpu:/\n0::/\n"),
            (
                "sys/fs/cgroup/memory/memory.limit_in_bytes",
                "9223372036854771712\n",
            ),
            ("sys/fs/cgroup/memory/memory.usage_in_bytes", "5\n"),
            ("sys/fs/cgroup/memory/x/memory.limit_in_bytes", "2000\n"),
            ("sys/fs/cgroup/memory/x/memory.usage_in_bytes", "1500\n"),
            (
                "sys/fs/cgroup/memory/x/memory.stat",
                "inactive_file 1\ntotal_inactive_file 100\n",
            ),
        ];
        for (files, found) in [
            (&[][..], machine),
            (
                &v2,
                Memory {
                    limit: 1000,
                    available: 500,
                },
            ),
            (
                &v1,
                Memory {
                    limit: 2000,
                    available: 600,
                },
            ),
        ] {
            let root = tempfile::tempdir().unwrap();
            write(root.path(), &[MEMINFO]);
            write(root.path(), files);
            assert_eq!(Memory::under(root.path()), Some(found));
        }
    }

    #[test]
    fn this_machine_has_some() {
        let memory = Memory::now().unwrap();
        assert!(memory.available <= memory.limit && memory.limit > 64 << 20);
    }
}
