//! By how much another process's clock differs from this one's.

use jiff::{SignedDuration, Timestamp};

/// Clocks that are kept by NTP differ by far less; the broker's delay may make
/// up for some of it.
pub(super) const TOLERATED: SignedDuration = SignedDuration::from_secs(5);
/// A report may be late, several in a row rarely are.
const SAMPLES: usize = 4;
/// Needed to call a clock late: one report may have been under way for long.
const ENOUGH: usize = 3;

/// The differences of the last reports. Each is the true one less the time
/// that the report was under way, so the largest is the closest.
#[derive(Debug, Default)]
pub(super) struct Skew {
    samples: [SignedDuration; SAMPLES],
    seen: usize,
}

impl Skew {
    pub(super) fn heard(&mut self, theirs: Timestamp, ours: Timestamp) {
        self.samples[self.seen % SAMPLES] = theirs.duration_since(ours);
        self.seen += 1;
    }

    /// By how much the other clock is ahead; `None` if it may be right.
    pub(super) fn ahead(&self) -> Option<SignedDuration> {
        let samples = &self.samples[..self.seen.min(SAMPLES)];
        let closest = *samples.iter().max()?;
        // Being under way makes a clock look late, never early.
        let certain = closest.is_positive() || samples.len() >= ENOUGH;
        (certain && closest.abs() > TOLERATED).then_some(closest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn skew(seconds: &[i64]) -> Skew {
        let mut skew = Skew::default();
        let ours = Timestamp::from_second(1_800_000_000).unwrap();
        for ahead in seconds {
            skew.heard(ours + SignedDuration::from_secs(*ahead), ours);
        }
        skew
    }

    #[test]
    fn a_late_report_is_no_late_clock() {
        let ahead = |seconds: &[i64]| skew(seconds).ahead().map(|ahead| ahead.as_secs());
        assert_eq!(ahead(&[]), None);
        assert_eq!(ahead(&[-60]), None);
        assert_eq!(ahead(&[-60, -40, -1, -30]), None);
        assert_eq!(ahead(&[5, 4]), None);
        // Early it cannot be by chance.
        assert_eq!(ahead(&[7_200]), Some(7_200));
        assert_eq!(ahead(&[-7_203, -7_200, -7_201]), Some(-7_200));
        // Corrected since.
        assert_eq!(ahead(&[7_200, 7_200, 7_200, 0, 0, 0, 0]), None);
    }
}
