//! What a run leaves, after the last fault: what does not work now
//! never will.

use rustix::process::Signal;
use tokio::time::{Instant, sleep, timeout};

use crate::judge::After;
use crate::plan::turn::Turn;
use crate::processes;
use crate::record::{events, runs};
use crate::run::{LIMIT, LOOK, Run};

/// Lets the turns go on that hold a slot each.
const GO: &str = "go";

impl Run<'_> {
    /// Does every slot of every process still take turns, and let them go?
    pub async fn calm(&self, after: &mut After) -> anyhow::Result<()> {
        // Who has not come to the step where it is to die would do so now.
        for process in self.pool.living() {
            if process.armed {
                process.signal(Signal::KILL);
            }
        }
        while self.pool.living().iter().any(|process| process.armed) {
            sleep(LOOK).await;
        }
        after.deaf_slots = self.ready().await.err().unwrap_or_default();
        after.deaf_slots.extend(self.deaf_slots().await);
        if !self.all_ended().await {
            after
                .left_behind
                .push("turns of the last round that never ended".to_owned());
        }
        for series in [
            "turn_worker_slots_busy",
            "turn_worker_backlog_turns",
            "turn_worker_servers_idle",
        ] {
            let is_zero = async {
                while self.pool.metric(series).await != Some(0.0) {
                    sleep(LOOK).await;
                }
            };
            if timeout(LIMIT, is_zero).await.is_err() {
                let value = self.pool.metric(series).await;
                after.left_behind.push(format!("{series} is {value:?}"));
            }
        }
        Ok(())
    }

    /// As many turns as there are slots must be able to run at the same time.
    async fn deaf_slots(&self) -> Vec<String> {
        let serving = self.pool.serving();
        let slots: usize = serving.iter().map(|process| process.slots).sum();
        let turns: Vec<Turn> = (0..slots).map(|number| Turn::waiting(number, GO)).collect();
        let setup = &self.pool.setup;
        // A new workspace gets a disk with a free slot, as far as is known by then.
        let together = if setup.disks.is_some() {
            1
        } else {
            slots.max(1)
        };
        let deadline = Instant::now() + LIMIT;
        let mut missing = Vec::new();
        for turns in turns.chunks(together) {
            missing.extend(turns.iter().map(|turn| turn.id.clone()));
            self.producer.enqueue(turns.to_vec()).await;
            while !missing.is_empty() && Instant::now() < deadline {
                sleep(LOOK).await;
                let runs = runs::read(&setup.stand_in_dir(), &setup.roots());
                missing.retain(|turn| runs.iter().all(|run| run.tag != *turn));
            }
        }
        let go = std::fs::write(setup.stand_in_dir().join(GO), "");
        let go = go
            .err()
            .map(|error| format!("the last round can't be released: {error}"));
        let missing = missing
            .into_iter()
            .map(|turn| format!("{turn} was not started in {LIMIT:?}"));
        missing.chain(go).collect()
    }

    pub fn processes_left(&self) -> Vec<String> {
        let workers: Vec<i32> = self
            .pool
            .living()
            .iter()
            .flat_map(|process| [Some(process.pid), process.launcher])
            .flatten()
            .collect();
        processes::of_turns(&self.order.dir, &workers)
    }

    /// Once all processes have ended; also a dead queue that lacks poisonous
    /// requests. The broker counts with some delay.
    pub async fn messages_left(&self) -> anyhow::Result<Vec<String>> {
        let deadline = Instant::now() + LIMIT;
        // Rejected turns are there, too, and some of all twice.
        let poisoned = self.striker.poisoned.get();
        loop {
            let depths = self.striker.broker.depths(&self.order.vhost).await?;
            let left: Vec<String> = depths
                .into_iter()
                .filter(|(name, ready, unacked)| match name.as_str() {
                    "codex.turns.dead" => *ready < poisoned,
                    "codex.turns" | "codex.turns.work" | events::QUEUE => ready + unacked > 0,
                    // Where the workspaces live.
                    "codex.turns.homes" => false,
                    _ if name.starts_with("codex.turns.records.") => ready + unacked > 0,
                    // One of a killed process is there for a minute.
                    _ if name.starts_with("codex.turns.work.") => ready + unacked > 0,
                    _ => true,
                })
                .map(|(name, ready, unacked)| {
                    format!("queue {name}: {ready} ready, {unacked} unacked")
                })
                .collect();
            if left.is_empty() || Instant::now() > deadline {
                return Ok(left);
            }
            sleep(10 * LOOK).await;
        }
    }
}
