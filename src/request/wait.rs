//! How long a turn has waited, as far as its producer's clock can be believed.

use std::time::Duration;

use jiff::Timestamp;

/// A time that is further away than this is not meant as one: a zero value, milliseconds
/// for seconds, a clock that was never set.
pub(super) const PLAUSIBLE_WAIT: Duration = Duration::from_secs(30 * 24 * 3600);

/// Since `enqueued_at`; zero if the producer's clock is ahead. Returns `None`
/// if that time is more than `PLAUSIBLE_WAIT` away.
pub fn plausible_wait(enqueued_at: Timestamp, now: Timestamp) -> Option<Duration> {
    let waited = now.duration_since(enqueued_at);
    (waited.unsigned_abs() <= PLAUSIBLE_WAIT)
        .then(|| Duration::try_from(waited).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_out_of_any_sense_are_no_wait() {
        let now: Timestamp = "2026-11-30T00:00:00Z".parse().unwrap();
        for (enqueued_at, seconds) in [
            ("2026-11-29T23:59:50Z", Some(10)),
            ("2026-11-30T00:00:10Z", Some(0)),
            ("2026-10-31T00:00:00Z", Some(30 * 86_400)),
            ("2026-10-30T23:59:59Z", None),
            ("2026-12-31T00:00:00Z", None),
            ("1970-01-01T00:00:00Z", None),
            ("0001-01-01T00:00:00Z", None),
            ("9999-12-30T00:00:00Z", None),
        ] {
            let waited = plausible_wait(enqueued_at.parse().unwrap(), now);
            assert_eq!(waited, seconds.map(Duration::from_secs), "{enqueued_at}");
        }
    }
}
