//! Bounds how often something that strangers can cause is logged.

use std::time::{Duration, Instant};

/// How often the same kind of thing is logged.
const PAUSE: Duration = Duration::from_secs(60);

/// Lets one log line through in each minute, and counts the others.
#[derive(Debug, Default)]
pub(crate) struct Throttle {
    last: Option<Instant>,
    suppressed: u64,
}

impl Throttle {
    /// Returns how many lines were suppressed since the last one, or `None` if
    /// this one is suppressed, too.
    pub(crate) fn admit(&mut self, now: Instant) -> Option<u64> {
        let since = self.last.map(|last| now.saturating_duration_since(last));
        if since.is_some_and(|since| since < PAUSE) {
            self.suppressed += 1;
            return None;
        }
        self.last = Some(now);
        Some(std::mem::take(&mut self.suppressed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_a_minute_with_the_number_of_the_others() {
        let mut throttle = Throttle::default();
        let start = Instant::now();
        let admit =
            |throttle: &mut Throttle, seconds| throttle.admit(start + Duration::from_secs(seconds));
        assert_eq!(admit(&mut throttle, 0), Some(0));
        assert_eq!(admit(&mut throttle, 1), None);
        assert_eq!(admit(&mut throttle, 59), None);
        assert_eq!(admit(&mut throttle, 60), Some(2));
        assert_eq!(admit(&mut throttle, 200), Some(0));
    }
}
