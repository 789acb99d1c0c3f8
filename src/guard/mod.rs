//! A small process of its own for each turn: it owns the turn's process tree
//! and, with it, the workspace's lock.
//!
//! ```text
//! worker ── socket ──▶ guard (subreaper, holds the lock) ──▶ codex ──▶ its commands …
//! ```
//!
//! The guard is this binary, re-executed. When the turn is over, or the
//! worker's end of the socket closes (the worker is dead, however that came),
//! it kills every descendant and lets go of the lock last: so the lock lives
//! exactly as long as the tree. What can't be killed holds the workspace, but not its
//! turn: past a limit the guard reports it, and keeps the lock. On a shared file system
//! it also confirms the lock, and kills the tree when that fails. An inherited descriptor alone would not do:
//! codex closes what it inherits before it runs commands. Then the guard
//! waits for the next turn.

mod child;
pub(crate) mod child_pids;
pub mod confine;
mod confirm;
mod disk;
mod exit;
mod handle;
mod held_workspaces;
mod helpers;
mod pool;
pub mod proc;
mod process_limits;
mod protocol;
mod receive;
mod send;
mod stray;
pub mod tag;
pub(crate) mod tree;
mod unkillable;
mod warm;

pub use child::main as guard_main;
pub use exit::Exit;
pub use handle::{Closed, FileArg, Guard, GuardSpec, Pipes, SpawnError};
pub use held_workspaces::HeldWorkspaces;
pub use helpers::Unrest;
pub use pool::{Guards, drop_elsewhere};
pub use protocol::Leave;
pub use stray::log_strays;
pub use tag::Tag;
pub use unkillable::{Unkillable, UnkillableProcess, place};

/// Makes this process ready to have guards: what a killed guard leaves falls
/// to it, and no agent can read its environment in `/proc`.
pub fn prepare_worker() -> std::io::Result<()> {
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
    hide()
}

/// Closes this process's environment, memory and descriptors in `/proc` to
/// all but root, and lets it leave no core.
pub fn hide() -> std::io::Result<()> {
    use rustix::process::{DumpableBehavior, set_dumpable_behavior};
    Ok(set_dumpable_behavior(DumpableBehavior::NotDumpable)?)
}

/// The first argument that makes this binary a guard instead of a worker.
pub const GUARD_ARG: &str = "__guard";
