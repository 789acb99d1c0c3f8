//! How long until a part of the host is looked at again.

use std::time::{Duration, Instant};

/// While it works: an idle host notices within this time. A look costs a
/// small write, which no disk minds four times a minute.
const PERIOD: Duration = Duration::from_secs(15);
/// After it was found lacking, and doubling up to the most.
const FIRST: Duration = Duration::from_millis(500);
const MOST: Duration = Duration::from_secs(10);
/// What fails again before it worked for so long has not recovered: the
/// pauses go on where they were, so that it does not flap.
const CALM: Duration = Duration::from_secs(60);

#[derive(Debug, Default)]
pub(super) struct Pauses {
    /// In a row.
    failures: u32,
    fit_since: Option<Instant>,
}

impl Pauses {
    pub(super) fn next(&mut self, fit: bool, now: Instant) -> Duration {
        if fit {
            self.fit_since.get_or_insert(now);
            return PERIOD;
        }
        let since = self.fit_since.take();
        if since.is_some_and(|since| now.duration_since(since) >= CALM) {
            self.failures = 0;
        }
        let pause = FIRST.saturating_mul(2u32.saturating_pow(self.failures));
        self.failures = self.failures.saturating_add(1);
        pause.min(MOST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_until_the_part_has_worked_for_a_while() {
        let start = Instant::now();
        let at = |second| start + Duration::from_secs(second);
        let mut pauses = Pauses::default();
        for (second, fit, millis) in [
            (0, true, 15_000),
            (15, true, 15_000),
            (16, false, 500),
            (17, false, 1_000),
            (18, false, 2_000),
            (20, true, 15_000),
            // Not calm yet.
            (79, false, 4_000),
            (83, false, 8_000),
            (91, false, 10_000),
            (101, false, 10_000),
            (111, true, 15_000),
            (171, false, 500),
        ] {
            let pause = pauses.next(fit, at(second));
            assert_eq!(pause.as_millis(), millis, "at {second} s");
        }
        pauses.failures = u32::MAX;
        assert_eq!(pauses.next(false, at(172)), MOST);
    }
}
