//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, ValueEnum};

use crate::plan::fault::HostFault;
use crate::plan::{Sabotage, Shape};
use crate::run::Length;

/// A seeded run under fire: workers, the broker and the connections between
/// them are killed, frozen and cut at random while turns run; then the event
/// stream, the journals and what the stand-in for codex wrote down are laid
/// side by side.
///
/// The seed decides which turns there are, what each does, and which faults
/// strike after how many ended turns; it is printed, and with it the same plan
/// is played again (the kernel and the broker take their own time).
///
/// Exit status: 0 without findings (with --sabotage: if all was caught),
/// 1 if not, and then all logs and records are kept.
///
/// RABBITMQ_HOME takes another RabbitMQ than the system's: see
/// ops/rabbitmq/node --help.
#[derive(Debug, Parser)]
#[command(name = "ops/chaos")]
pub struct Args {
    /// Decides everything that is decided here; a random one by default
    #[arg(long)]
    seed: Option<u64>,
    /// How many turns; 1000 by default
    #[arg(long, conflicts_with = "minutes")]
    turns: Option<usize>,
    /// For how long turns are enqueued, instead of how many
    #[arg(long)]
    minutes: Option<f64>,
    /// Worker processes; 5, or 3 in a short run
    #[arg(long)]
    pub processes: Option<usize>,
    /// Workspaces, of which an eighth gets half of the turns; 32, or 16
    #[arg(long)]
    pub workspaces: Option<usize>,
    /// Some 20 seconds: fewer turns, no fault that takes long
    #[arg(long)]
    pub short: bool,
    /// Without shared storage: three disks, each with its own processes. Disks are
    /// away for a time or lost, and workspaces move
    #[arg(long, conflicts_with = "hosts")]
    pub local: bool,
    /// On three nodes of RabbitMQ; the queues' leaders are killed
    #[arg(long)]
    pub cluster: bool,
    /// How workers run codex; mixed: every other one with app-server, so that
    /// conversations change hands between the two
    #[arg(long, value_enum, default_value = "mixed")]
    pub engine: Engines,
    /// Every other process runs this turn-worker instead, such as one of an older
    /// version; built with the feature `faults`
    #[arg(long, value_name = "PROGRAM", conflicts_with = "sabotage")]
    pub beside: Option<PathBuf>,
    /// Lets all workers leave one thing out, which the verdict has to find
    #[arg(long, value_name = "WHAT")]
    sabotage: Option<Which>,
    /// Keeps logs and records also when all is well
    #[arg(long)]
    pub keep: bool,
    /// Writes the report to a file, too
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Prints the figures as a Markdown table, too
    #[arg(long)]
    pub markdown: bool,
    /// Set by ops/hosts: the folder of the hosts on which the workers run
    #[arg(long, hide = true, value_name = "DIR", requires = "host_fault")]
    pub hosts: Option<PathBuf>,
    /// The only fault there, and for how many seconds
    #[arg(long, hide = true, value_enum)]
    host_fault: Option<HostFault>,
    #[arg(long, hide = true, default_value_t = 0)]
    host_fault_s: u32,
    #[arg(skip = fastrand::u32(..))]
    random: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Engines {
    Mixed,
    Exec,
    AppServer,
}

impl Engines {
    /// That of the worker with this number.
    pub fn of(self, number: usize) -> &'static str {
        match self {
            Self::Mixed if number.is_multiple_of(2) => "exec",
            Self::Exec => "exec",
            Self::Mixed | Self::AppServer => "app-server",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Which {
    Lock,
    Order,
    Journal,
    Seq,
    Guard,
    /// One of them, as the seed says
    Any,
    /// One after the other
    All,
}

impl Args {
    pub fn seed(&self) -> u64 {
        self.seed.unwrap_or(self.random.into())
    }

    /// The runs that are wanted.
    pub fn sabotages(&self) -> Vec<Option<Sabotage>> {
        let all = Sabotage::value_variants();
        match self.sabotage {
            None => vec![None],
            Some(Which::All) => all.iter().copied().map(Some).collect(),
            Some(Which::Any) => {
                let any = fastrand::Rng::with_seed(self.seed()).choice(all);
                vec![any.copied()]
            }
            Some(Which::Lock) => vec![Some(Sabotage::Lock)],
            Some(Which::Order) => vec![Some(Sabotage::Order)],
            Some(Which::Journal) => vec![Some(Sabotage::Journal)],
            Some(Which::Seq) => vec![Some(Sabotage::Seq)],
            Some(Which::Guard) => vec![Some(Sabotage::Guard)],
        }
    }

    pub fn host_fault(&self) -> Option<(HostFault, u32)> {
        self.host_fault.map(|fault| (fault, self.host_fault_s))
    }

    /// No faults, and each turn may run on another host than the one before
    /// it: no server waits for the next.
    pub fn shows_old_reads(&self) -> bool {
        matches!(self.host_fault, Some(HostFault::None))
    }

    pub fn length(&self, sabotage: bool) -> Length {
        match (self.turns, self.minutes) {
            (None, None) if self.shows_old_reads() => Length::Turns(400),
            // As long as it takes to strike, and to see what comes of it.
            (None, None) if self.hosts.is_some() => {
                Length::Time(Duration::from_secs(60 + u64::from(self.host_fault_s)))
            }
            (Some(turns), _) => Length::Turns(turns),
            (None, Some(minutes)) => Length::Time(Duration::from_secs_f64(minutes * 60.0)),
            (None, None) if sabotage => Length::Turns(80),
            (None, None) if self.short => Length::Turns(120),
            (None, None) => Length::Turns(1_000),
        }
    }

    /// How to play the same plan again.
    pub fn again(&self, shape: &Shape) -> String {
        let sabotage = shape
            .sabotage
            .and_then(|sabotage| sabotage.to_possible_value());
        let mut words = vec![format!("ops/chaos --seed {}", shape.seed)];
        words.extend(sabotage.map(|sabotage| format!("--sabotage {}", sabotage.get_name())));
        words.extend(self.short.then(|| "--short".to_owned()));
        let engine = self.engine.to_possible_value();
        let engine = engine.filter(|_| self.engine != Engines::Mixed);
        words.extend(engine.map(|engine| format!("--engine {}", engine.get_name())));
        words.extend(self.local.then(|| "--local".to_owned()));
        words.extend(self.cluster.then(|| "--cluster".to_owned()));
        words.extend(self.turns.map(|turns| format!("--turns {turns}")));
        words.extend(self.minutes.map(|minutes| format!("--minutes {minutes}")));
        words.extend(
            self.processes
                .map(|processes| format!("--processes {processes}")),
        );
        words.extend(
            self.workspaces
                .map(|workspaces| format!("--workspaces {workspaces}")),
        );
        words.join(" ")
    }
}
