//! The workspaces that processes hold which can't be killed, as far as this
//! process has met them: as the worker of their turn, or of the next one.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::Unkillable;

/// All clones are the same.
#[derive(Debug, Clone, Default)]
pub struct HeldWorkspaces(Arc<Mutex<BTreeMap<String, HeldWorkspace>>>);

#[derive(Debug)]
struct HeldWorkspace {
    unkillable: Unkillable,
    /// Emptied by the holder of the lock, as soon as the processes are gone.
    record: File,
}

impl HeldWorkspaces {
    /// Logs it, unless it is known.
    pub fn note(&self, workspace: &str, unkillable: &Unkillable, record: BorrowedFd<'_>) {
        let record = match record.try_clone_to_owned() {
            Ok(record) => record.into(),
            Err(error) => return tracing::error!(%error, %unkillable, "{HELD}"),
        };
        let noted = HeldWorkspace {
            unkillable: unkillable.clone(),
            record,
        };
        let known = self.lock().insert(workspace.to_owned(), noted);
        if known.is_none_or(|known| known.unkillable != *unkillable) {
            tracing::error!(workspace, %unkillable, "{HELD}");
        }
    }

    pub fn snapshot(&self) -> Vec<(String, Unkillable)> {
        let held = self.lock();
        let told = held
            .iter()
            .map(|(name, held)| (name.clone(), held.unkillable.clone()));
        told.collect()
    }

    /// Forgets those with no process left. Blocks while the disk is read.
    pub fn refresh(&self) {
        let records: Vec<_> = {
            let held = self.lock();
            let records = held.iter();
            records
                .filter_map(|(name, held)| Some((name.clone(), held.record.try_clone().ok()?)))
                .collect()
        };
        for (workspace, record) in records {
            let is_held = match Unkillable::read(&record) {
                Ok(Some(now)) => now.living().is_none_or(|living| !living.is_empty()),
                Ok(None) => false,
                // It will be known when it can be read.
                Err(_) => true,
            };
            if !is_held && self.lock().remove(&workspace).is_some() {
                tracing::info!(workspace, "what held the workspace is gone");
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, HeldWorkspace>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

const HELD: &str = "processes of a turn can't be killed; its workspace stays locked until they end";

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::process::Command;

    use super::*;
    use crate::guard::proc;

    #[test]
    fn a_workspace_is_held_until_its_processes_are_gone_or_its_record_is_cleared() {
        let held = HeldWorkspaces::default();
        let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
        let pid = child.id().cast_signed();
        let started = proc::stat(pid).unwrap().started;
        let unkillable = Unkillable::of(&[(pid, started)]);
        let names = || -> Vec<String> {
            held.refresh();
            held.snapshot().into_iter().map(|(name, _)| name).collect()
        };
        let records = [tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap()];
        for (name, record) in ["a", "b"].into_iter().zip(&records) {
            unkillable.write(record).unwrap();
            held.note(name, &unkillable, record.as_fd());
        }
        assert_eq!(names(), ["a", "b"]);
        Unkillable::clear(&records[0]).unwrap();
        assert_eq!(names(), ["b"]);
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(names(), Vec::<String>::new());
    }
}
