use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use prometheus::IntGauge;

use super::lock;

/// The turns that run in this process.
#[derive(Default)]
pub(super) struct RunningTurns {
    turns: Arc<Mutex<Table>>,
}

#[derive(Default)]
struct Table {
    /// Counts up, so that the first entry is the oldest turn.
    next: u64,
    started: BTreeMap<u64, Instant>,
}

impl RunningTurns {
    pub(super) fn start(&self) -> RunningTurn {
        let mut table = lock(&self.turns);
        let id = table.next;
        table.next += 1;
        table.started.insert(id, Instant::now());
        RunningTurn {
            id,
            turns: Arc::clone(&self.turns),
        }
    }

    /// How many there are, and when the oldest was started.
    pub(super) fn now(&self) -> (usize, Option<Instant>) {
        let table = lock(&self.turns);
        let oldest = table.started.first_key_value();
        (table.started.len(), oldest.map(|(_, started)| *started))
    }
}

/// A busy slot. Dropping it, also while a panic unwinds or a task is
/// cancelled, makes the slot free in the metrics.
#[must_use = "the slot counts as busy until this is dropped"]
pub struct RunningTurn {
    id: u64,
    turns: Arc<Mutex<Table>>,
}

impl Drop for RunningTurn {
    fn drop(&mut self) {
        lock(&self.turns).started.remove(&self.id);
    }
}

/// A turn that has ended and waits to be recorded.
#[must_use = "the turn counts as unrecorded until this is dropped"]
pub struct Unrecorded(IntGauge);

impl Unrecorded {
    pub(super) fn new(gauge: IntGauge) -> Self {
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for Unrecorded {
    fn drop(&mut self) {
        self.0.dec();
    }
}
