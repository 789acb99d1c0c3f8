//! The tables: workers, running turns, locked workspaces, conditions, homes and the backlog.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;
use turn_worker::operator::{PoolStatus, WorkerStatus, why};

use super::waited;
use crate::cli::render::clean::one_line;
use crate::cli::render::human::{age, since};
use crate::cli::render::style::Style;
use crate::cli::render::table::{Column, Look, Table};

/// What has room in a column, in bytes.
const SHORT_WHY: usize = 40;

pub(super) fn workers(status: &PoolStatus, style: Style, width: usize) -> String {
    if status.workers.is_empty() {
        return String::new();
    }
    let mut table = Table::new(&[
        Column::Name("WORKER"),
        Column::Text("VERSION"),
        Column::Text("CODEX"),
        Column::Number("BUSY"),
        Column::Text("STATE"),
    ]);
    for worker in &status.workers {
        let about = &worker.about;
        let stands_back = about.pool.as_ref().is_some_and(|pool| pool.stands_back);
        let state = if about.draining {
            ("draining", Look::Odd)
        } else if !about.lacks.is_empty() {
            ("unfit", Look::Bad)
        } else if stands_back {
            ("stands back", Look::Bad)
        } else {
            ("takes turns", Look::Good)
        };
        let codex = match &about.codex {
            Some(version) => (version.clone(), Look::Plain),
            None => ("–".to_owned(), Look::Dim),
        };
        table.row([
            (worker.name.clone(), Look::Plain),
            (worker.version.clone(), Look::Plain),
            codex,
            (format!("{}/{}", worker.busy, worker.slots), Look::Plain),
            (state.0.to_owned(), state.1),
        ]);
        if !about.lacks.is_empty() {
            table.note(&about.lacks.join("; "));
        }
    }
    table.render(style, width)
}

/// The oldest first.
pub(super) fn running(
    status: &PoolStatus,
    top: usize,
    now: Timestamp,
    style: Style,
    width: usize,
) -> String {
    let of_worker = |worker: &'_ WorkerStatus| worker.running.len();
    let total: usize = status.workers.iter().map(of_worker).sum();
    let mut all: Vec<_> = status
        .workers
        .iter()
        .flat_map(|worker| worker.running.iter().map(move |turn| (turn, &worker.name)))
        .collect();
    if all.is_empty() {
        return String::new();
    }
    all.sort_by_key(|(turn, _)| turn.started_at);
    let mut table = Table::new(&[
        Column::Name("RUNNING TURN"),
        Column::Name("WORKSPACE"),
        Column::Text("FOR"),
        Column::Number("ATTEMPT"),
        Column::Name("WORKER"),
    ]);
    for (turn, worker) in all.into_iter().take(top) {
        // Before its first event it has no attempt.
        let attempt = match turn.attempt {
            0 => ("–".to_owned(), Look::Dim),
            1 => ("1".to_owned(), Look::Plain),
            more => (more.to_string(), Look::Odd),
        };
        table.row([
            (turn.turn_id.clone(), Look::Plain),
            (turn.workspace.clone(), Look::Plain),
            (age(since(turn.started_at, now)), Look::Plain),
            attempt,
            (worker.clone(), Look::Plain),
        ]);
    }
    table.render(style, width) + &more(total, top, style)
}

/// Several workers may report the same one.
pub(super) fn held(status: &PoolStatus, now: Timestamp, style: Style, width: usize) -> String {
    let told = status.workers.iter().flat_map(|worker| &worker.about.held);
    let all: BTreeMap<_, _> = told
        .map(|held| ((&held.workspace, &held.host), held))
        .collect();
    if all.is_empty() {
        return String::new();
    }
    let mut table = Table::new(&[
        Column::Name("LOCKED WORKSPACE"),
        Column::Name("HOST"),
        Column::Number("PID"),
        Column::Text("USER"),
        Column::Text("FOR"),
        Column::Text("PROCESS THAT CAN'T BE KILLED"),
    ]);
    for held in all.into_values() {
        let more = match held.more {
            0 => String::new(),
            more => format!(" (and {more} more)"),
        };
        table.row([
            (held.workspace.clone(), Look::Bad),
            (held.host.clone(), Look::Plain),
            (held.pid.to_string(), Look::Plain),
            (held.user.clone(), Look::Plain),
            (age(since(held.since, now)), Look::Plain),
            (format!("{}{more}", held.command), Look::Plain),
        ]);
    }
    table.render(style, width)
}

/// What processes report to be wrong around them, each finding once.
pub(super) fn conditions(status: &PoolStatus, style: Style, width: usize) -> String {
    let workers = status.workers.iter();
    let workers = workers.map(|worker| (&worker.name, &worker.about.conditions));
    let sequencers = status.sequencers.iter();
    let sequencers = sequencers.map(|sequencer| (&sequencer.name, &sequencer.conditions));
    let mut found = BTreeMap::new();
    for (process, reports) in workers.chain(sequencers) {
        for report in reports {
            let key = (&report.condition, &report.found);
            found
                .entry(key)
                .or_insert_with(|| (report.blocking, BTreeSet::new()))
                .1
                .insert(process.as_str());
        }
    }
    if found.is_empty() {
        return String::new();
    }
    let mut table = Table::new(&[Column::Text("CONDITION"), Column::Name("FOUND BY")]);
    for ((condition, text), (blocking, processes)) in found {
        let look = if blocking { Look::Bad } else { Look::Odd };
        let mut processes = processes.into_iter();
        let first = processes.next().unwrap_or_default();
        let process = match processes.count() {
            0 => first.to_owned(),
            more => format!("{first} (and {more} more)"),
        };
        table.row([(condition.clone(), look), (process, Look::Plain)]);
        // It says what helps, so no terminal is too narrow for all of it.
        table.note(text);
    }
    table.render(style, width)
}

/// The hosts with the disks of workspaces, in a pool without shared storage.
pub(crate) fn homes(status: &PoolStatus, style: Style, width: usize) -> String {
    let Some(homes) = &status.homes else {
        return String::new();
    };
    let mut table = Table::new(&[
        Column::Name("HOST"),
        Column::Text("DISK"),
        Column::Number("WORKSPACES"),
        Column::Number("WITH TURNS"),
        Column::Text("STATE"),
    ]);
    for host in &homes.hosts {
        let state = match (host.lost, host.away_ms) {
            (true, _) => ("lost".to_owned(), Look::Dim),
            (false, None) => ("is there".to_owned(), Look::Good),
            (false, Some(away)) => {
                let away = age(Duration::from_millis(away));
                (format!("away for {away}"), Look::Bad)
            }
        };
        table.row([
            (host.host.clone(), Look::Plain),
            (host.disk.to_string(), Look::Dim),
            (host.workspaces.to_string(), Look::Plain),
            (host.busy.to_string(), Look::Plain),
            state,
        ]);
    }
    let mut out = table.render(style, width);
    for order in &homes.orders {
        out.push_str(&one_line(&format!("not carried out yet: {order}"), width));
        out.push('\n');
    }
    out
}

/// The longest line first.
pub(super) fn backlog(
    status: &PoolStatus,
    top: usize,
    now: Timestamp,
    style: Style,
    width: usize,
) -> String {
    let Some(backlog) = status.backlog.as_ref().filter(|one| !one.top.is_empty()) else {
        return String::new();
    };
    let mut table = Table::new(&[
        Column::Name("WORKSPACE"),
        Column::Number("TURNS"),
        Column::Text("OLDEST WAITS"),
        Column::Text("WHY"),
    ]);
    for line in backlog.top.iter().take(top) {
        let why = why(status, &line.workspace);
        let (why, detail) = in_brief(&why);
        let mut stuck = backlog.stuck.iter();
        let look = match line.running {
            true => Look::Good,
            false if stuck.any(|one| one.workspace == line.workspace) => Look::Bad,
            false => Look::Plain,
        };
        let waits = match &line.oldest {
            Some(wait) => (age(waited(wait, now)), Look::Plain),
            None => ("–".to_owned(), Look::Dim),
        };
        table.row([
            (line.workspace.clone(), Look::Plain),
            (line.turns.to_string(), Look::Plain),
            waits,
            (why.to_owned(), look),
        ]);
        if let Some(detail) = detail {
            table.note(detail);
        }
    }
    let total = usize::try_from(backlog.workspaces).unwrap_or(usize::MAX);
    table.render(style, width) + &more(total, top, style)
}

/// A long reason gets room of its own, so that workspaces keep theirs.
fn in_brief(why: &str) -> (&str, Option<&str>) {
    if why.len() <= SHORT_WHY {
        return (why, None);
    }
    if let Some((brief, detail)) = why.split_once(": ") {
        return (brief, Some(detail));
    }
    match why {
        _ if why.contains(" runs on ") => ("runs", Some(why)),
        _ if why.starts_with("held by ") => ("held", Some(why)),
        _ => (why, None),
    }
}

fn more(total: usize, shown: usize, style: Style) -> String {
    match total.saturating_sub(shown) {
        0 => String::new(),
        more => style.dim(&format!("… and {more} more")) + "\n",
    }
}
