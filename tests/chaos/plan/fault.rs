//! The faults, and how often each comes up.

use std::ops::Range;

use clap::ValueEnum;

use super::{Shape, weighted};

/// What strikes one of several hosts, or what they share: see `ops/hosts`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum HostFault {
    /// No faults: old reads show even so.
    None,
    Death,
    Storage,
    Broker,
    Both,
    Server,
    Remount,
}

impl HostFault {
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Death => "death",
            Self::Storage => "storage",
            Self::Broker => "broker",
            Self::Both => "both",
            Self::Server => "server",
            Self::Remount => "remount",
        }
    }
}

/// How a disk's processes are not heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Absence {
    Killed,
    Frozen,
    Cut,
}

/// Times are in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Fault {
    /// SIGKILL of a worker's process.
    KillWorker,
    /// The same, of the process with the active sequencer.
    KillSequencer,
    KillGuard,
    KillCodex,
    /// A worker and the guard of a turn of its, at once.
    KillWorkerAndGuard,
    /// SIGSTOP, and SIGCONT later.
    Freeze {
        ms: u64,
    },
    /// The same, of the active sequencer's process; meanwhile the broker hangs up.
    FreezeSequencer {
        ms: u64,
    },
    /// SIGTERM, and a new process in its place.
    Drain,
    /// One process after the other.
    RollingReplacement,
    /// All connections of a process are cut.
    Cut,
    /// One connection of a process goes silent in one or both directions,
    /// and is cut in the end.
    HalfOpen {
        up: bool,
        down: bool,
        ms: u64,
    },
    /// All connections of the active sequencer's process, and new ones, go
    /// silent; the broker is notified at once of their end, or never.
    Partition {
        hang_up: bool,
        ms: u64,
    },
    /// The broker closes one connection, of any process.
    CloseOne,
    CloseAll,
    /// A stranger publishes what brokers deliver and clients may not survive,
    /// beginning with that one of its messages.
    Poison {
        from: usize,
    },
    /// What is offered gets lost.
    PurgeOffers,
    /// So does the queue of the offers.
    DeleteOffers,
    /// The broker's application stops, and starts again.
    StopBroker {
        ms: u64,
    },
    /// The broker's node is killed, and started again.
    KillBroker {
        ms: u64,
    },
    /// In a cluster: the node that leads the queue of the turns, or of the offers.
    KillLeader {
        offers: bool,
        ms: u64,
    },
    /// A reader's queue is full and refuses all events.
    FullReader {
        ms: u64,
    },
    /// No worker can write any more.
    FullDisk {
        ms: u64,
    },
    /// No process can be started.
    NoProcesses {
        ms: u64,
    },
    /// codex is not there.
    NoCodex {
        ms: u64,
    },
    /// On several hosts.
    Host {
        fault: HostFault,
        seconds: u32,
    },
    /// Without shared storage: all processes of a disk are not heard for a time.
    DiskAway {
        how: Absence,
        ms: u64,
    },
    /// The same, for good: an operator declares the disk lost.
    LoseDisk,
    /// A workspace moves to another disk.
    MoveHome,
    /// A process is replaced by one that dies at a certain step.
    FailPoint {
        place: &'static str,
        skip: u32,
    },
}

/// Steps of a worker and of a sequencer at which the process can die: see
/// `src/fault.rs`.
const PLACES: [&str; 22] = [
    "sequencer.received",
    "sequencer.offered",
    "sequencer.claimed",
    "sequencer.marked",
    "sequencer.told",
    "sequencer.rejected",
    "sequencer.answered",
    "sequencer.buried",
    "sequencer.done",
    "sequencer.acked",
    "turn.taken",
    "turn.locked",
    "turn.claimed",
    "turn.started",
    "turn.spawned",
    "turn.told",
    "turn.exited",
    "turn.finished",
    "turn.released",
    "turn.confirmed",
    "turn.done",
    "turn.settled",
];

/// The same, of an operator's order in a pool without shared storage.
const HOME_PLACES: [&str; 5] = [
    "sequencer.home_written",
    "sequencer.lost_disk_deleted",
    "sequencer.order_settled",
    "sequencer.order_written",
    "sequencer.released",
];

impl Fault {
    pub(super) fn new(shape: &Shape, random: &mut fastrand::Rng) -> Self {
        let mut fault = weighted(random, &table(shape));
        let seconds = |random: &mut fastrand::Rng, range: Range<u64>| {
            random.u64(range.start * 1_000..range.end * 1_000)
        };
        // Two heartbeats of the broker's, and a bit: then it gives a connection up.
        let long = !shape.short && random.u32(0..4) == 0;
        match &mut fault {
            Self::Freeze { ms } | Self::HalfOpen { ms, .. } | Self::Partition { ms, .. }
                if long =>
            {
                *ms = seconds(random, 25..35);
            }
            Self::Freeze { ms }
            | Self::FreezeSequencer { ms }
            | Self::HalfOpen { ms, .. }
            | Self::Partition { ms, .. }
            | Self::FullReader { ms }
            | Self::FullDisk { ms }
            | Self::NoProcesses { ms }
            | Self::NoCodex { ms } => *ms = random.u64(300..4_000),
            Self::StopBroker { ms } | Self::KillBroker { ms } | Self::KillLeader { ms, .. } => {
                *ms = random.u64(0..3_000);
            }
            _ => {}
        }
        match &mut fault {
            Self::HalfOpen { up, down, .. } => {
                (*up, *down) = [(true, false), (false, true), (true, true)][random.usize(0..3)];
            }
            Self::Partition { hang_up, .. } => *hang_up = random.bool(),
            Self::KillLeader { offers, .. } => *offers = random.bool(),
            Self::Poison { from } => *from = random.usize(0..1_000),
            Self::DiskAway { how, ms } => {
                *how = [Absence::Killed, Absence::Frozen, Absence::Cut][random.usize(0..3)];
                *ms = random.u64(300..if shape.short { 4_000 } else { 20_000 });
            }
            Self::FailPoint { place, skip } => {
                let homes: &[&str] = if shape.disks > 0 { &HOME_PLACES } else { &[] };
                let places = [&PLACES[..], homes].concat();
                *place = places[random.usize(0..places.len())];
                *skip = random.u32(0..8);
            }
            _ => {}
        }
        fault
    }

    pub fn name(&self) -> &'static str {
        match self {
            Self::KillWorker => "kill a worker",
            Self::KillSequencer => "kill the sequencer",
            Self::KillGuard => "kill a guard",
            Self::KillCodex => "kill codex",
            Self::KillWorkerAndGuard => "kill worker and guard",
            Self::Freeze { .. } => "freeze a process",
            Self::FreezeSequencer { .. } => "freeze the sequencer and hang up",
            Self::Drain => "drain a process",
            Self::RollingReplacement => "replace all processes",
            Self::Cut => "cut a process off",
            Self::HalfOpen { .. } => "half-open connection",
            Self::Partition { .. } => "the sequencer alone",
            Self::CloseOne => "broker closes a connection",
            Self::CloseAll => "broker closes all connections",
            Self::Poison { .. } => "poisonous messages",
            Self::PurgeOffers => "purge the offers",
            Self::DeleteOffers => "delete the offers' queue",
            Self::StopBroker { .. } => "stop the broker",
            Self::KillBroker { .. } => "kill the broker",
            Self::KillLeader { .. } => "kill a queue's leader",
            Self::FullReader { .. } => "a reader's full queue",
            Self::FullDisk { .. } => "full disk",
            Self::NoProcesses { .. } => "no more processes",
            Self::NoCodex { .. } => "no codex",
            Self::FailPoint { .. } => "die at a step",
            Self::DiskAway { .. } => "a disk away",
            Self::LoseDisk => "lose a disk",
            Self::MoveHome => "move a workspace",
            Self::Host { fault, .. } => fault.name(),
        }
    }
}

/// How many turns end between two faults.
pub(super) fn gap(shape: &Shape) -> Range<usize> {
    match (shape.sabotage, shape.short) {
        (Some(_), _) => 2..8,
        (None, true) => 4..20,
        (None, false) => 3..24,
    }
}

/// The faults of such a plan with their weights; what is drawn later is zero.
pub(super) fn table(shape: &Shape) -> Vec<(u32, Fault)> {
    let only = |wanted: bool, weight: u32| if wanted { weight } else { 0 };
    // What was sabotaged shows with these; others would only take time.
    if shape.sabotage.is_some() {
        return vec![(4, Fault::Cut), (1, Fault::KillWorker)];
    }
    let ms = 0;
    let up = false;
    let down = false;
    vec![
        (10, Fault::KillWorker),
        (8, Fault::KillSequencer),
        (8, Fault::KillGuard),
        (8, Fault::KillCodex),
        (5, Fault::KillWorkerAndGuard),
        (6, Fault::Freeze { ms }),
        (6, Fault::FreezeSequencer { ms }),
        (6, Fault::Drain),
        (2, Fault::RollingReplacement),
        (8, Fault::Cut),
        (6, Fault::HalfOpen { up, down, ms }),
        (4, Fault::Partition { hang_up: false, ms }),
        (4, Fault::CloseOne),
        (3, Fault::CloseAll),
        (8, Fault::Poison { from: 0 }),
        (2, Fault::PurgeOffers),
        (1, Fault::DeleteOffers),
        (only(!shape.short, 2), Fault::StopBroker { ms }),
        (
            only(!shape.cluster, if shape.short { 1 } else { 2 }),
            Fault::KillBroker { ms },
        ),
        (
            only(shape.cluster, 6),
            Fault::KillLeader { offers: false, ms },
        ),
        (4, Fault::FullReader { ms }),
        (3, Fault::FullDisk { ms }),
        (2, Fault::NoProcesses { ms }),
        (3, Fault::NoCodex { ms }),
        (6, Fault::FailPoint { place: "", skip: 0 }),
        (
            only(shape.disks > 0, 10),
            Fault::DiskAway {
                how: Absence::Killed,
                ms,
            },
        ),
        (only(shape.disks > 0, 4), Fault::LoseDisk),
        (only(shape.disks > 0, 16), Fault::MoveHome),
    ]
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_steps_are_there() {
        for place in super::PLACES.into_iter().chain(super::HOME_PLACES) {
            crate::places::must_exist(place);
        }
    }
}
