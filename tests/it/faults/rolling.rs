//! All processes are replaced, one after the other, as an operator does it
//! with a new version, while turns keep coming.

use std::collections::BTreeMap;

use crate::support::pool::{Pool, turn};

/// So many turns are under way at any time.
const UNDER_WAY: usize = 24;
const HOT: [&str; 2] = ["hot-0", "hot-1"];

#[derive(Default)]
struct Load {
    sent: usize,
    by_workspace: BTreeMap<String, Vec<String>>,
}

impl Load {
    /// Some more, once so many others have ended.
    async fn flow(&mut self, pool: &mut Pool) {
        let mut batch = Vec::new();
        for _ in 0..6 {
            let (n, id) = (self.sent, format!("t{:04}", self.sent));
            self.sent += 1;
            let workspace = match n % 3 {
                hot @ 0..=1 => HOT[hot].to_owned(),
                _ => format!("w{}", n % 10),
            };
            // Some are longer than what a process needs to end without them.
            let script = if n % 25 == 0 { "sleep 700" } else { "sleep 60" };
            batch.push(turn(&id, &workspace, &[script]));
            self.by_workspace.entry(workspace).or_default().push(id);
        }
        pool.enqueue(&batch).await;
        let ended = self.sent.saturating_sub(UNDER_WAY);
        pool.events.count_ended(ended).await;
    }
}

/// Guards that a worker that drains waits for what it runs (`Worker::consume`,
/// `Worker::run`), and that only heads are offered (`Queue::attend`).
#[tokio::test]
async fn g1_g4_g9_replacing_all_processes_under_load_loses_repeats_and_reorders_no_turn() {
    let mut pool = Pool::start(3, &[("LOG", "info")]).await;
    let mut load = Load::default();
    for old in 0..3 {
        let new = pool.spawn(&[]);
        let is_ready = async |pool: &mut Pool| {
            let ready = pool.process(new).get("/readyz").await;
            ready.is_some_and(|(status, _)| status == 200)
        };
        while !is_ready(&mut pool).await {
            load.flow(&mut pool).await;
        }
        pool.process(old).terminate();
        while !pool.process(old).has_ended() {
            load.flow(&mut pool).await;
        }
        assert_eq!(pool.process(old).exited().await, Some(0));
        // And some that only the new ones have seen.
        load.flow(&mut pool).await;
    }
    pool.events.count_ended(load.sent).await;
    let runs = pool.runs();
    assert_eq!(runs.all.len(), load.sent, "each ran once");
    for (workspace, ids) in &load.by_workspace {
        assert_eq!(&runs.first_starts()[workspace.as_str()], ids);
    }
    for id in pool.events.turn_ids() {
        let ended = pool.events.ended(&id).await;
        assert_eq!(
            (ended.stop_reason(), ended.attempt()),
            ("end_turn", 1),
            "{id}"
        );
    }
    pool.stop().await;
}
