//! Where a turn is offered first, and what becomes of that.

use super::*;

fn private(turn: &str, worker: &str) -> Out {
    Out::Private(turn.into(), worker.into())
}

impl Bench {
    /// A heartbeat of a process with two slots.
    fn beat(&mut self, worker: &str, running: &[&str], idle: &[&str]) -> Vec<Out> {
        self.beat_as(worker, Some(worker), running, idle)
    }
    fn beat_as(
        &mut self,
        worker: &str,
        offers_to: Option<&str>,
        running: &[&str],
        idle: &[&str],
    ) -> Vec<Out> {
        self.report(worker, offers_to, running, idle, false)
    }
    fn report(
        &mut self,
        worker: &str,
        offers_to: Option<&str>,
        running: &[&str],
        idle: &[&str],
        idle_is_cut: bool,
    ) -> Vec<Out> {
        let running: Vec<(&str, &str)> = running.iter().map(|name| parts(name)).collect();
        let report = WorkerReport {
            worker,
            slots: 2,
            serves: offers_to.is_some(),
            offers_to,
            running: &running,
            idle,
            idle_is_cut,
            answers: worker != "older",
            disk: None,
        };
        self.queue.worker_heard(self.now, &report, &mut self.out);
        self.queue.heartbeat(self.now, running, &mut self.out);
        self.take()
    }
    pub(super) fn taken(&mut self, name: &str, worker: &str) -> Vec<Out> {
        let (workspace, id) = parts(name);
        self.queue
            .offer_taken(self.now, workspace, id, worker, &mut self.out);
        self.take()
    }
    fn declined(&mut self, name: &str, worker: &str) -> Vec<Out> {
        let (workspace, id) = parts(name);
        self.queue
            .offer_declined(self.now, workspace, id, worker, &mut self.out);
        self.take()
    }
    fn done_by(&mut self, name: &str, worker: &str, warm: bool) -> Vec<Out> {
        let (workspace, id) = parts(name);
        self.queue.served(self.now, workspace, id, worker, warm);
        self.queue.use_room(self.now, worker, &mut self.out);
        self.done(name)
    }
    /// A conversation with a first turn that took so long and has left its server.
    fn warmed(&mut self, tag: u64, name: &str, worker: &str, seconds: f64) {
        assert_eq!(self.fresh(tag, name), [offer(name)]);
        self.confirm(name);
        self.taken(name, worker);
        self.pass(seconds);
        self.report(worker, Some(worker), &[], &[], true);
        assert_eq!(self.done_by(name, worker, true), [ack(tag)]);
    }
}

#[test]
fn the_next_turn_is_offered_to_the_process_that_keeps_the_server() {
    let mut b = Bench::new(10);
    b.warmed(1, "a/1", "p", 0.2);
    b.beat("q", &[], &[]);
    assert_eq!(b.fresh(2, "a/2"), [private("a/2", "p")]);
    assert_eq!(b.confirm("a/2"), NONE);
    assert_eq!(b.taken("a/2", "p"), NONE);
    // It is cared for as any other that runs.
    assert_eq!(b.pass(7.9), NONE);
    assert_eq!(b.pass(2.2), [repeat("a/2")]);
    // The worker that runs it keeps the server: no server, after this.
    assert_eq!(b.done_by("a/2", "q", false), [ack(2)]);
    assert_eq!(b.fresh(3, "a/3"), [offer("a/3")]);
}

/// Else private offers would keep the slots busy, and it would lie in the shared queue for good.
#[test]
fn g2_a_slot_that_gets_free_is_left_to_an_offer_that_its_worker_has_requeued() {
    for requeued in [false, true] {
        let mut b = Bench::new(10);
        b.beat("p", &[], &[]);
        b.warmed(1, "a/1", "p", 0.2);
        for (tag, turn) in [(2, "b/8"), (3, "c/9")] {
            assert_eq!(b.fresh(tag, turn), [offer(turn)]);
            b.confirm(turn);
            b.taken(turn, "p");
        }
        assert_eq!(b.fresh(4, "a/2"), NONE);
        if requeued {
            assert_eq!(b.declined("b/8", "p"), NONE);
        }
        let out = b.done_by("c/9", "p", false);
        assert_eq!(out.contains(&private("a/2", "p")), !requeued, "{out:?}");
        // Once it is taken again, private offers go on.
        b.taken("b/8", "p");
        b.done_by("b/8", "p", false);
        b.confirm("a/2");
        b.taken("a/2", "p");
        assert_eq!(b.done_by("a/2", "p", true), [ack(4)]);
        assert_eq!(b.fresh(5, "a/3"), [private("a/3", "p")], "{requeued}");
    }
}

#[test]
fn g2_a_private_offer_without_an_answer_goes_to_all() {
    let mut b = Bench::new(10);
    b.warmed(1, "a/1", "p", 0.2);
    b.fresh(2, "a/2");
    b.confirm("a/2");
    assert_eq!(b.pass(0.499), NONE);
    assert_eq!(b.pass(0.001), [repeat("a/2")]);
    b.confirm("a/2");
    b.taken("a/2", "q");
    b.done_by("a/2", "q", true);
    // The one that did not answer is not preferred before it is heard.
    assert_eq!(b.fresh(3, "a/3"), [offer("a/3")]);
}

#[test]
fn g2_a_private_offer_that_does_not_arrive_goes_to_all_at_once() {
    let mut b = Bench::new(10);
    b.warmed(1, "a/1", "p", 0.2);
    b.fresh(2, "a/2");
    assert_eq!(b.refuse("a/2"), [offer("a/2")]);
    // Tries to reach all are bounded as ever.
    assert_eq!(b.refuse("a/2"), NONE);
}

#[test]
fn an_offer_that_is_declined_is_in_the_shared_queue() {
    let mut b = Bench::new(10);
    b.warmed(1, "a/1", "p", 0.2);
    b.fresh(2, "a/2");
    // Its answer may come before the broker's.
    assert_eq!(b.declined("a/2", "p"), NONE);
    assert_eq!(b.confirm("a/2"), NONE);
    assert_eq!(b.pass(0.6), NONE);
    let (wait, out) = b.pass_to_deadline();
    assert!(within(wait + 0.6, 10.0) && out == [repeat("a/2")]);
    // A late answer of the process has no effect.
    assert_eq!(b.declined("a/2", "p"), NONE);
}

#[test]
fn g2_no_process_is_preferred_that_is_silent_draining_or_full_for_long() {
    let mut b = Bench::new(10);
    b.warmed(1, "a/1", "p", 0.2);
    b.pass(5.0);
    assert_eq!(b.fresh(2, "a/2"), [offer("a/2")]);

    let mut b = Bench::new(10);
    b.warmed(1, "a/1", "p", 0.2);
    b.beat_as("p", None, &[], &[]);
    assert_eq!(b.fresh(2, "a/2"), [offer("a/2")]);

    // Turns take too long for its slots to be worth a wait: another has room.
    let mut b = Bench::new(10);
    b.warmed(1, "a/1", "p", 4.0);
    b.beat("q", &[], &[]);
    b.beat("p", &["x/1", "y/1"], &["a"]);
    assert_eq!(b.fresh(2, "a/2"), [offer("a/2")]);
}

#[test]
fn a_head_waits_a_little_for_a_process_whose_turns_are_short() {
    let mut b = Bench::new(10);
    b.beat("q", &[], &[]);
    for (tag, name) in [(1, "a/a1"), (2, "b/b1"), (3, "c/c1")] {
        b.warmed(tag, name, "p", 0.1);
    }
    assert_eq!(b.fresh(4, "a/a2"), [private("a/a2", "p")]);
    assert_eq!(b.fresh(5, "b/b2"), [private("b/b2", "p")]);
    for name in ["a/a2", "b/b2"] {
        b.confirm(name);
        b.taken(name, "p");
    }
    assert_eq!(b.fresh(6, "c/c2"), NONE);
    b.pass(0.3);
    // The oldest first, also where another turn of the same workspace waits.
    assert_eq!(b.fresh(7, "a/a3"), NONE);
    assert_eq!(b.done_by("a/a2", "p", true), [private("c/c2", "p"), ack(4)]);
    assert_eq!(b.pass(0.4), NONE);
    assert_eq!(b.pass(0.1), [offer("a/a3")]);
}

/// A pool of one process with two slots, both taken by turns that are not
/// held here, and with servers of `a0`, `a1`, and so on.
fn full_pool(guard: f64, servers: usize) -> Bench {
    let mut b = Bench::new(100);
    b.queue = Queue::new(100, 1).with_guard(Duration::from_secs_f64(guard));
    let idle: Vec<String> = (0..servers).map(|n| format!("a{n}")).collect();
    let idle: Vec<&str> = idle.iter().map(String::as_str).collect();
    b.beat("p", &["x/x", "y/y"], &idle);
    b
}

#[test]
fn g2_heads_wait_while_the_pool_is_full_and_the_oldest_gets_the_slot_that_is_free() {
    let mut b = full_pool(1.0, 0);
    assert_eq!(b.fresh(1, "a/a"), NONE);
    b.pass(0.1);
    assert_eq!(b.fresh(2, "b/b"), NONE);
    assert_eq!(b.done_by("x/x", "p", false), [private("a/a", "p")]);
    b.confirm("a/a");
    assert_eq!(b.taken("a/a", "p"), NONE);
    // The pool's reports keep it waiting, for as long as it takes.
    for _ in 0..100 {
        b.pass(2.0);
        assert_eq!(b.beat("p", &["a/a", "y/y"], &[]), NONE);
    }
    // A new process has slots.
    assert_eq!(b.beat("q", &["x/x"], &[]), [private("b/b", "q")]);
    b.taken("b/b", "q");
    assert_eq!(b.fresh(3, "c/c"), NONE);
    assert_eq!(b.done_by("y/y", "p", false), [private("c/c", "p")]);
    assert_eq!(b.queue.turns(), 3);
}

#[test]
fn g2_a_head_is_overtaken_only_by_those_that_came_soon_after_it() {
    for (guard, overtakes) in [(0.5, 5), (1.0, 10), (1.55, 15)] {
        let mut b = full_pool(guard, 20);
        assert_eq!(b.fresh(100, "z/z"), NONE);
        for n in 0..20 {
            b.pass(0.1);
            assert_eq!(b.fresh(n, &format!("a{n}/a{n}")), NONE);
        }
        let mut out = b.done_by("x/x", "p", false);
        for n in 0..overtakes {
            let name = format!("a{n}/a{n}");
            assert_eq!(out, [private(&name, "p")], "{guard} s");
            b.taken(&name, "p");
            out = b.done_by(&name, "p", true);
            assert_eq!(out.pop(), Some(ack(n)));
        }
        assert_eq!(out, [private("z/z", "p")], "{guard} s");
    }
    // Without a guard there are no preferences, and heads do not wait.
    let mut b = full_pool(0.0, 1);
    assert_eq!(b.fresh(1, "a0/a0"), [offer("a0/a0")]);
}

#[test]
fn g2_heads_wait_for_no_process_that_is_silent() {
    let mut b = full_pool(1.0, 1);
    assert_eq!(b.fresh(1, "z/z"), NONE);
    assert_eq!(b.fresh(2, "a0/a0"), NONE);
    let mut out = b.pass(4.9);
    assert_eq!(out, NONE);
    out.extend(b.pass(0.2));
    assert_eq!(out, [offer("z/z"), offer("a0/a0")]);
}

#[test]
fn g2_heads_go_to_all_where_older_workers_take_them() {
    let mut b = full_pool(1.0, 0);
    b.beat_as("older", None, &["o/o", "o/2"], &[]);
    assert_eq!(b.fresh(1, "a/a"), [offer("a/a")]);
}

#[test]
fn a_slot_that_is_free_takes_what_lies_in_the_shared_queue_first() {
    let mut b = full_pool(1.0, 3);
    b.done_by("x/x", "p", false);
    assert_eq!(b.fresh(1, "a0/a0"), [private("a0/a0", "p")]);
    b.confirm("a0/a0");
    // It lies in the shared queue now, and will be taken by the next free slot.
    assert_eq!(b.declined("a0/a0", "p"), NONE);
    assert_eq!(b.fresh(2, "a1/a1"), NONE);
    assert_eq!(b.fresh(3, "a2/a2"), NONE);
    assert_eq!(b.done_by("y/y", "p", false), NONE);
    assert_eq!(b.taken("a0/a0", "p"), NONE);
    let next = b.done_by("a0/a0", "p", true);
    assert_eq!(next, [private("a1/a1", "p"), ack(1)]);
    b.confirm("a1/a1");
    // One that is free for long has not found what was believed to lie there.
    b.declined("a1/a1", "p");
    assert_eq!(b.done_by("y/2", "p", false), NONE);
    assert_eq!(b.pass(0.199), NONE);
    assert_eq!(b.pass(0.001), [private("a2/a2", "p")]);
}

/// Of a process with one slot.
fn without_private_queue<'a>(running: &'a [(&'a str, &'a str)]) -> WorkerReport<'a> {
    WorkerReport {
        worker: "q",
        slots: 1,
        serves: true,
        offers_to: None,
        running,
        idle: &[],
        idle_is_cut: false,
        answers: true,
        disk: None,
    }
}

#[test]
fn a_slot_without_a_private_queue_is_filled_by_the_shared_one() {
    let mut b = full_pool(1.0, 0);
    let report = without_private_queue(&[("q", "q1")]);
    b.queue.worker_heard(b.now, &report, &mut b.out);
    assert_eq!(b.fresh(1, "a/a"), NONE);
    assert_eq!(b.fresh(2, "b/b"), NONE);
    b.queue.served(b.now, "q", "q1", "q", false);
    b.queue.use_room(b.now, "q", &mut b.out);
    assert_eq!(b.take(), [offer("a/a")]);
    // A process that drains gets no turn.
    let drains = WorkerReport {
        serves: false,
        running: &[],
        ..report
    };
    b.pass(0.3);
    b.queue.worker_heard(b.now, &drains, &mut b.out);
    assert_eq!(b.take(), NONE);
}

#[test]
fn a_slot_without_a_private_queue_is_offered_one_head_however_long_it_has_been_free() {
    let mut b = full_pool(1.0, 0);
    let report = without_private_queue(&[]);
    b.queue.worker_heard(b.now, &report, &mut b.out);
    assert_eq!(b.pass(1.0), NONE);
    assert_eq!(b.fresh(1, "a/a"), [offer("a/a")]);
    b.confirm("a/a");
    assert_eq!(b.fresh(2, "b/b"), NONE);
    assert_eq!(b.fresh(3, "c/c"), NONE);
    // Where it takes something else, the offer is no reason to wait for long.
    assert_eq!(b.pass(0.199), NONE);
    assert_eq!(b.pass(0.001), [offer("b/b")]);
    assert_eq!(b.taken("a/a", "q"), NONE);
    b.pass(1.0);
    assert_eq!(b.done_by("a/a", "q", false), [ack(1)]);
    assert_eq!(b.taken("b/b", "q"), NONE);
    assert_eq!(b.done_by("b/b", "q", false), [offer("c/c"), ack(2)]);
}

#[test]
fn older_workers_do_not_answer_so_the_guard_waits_for_their_heartbeats() {
    let mut b = Bench::new(10);
    b.warmed(1, "a/1", "p", 0.2);
    b.beat_as("older", None, &[], &[]);
    b.fresh(2, "z/1");
    b.confirm("z/1");
    b.pass(2.9);
    b.beat("p", &[], &["a"]);
    assert_eq!(b.fresh(3, "a/2"), [private("a/2", "p")]);
    b.taken("a/2", "p");
    b.done_by("a/2", "p", true);
    b.pass(0.2);
    assert_eq!(b.fresh(4, "a/3"), [offer("a/3")]);
}

#[test]
fn heartbeats_bring_preferences_to_a_sequencer_that_takes_over() {
    let mut b = Bench::new(10);
    b.beat("p", &[], &["a", "b"]);
    assert_eq!(b.queue.preferences(), 2);
    b.queue.reset();
    assert_eq!(b.fresh(1, "a/1"), [private("a/1", "p")]);
    b.taken("a/1", "p");
    b.done_by("a/1", "p", true);
    // One report may cross with a turn's end.
    b.beat("p", &[], &["b"]);
    assert_eq!(b.queue.preferences(), 2);
    b.beat("p", &[], &["b"]);
    assert_eq!(b.queue.preferences(), 1);
    assert_eq!(b.fresh(2, "a/2"), [offer("a/2")]);
    // A server that has just been left is not another's by a late report.
    b.taken("a/2", "q");
    b.beat("q", &["a/2"], &[]);
    b.done_by("a/2", "q", true);
    b.beat("p", &[], &["a"]);
    assert_eq!(b.fresh(3, "a/3"), [private("a/3", "q")]);
}

#[test]
fn a_slot_is_free_when_its_turn_is_done_whatever_a_late_report_says() {
    let mut b = Bench::new(10);
    b.warmed(1, "a/a1", "p", 0.2);
    b.warmed(2, "b/b1", "p", 0.2);
    // Both were made before the turn's end.
    b.taken("b/b1", "p");
    b.report("p", Some("p"), &["b/b1"], &[], true);
    assert_eq!(b.fresh(3, "a/a2"), [private("a/a2", "p")]);
    assert_eq!(b.fresh(4, "b/b2"), [private("b/b2", "p")]);
}

#[test]
fn a_slot_is_taken_by_a_turn_that_a_late_report_does_not_name_yet() {
    let mut b = full_pool(1.0, 0);
    assert_eq!(b.fresh(1, "a/a"), NONE);
    assert_eq!(b.fresh(2, "b/b"), NONE);
    assert_eq!(b.done_by("x/x", "p", false), [private("a/a", "p")]);
    b.taken("a/a", "p");
    assert_eq!(b.beat("p", &["y/y"], &[]), NONE);
    b.pass(1.0);
    assert_eq!(b.beat("p", &["y/y"], &[]), [private("b/b", "p")]);
}

#[test]
fn g10_preferences_are_bounded() {
    let mut b = Bench::new(10);
    b.beat("p", &[], &[]);
    for n in 0..10_005 {
        b.queue.served(b.now, &format!("w{n}"), "t", "p", true);
    }
    assert_eq!(b.queue.preferences(), 10_000);
    assert_eq!(b.fresh(1, "w4/1"), [offer("w4/1")]);
    assert_eq!(b.fresh(2, "w5/2"), [private("w5/2", "p")]);
}
