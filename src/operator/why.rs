//! Why the turns of a workspace wait, as far as the pool reports it.

use super::status::{PoolStatus, WorkerStatus};

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
    let held = workers.iter().flat_map(|worker| &worker.about.held);
    if let Some(held) = held.into_iter().find(|held| held.workspace == workspace) {
        return format!(
            "held by process {} ({}) on {}, which can't be killed",
            held.pid, held.command, held.host
        );
    }
    if line.is_some_and(|line| line.running) {
        return "runs on a worker that was not heard just now".to_owned();
    }
    if !workers.iter().any(takes_turns) {
        return match workers.iter().find_map(idle_because) {
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
    "is offered, and about to start".to_owned()
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
