//! The one clock of all records: the host's, in nanoseconds since 1970, as
//! the stand-in and the journals report it.

use std::time::{SystemTime, UNIX_EPOCH};

pub type Nanos = u128;

pub fn now() -> Nanos {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map(|since| since.as_nanos()).unwrap_or_default()
}

/// Seconds since `start`, for people.
pub fn shown(at: Nanos, start: Nanos) -> String {
    let nanos = at.cast_signed() - start.cast_signed();
    format!("{:9.3}", nanos as f64 / 1e9)
}
