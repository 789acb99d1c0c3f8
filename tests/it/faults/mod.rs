//! The guarantees under faults, on pools of real processes and a real broker.
//! Each test names in its comment what in the code it guards.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod closed;
mod deleted;
mod frozen;
mod half_open;
mod takeover;
mod timeout;
