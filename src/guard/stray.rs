//! What works in a workspace without being of its turn: a job that a turn has
//! handed to a daemon (tmux, Gradle, Docker, cron) is the daemon's child. It can't
//! be distinguished from an operator's own process, so it is left alone, and logged.

use std::collections::HashSet;
use std::fs;
use std::path::Path;
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::unkillable::Identity;
use super::{Tag, Unkillable, proc};

/// A look costs some milliseconds: more of them would slow down many short turns.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Of those that were logged; then the set is cleared.
const MOST_KNOWN: usize = 1000;

#[derive(Default)]
struct Looked {
    last: Option<Instant>,
    logged: HashSet<Identity>,
}

static LOOKED: LazyLock<Mutex<Looked>> = LazyLock::new(Mutex::default);

/// At a turn's end: logs what has come to the workspace since the turn started, lives, and is
/// not of its turns. Not at each end, where ends are many.
pub fn log_strays(tag: &Tag, began: u64) {
    let mut looked = LOOKED.lock().unwrap_or_else(PoisonError::into_inner);
    if looked.last.is_some_and(|last| last.elapsed() < LOOK_EVERY) {
        return;
    }
    looked.last = Some(Instant::now());
    let mut found = find(tag, began);
    found.retain(|one| !looked.logged.contains(one));
    if found.is_empty() {
        return;
    }
    if looked.logged.len() + found.len() > MOST_KNOWN {
        looked.logged.clear();
    }
    looked.logged.extend(found.iter().copied());
    for process in Unkillable::of(&found).processes {
        tracing::warn!(
            %process,
            "a process came to the workspace during the turn, and is not of it: left alone, it may go on"
        );
    }
}

fn find(tag: &Tag, began: u64) -> Vec<Identity> {
    let Ok(all) = proc::all() else {
        return Vec::new();
    };
    let new = all.filter(|(_, stat)| stat.alive && stat.started >= began);
    let strays = new.filter(|&(pid, _)| works_in(pid, Path::new(&tag.path)) && !tag.is_of(pid));
    strays.map(|(pid, stat)| (pid, stat.started)).collect()
}

fn works_in(pid: i32, dir: &Path) -> bool {
    let cwd = proc::folder(pid).and_then(|folder| fs::read_link(folder.join("cwd")).ok());
    cwd.is_some_and(|cwd| cwd.starts_with(dir))
}
