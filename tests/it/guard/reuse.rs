//! One guard, one turn after another.

use rustix::process::{Pid, Signal, kill_process};
use tokio::task::block_in_place;
use turn_worker::guard::Exit;
use turn_worker::guard::{Closed, Guards};

use super::{Script, guards};
use crate::support::host::until;
use crate::support::processes::lives;

const CLEAN: Closed = Closed {
    exit: Exit::Code(0),
    leftovers: 0,
    unkillable: None,
    lock_lost: None,
};

/// The guard of a turn that says so, and ends.
async fn guard_of_a_turn(guards: &Guards) -> i32 {
    let mut script = Script::start_under(guards, "echo $PPID");
    let guard = script.line().await.parse().unwrap();
    assert_eq!(script.closed().await, CLEAN);
    guard
}

/// Children of other tests hold copies of every lock from their fork to their
/// exec: so a free lock may take a moment. The guard itself keeps it for good.
fn lock_gets_free(script: &Script) {
    let is_free = || script.lock_is_free().then_some(());
    block_in_place(|| until("the lock is free", is_free));
}

/// Guards that the lock is let go of before the guard says that the turn is
/// over: else this turn's workspace stayed locked until the guard's next turn.
#[tokio::test(flavor = "multi_thread")]
async fn g3_a_guard_that_waits_for_its_next_turn_holds_no_lock() {
    let guards = guards();
    let mut first = Script::start_under(&guards, "echo $PPID; sleep 1000 & exit 3");
    let guard = first.line().await;
    let end = Closed {
        exit: Exit::Code(3),
        leftovers: 1,
        unkillable: None,
        lock_lost: None,
    };
    assert_eq!(first.closed().await, end);
    lock_gets_free(&first);
    assert_eq!(first.live(), 0);

    let mut second = Script::start_under(&guards, "echo $PPID; read go");
    assert_eq!(second.line().await, guard, "it was not used again");
    lock_gets_free(&first);
    assert!(!second.lock_is_free());
    second.go().await;
    assert_eq!(second.closed().await, CLEAN);
    lock_gets_free(&second);
}

/// What only the first had: its tag, its folder, its open files.
#[tokio::test(flavor = "multi_thread")]
async fn g8_a_turn_finds_no_trace_of_its_guards_turn_before() {
    let guards = guards();
    let mut first = Script::start_under(&guards, "cd /; umask 0; echo $PPID");
    let guard = first.line().await;
    assert_eq!(first.closed().await, CLEAN);
    let mut second = Script::start_under(
        &guards,
        "echo $PPID; pwd; umask; env | grep -v -e ^PATH= -e ^PWD= -e ^OLDPWD= -e ^_= | sort; ls /proc/self/fd | wc -l",
    );
    assert_eq!(second.line().await, guard, "it was not used again");
    let here = second.dir.path().to_str().unwrap().to_owned();
    assert_eq!(second.line().await, here);
    assert_ne!(second.line().await, "0000");
    for variable in ["TURN_WORKER_TAG=", "TURN_WORKER_WORKSPACE="] {
        let tag = second.line().await;
        assert!(tag.starts_with(variable) && tag.ends_with(&here), "{tag}");
    }
    // `ls` has one more open than the three.
    assert_eq!(second.line().await, "4");
    assert_eq!(second.closed().await, CLEAN);
}

/// Guards the loop that skips what is no start: the order would end the next
/// turn, or be taken for its beginning.
#[tokio::test(flavor = "multi_thread")]
async fn g4_an_order_that_crosses_with_a_turns_end_is_not_for_the_next_one() {
    let guards = guards();
    let mut first = Script::start_under(&guards, "echo $PPID");
    let guard = first.line().await;
    let lock_is_free = || first.lock_is_free().then_some(());
    block_in_place(|| until("the turn is over", lock_is_free));
    first.guard().kill().await;
    first.guard().interrupt().await;
    assert_eq!(first.closed().await, CLEAN);

    let mut second = Script::start_under(&guards, "echo $PPID; read go");
    assert_eq!(second.line().await, guard, "it was not used again");
    second.go().await;
    assert_eq!(second.closed().await, CLEAN);
}

/// Guards the look at the process before it is used.
#[tokio::test(flavor = "multi_thread")]
async fn a_guard_that_was_killed_while_it_waited_is_not_used() {
    let guards = guards();
    let first = guard_of_a_turn(&guards).await;
    kill_process(Pid::from_raw(first).unwrap(), Signal::KILL).unwrap();
    block_in_place(|| until("it is gone", || (!lives(first)).then_some(())));
    let second = guard_of_a_turn(&guards).await;
    assert_ne!(second, first);
    assert_eq!(guard_of_a_turn(&guards).await, second);
}

/// To another nice value, than that of the tests.
const RENICE: &str = "renice -n $(( $(nice) == 19 ? 18 : 19 )) -p";

/// Guards the look at a guard before it is used: the next turn would have the
/// first one's limits.
#[tokio::test(flavor = "multi_thread")]
async fn g8_a_guard_that_its_agent_changed_is_not_used_again() {
    for change in ["prlimit --nofile=100:100 --pid", RENICE] {
        let guards = guards();
        let change = format!("{change} $PPID >/dev/null && echo $PPID");
        let mut first = Script::start_under(&guards, &change);
        let guard = first.line().await.parse().unwrap();
        assert_eq!(first.closed().await, CLEAN);
        is_not_used(&guards, guard, &change).await;
    }
}

/// As above, by an agent of another turn, while the guard waits.
#[tokio::test(flavor = "multi_thread")]
async fn g8_a_guard_that_was_changed_while_it_waited_is_not_used() {
    for change in [
        "prlimit --nofile=100:100 --pid",
        RENICE,
        "chrt --idle -p 0",
        "ionice -c 3 -p",
    ] {
        let guards = guards();
        let first = guard_of_a_turn(&guards).await;
        let change = format!("{change} {first} >/dev/null");
        let changed = std::process::Command::new("sh")
            .args(["-c", &change])
            .status();
        assert!(changed.unwrap().success(), "{change}");
        is_not_used(&guards, first, &change).await;
    }
}

/// The next turn has another guard, and what this process has.
async fn is_not_used(guards: &Guards, first: i32, change: &str) {
    let mut second = Script::start_under(guards, "echo $PPID; ulimit -n; nice");
    assert_ne!(second.line().await, first.to_string(), "{change}");
    assert_ne!(second.line().await, "100", "{change}");
    let nice = rustix::process::getpriority_process(None).unwrap();
    assert_eq!(second.line().await, nice.to_string(), "{change}");
    assert_eq!(second.closed().await, CLEAN);
    block_in_place(|| until("it is gone", || (!lives(first)).then_some(())));
}

/// Guards SIGCONT: else the turn would hang, and one that is not used would
/// stay for ever.
#[tokio::test(flavor = "multi_thread")]
async fn g8_a_guard_that_was_stopped_while_it_waited_goes_on() {
    let guards = guards();
    let first = guard_of_a_turn(&guards).await;
    kill_process(Pid::from_raw(first).unwrap(), Signal::STOP).unwrap();
    assert_eq!(guard_of_a_turn(&guards).await, first);
}

#[tokio::test(flavor = "multi_thread")]
async fn turns_at_the_same_time_have_guards_of_their_own() {
    let guards = guards();
    let mut scripts: Vec<_> = (0..3)
        .map(|_| Script::start_under(&guards, "echo $PPID; read go"))
        .collect();
    let mut seen = Vec::new();
    for script in &mut scripts {
        seen.push(script.line().await);
    }
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), 3);
    for script in &mut scripts {
        script.go().await;
        assert_eq!(script.closed().await, CLEAN);
    }
}

/// A worker that is done leaves no guard behind.
#[tokio::test(flavor = "multi_thread")]
async fn guards_that_wait_end_with_their_worker() {
    let guards = guards();
    let guard = guard_of_a_turn(&guards).await;
    assert!(lives(guard));
    drop(guards);
    block_in_place(|| until("it is gone", || (!lives(guard)).then_some(())));
}
