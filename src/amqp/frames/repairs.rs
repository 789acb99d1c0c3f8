//! What was repaired, and how an operator gets to know it.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How often the log may have a line about it: a producer that does it once
/// does it with each of its messages.
const LOG_EVERY: Duration = Duration::from_secs(60);

/// What was wrong with a part of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RepairKind {
    /// A short string that is not UTF-8.
    String,
    /// A table or an array that is nested too deep.
    Depth,
    /// A table, an array or all properties that can't be read.
    Table,
    /// Headers of too many values, or larger than a frame.
    Size,
}

impl RepairKind {
    pub const ALL: [Self; 4] = [Self::String, Self::Depth, Self::Table, Self::Size];

    /// As metrics and the log name it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::String => "string",
            Self::Depth => "depth",
            Self::Table => "table",
            Self::Size => "size",
        }
    }
}

/// How much was repaired, by kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Repairs([u64; RepairKind::ALL.len()]);

impl Repairs {
    pub(super) fn add(&mut self, kind: RepairKind) {
        self.0[kind as usize] += 1;
    }

    pub fn is_empty(&self) -> bool {
        self.0 == Self::default().0
    }

    pub fn of(&self, kind: RepairKind) -> u64 {
        self.0[kind as usize]
    }

    fn add_all(&mut self, others: &Self) {
        for (sum, other) in self.0.iter_mut().zip(others.0) {
            *sum += other;
        }
    }
}

/// A frame that was repaired, and where its message was published to, as far
/// as that is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RepairedFrame<'a> {
    pub repairs: Repairs,
    pub exchange: &'a str,
    pub routing_key: &'a str,
}

/// Logs repairs of all connections of a process, at most once a minute.
#[derive(Debug, Default)]
pub struct RepairLog(Mutex<Pending>);

#[derive(Debug, Default)]
struct Pending {
    logged: Option<Instant>,
    repairs: Repairs,
}

impl RepairLog {
    pub fn add(&self, frame: &RepairedFrame<'_>) {
        let Some(repairs) = self.due(&frame.repairs, Instant::now()) else {
            return;
        };
        tracing::warn!(
            exchange = ?frame.exchange,
            routing_key = ?frame.routing_key,
            strings = repairs.of(RepairKind::String),
            depth = repairs.of(RepairKind::Depth),
            tables = repairs.of(RepairKind::Table),
            size = repairs.of(RepairKind::Size),
            "messages came with properties that can't be read as they are, and were changed; \
             the last one is named, the numbers are those since the last such line"
        );
    }

    /// What there is to log, if it is time for that.
    fn due(&self, repairs: &Repairs, now: Instant) -> Option<Repairs> {
        let mut pending = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        pending.repairs.add_all(repairs);
        let next = pending.logged.map(|logged| logged + LOG_EVERY);
        if next.is_some_and(|next| now < next) {
            return None;
        }
        pending.logged = Some(now);
        Some(std::mem::take(&mut pending.repairs))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repairs_of_a_minute_are_one_line() {
        let log = RepairLog::default();
        let mut one = Repairs::default();
        one.add(RepairKind::Depth);
        let begin = Instant::now();
        let after = |seconds| log.due(&one, begin + Duration::from_secs(seconds));
        assert_eq!(after(0).map(|sum| sum.of(RepairKind::Depth)), Some(1));
        assert_eq!(after(1), None);
        assert_eq!(after(59), None);
        assert_eq!(after(60).map(|sum| sum.of(RepairKind::Depth)), Some(3));
        assert_eq!(after(61), None);
    }
}
