//! How often the processes of a pool report, and for how long that is waited for.

use std::time::Duration;

/// How often a worker reports what it runs.
pub(crate) const HEARTBEAT: Duration = Duration::from_secs(2);

/// For how long a redelivered turn is listened for: one heartbeat, and half a
/// second for that to be late.
pub(crate) const LISTEN: Duration = Duration::from_millis(2_500);
