//! G9: SIGTERM while turns run, wait, are offered, and can't be reported.

use serde_json::Value;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};

use crate::support::broker::Broker;
use crate::support::pool::{Pool, turn};

fn turns(ids: &[&str], workspace: &str) -> Vec<Value> {
    ids.iter().map(|id| turn(id, workspace, &[])).collect()
}

/// Guards that a sequencer that drains hangs up at once (`Sequencer::session`),
/// not when its process ends.
#[tokio::test]
async fn g1_g9_a_sequencer_that_drains_hands_over_what_waits_in_order() {
    let mut pool = Pool::start(1, &[("SLOTS", "2")]).await;
    let held = [turn("a0", "a", &["wait go"]), turn("b0", "b", &["wait go"])];
    pool.enqueue(&held).await;
    for id in ["a0", "b0"] {
        pool.started(id, 1).await;
    }
    pool.enqueue(&turns(&["a1", "a2", "a3"], "a")).await;
    pool.enqueue(&turns(&["b1", "b2"], "b")).await;
    // Offered, with no slot to take it.
    pool.enqueue(&turns(&["c0", "c1"], "c")).await;
    pool.ready_in("codex.turns.work", 1).await;
    pool.spawn(&[("ROLES", "sequencer")]);
    pool.ready().await;
    pool.process(0).terminate();
    pool.process(0).draining().await;
    // Taken over, and what runs is listened for.
    pool.process(1)
        .metric_is("turn_worker_backlog_turns", 9.0)
        .await;
    pool.spawn(&[]);
    pool.events.all_ended(["c0", "c1"]).await;
    pool.release("go");
    pool.events.all_ended(["a3", "b2"]).await;
    assert_eq!(pool.process(0).exited().await, Some(0));

    let runs = pool.runs();
    assert_eq!(runs.all.len(), 9, "each ran once: {runs:#?}");
    let first_starts = runs.first_starts();
    assert_eq!(first_starts["a"], ["a0", "a1", "a2", "a3"]);
    assert_eq!(first_starts["b"], ["b0", "b1", "b2"]);
    assert_eq!(first_starts["c"], ["c0", "c1"]);
    for id in pool.events.turn_ids() {
        assert_eq!(pool.events.ended(&id).await.attempt(), 1, "{id}");
    }
    pool.stop().await;
}

/// Guards that what is cut off is recorded as given back (`Attempt::give_back`)
/// before its offer is: with one attempt allowed it runs again, even if the
/// worker dies in between.
#[tokio::test]
async fn g9_agents_that_hear_no_signal_are_cut_off_at_the_end_of_the_grace_time() {
    let settings = [("SHUTDOWN_GRACE", "1s"), ("MAX_ATTEMPTS", "1")];
    let mut pool = Pool::start(0, &settings).await;
    pool.spawn(&[("ROLES", "sequencer")]);
    let ending = pool.spawn(&[("FAILPOINTS", "turn.returned=2*off->return(kill)")]);
    pool.ready().await;
    let workspaces = ["a", "b", "c"];
    for id in workspaces {
        let once = format!("once {id}");
        let deaf = ["ignore-signals", "say hi", &once, "hang"];
        pool.enqueue(&[turn(id, id, &deaf), turn(&format!("{id}1"), id, &[])])
            .await;
    }
    for id in workspaces {
        pool.events.said(id, "hi").await;
    }
    pool.process(ending).terminate();
    // At the third that it gives back.
    assert_eq!(pool.process(ending).exited().await, None);
    for id in workspaces {
        pool.unlocked(id).await;
    }
    pool.spawn(&[]);
    for id in workspaces {
        let ended = pool.events.ended(id).await;
        assert_eq!((ended.stop_reason(), ended.attempt()), ("end_turn", 2));
        let next = pool.events.ended(&format!("{id}1")).await;
        assert_eq!((next.stop_reason(), next.attempt()), ("end_turn", 1));
    }
    pool.stop().await;
}

/// Guards that what could not be published is in the record of the turn's end
/// (`Attempt::record`), for the next worker to publish.
#[tokio::test]
async fn g4_g9_a_worker_that_drains_without_a_broker_ends_and_loses_no_turn() {
    let url = Broker::vhost();
    let way = Way::to(&url).await;
    let settings = [("SHUTDOWN_GRACE", "1s"), ("MAX_ATTEMPTS", "1")];
    let mut pool = Pool::on(&url, 0, &settings).await;
    let cut_off = pool.spawn(&[("AMQP_URL", &way.url)]);
    pool.ready().await;
    let over = turn(
        "t1",
        "a",
        &["say before", "wait go", "say after", "touch over"],
    );
    let running = turn("u1", "b", &["say hi", "once run", "wait never"]);
    pool.enqueue(&[over, running]).await;
    pool.enqueue(&[turn("t2", "a", &[]), turn("u2", "b", &[])])
        .await;
    pool.events.said("t1", "before").await;
    pool.events.said("u1", "hi").await;
    way.close();
    pool.process(cut_off).unready("not connected").await;
    pool.release("go");
    pool.unlocked("a").await;
    pool.process(cut_off).terminate();
    assert_eq!(pool.process(cut_off).exited().await, Some(0));
    pool.unlocked("b").await;
    assert_eq!(pool.events.turn("t1").said(1), ["before"]);

    pool.spawn(&[]);
    for (id, attempt) in [("t1", 1), ("u1", 2), ("t2", 1), ("u2", 1)] {
        let ended = pool.events.ended(id).await;
        assert_eq!(
            (ended.stop_reason(), ended.attempt()),
            ("end_turn", attempt)
        );
    }
    assert_eq!(pool.events.turn("t1").said(1), ["before", "after"]);
    assert_eq!(pool.runs().of_turn("t1").count(), 1);
    pool.stop().await;
}

/// The way to the broker, which can be closed.
struct Way {
    url: String,
    open: AbortHandle,
}

impl Way {
    async fn to(url: &str) -> Self {
        let (user, rest) = url.split_once('@').unwrap();
        let (broker, vhost) = rest.split_once('/').unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("{user}@{}/{vhost}", listener.local_addr().unwrap());
        let broker = broker.to_owned();
        let open = tokio::spawn(async move {
            // They end with this task.
            let mut connections = JoinSet::new();
            loop {
                let (mut inward, _) = listener.accept().await.unwrap();
                let mut outward = TcpStream::connect(&broker).await.unwrap();
                connections.spawn(async move {
                    let _ = copy_bidirectional(&mut inward, &mut outward).await;
                });
            }
        });
        let open = open.abort_handle();
        Self { url, open }
    }

    fn close(self) {
        self.open.abort();
    }
}
