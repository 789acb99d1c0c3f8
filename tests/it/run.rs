//! `turn-worker run` with a codex that misbehaves in every way that the real
//! one was seen to, and some more.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "run/endings.rs"]
mod endings;
#[path = "run/output.rs"]
mod output;
#[path = "run/threads.rs"]
mod threads;
#[path = "run/usage.rs"]
mod usage;
