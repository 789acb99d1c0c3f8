//! Where workspaces live in a pool without shared storage. Pure.
//!
//! A *disk* is the workspace root of one host, named by its random id. A
//! workspace's *home* is the disk that it lives on. Homes are kept in a log: a
//! queue at the broker, which the active sequencer reads from its beginning when
//! it takes over. Nothing takes effect before it was read back from there, so two
//! sequencers that both believe to be active have the same homes, in any order
//! in which their entries came.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::workspace::{Pause, PauseScope, Pauses};

/// Homes in one entry of the log.
const CHUNK: usize = 500;
/// Lost disks that are remembered; the oldest go first.
const MOST_LOST: usize = 1_000;
/// What one order may pause beside others.
const MOST_PAUSES: usize = crate::workspace::MAX_PAUSES;

/// Stands for the disk of a pool that shares its root.
pub(crate) const SHARED: Uuid = Uuid::nil();

/// A disk, and what its host calls it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Disk {
    pub id: Uuid,
    pub host: Arc<str>,
}

/// What is reported of a lost disk to those whose turns end with it: the same each time.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Loss {
    pub host: Arc<str>,
    pub at: Timestamp,
}

/// Turns that ended with the disk that their workspace was on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LostTurns {
    #[serde(flatten)]
    pub loss: Loss,
    pub turn_ids: Vec<Arc<str>>,
}

/// What is known of one workspace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HomeRecord {
    pub workspace: Arc<str>,
    /// It rises by one with each record of the workspace; the first is 1.
    pub number: u64,
    /// `None` after its disk was lost, until its next turn.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub home: Option<Disk>,
    /// The losses with which turns of it ended, the oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lost: Vec<LostTurns>,
}

/// A disk that is gone for good.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LostDisk {
    pub disk: Disk,
    pub at: Timestamp,
    /// The process of the command.
    pub by: String,
}

impl HomeRecord {
    /// The loss with which that turn ended.
    pub fn loss_of(&self, turn_id: &str) -> Option<&Loss> {
        let mut lost = self.lost.iter();
        let lost = lost.find(|lost| lost.turn_ids.iter().any(|id| **id == *turn_id))?;
        Some(&lost.loss)
    }
}

impl LostDisk {
    pub fn loss(&self) -> Loss {
        Loss {
            host: Arc::clone(&self.disk.host),
            at: self.at,
        }
    }
}

/// What an operator wants.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "order", rename_all = "snake_case")]
pub enum Order {
    /// The disks of that host, or of that id, are gone for good. Its outcome is
    /// reported under `id`.
    Lost {
        #[serde(default)]
        id: Uuid,
        host: String,
        at: Timestamp,
        by: String,
    },
    /// The workspace is to live there.
    Move {
        #[serde(default)]
        id: Uuid,
        workspace: String,
        host: String,
        at: Timestamp,
        by: String,
    },
    Pause {
        pause: Pause,
    },
    Resume {
        scope: PauseScope,
    },
    ResumeAll,
}

/// One entry of the log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum HomeEntry {
    /// A sequencer has read all entries before this one.
    Begin {
        nonce: Uuid,
    },
    /// Holds if its number follows on the one that is known.
    Home(HomeRecord),
    DiskLost(LostDisk),
    /// Several at once, in place of entries that are removed then.
    Snapshot(HomesSnapshot),
    Order(Order),
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct HomesSnapshot {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub homes: Vec<HomeRecord>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lost: Vec<LostDisk>,
    /// `None`: another snapshot has them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pauses: Option<Pauses>,
}

/// A message of the log as it is written.
#[derive(Serialize, Deserialize)]
struct Versioned {
    v: u32,
    #[serde(flatten)]
    entry: HomeEntry,
}

const VERSION: u32 = 1;

impl Order {
    /// Of an order that is carried out by steps, and answered.
    pub fn id(&self) -> Option<Uuid> {
        match self {
            Self::Lost { id, .. } | Self::Move { id, .. } => Some(*id),
            Self::Pause { .. } | Self::Resume { .. } | Self::ResumeAll => None,
        }
    }
}

impl HomeEntry {
    pub fn encode(&self) -> Vec<u8> {
        let versioned = Versioned {
            v: VERSION,
            entry: self.clone(),
        };
        serde_json::to_vec(&versioned).unwrap_or_default()
    }

    /// `Err` with what is wrong, also with an entry of a newer version.
    pub fn decode(body: &[u8]) -> Result<Self, String> {
        let read: Versioned = serde_json::from_slice(body).map_err(|error| error.to_string())?;
        match read.v {
            VERSION => Ok(read.entry),
            newer => Err(format!("version {newer}, expected {VERSION}")),
        }
    }
}

/// All that the log says.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Homes {
    homes: HashMap<Arc<str>, HomeRecord>,
    lost: BTreeMap<Uuid, LostDisk>,
    pauses: Pauses,
    /// How many workspaces live on a disk.
    counts: HashMap<Uuid, usize>,
}

impl Homes {
    pub fn of(&self, workspace: &str) -> Option<&HomeRecord> {
        self.homes.get(workspace)
    }

    /// The disk that the workspace lives on. `None` if it has none, or one that is lost.
    pub fn disk_of(&self, workspace: &str) -> Option<&Disk> {
        let home = self.homes.get(workspace)?.home.as_ref()?;
        (!self.is_lost(home.id)).then_some(home)
    }

    pub fn is_lost(&self, disk: Uuid) -> bool {
        self.lost.contains_key(&disk)
    }

    pub fn loss_of(&self, disk: Uuid) -> Option<Loss> {
        self.lost.get(&disk).map(LostDisk::loss)
    }

    pub fn lost(&self) -> impl Iterator<Item = &LostDisk> {
        self.lost.values()
    }

    pub fn pauses(&self) -> &Pauses {
        &self.pauses
    }

    pub fn set_pauses(&mut self, pauses: Pauses) {
        self.pauses = pauses;
    }

    /// How many workspaces live on the disk.
    pub fn count(&self, disk: Uuid) -> usize {
        self.counts.get(&disk).copied().unwrap_or_default()
    }

    /// Every disk that a workspace lives on.
    pub fn disks(&self) -> BTreeMap<Uuid, Arc<str>> {
        let homes = self
            .homes
            .values()
            .filter_map(|record| record.home.as_ref());
        homes
            .map(|disk| (disk.id, Arc::clone(&disk.host)))
            .collect()
    }

    /// The record that would follow.
    pub fn next(&self, workspace: &Arc<str>, home: Option<Disk>) -> HomeRecord {
        let known = self.homes.get(workspace);
        HomeRecord {
            workspace: Arc::clone(workspace),
            number: known.map_or(0, |record| record.number) + 1,
            home,
            lost: known.map(|record| record.lost.clone()).unwrap_or_default(),
        }
    }

    /// False if it does not follow on what is known: another record came first.
    pub fn set(&mut self, record: HomeRecord) -> bool {
        let known = self.homes.get(&record.workspace);
        let follows = known.map_or(0, |known| known.number) + 1 == record.number;
        if follows {
            self.put(record);
        }
        follows
    }

    /// False if it was known.
    pub fn disk_lost(&mut self, lost: LostDisk) -> bool {
        if self.is_lost(lost.disk.id) {
            return false;
        }
        self.lost.insert(lost.disk.id, lost);
        if self.lost.len() > MOST_LOST {
            let oldest = self.lost.values().min_by_key(|lost| lost.at);
            // One that workspaces still point to is needed.
            let oldest = oldest.map(|lost| lost.disk.id);
            if let Some(oldest) = oldest.filter(|disk| self.count(*disk) == 0) {
                self.lost.remove(&oldest);
            }
        }
        true
    }

    pub fn snapshot(&mut self, snapshot: HomesSnapshot) {
        for record in snapshot.homes {
            let known = self.homes.get(&record.workspace);
            if known.is_none_or(|known| known.number < record.number) {
                self.put(record);
            }
        }
        for lost in snapshot.lost {
            self.disk_lost(lost);
        }
        if let Some(pauses) = snapshot.pauses {
            self.pauses = pauses;
        }
    }

    pub fn pause(&mut self, pause: Pause) {
        let all = &mut self.pauses.pauses;
        all.retain(|other| other.scope != pause.scope);
        if all.len() < MOST_PAUSES {
            all.push(pause);
        }
    }

    /// Of one scope, or of all.
    pub fn resume(&mut self, scope: Option<&PauseScope>) {
        let ends = |pause: &Pause| scope.is_none_or(|scope| pause.scope == *scope);
        self.pauses.pauses.retain(|pause| !ends(pause));
    }

    /// All of it, in entries that are not too large.
    pub fn snapshots(&self) -> Vec<HomesSnapshot> {
        let mut homes: Vec<HomeRecord> = self.homes.values().cloned().collect();
        homes.sort_unstable_by(|one, other| one.workspace.cmp(&other.workspace));
        let mut all = vec![HomesSnapshot {
            homes: Vec::new(),
            lost: self.lost.values().cloned().collect(),
            pauses: Some(self.pauses.clone()),
        }];
        all.extend(homes.chunks(CHUNK).map(|chunk| HomesSnapshot {
            homes: chunk.to_vec(),
            ..HomesSnapshot::default()
        }));
        all
    }

    fn put(&mut self, record: HomeRecord) {
        let disk_of = |record: &HomeRecord| record.home.as_ref().map(|disk| disk.id);
        if let Some(disk) = disk_of(&record) {
            *self.counts.entry(disk).or_default() += 1;
        }
        let before = self.homes.insert(Arc::clone(&record.workspace), record);
        if let Some(disk) = before.as_ref().and_then(disk_of)
            && let Some(count) = self.counts.get_mut(&disk)
        {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(&disk);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk(host: &str) -> Disk {
        Disk {
            id: Uuid::from_u128(host.bytes().fold(0, |id, byte| id << 8 | u128::from(byte))),
            host: host.into(),
        }
    }

    fn lost(host: &str) -> LostDisk {
        LostDisk {
            disk: disk(host),
            at: Timestamp::UNIX_EPOCH,
            by: "operator".to_owned(),
        }
    }

    #[test]
    fn of_two_homes_the_one_that_came_first_holds() {
        let mut homes = Homes::default();
        let (one, other) = (disk("one"), disk("other"));
        let first = homes.next(&"a".into(), Some(one.clone()));
        let second = homes.next(&"a".into(), Some(other.clone()));
        assert!(homes.set(first.clone()) && !homes.set(second));
        assert!(!homes.set(first), "read twice");
        assert_eq!(homes.disk_of("a"), Some(&one));
        let moved = homes.next(&"a".into(), Some(other.clone()));
        assert!(homes.set(moved));
        assert_eq!(homes.disk_of("a"), Some(&other));
        assert_eq!((homes.count(one.id), homes.count(other.id)), (0, 1));
    }

    #[test]
    fn a_lost_disk_is_no_home() {
        let mut homes = Homes::default();
        let next = homes.next(&"a".into(), Some(disk("one")));
        assert!(homes.set(next));
        assert!(homes.disk_lost(lost("one")) && !homes.disk_lost(lost("one")));
        assert_eq!(homes.disk_of("a"), None);
        let mut next = homes.next(&"a".into(), None);
        next.lost = vec![LostTurns {
            loss: lost("one").loss(),
            turn_ids: vec!["t".into()],
        }];
        assert!(homes.set(next));
        // The turns that ended with it are known for as long as no other disk is lost.
        let next = homes.next(&"a".into(), Some(disk("two")));
        assert_eq!(next.loss_of("t"), Some(&lost("one").loss()));
        assert!(homes.set(next));
        assert_eq!(homes.disk_of("a"), Some(&disk("two")));
    }

    #[test]
    fn snapshots_hold_all_and_bring_back_nothing_older() {
        let mut homes = Homes::default();
        for number in 0..CHUNK * 2 + 1 {
            let next = homes.next(&format!("w{number}").into(), Some(disk("one")));
            assert!(homes.set(next));
        }
        homes.disk_lost(lost("gone"));
        homes.pause(Pause {
            scope: PauseScope::Pool,
            since: Timestamp::UNIX_EPOCH,
            by: "operator".to_owned(),
            reason: None,
        });
        let snapshots = homes.snapshots();
        assert_eq!(snapshots.len(), 4);
        let mut read = Homes::default();
        for snapshot in &snapshots {
            let entry = HomeEntry::Snapshot(snapshot.clone());
            let Ok(HomeEntry::Snapshot(snapshot)) = HomeEntry::decode(&entry.encode()) else {
                panic!("not read back");
            };
            read.snapshot(snapshot);
        }
        assert_eq!(read, homes);
        let moved = read.next(&"w0".into(), Some(disk("two")));
        assert!(read.set(moved));
        read.snapshot(snapshots[1].clone());
        assert_eq!(read.disk_of("w0"), Some(&disk("two")));
        read.resume(Some(&PauseScope::Pool));
        assert!(read.pauses().is_empty());
    }

    #[test]
    fn entries_of_other_versions_are_errors() {
        let entry = HomeEntry::Order(Order::Lost {
            id: Uuid::from_u128(1),
            host: "one".to_owned(),
            at: Timestamp::UNIX_EPOCH,
            by: "operator".to_owned(),
        });
        assert_eq!(HomeEntry::decode(&entry.encode()), Ok(entry));
        for body in [
            r#"{"v":2,"type":"order","order":"resume_all"}"#,
            "{}",
            "damaged",
            "",
        ] {
            assert!(HomeEntry::decode(body.as_bytes()).is_err(), "{body}");
        }
    }
}
