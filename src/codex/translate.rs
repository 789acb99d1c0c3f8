//! The CLI's events → the events that readers see, and the turn's verdict.

use std::collections::{BTreeMap, HashSet};

use serde_json::json;

use super::{
    Exit,
    failure::{Cause, classify, classify_exit},
    protocol::{CliEvent, Item, ItemKind},
    stderr,
    tool::{ToolCall, ToolKind},
};
use crate::event::{ErrorCode, EventBody, NoticeCode, PlanItem, TurnError, Usage};

/// The most of a passed-on error or warning that is published, in bytes: a
/// proxy's whole HTML page can stand in one.
const MAX_MESSAGE: usize = 8192;

/// The most of an id that is taken over, in bytes. codex's own have less.
const MAX_ID: usize = 128;

/// So many tool calls wait for their results at once; one more, and the one
/// that has waited longest is closed as unfinished.
const MAX_OPEN_TOOLS: usize = 1_000;

/// So many calls keep the id that codex gave them; later ones are numbered,
/// so that ids need not be remembered for as long as a turn may take.
const MAX_USED_IDS: usize = 20_000;

/// How many unknown kinds are told apart; further ones count as `other`.
const MAX_UNKNOWN_KINDS: usize = 32;

/// How codex itself says, or shows, that the turn ended. A caller that
/// cancelled the turn or ran out of patience knows better.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    EndTurn,
    Failed(TurnError),
}

/// What is left to tell when codex is gone.
#[derive(Debug, Clone, PartialEq)]
pub struct Finished {
    /// Still to be published, before any `error` and `message_end`.
    pub events: Vec<EventBody>,
    pub verdict: Verdict,
    /// The last agent message whole.
    pub last_text: Option<String>,
    /// The thread that codex said it runs, which need not be the one asked for.
    pub thread_id: Option<String>,
    /// The thread's running total, not the turn's share of it.
    pub reported_total: Option<Usage>,
    /// How often a kind of event or item came that this version doesn't know.
    pub unknown: BTreeMap<String, u64>,
}

/// Translates what one codex process tells about one turn.
///
/// A turn whose thread turns out to be lost runs a second process: give that
/// one a translator of its own. The first printed no event (else
/// [`super::failure::thread_lost`] is false), so their item ids, which restart
/// at `item_0` in every process, can't meet in one turn.
#[derive(Debug, Default)]
pub struct Translator {
    saw_event: bool,
    thread_id: Option<String>,
    last_text: Option<String>,
    reported_total: Option<Usage>,
    outcome: Option<Outcome>,
    /// An `error` line that may be the first half of a `turn.failed`.
    held_error: Option<String>,
    plan: Option<Vec<PlanItem>>,
    /// Tool calls without a result, in the order of their start.
    open: Vec<OpenTool>,
    /// Every id that a tool call was published under, up to a limit.
    used_ids: HashSet<String>,
    /// Numbers ids that were used before, or that can't be known not to be.
    numbered: u64,
    unknown: BTreeMap<String, u64>,
}

#[derive(Debug)]
enum Outcome {
    Completed,
    Failed(String),
}

#[derive(Debug)]
struct OpenTool {
    /// The CLI's id for the item.
    item_id: String,
    /// The id that its `tool_use` was published under.
    id: String,
    kind: ToolKind,
}

impl OpenTool {
    fn unfinished(self) -> EventBody {
        EventBody::ToolResult {
            tool_use_id: self.id,
            name: self.kind.as_str().to_owned(),
            is_error: true,
            content: json!({"status": "unfinished"}),
        }
    }
}

impl Translator {
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether codex has told anything at all.
    pub fn saw_event(&self) -> bool {
        self.saw_event
    }

    /// Whether codex has said how the turn ended.
    pub fn is_over(&self) -> bool {
        self.outcome.is_some()
    }

    /// The thread that codex said it runs, as soon as it has.
    pub fn thread_id(&self) -> Option<&str> {
        self.thread_id.as_deref()
    }

    /// What there is to publish for one event: mostly nothing or one event.
    pub fn translate(&mut self, event: CliEvent) -> Vec<EventBody> {
        self.saw_event = true;
        let mut out = Vec::new();
        // What isn't known tells nothing about the held line either.
        if !matches!(event, CliEvent::Unknown { .. }) {
            out.extend(self.release_held(&event));
        }
        match event {
            CliEvent::ThreadStarted { thread_id } => {
                if self.thread_id.is_none() && !thread_id.is_empty() {
                    self.thread_id = Some(bounded(thread_id, MAX_ID));
                }
            }
            CliEvent::TurnStarted => {}
            CliEvent::ItemStarted(item) => match item.kind {
                ItemKind::Tool(call) => self.tool_started(item.id, &call, &mut out),
                ItemKind::TodoList { items } => out.extend(self.plan(items)),
                _ => {}
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
            CliEvent::TurnFailed { message } => {
                self.outcome.get_or_insert(Outcome::Failed(message));
            }
            CliEvent::Error { message } => {
                if message.starts_with("Reconnecting...") {
                    out.push(notice(NoticeCode::Reconnecting, message));
                } else {
                    self.held_error = Some(message);
                }
            }
            CliEvent::Unknown { what } => self.count_unknown(what),
        }
        out
    }

    /// Closes the books when codex is gone: no tool call stays without a
    /// result, and every run has a verdict.
    pub fn finish(mut self, exit: &Exit, stderr_tail: &str) -> Finished {
        let open = std::mem::take(&mut self.open);
        let mut events: Vec<_> = open.into_iter().map(OpenTool::unfinished).collect();
        let verdict = match self.outcome {
            Some(outcome) => {
                let late = self.held_error.map(|held| notice(NoticeCode::Error, held));
                events.extend(late);
                match outcome {
                    Outcome::Completed => Verdict::EndTurn,
                    Outcome::Failed(message) => Verdict::Failed(turn_failed(message)),
                }
            }
            None => Verdict::Failed(ended_silently(exit, self.held_error, stderr_tail)),
        };
        Finished {
            events,
            verdict,
            last_text: self.last_text,
            thread_id: self.thread_id,
            reported_total: self.reported_total,
            unknown: self.unknown,
        }
    }

    /// codex prints the words of a `turn.failed` in an `error` line first, so
    /// an `error` line waits for what comes next. The pair is one failure; by
    /// itself the line is a notice. (If nothing comes next, the process ended
    /// on it, and it is the failure's best message.)
    fn release_held(&mut self, next: &CliEvent) -> Option<EventBody> {
        let held = self.held_error.take()?;
        if let CliEvent::TurnFailed { message } = next {
            if message.is_empty() {
                self.outcome
                    .get_or_insert_with(|| Outcome::Failed(held.clone()));
            }
            if message.is_empty() || *message == held {
                return None;
            }
        }
        Some(notice(NoticeCode::Error, held))
    }

    fn item_completed(&mut self, item: Item, out: &mut Vec<EventBody>) {
        let item_id = item.id;
        match item.kind {
            ItemKind::AgentMessage { text } => {
                self.last_text = Some(text.clone());
                out.push(EventBody::TextDelta { item_id, text });
            }
            ItemKind::Reasoning { text } => out.push(EventBody::ThinkingDelta { item_id, text }),
            ItemKind::Tool(call) => self.tool_completed(item_id, &call, out),
            ItemKind::TodoList { items } => out.extend(self.plan(items)),
            ItemKind::Warning { message } => out.push(notice(NoticeCode::Warning, message)),
        }
    }

    fn tool_started(&mut self, item_id: String, call: &ToolCall, out: &mut Vec<EventBody>) {
        let item_id = bounded(item_id, MAX_ID);
        // Without an id, no later line can speak of the same call.
        if !item_id.is_empty() && self.open.iter().any(|tool| tool.item_id == item_id) {
            return;
        }
        let id = self.unused_id(&item_id);
        out.push(EventBody::ToolUse {
            id: id.clone(),
            name: call.kind.as_str().to_owned(),
            input: call.input(),
        });
        self.open.push(OpenTool {
            item_id,
            id,
            kind: call.kind,
        });
        if self.open.len() > MAX_OPEN_TOOLS {
            out.push(self.open.remove(0).unfinished());
        }
    }

    fn tool_completed(&mut self, item_id: String, call: &ToolCall, out: &mut Vec<EventBody>) {
        let item_id = bounded(item_id, MAX_ID);
        let known = |tool: &OpenTool| !item_id.is_empty() && tool.item_id == item_id;
        let at = match self.open.iter().position(known) {
            Some(at) => at,
            None => {
                self.tool_started(item_id, call, out);
                self.open.len() - 1
            }
        };
        let tool = self.open.remove(at);
        out.push(EventBody::ToolResult {
            tool_use_id: tool.id,
            name: tool.kind.as_str().to_owned(),
            is_error: call.is_error(),
            content: call.content(),
        });
    }

    /// Readers pair results with calls by id, so none stands for two calls,
    /// whatever codex prints.
    fn unused_id(&mut self, item_id: &str) -> String {
        // Only the numbered ones have a `#`, and no number comes twice.
        let id = match item_id {
            "" => "unnamed".to_owned(),
            item_id => item_id.replace('#', "_"),
        };
        if self.used_ids.len() < MAX_USED_IDS && self.used_ids.insert(id.clone()) {
            return id;
        }
        self.numbered += 1;
        format!("{id}#{}", self.numbered + 1)
    }

    /// A list's completion repeats its last update; what changes nothing is
    /// not told again.
    fn plan(&mut self, items: Vec<PlanItem>) -> Option<EventBody> {
        if self.plan.as_ref() == Some(&items) {
            return None;
        }
        self.plan = Some(items.clone());
        Some(EventBody::Plan { items })
    }

    fn count_unknown(&mut self, what: String) {
        // It stands in the log, where nothing that an agent says may end up.
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

fn turn_failed(message: String) -> TurnError {
    let cause = classify(&message);
    let message = if message.trim().is_empty() {
        "codex gave no message".to_owned()
    } else {
        message
    };
    turn_error(ErrorCode::TurnFailed, message, cause)
}

/// codex ended, or never started, without a terminal event.
fn ended_silently(exit: &Exit, held_error: Option<String>, stderr_tail: &str) -> TurnError {
    let tail = stderr::clean_tail(stderr_tail);
    let how = match exit {
        Exit::NotStarted { message, .. } => {
            let message = format!("codex could not be started: {message}");
            return turn_error(
                ErrorCode::StartFailed,
                message,
                classify_exit(exit, stderr_tail),
            );
        }
        Exit::Code(code) => format!("codex exited with code {code}"),
        Exit::Signal(signal) => format!("codex was ended by signal {signal}"),
        Exit::GuardLost => "codex's guard died".to_owned(),
    };
    let how = format!("{how} before it told how the turn ended");
    match held_error {
        Some(held) => {
            let cause = classify(&held);
            turn_error(ErrorCode::Exited, format!("{how}: {held}"), cause)
        }
        None => {
            let message = if tail.is_empty() {
                how
            } else {
                format!("{how}: {tail}")
            };
            turn_error(ErrorCode::Exited, message, classify_exit(exit, stderr_tail))
        }
    }
}

fn turn_error(code: ErrorCode, message: String, cause: Cause) -> TurnError {
    TurnError {
        code,
        message: bounded(message, MAX_MESSAGE),
        reason: cause.reason,
        retryable: cause.retryable,
    }
}

fn notice(code: NoticeCode, message: String) -> EventBody {
    EventBody::Notice {
        code,
        message: bounded(message, MAX_MESSAGE),
    }
}

/// At most `max` bytes, cut at a character and marked where cut.
fn bounded(mut text: String, max: usize) -> String {
    const CUT: &str = " …";
    if text.len() > max {
        let mut end = max.saturating_sub(CUT.len());
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
        text.push_str(CUT);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{codex::protocol::parse_line, event::Reason};

    fn feed(translator: &mut Translator, lines: &[&str]) -> Vec<EventBody> {
        lines
            .iter()
            .flat_map(|line| translator.translate(parse_line(line.as_bytes()).unwrap()))
            .collect()
    }

    fn failed(finished: &Finished) -> &TurnError {
        match &finished.verdict {
            Verdict::Failed(error) => error,
            Verdict::EndTurn => panic!("{finished:?}"),
        }
    }

    const ERROR: &str = r#"{"type":"error","message":"rate limit exceeded: x"}"#;

    #[test]
    fn error_line_that_repeats_the_failure_is_not_told_twice() {
        let mut translator = Translator::new();
        let pair = [
            ERROR,
            r#"{"type":"turn.failed","error":{"message":"rate limit exceeded: x"}}"#,
        ];
        assert_eq!(feed(&mut translator, &pair), []);
        let finished = translator.finish(&Exit::Code(1), "");
        assert_eq!(finished.events, []);
        assert_eq!(failed(&finished).code, ErrorCode::TurnFailed);
        assert_eq!(failed(&finished).reason, Reason::RateLimited);
    }

    #[test]
    fn error_line_with_other_words_is_a_notice() {
        for next in [
            r#"{"type":"turn.failed","error":{"message":"other"}}"#,
            r#"{"type":"turn.completed"}"#,
            r#"{"type":"item.updated","item":{"id":"item_0","type":"reasoning"}}"#,
            r#"{"type":"error","message":"Reconnecting... 1/5 (x)"}"#,
        ] {
            let events = feed(&mut Translator::new(), &[ERROR, next]);
            let notice = notice(NoticeCode::Error, "rate limit exceeded: x".into());
            assert_eq!(events.first(), Some(&notice), "{next}");
        }
    }

    #[test]
    fn error_line_at_the_very_end_is_the_failures_message() {
        let mut translator = Translator::new();
        let lines = [ERROR, r#"{"type":"new.kind"}"#];
        assert_eq!(feed(&mut translator, &lines), []);
        let finished = translator.finish(&Exit::Signal(9), "noise");
        let error = failed(&finished);
        assert_eq!(error.code, ErrorCode::Exited);
        assert_eq!(error.reason, Reason::RateLimited);
        assert!(
            error.message.ends_with("ended: rate limit exceeded: x"),
            "{error:?}"
        );
    }

    #[test]
    fn failure_without_a_message_takes_the_error_lines() {
        let mut translator = Translator::new();
        let events = feed(&mut translator, &[ERROR, r#"{"type":"turn.failed"}"#]);
        assert_eq!(events, []);
        let finished = translator.finish(&Exit::Code(1), "");
        assert_eq!(failed(&finished).message, "rate limit exceeded: x");
    }

    #[test]
    fn terminal_event_outweighs_an_odd_exit() {
        for exit in [
            Exit::Code(0),
            Exit::Code(101),
            Exit::Signal(9),
            Exit::GuardLost,
        ] {
            let mut translator = Translator::new();
            feed(&mut translator, &[r#"{"type":"turn.completed"}"#, ERROR]);
            let finished = translator.finish(&exit, "thread 'main' panicked");
            assert_eq!(finished.verdict, Verdict::EndTurn);
            assert_eq!(finished.events.len(), 1, "the late error line");
        }
    }

    #[test]
    fn every_exit_without_a_terminal_event_is_a_failure_that_says_so() {
        for (exit, code, part) in [
            (Exit::Code(0), ErrorCode::Exited, "exited with code 0"),
            (Exit::Signal(15), ErrorCode::Exited, "signal 15"),
            (Exit::GuardLost, ErrorCode::Exited, "guard died"),
            (
                Exit::NotStarted {
                    message: "`codex`: no such file".into(),
                    errno: None,
                },
                ErrorCode::StartFailed,
                "no such file",
            ),
        ] {
            let finished = Translator::new().finish(&exit, "\u{1b}[31mError:\u{1b}[0m why");
            let error = failed(&finished);
            assert_eq!(error.code, code);
            assert!(error.message.contains(part), "{error:?}");
            if code == ErrorCode::Exited {
                assert!(error.message.ends_with(": Error: why"), "{error:?}");
            }
        }
    }

    #[test]
    fn ids_that_come_again_stand_for_new_calls() {
        let start = r#"{"type":"item.started","item":{"id":"item_0","type":"command_execution","command":"a"}}"#;
        let end = r#"{"type":"item.completed","item":{"id":"item_0","type":"command_execution","exit_code":0}}"#;
        let mut translator = Translator::new();
        let events = feed(&mut translator, &[start, start, end, end, start]);
        let ids: Vec<_> = events
            .iter()
            .map(|event| match event {
                EventBody::ToolUse { id, .. } => ("use", id.as_str()),
                EventBody::ToolResult { tool_use_id, .. } => ("result", tool_use_id.as_str()),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(
            ids,
            [
                ("use", "item_0"),
                ("result", "item_0"),
                ("use", "item_0#2"),
                ("result", "item_0#2"),
                ("use", "item_0#3"),
            ]
        );
        let rest = translator.finish(&Exit::Code(1), "").events;
        assert!(matches!(&rest[..],
            [EventBody::ToolResult { tool_use_id, is_error: true, content, .. }]
            if tool_use_id == "item_0#3" && content["status"] == "unfinished"));
    }

    /// Starts so many calls, with ids that begin with `prefix`.
    fn start(translator: &mut Translator, prefix: &str, count: usize) -> Vec<EventBody> {
        let lines = (0..count).map(|n| {
            format!(
                r#"{{"type":"item.started","item":{{"id":"{prefix}{n}","type":"web_search"}}}}"#
            )
        });
        lines.flat_map(|line| feed(translator, &[&line])).collect()
    }

    #[test]
    fn g8_what_is_no_name_of_a_kind_is_not_told() {
        let mut translator = Translator::new();
        let long = "x".repeat(65);
        for kind in ["new.kind_2", "a secret", "\n", "é", &long] {
            let what = format!("event {kind}");
            translator.translate(CliEvent::Unknown { what });
        }
        let unknown = translator.finish(&Exit::Code(0), "").unknown;
        let told: Vec<_> = unknown.iter().map(|(what, n)| (&**what, *n)).collect();
        assert_eq!(told, [("event new.kind_2", 1), ("other", 4)]);
    }

    #[test]
    fn g10_what_is_kept_of_tool_calls_is_bounded() {
        let mut translator = Translator::new();
        let events = start(&mut translator, &"x".repeat(1000), MAX_OPEN_TOOLS + 1);
        // All begin alike, as far as they are looked at.
        assert_eq!(events.len(), 1);
        let events = start(&mut translator, "y", MAX_OPEN_TOOLS);
        assert_eq!(events.len(), MAX_OPEN_TOOLS + 1);
        assert!(matches!(events.last(),
            Some(EventBody::ToolResult { tool_use_id, is_error: true, .. }) if tool_use_id.starts_with("xxx")));
        let EventBody::ToolUse { id, .. } = &start(&mut Translator::new(), "a#", 1)[0] else {
            panic!("no call");
        };
        assert_eq!(id, "a_0");

        start(&mut translator, "z", 2 * MAX_USED_IDS);
        assert_eq!(translator.open.len(), MAX_OPEN_TOOLS);
        assert_eq!(translator.used_ids.len(), MAX_USED_IDS);
        let ids: HashSet<&str> = translator.open.iter().map(|tool| &*tool.id).collect();
        assert_eq!(ids.len(), MAX_OPEN_TOOLS);
    }

    #[test]
    fn g8_of_a_failure_only_the_workers_own_words_are_for_logs() {
        let end = |exit: Exit, lines: &[&str]| {
            let mut translator = Translator::new();
            feed(&mut translator, lines);
            let finished = translator.finish(&exit, "error: SECRET: in config.toml");
            failed(&finished).own_words().map(ToOwned::to_owned)
        };
        let failure = r#"{"type":"turn.failed","error":{"message":"SECRET"}}"#;
        assert_eq!(end(Exit::Code(1), &[failure]), None);
        assert_eq!(
            end(Exit::Code(3), &[ERROR]).as_deref(),
            Some("codex exited with code 3 before it told how the turn ended")
        );
        assert_eq!(
            end(Exit::Signal(9), &[]).as_deref(),
            Some("codex was ended by signal 9 before it told how the turn ended")
        );
        let missing = Exit::NotStarted {
            message: "/bin/codex: No such file".into(),
            errno: None,
        };
        assert_eq!(
            end(missing, &[]).as_deref(),
            Some("codex could not be started: /bin/codex: No such file")
        );
    }

    #[test]
    fn g10_what_is_kept_of_unknown_kinds_is_bounded() {
        let mut translator = Translator::new();
        for n in 0..100 {
            let what = format!("event {n}");
            translator.translate(CliEvent::Unknown { what });
        }
        let unknown = translator.finish(&Exit::Code(0), "").unknown;
        assert_eq!(unknown.len(), MAX_UNKNOWN_KINDS + 1);
        assert_eq!(unknown.values().sum::<u64>(), 100);
        assert_eq!(bounded("éééé".into(), 7), "é …");
    }
}
