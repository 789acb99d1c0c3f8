//! What a run does, decided by its seed alone: which turns there are and what
//! each of them does, which faults strike, and after how many ended turns.

pub mod fault;
pub mod settings;
pub mod turn;

use clap::ValueEnum;

use fault::{Fault, HostFault};
use turn::Turn;

/// What a plan is made from.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    pub seed: u64,
    pub workspaces: usize,
    /// Three nodes of RabbitMQ rather than one.
    pub cluster: bool,
    /// Turns and faults that take no longer than seconds.
    pub short: bool,
    pub sabotage: Option<Sabotage>,
    /// On several hosts: the one fault that strikes, and for how many seconds.
    pub host_fault: Option<(HostFault, u32)>,
    /// Without shared storage: how many there are; else 0.
    pub disks: usize,
}

/// Something that the workers leave out on purpose, for the verdict to find.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Sabotage {
    /// A workspace's lock is taken without asking the kernel.
    Lock,
    /// Turns are offered without waiting for those before them.
    Order,
    /// A turn's recorded end is not looked at.
    Journal,
    /// Now and then an event is numbered and not published.
    Seq,
    /// What a turn leaves behind is not killed.
    Guard,
}

impl Sabotage {
    /// `FAILPOINTS` for all workers.
    pub fn failpoints(self) -> &'static str {
        match self {
            Self::Lock => "sabotage.lock=return",
            Self::Order => "sabotage.order=return",
            Self::Journal => "sabotage.journal=return",
            Self::Seq => "sabotage.seq=2%return",
            Self::Guard => "sabotage.guard=return",
        }
    }
}

/// Turns that have ended on several hosts when their one fault strikes: all
/// workers have run some.
const STRIKES_AFTER: usize = 30;

/// Without shared storage, the faults with these numbers are a move and a loss instead of what
/// is drawn: short runs, too, have both.
const MOVES: usize = 2;
const LOSES: usize = 4;

/// Of a process on one of several hosts: room for what the others have run.
pub const SLOTS_ON_HOST: usize = 6;

/// How many workspaces processes on several hosts need, so that each of them
/// runs a turn that outlasts the fault.
pub fn workspaces_on_hosts(processes: usize) -> usize {
    2 * (processes.saturating_sub(1) * SLOTS_ON_HOST + 1)
}

/// See the module.
#[derive(Debug, Clone, Copy)]
pub struct Plan(pub Shape);

/// A fault and when it strikes.
#[derive(Debug, Clone, PartialEq)]
pub struct Planned {
    /// As soon as so many turns have ended.
    pub after: usize,
    /// Picks the process that it strikes among those who are there then.
    pub pick: usize,
    pub fault: Fault,
}

impl Plan {
    /// Each is independent of how many there are.
    pub fn turn(self, number: usize) -> Turn {
        let Shape { seed, .. } = self.0;
        Turn::new(&self.0, number, &mut random(seed, "turn", number))
    }

    /// Without an end.
    pub fn faults(self) -> impl Iterator<Item = Planned> {
        let shape = self.0;
        let mut after = 0;
        (0..).map(move |number| {
            if let Some((fault, seconds)) = shape.host_fault {
                return Planned {
                    after: if number == 0 {
                        STRIKES_AFTER
                    } else {
                        usize::MAX
                    },
                    pick: 0,
                    fault: Fault::Host { fault, seconds },
                };
            }
            let mut random = random(shape.seed, "fault", number);
            after += random.usize(fault::gap(&shape));
            let pick = random.usize(..);
            let fault = match number {
                MOVES if shape.disks > 0 => Fault::MoveHome,
                LOSES if shape.disks > 0 => Fault::LoseDisk,
                _ => Fault::new(&shape, &mut random),
            };
            Planned { after, pick, fault }
        })
    }
}

/// A stream of its own for each thing, so that one more draw here changes
/// no folder there.
fn random(seed: u64, what: &str, number: usize) -> fastrand::Rng {
    let name = format!("{seed} {what} {number}");
    // FNV-1a; the generator itself scrambles what is similar.
    let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    fastrand::Rng::with_seed(hash)
}

/// One of a table, each as often as its weight says.
fn weighted<T: Copy>(random: &mut fastrand::Rng, table: &[(u32, T)]) -> T {
    let sum: u32 = table.iter().map(|(weight, _)| weight).sum();
    let mut left = random.u32(0..sum);
    for &(weight, item) in table {
        if left < weight {
            return item;
        }
        left -= weight;
    }
    unreachable!("what is left is below the sum")
}

#[cfg(test)]
mod tests {
    use super::turn::Ends;
    use super::*;

    fn plan(seed: u64) -> Plan {
        Plan(Shape {
            seed,
            workspaces: 24,
            cluster: false,
            short: false,
            sabotage: None,
            host_fault: None,
            disks: 0,
        })
    }

    fn turns(plan: Plan) -> Vec<Turn> {
        (0..400).map(|number| plan.turn(number)).collect()
    }

    #[test]
    fn the_same_seed_is_the_same_plan_and_another_one_is_not() {
        let faults = |plan: Plan| plan.faults().take(100).collect::<Vec<_>>();
        assert_eq!(turns(plan(7)), turns(plan(7)));
        assert_eq!(faults(plan(7)), faults(plan(7)));
        assert_ne!(turns(plan(7)), turns(plan(8)));
        assert_ne!(faults(plan(7)), faults(plan(8)));
    }

    /// A seed in an old report still means the same run.
    #[test]
    fn the_stream_of_a_seed_stays_what_it_was() {
        let mut random = random(1, "turn", 2);
        let drawn: Vec<u32> = (0..4).map(|_| random.u32(0..1000)).collect();
        assert_eq!(drawn, [347, 496, 920, 322]);
    }

    #[test]
    fn half_of_the_turns_are_in_a_few_workspaces_and_all_kinds_are_there() {
        let turns = turns(plan(7));
        let hot = turns
            .iter()
            .filter(|turn| turn.workspace.starts_with("hot"));
        assert!((150..250).contains(&hot.count()));
        for ends in [Ends::Well, Ends::Exhausted, Ends::TimedOut, Ends::Invalid] {
            assert!(turns.iter().any(|turn| turn.ends == ends), "{ends:?}");
        }
        let is = |what: fn(&Turn) -> bool| turns.iter().any(what);
        assert!(is(|turn| turn.cancel_after.is_some()));
        assert!(is(|turn| turn.again_after.is_some() && turn.other_body));
        assert!(is(|turn| turn.again_after.is_some() && !turn.other_body));
    }

    #[test]
    fn on_several_hosts_one_fault_strikes_turns_that_outlast_it() {
        let plan = Plan(Shape {
            workspaces: 12,
            host_fault: Some((HostFault::Both, 40)),
            ..plan(7).0
        });
        let mut faults = plan.faults();
        let (first, second) = (faults.next().unwrap(), faults.next().unwrap());
        assert_eq!(first.fault.name(), "both");
        assert_eq!(second.after, usize::MAX);
        let turns = turns(plan);
        let (lasting, others) = turns.split_at(6);
        assert!(lasting.iter().all(|turn| turn.says > 40));
        assert!(others.iter().all(|turn| turn.says < 40));
        // The lines of those are short: they would fill the pool while it waits.
        let behind = others
            .iter()
            .filter(|turn| turn.workspace.starts_with("long-"));
        assert_eq!(behind.count(), 6);
    }

    #[test]
    fn without_shared_storage_each_short_run_moves_a_workspace_and_loses_a_disk() {
        for seed in 0..20 {
            let shape = Shape {
                short: true,
                disks: 3,
                ..plan(seed).0
            };
            let faults = Plan(shape).faults();
            let faults: Vec<_> = faults.take_while(|planned| planned.after < 100).collect();
            for wanted in [Fault::MoveHome, Fault::LoseDisk] {
                let is_there = faults.iter().any(|planned| planned.fault == wanted);
                assert!(is_there, "{wanted:?} with seed {seed}");
            }
        }
    }

    #[test]
    fn every_fault_comes_up() {
        for (cluster, disks) in [(false, 0), (true, 0), (false, 3)] {
            let plan = Plan(Shape {
                cluster,
                disks,
                ..plan(7).0
            });
            let met: std::collections::BTreeSet<&str> = plan
                .faults()
                .take(2_000)
                .map(|planned| planned.fault.name())
                .collect();
            let table = fault::table(&plan.0);
            let all = table.iter().filter(|(weight, _)| *weight > 0);
            assert_eq!(met.len(), all.count());
        }
    }
}
