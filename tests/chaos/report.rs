//! What people and programs get to see of a verdict.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use serde::Serialize;

use crate::clock::{Nanos, shown};
use crate::judge::{Check, Finding};
use crate::record::journals::Record;
use crate::record::logs::Taken;
use crate::run::Ran;
use crate::takeover::{Takeover, takeover};

/// Turns that are printed with their history.
const HISTORIES: usize = 3;
/// Findings of a check that are printed in words.
const TOLD: usize = 5;

#[derive(Debug, Serialize)]
pub struct Report {
    pub seed: u64,
    pub rabbitmq: String,
    pub nodes: usize,
    pub processes: usize,
    pub slots: usize,
    pub workspaces: usize,
    pub seconds: u64,
    /// Accepted; published again; cancelled.
    pub turns: usize,
    pub again: usize,
    pub cancelled: usize,
    /// Times that codex was started, and how often it came to its end.
    pub runs: usize,
    pub runs_ended: usize,
    pub events: usize,
    /// Offers that workers took, from private queues and from the shared one.
    pub taken: Taken,
    /// Processes of workers, from first to last.
    pub faults: BTreeMap<&'static str, usize>,
    /// Faults without a target.
    pub missed: usize,
    pub longest_pause: Option<Pause>,
    /// On several hosts.
    pub takeover: Option<Takeover>,
    pub found: BTreeMap<Check, usize>,
    pub findings: Vec<Finding>,
}

/// The longest time between two ends of turns. It breaks no guarantee, and
/// shows how long a pool takes to get over something.
#[derive(Debug, Serialize)]
pub struct Pause {
    pub seconds: f64,
    /// What had started to strike in it, or was striking.
    pub faults: Vec<&'static str>,
}

/// What a report says of the world that a run was in.
pub struct World {
    pub seed: u64,
    pub rabbitmq: String,
    pub nodes: usize,
    pub processes: usize,
    pub slots: usize,
    pub workspaces: usize,
}

impl Report {
    pub fn new(world: World, ran: &Ran, findings: Vec<Finding>) -> Self {
        let mut faults = BTreeMap::new();
        for struck in ran.struck.iter().filter(|struck| struck.detail.is_ok()) {
            *faults.entry(struck.name).or_default() += 1;
        }
        let count = |check: Check| {
            findings
                .iter()
                .filter(|finding| finding.check == check)
                .count()
        };
        let records = &ran.records;
        Self {
            seed: world.seed,
            rabbitmq: world.rabbitmq,
            nodes: world.nodes,
            processes: world.processes,
            slots: world.slots,
            workspaces: world.workspaces,
            seconds: ran.took.as_secs(),
            turns: records.load.accepted.len(),
            again: records.load.again.len(),
            cancelled: records.load.cancelled.len(),
            runs: records.runs.len(),
            runs_ended: records.runs.iter().filter(|run| run.end.is_some()).count(),
            events: records.told.len(),
            taken: ran.taken,
            faults,
            missed: ran
                .struck
                .iter()
                .filter(|struck| struck.detail.is_err())
                .count(),
            longest_pause: longest_pause(ran),
            takeover: (ran.records.across_hosts.then(|| ran.struck.first()))
                .flatten()
                .map(|fault| takeover(fault.from, &ran.records.runs)),
            found: Check::ALL.map(|check| (check, count(check))).into(),
            findings,
        }
    }

    pub fn struck(&self) -> usize {
        self.faults.values().sum()
    }

    pub fn broker(&self) -> String {
        match self.nodes {
            1 => format!("RabbitMQ {}", self.rabbitmq),
            nodes => format!("RabbitMQ {}, {nodes} nodes", self.rabbitmq),
        }
    }

    /// The verdict as a table.
    pub fn table(&self) -> String {
        let mut text = format!(
            "{} turns accepted, {} published again, {} cancelled; codex started {} times, {} of them cut off; {} events\n\
             {} offers taken, {} of them from a private queue\n",
            self.turns,
            self.again,
            self.cancelled,
            self.runs,
            self.runs - self.runs_ended,
            self.events,
            self.taken.private + self.taken.shared,
            self.taken.private,
        );
        let faults: Vec<String> = self
            .faults
            .iter()
            .map(|(name, times)| format!("{name} {times}"))
            .collect();
        let _ = writeln!(text, "{} faults: {}", self.struck(), faults.join(", "));
        if let Some(Pause { seconds, faults }) = &self.longest_pause {
            let faults = faults.join(", ");
            let _ = writeln!(
                text,
                "nothing ended for {seconds:.1} s at most, with: {faults}"
            );
        }
        if let Some(Takeover {
            next_attempt_s,
            side_by_side_s,
        }) = &self.takeover
        {
            let next = next_attempt_s.map_or("no other attempt".to_owned(), |seconds| {
                format!("another attempt {seconds:.1} s after the fault")
            });
            let _ = writeln!(text, "{next}; side by side for {side_by_side_s:.1} s");
        }
        let _ = writeln!(text, "\n  {:<52} allowed  found", "what");
        for (check, found) in &self.found {
            let mark = if *found == 0 { '✓' } else { '✗' };
            let _ = writeln!(text, "{mark} {:<52} {:>7}  {found:>5}", check.text(), 0);
        }
        text
    }

    pub fn markdown(&self) -> String {
        let found: usize = self.found.values().sum();
        let minutes = self.seconds as f64 / 60.0;
        format!(
            "| broker | minutes | turns | runs of codex | of them cut off | events | faults | violations |\n\
             |---|---|---|---|---|---|---|---|\n\
             | {} | {minutes:.1} | {} | {} | {} | {} | {} | {found} |\n",
            self.broker(),
            self.turns,
            self.runs,
            self.runs - self.runs_ended,
            self.events,
            self.struck(),
        )
    }

    /// The first findings of each check, and what their turns went through.
    pub fn details(&self, ran: &Ran) -> String {
        let mut text = String::new();
        for check in Check::ALL {
            let of_check: Vec<_> = self
                .findings
                .iter()
                .filter(|finding| finding.check == check)
                .collect();
            for finding in of_check.iter().take(TOLD) {
                let turn = finding.turn.as_deref().unwrap_or("-");
                let _ = writeln!(text, "✗ {}: {turn}: {}", check.text(), finding.what);
            }
            if of_check.len() > TOLD {
                let _ = writeln!(text, "  … and {} more", of_check.len() - TOLD);
            }
        }
        let turns: BTreeSet<&str> = self
            .findings
            .iter()
            .filter_map(|finding| finding.turn.as_deref())
            .collect();
        for turn in turns.into_iter().take(HISTORIES) {
            text.push_str(&history(turn, ran));
        }
        text
    }
}

fn longest_pause(ran: &Ran) -> Option<Pause> {
    let told = ran.records.told.iter();
    let ends = told.filter(|told| told.kind == "message_end");
    let mut ends: Vec<Nanos> = ends.map(|told| told.at).collect();
    ends.sort_unstable();
    let pauses = ends
        .windows(2)
        .map(|pair| (pair[1] - pair[0], pair[0], pair[1]));
    let (pause, from, to) = pauses.max()?;
    let struck = ran.struck.iter();
    let then =
        struck.filter(|struck| struck.detail.is_ok() && struck.from <= to && struck.to >= from);
    Some(Pause {
        seconds: pause as f64 / 1e9,
        faults: then.map(|struck| struck.name).collect(),
    })
}

/// All that the records know of a turn, in the order in which it happened.
fn history(turn: &str, ran: &Ran) -> String {
    let records = &ran.records;
    let mut lines: Vec<(Nanos, String)> = Vec::new();
    let mut workspace = "";
    for accepted in records
        .load
        .accepted
        .iter()
        .filter(|accepted| accepted.turn.id == turn)
    {
        workspace = &accepted.turn.workspace;
        lines.push((
            accepted.at,
            format!("accepted, planned: {:?}", accepted.turn.ends),
        ));
    }
    for (what, list) in [
        ("published again", &records.load.again),
        ("cancelled", &records.load.cancelled),
    ] {
        let of_turn = list.iter().filter(|(id, _)| id == turn);
        lines.extend(of_turn.map(|(_, at)| (*at, what.to_owned())));
    }
    for run in records.runs.iter().filter(|run| run.tag == turn) {
        let killed = if records.killed.contains(&run.pid) {
            ", to be killed"
        } else {
            ""
        };
        lines.push((run.start, format!("codex {} starts{killed}", run.pid)));
        lines.extend(
            run.end
                .map(|end| (end, format!("codex {} is done", run.pid))),
        );
    }
    for record in records
        .journals
        .records
        .get(workspace)
        .into_iter()
        .flatten()
    {
        match record {
            Record::Started(started) if started.turn_id == turn => {
                let what = format!("journal: attempt {} by {}", started.attempt, started.worker);
                lines.push((nanos(started.at), what));
            }
            Record::Returned(returned) if returned.turn_id == turn => {
                let what = format!("journal: attempt {} was given back", returned.attempt);
                lines.push((lines.last().map_or(0, |(at, _)| *at), what));
            }
            Record::Finished(end) if end.turn_id == turn => {
                let what = format!(
                    "journal: attempt {} ends as {}",
                    end.attempt, end.stop_reason
                );
                lines.push((nanos(end.at), what));
            }
            _ => {}
        }
    }
    if let Some(claim) = records.journals.claims.get(turn) {
        let ends = if claim.verdict.ending().is_some() {
            "ends it"
        } else {
            "runs it"
        };
        lines.push((
            nanos(claim.made_at),
            format!("claim: {ends}, by {}", claim.by),
        ));
    }
    let told = records.told.iter().filter(|told| &*told.turn == turn);
    let mut newest = None;
    for told in told {
        let is_next = newest == Some((told.attempt, told.seq.wrapping_sub(1)));
        newest = Some((told.attempt, told.seq));
        if !is_next || told.end.is_some() {
            let what = format!("event {}/{} {}", told.attempt, told.seq, told.kind);
            lines.push((told.at, what));
        }
    }
    let span = lines
        .iter()
        .map(|(at, _)| *at)
        .min()
        .zip(lines.iter().map(|(at, _)| *at).max());
    if let Some((first, last)) = span {
        for struck in ran
            .struck
            .iter()
            .filter(|struck| struck.to >= first && struck.from <= last)
        {
            let (Ok(detail) | Err(detail)) = &struck.detail;
            lines.push((struck.from, format!("    fault: {}: {detail}", struck.name)));
        }
    }
    lines.sort();
    let lines = lines
        .into_iter()
        .map(|(at, what)| format!("  {} s  {what}\n", shown(at, ran.start)));
    format!("\n{turn} in {workspace}\n{}", lines.collect::<String>())
}

fn nanos(at: jiff::Timestamp) -> Nanos {
    at.as_nanosecond().cast_unsigned()
}
