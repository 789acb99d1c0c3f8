//! The lines at the top: how much of everything there is.

use jiff::Timestamp;
use turn_worker::operator::{PoolStatus, WorkerStatus};

use super::waited;
use crate::cli::render::human::age;

pub(super) fn summary(status: &PoolStatus, now: Timestamp) -> Vec<(&'static str, String)> {
    let mut lines = vec![
        ("workers", in_workers(&status.workers)),
        ("sequencer", in_sequencers(status)),
    ];
    if let Some(backlog) = &status.backlog {
        let oldest = backlog.oldest.as_ref().map(|wait| {
            let wait = age(waited(wait, now));
            format!(", the oldest for {wait}")
        });
        let (turns, limit) = (backlog.turns, backlog.limit);
        let text = format!(
            "{turns} of {} (at most {limit}); {} wait{}",
            counted(backlog.workspaces, "workspace"),
            backlog.waiting,
            oldest.unwrap_or_default()
        );
        lines.push(("turns", text));
    }
    if let Some(turns) = status.turns_not_held.filter(|turns| *turns > 0) {
        let text = format!("{turns} in the queue that no sequencer holds");
        lines.push(("beyond", text));
    }
    let sequencers = status.sequencers.len() as u64;
    if let Some(consumers) = (status.turns_consumers).filter(|number| *number > sequencers) {
        let text = format!(
            "{consumers} on the queue of turns, expected {sequencers}: another program takes turns (rabbitmqctl list_consumers), or a sequencer is too old to report"
        );
        lines.push(("consumers", text));
    }
    let known = |number: Option<u64>| number.map_or("unknown".to_owned(), |n| n.to_string());
    let offers = known(status.offers_untaken);
    lines.push(("offers", format!("{offers} untaken")));
    let how = match status.dead_letters {
        Some(0) => "",
        _ => " (turn-worker dead list)",
    };
    let rejected = known(status.dead_letters);
    lines.push(("rejected", format!("{rejected}{how}")));
    if status.not_kept > 0 {
        lines.push((
            "left out",
            format!("{} messages, too many to show", status.not_kept),
        ));
    }
    lines
}

fn in_workers(workers: &[WorkerStatus]) -> String {
    if workers.is_empty() {
        return "no reports: turns wait".to_owned();
    }
    let slots: u64 = workers.iter().map(|worker| u64::from(worker.slots)).sum();
    let busy: usize = workers.iter().map(|worker| worker.busy).sum();
    let count = |what: fn(&WorkerStatus) -> bool, word: &str| match workers
        .iter()
        .filter(|worker| what(worker))
        .count()
    {
        0 => String::new(),
        count => format!(", {count} {word}"),
    };
    let unfit = count(|worker| !worker.about.lacks.is_empty(), "unfit");
    let draining = count(|worker| worker.about.draining, "draining");
    format!(
        "{}, {busy} of {slots} slots busy{unfit}{draining}",
        workers.len()
    )
}

fn in_sequencers(status: &PoolStatus) -> String {
    let (active, standby): (Vec<_>, Vec<_>) = status
        .sequencers
        .iter()
        .partition(|sequencer| sequencer.active);
    match (&active[..], standby.len()) {
        ([], 0) => "no reports: no turn is offered, unless all are of an older version".to_owned(),
        ([], standby) => {
            format!("{standby} on standby; which is active shows at the next turn")
        }
        ([active], standby) => format!("{} is active, {standby} on standby", active.name),
        (several, standby) => {
            let names: Vec<&str> = several.iter().map(|one| one.name.as_str()).collect();
            format!(
                "{} take themselves for the active one (a takeover?), {standby} on standby",
                names.join(" and ")
            )
        }
    }
}

fn counted(number: u64, one: &str) -> String {
    let many = if number == 1 { "" } else { "s" };
    format!("{number} {one}{many}")
}
