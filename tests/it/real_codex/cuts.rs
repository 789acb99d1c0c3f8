//! Turns that are cut off, and how the conversation goes on.

use std::fs;

use rustix::process::Signal;

use super::Codex;
use crate::support::processes::of_workspace;

#[test]
fn g7_a_cancelled_turn_reports_what_it_has_spent_and_the_next_goes_on() {
    let codex = Codex::new();
    let mut running = codex.start("a", "Begin.\nrun: touch begun; sleep 100000");
    running.event(|event| event["type"] == "tool_use");
    crate::support::host::until("the command runs", || {
        codex.workspace("a").join("begun").exists().then_some(())
    });
    running.signal(Signal::INT);
    let turn = running.ended();
    assert_eq!(turn.stop_reason(), "cancelled");
    assert_eq!(turn.usage(), codex.cost("Begin."));
    assert!(turn.usage().is_some());
    assert_eq!(of_workspace(&codex.workspace("a")), [0; 0]);

    let next = codex.run("a", "Go on.");
    next.assert_end_turn();
    assert_eq!(next.thread(), turn.thread());
    assert_eq!(next.notices(), [""; 0]);
    assert_eq!(next.usage(), codex.cost("Go on."));
    assert_eq!(codex.asked("Go on.", 1).said, 2);
}

#[test]
fn a_model_that_never_answers_is_bounded_by_the_turns_time() {
    let codex = Codex::new().map(|host| host.set("TURN_TIMEOUT", "3s"));
    let turn = codex.run("a", "Wait.\nhang");
    assert_eq!(turn.stop_reason(), "timeout");
    assert_eq!(turn.error().0, "turn.timeout");
    assert_eq!(turn.usage(), None);
}

#[test]
fn a_model_that_never_answers_is_bounded_by_the_idle_time() {
    let codex = Codex::new().map(|host| host.set("TURN_IDLE_TIMEOUT", "3s"));
    let turn = codex.run("a", "Wait.\nhang");
    assert_eq!(turn.error().0, "turn.idle_timeout");
}

#[test]
fn g3_g7_after_the_worker_was_killed_the_next_turn_resumes_and_counts_its_own() {
    let codex = Codex::new();
    let first = codex.run("a", "Hello.");
    let mut running = codex.start("a", "Work.\nrun: echo done\nsay: So far.\nhold: on");
    running.event(|event| event["type"] == "tool_result");
    codex.asked("Work.", 2);
    running.kill();
    codex.unlocked("a", &[]);
    codex.model.release("on");

    let next = codex.run("a", "Go on.");
    next.assert_end_turn();
    assert_eq!(next.thread(), first.thread());
    assert_eq!(next.notices(), [""; 0]);
    assert_eq!(next.usage(), codex.cost("Go on."));
    assert_eq!(codex.asked("Go on.", 1).said, 3);
}

#[test]
fn a_conversation_without_its_record_is_lost_and_a_new_one_starts() {
    let codex = Codex::new();
    let first = codex.run("a", "Hello.");
    for rollout in codex.rollouts() {
        fs::remove_file(rollout).unwrap();
    }
    let second = codex.run("a", "Go on.");
    second.assert_end_turn();
    assert_eq!(second.notices(), ["codex.thread_lost"]);
    assert_ne!(second.thread(), first.thread());
    assert_eq!(second.usage(), codex.cost("Go on."));
    assert_eq!(codex.asked("Go on.", 1).said, 1);
    let third = codex.run("a", "And on.");
    assert_eq!(third.thread(), second.thread());
    assert_eq!(third.usage(), codex.cost("And on."));
}

#[test]
fn a_record_with_a_torn_tail_is_resumed() {
    let codex = Codex::new();
    let first = codex.run("a", "Hello.");
    let rollout = codex.rollouts().remove(0);
    let mut record = fs::read(&rollout).unwrap();
    record.extend_from_slice(b"{\"timestamp\":\"2026-");
    fs::write(&rollout, record).unwrap();
    let second = codex.run("a", "Go on.");
    second.assert_end_turn();
    assert_eq!(second.thread(), first.thread());
    assert_eq!(second.usage(), codex.cost("Go on."));
}
