//! A seeded run under fire: `ops/chaos` builds what it takes and calls this.
//!
//! ```text
//! plan (seed) ─┬▶ load   ─▶ RabbitMQ ─▶ pool of workers ─▶ stand-ins for codex
//!              └▶ strike ─▶ processes, proxies, RabbitMQ
//! record: events, journals, runs ─▶ judge ─▶ report
//! ```

mod aftermath;
mod args;
mod broker;
mod clock;
mod disks;
mod full_reader;
mod hangs;
mod hosts;
#[path = "../support/hung.rs"]
mod hung;
mod judge;
mod load;
#[path = "../support/not_tested.rs"]
mod not_tested;
#[cfg(test)]
#[path = "../support/faults.rs"]
mod places;
mod plan;
#[path = "../support/poison.rs"]
mod poison;
mod pool;
mod process;
mod processes;
mod proxy;
#[path = "../support/raw_amqp.rs"]
mod raw_amqp;
mod record;
mod report;
mod run;
mod strike;
mod takeover;

use std::path::Path;
use std::process::ExitCode;
use std::rc::Rc;

use anyhow::Context;
use clap::Parser;
use tokio::task::LocalSet;

use args::{Args, Engines};
use broker::Broker;
use hosts::Hosts;
use judge::Check;
use plan::{Sabotage, Shape};
use process::Programs;
use report::{Report, World};
use run::{Order, Ran};

/// Without shared storage.
const DISKS: usize = 3;

fn main() -> anyhow::Result<ExitCode> {
    let args = Args::parse();
    processes::adopt_orphans()?;
    // One thread: what it starts dies with the thread that started it.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let dir = tempfile::Builder::new()
        .prefix("turn-worker-chaos.")
        .tempdir()?;
    let ended = LocalSet::new().block_on(&runtime, async {
        tokio::select! {
            ended = all(&args, dir.path()) => ended,
            _ = tokio::signal::ctrl_c() => anyhow::bail!("interrupted"),
        }
    });
    let is_well = matches!(ended, Ok(true));
    if args.keep || !is_well {
        println!("All logs and records are in {}", dir.keep().display());
    }
    ended.map(|is_well| {
        if is_well {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        }
    })
}

/// Whether every run was as it should be.
async fn all(args: &Args, dir: &Path) -> anyhow::Result<bool> {
    let sabotages = args.sabotages();
    let programs = Programs::copied(&dir.join("programs"), args.beside.as_deref())?;
    let nodes = if args.cluster { 3 } else { 1 };
    let broker = Broker::start(&dir.join("broker"), nodes, sabotages.len()).await;
    let broker = Rc::new(broker.context("RabbitMQ")?);
    let rabbitmq = broker.version().await?;
    let mut is_well = true;
    for (number, sabotage) in sabotages.into_iter().enumerate() {
        let order = order(args, &programs, sabotage, &format!("t{number}"), dir);
        if order.hosts.is_none() {
            println!("{}", args.again(&order.shape));
        }
        let ran = run::run(&order, Rc::clone(&broker)).await?;
        let findings = judge::judge(&ran.records);
        let world = World {
            seed: order.shape.seed,
            rabbitmq: rabbitmq.clone(),
            nodes,
            processes: order.processes,
            slots: order.slots,
            workspaces: order.shape.workspaces,
        };
        let report = Report::new(world, &ran, findings);
        is_well &= match sabotage {
            None => tell(args, &report, &ran)?,
            Some(sabotage) => tell_sabotage(args, sabotage, &report, &ran),
        };
    }
    if let Ok(broker) = Rc::try_unwrap(broker) {
        broker.end().await;
    }
    Ok(is_well)
}

fn order(
    args: &Args,
    programs: &Programs,
    sabotage: Option<Sabotage>,
    vhost: &str,
    dir: &Path,
) -> Order {
    let short = args.short || sabotage.is_some();
    let processes = args.processes.unwrap_or(match (args.local, short) {
        (true, _) => 2 * DISKS,
        (false, true) => 3,
        (false, false) => 5,
    });
    Order {
        programs: programs.clone(),
        shape: Shape {
            seed: args.seed(),
            workspaces: args.workspaces.unwrap_or(match (&args.hosts, short) {
                // Few, so that each changes hands within the second for which caches are believed.
                (Some(_), _) if args.shows_old_reads() => 4,
                (Some(_), _) => plan::workspaces_on_hosts(processes),
                (None, true) => 16,
                (None, false) => 32,
            }),
            cluster: args.cluster,
            short,
            sabotage,
            host_fault: args.host_fault(),
            disks: if args.local { DISKS } else { 0 },
        },
        length: args.length(sabotage.is_some()),
        processes,
        slots: 3,
        hosts: args.hosts.clone().map(|dir| Hosts { dir }),
        engine: match args.shows_old_reads() {
            true => Engines::Exec,
            false => args.engine,
        },
        vhost: vhost.to_owned(),
        dir: dir.join(vhost),
    }
}

fn tell(args: &Args, report: &Report, ran: &Ran) -> anyhow::Result<bool> {
    println!("\n{}, {} s", report.broker(), report.seconds);
    println!("{}", report.table());
    if args.markdown {
        println!("{}", report.markdown());
    }
    if let Some(path) = &args.json {
        std::fs::write(path, serde_json::to_vec_pretty(report)?)
            .with_context(|| path.display().to_string())?;
    }
    let is_well = report.findings.is_empty();
    if !is_well {
        println!("{}", report.details(ran));
    }
    println!(
        "{}: seed {}",
        if is_well { "passed" } else { "FAILED" },
        report.seed
    );
    Ok(is_well)
}

/// Whether the verdict has found what was left out.
fn tell_sabotage(args: &Args, sabotage: Sabotage, report: &Report, ran: &Ran) -> bool {
    let wanted: &[Check] = match sabotage {
        // Who takes a workspace ends what lives there, which is a turn's codex then.
        Sabotage::Lock => &[Check::Overlap, Check::CutOff, Check::Outcomes],
        Sabotage::Order => &[Check::OutOfOrder],
        Sabotage::Journal => &[Check::RunAgain],
        Sabotage::Seq => &[Check::Gaps],
        Sabotage::Guard => &[Check::Overlap, Check::Processes],
    };
    let found: Vec<String> = wanted
        .iter()
        .filter(|check| report.found[check] > 0)
        .map(|check| format!("{} {}", check.text(), report.found[check]))
        .collect();
    let caught = !found.is_empty();
    if args.keep || !caught {
        println!("{}\n{}", report.table(), report.details(ran));
    }
    match caught {
        true => println!("caught: {sabotage:?}: {}", found.join(", ")),
        false => println!("NOT caught: {sabotage:?}"),
    }
    caught
}
