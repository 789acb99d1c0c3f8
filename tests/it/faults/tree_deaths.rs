//! SIGKILL of a turn's guard, and of codex, at each of their steps: the worker
//! lives, and publishes one end.

use std::ops::RangeInclusive;

use rustix::process::{Pid, Signal, kill_process};

use super::concurrently;
use crate::support::host::write_program;
use crate::support::pool::{Pool, Turn, turn};
use crate::support::processes::parent;

#[derive(Debug)]
struct Death {
    fault: &'static str,
    script: &'static [&'static str],
    runs: RangeInclusive<usize>,
    /// `None` if codex has reported how the turn ended.
    code: Option<&'static str>,
}

const LOST: Option<&str> = Some("codex.exited");

const DEATHS: &[Death] = &[
    Death {
        fault: "guard.asked=return(kill)",
        script: &["say hi"],
        runs: 0..=0,
        code: LOST,
    },
    Death {
        fault: "guard.started=return(kill)",
        script: &["wait never"],
        runs: 0..=1,
        code: LOST,
    },
    Death {
        fault: "guard.exited=return(kill)",
        script: &["daemon daemon", "say hi"],
        runs: 1..=1,
        code: None,
    },
    Death {
        fault: "guard.cleared=return(kill)",
        script: &["daemon daemon", "say hi"],
        runs: 1..=1,
        code: None,
    },
];

/// Guards that the worker ends what a dead guard leaves before it lets go of
/// the lock (`guard::handle::close`).
#[tokio::test]
async fn g3_g5_a_guard_killed_at_any_step_leaves_no_process_and_one_end() {
    concurrently(DEATHS, Death::happens).await;
}

impl Death {
    async fn happens(&self) {
        let mut pool = Pool::start(1, &[("FAILPOINTS", self.fault)]).await;
        pool.enqueue(&[turn("t1", "a", self.script)]).await;
        assert_ended(&pool.events.ended("t1").await, self.code);
        pool.unlocked("a").await;
        assert!(self.runs.contains(&pool.runs().all.len()));
        goes_on(pool).await;
    }
}

/// Guards that codex's own word counts for more than how it went
/// (`Translator::finish`): it has said that the turn is over, and is still there.
#[tokio::test]
async fn g5_what_codex_said_last_counts_though_it_or_its_guard_is_killed_then() {
    let mut pool = Pool::start(1, &[]).await;
    let over = ["say hi", "ignore-signals", "finish", "touch over", "hang"];
    let itself = ["say hi", "finish", "die"];
    pool.enqueue(&[turn("t1", "a", &over), turn("u1", "b", &itself)])
        .await;
    let run = pool.started("t1", 1).await;
    let over = pool.stand_in_file("over");
    let exists = async || over.exists().then_some(());
    pool.deadline.until("codex is done", exists).await;
    let guard = Pid::from_raw(parent(run.pid)).unwrap();
    kill_process(guard, Signal::KILL).unwrap();
    for (id, workspace) in [("t1", "a"), ("u1", "b")] {
        let ended = pool.events.ended(id).await;
        assert_ended(&ended, None);
        assert_eq!(ended.input_tokens(), Some(200), "{id}");
        pool.unlocked(workspace).await;
    }
    goes_on(pool).await;
}

/// Not a word of it comes.
#[tokio::test]
async fn g5_codex_that_is_killed_at_its_start_ends_the_turn() {
    let dir = tempfile::tempdir().unwrap();
    let codex = dir.path().join("codex");
    let version = turn_worker::versions::CODEX;
    let script = format!(
        "#!/bin/sh\n[ \"$1\" = --version ] && exec echo codex-cli {version}\nkill -KILL $$\n"
    );
    write_program(&codex, &script);
    let mut pool = Pool::start(1, &[("CODEX_BIN", codex.to_str().unwrap())]).await;
    pool.enqueue(&[turn("t1", "a", &[])]).await;
    let t1 = pool.events.ended("t1").await;
    assert_ended(&t1, LOST);
    assert_eq!(t1.kinds(1), ["message_start", "error", "message_end"]);
    pool.unlocked("a").await;
    pool.stop().await;
}

fn assert_ended(turn: &Turn, code: Option<&str>) {
    let stop_reason = if code.is_some() { "error" } else { "end_turn" };
    assert_eq!((turn.stop_reason(), turn.attempt()), (stop_reason, 1));
    assert_eq!(turn.error_code(), code);
}

/// A healthy worker takes the workspace over.
async fn goes_on(mut pool: Pool) {
    pool.idle().await;
    pool.process(0).terminate();
    assert_eq!(pool.process(0).exited().await, Some(0));
    pool.spawn(&[("FAILPOINTS", "")]);
    pool.enqueue(&[turn("t2", "a", &["say hi"])]).await;
    assert_ended(&pool.events.ended("t2").await, None);
    pool.stop().await;
}
