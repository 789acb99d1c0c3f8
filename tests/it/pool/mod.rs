//! The guarantees, on pools of real processes and a real broker, with the
//! stand-in for codex. Each test names in its comment the line of code without
//! which it fails.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod affinity;
mod agreement;
mod broken_broker;
mod busy;
mod cancels;
mod crashes;
mod describe;
mod event_log;
mod events;
mod expiry;
mod hanging_disk;
mod homes;
mod images;
mod limits;
mod monitoring;
mod neighbours;
mod old_reads;
mod once;
mod order;
pub mod poison;
mod rejections;
mod replies;
mod shared_ids;
mod shutdown;
mod threads;
mod traces;
mod unkillable;
mod warm;
