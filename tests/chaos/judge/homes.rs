//! Without shared storage: turns run on their workspace's disk, and end as lost only
//! where that was.

use std::collections::{BTreeMap, BTreeSet};

use super::{Check, Finding, Records, finding};
use crate::clock::Nanos;
use crate::disks::{Lost, Moved};
use crate::load::Accepted;
use crate::record::runs::Run;

pub const LOST: &str = "workspace.lost";
/// Of the events of such an end.
pub const LOST_ATTEMPT: u32 = 1_000_000;

/// What was done to disks and homes.
#[derive(Debug, Default)]
pub struct HomesRecord {
    pub moved: Vec<Moved>,
    pub lost: Vec<Lost>,
    /// Lost disks, and workspaces that they had then.
    pub lived: BTreeSet<(usize, String)>,
}

impl HomesRecord {
    pub fn lost_at(&self, disk: usize) -> Option<Nanos> {
        let mut lost = self.lost.iter();
        lost.find(|lost| lost.disk == disk).map(|lost| lost.at)
    }
}

impl Records {
    /// Whether the turn may have ended with the disk that its workspace was on.
    pub fn may_be_lost(&self, accepted: &Accepted) -> bool {
        let Some(homes) = &self.homes else {
            return false;
        };
        let workspace = &accepted.turn.workspace;
        homes.lost.iter().any(|lost| {
            let mut runs = self.runs.iter();
            // Its home may have been chosen, and no more.
            let mut is_new =
                || !runs.any(|run| run.workspace == *workspace && run.start < lost.ordered);
            let lived = homes.lived.contains(&(lost.disk, workspace.clone()));
            accepted.at < lost.at && (lived || is_new())
        })
    }

    /// Turns that were sent again, and of which the records may be lost.
    pub fn may_run_again(&self) -> BTreeSet<&str> {
        let again = self.load.again.iter().map(|(turn, _)| turn.as_str());
        let again: BTreeSet<&str> = again.collect();
        let accepted = self.load.accepted.iter();
        let lost = accepted.filter(|accepted| self.may_be_lost(accepted));
        let lost = lost.map(|accepted| accepted.turn.id.as_str());
        lost.filter(|turn| again.contains(turn)).collect()
    }
}

pub(super) fn judge(records: &Records) -> Vec<Finding> {
    let Some(homes) = &records.homes else {
        return Vec::new();
    };
    let mut findings = Vec::new();
    let may_run_again = records.may_run_again();
    let mut before: BTreeMap<&str, &Run> = BTreeMap::new();
    let mut turns: BTreeMap<&str, &Run> = BTreeMap::new();
    for run in &records.runs {
        let from = before.insert(&run.workspace, run);
        if let Some(from) = from.filter(|from| from.disk != run.disk)
            && !may_change(homes, from, run)
        {
            let what = format!(
                "{} on disk {} after {} on disk {}",
                run.workspace, run.disk, from.tag, from.disk
            );
            findings.push(finding(Check::Homes, &run.tag, what));
        }
        let before = turns.insert(&run.tag, run);
        if let Some(before) = before.filter(|before| before.disk != run.disk)
            && last_move(homes, before, run).is_none()
            && !may_run_again.contains(&*run.tag)
        {
            let what = format!("run on disk {}, and then on disk {}", before.disk, run.disk);
            findings.push(finding(Check::RunAgain, &run.tag, what));
        }
    }
    findings
}

/// Between two runs the workspace was moved to the second one's disk, or lost.
fn may_change(homes: &HomesRecord, from: &Run, to: &Run) -> bool {
    let is_lost = |disk: usize| homes.lost_since(disk, to.start);
    match last_move(homes, from, to) {
        Some(moved) => moved.to == to.disk || is_lost(moved.to),
        None => is_lost(from.disk),
    }
}

/// Of the runs' workspace, between them.
fn last_move<'a>(homes: &'a HomesRecord, from: &Run, to: &Run) -> Option<&'a Moved> {
    let moved = homes.moved.iter();
    let mut moved = moved.filter(|moved| moved.workspace == to.workspace && moved.at < to.start);
    moved.next_back().filter(|moved| moved.at > from.start)
}

impl HomesRecord {
    /// Whether the disk was lost by then, to the seconds that a command takes.
    fn lost_since(&self, disk: usize, by: Nanos) -> bool {
        const COMMAND: Nanos = 60_000_000_000;
        self.lost_at(disk).is_some_and(|at| at < by + COMMAND)
    }
}
