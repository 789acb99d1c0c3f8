//! The sequencer: keeps each workspace's turns in order, and offers only the
//! first of each to the workers. It runs no turns.
//!
//! ```text
//! codex.turns ─▶ intake (pure) ─▶ session ─▶ queue (pure) ─▶ actions ─┬▶ offers   ─▶ codex.turns.work
//! codex.status ──────────────────▶   ▲                                ├▶ verdicts ─▶ claims, events
//! codex.control ─────────────────▶   └──────── answers ◀──────────────┘  acks
//! ```

pub(crate) mod queue;

mod actions;
mod arrival;
mod backlog_report;
mod complaints;
mod describe;
mod homes_log;
mod intake;
mod lanes;
mod message;
mod peers;
mod rejection;
mod remote_records;
mod removal;
mod reply;
mod restarts;
mod session;
mod stuck_log;
mod undeliverable;
mod verdict;
mod watchdog;

pub(crate) use actions::AT_ONCE;
pub use actions::{Actor, Records};
pub use peers::foreign_consumer;
pub use session::Sequencer;
