//! The journals as they stand on disk, record by record, and the claims.

use std::collections::BTreeMap;
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

/// Once all writers have ended.
pub fn read(root: &Path, load: &Load) -> anyhow::Result<Journals> {
    let mut journals = Journals::default();
    let opened = Root::open(root)?;
    for accepted in &load.accepted {
        let (id, name) = (&accepted.turn.id, &accepted.turn.workspace);
        let state = root
            .join(".turn-worker/workspaces")
            .join(name)
            .join(".state");
        if !state.join("lock").exists() {
            continue;
        }
        if !journals.records.contains_key(name) {
            let records = records(&state, &mut journals.unreadable);
            journals.records.insert(name.clone(), records);
        }
        match opened.workspace(name)?.claims().find(id) {
            Ok(claim) => drop(claim.map(|claim| journals.claims.insert(id.clone(), claim))),
            Err(error) => journals.unreadable.push(error.to_string()),
        }
    }
    Ok(journals)
}

fn records(state: &Path, unreadable: &mut Vec<String>) -> Vec<Record> {
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
