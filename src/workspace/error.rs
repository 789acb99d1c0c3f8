use std::io;
use std::path::{Path, PathBuf};

use super::line::{Unreadable, VERSION};

/// The file system did not do as requested: no decision rests on
/// it, so the turn has not started and can be retried later.
#[derive(Debug, thiserror::Error)]
#[error("cannot {doing} {}", path.display())]
pub struct DiskError {
    pub doing: &'static str,
    pub path: PathBuf,
    #[source]
    pub source: io::Error,
}

impl DiskError {
    pub(super) fn new(doing: &'static str, path: &Path, source: impl Into<io::Error>) -> Self {
        Self {
            doing,
            path: path.to_owned(),
            source: source.into(),
        }
    }

    /// Among our own folders, where no request can have put it: the operator
    /// has to look.
    pub(super) fn not_a_directory(path: &Path, kind: &'static str) -> Self {
        let found = io::Error::new(
            io::ErrorKind::NotADirectory,
            format!("it is {kind}, not a directory"),
        );
        Self::new("open directory", path, found)
    }
}

/// Why no workspace came of an id.
#[derive(Debug, thiserror::Error)]
pub enum WorkspaceError {
    /// The request's fault, for good: `workspace.rejected`.
    #[error("workspace `{workspace}` {why}")]
    Rejected { workspace: String, why: Rejection },
    #[error(transparent)]
    Io(#[from] DiskError),
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    #[error(
        "is not 1 to 4 segments of `[A-Za-z0-9][A-Za-z0-9._-]{{0,63}}` joined by `/`: \
         found segment `{segment}`"
    )]
    Segment { segment: String },
    #[error("has {found} segments, expected 1 to 4")]
    Depth { found: usize },
    #[error("lies inside workspace `{other}`")]
    Inside { other: String },
    #[error("would hold workspace `{other}`")]
    Holds { other: String },
    #[error("is workspace `{other}` in another spelling: this file system takes them for one")]
    Spelling { other: String },
    #[error("lies in {}, expected a directory that is no workspace root: another pool keeps its workspaces there", path.display())]
    OtherRoot { path: PathBuf },
    #[error("leads over {}, which is {found}, not a directory", path.display())]
    NotADirectory { path: PathBuf, found: &'static str },
    #[error(
        "would have its CODEX_HOME behind {}, which is {found}: only the worker's user may be able to change it",
        path.display()
    )]
    WayToHome { path: PathBuf, found: &'static str },
}

/// Why a workspace's records can't be read or written. Each of them stops the
/// turn: it is not run on what the records may or may not say.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    #[error(transparent)]
    Disk(#[from] DiskError),
    #[error(
        "turn id `{found}` is not 1 to 128 of `[A-Za-z0-9._-]`, so no record can be named after it"
    )]
    TurnId { found: String },
    #[error("{} is damaged at byte {offset}: {why}", path.display())]
    Damaged {
        path: PathBuf,
        offset: u64,
        why: String,
    },
    /// Written by a newer worker, which may mean things that this one doesn't know.
    #[error("{} holds a record of version {found} at byte {offset}, known is {known}", path.display())]
    NewerVersion {
        path: PathBuf,
        offset: u64,
        found: u64,
        known: u64,
    },
    /// Someone else wrote to the journal since: this attempt is not the newest.
    #[error(
        "{} is not as this attempt left it ({expected} bytes, now {found}): another attempt wrote",
        path.display()
    )]
    NotNewest {
        path: PathBuf,
        expected: u64,
        found: String,
    },
    /// The pool has seen a journal that reaches further.
    #[error(
        "{} is older than the pool has seen it (found {found}, expected at least {expected} bytes of segment {segment}): \
         the file system shows old contents, or the journal was restored or removed \
         (then delete the file `journal-id` beside it to go on without what is missing)",
        path.display()
    )]
    OldRead {
        path: PathBuf,
        found: String,
        segment: u64,
        expected: u64,
    },
    /// The checkpoint vouches for more than the journal holds.
    #[error(
        "{} has {found} bytes, but {expected} were recorded: records are lost \
         (restore it, or delete the file `checkpoint` beside it to go on without them)",
        path.display()
    )]
    Shortened {
        path: PathBuf,
        found: u64,
        expected: u64,
    },
}

impl StateError {
    pub(super) fn unreadable(path: &Path, offset: u64, why: Unreadable) -> Self {
        let path = path.to_owned();
        let damaged = |path, why| Self::Damaged { path, offset, why };
        match why {
            Unreadable::Checksum => damaged(path, "its checksum does not fit".into()),
            Unreadable::Meaning(why) => damaged(path, why),
            Unreadable::Newer(found) => Self::NewerVersion {
                path,
                offset,
                found,
                known: VERSION,
            },
        }
    }
}
