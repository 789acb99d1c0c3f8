//! Measures the pool beside what could be had for less: see ops/bench, which
//! builds everything for release and calls this.

mod broker;
mod load;
mod machine;
#[allow(unused_imports, reason = "its help is not shown here")]
#[path = "../stand_in/model_server.rs"]
mod model_server;
mod one_channel;
mod proc;
mod process;
mod real_codex;
mod rows;
mod stage;
mod stats;
mod straight;
mod table;

use std::fs;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Parser, ValueEnum};
use serde::Serialize;

use machine::Machine;
use process::Programs;
use rows::Measured;
use stage::Bench;
use table::Row;

#[derive(Debug, Parser)]
struct Args {
    /// An empty folder for everything that is written, on the disk to be measured
    #[arg(long, hide = true)]
    dir: PathBuf,
    /// Where the programs are, built for release
    #[arg(long, hide = true)]
    programs: PathBuf,
    /// The real codex
    #[arg(long, hide = true)]
    codex: Option<PathBuf>,
    /// Writes the table there as JSON, with the numbers behind it
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Prints the table as Markdown
    #[arg(long)]
    markdown: bool,
    /// Measures only these
    #[arg(long, value_name = "WHAT", num_args = 1..)]
    only: Vec<Measured>,
    /// Measures less of each: in some two minutes, but rougher
    #[arg(long)]
    quick: bool,
}

#[derive(Serialize)]
struct Report<'a> {
    date: String,
    quick: bool,
    machine: &'a Machine,
    rows: &'a [Row],
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(Args::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(args: Args) -> Result<()> {
    let folder = args.programs.canonicalize().context("--programs")?;
    let programs = Programs {
        turn_worker: folder.join("turn-worker"),
        one_hop: folder.join("examples/one-hop"),
        codex: folder.join("examples/free-codex"),
        real_codex: args.codex,
    };
    let mut bench = Bench::new(&args.dir, programs, args.quick)?;
    let machine = Machine::look(&args.dir, bench.broker.version().await?)?;
    eprintln!("{machine}");
    let wanted: Vec<Measured> = match args.only.is_empty() {
        true => Measured::value_variants().to_vec(),
        false => args.only,
    };
    let mut rows = Vec::new();
    for measured in wanted {
        let name = measured.to_possible_value().context("no name")?;
        eprintln!("{}", name.get_name());
        rows.extend(
            measured
                .rows(&mut bench)
                .await
                .with_context(|| name.get_name().to_owned())?,
        );
    }
    let report = Report {
        date: jiff::Timestamp::now().to_string(),
        quick: args.quick,
        machine: &machine,
        rows: &rows,
    };
    if let Some(file) = &args.json {
        fs::write(file, serde_json::to_vec_pretty(&report)?)
            .with_context(|| file.display().to_string())?;
    }
    let terminal = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    println!("\n{machine}\n");
    match args.markdown {
        true => print!("{}", table::markdown(&rows)),
        false => print!("{}", table::text(&rows, terminal)),
    }
    Ok(())
}
