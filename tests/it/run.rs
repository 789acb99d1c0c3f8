//! `turn-worker run` with a codex that misbehaves in every way that the real
//! one was seen to, and some more.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod app_server;
mod endings;
mod output;
mod structured;
mod threads;
mod usage;
