//! Whether what a process has counted was read before it ends.

use std::time::Duration;

use tokio::time::Instant;

/// Of a wait, unless the limit is shorter: a monitor may be late.
const LEAST: Duration = Duration::from_secs(5);

/// When was counted, and when that was read.
#[derive(Debug, Default)]
pub(super) struct Scrapes {
    last: Option<Instant>,
    /// Between the last two.
    interval: Option<Duration>,
    counted: Option<Instant>,
}

impl Scrapes {
    pub(super) fn counted(&mut self, now: Instant) {
        self.counted = Some(now);
    }

    pub(super) fn scraped(&mut self, now: Instant) {
        let since = self.last.replace(now).map(|last| now - last);
        self.interval = since.or(self.interval);
    }

    /// How long to wait for a scrape of what was counted last: two intervals,
    /// 5 s at least and `limit` at most. Returns `None` if it was scraped, or if there is no monitor,
    /// which scrapes more than once.
    pub(super) fn pause(&self, limit: Duration) -> Option<Duration> {
        let (interval, last, counted) = (self.interval?, self.last?, self.counted?);
        let pause = interval.saturating_mul(2).max(LEAST).min(limit);
        (last < counted && !pause.is_zero()).then_some(pause)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_monitor_has_not_read_is_waited_for() {
        let start = Instant::now();
        let at = |second| start + Duration::from_secs(second);
        let limit = Duration::from_secs(20);
        let mut scrapes = Scrapes::default();
        scrapes.counted(at(0));
        assert_eq!(scrapes.pause(limit), None, "never scraped");
        scrapes.scraped(at(1));
        scrapes.counted(at(2));
        assert_eq!(scrapes.pause(limit), None, "it was scraped once");
        scrapes.scraped(at(6));
        assert_eq!(scrapes.pause(limit), None, "scraped");
        scrapes.counted(at(7));
        assert_eq!(scrapes.pause(limit), Some(Duration::from_secs(10)));
        scrapes.scraped(at(8));
        scrapes.counted(at(9));
        assert_eq!(scrapes.pause(limit), Some(LEAST));
        scrapes.scraped(at(66));
        scrapes.counted(at(67));
        assert_eq!(scrapes.pause(limit), Some(limit));
        assert_eq!(scrapes.pause(Duration::ZERO), None);
    }
}
