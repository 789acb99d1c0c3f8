//! Every violation is found, without false alarms.

use std::rc::Rc;

use jiff::Timestamp;
use turn_worker::event::{EventBody, SealedEvent, Sealer, StopReason};
use turn_worker::workspace::{Claim, Finished, Started, Verdict};

use super::homes::HomesRecord;
use super::*;
use crate::disks::Lost;
use crate::plan::turn::Turn;
use crate::record::events::{End, hash};
use crate::record::journals::Record;

/// t1, t2, t3 in workspace a and t4 in workspace b, one after the other, each
/// with a text; all is well.
struct World {
    records: Records,
    clock: u128,
}

fn at(clock: u128) -> Timestamp {
    Timestamp::from_nanosecond(clock.cast_signed()).unwrap()
}

impl World {
    fn new() -> Self {
        let mut world = Self {
            records: Records::default(),
            clock: 1_000,
        };
        let turns = [("t1", "a"), ("t2", "a"), ("t3", "a"), ("t4", "b")];
        for (turn, workspace) in turns {
            world.accept(turn, workspace);
        }
        for (turn, workspace) in turns {
            world.run(turn, workspace, 1);
            world.end(turn, workspace, 1);
        }
        world
    }

    fn now(&mut self) -> u128 {
        self.clock += 10;
        self.clock
    }

    fn accept(&mut self, id: &str, workspace: &str) {
        let mut turn = Turn::waiting(0, "go");
        turn.id = id.to_owned();
        turn.workspace = workspace.to_owned();
        turn.says = 1;
        let at = self.now();
        self.records.load.accepted.push(Accepted { turn, at });
    }

    fn journal(&mut self, workspace: &str, record: Record) {
        let records = &mut self.records.journals.records;
        records
            .entry(workspace.to_owned())
            .or_default()
            .push(record);
    }

    /// Recorded as started, codex from start to end, its two first events.
    fn run(&mut self, turn: &str, workspace: &str, attempt: u32) {
        let started = Started {
            turn_id: turn.to_owned(),
            attempt,
            fingerprint: 0,
            at: at(self.now()),
            worker: "host-name-77-abc".to_owned(),
            thread: None,
            fence: None,
        };
        self.journal(workspace, Record::Started(started));
        let run = Run {
            tag: turn.to_owned(),
            workspace: workspace.to_owned(),
            disk: 0,
            pid: 100 + self.records.runs.len() as i32,
            start: self.now(),
            end: Some(self.now()),
            overlapped: false,
        };
        self.records.runs.push(run);
        for (seq, kind) in [(0, "message_start"), (1, "text_delta")] {
            self.tell(turn, attempt, seq, kind, kind.as_bytes(), None);
        }
    }

    fn tell(
        &mut self,
        turn: &str,
        attempt: u32,
        seq: u64,
        kind: &'static str,
        body: &[u8],
        end: Option<End>,
    ) {
        let told = Told {
            at: self.now(),
            turn: Rc::from(turn),
            attempt,
            seq,
            kind,
            message: (kind == "text_delta").then(|| hash(body)),
            hash: hash(body),
            end,
        };
        self.records.told.push(told);
    }

    /// Recorded and then published.
    fn end(&mut self, turn: &str, workspace: &str, attempt: u32) {
        let end = ending(turn, attempt, StopReason::EndTurn);
        let finished = Finished {
            turn_id: turn.to_owned(),
            attempt,
            at: at(self.now()),
            stop_reason: StopReason::EndTurn,
            code: None,
            usage: None,
            thread: None,
            unconfirmed: Vec::new(),
            ending: vec![end.clone()],
        };
        self.journal(workspace, Record::Finished(Box::new(finished)));
        self.tell_end(turn, attempt, &end.json, StopReason::EndTurn);
    }

    fn tell_end(&mut self, turn: &str, attempt: u32, body: &str, stop: StopReason) {
        let end = Some(End::Message(stop));
        self.tell(turn, attempt, 2, "message_end", body.as_bytes(), end);
    }

    /// Without that turn's end, recorded or published.
    fn without_end(&mut self, turn: &str) {
        self.untell(|told| &*told.turn == turn && told.kind == "message_end");
        self.unrecord(turn);
    }

    fn untell(&mut self, which: impl Fn(&Told) -> bool) {
        self.records.told.retain(|told| !which(told));
    }

    fn unrecord(&mut self, turn: &str) {
        for records in self.records.journals.records.values_mut() {
            records
                .retain(|record| !matches!(record, Record::Finished(end) if end.turn_id == turn));
        }
    }

    fn cancelled(&mut self, turn: &str) -> SealedEvent {
        let end = ending(turn, 0, StopReason::Cancelled);
        let claim = Claim {
            verdict: Verdict::Unrun {
                ending: vec![end.clone()],
            },
            fingerprint: 0,
            made_at: at(self.now()),
            by: "somebody".to_owned(),
        };
        self.records.journals.claims.insert(turn.to_owned(), claim);
        self.records.load.cancelled.push((turn.to_owned(), 0));
        end
    }

    /// Each check that found something, with the turns that it names.
    fn found(&self) -> Vec<(Check, String)> {
        let findings = judge(&self.records).into_iter();
        findings
            .map(|finding| (finding.check, finding.turn.unwrap_or_default()))
            .collect()
    }

    #[track_caller]
    fn finds(&self, expected: &[(Check, &str)]) {
        let expected: Vec<_> = expected
            .iter()
            .map(|&(check, turn)| (check, turn.to_owned()))
            .collect();
        assert_eq!(self.found(), expected, "{:#?}", judge(&self.records));
    }
}

fn ending(turn: &str, attempt: u32, stop_reason: StopReason) -> SealedEvent {
    let body = EventBody::MessageEnd {
        stop_reason,
        text: None,
        structured: None,
        thread_id: None,
        superseded_by: None,
        model: None,
        duration_ms: 1,
        metadata: None,
        usage: None,
    };
    Sealer::new(turn, "a", attempt).seal(body, Timestamp::UNIX_EPOCH)
}

#[test]
fn a_run_without_fault_is_found_well() {
    World::new().finds(&[]);
}

#[test]
fn what_faults_explain_is_no_violation() {
    let mut world = World::new();
    world.accept("t5", "a");
    // Attempt 1 dies with its worker; what it still says comes late.
    world.run("t5", "a", 1);
    world.records.dead_workers.insert(77);
    let late = world.records.told.pop().unwrap();
    world.run("t5", "a", 2);
    world.records.told.push(late);
    world.end("t5", "a", 2);
    // Read once more, since the reader's connection was lost.
    let again = world.records.told.clone();
    world.records.told.extend(again);
    // Cancelled in line.
    world.accept("t6", "a");
    let end = world.cancelled("t6");
    world.tell("t6", 0, 0, "message_start", b"", None);
    let stop = Some(End::Message(StopReason::Cancelled));
    world.tell("t6", 0, 1, "message_end", end.json.as_bytes(), stop);
    world.finds(&[]);
}

#[test]
fn g4_a_turn_without_an_end_is_lost() {
    let mut world = World::new();
    world.without_end("t2");
    world.records.dead_workers.insert(77);
    world.finds(&[(Check::Lost, "t2")]);
    world.untell(|told| &*told.turn == "t2");
    world.finds(&[(Check::Lost, "t2")]);
}

#[test]
fn g4_a_turn_that_runs_after_its_end_is_found_in_each_record() {
    // In the journal, and by the reader's and the stand-in's clocks.
    let mut world = World::new();
    world.run("t3", "a", 2);
    world.end("t3", "a", 2);
    let found = world.found();
    let count = |check| found.iter().filter(|(found, _)| *found == check).count();
    assert_eq!(
        (count(Check::RunAgain), count(Check::Ends)),
        (3, 1),
        "{found:?}"
    );

    // Only there.
    let mut world = World::new();
    let mut run = world.records.runs[2].clone();
    run.start = world.now();
    run.end = None;
    world.records.runs.push(run);
    world.finds(&[(Check::RunAgain, "t3"), (Check::RunAgain, "t3")]);

    let mut world = World::new();
    world.records.runs[2].tag = "other-t3".to_owned();
    world.finds(&[(Check::RunAgain, "other-t3")]);

    // Though it was decided that it does not run.
    let mut world = World::new();
    world.unrecord("t3");
    let end = world.cancelled("t3");
    world.records.dead_workers.insert(77);
    world.untell(|told| &*told.turn == "t3" && told.kind == "message_end");
    world.tell_end("t3", 1, &end.json, StopReason::Cancelled);
    world.finds(&[(Check::RunAgain, "t3")]);
}

#[test]
fn g1_a_turn_that_starts_before_an_earlier_one_is_out_of_order() {
    let mut world = World::new();
    world.records.load.accepted.swap(1, 2);
    // By the stand-in and by the journal.
    world.finds(&[(Check::OutOfOrder, "t3"), (Check::OutOfOrder, "t3")]);

    // Also where it started in time, and once more too late.
    let mut world = World::new();
    let mut late = world.records.runs[0].clone();
    late.start = 1_091;
    late.end = Some(1_092);
    world.records.runs.insert(2, late);
    let found = world.found();
    assert!(
        found.contains(&(Check::OutOfOrder, "t1".to_owned())),
        "{found:?}"
    );
    // Workspaces have no order among them.
    let mut world = World::new();
    world.records.load.accepted.swap(0, 3);
    let t1_last = world.found();
    assert!(t1_last.iter().all(|(_, turn)| turn != "t4"), "{t1_last:?}");
}

#[test]
fn g3_two_trees_in_one_workspace_are_found_by_lock_and_by_time() {
    let mut world = World::new();
    world.records.runs[1].overlapped = true;
    world.finds(&[(Check::Overlap, "t2")]);

    let mut world = World::new();
    world.records.runs[0].end = Some(world.records.runs[1].start + 1);
    world.finds(&[(Check::Overlap, "t2")]);
}

#[test]
fn an_attempt_that_another_one_ended_is_cut_off() {
    let mut world = World::new();
    world.accept("t5", "b");
    world.run("t5", "b", 1);
    world.run("t5", "b", 2);
    world.end("t5", "b", 2);
    world.finds(&[(Check::CutOff, "t5")]);
}

#[test]
fn g5_an_end_is_published_once_as_it_was_recorded() {
    let ends = [(Check::Ends, "t2")];

    let mut world = World::new();
    world.untell(|told| &*told.turn == "t2" && told.kind == "message_end");
    world.finds(&ends);

    let mut world = World::new();
    world.unrecord("t2");
    world.records.dead_workers.insert(77);
    world.finds(&ends);

    // A second one, another body under the first one's place, another place.
    let mut world = World::new();
    world.tell_end("t2", 1, "another", StopReason::EndTurn);
    world.finds(&ends);
    let mut world = World::new();
    world.tell("t2", 2, 0, "message_start", b"", None);
    world.finds(&ends);

    let mut world = World::new();
    world.tell("t9", 0, 0, "message_start", b"", None);
    world.finds(&[(Check::Ends, "t9")]);

    // Reported otherwise from the first.
    let mut world = World::new();
    let end = world
        .records
        .told
        .iter_mut()
        .find(|told| told.kind == "message_end");
    end.unwrap().hash += 1;
    world.finds(&[(Check::Ends, "t1")]);

    let mut world = World::new();
    world.records.journals.unreadable.push("torn".to_owned());
    world.finds(&[(Check::Ends, "")]);
}

#[test]
fn g6_a_missing_number_is_a_gap_also_where_it_comes_later() {
    let mut world = World::new();
    world.untell(|told| &*told.turn == "t2" && told.seq == 1);
    let late = World::new().records.told.into_iter();
    let late = late.filter(|told| &*told.turn == "t2" && told.seq == 1);
    world.records.told.extend(late);
    world.finds(&[(Check::Gaps, "t2")]);

    let mut world = World::new();
    world.untell(|told| &*told.turn == "t2" && told.seq == 0);
    let found = world.found();
    assert!(found.contains(&(Check::Gaps, "t2".to_owned())), "{found:?}");

    let mut world = World::new();
    world.records.malformed.push("{".to_owned());
    world.finds(&[(Check::Gaps, "")]);
}

#[test]
fn an_end_without_a_plan_or_a_cause_is_found() {
    let failed = |killed: bool| {
        let mut world = World::new();
        world.accept("t5", "b");
        world.run("t5", "b", 1);
        let end = ending("t5", 1, StopReason::Error);
        world.tell("t5", 1, 2, "error", b"", Some(End::Error("codex.exited")));
        world.tell(
            "t5",
            1,
            3,
            "message_end",
            end.json.as_bytes(),
            Some(End::Message(StopReason::Error)),
        );
        let finished = Finished {
            turn_id: "t5".to_owned(),
            attempt: 1,
            at: at(world.now()),
            stop_reason: StopReason::Error,
            code: None,
            usage: None,
            thread: None,
            unconfirmed: Vec::new(),
            ending: vec![end],
        };
        world.journal("b", Record::Finished(Box::new(finished)));
        if killed {
            world.records.killed.push(world.records.runs[4].pid);
        }
        world
    };
    failed(true).finds(&[]);
    failed(false).finds(&[(Check::Outcomes, "t5")]);

    let mut world = World::new();
    world.records.load.accepted[1].turn.says = 2;
    world.finds(&[(Check::Outcomes, "t2")]);
}

#[test]
fn what_is_left_behind_is_reported() {
    let mut world = World::new();
    let some = || vec!["something".to_owned()];
    world.records.after = After {
        deaf_slots: some(),
        left_behind: some(),
        processes: some(),
        died: some(),
    };
    let all = [
        Check::DeafSlots,
        Check::LeftBehind,
        Check::Processes,
        Check::Died,
    ];
    world.finds(&all.map(|check| (check, "")));
}

#[test]
fn events_of_a_superseded_attempt_after_the_end_count_on_several_hosts() {
    let mut world = World::new();
    world.without_end("t4");
    world.run("t4", "b", 2);
    world.end("t4", "b", 2);
    for seq in 2..5 {
        world.tell("t4", 1, seq, "text_delta", b"late", None);
    }
    world.records.dead_workers.insert(77);
    world.finds(&[]);
    world.records.across_hosts = true;
    world.finds(&[(Check::Late, "t4")]);
}

#[test]
fn an_attempt_that_another_host_ended_is_no_finding() {
    let mut world = World::new();
    world.without_end("t4");
    world.run("t4", "b", 2);
    world.end("t4", "b", 2);
    world.finds(&[(Check::CutOff, "t4")]);
    world.records.across_hosts = true;
    world.finds(&[]);
}

/// A disk was ordered lost at a time, and the command returned later; t4's
/// workspace b lived there.
fn with_loss(world: &mut World, ordered: u128, at: u128) {
    let lost = Lost {
        disk: 0,
        ordered,
        at,
    };
    world.records.homes = Some(HomesRecord {
        lost: vec![lost],
        lived: [(0, "b".to_owned())].into(),
        ..HomesRecord::default()
    });
}

#[test]
fn only_turns_that_a_lost_disk_may_have_had_may_be_lost() {
    let may_be_lost = |world: &World, turn: &str| {
        let mut accepted = world.records.load.accepted.iter();
        let accepted = accepted.find(|accepted| accepted.turn.id == turn).unwrap();
        world.records.may_be_lost(accepted)
    };
    let mut world = World::new();
    assert!(!may_be_lost(&world, "t4"), "no disk was lost");
    let (ordered, at) = (world.now(), world.now());
    with_loss(&mut world, ordered, at);
    world.accept("t5", "b");
    world.accept("t6", "c");
    assert!(may_be_lost(&world, "t4"), "its workspace lived there");
    assert!(!may_be_lost(&world, "t1"), "its workspace ran elsewhere");
    assert!(!may_be_lost(&world, "t5"), "accepted after the loss");
    assert!(!may_be_lost(&world, "t6"), "accepted after the loss");

    // A workspace that had not run when the command was first given may have had
    // its home there without a record of it.
    let mut world = World::new();
    let ordered = world.now();
    world.accept("t5", "c");
    world.run("t5", "c", 1);
    let at = world.now();
    with_loss(&mut world, ordered, at);
    assert!(may_be_lost(&world, "t5"), "it first ran after the order");
    // One that had run by then had its home, and is known to have lived elsewhere.
    let ordered = world.now();
    let at = world.now();
    with_loss(&mut world, ordered, at);
    assert!(!may_be_lost(&world, "t5"), "it ran before the order");
}
