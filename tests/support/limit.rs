//! Timeouts. They end a hang; no correct run reaches them, on any machine.

use std::time::Duration;

/// Of everything that a test waits for, and of most tests as a whole.
pub const LIMIT: Duration = Duration::from_secs(600);

/// Seconds for a turn that is to run out of time once it has come to a certain point. On a machine on which it has not
/// by then, the test goes on to the next number.
pub const GROWING: [u64; 4] = [2, 8, 32, 128];
