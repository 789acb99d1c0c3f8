//! A pool's status as a person reads it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;
use turn_worker::amqp::messages::WaitReport;
use turn_worker::operator::{PoolStatus, WorkerStatus, why};

use crate::cli::render::clean::one_line;
use turn_worker::request::plausible_wait;

use crate::cli::render::human::{age, since};
use crate::cli::render::style::Style;
use crate::cli::render::table::{Column, Look, Table, wrapped};

/// What has room in a column, in bytes.
const SHORT_WHY: usize = 40;

pub(super) fn overview(
    status: &PoolStatus,
    top: usize,
    now: Timestamp,
    style: Style,
    width: usize,
) -> String {
    let mut out = String::new();
    for (name, text) in summary(status, now) {
        let lines = wrapped(&one_line(&text, usize::MAX), width.saturating_sub(12));
        for (number, line) in lines.iter().enumerate() {
            let name = if number == 0 { name } else { "" };
            out.push_str(&format!("{} {line}\n", style.dim(&format!("{name:<11}"))));
        }
    }
    for part in [
        workers(status, style, width),
        running(status, top, now, style, width),
        held(status, now, style, width),
        conditions(status, style, width),
        homes(status, style, width),
        backlog(status, top, now, style, width),
    ] {
        if !part.is_empty() {
            out.push_str(&format!("\n{part}"));
        }
    }
    out
}

fn summary(status: &PoolStatus, now: Timestamp) -> Vec<(&'static str, String)> {
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

fn workers(status: &PoolStatus, style: Style, width: usize) -> String {
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
fn running(status: &PoolStatus, top: usize, now: Timestamp, style: Style, width: usize) -> String {
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
fn held(status: &PoolStatus, now: Timestamp, style: Style, width: usize) -> String {
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
fn conditions(status: &PoolStatus, style: Style, width: usize) -> String {
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
fn backlog(status: &PoolStatus, top: usize, now: Timestamp, style: Style, width: usize) -> String {
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

/// By the source that reports more: the sequencer may have taken over lately, and
/// the producer's clock may be behind.
fn waited(wait: &WaitReport, now: Timestamp) -> Duration {
    let enqueued = wait.enqueued_at.and_then(|at| plausible_wait(at, now));
    let held = Duration::from_millis(wait.held_ms);
    enqueued.unwrap_or_default().max(held)
}

fn counted(number: u64, one: &str) -> String {
    let many = if number == 1 { "" } else { "s" };
    format!("{number} {one}{many}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use turn_worker::amqp::messages::{About, BacklogReport, HeldReport, LineReport, Running};
    use turn_worker::conditions::ConditionReport;
    use turn_worker::operator::SequencerStatus;
    use turn_worker::pool::Agreement;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn turn(id: &str, started_at: i64) -> Running {
        Running {
            workspace: "acme/website".to_owned(),
            turn_id: id.to_owned(),
            attempt: u32::from(started_at > 0),
            started_at: at(started_at),
            spent: None,
        }
    }

    fn pool() -> PoolStatus {
        let wait = |held_ms, enqueued| {
            Some(WaitReport {
                held_ms,
                enqueued_at: Some(at(enqueued)),
            })
        };
        let line = |workspace: &str, turns, oldest| LineReport {
            workspace: workspace.to_owned(),
            turns,
            running: oldest != wait(7_000, 10_000),
            oldest,
            ..LineReport::default()
        };
        let worker = |name: &str, about, running: Vec<Running>| WorkerStatus {
            name: name.to_owned(),
            version: "0.1.0".to_owned(),
            slots: 4,
            busy: running.len(),
            about,
            running,
        };
        let unfit = About {
            codex: Some("0.171.0".to_owned()),
            lacks: vec!["disk: /srv/\u{1b}[2Jw: full".to_owned()],
            ..About::default()
        };
        let sequencer = |name: &str, active| SequencerStatus {
            conditions: Vec::new(),
            pool: None,
            name: name.to_owned(),
            version: "0.1.0".to_owned(),
            active,
        };
        PoolStatus {
            homes: None,
            workers: vec![
                worker("alpha-1", unfit, vec![turn("t2", 9_000)]),
                worker(
                    "beta\u{1b}]0;x\u{7}-2",
                    About::default(),
                    vec![turn("t1", 0)],
                ),
            ],
            sequencers: vec![sequencer("alpha-1", false), sequencer("beta-2", true)],
            backlog: Some(BacklogReport {
                limit: 10_000,
                turns: 42,
                waiting: 40,
                beyond: 0,
                workspaces: 5,
                oldest: wait(1_000, 9_000),
                stuck: Vec::new(),
                top: vec![
                    line("acme/website", 30, wait(1_000, 9_000)),
                    line("b", 12, wait(7_000, 10_000)),
                ],
            }),
            turns_not_held: Some(7),
            turns_consumers: Some(2),
            offers_untaken: Some(3),
            dead_letters: Some(1),
            not_kept: 0,
        }
    }

    #[test]
    fn what_the_broker_does_not_show_this_user_is_unknown() {
        let status = PoolStatus {
            turns_not_held: None,
            turns_consumers: None,
            offers_untaken: None,
            dead_letters: None,
            ..pool()
        };
        let shown: Vec<_> = summary(&status, at(10_000))
            .into_iter()
            .map(|(name, text)| format!("{name}: {text}"))
            .collect();
        assert!(
            shown.contains(&"offers: unknown untaken".to_owned()),
            "{shown:?}"
        );
        assert!(
            shown.contains(&"rejected: unknown (turn-worker dead list)".to_owned()),
            "{shown:?}"
        );
        assert!(!shown.iter().any(|line| line.starts_with("beyond")));
    }

    #[test]
    fn a_long_reason_takes_no_room_from_workspaces() {
        let mut pool = pool();
        let id = "01a22d4a-333f-746f-b932-01e90c0563a6";
        pool.workers[0].running[0].turn_id = id.to_owned();
        let text = overview(&pool, 1, at(10_000), Style::default(), 60);
        let expected = format!(
            "
WORKSPACE     TURNS  OLDEST WAITS  WHY
acme/website     30  16 min        runs
  {id} runs on alpha-1
"
        );
        assert!(text.contains(&expected), "{text}");
    }

    #[test]
    fn a_time_out_of_any_sense_is_no_wait() {
        let now: Timestamp = "2026-11-30T00:00:00Z".parse().unwrap();
        let waited = |enqueued_at: &str| {
            let wait = WaitReport {
                held_ms: 7_000,
                enqueued_at: enqueued_at.parse().ok(),
            };
            super::waited(&wait, now).as_secs()
        };
        assert_eq!(waited("2026-11-29T23:59:00Z"), 60);
        assert_eq!(waited("1970-01-01T00:00:00Z"), 7);
        assert_eq!(waited("0001-01-01T00:00:00Z"), 7);
    }

    #[test]
    fn what_helps_against_a_condition_is_shown_whole_on_a_narrow_terminal() {
        let mut pool = pool();
        pool.turns_consumers = Some(3);
        for worker in &mut pool.workers {
            worker.about.conditions.push(ConditionReport {
                condition: "root_differs".to_owned(),
                blocking: true,
                found: "found root A here, expected root B, which process gamma-3 has: mount the \
                        pool's root at TURN_WORKER_WORKSPACE_ROOT"
                    .to_owned(),
            });
        }
        let text = overview(&pool, 2, at(10_000), Style::default(), 60);
        for expected in [
            "
CONDITION     FOUND BY
root_differs  alpha-1 (and 1 more)
  found root A here, expected root B, which process gamma-3
  has: mount the pool's root at TURN_WORKER_WORKSPACE_ROOT
",
            "
consumers   3 on the queue of turns, expected 2: another
            program takes turns (rabbitmqctl
            list_consumers), or a sequencer is too old to
            report
",
        ] {
            assert!(text.contains(expected), "{text}");
        }
    }

    #[test]
    fn g8_what_cannot_be_killed_is_named_once() {
        let held = HeldReport {
            workspace: "acme/website".to_owned(),
            host: "alpha".to_owned(),
            pid: 4711,
            user: "root".to_owned(),
            command: "sleep\u{1b}[2J 1000".to_owned(),
            since: at(9_000),
            more: 2,
        };
        let mut pool = pool();
        for worker in &mut pool.workers {
            worker.about.held.push(held.clone());
        }
        let told = overview(&pool, 2, at(10_000), Style::default(), 100);
        assert!(
            told.contains(
                "
LOCKED WORKSPACE  HOST    PID  USER  FOR     PROCESS THAT CAN'T BE KILLED
acme/website      alpha  4711  root  16 min  sleep 1000 (and 2 more)
"
            ),
            "{told}"
        );
    }

    #[test]
    fn a_process_that_stands_back_is_not_shown_as_taking_turns() {
        let mut pool = pool();
        for (in_service, state) in [(true, "takes turns"), (false, "stands back")] {
            pool.workers[1].about.pool = Some(Box::new(Agreement {
                root: "00000000-0000-4000-8000-000000000001".parse().unwrap(),
                disk: None,
                uptime_ms: 0,
                clock: at(0),
                in_service,
                stands_back: !in_service,
                holds_lock: true,
                probe: None,
                settings: Default::default(),
                broker: None,
            }));
            let told = overview(
                &PoolStatus {
                    workers: vec![pool.workers[1].clone()],
                    ..PoolStatus::default()
                },
                2,
                at(10_000),
                Style::default(),
                80,
            );
            let line = told.lines().find(|line| line.starts_with("beta-2"));
            assert!(line.unwrap().ends_with(state), "{told}");
        }
    }

    #[test]
    fn g8_a_pool_reads_well_and_moves_no_cursor() {
        let told = overview(&pool(), 2, at(10_000), Style::default(), 80);
        assert_eq!(
            told,
            "\
workers     2, 2 of 8 slots busy, 1 unfit
sequencer   beta-2 is active, 1 on standby
turns       42 of 5 workspaces (at most 10000); 40 wait, the oldest for 16 min
beyond      7 in the queue that no sequencer holds
offers      3 untaken
rejected    1 (turn-worker dead list)

WORKER   VERSION  CODEX    BUSY  STATE
alpha-1  0.1.0    0.171.0   1/4  unfit
  disk: /srv/w: full
beta-2   0.1.0    –         1/4  takes turns

RUNNING TURN  WORKSPACE     FOR         ATTEMPT  WORKER
t1            acme/website  2 h 46 min        –  beta-2
t2            acme/website  16 min            1  alpha-1

WORKSPACE     TURNS  OLDEST WAITS  WHY
acme/website     30  16 min        t2 runs on alpha-1
b                12  7 s           is offered, and about to start
… and 3 more
"
        );
    }

    #[test]
    fn what_is_missing_is_reported_with_what_that_means() {
        let nobody = PoolStatus::default();
        let told = overview(&nobody, 2, at(0), Style::default(), 80);
        assert!(told.contains("workers     no reports"), "{told}");
        assert!(
            told.contains("sequencer   no reports: no turn is offered"),
            "{told}"
        );
        let mut pool = pool();
        pool.sequencers[1].active = false;
        let told = overview(&pool, 2, at(0), Style::default(), 80);
        assert!(
            told.contains("2 on standby; which is active shows"),
            "{told}"
        );
        for sequencer in &mut pool.sequencers {
            sequencer.active = true;
        }
        let told = overview(&pool, 2, at(0), Style::default(), 120);
        assert!(
            told.contains("alpha-1 and beta-2 take themselves for"),
            "{told}"
        );
    }
}
