//! Heads that wait for a free slot, the oldest first: those with a server that a
//! process keeps in a group of that process, all others in one group. Pure.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Instant;

use super::held::Ticket;

/// The process that keeps the head's server, if any.
pub(super) type Group = Option<Arc<str>>;

/// A waiting head. The order is that of waiting.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct WaitingHead {
    /// Since when it could have been offered.
    pub since: Instant,
    pub ticket: Ticket,
}

#[derive(Debug, Default)]
pub(super) struct Waiting {
    groups: HashMap<Group, BTreeSet<WaitingHead>>,
    by_ticket: HashMap<Ticket, (Group, WaitingHead)>,
}

impl Waiting {
    pub(super) fn clear(&mut self) {
        self.groups.clear();
        self.by_ticket.clear();
    }

    pub(super) fn is_empty(&self) -> bool {
        self.by_ticket.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.by_ticket.len()
    }

    /// One that waits already changes its group.
    pub(super) fn insert(&mut self, group: Group, head: WaitingHead) {
        self.remove(head.ticket);
        self.groups.entry(group.clone()).or_default().insert(head);
        self.by_ticket.insert(head.ticket, (group, head));
    }

    pub(super) fn remove(&mut self, ticket: Ticket) {
        let Some((group, head)) = self.by_ticket.remove(&ticket) else {
            return;
        };
        if let Some(heads) = self.groups.get_mut(&group) {
            heads.remove(&head);
            if heads.is_empty() {
                self.groups.remove(&group);
            }
        }
    }

    /// The oldest of a group.
    pub(super) fn first(&self, group: &Group) -> Option<WaitingHead> {
        self.groups.get(group)?.first().copied()
    }

    /// The oldest of each group.
    pub(super) fn firsts(&self) -> impl Iterator<Item = (&Group, WaitingHead)> {
        let groups = self.groups.iter();
        groups.filter_map(|(group, heads)| Some((group, *heads.first()?)))
    }

    #[cfg(test)]
    pub(crate) fn contains(&self, ticket: Ticket) -> bool {
        self.by_ticket.contains_key(&ticket)
    }

    #[cfg(test)]
    pub(crate) fn tickets(&self) -> impl Iterator<Item = Ticket> {
        self.by_ticket.keys().copied()
    }
}
