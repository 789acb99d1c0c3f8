//! One test per rule, and their names say which guarantee it serves.

mod affinity;
mod homes;
mod shared_ids;

use jiff::Timestamp;

use super::*;
use crate::request::OnBusy;
use Verdict::{BacklogFull, Cancelled, Expired};

/// What came out, without what the tests don't look at.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Out {
    Ack(u64),
    Offer(String),
    Repeat(String),
    /// A turn, and the process that it is offered to.
    Private(String, String),
    Claim(String, Verdict),
    CancelAgain(String),
    /// A turn, and the one that interrupts it.
    Interrupt(String, String),
    Receive(String),
    /// A workspace, and the host that it is to live on.
    Home(String, Option<String>),
}

fn host_of(record: &crate::homes::HomeRecord) -> Option<String> {
    record.home.as_ref().map(|disk| disk.host.to_string())
}

fn ack(tag: u64) -> Out {
    Out::Ack(tag)
}
fn offer(turn: &str) -> Out {
    Out::Offer(turn.into())
}
fn repeat(turn: &str) -> Out {
    Out::Repeat(turn.into())
}
fn claim(turn: &str, verdict: Verdict) -> Out {
    Out::Claim(turn.into(), verdict)
}

const NONE: [Out; 0] = [];

/// A queue with a clock and a memory for tickets. Turns are written
/// `workspace/turn`; tags are given by the tests.
struct Bench {
    queue: Queue,
    start: Instant,
    now: Instant,
    tickets: HashMap<String, Ticket>,
    out: Vec<Action>,
}

fn parts(name: &str) -> (&str, &str) {
    name.split_once('/').unwrap()
}

fn turn(name: &str, fingerprint: u64) -> QueuedTurn {
    let (workspace, turn_id) = parts(name);
    QueuedTurn {
        workspace: workspace.into(),
        turn_id: turn_id.into(),
        fingerprint,
        start_within: None,
        on_busy: OnBusy::Enqueue,
        request: Arc::from(name.as_bytes()),
        enqueued_at: None,
        tenant: None,
    }
}

impl Bench {
    fn new(max_waiting: usize) -> Self {
        let now = Instant::now();
        Self {
            queue: Queue::new(max_waiting, 1),
            start: now,
            now,
            tickets: HashMap::new(),
            out: Vec::new(),
        }
    }

    fn take(&mut self) -> Vec<Out> {
        let name = |turn: &QueuedTurn| format!("{}/{}", turn.workspace, turn.turn_id);
        std::mem::take(&mut self.out)
            .into_iter()
            .map(|action| match action {
                Action::Ack { tag } => Out::Ack(tag),
                Action::Offer {
                    ticket,
                    turn,
                    repeat,
                    to,
                    ..
                } => {
                    assert_eq!(
                        *turn.request,
                        *name(&turn).as_bytes(),
                        "the first body is offered"
                    );
                    self.tickets.insert(name(&turn), ticket);
                    if let Destination::Private { worker, .. } = to {
                        Out::Private(name(&turn), worker.to_string())
                    } else if repeat {
                        Out::Repeat(name(&turn))
                    } else {
                        Out::Offer(name(&turn))
                    }
                }
                Action::Claim {
                    ticket,
                    turn,
                    verdict,
                    ..
                } => {
                    self.tickets.insert(name(&turn), ticket);
                    Out::Claim(name(&turn), verdict)
                }
                Action::RepeatCancel {
                    turn,
                    superseded_by: None,
                } => Out::CancelAgain(name(&turn)),
                Action::RepeatCancel {
                    turn,
                    superseded_by: Some(by),
                } => Out::Interrupt(name(&turn), by.to_string()),
                Action::SetHome { record } => {
                    Out::Home(record.workspace.to_string(), host_of(&record))
                }
                Action::Receive { ticket, turn, .. } => {
                    self.tickets.insert(name(&turn), ticket);
                    Out::Receive(name(&turn))
                }
            })
            .collect()
    }

    fn deliver_as(&mut self, tag: u64, redelivered: bool, turn: QueuedTurn) -> (Arrival, Vec<Out>) {
        let arrival = self
            .queue
            .delivered(self.now, tag, redelivered, turn, &mut self.out);
        (arrival, self.take())
    }
    fn fresh(&mut self, tag: u64, name: &str) -> Vec<Out> {
        self.deliver_as(tag, false, turn(name, 0)).1
    }
    fn redelivered(&mut self, tag: u64, name: &str) -> Vec<Out> {
        self.deliver_as(tag, true, turn(name, 0)).1
    }
    fn done(&mut self, name: &str) -> Vec<Out> {
        let (workspace, id) = parts(name);
        self.queue.done(self.now, workspace, id, &mut self.out);
        self.take()
    }
    fn heartbeat(&mut self, names: &[&str]) -> Vec<Out> {
        self.queue
            .heartbeat(self.now, names.iter().map(|n| parts(n)), &mut self.out);
        self.take()
    }
    fn cancel(&mut self, id: &str, workspace: Option<&str>) -> Vec<Out> {
        self.queue.cancel(self.now, id, workspace, &mut self.out);
        self.take()
    }
    fn answer(&mut self, name: &str, answer: ClaimAnswer) -> Vec<Out> {
        let ticket = self.tickets[name];
        self.queue
            .claim_answered(self.now, ticket, answer, &mut self.out);
        self.take()
    }
    fn confirm(&mut self, name: &str) -> Vec<Out> {
        let ticket = self.tickets[name];
        self.queue.offer_confirmed(self.now, ticket, &mut self.out);
        self.take()
    }
    fn refuse(&mut self, name: &str) -> Vec<Out> {
        let ticket = self.tickets[name];
        self.queue.offer_failed(self.now, ticket, &mut self.out);
        self.take()
    }
    fn pass(&mut self, seconds: f64) -> Vec<Out> {
        self.now += Duration::from_secs_f64(seconds);
        self.queue.tick(self.now, &mut self.out);
        self.take()
    }
    /// Lets time pass up to the next deadline, and returns how long that was.
    fn pass_to_deadline(&mut self) -> (f64, Vec<Out>) {
        let wait = self
            .queue
            .next_deadline()
            .unwrap()
            .saturating_duration_since(self.now)
            .as_secs_f64();
        let out = self.pass(wait);
        (wait, out)
    }
}

fn within(wait: f64, full: f64) -> bool {
    wait <= full && wait > full * 0.79
}

#[test]
fn g1_only_the_head_of_a_workspace_is_offered_and_done_moves_the_next_one_up() {
    let mut b = Bench::new(10);
    assert_eq!(b.fresh(1, "a/1"), [offer("a/1")]);
    assert_eq!(b.fresh(2, "a/2"), NONE);
    assert_eq!(b.fresh(3, "a/3"), NONE);
    b.confirm("a/1");
    assert_eq!(b.done("a/1"), [ack(1), offer("a/2")]);
    assert_eq!(b.done("a/2"), [ack(2), offer("a/3")]);
    assert_eq!(b.done("a/3"), [ack(3)]);
    assert_eq!(
        (
            b.queue.turns(),
            b.queue.workspaces(),
            b.queue.next_deadline()
        ),
        (0, 0, None)
    );
}

#[test]
fn g1_a_turn_that_is_done_behind_the_head_leaves_without_moving_anyone_up() {
    let mut b = Bench::new(10);
    b.fresh(1, "a/1");
    b.fresh(2, "a/2");
    b.fresh(3, "a/3");
    assert_eq!(b.done("a/2"), [ack(2)]);
    assert_eq!(b.done("a/1"), [ack(1), offer("a/3")]);
}

#[test]
fn g1_a_turn_whose_claim_is_undecided_lets_nobody_pass() {
    let mut b = Bench::new(10);
    b.fresh(1, "a/1");
    b.fresh(2, "a/2");
    b.fresh(3, "a/3");
    assert_eq!(b.cancel("2", Some("a")), [claim("a/2", Cancelled)]);
    assert_eq!(b.done("a/1"), [ack(1)]);
    assert_eq!(b.answer("a/2", ClaimAnswer::AlreadyRun), [offer("a/2")]);
    assert_eq!(b.done("a/2"), [ack(2), offer("a/3")]);
}

#[test]
fn g2_a_long_line_delays_no_other_workspace() {
    let mut b = Bench::new(10_000);
    b.fresh(0, "a/0");
    for n in 1..5_000 {
        assert_eq!(b.fresh(n, &format!("a/{n}")), NONE);
    }
    assert_eq!(b.fresh(5_000, "b/b1"), [offer("b/b1")]);
    assert_eq!((b.queue.turns(), b.queue.workspaces()), (5_001, 2));
}

#[test]
fn g2_a_turn_beyond_max_waiting_is_claimed_as_rejected_and_leaves() {
    let mut b = Bench::new(2);
    b.fresh(1, "a/1");
    b.fresh(2, "a/2");
    assert_eq!(b.fresh(3, "a/3"), [claim("a/3", BacklogFull)]);
    assert_eq!(b.fresh(4, "b/b1"), [offer("b/b1")]);
    assert_eq!(b.answer("a/3", ClaimAnswer::Won), [ack(3)]);
    // One that leaves makes room for one.
    b.done("a/1");
    assert_eq!(b.fresh(5, "a/5"), NONE);
    assert_eq!(b.fresh(6, "a/6"), [claim("a/6", BacklogFull)]);
}

#[test]
fn g2_turns_on_their_way_out_take_no_place_and_leave_none() {
    let mut b = Bench::new(2);
    b.fresh(1, "a/1");
    b.fresh(2, "a/2");
    b.fresh(3, "a/3");
    b.fresh(4, "a/4");
    b.answer("a/3", ClaimAnswer::Won);
    b.answer("a/4", ClaimAnswer::AlreadyEnded);
    assert_eq!(b.fresh(5, "a/5"), [claim("a/5", BacklogFull)]);
    b.done("a/1");
    assert_eq!(b.fresh(6, "a/6"), NONE);
}

#[test]
fn g4_a_turn_beyond_max_waiting_that_has_run_stays_in_line() {
    let mut b = Bench::new(1);
    b.redelivered(1, "a/1");
    assert_eq!(b.redelivered(2, "a/2"), [claim("a/2", BacklogFull)]);
    assert_eq!(b.redelivered(3, "a/3"), [claim("a/3", BacklogFull)]);
    assert_eq!(b.answer("a/3", ClaimAnswer::AlreadyRun), NONE);
    assert_eq!(b.answer("a/2", ClaimAnswer::AlreadyRun), NONE);
    b.pass(3.0);
    assert_eq!(b.done("a/1"), [ack(1), offer("a/2")]);
    assert_eq!(b.done("a/2"), [ack(2), offer("a/3")]);
    // They take places all the same.
    assert_eq!(b.fresh(4, "a/4"), [claim("a/4", BacklogFull)]);
}

#[test]
fn g4_a_duplicate_is_recognised_before_the_limit() {
    let mut b = Bench::new(1);
    b.fresh(1, "a/1");
    let again = b.deliver_as(2, false, turn("a/1", 0));
    assert_eq!(
        again,
        (Arrival::Duplicate { other_body: false }, vec![ack(2)])
    );
    let other = b.deliver_as(3, false, turn("a/1", 7));
    assert_eq!(
        other,
        (Arrival::Duplicate { other_body: true }, vec![ack(3)])
    );
    assert_eq!(b.done("a/1"), [ack(1)]);
}

#[test]
fn g4_a_redelivered_duplicate_is_acked_with_the_first_and_not_before() {
    let mut b = Bench::new(10);
    b.redelivered(1, "a/1");
    let again = b.deliver_as(2, true, turn("a/1", 7));
    assert_eq!(again, (Arrival::Redelivered { other_body: true }, vec![]));
    assert_eq!(b.done("a/1"), [ack(1), ack(2)]);
}

#[test]
fn g4_nothing_is_acked_by_a_done_that_names_no_held_turn() {
    let mut b = Bench::new(10);
    b.fresh(1, "a/1");
    assert_eq!(b.done("a/2"), NONE);
    assert_eq!(b.done("b/1"), NONE);
    b.done("a/1");
    assert_eq!(b.done("a/1"), NONE);
    // Also not when the done came before its turn: that is offered, and answered from the journal.
    assert_eq!(b.fresh(2, "a/1"), [offer("a/1")]);
}

#[test]
fn g4_a_lost_offer_is_made_again_with_doubling_waits() {
    let mut b = Bench::new(10);
    b.fresh(1, "a/1");
    assert_eq!(
        b.queue.next_deadline(),
        None,
        "the broker has yet to answer"
    );
    for full in [10.0, 20.0, 40.0, 80.0, 160.0, 300.0, 300.0] {
        b.confirm("a/1");
        let (wait, out) = b.pass_to_deadline();
        assert!(within(wait, full), "{wait} of {full}");
        assert_eq!(out, [repeat("a/1")]);
    }
}

#[test]
fn g4_a_turn_that_is_seen_running_is_left_alone_and_doubling_starts_anew() {
    let mut b = Bench::new(10);
    b.fresh(1, "a/1");
    for _ in 0..3 {
        b.confirm("a/1");
        b.pass_to_deadline();
    }
    b.confirm("a/1");
    for _ in 0..100 {
        assert_eq!(b.heartbeat(&["a/1"]), NONE);
        assert_eq!(b.pass(2.0), NONE);
    }
    // The worker died.
    b.heartbeat(&["a/1"]);
    for full in [10.0, 10.0, 20.0] {
        let (wait, out) = b.pass_to_deadline();
        assert!(within(wait, full), "{wait} of {full}");
        assert_eq!(out, [repeat("a/1")]);
        b.confirm("a/1");
    }
}

#[test]
fn g4_a_turn_seen_running_before_its_offer_was_confirmed_is_not_offered_sooner() {
    let mut b = Bench::new(10);
    b.fresh(1, "a/1");
    b.heartbeat(&["a/1"]);
    assert_eq!(b.pass(1.0), NONE);
    b.confirm("a/1");
    assert_eq!(b.pass(7.5), NONE);
    assert_eq!(b.pass(2.5), [repeat("a/1")]);
}

#[test]
fn g4_an_offer_that_the_broker_did_not_take_is_tried_again_soon() {
    let mut b = Bench::new(10);
    b.fresh(1, "a/1");
    b.queue.work_queue_depth(SHARED, 3);
    for full in [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0] {
        b.refuse("a/1");
        let (wait, out) = b.pass_to_deadline();
        assert!(within(wait, full), "{wait} of {full}");
        assert_eq!(out, [offer("a/1")], "no worker has seen it, so no repeat");
    }
    b.confirm("a/1");
    b.queue.work_queue_depth(SHARED, 0);
    assert_eq!(b.pass(10.0), [repeat("a/1")]);
    b.refuse("a/1");
    assert!(within(b.pass_to_deadline().0, 0.5), "counts anew");
    // An earlier offer of it was taken after all.
    b.heartbeat(&["a/1"]);
    b.refuse("a/1");
    assert_eq!(b.pass(7.9), NONE);
}

#[test]
fn g4_a_redelivered_head_is_offered_only_after_listening() {
    let mut b = Bench::new(10);
    assert_eq!(b.redelivered(1, "a/1"), NONE);
    assert_eq!(b.pass(2.4), NONE);
    assert_eq!(b.pass(0.1), [offer("a/1")]);
}

#[test]
fn g4_a_redelivered_head_that_runs_is_not_offered() {
    let mut b = Bench::new(10);
    b.redelivered(1, "a/1");
    b.pass(1.0);
    b.heartbeat(&["a/1"]);
    assert_eq!(b.pass(7.9), NONE);
    assert_eq!(b.pass(2.1), [offer("a/1")]);
}

#[test]
fn g4_listening_counts_from_the_delivery_also_for_who_becomes_head_later() {
    // The predecessor's last acks were lost: 1 has ended, 2 may run.
    let mut b = Bench::new(10);
    b.redelivered(1, "a/1");
    b.redelivered(2, "a/2");
    b.redelivered(3, "a/3");
    b.pass(1.0);
    assert_eq!(b.done("a/1"), [ack(1)]);
    assert_eq!(b.pass(1.0), NONE);
    assert_eq!(b.pass(0.5), [offer("a/2")]);
    assert_eq!(b.done("a/2"), [ack(2), offer("a/3")]);
}

#[test]
fn g4_a_turn_that_was_seen_running_in_line_is_not_offered_when_it_becomes_head() {
    let mut b = Bench::new(10);
    b.redelivered(1, "a/1");
    b.redelivered(2, "a/2");
    assert_eq!(b.pass(2.5), [offer("a/1")]);
    b.heartbeat(&["a/2"]);
    assert_eq!(b.done("a/1"), [ack(1)]);
    b.pass(2.0);
    b.heartbeat(&["a/2"]);
    assert_eq!(b.done("a/2"), [ack(2)]);
}

#[test]
fn g4_after_a_reset_every_turn_is_taken_in_again_and_old_answers_are_ignored() {
    let mut b = Bench::new(10);
    b.fresh(1, "a/1");
    b.fresh(2, "b/b1");
    b.cancel("b1", Some("b"));
    b.queue.reset();
    assert_eq!((b.queue.turns(), b.queue.next_deadline()), (0, None));
    assert_eq!(b.redelivered(1, "a/1"), NONE);
    let late = b.tickets["b/b1"];
    assert_eq!(b.redelivered(2, "b/b1"), [claim("b/b1", Cancelled)]);
    assert_ne!(b.tickets["b/b1"], late);
    b.queue
        .claim_answered(b.now, late, ClaimAnswer::Won, &mut b.out);
    b.confirm("a/1");
    assert_eq!(b.take(), NONE, "neither acked nor put off");
    assert_eq!(b.pass(2.5), [offer("a/1")]);
}

#[test]
fn g5_a_waiting_turn_is_cancelled_without_waiting_for_its_place() {
    let mut b = Bench::new(10);
    b.fresh(1, "a/1");
    b.fresh(2, "a/2");
    assert_eq!(b.cancel("2", None), [claim("a/2", Cancelled)]);
    assert_eq!(b.cancel("2", Some("a")), NONE, "asked already");
    assert_eq!(b.answer("a/2", ClaimAnswer::Won), [ack(2)]);
    assert_eq!(b.done("a/1"), [ack(1)]);
}

#[test]
fn g5_an_offered_head_that_is_cancelled_leaves_when_the_claim_is_decided() {
    let mut b = Bench::new(10);
    b.fresh(1, "a/1");
    b.fresh(2, "a/2");
    b.confirm("a/1");
    assert_eq!(b.cancel("1", None), [claim("a/1", Cancelled)]);
    assert_eq!(b.pass(600.0), NONE, "no offer while the claim is undecided");
    assert_eq!(
        b.answer("a/1", ClaimAnswer::AlreadyEnded),
        [ack(1), offer("a/2")]
    );
}

#[test]
fn g5_a_cancel_of_a_turn_that_runs_is_repeated_while_heartbeats_name_it() {
    let again = Out::CancelAgain("a/1".into());
    let mut b = Bench::new(10);
    b.fresh(1, "a/1");
    b.fresh(2, "b/1");
    b.confirm("a/1");
    assert_eq!(b.heartbeat(&["a/1"]), NONE);
    assert_eq!(b.cancel("1", Some("a")), [claim("a/1", Cancelled)]);
    assert_eq!(
        b.heartbeat(&["a/1", "b/1", "c/9"]),
        std::slice::from_ref(&again)
    );
    assert_eq!(b.answer("a/1", ClaimAnswer::AlreadyRun), NONE);
    assert_eq!(b.heartbeat(&["a/1"]), [again]);
    // Its worker died before it heard: the next attempt finds the mark.
    assert_eq!(b.pass(10.0), [repeat("a/1")]);
    assert_eq!(b.cancel("1", Some("a")), NONE, "the mark is durable");
    assert_eq!(b.done("a/1"), [ack(1)]);
    assert_eq!(b.heartbeat(&["a/1"]), NONE);
}

#[test]
fn g5_a_cancel_that_overtakes_its_turn_meets_it() {
    let mut b = Bench::new(1);
    assert_eq!(b.cancel("1", None), NONE);
    assert_eq!(b.cancel("2", Some("a")), NONE);
    assert_eq!(b.fresh(1, "a/1"), [claim("a/1", Cancelled)]);
    assert_eq!(b.fresh(2, "a/2"), [claim("a/2", Cancelled)]);
    assert_eq!(b.answer("a/2", ClaimAnswer::Won), [ack(2)]);
    assert_eq!(b.fresh(3, "b/2"), [offer("b/2")]);
    assert_eq!(b.answer("a/1", ClaimAnswer::Won), [ack(1)]);
    // Published again, it meets the cancel again, and the claim answers.
    assert_eq!(b.fresh(4, "a/1"), [claim("a/1", Cancelled)]);
    assert_eq!(b.answer("a/1", ClaimAnswer::AlreadyEnded), [ack(4)]);
}

#[test]
fn g5_a_cancel_without_a_workspace_means_every_held_turn_of_that_id_and_no_later_one() {
    let mut b = Bench::new(10);
    b.fresh(1, "a/1");
    b.fresh(2, "b/1");
    assert_eq!(b.answer("b/1", ClaimAnswer::AlreadyRun), [offer("b/1")]);
    assert_eq!(
        b.cancel("1", None),
        [claim("a/1", Cancelled), claim("b/1", Cancelled)]
    );
    b.answer("a/1", ClaimAnswer::Won);
    b.answer("b/1", ClaimAnswer::Won);
    assert_eq!(b.fresh(3, "c/1"), [offer("c/1")]);
}

#[test]
fn g5_a_cancel_during_the_claim_for_a_full_backlog_still_writes_its_mark() {
    let mut b = Bench::new(1);
    b.redelivered(1, "a/1");
    b.redelivered(2, "a/2");
    assert_eq!(b.cancel("2", Some("a")), NONE, "one claim at a time");
    assert_eq!(
        b.answer("a/2", ClaimAnswer::AlreadyRun),
        [claim("a/2", Cancelled)]
    );
    assert_eq!(b.answer("a/2", ClaimAnswer::AlreadyRun), NONE);
    // Decided for the limit, it has ended; the cancel comes too late.
    assert_eq!(b.redelivered(3, "a/3"), [claim("a/3", BacklogFull)]);
    b.cancel("3", None);
    assert_eq!(b.answer("a/3", ClaimAnswer::Won), [ack(3)]);
}

#[test]
fn g5_a_claim_that_fails_is_asked_for_again_and_the_turn_is_held() {
    let mut b = Bench::new(10);
    b.fresh(1, "a/1");
    b.fresh(2, "a/2");
    b.confirm("a/1");
    b.cancel("1", None);
    for full in [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0] {
        assert_eq!(b.answer("a/1", ClaimAnswer::Failed), NONE);
        let (wait, out) = b.pass_to_deadline();
        assert!(within(wait, full), "{wait} of {full}");
        assert_eq!(out, [claim("a/1", Cancelled)]);
    }
    assert_eq!(b.answer("a/1", ClaimAnswer::Won), [ack(1), offer("a/2")]);
}

#[test]
fn g5_a_cancel_takes_over_a_failed_claim_for_a_full_backlog() {
    let mut b = Bench::new(1);
    b.fresh(1, "a/1");
    b.fresh(2, "a/2");
    b.fresh(3, "a/3");
    b.answer("a/2", ClaimAnswer::Failed);
    b.cancel("2", None);
    b.cancel("3", None);
    b.answer("a/3", ClaimAnswer::Failed);
    let mut out = b.pass(1.0);
    out.sort_by_key(|o| format!("{o:?}"));
    assert_eq!(out, [claim("a/2", Cancelled), claim("a/3", Cancelled)]);
}

#[test]
fn g5_a_turn_that_is_done_before_its_claim_is_answered_is_acked_once() {
    let mut b = Bench::new(10);
    b.fresh(1, "a/1");
    b.cancel("1", None);
    assert_eq!(b.done("a/1"), [ack(1)]);
    assert_eq!(b.answer("a/1", ClaimAnswer::AlreadyEnded), NONE);
}

#[test]
fn g5_the_answer_to_an_earlier_copys_claim_decides_nothing_for_a_later_copy() {
    let mut bench = Bench::new(5);
    bench.fresh(1, "a/1");
    assert_eq!(bench.cancel("1", None), [claim("a/1", Cancelled)]);
    let earlier = bench.tickets["a/1"];
    assert_eq!(bench.done("a/1"), [ack(1)]);
    // Published again, it meets the cancel, and has a claim of its own.
    assert_eq!(bench.fresh(2, "a/1"), [claim("a/1", Cancelled)]);
    let now = bench.now;
    let answer = ClaimAnswer::AlreadyRun;
    bench
        .queue
        .claim_answered(now, earlier, answer, &mut bench.out);
    assert_eq!(bench.take(), NONE);
    assert_eq!(bench.answer("a/1", ClaimAnswer::AlreadyEnded), [ack(2)]);
}

#[test]
fn g10_offers_that_wait_in_a_full_pool_are_not_piled_up() {
    let mut b = Bench::new(10);
    for (tag, name) in [(1, "a/1"), (2, "b/b1"), (3, "c/c1"), (4, "d/d1")] {
        b.fresh(tag, name);
        b.confirm(name);
    }
    b.queue.work_queue_depth(SHARED, 3);
    // a runs and fills the pool. The others wait for half an hour.
    for _ in 0..900 {
        b.heartbeat(&["a/1"]);
        assert_eq!(b.pass(2.0), NONE);
    }
    // c runs, so b's offer, which lay before it, is lost; d's still waits.
    b.done("a/1");
    b.queue.work_queue_depth(SHARED, 1);
    let mut out = Vec::new();
    for _ in 0..200 {
        out.extend(b.heartbeat(&["c/c1"]));
        out.extend(b.pass(2.0));
    }
    assert_eq!(out, [repeat("b/b1")]);
    // That queue is empty: d's is lost as well.
    b.queue.work_queue_depth(SHARED, 0);
    for _ in 0..150 {
        out.extend(b.heartbeat(&["c/c1"]));
        out.extend(b.pass(2.0));
    }
    assert_eq!(out, [repeat("b/b1"), repeat("d/d1")]);
}

#[test]
fn g4_an_offer_is_not_believed_to_lie_untaken_for_ever() {
    let mut b = Bench::new(10);
    b.fresh(1, "a/1");
    b.confirm("a/1");
    b.queue.work_queue_depth(SHARED, 1);
    assert_eq!(b.pass(3_500.0), NONE);
    assert_eq!(b.pass(301.0), [repeat("a/1")]);
}

#[test]
fn the_oldest_waiting_turn_is_not_one_that_runs() {
    let mut b = Bench::new(10);
    assert_eq!(b.queue.oldest_waiting(b.now), None);
    b.fresh(1, "a/1");
    b.pass(1.0);
    let enqueued_at = Timestamp::from_second(1_700_000_000).ok();
    let second = QueuedTurn {
        enqueued_at,
        ..turn("b/1", 0)
    };
    b.deliver_as(2, false, second);
    assert_eq!(b.queue.oldest_waiting(b.now).unwrap().received, b.start);
    b.heartbeat(&["a/1"]);
    let oldest = Oldest {
        received: b.now,
        enqueued_at,
    };
    assert_eq!(b.queue.oldest_waiting(b.now), Some(oldest));
    b.pass(10.0);
    assert_eq!(b.queue.oldest_waiting(b.now).unwrap().received, b.start);
}

/// A turn that must start within that many seconds.
fn urgent(name: &str, seconds: u64) -> QueuedTurn {
    QueuedTurn {
        start_within: Some(Duration::from_secs(seconds)),
        ..turn(name, 0)
    }
}

impl Bench {
    fn urgent(&mut self, tag: u64, name: &str, seconds: u64) -> Vec<Out> {
        self.deliver_as(tag, false, urgent(name, seconds)).1
    }
    /// That many seconds after the start.
    fn at(&mut self, seconds: u64) -> Vec<Out> {
        self.now = self.start + Duration::from_secs(seconds);
        self.pass(0.0)
    }
    fn was_received(&mut self, name: &str, seconds_ago: u64) -> Vec<Out> {
        let (ticket, ago) = (self.tickets[name], Duration::from_secs(seconds_ago));
        self.queue
            .was_received(self.now, ticket, ago, &mut self.out);
        self.take()
    }
}

#[test]
fn a_turn_expires_in_line_and_while_its_offer_lies_about() {
    let receive = |name: &str| Out::Receive(name.into());
    let mut bench = Bench::new(10);
    assert_eq!(bench.urgent(1, "a/1", 8), [receive("a/1"), offer("a/1")]);
    assert_eq!(bench.urgent(2, "a/2", 5), [receive("a/2")]);
    assert_eq!(bench.confirm("a/1"), NONE);
    assert_eq!(bench.at(4), NONE);
    assert_eq!(bench.at(5), [claim("a/2", Expired)]);
    assert_eq!(bench.answer("a/2", ClaimAnswer::Won), [ack(2)]);
    assert_eq!(bench.at(7), NONE);
    assert_eq!(bench.at(8), [claim("a/1", Expired)]);
    // A worker was first: it may take as long as it likes.
    assert_eq!(bench.answer("a/1", ClaimAnswer::AlreadyRun), NONE);
    assert_eq!(bench.heartbeat(&["a/1"]), NONE);
    assert_eq!(bench.done("a/1"), [ack(1)]);
    assert_eq!(bench.queue.next_deadline(), None);
}

#[test]
fn a_takeover_does_not_begin_the_time_to_start_anew() {
    let mut bench = Bench::new(10);
    bench.deliver_as(1, true, urgent("a/1", 8));
    bench.deliver_as(2, true, urgent("b/b1", 8));
    // What is further away than time goes is never.
    assert_eq!(bench.deliver_as(3, true, urgent("c/c1", u64::MAX)).1, NONE);
    assert_eq!(bench.was_received("a/1", 7), NONE);
    assert_eq!(bench.was_received("b/b1", 9), [claim("b/b1", Expired)]);
    assert_eq!(bench.at(1), [claim("a/1", Expired)]);
    // Not even by a clock that was set back.
    assert_eq!(bench.answer("a/1", ClaimAnswer::Failed), NONE);
    assert_eq!(bench.was_received("a/1", 0), NONE);
    assert_eq!(bench.at(3), [claim("a/1", Expired), offer("c/c1")]);
}

#[test]
fn g5_a_cancel_goes_before_a_turns_expiry() {
    let mut bench = Bench::new(10);
    bench.urgent(1, "a/1", 5);
    assert_eq!(bench.cancel("1", None), [claim("a/1", Cancelled)]);
    assert_eq!(bench.at(6), NONE);
    assert_eq!(bench.answer("a/1", ClaimAnswer::Won), [ack(1)]);
}

#[test]
fn a_summary_tells_the_longest_lines_and_who_waits_in_them() {
    let mut b = Bench::new(10);
    for (tag, name) in ["c/1", "a/1", "b/1", "b/2", "a/2", "b/3", "d/1"]
        .iter()
        .enumerate()
    {
        b.fresh(tag as u64, name);
        b.pass(1.0);
    }
    b.heartbeat(&["b/1", "c/1"]);
    let summary = b.queue.summary(b.now, 3, 2);
    assert_eq!(
        (summary.turns, summary.waiting, summary.workspaces),
        (7, 5, 4)
    );
    let since = |seconds: u64| Some(b.start + Duration::from_secs(seconds));
    assert_eq!(summary.oldest.map(|oldest| oldest.received), since(1));
    let told = |line: &LineSummary| {
        let oldest = line.oldest.map(|oldest| oldest.received);
        (line.workspace.to_string(), line.turns, line.running, oldest)
    };
    let lines: Vec<_> = summary.top.iter().map(told).collect();
    assert_eq!(
        lines,
        [
            ("b".to_owned(), 3, true, since(3)),
            ("a".to_owned(), 2, false, since(1)),
            ("c".to_owned(), 1, true, None),
        ]
    );
    let next: Vec<&str> = summary.top[0].next.iter().map(|id| &**id).collect();
    assert_eq!(next, ["1", "2"]);
    assert_eq!(b.queue.summary(b.now, 0, 2).top, []);
    assert_eq!(b.queue.summary(b.now, 100, 2).top.len(), 4);
}

fn busy(name: &str, ahead: &[&str]) -> Out {
    let ahead = ahead.iter().map(|id| Arc::from(*id)).collect();
    claim(name, Verdict::Busy { ahead })
}
fn superseded(name: &str, by: &str) -> Out {
    claim(name, Verdict::Superseded { by: by.into() })
}

impl Bench {
    fn on_busy(&mut self, tag: u64, redelivered: bool, name: &str, on_busy: OnBusy) -> Vec<Out> {
        let turn = QueuedTurn {
            on_busy,
            ..turn(name, 0)
        };
        self.deliver_as(tag, redelivered, turn).1
    }
    fn reject(&mut self, tag: u64, name: &str) -> Vec<Out> {
        self.on_busy(tag, false, name, OnBusy::Reject)
    }
    fn interrupt(&mut self, tag: u64, name: &str) -> Vec<Out> {
        self.on_busy(tag, false, name, OnBusy::Interrupt)
    }
}

#[test]
fn a_turn_that_is_not_to_wait_runs_at_once_or_is_decided_by_the_records() {
    let mut bench = Bench::new(1);
    assert_eq!(bench.reject(1, "a/1"), [offer("a/1")]);
    // Its limit is another than the line's.
    assert_eq!(bench.reject(2, "a/2"), [busy("a/2", &["1"])]);
    assert_eq!(bench.answer("a/2", ClaimAnswer::Won), [ack(2)]);
    // The first has ended, without a report.
    assert_eq!(bench.reject(3, "a/3"), [busy("a/3", &["1"])]);
    assert_eq!(bench.answer("a/3", ClaimAnswer::AllEnded), NONE);
    assert_eq!(bench.reject(4, "a/4"), [busy("a/4", &["3"])]);
    assert_eq!(bench.done("a/1"), [ack(1), offer("a/3")]);
    assert_eq!(bench.answer("a/4", ClaimAnswer::Failed), NONE);
    // Before it could be rejected as busy, it is not so any more.
    assert_eq!(bench.done("a/3"), [ack(3), offer("a/4")]);
}

#[test]
fn many_turns_ahead_are_asked_about_the_nearest_first() {
    let mut bench = Bench::new(100);
    for n in 0..20u64 {
        bench.fresh(n, &format!("a/{n}"));
    }
    let ids: Vec<String> = (0..20).rev().map(|n| n.to_string()).collect();
    let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
    assert_eq!(bench.reject(20, "a/20"), [busy("a/20", &ids[..16])]);
    let more = bench.answer("a/20", ClaimAnswer::AllEnded);
    assert_eq!(more, [busy("a/20", &ids[16..])]);
    assert_eq!(bench.answer("a/20", ClaimAnswer::AllEnded), NONE);
}

#[test]
fn a_turn_that_interrupts_ends_all_ahead_of_it_and_none_behind() {
    let mut bench = Bench::new(2);
    assert_eq!(bench.fresh(1, "a/1"), [offer("a/1")]);
    assert_eq!(bench.fresh(2, "a/2"), NONE);
    // However full its line is.
    let both = [superseded("a/1", "3"), superseded("a/2", "3")];
    assert_eq!(bench.interrupt(3, "a/3"), both);
    assert_eq!(bench.fresh(4, "a/4"), [claim("a/4", BacklogFull)]);
    assert_eq!(bench.answer("a/4", ClaimAnswer::AlreadyRun), NONE);
    assert_eq!(bench.answer("a/2", ClaimAnswer::Won), [ack(2)]);
    let told = || [Out::Interrupt("a/1".into(), "3".into())];
    assert_eq!(bench.answer("a/1", ClaimAnswer::AlreadyRun), told());
    assert_eq!(bench.heartbeat(&["a/1"]), told());
    // Published again, it has no effect.
    assert_eq!(bench.interrupt(5, "a/3"), [ack(5)]);
    assert_eq!(bench.done("a/1"), [ack(1), offer("a/3")]);
    assert_eq!(bench.done("a/3"), [ack(3), offer("a/4")]);
}

#[test]
fn g5_a_turn_that_has_been_decided_interrupts_nobody() {
    let mut bench = Bench::new(10);
    bench.fresh(1, "a/1");
    bench.fresh(2, "a/2");
    bench.interrupt(3, "a/3");
    bench.interrupt(4, "a/4");
    // Superseded itself, it leaves those ahead to the next one.
    assert_eq!(bench.answer("a/3", ClaimAnswer::Won), [ack(3)]);
    let next = bench.answer("a/1", ClaimAnswer::Spent);
    assert_eq!(next, [superseded("a/1", "4")]);
    // That one has ended long ago and was published again.
    assert_eq!(bench.answer("a/1", ClaimAnswer::Spent), NONE);
    assert_eq!(bench.answer("a/2", ClaimAnswer::Spent), NONE);
    assert_eq!(bench.confirm("a/1"), NONE);
    assert_eq!(bench.heartbeat(&["a/1"]), NONE);
}

#[test]
fn g5_a_cancel_that_meets_an_interrupt_is_not_lost_with_it() {
    let mut bench = Bench::new(10);
    bench.fresh(1, "a/1");
    assert_eq!(bench.interrupt(2, "a/2"), [superseded("a/1", "2")]);
    assert_eq!(bench.cancel("1", None), NONE);
    let next = bench.answer("a/1", ClaimAnswer::Spent);
    assert_eq!(next, [claim("a/1", Cancelled)]);
    // One that is cancelled before it comes ends no other turn.
    bench.cancel("3", None);
    assert_eq!(bench.interrupt(3, "a/3"), [claim("a/3", Cancelled)]);
}

#[test]
fn a_workspace_is_stuck_whose_offers_are_taken_to_no_effect() {
    let mut b = Bench::new(10);
    for (tag, name) in ["locked/1", "locked/2", "runs/3"].iter().enumerate() {
        b.fresh(tag as u64, name);
    }
    b.confirm("locked/1");
    b.confirm("runs/3");
    let stuck = |b: &mut Bench| -> Vec<String> {
        let stuck = b.queue.stuck(b.now);
        let name = |one: &StuckTurn| format!("{}/{}", one.workspace, one.turn_id);
        stuck.iter().map(name).collect()
    };
    let ten_seconds = |b: &mut Bench, times| {
        for _ in 0..times {
            b.heartbeat(&["runs/3"]);
            assert_eq!(stuck(b), NOTHING);
            b.pass(10.0);
        }
    };
    ten_seconds(&mut b, 30);
    assert_eq!(stuck(&mut b), ["locked/1"]);
    b.heartbeat(&["locked/1"]);
    assert_eq!(stuck(&mut b), NOTHING);

    // Workers that answer take each offer, before they try the lock.
    let mut b = Bench::new(10);
    b.fresh(1, "locked/1");
    let mut offers = 0;
    for _ in 0..30 {
        if b.queue.turns[&b.queue.find("locked", "1").unwrap()].in_flight {
            offers += 1;
            b.confirm("locked/1");
            b.taken("locked/1", "w");
        }
        assert_eq!(stuck(&mut b), NOTHING);
        b.pass(10.0);
    }
    assert_eq!(stuck(&mut b), ["locked/1"]);
    assert_eq!(b.queue.oldest_waiting(b.now).unwrap().received, b.start);
    assert!(offers < 10, "{offers} offers: they should become rarer");

    // An offer that lies in the work queue waits for a slot.
    let mut b = Bench::new(10);
    b.fresh(1, "full/1");
    b.confirm("full/1");
    b.queue.work_queue_depth(SHARED, 1);
    ten_seconds(&mut b, 100);
    b.queue.work_queue_depth(SHARED, 0);
    ten_seconds(&mut b, 29);
    b.pass(10.0);
    assert_eq!(stuck(&mut b), ["full/1"]);
}

const NOTHING: [String; 0] = [];

#[test]
fn what_is_paused_keeps_its_place_and_is_offered_at_once_when_it_is_resumed() {
    use crate::workspace::{Pause, PauseScope, Pauses};
    let mut b = Bench::new(10);
    let workspace = |name: &str| PauseScope::Workspace(name.to_owned());
    let set = |b: &mut Bench, scopes: &[PauseScope]| {
        let pause = |scope: &PauseScope| Pause {
            scope: scope.clone(),
            since: Timestamp::UNIX_EPOCH,
            by: String::new(),
            reason: None,
        };
        let pauses = scopes.iter().map(pause).collect();
        b.queue
            .set_paused(b.now, Arc::new(Pauses { pauses }), &mut b.out);
        b.take()
    };
    // It was offered before, and a worker drops that offer.
    assert_eq!(b.fresh(1, "a/1"), [offer("a/1")]);
    b.confirm("a/1");
    assert_eq!(set(&mut b, &[workspace("a")]), NONE);
    assert_eq!(b.fresh(2, "a/2"), NONE);
    assert_eq!(b.fresh(3, "b/3"), [offer("b/3")]);
    b.confirm("b/3");
    assert_eq!(b.heartbeat(&["b/3"]), NONE);
    for _ in 0..100 {
        b.heartbeat(&["b/3"]);
        assert_eq!(b.pass(5.0), NONE);
    }
    assert_eq!(b.queue.stuck(b.now), []);
    assert!(b.queue.summary(b.now, 9, 9).top[0].paused);
    let (workspace, turn_id) = parts("a/2");
    let place = b.queue.place(b.now, workspace, turn_id).unwrap();
    assert!(place.paused, "{place:?}");
    // Cancels hold meanwhile.
    assert_eq!(b.cancel("2", None), [claim("a/2", Cancelled)]);
    // What is not concerned is not offered again.
    assert_eq!(set(&mut b, &[]), [repeat("a/1")]);
    // With the pool, all is paused: what runs goes on, and the next does not start.
    assert_eq!(set(&mut b, &[PauseScope::Pool]), NONE);
    assert_eq!(b.done("b/3"), [ack(3)]);
    assert_eq!(b.fresh(4, "b/4"), NONE);
    assert_eq!(set(&mut b, &[]), [offer("b/4")]);
    // With a tenant, its own turns, wherever they are.
    let tenant = PauseScope::Tenant("acme".to_owned());
    assert_eq!(set(&mut b, std::slice::from_ref(&tenant)), NONE);
    let of_tenant = |name: &str| QueuedTurn {
        tenant: Some("acme".into()),
        ..turn(name, 0)
    };
    assert_eq!(b.deliver_as(5, false, of_tenant("c/5")).1, NONE);
    assert_eq!(b.fresh(6, "c/6"), NONE);
    assert_eq!(b.fresh(7, "d/7"), [offer("d/7")]);
    assert_eq!(set(&mut b, &[]), [offer("c/5")]);
}
