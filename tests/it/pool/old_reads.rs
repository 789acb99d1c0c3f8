//! Hosts that do not see what another one has just written: an old read of a
//! journal, and an attempt that goes on without knowing of the next.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use rustix::process::{Pid, Signal, kill_process};

use crate::support::broker::Broker;
use crate::support::pool::{Pool, turn};
use crate::support::proxy::Proxy;

/// A journal, and what is kept beside it, as it was at one time.
struct Journal {
    state: PathBuf,
    /// The journal first: the others are caches, and may be older.
    files: Vec<(&'static str, Vec<u8>)>,
}

impl Journal {
    fn read(pool: &Pool, workspace: &str) -> Self {
        let state = pool.root().join(".turn-worker/workspaces");
        let state = state.join(workspace).join(".state");
        let names = ["journal", "checkpoint", "ends.1"].into_iter();
        let files = names.map(|name| (name, fs::read(state.join(name)).unwrap()));
        Self {
            files: files.collect(),
            state,
        }
    }

    /// As a cache shows it, or as it is; never a part of it.
    fn show(&self) {
        for (name, bytes) in &self.files {
            let path = self.state.join(name);
            let file = File::options().write(true).open(path).unwrap();
            file.write_all_at(bytes, 0).unwrap();
            file.set_len(bytes.len() as u64).unwrap();
        }
    }
}

/// Guards that the journal's end travels with `done` and with offers, also over
/// a takeover (`Pool::note_journal_end`), and is waited for (`OldReads`).
#[tokio::test]
async fn g4_a_finished_turn_does_not_run_again_on_an_old_journal() {
    let mut pool = Pool::start(0, &[("ROLES", "sequencer")]).await;
    let active = pool.spawn(&[]);
    pool.process(active).ready().await;
    pool.spawn(&[]);
    let first = pool.spawn(&[("ROLES", "worker")]);
    pool.ready().await;
    let again = turn("t2", "a", &["say hi"]);
    pool.enqueue(&[turn("t1", "a", &["say hi"])]).await;
    pool.events.ended("t1").await;
    pool.idle().await;
    let old = Journal::read(&pool, "a");
    pool.enqueue(std::slice::from_ref(&again)).await;
    pool.events.ended("t2").await;
    pool.idle().await;
    let new = Journal::read(&pool, "a");

    // What is left has it from `done` only, and the next worker from offers only.
    pool.process(first).terminate();
    assert_eq!(pool.process(first).exited().await, Some(0));
    pool.process(active).kill();
    let second = pool.spawn(&[("ROLES", "worker")]);
    pool.ready().await;
    old.show();
    pool.enqueue(&[again]).await;
    pool.process(second)
        .logged("reading the journal again")
        .await;
    new.show();
    pool.events.ended_again("t2", 1).await;
    pool.idle().await;
    assert_eq!(pool.runs().of_turn("t2").count(), 1);
    let recovered = r#"turn_worker_old_reads_total{outcome="recovered"}"#;
    assert_eq!(pool.metric(recovered).await, 1.0);
    pool.stop().await;
}

/// Guards that a turn waits for a journal that has gone until an operator
/// accepts that (`journal-id`).
#[tokio::test]
async fn g4_a_workspace_waits_for_its_journal_until_an_operator_does_without() {
    let mut pool = Pool::start(1, &[("SLOTS", "1")]).await;
    pool.enqueue(&[turn("t1", "a", &["say hi"])]).await;
    pool.events.ended("t1").await;
    pool.idle().await;
    let Journal { state, files } = Journal::read(&pool, "a");
    for (name, _) in files {
        fs::remove_file(state.join(name)).unwrap();
    }
    pool.enqueue(&[turn("t2", "a", &["say hi"])]).await;
    let returned = r#"turn_worker_old_reads_total{outcome="returned"}"#;
    pool.metric_is(returned, 1.0).await;
    assert_eq!(pool.runs().of_turn("t2").count(), 0);
    assert!(!state.join("journal").exists());
    fs::remove_file(state.join("journal-id")).unwrap();
    assert_eq!(pool.events.ended("t2").await.stop_reason(), "end_turn");
    assert_eq!(pool.metric(returned).await, 1.0);
    pool.stop().await;
}

/// Guards the look before events are published on another connection (`Looks`).
#[tokio::test]
async fn g5_an_attempt_that_was_overtaken_while_disconnected_publishes_no_event() {
    let url = Broker::vhost();
    let mut pool = Pool::on(&url, 0, &[("SLOTS", "1")]).await;
    pool.spawn(&[("ROLES", "sequencer")]);
    let proxy = Proxy::before(&url).await;
    let cut_off = pool.spawn(&[("AMQP_URL", &proxy.url), ("ROLES", "worker")]);
    pool.ready().await;
    let talk = ["say before", "wait cut", "say late", "wait go", "say after"];
    pool.enqueue(&[turn("t1", "a", &talk)]).await;
    pool.events.said("t1", "before").await;
    let old = pool.started("t1", 1).await;
    proxy.redirect("127.0.0.1:9");
    proxy.cut();
    pool.release("cut");
    let unpublished = "turn_worker_turns_unpublished";
    pool.process(cut_off).metric_is(unpublished, 1.0).await;
    kill_process(Pid::from_raw(old.pid).unwrap(), Signal::STOP).unwrap();

    // A host that is given the lock by a storage that has forgotten it, and that
    // can't see the other one's processes.
    pool.overlaps = true;
    let blind = "sabotage.lock=return;sabotage.sight=return";
    let other = pool.spawn(&[("ROLES", "worker"), ("FAILPOINTS", blind)]);
    pool.process(other).ready().await;
    pool.release("go");
    let ended = pool.events.ended("t1").await;
    assert!(ended.attempts[&2].last().unwrap()["type"] == "message_end");

    proxy.redirect(&broker_of(&url));
    let outdated = "turn_worker_attempts_outdated_total";
    pool.process(cut_off).metric_is(outdated, 1.0).await;
    pool.process(cut_off)
        .metric_is("turn_worker_slots_busy", 0.0)
        .await;
    pool.enqueue(&[turn("t2", "a", &["say hi"])]).await;
    pool.events.ended("t2").await;
    assert_eq!(pool.events.turn("t1").said(1), ["before"]);
    pool.stop().await;
}

fn broker_of(url: &str) -> String {
    let (_, rest) = url.split_once('@').unwrap();
    rest.split_once('/').unwrap().0.to_owned()
}
