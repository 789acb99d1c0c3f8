//! How long the sequencer pauses before it connects again, and what is logged
//! of that: a cause that stays is logged once.

use std::time::Duration;

use backon::ExponentialBackoff;
use tokio::time::timeout;

use crate::amqp::connect::backoff;
use crate::amqp::link::Link;

/// A session of this length is no failed attempt: the next pause is short again.
pub(super) const LASTING: Duration = Duration::from_secs(30);
/// How long it may take to learn why a connection ended.
const CAUSE_LIMIT: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub(super) struct Restarts {
    pauses: ExponentialBackoff,
    logged: Option<String>,
    /// With the same cause, one after the other.
    same: u32,
}

impl Default for Restarts {
    fn default() -> Self {
        Self {
            pauses: backoff(),
            logged: None,
            same: 0,
        }
    }
}

impl Restarts {
    /// After a session of length `lasted`, which noticed `ended`. `connection`:
    /// why its connection ended, if it did; the cause of what was noticed.
    pub(super) fn pause(
        &mut self,
        lasted: Duration,
        connection: Option<String>,
        ended: &str,
    ) -> Duration {
        if lasted >= LASTING {
            *self = Self::default();
        }
        let reason = match connection {
            Some(cause) => format!("the connection ended: {cause}"),
            None => ended.to_owned(),
        };
        if self.logged.as_ref() == Some(&reason) {
            self.same += 1;
            tracing::debug!(reason, noticed = ended, "the sequencer restarts");
            if self.same.is_power_of_two() {
                tracing::warn!(
                    times = self.same,
                    "the sequencer restarts again for the same reason"
                );
            }
        } else {
            tracing::warn!(reason, noticed = ended, "the sequencer restarts");
            self.logged = Some(reason);
            self.same = 0;
        }
        self.pauses.next().unwrap_or(LASTING)
    }
}

/// Why the connection ended, if it did.
pub(super) async fn cause(link: &Link) -> Option<String> {
    if link.is_open() {
        return None;
    }
    timeout(CAUSE_LIMIT, link.closed()).await.ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_secs(1);

    #[test]
    fn pauses_grow_while_sessions_end_soon_and_stay_bounded() {
        let mut restarts = Restarts::default();
        let pauses: Vec<Duration> = (0..20)
            .map(|_| restarts.pause(SOON, None, "refused"))
            .collect();
        assert!(pauses[0] < SOON, "{pauses:?}");
        assert!(pauses[19] > pauses[0], "{pauses:?}");
        let longest = pauses.iter().max().unwrap();
        assert!(*longest <= Duration::from_secs(10), "{pauses:?}");
        assert!(restarts.pause(LASTING, None, "refused") < SOON);
    }

    #[test]
    fn a_cause_that_stays_is_counted_and_the_connections_counts_first() {
        let mut restarts = Restarts::default();
        for noticed in ["a queue is gone", "an ack failed", "a channel is closed"] {
            restarts.pause(SOON, Some("541 INTERNAL_ERROR".to_owned()), noticed);
        }
        assert_eq!(restarts.same, 2);
        restarts.pause(SOON, None, "an ack failed");
        assert_eq!(restarts.same, 0);
    }
}
