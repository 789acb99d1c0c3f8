//! A turn's own tokens (G7).
//!
//! codex reports the thread's running total, so a turn's own tokens are the
//! difference to the total before it. That total is looked up in the thread's
//! own record (the rollout) and, where that can't be read, taken from what the
//! last turn of this workspace left. A turn that was cut off reports no total:
//! then the rollout's records of single model answers are summed up.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::codex::rollout::Rollout;
use crate::event::Usage;
use crate::workspace::{Baseline, ThreadStart};

/// What a turn has spent, as far as codex told.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Spent {
    /// The turn's own tokens, all of its attempts together.
    pub usage: Option<Usage>,
    /// The thread's total now, from which the next turn counts.
    pub total: Option<Usage>,
    /// codex reported a total, but not what it was before the turn.
    pub base_unknown: bool,
}

/// Measures one attempt.
#[derive(Debug)]
pub struct Meter {
    codex_home: Option<PathBuf>,
    /// Spent by earlier attempts that were cut off; nobody has counted it yet.
    carried: Option<Usage>,
    start: Option<ThreadStart>,
}

impl Meter {
    /// `resume` is the thread that is to go on, `stored` what the workspace's
    /// last turn left, `earlier` how this turn's earlier attempts started.
    pub fn start<'a>(
        codex_home: Option<PathBuf>,
        resume: Option<&str>,
        stored: Option<&Baseline>,
        earlier: impl IntoIterator<Item = Option<&'a ThreadStart>>,
    ) -> Self {
        let mut meter = Self {
            codex_home,
            carried: None,
            start: None,
        };
        meter.carried = meter.carried(resume, earlier);
        meter.start = resume.map(|thread| {
            let rollout = meter.rollout(thread);
            let base = match &rollout {
                // Without a total in its record codex counts on from zero.
                Some(rollout) => rollout.last_total().ok().map(Option::unwrap_or_default),
                None => stored
                    .filter(|stored| stored.thread_id == thread)
                    .and_then(|stored| stored.total),
            };
            ThreadStart {
                id: thread.to_owned(),
                base,
                rollout_len: rollout.and_then(|rollout| rollout.len().ok()),
            }
        });
        meter
    }

    /// The thread can't be resumed: what codex runs instead is new.
    pub fn forget_thread(&mut self) {
        self.start = None;
    }

    /// How the thread stood at the start; goes into the journal, so that the
    /// next attempt can count what this one spent if it is cut off.
    pub fn thread_start(&self) -> Option<&ThreadStart> {
        self.start.as_ref()
    }

    /// codex itself told how the thread stood at the start: it knows best.
    pub fn told_before(&mut self, total: Option<Usage>) {
        if let (Some(start), Some(total)) = (&mut self.start, total) {
            if let Some(recorded) = start.base.filter(|recorded| *recorded != total) {
                tracing::warn!(
                    thread = start.id,
                    ?recorded,
                    told = ?total,
                    "codex tells another token total of the thread than its record"
                );
            }
            start.base = Some(total);
        }
    }

    /// Sums up what this turn's earlier attempts spent on each thread since
    /// the first of them. A thread that the first did not begin with was made
    /// by one of them, which started afresh or had lost its own: all that was
    /// spent on it is the turn's, however many attempts went on with it.
    fn carried<'a>(
        &self,
        resume: Option<&str>,
        earlier: impl IntoIterator<Item = Option<&'a ThreadStart>>,
    ) -> Option<Usage> {
        let earlier: Vec<_> = earlier.into_iter().collect();
        let first = (*earlier.first()?).map(|start| start.id.as_str());
        let mut since: BTreeMap<&str, u64> = BTreeMap::new();
        let begun = earlier.iter().flatten().map(|start| match first {
            Some(first) if first == start.id => (start.id.as_str(), start.rollout_len),
            _ => (start.id.as_str(), Some(0)),
        });
        let resumed = resume.filter(|thread| Some(*thread) != first);
        for (thread, offset) in begun.chain(resumed.map(|thread| (thread, Some(0)))) {
            if let Some(offset) = offset {
                let least = since.entry(thread).or_insert(offset);
                *least = offset.min(*least);
            }
        }
        since
            .into_iter()
            .filter_map(|(thread, offset)| self.rollout(thread)?.spent_since(offset).ok()?)
            .reduce(Usage::plus)
    }

    fn rollout(&self, thread: &str) -> Option<Rollout> {
        let home = self.codex_home.as_deref()?;
        Rollout::find(home, thread).unwrap_or_else(|error| {
            tracing::warn!(%error, thread, "can't read the thread's own record");
            None
        })
    }

    /// What was spent, once codex has ended on `thread` and reported
    /// `reported_total`, if it did.
    pub fn finish(&self, thread: Option<&str>, reported_total: Option<Usage>) -> Spent {
        let Some(thread) = thread else {
            return Spent {
                usage: self.carried,
                ..Spent::default()
            };
        };
        let resumed = self.start.as_ref().filter(|start| start.id == thread);
        let (base, offset) = match resumed {
            Some(start) => (start.base, start.rollout_len),
            // A thread of this attempt's own.
            None => (Some(Usage::default()), Some(0)),
        };
        let (own, total) = match reported_total {
            Some(total) => (base.and_then(|base| total.since(base)), Some(total)),
            None => {
                let rollout = self.rollout(thread);
                let spent = rollout
                    .as_ref()
                    .zip(offset)
                    .and_then(|(rollout, offset)| rollout.spent_since(offset).ok()?);
                (
                    spent,
                    rollout.and_then(|rollout| rollout.last_total().ok()?),
                )
            }
        };
        Spent {
            usage: [self.carried, own]
                .into_iter()
                .flatten()
                .reduce(Usage::plus),
            total,
            base_unknown: reported_total.is_some() && own.is_none(),
        }
    }
}
