//! SIGKILL of the active sequencer at each step of its own, while another
//! stands by and a worker goes on.

use serde_json::json;

use super::concurrently;
use crate::support::pool::{Pool, persistent, turn};

#[derive(Debug)]
struct Death {
    fault: &'static str,
    /// What it is busy with.
    at: Work,
    /// What lies in the dead queue afterwards.
    letters: u32,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Work {
    /// A turn that goes on through the takeover.
    Running,
    /// A turn that has ended.
    Ended,
    /// The cancel of a turn that waits.
    Cancel,
    /// The same, without a standby that has received it, too.
    CancelAlone,
    /// A turn that waits for longer than it wants to.
    Expiry,
    /// A turn that interrupts those ahead of it.
    Interrupt,
    /// A turn too many for its workspace.
    Full,
    /// A request that can't be read.
    Invalid,
}

const fn death(fault: &'static str, at: Work, letters: u32) -> Death {
    Death { fault, at, letters }
}

const DEATHS: &[Death] = &[
    death("sequencer.received=return(kill)", Work::Running, 0),
    death("sequencer.received=2*off->return(kill)", Work::Running, 0),
    death("sequencer.offered=return(kill)", Work::Running, 0),
    death("sequencer.done=return(kill)", Work::Ended, 0),
    death("sequencer.acked=return(kill)", Work::Ended, 0),
    death("sequencer.marked=return(kill)", Work::Cancel, 0),
    death("sequencer.marked=return(kill)", Work::CancelAlone, 0),
    death("sequencer.claimed=return(kill)", Work::Cancel, 0),
    death("sequencer.claimed=return(kill)", Work::CancelAlone, 0),
    death("sequencer.told=return(kill)", Work::Cancel, 0),
    death("sequencer.receipt_kept=return(kill)", Work::Expiry, 0),
    death("sequencer.claimed=return(kill)", Work::Expiry, 0),
    death("sequencer.told=return(kill)", Work::Expiry, 0),
    death("sequencer.superseded=return(kill)", Work::Interrupt, 0),
    death("sequencer.claimed=return(kill)", Work::Interrupt, 0),
    death("sequencer.told=return(kill)", Work::Interrupt, 0),
    // It is refused first, since it may have run; so it may be kept twice.
    death("sequencer.claimed=return(kill)", Work::Full, 1),
    death("sequencer.buried=return(kill)", Work::Full, 2),
    death("sequencer.told=return(kill)", Work::Full, 2),
    // It is kept first, so that its claim shows that.
    death("sequencer.buried=return(kill)", Work::Invalid, 2),
    death("sequencer.rejected=return(kill)", Work::Invalid, 1),
    death("sequencer.answered=return(kill)", Work::Invalid, 1),
];

/// Guards that only heads are offered (`Queue::attend`), that a cancel leaves
/// its mark and a verdict its claim before they are published (`verdict::claim`), and
/// that what was kept is not kept again (`Refused::was_dealt_with`).
#[tokio::test]
async fn g1_g4_g5_a_sequencer_killed_at_any_step_leaves_order_and_verdicts_as_they_were() {
    concurrently(DEATHS, Death::happens).await;
}

impl Death {
    async fn happens(&self) {
        let settings = [("MAX_WAITING", "3")];
        let mut pool = Pool::start(0, &settings).await;
        pool.spawn(&[("ROLES", "worker")]);
        let dying = pool.spawn(&[("ROLES", "sequencer"), ("FAILPOINTS", self.fault)]);
        // The first that is there is the active one.
        pool.ready().await;
        if self.at != Work::CancelAlone {
            pool.spawn(&[("ROLES", "sequencer")]);
            pool.ready().await;
        }
        if self.at == Work::Ended {
            pool.release("go");
        }
        let mut requests = vec![turn("t1", "a", &["wait go"])];
        requests.extend(["t2", "t3"].map(|id| turn(id, "a", &[])));
        if self.at == Work::Expiry {
            requests[1]["start_within_s"] = json!(1);
        }
        pool.enqueue(&requests).await;
        match self.at {
            Work::Running | Work::Ended | Work::Expiry => {}
            Work::Cancel | Work::CancelAlone => {
                pool.started("t1", 1).await;
                pool.cancel("t2").await;
            }
            Work::Interrupt => {
                pool.started("t1", 1).await;
                let mut request = turn("odd", "a", &[]);
                request["on_busy"] = json!("interrupt");
                pool.enqueue(&[request]).await;
            }
            Work::Full => pool.enqueue(&[turn("odd", "a", &[])]).await,
            Work::Invalid => {
                let body = json!({"turn_id": "odd", "workspace": "a"});
                let body = body.to_string().into_bytes();
                pool.producer.enqueue_raw(&[(body, persistent())]).await;
            }
        }
        assert_eq!(pool.process(dying).exited().await, None);
        if self.at == Work::CancelAlone {
            pool.spawn(&[("ROLES", "sequencer")]);
        }
        self.is_mended(pool).await;
    }

    async fn is_mended(&self, mut pool: Pool) {
        if self.at == Work::Interrupt {
            return self.is_interrupted(pool).await;
        }
        let t2_ends = match self.at {
            Work::Cancel | Work::CancelAlone => Some("cancelled"),
            Work::Expiry => Some("error"),
            _ => None,
        };
        if self.at == Work::Expiry {
            // t1 runs on until then.
            pool.events.ended("t2").await;
        }
        if matches!(self.at, Work::Full | Work::Invalid) {
            let odd = pool.events.ended("odd").await;
            assert_eq!((odd.stop_reason(), odd.attempt()), ("error", 0));
        }
        pool.release("go");
        for id in ["t1", "t3"] {
            let ended = pool.events.ended(id).await;
            assert_eq!((ended.stop_reason(), ended.attempt()), ("end_turn", 1));
        }
        let t2 = pool.events.ended("t2").await;
        let wanted = t2_ends.map_or(("end_turn", 1), |how| (how, 0));
        assert_eq!((t2.stop_reason(), t2.attempt()), wanted);
        let turns: Vec<_> = pool.runs().all.into_iter().map(|run| run.turn).collect();
        let wanted = if t2_ends.is_none() {
            vec!["t1", "t2", "t3"]
        } else {
            vec!["t1", "t3"]
        };
        assert_eq!(turns, wanted, "each once, in order");
        pool.idle().await;
        pool.ready_in("codex.turns.dead", self.letters).await;
        pool.stop().await;
    }

    async fn is_interrupted(&self, mut pool: Pool) {
        for (id, attempt) in [("t1", 1), ("t2", 0), ("t3", 0)] {
            let ended = pool.events.ended(id).await;
            assert_eq!(
                (ended.stop_reason(), ended.attempt()),
                ("cancelled", attempt)
            );
            assert_eq!(ended.end().unwrap()["superseded_by"], "odd");
        }
        let odd = pool.events.ended("odd").await;
        assert_eq!((odd.stop_reason(), odd.attempt()), ("end_turn", 1));
        let turns: Vec<_> = pool.runs().all.into_iter().map(|run| run.turn).collect();
        assert_eq!(turns, ["t1", "odd"], "each once, in order");
        pool.idle().await;
        pool.ready_in("codex.turns.dead", self.letters).await;
        pool.stop().await;
    }
}
