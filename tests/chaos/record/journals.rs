//! The journals as they stand on disk, record by record, and the claims.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use anyhow::{Context, ensure};
use serde::Deserialize;
use turn_worker::workspace::{Claim, Finished, Returned, Root, Started};

use crate::load::Load;

/// What the records say of all workspaces and turns.
#[derive(Debug, Default)]
pub struct Journals {
    /// Per workspace, in the order in which it was written.
    pub records: BTreeMap<String, Vec<Record>>,
    /// By turn.
    pub claims: BTreeMap<String, Claim>,
    /// What could not be read.
    pub unreadable: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(tag = "record", rename_all = "snake_case")]
pub enum Record {
    Segment {},
    Started(Started),
    Returned(Returned),
    Finished(Box<Finished>),
}

/// Once all writers have ended. Of several roots, what they have of a workspace in that
/// order, less what is a copy.
pub fn read<'a>(roots: impl Iterator<Item = &'a Path>, load: &Load) -> anyhow::Result<Journals> {
    let mut journals = Journals::default();
    let mut seen = BTreeMap::new();
    for root in roots {
        read_one(root, load, &mut journals, &mut seen)?;
    }
    Ok(journals)
}

/// By workspace, lines that were read.
type Seen = BTreeMap<String, BTreeSet<String>>;

fn read_one(
    root: &Path,
    load: &Load,
    journals: &mut Journals,
    seen: &mut Seen,
) -> anyhow::Result<()> {
    // A disk that was never used.
    if !root.join(".turn-worker").exists() {
        return Ok(());
    }
    let opened = Root::open(root)?;
    let mut here = BTreeSet::new();
    for accepted in &load.accepted {
        let (id, name) = (&accepted.turn.id, &accepted.turn.workspace);
        let state = root
            .join(".turn-worker/workspaces")
            .join(name)
            .join(".state");
        if !state.join("lock").exists() {
            continue;
        }
        if here.insert(name) {
            let seen = seen.entry(name.clone()).or_default();
            let records = records(&state, seen, &mut journals.unreadable);
            journals
                .records
                .entry(name.clone())
                .or_default()
                .extend(records);
        }
        match opened.workspace(name)?.claims().find(id) {
            Ok(claim) => drop(claim.map(|claim| journals.claims.insert(id.clone(), claim))),
            Err(error) => journals.unreadable.push(error.to_string()),
        }
    }
    Ok(())
}

fn records(state: &Path, seen: &mut BTreeSet<String>, unreadable: &mut Vec<String>) -> Vec<Record> {
    let mut records = Vec::new();
    for name in ["journal.old", "journal"] {
        let path = state.join(name);
        let Ok(text) = fs::read_to_string(&path) else {
            continue;
        };
        // What a killed writer has left of its last record has no newline.
        for line in text
            .split_inclusive('\n')
            .filter(|line| line.ends_with('\n'))
        {
            // Those that begin a segment may be alike.
            if !seen.insert(line.to_owned()) && !line.contains("\"segment\"") {
                continue;
            }
            match parse(line.trim_end()) {
                Ok(record) => records.push(record),
                Err(error) => unreadable.push(format!("{}: {error}: {line}", path.display())),
            }
        }
    }
    records
}

fn parse(line: &str) -> anyhow::Result<Record> {
    let (sum, json) = line.split_once(' ').context("no checksum")?;
    ensure!(
        sum == format!("{:08x}", crc32fast::hash(json.as_bytes())),
        "its checksum is wrong"
    );
    Ok(serde_json::from_str(json)?)
}
