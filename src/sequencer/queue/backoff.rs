//! Waits that double, shortened at random so that what started together does not
//! come back together.

use std::time::Duration;

/// A wait that doubles from `first` to `most`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Backoff {
    pub first: Duration,
    pub most: Duration,
}

/// By how much jitter shortens a wait, at most: a fifth. It never lengthens
/// one, so `most` is the longest wait there is.
const JITTER: f64 = 0.2;

/// A small generator of its own (splitmix64): the queue must behave the same
/// for the same seed and inputs, or its schedules could not be replayed.
#[derive(Debug)]
pub(super) struct Jitter(u64);

impl Jitter {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The wait after `times` waits in a row.
    pub(super) fn wait(&mut self, backoff: Backoff, times: u32) -> Duration {
        let doubled = backoff
            .first
            .saturating_mul(2u32.saturating_pow(times.min(31)));
        doubled
            .min(backoff.most)
            .mul_f64(1.0 - JITTER * self.unit())
    }

    /// From 0 up to, not including, 1.
    fn unit(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        // 53 bits are what an f64 holds exactly.
        (z >> 11) as f64 / (1u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_most_and_are_only_shortened() {
        let backoff = Backoff {
            first: Duration::from_secs(10),
            most: Duration::from_secs(300),
        };
        let mut jitter = Jitter::new(7);
        let mut waits = Vec::new();
        for (times, full) in [
            (0, 10),
            (1, 20),
            (2, 40),
            (4, 160),
            (5, 300),
            (40, 300),
            (u32::MAX, 300),
        ] {
            let full = Duration::from_secs(full);
            let wait = jitter.wait(backoff, times);
            assert!(
                wait <= full && wait > full.mul_f64(0.79),
                "{times}: {wait:?}"
            );
            waits.push(wait);
        }
        let capped = &waits[4..];
        assert!(capped[0] != capped[1] && capped[1] != capped[2]);
    }

    #[test]
    fn the_same_seed_gives_the_same_waits() {
        let backoff = Backoff {
            first: Duration::from_secs(1),
            most: Duration::from_secs(9),
        };
        let (mut a, mut b, mut c) = (Jitter::new(1), Jitter::new(1), Jitter::new(2));
        assert_eq!(a.wait(backoff, 3), b.wait(backoff, 3));
        assert_ne!(a.wait(backoff, 3), c.wait(backoff, 3));
    }
}
