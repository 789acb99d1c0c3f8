//! SIGKILL at each step of a server's way from one turn to the next.

use super::concurrently;
use crate::support::pool::{Pool, turn};

#[derive(Debug)]
struct Death {
    fault: &'static str,
    /// Of the second turn.
    code: Option<&'static str>,
}

const fn death(fault: &'static str, code: Option<&'static str>) -> Death {
    Death { fault, code }
}

const DEATHS: &[Death] = &[
    death("guard.resting=return(kill)", None),
    death("guard.waiting=return(kill)", None),
    death("guard.taken=return(kill)", None),
    // It goes with the turn that is about to start.
    death("guard.marked=1*off->return(kill)", Some("codex.exited")),
    death("server.kept=return(kill)", None),
    death("server.taken=return(kill)", None),
];

/// Guards that a server is no more than a short cut: with any end of it
/// between two turns, these are run as without it.
#[tokio::test]
async fn g3_g4_a_server_lost_at_any_step_costs_no_turn_that_has_not_started() {
    concurrently(DEATHS, Death::happens).await;
}

impl Death {
    async fn happens(&self) {
        let worker = [("ROLES", "worker"), ("CODEX_ENGINE", "app-server")];
        let mut pool = Pool::start(1, &[("ROLES", "sequencer")]).await;
        let mut settings = worker.to_vec();
        settings.push(("FAILPOINTS", self.fault));
        let dying = pool.spawn(&settings);
        let turns = ["t1", "t2"].map(|id| turn(id, "a", &["say hi"]));
        pool.enqueue(&turns).await;
        if self.fault.starts_with("server.") {
            assert_eq!(pool.process(dying).exited().await, None);
            pool.spawn(&worker);
        }
        let t1 = pool.events.ended("t1").await;
        assert_eq!((t1.stop_reason(), t1.attempt()), ("end_turn", 1));
        let t2 = pool.events.ended("t2").await;
        assert_eq!((t2.error_code(), t2.attempt()), (self.code, 1));
        assert_eq!(
            pool.runs().all.len(),
            if self.code.is_some() { 1 } else { 2 }
        );
        pool.unlocked("a").await;
        pool.stop().await;
    }
}

/// Guards that a bell rings no longer than who rings it lives.
#[tokio::test]
async fn g4_who_dies_while_a_server_makes_way_for_it_leaves_the_workspace_free() {
    let settings = [("SLOTS", "1"), ("CODEX_ENGINE", "app-server")];
    let mut pool = Pool::start(1, &settings).await;
    pool.enqueue(&[turn("t1", "a", &["say hi"])]).await;
    pool.events.ended("t1").await;
    pool.enqueue(&[turn("busy", "b", &["wait go"])]).await;
    pool.started("busy", 1).await;
    let dying = pool.spawn(&[
        ("ROLES", "worker"),
        ("FAILPOINTS", "turn.ringing=return(kill)"),
    ]);
    pool.process(dying).ready().await;
    pool.enqueue(&[turn("t2", "a", &["say on"])]).await;
    assert_eq!(pool.process(dying).exited().await, None);
    pool.release("go");
    let t2 = pool.events.ended("t2").await;
    assert_eq!((t2.stop_reason(), t2.attempt()), ("end_turn", 1));
    pool.stop().await;
}
