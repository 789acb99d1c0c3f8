//! Which of the server's notifications matter to a turn, and as what.

use std::time::Duration;

use super::super::protocol::{CliEvent, Item, ItemKind};
use super::error_info;
use super::items::{self, Translated};
use super::wire::Fields;
use crate::event::NoticeCode;
use crate::labels::{RateLimit, RateLimitWindow};

/// What the server is asked not to send at all.
pub(super) const UNWANTED: &[&str] = &[
    "account/updated",
    "app/list/updated",
    "configWarning",
    "item/commandExecution/terminalInteraction",
    "item/fileChange/outputDelta",
    "item/fileChange/patchUpdated",
    "item/plan/delta",
    "item/reasoning/textDelta",
    "remoteControl/status/changed",
    "skills/changed",
    "thread/name/updated",
    "thread/prediction/updated",
    "thread/readState/changed",
    "thread/settings/updated",
    "thread/started",
    "turn/diff/updated",
    "turn/moderationMetadata",
];

/// Longer than codex lets a tool sleep; a number is no reason to wait for ever.
const LONGEST_SLEEP: Duration = Duration::from_hours(24);

/// What an `account/rateLimits/updated` reports of the account itself; a model
/// or a tool may have limits of its own, under another id.
pub(super) fn rate_limits(method: &str, params: &Fields<'_>) -> Option<Vec<RateLimit>> {
    const ACCOUNT: &str = "codex";
    if method != "account/rateLimits/updated" {
        return None;
    }
    let limits = params.object("rateLimits");
    if limits.has("limitId") && !limits.is("limitId", ACCOUNT) {
        return None;
    }
    let reported = RateLimitWindow::ALL.into_iter().filter_map(|window| {
        let fields = limits.object(window.as_str());
        Some(RateLimit {
            window,
            used_percent: fields.number("usedPercent")?,
            resets_at: fields.number("resetsAt"),
        })
    });
    let reported: Vec<_> = reported.collect();
    (!reported.is_empty()).then_some(reported)
}

/// Whether an MCP server has started, or will not. The model is asked only after that.
pub(super) fn has_mcp_started(method: &str, params: &Fields<'_>) -> bool {
    method == "mcpServer/startupStatus/updated" && !params.is("status", "starting")
}

/// Other notifications, which do not concern a turn's course.
const IGNORED: &[&str] = &[
    "autoApprovalReview/strictReviewRequired",
    "hook/completed",
    "hook/started",
    "item/autoApprovalReview/completed",
    "item/autoApprovalReview/started",
    "model/safetyBuffering/updated",
    "model/verification",
    "modelProvider/authRecoveryCompleted",
    "modelProvider/authRecoveryStarted",
    "project/changed",
    "serverRequest/resolved",
    "thread/attachment/updated",
    "thread/compacted",
    "thread/environment/connected",
    "thread/environment/disconnected",
    "thread/project/updated",
    "thread/queue/changed",
    "thread/section/changed",
    "item/mcpToolCall/progress",
    "item/reasoning/summaryPartAdded",
];

/// Whether a kind is known to be of no interest.
pub(super) fn is_noise(method: &str) -> bool {
    const FAMILIES: &[&str] = &[
        "account/",
        "command/exec/",
        "externalAgentConfig/",
        "fs/",
        "fuzzyFileSearch/",
        "mcpServer/",
        "process/",
        "thread/realtime/",
        "windows",
    ];
    UNWANTED.contains(&method)
        || IGNORED.contains(&method)
        || FAMILIES.iter().any(|family| method.starts_with(family))
}

/// Joins the parts of a reasoning's summary as its whole has them: by a line
/// feed each.
#[derive(Debug, Default)]
pub(super) struct Thinking {
    item_id: String,
    part: u64,
}

/// More parts than any summary has; a number is no reason to fill the memory.
const MOST_PARTS: u64 = 1_000;

impl Thinking {
    fn delta(&mut self, params: &Fields<'_>) -> CliEvent {
        let item_id = params.text("itemId");
        if self.item_id != item_id {
            self.item_id.clone_from(&item_id);
            self.part = 0;
        }
        let part = params.number("summaryIndex").unwrap_or(0).min(MOST_PARTS);
        let mut text = String::new();
        for _ in self.part..part {
            text.push('\n');
        }
        self.part = self.part.max(part);
        text.push_str(&params.text("delta"));
        CliEvent::ThinkingDelta { item_id, text }
    }
}

/// A notification that is of the turn's, by its thread and turn.
pub(super) fn of_turn(
    method: &str,
    params: &Fields<'_>,
    thinking: &mut Thinking,
) -> Option<CliEvent> {
    let delta = || (params.text("itemId"), params.text("delta"));
    Some(match method {
        "item/started" => item(method, params, CliEvent::ItemStarted)?,
        "item/completed" => item(method, params, CliEvent::ItemCompleted)?,
        "item/agentMessage/delta" => {
            let (item_id, text) = delta();
            CliEvent::TextDelta { item_id, text }
        }
        "item/reasoning/summaryTextDelta" => thinking.delta(params),
        "item/commandExecution/outputDelta" => {
            let (item_id, text) = delta();
            CliEvent::OutputDelta { item_id, text }
        }
        "turn/plan/updated" => CliEvent::ItemUpdated(Item {
            id: String::new(),
            kind: ItemKind::TodoList {
                items: items::plan(params),
            },
        }),
        "error" => error(params),
        "model/rerouted" => CliEvent::Notice {
            code: NoticeCode::ModelRerouted,
            message: format!(
                "codex asks the model {} in place of {}: {}",
                params.text("toModel"),
                params.text("fromModel"),
                params.text("reason")
            ),
        },
        _ => CliEvent::Unknown {
            what: format!("event {method}"),
        },
    })
}

/// How long a tool sleeps that has just started to.
pub(super) fn sleep(method: &str, params: &Fields<'_>) -> Option<Duration> {
    let item = (method == "item/started").then(|| params.object("item"))?;
    let time = item
        .is("type", "sleep")
        .then(|| item.number("durationMs"))??;
    Some(Duration::from_millis(time).min(LONGEST_SLEEP))
}

fn item(method: &str, params: &Fields<'_>, event: fn(Item) -> CliEvent) -> Option<CliEvent> {
    match items::item(&params.object("item")) {
        Translated::Item(item) => Some(event(item)),
        Translated::Notice(code, message) if method == "item/completed" => {
            Some(CliEvent::Notice { code, message })
        }
        Translated::Notice(..) | Translated::Nothing => None,
        Translated::Unknown(what) => Some(CliEvent::Unknown { what }),
    }
}

fn error(params: &Fields<'_>) -> CliEvent {
    let error = params.object("error");
    let message = message(&error);
    if params.raw("willRetry") == "true" {
        return CliEvent::Retrying { message };
    }
    let cause = error_info::cause(&error);
    CliEvent::Error { message, cause }
}

/// An error's words, as exec puts them together.
fn message(error: &Fields<'_>) -> String {
    let details = error.text("additionalDetails");
    match details.as_str() {
        "" => error.text("message"),
        details => format!("{} ({details})", error.text("message")),
    }
}

/// How a turn ended, by `turn/completed`.
pub(super) fn end(turn: &Fields<'_>) -> CliEvent {
    match turn.text("status").as_str() {
        "completed" => CliEvent::TurnCompleted { usage: None },
        "interrupted" => CliEvent::TurnInterrupted,
        // A word that is not known, too: the turn has ended, and not well.
        _ => {
            let error = turn.object("error");
            CliEvent::TurnFailed {
                message: message(&error),
                cause: error_info::cause(&error),
            }
        }
    }
}

/// What the server warns of; it need not be of a turn's.
pub(super) fn warning(method: &str, params: &Fields<'_>) -> Option<CliEvent> {
    let message = match method {
        "warning" | "guardianWarning" => params.text("message"),
        "deprecationNotice" => match params.text("details").as_str() {
            "" => params.text("summary"),
            details => format!("{} ({details})", params.text("summary")),
        },
        _ => return None,
    };
    Some(CliEvent::ItemCompleted(Item {
        id: String::new(),
        kind: ItemKind::Warning { message },
    }))
}
