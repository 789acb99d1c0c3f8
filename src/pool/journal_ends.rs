//! How far the journals of the workspaces reach, as far as this process has heard. Pure.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::workspace::JournalEnd;

/// Of how many workspaces it is known at most; the oldest go first.
const MOST_KEPT: usize = 10_000;

/// See the module.
#[derive(Debug, Default)]
pub struct JournalEnds {
    ends: HashMap<Arc<str>, (u64, JournalEnd)>,
    by_age: BTreeMap<u64, Arc<str>>,
    last_number: u64,
}

impl JournalEnds {
    pub fn of(&self, workspace: &str) -> Option<JournalEnd> {
        self.ends.get(workspace).map(|(_, end)| *end)
    }

    /// A process has reported it. Reports may come late, and out of order.
    pub fn note(&mut self, workspace: &str, end: JournalEnd) {
        let before = self.ends.get(workspace);
        let keeps = before.is_some_and(|(_, before)| !before.is_outdated_by(&end));
        let end = before.filter(|_| keeps).map_or(end, |(_, before)| *before);
        let workspace: Arc<str> = workspace.into();
        self.last_number += 1;
        self.by_age.insert(self.last_number, Arc::clone(&workspace));
        if let Some((number, _)) = self.ends.insert(workspace, (self.last_number, end)) {
            self.by_age.remove(&number);
        }
        while self.ends.len() > MOST_KEPT
            && let Some((_, oldest)) = self.by_age.pop_first()
        {
            self.ends.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn end(journal: u128, segment: u64, len: u64) -> JournalEnd {
        JournalEnd {
            journal: Uuid::from_u128(journal),
            segment,
            len,
            crc: 0,
        }
    }

    #[test]
    fn g4_the_furthest_end_of_a_journal_is_known_and_another_journal_replaces_it() {
        let mut ends = JournalEnds::default();
        assert_eq!(ends.of("a"), None);
        for (reported, known) in [
            (end(1, 1, 900), end(1, 1, 900)),
            (end(1, 1, 300), end(1, 1, 900)),
            (end(1, 2, 100), end(1, 2, 100)),
            (end(1, 1, 950), end(1, 2, 100)),
            (end(2, 1, 50), end(2, 1, 50)),
        ] {
            ends.note("a", reported);
            assert_eq!(ends.of("a"), Some(known), "{reported:?}");
        }
        assert_eq!(ends.of("b"), None);
    }

    #[test]
    fn g10_the_workspaces_heard_last_are_kept() {
        let mut ends = JournalEnds::default();
        for n in 0..MOST_KEPT {
            ends.note(&format!("w{n}"), end(1, 1, 1));
        }
        ends.note("w0", end(1, 1, 1));
        ends.note("new", end(1, 1, 1));
        assert_eq!((ends.ends.len(), ends.by_age.len()), (MOST_KEPT, MOST_KEPT));
        assert!(ends.of("w0").is_some() && ends.of("new").is_some());
        assert_eq!(ends.of("w1"), None);
    }
}
