//! One file for each thing that is measured.

mod engine_memory;
mod engines;
mod events;
mod growth;
mod latency;
mod memory;
mod recovery;
mod skew;
mod turns;

use std::time::Duration;

use anyhow::Result;
use clap::ValueEnum;

use crate::stage::Bench;
use crate::stats::Sample;
use crate::table::Row;

/// Turns at once, by default.
const SLOTS: u32 = 8;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Measured {
    /// turns a second, and CPU a turn
    Turns,
    /// events a second
    Events,
    /// from enqueueing to the first event and to the end
    Latency,
    /// what a busy workspace costs the others
    Skew,
    /// from a SIGKILL to the next event
    Recovery,
    /// of the worker, with many turns running or waiting
    Memory,
    /// the real codex by each of the ways to run it: turns a second, CPU, warm servers, latency and memory
    Engines,
    /// turns a second, CPU and memory with more conversations, and with more processes
    Growth,
}

impl Measured {
    pub async fn rows(self, bench: &mut Bench) -> Result<Vec<Row>> {
        match self {
            Self::Turns => turns::rows(bench).await,
            Self::Events => events::rows(bench).await,
            Self::Latency => latency::rows(bench).await,
            Self::Skew => skew::rows(bench).await,
            Self::Recovery => recovery::rows(bench).await,
            Self::Memory => memory::rows(bench).await,
            Self::Engines => {
                let mut rows = engines::rows(bench).await?;
                rows.extend(engine_memory::rows(bench).await?);
                Ok(rows)
            }
            Self::Growth => growth::rows(bench).await,
        }
    }
}

fn progress(text: &str) {
    eprintln!("  {text}");
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

fn in_ms(times: impl IntoIterator<Item = Duration>) -> Result<Sample> {
    sample(times.into_iter().map(ms))
}

fn sample(values: impl IntoIterator<Item = f64>) -> Result<Sample> {
    Sample::of(values).ok_or_else(|| anyhow::anyhow!("nothing was measured"))
}

fn workspaces(count: usize) -> impl Iterator<Item = String> {
    (0..count).map(|number| format!("w{number}"))
}
