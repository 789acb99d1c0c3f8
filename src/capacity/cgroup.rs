//! The control groups that this process is in, of either version.

use std::fs;
use std::path::{Path, PathBuf};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CgroupVersion {
    V1,
    V2,
}

#[derive(Debug)]
pub(super) struct Cgroup {
    pub version: CgroupVersion,
    folder: PathBuf,
}

impl Cgroup {
    pub(super) fn text(&self, file: &str) -> Option<String> {
        fs::read_to_string(self.folder.join(file)).ok()
    }

    /// Returns `None` for `max`, which stands for no limit.
    pub(super) fn number(&self, file: &str) -> Option<u64> {
        self.text(file)?.trim().parse().ok()
    }
}

/// Those that a controller such as `memory` may limit this process by: its own and all above.
pub(super) fn groups(root: &Path, controller: &str) -> Vec<Cgroup> {
    let lines = fs::read_to_string(root.join("proc/self/cgroup")).unwrap_or_default();
    let groups = lines
        .lines()
        .flat_map(|line| of_line(root, line, controller));
    groups.collect()
}

/// By a line of `/proc/self/cgroup`: `number:controllers:path`.
fn of_line(root: &Path, line: &str, controller: &str) -> Vec<Cgroup> {
    let mut fields = line.splitn(3, ':').skip(1);
    let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else {
        return Vec::new();
    };
    let (version, base) = match controllers {
        "" => (CgroupVersion::V2, root.join("sys/fs/cgroup")),
        _ if controllers.split(',').any(|name| name == controller) => (
            CgroupVersion::V1,
            root.join("sys/fs/cgroup").join(controller),
        ),
        _ => return Vec::new(),
    };
    let group = base.join(path.trim_start_matches('/'));
    // In a container, what is mounted may be the group itself.
    let groups = group
        .ancestors()
        .take_while(|group| group.starts_with(&base));
    let group = |folder: &Path| Cgroup {
        version,
        folder: folder.to_owned(),
    };
    groups.map(group).collect()
}
