//! Why the turns of a workspace wait, as far as the pool reports it.

use jiff::Timestamp;

use super::status::{PoolStatus, WorkerStatus};
use crate::amqp::messages::{Hindrance, LineReport};

/// In words. What a workspace itself is held up by comes first, then what
/// holds up all.
pub fn why(status: &PoolStatus, workspace: &str) -> String {
    let workers = &status.workers;
    for worker in workers {
        let mut running = worker.running.iter();
        if let Some(turn) = running.find(|turn| turn.workspace == workspace) {
            return format!("{} runs on {}", turn.turn_id, worker.name);
        }
    }
    let line = status.backlog.iter().flat_map(|backlog| &backlog.top);
    let line = line.into_iter().find(|line| line.workspace == workspace);
    if line.is_some_and(|line| line.paused) {
        return "paused".to_owned();
    }
    if let Some(line) = line
        && let (Some(home), Some(away_ms)) = (&line.home, line.home_away_ms)
    {
        let minutes = away_ms / 60_000;
        let seconds = away_ms / 1_000 % 60;
        return format!("home {home} is away for {minutes} min {seconds} s");
    }
    let held = workers.iter().flat_map(|worker| &worker.about.held);
    if let Some(held) = held.into_iter().find(|held| held.workspace == workspace) {
        return format!(
            "held by process {} ({}) on {}, which can't be killed",
            held.pid, held.command, held.host
        );
    }
    let blocked = workers.iter().flat_map(|worker| &worker.about.blocked);
    let blocked = blocked.filter(|one| one.workspace == workspace);
    if let Some(first) = blocked.min_by_key(|one| one.since) {
        let what = match first.why {
            Hindrance::Records => "records can't be used",
            Hindrance::Locked => "locked",
            Hindrance::Other => "held up",
        };
        return format!("{what} since {}: {}", to_seconds(first.since), first.detail);
    }
    if line.is_some_and(|line| line.running) {
        return "runs on a worker that was not heard just now".to_owned();
    }
    let of_home = |worker: &&WorkerStatus| lives_at(worker, line);
    let workers: Vec<&WorkerStatus> = workers.iter().filter(of_home).collect();
    if !workers.iter().any(|worker| takes_turns(worker)) {
        return match workers.iter().find_map(|worker| idle_because(worker)) {
            Some(because) => format!("no process takes turns: {because}"),
            None => "no worker reports itself".to_owned(),
        };
    }
    let has_slot = |worker: &WorkerStatus| worker.busy < worker.slots as usize;
    if !workers
        .iter()
        .any(|worker| takes_turns(worker) && has_slot(worker))
    {
        return "no free slot".to_owned();
    }
    if !status.sequencers.is_empty() && !status.sequencers.iter().any(|one| one.active) {
        return "no sequencer is active".to_owned();
    }
    let stuck = status.backlog.iter().flat_map(|backlog| &backlog.stuck);
    if let Some(stuck) = stuck.into_iter().find(|stuck| stuck.workspace == workspace) {
        let minutes = stuck.for_ms / 60_000;
        return format!(
            "stuck: offered for {minutes} min, and no worker reports why it does not start"
        );
    }
    "is offered, and about to start".to_owned()
}

/// Whether the worker is on the host that the workspace lives on, if it lives on one.
fn lives_at(worker: &WorkerStatus, line: Option<&LineReport>) -> bool {
    let disk = worker
        .about
        .pool
        .as_ref()
        .and_then(|pool| pool.disk.as_ref());
    let home = line.and_then(|line| line.home.as_deref());
    match (disk, home) {
        (Some(disk), Some(home)) => *disk.host == *home,
        _ => true,
    }
}

fn to_seconds(time: Timestamp) -> Timestamp {
    Timestamp::from_second(time.as_second()).unwrap_or(time)
}

fn takes_turns(worker: &WorkerStatus) -> bool {
    idle_because(worker).is_none()
}

/// Why a worker takes no turns; `None` if it takes them.
fn idle_because(worker: &WorkerStatus) -> Option<String> {
    let (name, about) = (&worker.name, &worker.about);
    if about.draining {
        return Some(format!("{name} drains"));
    }
    if let Some(lack) = about.lacks.first() {
        return Some(format!("{name} is unfit ({lack})"));
    }
    let stands_back = about.pool.as_ref().is_some_and(|pool| pool.stands_back);
    stands_back.then(|| format!("{name} stands back"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::amqp::messages::{About, BacklogReport, BlockedReport, Running, StuckReport};
    use crate::operator::SequencerStatus;

    fn time(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn pool() -> PoolStatus {
        let line = LineReport {
            workspace: "a".to_owned(),
            turns: 2,
            ..LineReport::default()
        };
        PoolStatus {
            workers: vec![WorkerStatus {
                name: "w-1".to_owned(),
                version: String::new(),
                slots: 2,
                busy: 0,
                about: About::default(),
                running: Vec::new(),
            }],
            sequencers: vec![SequencerStatus {
                name: "w-1".to_owned(),
                version: String::new(),
                active: true,
                conditions: Vec::new(),
                pool: None,
            }],
            backlog: Some(BacklogReport {
                limit: 10,
                turns: 2,
                waiting: 2,
                beyond: 0,
                workspaces: 1,
                oldest: None,
                stuck: Vec::new(),
                top: vec![line],
            }),
            ..PoolStatus::default()
        }
    }

    #[test]
    fn what_holds_up_a_workspace_comes_before_what_holds_up_all() {
        let mut pool = pool();
        assert_eq!(why(&pool, "a"), "is offered, and about to start");
        let backlog = pool.backlog.as_mut().unwrap();
        backlog.stuck.push(StuckReport {
            workspace: "a".to_owned(),
            turn_id: "t".to_owned(),
            for_ms: 420_000,
        });
        assert!(why(&pool, "a").starts_with("stuck: offered for 7 min"));
        pool.sequencers[0].active = false;
        assert_eq!(why(&pool, "a"), "no sequencer is active");
        pool.workers[0].busy = 2;
        assert_eq!(why(&pool, "a"), "no free slot");
        pool.workers[0].about.lacks.push("disk: full".to_owned());
        let expected = "no process takes turns: w-1 is unfit (disk: full)";
        assert_eq!(why(&pool, "a"), expected);
        pool.workers[0].about.draining = true;
        assert_eq!(why(&pool, "a"), "no process takes turns: w-1 drains");
        // The worker that found it first has known it for the longest.
        for (since, detail) in [(20, "by process 2"), (10, "by process 1")] {
            pool.workers[0].about.blocked.push(BlockedReport {
                workspace: "a".to_owned(),
                turn_id: "t".to_owned(),
                why: Hindrance::Locked,
                detail: detail.to_owned(),
                since: time(since),
            });
        }
        let expected = "locked since 1970-01-01T00:00:10Z: by process 1";
        assert_eq!(why(&pool, "a"), expected);
        pool.workers[0].running.push(Running {
            workspace: "a".to_owned(),
            turn_id: "t".to_owned(),
            attempt: 1,
            started_at: time(0),
            spent: None,
        });
        assert_eq!(why(&pool, "a"), "t runs on w-1");
        pool.workers[0].running.clear();
        let line = &mut pool.backlog.as_mut().unwrap().top[0];
        (line.home, line.home_away_ms) = (Some("one".to_owned()), Some(190_000));
        assert_eq!(why(&pool, "a"), "home one is away for 3 min 10 s");
        pool.workers.clear();
        assert_eq!(why(&pool, "b"), "no worker reports itself");
    }
}
