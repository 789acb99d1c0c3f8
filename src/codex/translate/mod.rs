//! The CLI's events → the events that readers see, and the turn's verdict.

mod errors;
mod ids;
mod texts;
mod tools;

use std::collections::BTreeMap;

use super::failure::Cause;
use super::protocol::{CliEvent, Item, ItemKind};
use crate::event::{EventBody, NoticeCode, PlanItem, Reason, Tokens, TurnError};
use crate::guard::Exit;
use errors::{ended_silently, notice, turn_failed};
use texts::{Kind, Texts};
use tools::Tools;

/// How many unknown kinds are counted apart; further ones count as `other`.
const MAX_UNKNOWN_KINDS: usize = 32;

/// How codex itself says, or shows, that the turn ended. A caller that
/// cancelled the turn or ran out of patience knows better.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    EndTurn,
    Failed(TurnError),
}

/// What is left to publish when codex is gone.
#[derive(Debug, Clone, PartialEq)]
pub struct Finished {
    /// Still to be published, before any `error` and `message_end`.
    pub events: Vec<EventBody>,
    pub verdict: Verdict,
    /// The last agent message whole.
    pub last_text: Option<String>,
    /// The thread that codex said it runs, which need not be the one asked for.
    pub thread_id: Option<String>,
    /// The thread's running total, not the turn's share of it, as `codex exec`
    /// reports it at a turn's end.
    pub reported_total: Option<Tokens>,
    /// Whether the model was asked, so that something may have been spent.
    pub reached_model: bool,
    /// Whether something of an answer came.
    pub heard_model: bool,
    /// How often a kind of event or item came that this version doesn't know.
    pub unknown: BTreeMap<String, u64>,
}

/// Translates what one codex process reports about one turn, whole or in pieces.
///
/// A turn with a thread that turns out to be lost runs a second process: give that
/// one a translator of its own. The first printed no event (else
/// [`super::failure::thread_lost`] is false), so their item ids, which restart
/// at `item_0` in every process, can't meet in one turn.
#[derive(Debug, Default)]
pub struct Translator {
    saw_event: bool,
    /// codex has started the turn.
    has_begun: bool,
    /// Something came from the model.
    heard_model: bool,
    thread_id: Option<String>,
    last_text: Option<String>,
    reported_total: Option<Tokens>,
    outcome: Option<Outcome>,
    /// An `error` line that may be the first half of a `turn.failed`.
    held_error: Option<(String, Option<Cause>)>,
    plan: Option<Vec<PlanItem>>,
    texts: Texts,
    tools: Tools,
    unknown: BTreeMap<String, u64>,
    line_lost: bool,
}

#[derive(Debug)]
enum Outcome {
    Completed,
    Failed(String, Option<Cause>),
    Interrupted,
}

impl Translator {
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether codex has reported anything at all.
    pub fn saw_event(&self) -> bool {
        self.saw_event
    }

    /// Whether codex has said how the turn ended. That it was interrupted is
    /// no end of its own: the caller that asked for it knows why.
    pub fn is_over(&self) -> bool {
        self.outcome
            .as_ref()
            .is_some_and(|outcome| !matches!(outcome, Outcome::Interrupted))
    }

    /// codex wrote something that could not be read: it may have been the end
    /// of a message that was streamed.
    pub fn line_lost(&mut self) {
        self.line_lost = true;
    }

    /// The thread that codex said it runs, as soon as it has.
    pub fn thread_id(&self) -> Option<&str> {
        self.thread_id.as_deref()
    }

    /// What there is to publish for one event: mostly no event or one.
    pub fn translate(&mut self, event: CliEvent) -> Vec<EventBody> {
        self.saw_event = true;
        self.heard_model |= is_of_model(&event);
        let mut out = Vec::new();
        // An unknown event says no more about the held line either.
        if !matches!(event, CliEvent::Unknown { .. }) {
            out.extend(self.release_held(&event));
        }
        match event {
            CliEvent::ThreadStarted { thread_id } => {
                if self.thread_id.is_none() && !thread_id.is_empty() {
                    self.thread_id = Some(ids::id(thread_id));
                }
            }
            CliEvent::TurnStarted => self.has_begun = true,
            CliEvent::ItemStarted(item) => match item.kind {
                ItemKind::Tool(call) => self.tools.started(item.id, &call, &mut out),
                ItemKind::TodoList { items } => out.extend(self.plan(items)),
                ItemKind::AgentMessage { .. } => self.texts.begin(Kind::Text, item.id),
                ItemKind::Reasoning { .. } => self.texts.begin(Kind::Thinking, item.id),
                ItemKind::Warning { .. } => {}
            },
            CliEvent::ItemUpdated(item) => {
                if let ItemKind::TodoList { items } = item.kind {
                    out.extend(self.plan(items));
                }
            }
            CliEvent::ItemCompleted(item) => self.item_completed(item, &mut out),
            CliEvent::TurnCompleted { usage } => {
                self.reported_total = usage.or(self.reported_total);
                self.outcome.get_or_insert(Outcome::Completed);
            }
            CliEvent::TurnFailed { message, cause } => {
                self.outcome.get_or_insert(Outcome::Failed(message, cause));
            }
            CliEvent::TurnInterrupted => {
                self.outcome.get_or_insert(Outcome::Interrupted);
            }
            CliEvent::Error { message, cause } => {
                if message.starts_with("Reconnecting...") {
                    out.push(notice(NoticeCode::Reconnecting, message));
                } else {
                    self.held_error = Some((message, cause));
                }
            }
            CliEvent::Retrying { message } => out.push(notice(NoticeCode::Reconnecting, message)),
            CliEvent::TextDelta { item_id, text } => {
                out.extend(self.texts.delta(Kind::Text, item_id, text));
            }
            CliEvent::ThinkingDelta { item_id, text } => {
                out.extend(self.texts.delta(Kind::Thinking, item_id, text));
            }
            CliEvent::OutputDelta { item_id, text } => {
                self.tools.output(item_id, &text, &mut out);
            }
            // Counted with what sub-agents spend, see `Reported`.
            CliEvent::UsageUpdated { .. } => {}
            CliEvent::Notice { code, message } => out.push(notice(code, message)),
            CliEvent::Unknown { what } => self.count_unknown(what),
        }
        out
    }

    /// Closes the books when codex is gone: no tool call stays without a
    /// result, and every run has a verdict.
    pub fn finish(mut self, exit: &Exit, stderr_tail: &str) -> Finished {
        let mut events = std::mem::take(&mut self.tools).close();
        if self.line_lost && matches!(self.outcome, Some(Outcome::Completed)) {
            self.last_text = self.texts.take_unfinished().or(self.last_text);
        }
        let verdict = match self.outcome {
            Some(outcome) => {
                let late = self.held_error;
                events.extend(late.map(|(held, _)| notice(NoticeCode::Error, held)));
                match outcome {
                    Outcome::Completed => Verdict::EndTurn,
                    Outcome::Failed(message, cause) => Verdict::Failed(turn_failed(message, cause)),
                    Outcome::Interrupted => Verdict::Failed(errors::interrupted()),
                }
            }
            None => Verdict::Failed(ended_silently(exit, self.held_error, stderr_tail)),
        };
        let reached_model = self.has_begun && (self.heard_model || !is_before_model(&verdict));
        Finished {
            events,
            verdict,
            last_text: self.last_text,
            thread_id: self.thread_id,
            reported_total: self.reported_total,
            reached_model,
            heard_model: self.heard_model,
            unknown: self.unknown,
        }
    }

    /// codex prints the words of a `turn.failed` in an `error` line first, so
    /// an `error` line waits for what comes next. The pair is one failure; by
    /// itself the line is a notice. (If no line comes next, the process ended
    /// on it, and it is the failure's best message.)
    fn release_held(&mut self, next: &CliEvent) -> Option<EventBody> {
        let (held, cause) = self.held_error.take()?;
        if let CliEvent::TurnFailed { message, .. } = next {
            if message.is_empty() {
                let failed = || Outcome::Failed(held.clone(), cause);
                self.outcome.get_or_insert_with(failed);
            }
            if message.is_empty() || *message == held {
                return None;
            }
        }
        Some(notice(NoticeCode::Error, held))
    }

    fn item_completed(&mut self, item: Item, out: &mut Vec<EventBody>) {
        match item.kind {
            ItemKind::AgentMessage { text } => {
                self.last_text = Some(text.clone());
                out.extend(self.texts.completed(Kind::Text, item.id, text));
            }
            ItemKind::Reasoning { text } => {
                out.extend(self.texts.completed(Kind::Thinking, item.id, text));
            }
            ItemKind::Tool(call) => self.tools.completed(item.id, &call, out),
            ItemKind::TodoList { items } => out.extend(self.plan(items)),
            ItemKind::Warning { message } => out.push(notice(NoticeCode::Warning, message)),
        }
    }

    /// A list's completion repeats its last update; an update without a change is
    /// not published again.
    fn plan(&mut self, items: Vec<PlanItem>) -> Option<EventBody> {
        if self.plan.as_ref() == Some(&items) {
            return None;
        }
        self.plan = Some(items.clone());
        Some(EventBody::Plan { items })
    }

    fn count_unknown(&mut self, what: String) {
        // It stands in the log, which must not contain an agent's words.
        let is_name = what.split_once(' ').is_some_and(|(_, kind)| {
            let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
            kind.len() <= 64 && kind.bytes().all(plain)
        });
        let known = self.unknown.contains_key(&what);
        let what = if known || (is_name && self.unknown.len() < MAX_UNKNOWN_KINDS) {
            what
        } else {
            "other".to_owned()
        };
        *self.unknown.entry(what).or_default() += 1;
    }
}

/// Whether only an answer of the model leads to it.
fn is_of_model(event: &CliEvent) -> bool {
    match event {
        CliEvent::TextDelta { .. }
        | CliEvent::ThinkingDelta { .. }
        | CliEvent::UsageUpdated { .. }
        | CliEvent::TurnCompleted { .. } => true,
        CliEvent::ItemStarted(item) | CliEvent::ItemCompleted(item) => match item.kind {
            ItemKind::AgentMessage { .. } | ItemKind::Reasoning { .. } | ItemKind::Tool(_) => true,
            ItemKind::TodoList { .. } | ItemKind::Warning { .. } => false,
        },
        _ => false,
    }
}

/// Whether the turn failed on its way to the model.
fn is_before_model(verdict: &Verdict) -> bool {
    let Verdict::Failed(error) = verdict else {
        return false;
    };
    matches!(
        error.reason,
        Reason::Auth | Reason::Config | Reason::Network | Reason::UsageLimit | Reason::RateLimited
    )
}

#[cfg(test)]
mod tests;
