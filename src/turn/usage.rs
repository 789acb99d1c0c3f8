//! A turn's own tokens (G7).
//!
//! `codex app-server` reports each answer of the model, of sub-agents too.
//! `codex exec` reports only its own thread's running total, and only at the
//! end of a turn that was completed: the turn's own tokens are the difference
//! to the total before it. That total is looked up in the thread's own record
//! (the rollout) and, where that can't be read, taken from what the last turn
//! of this workspace left. All else is summed up from the records of single
//! answers: what was spent before the total was reset, by a turn that was cut
//! off, by sub-agents.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;

use crate::codex::engine::Reported;
use crate::codex::rollout::{self, Recorded, Rollout};
use crate::event::{Tokens, Usage};
use crate::workspace::{Baseline, ThreadStart};

/// What a turn has spent, as far as codex reported it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Spent {
    /// What all agents of the turn spent, in all of its attempts together.
    pub usage: Option<Usage>,
    /// The thread's total now, from which the next turn counts.
    pub total: Option<Tokens>,
    /// codex reported a total, but not what it was before the turn.
    pub base_unknown: bool,
    /// The model that was asked, as codex has reported or recorded it.
    pub model: Option<String>,
}

/// What codex itself has reported.
#[derive(Debug, Clone)]
pub(super) enum UsageReport {
    /// All of the turn.
    All(Reported),
    /// What it had spent when codex was stopped, or was gone.
    SoFar(Reported),
    /// The thread's total, unless codex was stopped, or has failed.
    AtEnd(Option<Tokens>),
}

/// Measures one attempt.
#[derive(Debug)]
pub(super) struct Meter {
    codex_home: Option<PathBuf>,
    /// Spent by earlier attempts that were aborted; not counted yet.
    carried: Option<Usage>,
    start: Option<ThreadStart>,
}

impl Meter {
    /// `resume` is the thread that is to go on, `stored` what the workspace's
    /// last turn left, `earlier` how this turn's earlier attempts started.
    pub(super) fn start<'a>(
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
    pub(super) fn forget_thread(&mut self) {
        self.start = None;
    }

    /// How the thread stood at the start; goes into the journal, so that the
    /// next attempt can count what this one spent if it is cut off.
    pub(super) fn thread_start(&self) -> Option<&ThreadStart> {
        self.start.as_ref()
    }

    /// Sums up what this turn's earlier attempts spent on each thread since
    /// the first of them. A thread that the first did not start with was made
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
            .filter_map(|(thread, offset)| self.recorded_since(thread, offset))
            .filter_map(|recorded| Usage::of(recorded.own, recorded.agents))
            .reduce(Usage::plus)
    }

    fn rollout(&self, thread: &str) -> Option<Rollout> {
        let home = self.codex_home.as_deref()?;
        Rollout::find(home, thread).unwrap_or_else(|error| {
            tracing::warn!(%error, thread, "can't read the thread's own record");
            None
        })
    }

    /// What was spent where this attempt runs no codex.
    pub(super) fn unrun(&self) -> Spent {
        Spent {
            usage: self.carried,
            ..Spent::default()
        }
    }

    /// What was spent, once codex has ended on `thread`.
    pub(super) fn finish(&self, thread: Option<&str>, report: UsageReport) -> Spent {
        let Some(thread) = thread else {
            return self.unrun();
        };
        let resumed = self.start.as_ref().filter(|start| start.id == thread);
        let (base, offset) = match resumed {
            Some(start) => (start.base, start.rollout_len),
            // A thread of this attempt's own.
            None => (Some(Tokens::default()), Some(0)),
        };
        let mut base_unknown = false;
        let (usage, total, model) = match report {
            // With the answers of the model, as they came.
            UsageReport::All(reported) if reported.own.is_some() => (
                Usage::of(reported.own, reported.agents),
                reported.total,
                reported.model,
            ),
            UsageReport::All(reported) | UsageReport::SoFar(reported) => {
                let recorded = self.recorded(thread, offset);
                (
                    Usage::of(
                        larger(reported.own, recorded.own),
                        larger(reported.agents, recorded.agents),
                    ),
                    reported.total.or_else(|| self.last_total(thread)),
                    reported.model.or(recorded.model),
                )
            }
            UsageReport::AtEnd(total) => {
                let recorded = self.recorded(thread, offset);
                let grown = total.zip(base).and_then(|(total, base)| total.since(base));
                let grown = grown.filter(|grown| *grown != Tokens::default());
                let own = larger(grown, recorded.own);
                base_unknown = total.is_some() && base.is_none() && own.is_none();
                (
                    Usage::of(own, recorded.agents),
                    total.or_else(|| self.last_total(thread)),
                    recorded.model,
                )
            }
        };
        Spent {
            usage: [self.carried, usage]
                .into_iter()
                .flatten()
                .reduce(Usage::plus),
            total,
            base_unknown,
            model,
        }
    }

    fn recorded(&self, thread: &str, offset: Option<u64>) -> Recorded {
        let recorded = offset.and_then(|offset| self.recorded_since(thread, offset));
        recorded.unwrap_or_default()
    }

    fn recorded_since(&self, thread: &str, offset: u64) -> Option<Recorded> {
        let rollout = self.rollout(thread)?;
        let recorded = rollout::of_turn(self.codex_home.as_deref()?, &rollout, offset);
        let unreadable = |error: &io::Error| {
            tracing::warn!(%error, thread, "can't read the thread's own record");
        };
        recorded.inspect_err(unreadable).ok()
    }

    fn last_total(&self, thread: &str) -> Option<Tokens> {
        self.rollout(thread)?.last_total().ok()?
    }
}

/// Both only ever lack something: a total what was before it was reset, and
/// records what was not written.
fn larger(one: Option<Tokens>, other: Option<Tokens>) -> Option<Tokens> {
    let both = [one, other].into_iter().flatten();
    both.max_by_key(|tokens| tokens.input_tokens.saturating_add(tokens.output_tokens))
}
