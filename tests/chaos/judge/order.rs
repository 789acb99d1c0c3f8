//! G1, G3, G4: what ran, when, beside what.

use std::collections::BTreeMap;

use super::{ByTurn, Check, Finding, Records, finding};
use crate::plan::turn::OTHER_BODY;
use crate::record::journals::Record;
use crate::record::runs::Run;

pub(super) fn judge(records: &Records) -> Vec<Finding> {
    let by_turn = ByTurn::new(records);
    let mut findings = Vec::new();
    overlaps(records, &mut findings);
    out_of_order(records, &mut findings);
    run_again(records, &by_turn, &mut findings);
    if !records.across_hosts {
        cut_off(records, &mut findings);
    }
    findings
}

/// As the stand-in saw it itself, and by the times of those that came to their end.
fn overlaps(records: &Records, findings: &mut Vec<Finding>) {
    let mut newest: BTreeMap<&str, &Run> = BTreeMap::new();
    for run in &records.runs {
        let before = newest.insert(&run.workspace, run);
        let before = before.filter(|before| before.end.is_some_and(|end| end > run.start));
        if run.overlapped || before.is_some() {
            let beside = before.map_or("what an earlier run had left".to_owned(), |before| {
                format!("{} (pid {})", before.tag, before.pid)
            });
            let what = format!("pid {} began beside {beside} in {}", run.pid, run.workspace);
            findings.push(finding(Check::Overlap, &run.tag, what));
        }
    }
}

/// In the order in which the stand-in started, and in that of the journals, no
/// turn comes after one that was enqueued later.
fn out_of_order(records: &Records, findings: &mut Vec<Finding>) {
    let accepted = records.load.accepted.iter().enumerate();
    let places: BTreeMap<&str, usize> = accepted
        .map(|(place, accepted)| (accepted.turn.id.as_str(), place))
        .collect();
    let again = &records.may_run_again();
    let by_stand_in = records
        .runs
        .iter()
        .map(|run| (run.workspace.as_str(), run.tag.as_str()));
    let by_journal = records
        .journals
        .records
        .iter()
        .flat_map(|(workspace, records)| {
            records.iter().filter_map(|record| match record {
                Record::Started(started) => Some((workspace.as_str(), started.turn_id.as_str())),
                _ => None,
            })
        });
    for (source, starts) in [
        ("the stand-in", by_stand_in.collect::<Vec<_>>()),
        ("the journal", by_journal.collect()),
    ] {
        let mut furthest: BTreeMap<&str, (usize, &str)> = BTreeMap::new();
        for (workspace, turn) in starts {
            let Some(&place) = places.get(turn) else {
                continue;
            };
            if again.contains(turn) {
                continue;
            }
            let furthest = furthest.entry(workspace).or_insert((place, turn));
            if place < furthest.0 {
                let what = format!("began after {} in {workspace}, says {source}", furthest.1);
                findings.push(finding(Check::OutOfOrder, turn, what));
            }
            *furthest = (*furthest).max((place, turn));
        }
    }
}

/// An attempt without a recorded end died with its worker: it was not another
/// attempt that ended it.
fn cut_off(records: &Records, findings: &mut Vec<Finding>) {
    let mut open: BTreeMap<(&str, u32), &str> = BTreeMap::new();
    for record in records.journals.records.values().flatten() {
        let over = match record {
            Record::Started(started) => {
                open.insert((&started.turn_id, started.attempt), &started.worker);
                continue;
            }
            Record::Returned(returned) => (returned.turn_id.as_str(), returned.attempt),
            Record::Finished(end) => (end.turn_id.as_str(), end.attempt),
            Record::Segment {} => continue,
        };
        open.remove(&over);
    }
    for ((turn, attempt), worker) in open {
        // Its name is `host-pid-random`.
        let pid = worker.rsplit('-').nth(1).and_then(|pid| pid.parse().ok());
        if pid.is_none_or(|pid| !records.dead_workers.contains(&pid)) {
            let what = format!("attempt {attempt} by {worker} has no end");
            findings.push(finding(Check::CutOff, turn, what));
        }
    }
}

fn run_again(records: &Records, by_turn: &ByTurn<'_>, findings: &mut Vec<Finding>) {
    let may_run_again = records.may_run_again();
    let mut again = |turn: &str, what: String| {
        if !may_run_again.contains(turn) {
            findings.push(finding(Check::RunAgain, turn, what));
        }
    };
    let mut attempts: BTreeMap<&str, usize> = BTreeMap::new();
    for record in records.journals.records.values() {
        let mut finished: BTreeMap<&str, u32> = BTreeMap::new();
        for record in record {
            match record {
                Record::Started(started) => {
                    *attempts.entry(&started.turn_id).or_default() += 1;
                    if let Some(attempt) = finished.get(started.turn_id.as_str()) {
                        let what = format!(
                            "attempt {} was started after attempt {attempt} was recorded as finished",
                            started.attempt
                        );
                        again(&started.turn_id, what);
                    }
                }
                Record::Finished(end) => {
                    let first = finished.insert(&end.turn_id, end.attempt);
                    if let Some(first) = first {
                        let what = format!("finished in attempt {first} and in {}", end.attempt);
                        again(&end.turn_id, what);
                    }
                }
                Record::Segment {} | Record::Returned(_) => {}
            }
        }
    }
    for (&tag, runs) in &by_turn.runs {
        if tag.starts_with(OTHER_BODY) {
            again(tag, "another body than the accepted one was run".to_owned());
            continue;
        }
        let told = by_turn.told.get(tag).into_iter().flatten();
        let end = told
            .filter(|told| told.kind == "message_end")
            .map(|told| told.at)
            .min();
        if let Some(late) = runs
            .iter()
            .find(|run| end.is_some_and(|end| run.start > end))
        {
            again(
                tag,
                format!("pid {} began after its message_end was read", late.pid),
            );
        }
        if let Some(claim) = records.journals.claims.get(tag)
            && claim.verdict.ending().is_some()
        {
            again(tag, "it ran though its claim ends it".to_owned());
        }
        let recorded = attempts.get(tag).copied().unwrap_or_default();
        if runs.len() > recorded {
            again(
                tag,
                format!("{} runs, {recorded} recorded attempts", runs.len()),
            );
        }
    }
}
