//! Forgetting the oldest turns, a segment at a time.
//!
//! 1. The claims and cancel marks of the turns in `journal.old` are removed
//!    and the folder synced. Dead in between, the next opening does it again.
//! 2. `journal` takes the place of `journal.old`, with its records dropped.
//! 3. A new `journal` is created.
//!
//! So no claim outlives its records for good, and no record that is still to
//! be remembered is ever without its claim.

use std::collections::HashSet;
use std::fs::File;
use std::path::Path;

use rustix::fs::OFlags;
use serde::Deserialize;

use super::locked::LockedJournal;
use super::read::{self, Extent, scan};
use super::{JOURNAL, OLD};
use crate::workspace::claims::Claims;
use crate::workspace::dir::Found;
use crate::workspace::error::StateError;
use crate::workspace::{CLAIMS, line};

#[derive(Deserialize)]
struct Turn {
    turn_id: Option<String>,
}

/// The first step.
pub(super) fn forget_old(journal: &LockedJournal) -> Result<(), StateError> {
    let state = journal.state();
    let Some(old) = state.file(OLD, OFlags::RDONLY)? else {
        return Ok(());
    };
    let claims = match state.dir(CLAIMS)? {
        Found::Dir(dir) => Claims::new(dir),
        Found::Missing => return Ok(()),
        Found::Other(kind) => return Err(state.not_a_directory(CLAIMS, kind).into()),
    };
    let old_path = state.path().join(OLD);
    let (file, len) = journal.file();
    let kept = turns(file, len, &state.path().join(JOURNAL))?;
    for turn in turns(&old, read::len(&old, &old_path)?, &old_path)? {
        if !kept.contains(&turn) {
            claims.forget(&turn)?;
        }
    }
    claims.dir.sync()?;
    state.sweep()?;
    Ok(())
}

fn turns(file: &File, len: u64, path: &Path) -> Result<HashSet<String>, StateError> {
    let mut turns = HashSet::new();
    scan(file, path, 0, Extent::Known(len), |json| {
        turns.extend(line::parse::<Turn>(json)?.turn_id);
        Ok(())
    })?;
    Ok(turns)
}
