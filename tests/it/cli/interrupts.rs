//! Ctrl-C: once asks, twice insists.

use rustix::process::{Pid, Signal, kill_process};

use super::call::Call;
use super::submit::producer;
use crate::support::broker::Broker;
use crate::support::host::{Host, stand_in};
use crate::support::pool::Pool;
use crate::support::processes;

#[tokio::test]
async fn ctrl_c_cancels_the_turn_and_waits_for_its_end() {
    let url = Broker::vhost();
    let pool = Pool::on(&url, 1, &[]).await;
    let script = "t1\nsay hi\nwait never";
    let called = producer(&url, &["submit", "-w", "a", "--turn-id", "t1", script]).start();
    called.printed("\"hi\"").await;
    called.signal(Signal::INT);
    let done = called.done().await.ended(130);
    done.says_at_last(&["cancelling turn t1", "Ctrl-C again"]);
    let events = done.events();
    assert_eq!(events.last().unwrap()["stop_reason"], "cancelled");
    assert_eq!(pool.events.ended("t1").await.stop_reason(), "cancelled");
    pool.stop().await;
}

#[tokio::test]
async fn a_second_ctrl_c_leaves_at_once() {
    let url = Broker::vhost();
    let mut pool = Pool::on(&url, 1, &[]).await;
    let script = "t1\nsay hi\nwait never";
    let called = producer(&url, &["submit", "-w", "a", "--turn-id", "t1", script]).start();
    called.printed("\"hi\"").await;
    // A disconnected worker: the end can't come.
    let worker = Pid::from_raw(pool.process(0).pid()).unwrap();
    kill_process(worker, Signal::STOP).unwrap();
    called.signal(Signal::INT);
    called.said("cancelling turn t1").await;
    called.signal(Signal::INT);
    let done = called.done().await.ended(130);
    assert!(done.err.contains("left turn t1"), "{done:?}");
    assert!(pool.events.turn("t1").end().is_none());
    kill_process(worker, Signal::CONT).unwrap();
    assert_eq!(pool.events.ended("t1").await.stop_reason(), "cancelled");
    pool.stop().await;
}

/// Guards that a cancel that no process receives is reported, and sent again.
#[tokio::test]
async fn a_cancel_that_no_process_receives_is_repeated_until_one_does() {
    let url = Broker::vhost();
    let mut pool = Pool::on(&url, 1, &[]).await;
    pool.process(0).terminate();
    assert_eq!(pool.process(0).exited().await, Some(0));
    let script = "t1\nwait never";
    let called = producer(&url, &["submit", "-w", "a", "--turn-id", "t1", script]).start();
    pool.ready_in("codex.turns", 1).await;
    called.signal(Signal::INT);
    called.said("no worker listens now").await;
    pool.spawn(&[]);
    called.said("cancelling turn t1").await;
    called.done().await.ended(130);
    pool.stop().await;
}

fn run(host: &Host, prompt: &str) -> Call {
    let path = |name: &str| host.path().join(name).to_str().unwrap().to_owned();
    Call::new(&["run", "--workspace", "a", prompt])
        .set("WORKSPACE_ROOT", &path("workspaces"))
        .set("CODEX_BIN", stand_in().to_str().unwrap())
        .set("CODEX_ENGINE", "exec")
        .set("CODEX_ENV", "PATH,HOME,STAND_IN_DIR")
        .env("HOME", &path("home"))
        .env("STAND_IN_DIR", &path("stand-in"))
}

#[tokio::test]
async fn ctrl_c_cancels_a_run_and_a_second_one_cuts_it() {
    let host = Host::new();
    let called = run(&host, "t1\nsay hi\nwait never").start();
    called.printed("\"hi\"").await;
    called.signal(Signal::INT);
    let done = called.done().await.ended(130);
    assert_eq!(done.events().last().unwrap()["stop_reason"], "cancelled");

    let called = run(&host, "t2\nignore-signals\nsay hi\nhang").start();
    called.printed("\"hi\"").await;
    called.signal(Signal::INT);
    called.said("cancelling").await;
    called.signal(Signal::INT);
    let done = called.done().await.ended(130);
    // No end was published, and no process is left.
    assert_ne!(done.events().last().unwrap()["type"], "message_end");
    let agent = *host.runs().last().unwrap();
    host.unlocked("a", &[agent]);
    assert!(!processes::lives(agent));
}

#[tokio::test]
async fn a_run_goes_on_without_its_reader() {
    let host = Host::new();
    let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
    drop(reader);
    // Else it warns if it runs as root.
    let run = run(&host, "t1\nsay hi\ntouch end").set("LOG", "error");
    let called = run.start_into(writer);
    let done = called.done().await.ended(0);
    assert_eq!(done.err, "");
    assert!(host.stand_in_file("end").exists());
}
