//! The queue in a small world of its own: a broker, workers with a journal and
//! locks, and everything that can be lost between them, under random schedules.

mod world;

use proptest::prelude::*;

use crate::request::OnBusy;

use world::World;

const WORKSPACES: [&str; 4] = ["a", "b", "c", "d"];
const WORKERS: usize = 3;
/// Slots of a process at most: with one each, they are fewer than the workspaces.
const SLOTS: usize = 2;

/// Different turns of a workspace.
const TURNS: usize = 7;

/// Turns of a lower number have the same id in all workspaces.
const SHARED_IDS: usize = 3;

/// A turn's name: workspace and number. The same number occurs in all workspaces.
type Name = (usize, usize);

/// What turns of a number ask for.
#[derive(Debug, Clone, Copy)]
struct Kind {
    start_within: Option<u64>,
    on_busy: OnBusy,
}

fn kinds() -> impl Strategy<Value = Vec<Kind>> {
    let start_within = prop_oneof![2 => Just(None), 1 => (1..60u64).prop_map(Some)];
    let on_busy = prop_oneof![
        3 => Just(OnBusy::Enqueue),
        2 => Just(OnBusy::Reject),
        2 => Just(OnBusy::Interrupt)
    ];
    let kind = (start_within, on_busy).prop_map(|(start_within, on_busy)| Kind {
        start_within,
        on_busy,
    });
    prop::collection::vec(kind, TURNS)
}

#[derive(Debug, Clone)]
enum Step {
    Publish(Name),
    Deliver(usize),
    Confirm {
        which: usize,
        taken: bool,
    },
    Claim {
        which: usize,
        how: ClaimRun,
    },
    Receive {
        which: usize,
        kept: bool,
    },
    /// Workers hear what sequencers want stopped.
    HearControl {
        many: usize,
        lost: bool,
    },
    HearStatus {
        many: usize,
        how: Hearing,
    },
    FlushAcks(usize),
    Take(usize),
    TakePrivate(usize),
    /// From now on it sees the journals as they are now.
    LookAway(usize),
    LookAgain(usize),
    Freeze(usize),
    Thaw(usize),
    DeleteQueue(usize),
    /// Too short for heartbeats.
    Moment(u64),
    /// Heartbeats are under way, and heard with the other reports.
    Beat,
    Finish {
        worker: usize,
        which: usize,
    },
    Die(usize),
    LoseOffer(usize),
    Cancel {
        turn: Name,
        with_workspace: bool,
    },
    Pass {
        seconds: u64,
        beats_lost: bool,
    },
    TellDepth,
    Takeover {
        how: Takeover,
        published: bool,
    },
    ZombiePasses(u64),
    /// An operator does it; processes notice when they look.
    Pause(Option<Paused>),
    /// The workers look by their numbers, and after them the sequencer.
    LookAtPauses(usize),
    /// A home arrives in the log, or not.
    WriteHome {
        which: usize,
        arrives: bool,
    },
    /// The active sequencer reads on in the log.
    ReadLog(usize),
    /// A worker's disk is gone for good.
    LoseDisk(usize),
    /// A workspace is moved to a worker's disk.
    Move {
        workspace: usize,
        worker: usize,
    },
}

#[derive(Debug, Clone, Copy)]
enum Paused {
    Pool,
    Workspace(usize),
    /// That of the turns with odd numbers.
    Tenant,
}

#[derive(Debug, Clone, Copy)]
enum Hearing {
    InOrder,
    Lost,
    Twice,
    LastFirst,
}

#[derive(Debug, Clone, Copy)]
enum ClaimRun {
    Answered,
    FailedBefore,
    /// It took effect, and then its publication failed.
    FailedAfter,
    /// Where a run has ended, the shell may say either.
    SaysRun,
}

#[derive(Debug, Clone, Copy)]
enum Takeover {
    /// The same process connects again.
    Reset,
    /// Another process; the one before is dead.
    Successor,
    /// Another process, and the one before does not know.
    Zombie,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let name = || (0..WORKSPACES.len(), 0..TURNS);
    let claim = prop_oneof![
        4 => Just(ClaimRun::Answered), 1 => Just(ClaimRun::FailedBefore),
        1 => Just(ClaimRun::FailedAfter), 1 => Just(ClaimRun::SaysRun),
    ];
    let takeover = prop_oneof![
        Just(Takeover::Reset),
        Just(Takeover::Successor),
        Just(Takeover::Zombie)
    ];
    let hearing = prop_oneof![
        7 => Just(Hearing::InOrder), 1 => Just(Hearing::Lost),
        1 => Just(Hearing::Twice), 1 => Just(Hearing::LastFirst),
    ];
    let usually = || prop::bool::weighted(0.8);
    let rarely = || prop::bool::weighted(0.2);
    let paused = prop_oneof![
        1 => Just(Paused::Pool), 2 => (0..WORKSPACES.len()).prop_map(Paused::Workspace),
        2 => Just(Paused::Tenant),
    ];
    let step = prop_oneof![
        20 => name().prop_map(Step::Publish),
        20 => (1..6usize).prop_map(Step::Deliver),
        20 => (0..9usize, usually()).prop_map(|(which, taken)| Step::Confirm { which, taken }),
        12 => (0..9usize, claim).prop_map(|(which, how)| Step::Claim { which, how }),
        10 => (0..9usize, usually()).prop_map(|(which, kept)| Step::Receive { which, kept }),
        16 => (1..6usize, hearing).prop_map(|(many, how)| Step::HearStatus { many, how }),
        8 => (1..6usize, rarely()).prop_map(|(many, lost)| Step::HearControl { many, lost }),
        10 => (1..9usize).prop_map(Step::FlushAcks),
        24 => (0..WORKERS).prop_map(Step::Take),
        16 => (0..WORKERS).prop_map(Step::TakePrivate),
        3 => (0..WORKERS).prop_map(Step::LookAway),
        3 => (0..WORKERS).prop_map(Step::LookAgain),
        2 => (0..WORKERS).prop_map(Step::Freeze),
        4 => (0..WORKERS).prop_map(Step::Thaw),
        1 => (0..WORKERS).prop_map(Step::DeleteQueue),
        12 => (1..700u64).prop_map(Step::Moment),
        6 => Just(Step::Beat),
        20 => (0..WORKERS, 0..SLOTS).prop_map(|(worker, which)| Step::Finish { worker, which }),
        3 => (0..WORKERS).prop_map(Step::Die),
        3 => (0..9usize).prop_map(Step::LoseOffer),
        8 => (name(), any::<bool>()).prop_map(|(turn, with_workspace)| Step::Cancel { turn, with_workspace }),
        14 => (1..40u64, rarely()).prop_map(|(seconds, beats_lost)| Step::Pass { seconds, beats_lost }),
        3 => Just(Step::TellDepth),
        3 => (takeover, any::<bool>()).prop_map(|(how, published)| Step::Takeover { how, published }),
        2 => (1..700u64).prop_map(Step::ZombiePasses),
        3 => prop::option::of(paused).prop_map(Step::Pause),
        12 => (0..=WORKERS).prop_map(Step::LookAtPauses),
        16 => (0..9usize, usually()).prop_map(|(which, arrives)| Step::WriteHome { which, arrives }),
        16 => (1..4usize).prop_map(Step::ReadLog),
        1 => (0..WORKERS).prop_map(Step::LoseDisk),
        3 => (0..WORKSPACES.len(), 0..WORKERS).prop_map(|(workspace, worker)| Step::Move { workspace, worker }),
    ];
    prop::collection::vec(step, 1..300)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn g1_g2_g4_g5_hold_under_random_schedules(
        max_waiting in 1..6usize,
        seed in any::<u64>(),
        kinds in kinds(),
        steps in steps(),
    ) {
        let mut world = World::new(max_waiting, seed, kinds, false);
        for step in &steps {
            world.step(step);
        }
        world.settle();
    }

    /// The same, where each worker has a disk of its own.
    #[test]
    fn g1_g2_g4_g5_hold_without_shared_storage(
        max_waiting in 1..6usize,
        seed in any::<u64>(),
        kinds in kinds(),
        steps in steps(),
    ) {
        let mut world = World::new(max_waiting, seed, kinds, true);
        for step in &steps {
            world.step(step);
        }
        world.settle();
    }
}
