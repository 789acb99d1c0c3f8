//! The faults themselves: that they happen, and are where tests think.

use rustix::process::{Pid, Signal, kill_process};

use crate::support::faults::{places, texts};
use crate::support::pool::{Pool, turn};

/// Guards that no place is left which no test asks for.
#[test]
fn every_place_for_a_fault_is_used() {
    let used = texts(&["tests", "ops"]).concat();
    let places = places();
    assert!(places.contains("turn.started"), "the search is broken");
    let is_used = |place: &String| {
        [format!("\"{place}\""), format!("{place}=")]
            .iter()
            .any(|name| used.contains(name))
    };
    let unused: Vec<_> = places.iter().filter(|place| !is_used(place)).collect();
    assert!(
        unused.is_empty(),
        "no test lets anything happen at {unused:?}"
    );
}

#[test]
#[should_panic(expected = "no place \"turn.begun\"")]
fn a_fault_at_a_place_that_is_not_there_is_noticed() {
    crate::support::faults::must_exist("turn.started=return(kill);turn.begun=return(kill)");
}

/// Guards `fault::at`: a process freezes, and another is killed, at the place.
#[tokio::test]
async fn a_process_freezes_or_dies_where_a_test_wants_it() {
    let mut pool = Pool::start(0, &[("ROLES", "worker")]).await;
    pool.spawn(&[("ROLES", "sequencer")]);
    let frozen = pool.spawn(&[("FAILPOINTS", "turn.started=1*return(stop)")]);
    pool.ready().await;
    pool.enqueue(&[turn("t1", "a", &[])]).await;
    let pid = pool.process(frozen).pid();
    let stopped = async || {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        stat.contains(") T ").then_some(())
    };
    pool.deadline.until("the worker is frozen", stopped).await;
    assert_eq!(pool.runs().all.len(), 0);
    kill_process(Pid::from_raw(pid).unwrap(), Signal::CONT).unwrap();
    assert_eq!(pool.events.ended("t1").await.attempt(), 1);

    pool.process(frozen).terminate();
    assert_eq!(pool.process(frozen).exited().await, Some(0));
    let dying = pool.spawn(&[("FAILPOINTS", "turn.started=1*off->return(kill)")]);
    pool.enqueue(&[turn("t2", "a", &[]), turn("t3", "a", &[])])
        .await;
    assert_eq!(pool.process(dying).exited().await, None);
    pool.spawn(&[]);
    assert_eq!(pool.events.ended("t2").await.attempt(), 1);
    assert_eq!(pool.events.ended("t3").await.attempt(), 2);
    pool.stop().await;
}
