//! Ids that are unique within a turn, even if codex repeats its own.

use std::collections::HashSet;

use super::errors::bounded;

/// The most of an id that is taken over, in bytes. codex's own have less.
const MAX_ID: usize = 128;

/// So many ids are published as codex gave them; later ones are numbered, so that
/// they need not be remembered for as long as a turn may take.
pub(super) const MAX_USED_IDS: usize = 20_000;

pub(super) fn id(id: String) -> String {
    bounded(id, MAX_ID)
}

#[derive(Debug, Default)]
pub(super) struct Ids {
    /// Every id that was published, up to a limit.
    used: HashSet<String>,
    /// Numbers ids that were used before, or that can't be known not to be.
    numbered: u64,
}

impl Ids {
    pub(super) fn unused(&mut self, item_id: &str) -> String {
        // Only the numbered ones have a `#`, and no number comes twice.
        let id = match item_id {
            "" => "unnamed".to_owned(),
            item_id => item_id.replace('#', "_"),
        };
        if self.used.len() < MAX_USED_IDS && self.used.insert(id.clone()) {
            return id;
        }
        self.numbered += 1;
        format!("{id}#{}", self.numbered + 1)
    }

    pub(super) fn is_used(&self, id: &str) -> bool {
        self.used.contains(id)
    }

    #[cfg(test)]
    pub(crate) fn used(&self) -> usize {
        self.used.len()
    }
}
