//! G1 and G2: in order within a workspace, and no waiting for others.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::support::pool::{Pool, Runs, turn};

/// Small and good enough for sleeps; its seed is printed, and can be set.
struct Random(u64);

impl Random {
    fn new() -> Self {
        let set = std::env::var("TURN_WORKER_TEST_SEED").ok();
        let drawn = || uuid::Uuid::new_v4().as_u64_pair().0;
        let seed = set.map_or_else(drawn, |seed| seed.parse().unwrap());
        println!("TURN_WORKER_TEST_SEED={seed}");
        Self(seed)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (self.0 >> 33) % limit
    }
}

struct Plan {
    requests: Vec<Value>,
    ids: Vec<String>,
    by_workspace: BTreeMap<String, Vec<String>>,
}

fn random_turns(count: usize, workspaces: u64) -> Plan {
    let mut random = Random::new();
    let mut plan = Plan {
        requests: Vec::new(),
        ids: Vec::new(),
        by_workspace: BTreeMap::new(),
    };
    for number in 0..count {
        let id = format!("t{number:04}");
        let workspace = format!("w{}", random.below(workspaces));
        let script = match random.below(31) {
            0 => "at once".to_owned(),
            millis => format!("sleep {millis}"),
        };
        plan.requests.push(turn(&id, &workspace, &[&script]));
        plan.by_workspace
            .entry(workspace)
            .or_default()
            .push(id.clone());
        plan.ids.push(id);
    }
    plan
}

/// A turn that ran twice did so before the next one started.
fn assert_in_order(runs: &Runs, plan: &Plan) {
    let mut ran: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for run in &runs.all {
        let turns = ran.entry(&run.workspace).or_default();
        if turns.last() != Some(&run.turn.as_str()) {
            turns.push(&run.turn);
        }
    }
    for (workspace, wanted) in &plan.by_workspace {
        assert_eq!(&ran[workspace.as_str()], wanted, "in {workspace}");
    }
}

/// Guards that only a line's head is offered (`Queue::attend`).
#[tokio::test]
async fn g1_a_thousand_turns_start_in_order_and_alone_in_their_workspaces() {
    let plan = random_turns(1_000, 50);
    let mut pool = Pool::start(4, &[("LOG", "info")]).await;
    pool.enqueue(&plan.requests).await;
    pool.events.all_ended(&plan.ids).await;
    let runs = pool.runs();
    assert_in_order(&runs, &plan);
    assert_eq!(runs.all.len(), 1_000);
    pool.stop().await;
}

/// Guards that a delivery is acked only when its turn is done (`Queue::end`).
#[tokio::test]
async fn g1_the_order_outlives_the_process_that_keeps_it() {
    let plan = random_turns(240, 12);
    let mut pool = Pool::start(3, &[("LOG", "info")]).await;
    pool.enqueue(&plan.requests).await;
    for ended in [40, 120] {
        pool.events.count_ended(ended).await;
        let active = pool.active_sequencer().await;
        pool.process(active).kill();
        pool.spawn(&[]);
    }
    pool.events.all_ended(&plan.ids).await;
    assert_in_order(&pool.runs(), &plan);
    pool.stop().await;
}

/// Guards that a waiting turn takes no slot: only heads are offered, and an
/// offer is taken by a free slot only (`Worker::consume`).
#[tokio::test]
async fn g2_a_hundred_waiting_turns_of_one_workspace_hold_up_no_other() {
    let mut pool = Pool::start(2, &[("SLOTS", "1")]).await;
    let mut requests = vec![turn("b000", "busy", &["wait go"])];
    requests.extend((1..=100).map(|n| turn(&format!("b{n:03}"), "busy", &[])));
    let others: Vec<String> = (0..20).map(|n| format!("o{n}")).collect();
    requests.extend(others.iter().map(|id| turn(id, &format!("w-{id}"), &[])));
    pool.enqueue(&requests).await;
    pool.events.all_ended(&others).await;
    assert_eq!(
        pool.runs().all.len(),
        21,
        "only the head and the others ran"
    );
    pool.release("go");
    pool.events
        .all_ended((0..=100).map(|n| format!("b{n:03}")))
        .await;
    pool.stop().await;
}
