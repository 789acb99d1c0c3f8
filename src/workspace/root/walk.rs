//! The way down from a folder, over one segment of an id after another.

use std::path::PathBuf;

use crate::workspace::dir::{Dir, Found};
use crate::workspace::error::DiskError;
use crate::workspace::{REJECTED, STATE};

/// Where a walk over segments ended.
pub(super) enum Walk {
    Dir(Dir),
    Missing,
    /// The path as far as walked, from where the walk started.
    Other {
        path: PathBuf,
        kind: &'static str,
    },
}

pub(super) fn walk(from: &Dir, segments: &[&str]) -> Result<Walk, DiskError> {
    steps(segments, |dir, name| dir.unwrap_or(from).dir(name))
}

pub(super) fn steps(
    segments: &[&str],
    mut step: impl FnMut(Option<&Dir>, &str) -> Result<Found, DiskError>,
) -> Result<Walk, DiskError> {
    let mut dir: Option<Dir> = None;
    for (depth, name) in segments.iter().enumerate() {
        match step(dir.as_ref(), name)? {
            Found::Dir(next) => dir = Some(next),
            Found::Missing => return Ok(Walk::Missing),
            Found::Other(kind) => {
                let path = segments[..=depth].iter().collect();
                return Ok(Walk::Other { path, kind });
            }
        }
    }
    Ok(dir.map_or(Walk::Missing, Walk::Dir))
}

/// A registered workspace in the folders below one of the state tree. Folders
/// that a registration left when it died don't hold a workspace.
pub(super) fn workspace_below(dir: &Dir) -> Result<Option<String>, DiskError> {
    for name in dir.names()? {
        if [STATE, REJECTED].contains(&name.as_str()) {
            continue;
        }
        if let Found::Dir(below) = dir.dir(&name)? {
            if matches!(below.dir(STATE)?, Found::Dir(_)) {
                return Ok(Some(name));
            }
            if let Some(deeper) = workspace_below(&below)? {
                return Ok(Some(format!("{name}/{deeper}")));
            }
        }
    }
    Ok(None)
}
