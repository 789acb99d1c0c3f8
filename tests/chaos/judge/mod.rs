//! The verdict: three records of one run, laid side by side. Pure.

mod ends;
pub mod homes;
mod order;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use crate::load::{Accepted, Load};
use crate::record::events::Told;
use crate::record::journals::Journals;
use crate::record::runs::Run;
use homes::HomesRecord;

/// Everything that is known of a run.
#[derive(Debug, Default)]
pub struct Records {
    pub load: Load,
    /// In the order in which the reader saw them.
    pub told: Vec<Told>,
    pub malformed: Vec<String>,
    /// In the order in which they started.
    pub runs: Vec<Run>,
    pub journals: Journals,
    /// Codex processes that were killed, or their guards.
    pub killed: Vec<i32>,
    /// Workers that were killed, by their process ids.
    pub dead_workers: BTreeSet<i32>,
    pub after: After,
    /// A host can be cut off from its storage and live.
    pub across_hosts: bool,
    /// Without shared storage.
    pub homes: Option<HomesRecord>,
}

/// What there still was when all should have been gone.
#[derive(Debug, Default)]
pub struct After {
    /// Turns that were to hold a slot each and were not started.
    pub deaf_slots: Vec<String>,
    /// Slots, turns in line, messages, queues.
    pub left_behind: Vec<String>,
    pub processes: Vec<String>,
    /// Workers that ended by themselves.
    pub died: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Check {
    Lost,
    RunAgain,
    OutOfOrder,
    Overlap,
    CutOff,
    Ends,
    Late,
    Gaps,
    Outcomes,
    DeafSlots,
    LeftBehind,
    Processes,
    Died,
    Homes,
}

impl Check {
    pub const ALL: [Self; 14] = [
        Self::Lost,
        Self::RunAgain,
        Self::OutOfOrder,
        Self::Overlap,
        Self::CutOff,
        Self::Ends,
        Self::Late,
        Self::Gaps,
        Self::Outcomes,
        Self::DeafSlots,
        Self::LeftBehind,
        Self::Processes,
        Self::Died,
        Self::Homes,
    ];

    pub fn text(self) -> &'static str {
        match self {
            Self::Lost => "accepted turns lost",
            Self::RunAgain => "run again after a recorded end",
            Self::OutOfOrder => "run out of order in their workspace",
            Self::Overlap => "process trees side by side in a workspace",
            Self::CutOff => "attempts cut off though their worker lived",
            Self::Ends => "message_end missing, conflicting or not recorded",
            Self::Late => "ends followed by events of an older attempt",
            Self::Gaps => "gaps in seq, or events out of their order",
            Self::Outcomes => "ended as nobody planned, or without all texts",
            Self::DeafSlots => "slots that take no turns any more",
            Self::LeftBehind => "slots, turns or messages left behind",
            Self::Processes => "processes left behind",
            Self::Died => "workers that died by themselves",
            Self::Homes => "run elsewhere than on their workspace's disk",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub check: Check,
    /// The turn that it is about.
    pub turn: Option<String>,
    pub what: String,
}

pub fn judge(records: &Records) -> Vec<Finding> {
    let mut findings = ends::judge(records);
    findings.extend(order::judge(records));
    findings.extend(homes::judge(records));
    let After {
        deaf_slots,
        left_behind,
        processes,
        died,
    } = &records.after;
    for (check, found) in [
        (Check::DeafSlots, deaf_slots),
        (Check::LeftBehind, left_behind),
        (Check::Processes, processes),
        (Check::Died, died),
    ] {
        findings.extend(found.iter().map(|what| Finding {
            check,
            turn: None,
            what: what.clone(),
        }));
    }
    findings.sort_by_key(|finding| finding.check);
    findings
}

fn finding(check: Check, turn: &str, what: impl Into<String>) -> Finding {
    Finding {
        check,
        turn: Some(turn.to_owned()),
        what: what.into(),
    }
}

/// By turn, each list in the order of its record.
struct ByTurn<'a> {
    accepted: BTreeMap<&'a str, &'a Accepted>,
    told: BTreeMap<&'a str, Vec<&'a Told>>,
    runs: BTreeMap<&'a str, Vec<&'a Run>>,
}

impl<'a> ByTurn<'a> {
    fn new(records: &'a Records) -> Self {
        let accepted = records.load.accepted.iter();
        let mut by_turn = Self {
            accepted: accepted
                .map(|accepted| (&*accepted.turn.id, accepted))
                .collect(),
            told: BTreeMap::new(),
            runs: BTreeMap::new(),
        };
        for told in &records.told {
            by_turn.told.entry(&told.turn).or_default().push(told);
        }
        for run in &records.runs {
            by_turn.runs.entry(&run.tag).or_default().push(run);
        }
        by_turn
    }
}
