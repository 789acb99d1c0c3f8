//! Where each host has a disk of its own.

use uuid::Uuid;

use super::*;
use crate::homes::{Disk, HomeRecord, LostDisk, LostTurns};

fn disk(number: u128) -> Disk {
    Disk {
        id: Uuid::from_u128(number),
        host: format!("h{number}").into(),
    }
}

fn bench() -> Bench {
    let mut b = Bench::new(10);
    b.queue = Queue::new(10, 1).with_local_storage(b.now);
    b
}

impl Bench {
    /// A process of that disk reports itself.
    fn beat_of(&mut self, number: u128, slots: usize) -> Vec<Out> {
        let worker = format!("p{number}");
        let report = WorkerReport {
            worker: &worker,
            slots,
            serves: true,
            offers_to: None,
            running: &[],
            idle: &[],
            idle_is_cut: false,
            answers: true,
            disk: Some(&disk(number)),
        };
        self.queue.worker_heard(self.now, &report, &mut self.out);
        self.take()
    }

    fn home_set(&mut self, workspace: &str, number: u64, home: Option<Disk>) -> Vec<Out> {
        let record = HomeRecord {
            workspace: workspace.into(),
            number,
            home,
            lost: Vec::new(),
        };
        self.queue.home_set(self.now, record, &mut self.out);
        self.take()
    }
}

fn home(workspace: &str, host: &str) -> Out {
    Out::Home(workspace.to_owned(), Some(host.to_owned()))
}

#[test]
fn g1_a_turn_is_offered_once_its_workspaces_home_was_read_back() {
    let mut b = bench();
    assert_eq!(b.fresh(1, "a/1"), NONE, "no disk is there");
    assert_eq!(b.beat_of(1, 1), [home("a", "h1")]);
    assert_eq!(b.fresh(2, "a/2"), NONE, "it is asked for once");
    assert_eq!(b.home_set("a", 1, Some(disk(1))), [offer("a/1")]);
    // Another sequencer's record, which came later.
    assert_eq!(b.home_set("a", 1, Some(disk(2))), NONE);
    let home = b.queue.home_of(b.now, "a").map(|(disk, _)| disk.id);
    assert_eq!(home, Some(disk(1).id));
}

#[test]
fn a_home_that_could_not_be_kept_is_asked_for_again() {
    let mut b = bench();
    b.beat_of(1, 1);
    assert_eq!(b.fresh(1, "a/1"), [home("a", "h1")]);
    b.queue.home_failed(b.now, "a");
    b.beat_of(1, 1);
    assert_eq!(b.pass(1.0), [home("a", "h1")]);
}

#[test]
fn new_workspaces_go_to_the_disk_with_the_fewest_for_its_slots() {
    let mut b = bench();
    b.beat_of(1, 1);
    b.beat_of(2, 3);
    let mut hosts = Vec::new();
    for number in 0..8 {
        let name = format!("w{number}");
        let out = b.fresh(number, &format!("{name}/t"));
        let [Out::Home(_, Some(host))] = &out[..] else {
            panic!("{out:?}");
        };
        hosts.push(host.clone());
    }
    let on_first = hosts.iter().filter(|host| *host == "h1").count();
    assert_eq!(on_first, 2, "{hosts:?}");
}

/// A process reports what it runs two seconds later.
#[test]
fn g2_a_new_workspace_does_not_go_where_turns_wait_while_another_disk_has_a_free_slot() {
    let mut b = bench();
    b.beat_of(1, 1);
    b.beat_of(2, 1);
    assert_eq!(b.fresh(1, "a/1"), [home("a", "h1")]);
    assert_eq!(b.home_set("a", 1, Some(disk(1))), [offer("a/1")]);
    assert_eq!(b.fresh(2, "b/2"), [home("b", "h2")]);
    assert_eq!(b.home_set("b", 1, Some(disk(2))), [offer("b/2")]);
    b.done("b/2");
    // As many workspaces live on each, and the first has the lower id.
    assert_eq!(b.fresh(3, "c/3"), [home("c", "h2")]);
    assert_eq!(b.home_set("c", 1, Some(disk(2))), [offer("c/3")]);
    // Both are full now: the one with fewer workspaces.
    assert_eq!(b.fresh(4, "d/4"), [home("d", "h1")]);
}

#[test]
fn g2_a_home_that_is_away_is_offered_nothing_until_it_is_back() {
    let mut b = bench();
    b.beat_of(1, 1);
    b.beat_of(2, 1);
    b.fresh(1, "a/1");
    b.home_set("a", 1, Some(disk(1)));
    b.done("a/1");
    for _ in 0..4 {
        b.pass(3.0);
        b.beat_of(2, 1);
    }
    assert_eq!(b.fresh(2, "a/2"), NONE);
    let (_, away) = b.queue.home_of(b.now, "a").unwrap();
    assert_eq!(away, Some(Duration::from_secs(12)));
    assert_eq!(b.queue.disks_called(b.now, "h1").away, [disk(1)]);
    assert_eq!(b.queue.disks_called(b.now, "h2").away, []);
    assert_eq!(b.beat_of(1, 1), [offer("a/2")]);
}

#[test]
fn g4_turns_that_may_have_been_started_on_a_lost_disk_end_by_name() {
    let mut b = bench();
    b.beat_of(1, 1);
    b.beat_of(2, 1);
    b.fresh(1, "a/1");
    b.home_set("a", 1, Some(disk(1)));
    let lost = LostDisk {
        disk: disk(1),
        at: Timestamp::UNIX_EPOCH,
        by: String::new(),
    };
    b.queue.disk_lost(b.now, lost.clone(), &mut b.out);
    let Some(Action::SetHome { record }) = b.out.pop() else {
        panic!("they are not named");
    };
    assert_eq!(record.home, None);
    let loss = lost.loss();
    assert_eq!(record.loss_of("1"), Some(&loss));
    // One that comes later is not lost, and waits for its turn.
    assert_eq!(b.fresh(2, "a/2"), NONE);
    b.queue.home_set(b.now, record, &mut b.out);
    let host_lost = Verdict::HostLost { loss };
    assert_eq!(b.take(), [claim("a/1", host_lost.clone()), home("a", "h2")]);
    // Sent again, it ends so again.
    assert_eq!(b.fresh(3, "a/1"), [ack(3)]);
    b.queue.reset();
    assert_eq!(b.fresh(4, "a/1"), [claim("a/1", host_lost)]);
}

/// A sequencer names the turns that it has been delivered so far, and another one takes over.
#[test]
fn g4_a_turn_that_comes_again_after_the_loss_was_recorded_is_not_run_again() {
    let mut b = bench();
    b.beat_of(1, 1);
    b.beat_of(2, 1);
    b.fresh(1, "a/1");
    b.fresh(2, "a/2");
    b.home_set("a", 1, Some(disk(1)));
    let lost = LostDisk {
        disk: disk(1),
        at: Timestamp::UNIX_EPOCH,
        by: String::new(),
    };
    let loss = lost.loss();
    b.queue.reset();
    b.queue.disk_lost(b.now, lost, &mut b.out);
    assert_eq!(b.redelivered(3, "a/1"), [Out::Home("a".to_owned(), None)]);
    let record = HomeRecord {
        lost: vec![LostTurns {
            loss: loss.clone(),
            turn_ids: vec!["1".into()],
        }],
        ..b.queue.homes().unwrap().next(&"a".into(), None)
    };
    b.queue.reset();
    b.queue.home_set(b.now, record, &mut b.out);
    b.take();

    // Not a new home: its end is asked for first.
    assert_eq!(b.redelivered(4, "a/2"), [Out::Home("a".to_owned(), None)]);
    let homes = b.queue.homes().unwrap();
    let record = HomeRecord {
        lost: vec![LostTurns {
            loss: loss.clone(),
            turn_ids: vec!["1".into(), "2".into()],
        }],
        ..homes.next(&"a".into(), None)
    };
    b.queue.home_set(b.now, record, &mut b.out);
    let host_lost = Verdict::HostLost { loss };
    assert_eq!(b.take(), [claim("a/2", host_lost)]);
}

/// Each sequencer that ends it publishes the same, so the loss is that of the turn.
#[test]
fn g5_a_turn_ends_with_the_loss_that_it_met_also_after_another_one() {
    let mut b = bench();
    b.beat_of(1, 1);
    b.beat_of(2, 1);
    let mut losses = Vec::new();
    for number in 1..=2 {
        b.queue.reset();
        let turn = format!("a/{number}");
        b.fresh(number, &turn);
        let homes = b.queue.homes().unwrap();
        let record = homes.next(&"a".into(), Some(disk(number.into())));
        b.queue.home_set(b.now, record, &mut b.out);
        b.take();
        let lost = LostDisk {
            disk: disk(number.into()),
            at: Timestamp::from_second(number.cast_signed()).unwrap(),
            by: String::new(),
        };
        losses.push(lost.loss());
        b.queue.disk_lost(b.now, lost, &mut b.out);
        let Some(Action::SetHome { record }) = b.out.pop() else {
            panic!("{turn} is not named");
        };
        b.queue.home_set(b.now, record, &mut b.out);
        b.take();
    }
    b.queue.reset();
    for (number, loss) in [1, 2].into_iter().zip(losses) {
        let turn = format!("a/{number}");
        let out = b.fresh(10 + number, &turn);
        assert_eq!(out.first(), Some(&claim(&turn, Verdict::HostLost { loss })));
    }
}

#[test]
fn a_process_without_a_disk_gets_no_offers() {
    let mut b = bench();
    let report = WorkerReport {
        worker: "older",
        slots: 4,
        serves: true,
        offers_to: Some("q"),
        running: &[],
        idle: &[],
        idle_is_cut: false,
        answers: true,
        disk: None,
    };
    b.queue.worker_heard(b.now, &report, &mut b.out);
    assert_eq!(b.fresh(1, "a/1"), NONE);
}
