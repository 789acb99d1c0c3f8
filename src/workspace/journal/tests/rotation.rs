//! Forgetting the oldest turns, and what must not be forgotten.

use super::*;
use crate::event::ErrorCode;
use crate::workspace::testing::{events, finished, lock, run_claim, started, tokens, workspace};
use crate::workspace::{Claim, LockedJournal, TurnHistory, Verdict, Workspace};

const TURNS: u64 = 3;

fn open(workspace: &Workspace) -> LockedJournal {
    lock(workspace).open_journal_of(TURNS, None).unwrap()
}

/// Runs turns `t<from>` to before `t<to>`, each as a worker does.
fn run(workspace: &Workspace, from: u64, to: u64) {
    for n in from..to {
        let turn = format!("t{n}");
        let mut journal = open(workspace);
        workspace.claims().claim(&turn, &run_claim()).unwrap();
        workspace.claims().mark_cancelled(&turn, None).unwrap();
        journal.started(&started(&turn, 1)).unwrap();
        journal.finished(&finished(&turn, 1, n)).unwrap();
    }
}

fn is_known(workspace: &Workspace, n: u64) -> bool {
    let turn = format!("t{n}");
    let ran = workspace.history(&turn).unwrap().finished.is_some();
    let claimed = workspace.claims().find(&turn).unwrap().is_some();
    let marked = workspace.claims().cancel_mark(&turn).unwrap().is_some();
    assert_eq!((claimed, marked), (ran, ran), "{turn}");
    // Looks without making it forget.
    let journal = lock(workspace).open_journal(None).unwrap();
    assert_eq!(journal.history(&turn).unwrap().finished.is_some(), ran);
    ran
}

#[test]
fn g4_at_least_so_many_of_the_last_turns_are_remembered() {
    let (_tmp, workspace) = workspace();
    for n in 0..4 * TURNS {
        run(&workspace, n, n + 1);
        let known: Vec<u64> = (0..=n).filter(|n| is_known(&workspace, *n)).collect();
        let least = TURNS.min(n + 1);
        assert!(known.len() as u64 >= least, "after t{n}: {known:?}");
        assert!(known.len() as u64 <= 2 * TURNS, "after t{n}: {known:?}");
        assert_eq!(known.last(), Some(&n));
        assert_eq!(known[known.len() - 1] - known[0], known.len() as u64 - 1);
    }
}

#[test]
fn g4_forgetting_turns_that_ran_leaves_verdicts_alone() {
    let (_tmp, workspace) = workspace();
    let rejected = Claim {
        verdict: Verdict::Rejected {
            code: ErrorCode::BacklogFull,
            ending: events("r", 0, 1),
        },
        ..run_claim()
    };
    workspace.claims().claim("r", &rejected).unwrap();
    run(&workspace, 0, 4 * TURNS);
    assert_eq!(workspace.claims().find("r").unwrap(), Some(rejected));
}

#[test]
fn g4_a_turn_in_both_segments_keeps_its_claim() {
    let (_tmp, workspace) = workspace();
    let mut journal = open(&workspace);
    workspace.claims().claim("late", &run_claim()).unwrap();
    journal.started(&started("late", 1)).unwrap();
    drop(journal);
    run(&workspace, 0, TURNS);
    let mut journal = open(&workspace);
    assert!(path(&workspace, OLD).exists());
    journal.started(&started("late", 2)).unwrap();
    drop(journal);
    assert_eq!(workspace.history("late").unwrap().started.len(), 2);
    run(&workspace, TURNS, 2 * TURNS);
    drop(open(&workspace));
    assert!(workspace.claims().find("late").unwrap().is_some());
    assert_eq!(workspace.history("late").unwrap().next_attempt(), 3);
    run(&workspace, 2 * TURNS, 3 * TURNS);
    drop(open(&workspace));
    assert_eq!(workspace.claims().find("late").unwrap(), None);
    assert_eq!(workspace.history("late").unwrap(), TurnHistory::default());
}

#[test]
fn g7_the_baseline_outlives_the_segment_that_it_comes_from() {
    let (_tmp, workspace) = workspace();
    run(&workspace, 0, TURNS);
    for _ in 0..3 {
        let mut journal = open(&workspace);
        assert_eq!(journal.baseline().unwrap().total, Some(tokens(TURNS - 1)));
        for n in 0..TURNS {
            let mut no_thread = finished(&format!("n{n}"), 1, 0);
            no_thread.thread = None;
            journal.finished(&no_thread).unwrap();
        }
        drop(journal);
        std::fs::remove_file(path(&workspace, CHECKPOINT)).unwrap();
    }
}

/// Two full segments: the next opening forgets t0 to t2.
fn full() -> (tempfile::TempDir, Workspace) {
    let (tmp, workspace) = workspace();
    run(&workspace, 0, 2 * TURNS);
    (tmp, workspace)
}

/// After any death: the last turns are known, older ones leave no record
/// behind, and the journal goes on and rotates again.
fn check_goes_on(workspace: &Workspace) {
    let journal = open(workspace);
    assert_eq!(
        journal.baseline().unwrap().total,
        Some(tokens(2 * TURNS - 1))
    );
    drop(journal);
    for n in 0..2 * TURNS {
        assert_eq!(is_known(workspace, n), n >= TURNS, "t{n}");
    }
    run(workspace, 2 * TURNS, 3 * TURNS);
    drop(open(workspace));
    for n in 0..3 * TURNS {
        assert_eq!(is_known(workspace, n), n >= 2 * TURNS, "t{n}");
    }
}

#[test]
fn g4_a_death_while_claims_are_removed_forgets_no_more() {
    for removed in 0..=TURNS {
        let (_tmp, workspace) = full();
        for n in 0..removed {
            let name = format!("claims/t{n}.claim");
            std::fs::remove_file(path(&workspace, &name)).unwrap();
        }
        check_goes_on(&workspace);
    }
}

#[test]
fn g4_a_death_between_the_segments_forgets_no_more() {
    let (_tmp, workspace) = full();
    for n in 0..TURNS {
        for suffix in ["claim", "cancel"] {
            let name = format!("claims/t{n}.{suffix}");
            std::fs::remove_file(path(&workspace, &name)).unwrap();
        }
    }
    std::fs::rename(path(&workspace, JOURNAL), path(&workspace, OLD)).unwrap();
    // Readers without the lock come by before the next worker does.
    let last = format!("t{}", 2 * TURNS - 1);
    assert!(workspace.history(&last).unwrap().finished.is_some());
    write(&workspace, "~tmp-half", b"00000000 {");
    check_goes_on(&workspace);
}

#[test]
fn g4_a_death_before_the_new_checkpoint_forgets_no_more() {
    let (_tmp, workspace) = full();
    let before = read(&workspace, CHECKPOINT);
    drop(open(&workspace));
    write(&workspace, CHECKPOINT, &before);
    check_goes_on(&workspace);
}
