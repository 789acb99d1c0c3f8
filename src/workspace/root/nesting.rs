//! Roots that lie inside each other, which must not be.

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType};
use rustix::io::Errno;

use super::{OURS, WORKSPACES};

/// Whether the directory is the workspace root of any pool. Another user's
/// records cannot be read, but count.
pub(super) fn is_root(at: impl AsFd, path: &Path) -> bool {
    let kind = |path: &Path| -> rustix::io::Result<FileType> {
        let stat = rustix::fs::statat(&at, path, AtFlags::SYMLINK_NOFOLLOW)?;
        Ok(FileType::from_raw_mode(stat.st_mode))
    };
    let ours = path.join(OURS);
    kind(&ours) == Ok(FileType::Directory)
        && matches!(
            kind(&ours.join(WORKSPACES)),
            Ok(FileType::Directory) | Err(Errno::ACCESS)
        )
}

/// The root in which `path` lies, or would lie.
pub(super) fn root_around(path: &Path) -> Option<PathBuf> {
    let path = std::path::absolute(path).ok()?;
    // Only what is there can be a symbolic link.
    let there = path
        .ancestors()
        .find_map(|above| above.canonicalize().ok())?;
    let itself = path.canonicalize().is_ok();
    let mut around = there.ancestors().skip(itself.into());
    let found = around.find(|above| is_root(CWD, above))?;
    Some(found.to_owned())
}
