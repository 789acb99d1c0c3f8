//! The guarantees under fire, on pools of real processes and a real broker:
//! connections, queues and hosts fail, processes die and freeze at places of a
//! test's choice (see `src/fault.rs`). Each test names in its comment the line
//! of code without which it fails.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod account;
mod attempts;
mod closed;
mod deleted;
mod drains;
mod fault_points;
mod frozen;
mod full_disk;
mod half_open;
mod lost_locks;
mod missing_codex;
mod part_deaths;
mod refusals;
mod rolling;
mod sequencer_deaths;
mod takeover;
mod timeout;
mod tree_deaths;
mod undeliverable;
mod warm_deaths;
mod worker_deaths;

use std::fmt::Debug;
use std::rc::Rc;

use tokio::sync::Semaphore;
use tokio::task::{LocalSet, spawn_local};

/// The rows of a table, a pool each, some at a time: they mostly wait. Those
/// that failed are listed at the end, so that each shows what it saw.
async fn concurrently<T: Debug>(
    rows: &'static [T],
    case: impl AsyncFn(&'static T) + Copy + 'static,
) {
    const AT_ONCE: usize = 8;
    let places = Rc::new(Semaphore::new(AT_ONCE));
    let cases = async {
        let mut running = Vec::new();
        for row in rows {
            let places = Rc::clone(&places);
            let case = async move {
                let _place = places.acquire().await.unwrap();
                case(row).await;
            };
            running.push((row, spawn_local(case)));
        }
        let mut failed = Vec::new();
        for (row, case) in running {
            if case.await.is_err() {
                failed.push(row);
            }
        }
        assert!(failed.is_empty(), "these failed: {failed:#?}");
    };
    LocalSet::new().run_until(cases).await;
}
