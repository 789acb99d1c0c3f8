//! G4, G5, G6: what was published of each turn, and whether it is what was recorded.

use std::collections::{BTreeMap, BTreeSet};

use turn_worker::event::{SealedEvent, StopReason};
use turn_worker::workspace::Finished;

use super::homes::{LOST, LOST_ATTEMPT};
use super::{ByTurn, Check, Finding, Records, finding};
use crate::load::Accepted;
use crate::plan::turn::Ends;
use crate::record::events::{End, Told, hash};
use crate::record::journals::Record;

pub(super) fn judge(records: &Records) -> Vec<Finding> {
    let by_turn = ByTurn::new(records);
    let recorded = recorded(records);
    let mut findings = Vec::new();
    for (check, unclear) in [
        (Check::Gaps, &records.malformed),
        (Check::Ends, &records.journals.unreadable),
    ] {
        let unclear = unclear.iter().cloned();
        findings.extend(unclear.map(|what| Finding {
            check,
            turn: None,
            what,
        }));
    }
    for (turn, told) in &by_turn.told {
        gaps(turn, told, &mut findings);
        let accepted = by_turn.accepted.get(turn);
        let may_be_lost = accepted.is_some_and(|accepted| records.may_be_lost(accepted));
        conflicts(turn, told, may_be_lost, &mut findings);
        if records.across_hosts {
            late(turn, told, &mut findings);
        }
        if !by_turn.accepted.contains_key(turn) {
            findings.push(finding(Check::Ends, turn, "nobody sent such a turn"));
        }
    }
    for (&turn, &accepted) in &by_turn.accepted {
        let told = by_turn
            .told
            .get(turn)
            .map(Vec::as_slice)
            .unwrap_or_default();
        let end = told.iter().find(|told| told.kind == "message_end");
        let is_lost = end.is_some_and(|end| end.attempt == LOST_ATTEMPT);
        match (end, recorded.get(turn)) {
            // Records of a lost disk are out of reach, so they can't confirm the end.
            (Some(_), _) if is_lost && records.may_be_lost(accepted) => {}
            (None, None) => {
                let what = "neither told nor recorded to have ended";
                findings.push(finding(Check::Lost, turn, what));
            }
            (None, Some(_)) => {
                findings.push(finding(
                    Check::Ends,
                    turn,
                    "its recorded end was never told",
                ));
            }
            (Some(_), None) if accepted.turn.ends == Ends::Invalid => {}
            (Some(end), None) => {
                let what = format!("its end (attempt {}) is not recorded", end.attempt);
                findings.push(finding(Check::Ends, turn, what));
            }
            (Some(end), Some(recorded)) => {
                if hash(recorded.json.as_bytes()) != end.hash {
                    let what =
                        format!("its end is told otherwise than recorded: {}", recorded.json);
                    findings.push(finding(Check::Ends, turn, what));
                }
            }
        }
        if let Some(what) = end.and_then(|end| outcome(records, &by_turn, accepted, end, told)) {
            findings.push(finding(Check::Outcomes, turn, what));
        }
    }
    findings
}

/// Each turn's `message_end`, as the journals and the claims have it.
fn recorded(records: &Records) -> BTreeMap<&str, &SealedEvent> {
    let finished = records
        .journals
        .records
        .values()
        .flatten()
        .filter_map(|record| match record {
            Record::Finished(finished) => Some((&**finished as &Finished).ending.last()),
            _ => None,
        });
    let claims = records.journals.claims.values();
    let decided = claims.filter_map(|claim| claim.verdict.ending().map(<[_]>::last));
    let mut ends = BTreeMap::new();
    for end in finished.chain(decided).flatten() {
        // A turn ends once: should there be two, the first may be published.
        ends.entry(&*end.turn_id).or_insert(end);
    }
    ends
}

/// Within an attempt each number comes first after the one before it. An
/// attempt that was cut off may be read on later than the next one starts.
fn gaps(turn: &str, told: &[&Told], findings: &mut Vec<Finding>) {
    let mut next: BTreeMap<u32, u64> = BTreeMap::new();
    for event in told {
        let next = next.entry(event.attempt).or_default();
        if event.seq > *next {
            let what = format!(
                "attempt {}: {} came, {next} did not",
                event.attempt, event.seq
            );
            findings.push(finding(Check::Gaps, turn, what));
        } else if event.seq == 0 && event.kind != "message_start" {
            let what = format!("attempt {} begins with {}", event.attempt, event.kind);
            findings.push(finding(Check::Gaps, turn, what));
        }
        *next = (event.seq + 1).max(*next);
    }
}

/// What comes again is what came first, and no new event comes after the end.
///
/// `may_be_lost`: with its disk, whose sequencer did not hear that it had ended.
fn conflicts(turn: &str, told: &[&Told], may_be_lost: bool, findings: &mut Vec<Finding>) {
    let mut first: BTreeMap<(u32, u64), u64> = BTreeMap::new();
    let mut end: Option<(u32, u64)> = None;
    let mut reported = BTreeSet::new();
    for event in told {
        let place = (event.attempt, event.seq);
        let known = *first.entry(place).or_insert(event.hash);
        let what = if known != event.hash {
            Some("came again with another body")
        } else if may_be_lost && event.attempt == LOST_ATTEMPT {
            None
        } else if end.is_some_and(|end| place > end) {
            Some("came after the turn's end")
        } else {
            None
        };
        if let Some(what) = what.filter(|what| reported.insert(*what)) {
            let what = format!("{} {}/{} {what}", event.kind, event.attempt, event.seq);
            findings.push(finding(Check::Ends, turn, what));
        }
        if event.kind == "message_end" {
            end.get_or_insert(place);
        }
    }
}

/// Of an attempt that was superseded while its host could reach neither the
/// broker nor the storage.
fn late(turn: &str, told: &[&Told], findings: &mut Vec<Finding>) {
    let Some(end) = told.iter().position(|told| told.kind == "message_end") else {
        return;
    };
    let mut known: BTreeSet<(u32, u64)> = BTreeSet::new();
    known.extend(told[..=end].iter().map(|told| (told.attempt, told.seq)));
    let late = told[end..].iter().filter(|event| {
        event.attempt < told[end].attempt && known.insert((event.attempt, event.seq))
    });
    let late = late.count();
    if late > 0 {
        let what = format!("{late} events, the end is of attempt {}", told[end].attempt);
        findings.push(finding(Check::Late, turn, what));
    }
}

/// What is wrong with how it ended, if anything is.
fn outcome(
    records: &Records,
    by_turn: &ByTurn<'_>,
    accepted: &Accepted,
    end: &Told,
    told: &[&Told],
) -> Option<String> {
    let turn = &accepted.turn;
    let last = told.iter().filter(|event| event.attempt == end.attempt);
    let code = last.clone().find_map(|event| match event.end {
        Some(End::Error(code)) => Some(code),
        _ => None,
    });
    let Some(End::Message(stop)) = end.end else {
        return Some("its end has no stop reason".to_owned());
    };
    let is_planned = code == turn.ends.code()
        && stop
            == match turn.ends {
                Ends::Well => StopReason::EndTurn,
                Ends::TimedOut => StopReason::Timeout,
                Ends::Failed(_) | Ends::Exhausted | Ends::Invalid => StopReason::Error,
            };
    let was_cancelled = || {
        let mut cancelled = records.load.cancelled.iter();
        stop == StopReason::Cancelled && cancelled.any(|(id, _)| *id == turn.id)
    };
    let was_killed = || {
        let mut runs = by_turn.runs.get(turn.id.as_str()).into_iter().flatten();
        code == Some("codex.exited") && runs.any(|run| records.killed.contains(&run.pid))
    };
    let was_lost = || code == Some(LOST) && records.may_be_lost(accepted);
    if !is_planned {
        return (!was_cancelled() && !was_killed() && !was_lost())
            .then(|| format!("it ended as {stop} ({code:?}), planned was {:?}", turn.ends));
    }
    let texts: BTreeSet<u64> = last.filter_map(|event| event.message).collect();
    (stop == StopReason::EndTurn && texts.len() != turn.says)
        .then(|| format!("it said {} texts, planned were {}", texts.len(), turn.says))
}
