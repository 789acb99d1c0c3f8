//! The commands as a person or a script calls them, beside a pool that does
//! the work.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "cli/call.rs"]
pub mod call;
#[path = "cli/check.rs"]
mod check;
#[path = "cli/contract.rs"]
mod contract;
#[path = "cli/dead.rs"]
mod dead;
#[path = "cli/interruptions.rs"]
mod interruptions;
#[path = "cli/interrupts.rs"]
mod interrupts;
#[path = "cli/operator_commands.rs"]
mod operator_commands;
#[path = "cli/status.rs"]
mod status;
#[path = "cli/submit.rs"]
pub mod submit;
mod tail;
#[path = "cli/terminal.rs"]
mod terminal;
