//! Which file a path leads to, and whether it has been written to since.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Another file at that path, or one that was written to since, has another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FileIdentity {
    path: PathBuf,
    inode: (u64, u64),
    size: u64,
    written: (i64, i64),
}

impl FileIdentity {
    /// `None` if there is no file, or it may not be looked at.
    pub(crate) fn of(path: &Path) -> Option<Self> {
        let meta = path.metadata().ok()?;
        Some(Self {
            path: path.to_owned(),
            inode: (meta.dev(), meta.ino()),
            size: meta.size(),
            written: (meta.mtime(), meta.mtime_nsec()),
        })
    }
}
