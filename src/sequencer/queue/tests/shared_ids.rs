//! A turn id that turns of several workspaces have.

use super::*;

fn id_taken(name: &str, workspace: &str) -> Out {
    let workspace = workspace.into();
    claim(name, Verdict::IdTaken { workspace })
}

#[test]
fn g5_the_turn_that_came_first_keeps_its_id_until_it_has_ended() {
    let mut b = Bench::new(10);
    assert_eq!(b.fresh(1, "a/1"), [offer("a/1")]);
    assert_eq!(b.fresh(2, "b/1"), [id_taken("b/1", "a")]);
    assert_eq!(b.answer("b/1", ClaimAnswer::Won), [ack(2)]);
    assert!(b.queue.holds_turn_id("1"));
    assert_eq!(b.done("a/1"), [ack(1)]);
    assert!(!b.queue.holds_turn_id("1"));
    assert_eq!(b.fresh(3, "b/1"), [offer("b/1")]);
}

#[test]
fn g5_a_turn_whose_end_is_recorded_has_its_id_no_longer() {
    let mut b = Bench::new(10);
    b.redelivered(1, "a/1");
    assert_eq!(b.fresh(2, "b/1"), [id_taken("b/1", "a")]);
    // Of three, the one that came before the third has it now.
    assert_eq!(b.fresh(3, "c/1"), [id_taken("c/1", "a")]);
    assert_eq!(
        b.answer("c/1", ClaimAnswer::AllEnded),
        [id_taken("c/1", "b")]
    );
    assert_eq!(b.answer("b/1", ClaimAnswer::AllEnded), [offer("b/1")]);
    assert_eq!(b.answer("c/1", ClaimAnswer::Won), [ack(3)]);
}

#[test]
fn g5_a_claim_that_failed_is_not_asked_for_again_once_the_id_is_free() {
    let mut b = Bench::new(10);
    b.fresh(1, "a/1");
    b.fresh(2, "b/1");
    assert_eq!(b.answer("b/1", ClaimAnswer::Failed), NONE);
    b.done("a/1");
    assert_eq!(b.pass(3.0), [offer("b/1")]);
}

#[test]
fn g4_a_turn_that_was_started_under_a_shared_id_stays_in_line() {
    let mut b = Bench::new(1);
    b.redelivered(1, "a/1");
    assert_eq!(b.redelivered(2, "b/1"), [id_taken("b/1", "a")]);
    assert_eq!(b.answer("b/1", ClaimAnswer::AlreadyRun), NONE);
    assert_eq!(b.pass(3.0), [offer("a/1"), offer("b/1")]);
    assert_eq!(b.fresh(3, "b/2"), [claim("b/2", BacklogFull)]);
    assert_eq!(b.done("b/1"), [ack(2)]);
}

/// Any other verdict would publish its ending under the shared id.
#[test]
fn g5_nothing_else_ends_a_turn_while_another_has_its_id() {
    let mut b = Bench::new(1);
    b.fresh(1, "a/1");
    b.cancel("1", Some("b"));
    assert_eq!(b.fresh(2, "b/1"), [id_taken("b/1", "a")]);
    b.answer("b/1", ClaimAnswer::Won);
    b.fresh(3, "c/2");
    assert_eq!(b.fresh(4, "c/1"), [id_taken("c/1", "a")]);
    assert_eq!(b.reject(5, "d/1"), [id_taken("d/1", "a")]);
    assert_eq!(b.cancel("1", Some("c")), NONE);
    assert_eq!(b.answer("c/1", ClaimAnswer::Failed), NONE);
    assert_eq!(b.pass(3.0), [id_taken("c/1", "a")]);
    // With the id to itself, it is treated as it is without.
    b.done("a/1");
    assert_eq!(
        b.answer("c/1", ClaimAnswer::AllEnded),
        [claim("c/1", Cancelled)]
    );
}

#[test]
fn a_line_has_its_limits_also_for_a_turn_whose_id_was_shared() {
    let mut b = Bench::new(1);
    b.redelivered(1, "a/1");
    b.fresh(2, "b/2");
    assert_eq!(b.fresh(3, "b/1"), [id_taken("b/1", "a")]);
    let limited = b.answer("b/1", ClaimAnswer::AllEnded);
    assert_eq!(limited, [claim("b/1", BacklogFull)]);
    b.redelivered(4, "a/3");
    assert_eq!(b.reject(5, "b/3"), [id_taken("b/3", "a")]);
    let limited = b.answer("b/3", ClaimAnswer::AllEnded);
    assert_eq!(limited, [busy("b/3", &["1", "2"])]);
}

#[test]
fn a_line_is_looked_at_when_the_claim_is_answered_and_not_before() {
    let mut b = Bench::new(1);
    b.fresh(1, "a/1");
    b.fresh(2, "b/2");
    b.fresh(3, "b/1");
    assert_eq!(b.done("a/1"), [ack(1)]);
    assert_eq!(b.heartbeat(&["b/1"]), NONE);
    assert_eq!(b.done("b/2"), [ack(2)]);
    assert_eq!(b.answer("b/1", ClaimAnswer::Failed), NONE);
    assert_eq!(b.pass(20.0), [offer("b/1")]);
}

#[test]
fn a_turn_that_shares_its_id_interrupts_nobody_before_it_is_known_to_go_on() {
    let mut b = Bench::new(10);
    b.redelivered(1, "a/1");
    b.fresh(2, "b/2");
    assert_eq!(b.interrupt(3, "b/1"), [id_taken("b/1", "a")]);
    let ahead = b.answer("b/1", ClaimAnswer::AllEnded);
    assert_eq!(ahead, [superseded("b/2", "1")]);
    assert_eq!(b.answer("b/2", ClaimAnswer::Won), [ack(2), offer("b/1")]);
}
