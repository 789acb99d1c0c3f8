//! A pool's status as a person reads it.

mod summary;
mod tables;
#[cfg(test)]
mod tests;

use std::time::Duration;

use jiff::Timestamp;
use turn_worker::amqp::messages::WaitReport;
use turn_worker::operator::PoolStatus;
use turn_worker::request::plausible_wait;

use crate::cli::render::clean::one_line;
use crate::cli::render::style::Style;
use crate::cli::render::table::wrapped;

use summary::summary;
use tables::{backlog, conditions, held, running, workers};

pub(crate) use tables::homes;

pub(super) fn overview(
    status: &PoolStatus,
    top: usize,
    now: Timestamp,
    style: Style,
    width: usize,
) -> String {
    let mut out = String::new();
    for (name, text) in summary(status, now) {
        let lines = wrapped(&one_line(&text, usize::MAX), width.saturating_sub(12));
        for (number, line) in lines.iter().enumerate() {
            let name = if number == 0 { name } else { "" };
            out.push_str(&format!("{} {line}\n", style.dim(&format!("{name:<11}"))));
        }
    }
    for part in [
        workers(status, style, width),
        running(status, top, now, style, width),
        held(status, now, style, width),
        conditions(status, style, width),
        homes(status, style, width),
        backlog(status, top, now, style, width),
    ] {
        if !part.is_empty() {
            out.push_str(&format!("\n{part}"));
        }
    }
    out
}

/// By the source that reports more: the sequencer may have taken over lately, and
/// the producer's clock may be behind.
fn waited(wait: &WaitReport, now: Timestamp) -> Duration {
    let enqueued = wait.enqueued_at.and_then(|at| plausible_wait(at, now));
    let held = Duration::from_millis(wait.held_ms);
    enqueued.unwrap_or_default().max(held)
}
