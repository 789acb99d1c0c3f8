//! The processes that this one has started itself and not yet reaped. What
//! is below this process but not below one of them is an orphan of a guard that
//! was killed.

use std::collections::HashSet;
use std::io;
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

use tokio::process::{Child, Command};

use crate::fault;

static PIDS: LazyLock<Mutex<HashSet<i32>>> = LazyLock::new(Mutex::default);

/// Says that a process is no orphan; to be dropped when it has been reaped.
#[derive(Debug)]
pub(crate) struct ChildPid(Option<i32>);

/// Every process that runs besides guards must be started by this.
pub(crate) fn start(command: &mut Command) -> io::Result<(Child, ChildPid)> {
    // Held meanwhile, so that every live one is known.
    let mut pids = lock();
    fault::process("process.start")?;
    let child = command.spawn()?;
    let pid = child.id().map(u32::cast_signed);
    pids.extend(pid);
    Ok((child, ChildPid(pid)))
}

pub(super) fn pids() -> HashSet<i32> {
    lock().clone()
}

fn lock() -> MutexGuard<'static, HashSet<i32>> {
    PIDS.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Drop for ChildPid {
    fn drop(&mut self) {
        if let Some(pid) = self.0 {
            lock().remove(&pid);
        }
    }
}
