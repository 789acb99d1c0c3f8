//! The requests of turns that failed, for an operator who sends one again.

use super::dir::{Dir, Found, PRIVATE_FILE};
use super::error::{DiskError, StateError};
use super::{Workspace, id};

pub(super) const FAILED: &str = "failed";
const SUFFIX: &str = ".json";
/// Of one request; the largest that a worker accepts has 8 MiB.
const MAX_BYTES: u64 = 16 << 20;

impl Workspace {
    /// Keeps the request of a turn that has failed, durably, and of all those the
    /// newest `keep`.
    pub fn keep_failed(&self, turn_id: &str, body: &[u8], keep: usize) -> Result<(), StateError> {
        let name = format!("{}{SUFFIX}", id::turn_id(turn_id)?);
        if keep == 0 {
            return Ok(());
        }
        let folder = self.state.make_own_dir(FAILED)?;
        folder.write_atomic(&name, body, PRIVATE_FILE)?;
        Ok(forget_all_but(&folder, keep)?)
    }
}

/// The request of that turn, if it is kept.
pub(super) fn find(state: &Dir, turn_id: &str) -> Result<Option<Vec<u8>>, DiskError> {
    match state.dir(FAILED)? {
        Found::Dir(folder) => folder.read(&format!("{turn_id}{SUFFIX}"), MAX_BYTES),
        Found::Missing | Found::Other(_) => Ok(None),
    }
}

fn forget_all_but(folder: &Dir, keep: usize) -> Result<(), DiskError> {
    let mut names = folder.names()?;
    names.retain(|name| name.ends_with(SUFFIX));
    if names.len() <= keep {
        return Ok(());
    }
    let mut kept = Vec::new();
    for name in names {
        if let Some(stat) = folder.stat(&name)? {
            kept.push((stat.st_mtime, stat.st_mtime_nsec, name));
        }
    }
    kept.sort_unstable();
    let too_many = kept.len().saturating_sub(keep);
    for (_, _, name) in kept.into_iter().take(too_many) {
        folder.remove(&name)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workspace::testing::workspace;

    #[test]
    fn g10_the_newest_failed_requests_are_kept() {
        let (_tmp, workspace) = workspace();
        workspace.keep_failed("none", b"{}", 0).unwrap();
        for n in 0..5 {
            let body = format!("{{\"n\":{n}}}");
            workspace
                .keep_failed(&format!("t{n}"), body.as_bytes(), 3)
                .unwrap();
        }
        // The same again takes no more.
        workspace.keep_failed("t4", b"{}", 3).unwrap();
        let state = &workspace.state;
        let kept = |id: &str| find(state, id).unwrap();
        assert_eq!((kept("none"), kept("t4")), (None, Some(b"{}".to_vec())));
        let count = (0..5).filter(|n| kept(&format!("t{n}")).is_some()).count();
        assert_eq!(count, 3);
    }
}
