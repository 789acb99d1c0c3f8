//! What a turn has spent, by the records of its thread and of its sub-agents'.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;

use super::{MAX_ENTRIES, MAX_READ, Part, Rollout};
use crate::event::Tokens;

/// Of a turn or, after a crash, of its attempts so far.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Recorded {
    /// On its own thread.
    pub own: Option<Tokens>,
    /// By its sub-agents.
    pub agents: Option<Tokens>,
    /// The model that it asked last.
    pub model: Option<String>,
}

/// What is recorded of the turns that `thread` has had since byte `offset`.
/// Sub-agents with an unreadable record are left out, as if they had spent
/// no tokens.
///
/// # Errors
/// As [`Rollout::since`], of the thread's own record.
pub(crate) fn of_turn(codex_home: &Path, thread: &Rollout, offset: u64) -> io::Result<Recorded> {
    let own = thread.since(offset)?;
    let mut search = Search {
        codex_home,
        turns: &own.turns,
        seen: [thread.thread_id.clone()].into(),
        bytes: MAX_READ,
        entries: 4 * MAX_ENTRIES,
    };
    let mut agents = None;
    let mut named = own.agents;
    while let Some(agent) = named.pop_first() {
        match search.look_at(&agent) {
            Ok(Some(part)) => {
                agents = [agents, part.spent]
                    .into_iter()
                    .flatten()
                    .reduce(Tokens::plus);
                named.extend(part.agents);
            }
            Ok(None) => {}
            Err(error) => {
                tracing::warn!(%error, thread = agent, "can't read the record of a sub-agent's thread");
            }
        }
    }
    Ok(Recorded {
        own: own.spent,
        agents,
        model: own.model,
    })
}

/// So much is looked at for all sub-agents of a turn together.
struct Search<'a> {
    codex_home: &'a Path,
    turns: &'a BTreeSet<String>,
    seen: BTreeSet<String>,
    bytes: u64,
    entries: usize,
}

impl Search<'_> {
    /// Returns `None` if the thread has no record, or was looked at before.
    fn look_at(&mut self, thread: &str) -> io::Result<Option<Part>> {
        if !self.seen.insert(thread.to_owned()) {
            return Ok(None);
        }
        let found = Rollout::find_among(self.codex_home, thread, &mut self.entries)?;
        let Some(rollout) = found else {
            return Ok(None);
        };
        let mut part = Part::of_agent(&rollout.thread_id, self.turns);
        let read = rollout.read(0, self.bytes, &mut part)?;
        self.bytes = self.bytes.saturating_sub(read);
        part.whole().map(Some)
    }
}
