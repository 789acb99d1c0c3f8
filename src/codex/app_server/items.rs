//! The server's items under the names that `codex exec` gives them, so that
//! readers see the same calls and results from both.

use serde_json::{Map, Value, json};

use super::super::protocol::{Item, ItemKind};
use super::super::tool::{ToolCall, ToolKind};
use super::wire::Fields;
use crate::event::{NoticeCode, PlanItem, Tokens};

/// Items that `codex exec` does not report either.
const SILENT: &[&str] = &[
    "userMessage",
    "hookPrompt",
    "functionCallOutput",
    "plan",
    "dynamicToolCall",
    "subAgentActivity",
    "imageView",
    "sleep",
    "enteredReviewMode",
    "exitedReviewMode",
];

const COMPACTED: &str = "the conversation was too long, so codex has put a summary in its place";

pub(super) enum Translated {
    Item(Item),
    /// When the item is completed.
    Notice(NoticeCode, String),
    Nothing,
    Unknown(String),
}

pub(super) fn item(fields: &Fields<'_>) -> Translated {
    let name = fields.text("type");
    let kind = match name.as_str() {
        "contextCompaction" => {
            return Translated::Notice(NoticeCode::Compacted, COMPACTED.to_owned());
        }
        "imageGeneration" => match failure(fields) {
            Some(message) => return Translated::Notice(NoticeCode::Warning, message),
            None => return Translated::Nothing,
        },
        "agentMessage" => ItemKind::AgentMessage {
            text: fields.text("text"),
        },
        "reasoning" => {
            // As the deltas of its parts are joined, see `Thinking`.
            let text = fields.texts("summary").join("\n");
            if text.is_empty() {
                return Translated::Nothing;
            }
            ItemKind::Reasoning { text }
        }
        "commandExecution" => tool(ToolKind::CommandExecution, command(fields)),
        "fileChange" => tool(ToolKind::FileChange, file_change(fields)),
        "mcpToolCall" => tool(ToolKind::McpToolCall, mcp_call(fields)),
        "webSearch" => tool(ToolKind::WebSearch, search(fields)),
        "collabAgentToolCall" => tool(ToolKind::CollabToolCall, collab_call(fields)),
        silent if SILENT.contains(&silent) => return Translated::Nothing,
        _ => return Translated::Unknown(format!("item {name}")),
    };
    Translated::Item(Item {
        id: fields.text("id"),
        kind,
    })
}

/// Why an image was not generated. Returns `None` if it was.
fn failure(fields: &Fields<'_>) -> Option<String> {
    let failure = fields.object("failure").text("type");
    match failure.as_str() {
        "" if fields.is("status", "failed") => Some("an image could not be generated".to_owned()),
        "" => None,
        why => Some(format!("an image could not be generated: {why}")),
    }
}

fn tool(kind: ToolKind, fields: Value) -> ItemKind {
    let fields = match fields {
        Value::Object(fields) => fields,
        _ => Map::new(),
    };
    ItemKind::Tool(ToolCall { kind, fields })
}

fn command(fields: &Fields<'_>) -> Value {
    json!({
        "command": fields.text("command"),
        "aggregated_output": fields.text("aggregatedOutput"),
        "exit_code": fields.value("exitCode"),
        "status": snake(fields, "status"),
    })
}

fn file_change(fields: &Fields<'_>) -> Value {
    // The changed lines themselves are left out: exec does not report them.
    let change = |change: Fields<'_>| json!({"path": change.value("path"), "kind": change.object("kind").value("type")});
    let changes: Vec<Value> = fields.array("changes").into_iter().map(change).collect();
    json!({"changes": changes, "status": snake(fields, "status")})
}

fn mcp_call(fields: &Fields<'_>) -> Value {
    let mut result = fields.value("result");
    if let Value::Object(result) = &mut result {
        let structured = result.remove("structuredContent");
        result.insert(
            "structured_content".to_owned(),
            structured.unwrap_or_default(),
        );
        if result.get("_meta").is_some_and(Value::is_null) {
            result.remove("_meta");
        }
    }
    json!({
        "server": fields.text("server"),
        "tool": fields.text("tool"),
        "arguments": fields.value("arguments"),
        "result": result,
        "error": fields.value("error"),
        "status": snake(fields, "status"),
    })
}

fn search(fields: &Fields<'_>) -> Value {
    let mut action = fields.value("action");
    if let Value::Object(action) = &mut action {
        action.retain(|_, value| !value.is_null());
        if let Some(Value::String(kind)) = action.get_mut("type") {
            *kind = to_snake(kind);
        }
    }
    json!({"query": fields.text("query"), "action": action})
}

fn collab_call(fields: &Fields<'_>) -> Value {
    let mut states = fields.value("agentsStates");
    if let Value::Object(states) = &mut states {
        for state in states.values_mut() {
            if let Some(Value::String(status)) = state.get_mut("status") {
                *status = to_snake(status);
            }
        }
    }
    json!({
        "tool": snake(fields, "tool"),
        "sender_thread_id": fields.text("senderThreadId"),
        "receiver_thread_ids": fields.texts("receiverThreadIds"),
        "prompt": fields.value("prompt"),
        "agents_states": states,
        "status": snake(fields, "status"),
    })
}

fn snake(fields: &Fields<'_>, name: &str) -> String {
    to_snake(&fields.text(name))
}

fn to_snake(camel: &str) -> String {
    let mut out = String::with_capacity(camel.len() + 4);
    for c in camel.chars() {
        if c.is_ascii_uppercase() {
            out.push('_');
        }
        out.push(c.to_ascii_lowercase());
    }
    out
}

/// The steps of a plan that was updated.
pub(super) fn plan(params: &Fields<'_>) -> Vec<PlanItem> {
    let step = |step: Fields<'_>| PlanItem {
        text: step.text("step"),
        completed: step.is("status", "completed"),
    };
    params.array("plan").into_iter().map(step).collect()
}

/// A thread's total, and what its last answer has cost.
pub(super) fn usage(params: &Fields<'_>) -> Option<(Tokens, Option<Tokens>)> {
    let usage = params.object("tokenUsage");
    Some((
        tokens(&usage.object("total"))?,
        tokens(&usage.object("last")),
    ))
}

fn tokens(counts: &Fields<'_>) -> Option<Tokens> {
    let count = |name: &str| counts.number(name);
    Some(Tokens {
        input_tokens: count("inputTokens")?,
        cache_read_tokens: count("cachedInputTokens").unwrap_or(0),
        cache_write_tokens: count("cacheWriteInputTokens").unwrap_or(0),
        output_tokens: count("outputTokens")?,
        thinking_tokens: count("reasoningOutputTokens").unwrap_or(0),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn translated(item: Value) -> Translated {
        let text = item.to_string();
        super::item(&Fields::of(text.as_bytes()).unwrap())
    }

    fn call(item: Value) -> ToolCall {
        match translated(item) {
            Translated::Item(Item {
                kind: ItemKind::Tool(call),
                ..
            }) => call,
            _ => panic!("no tool call"),
        }
    }

    #[test]
    fn calls_have_the_fields_that_exec_gives_them() {
        let mcp = call(
            json!({"type": "mcpToolCall", "id": "c", "server": "mm", "tool": "echo",
            "status": "inProgress", "arguments": {"$serde_json::private::RawValue": "[1]"},
            "result": {"content": [], "structuredContent": {"a": null}, "_meta": null}, "error": null}),
        );
        assert_eq!(
            mcp.input()["arguments"],
            json!({"$serde_json::private::RawValue": "[1]"})
        );
        assert_eq!(
            mcp.content(),
            json!({"result": {"content": [], "structured_content": {"a": null}}, "error": null,
                "status": "in_progress"})
        );
        let collab = call(
            json!({"type": "collabAgentToolCall", "id": "c", "tool": "spawnAgent",
            "status": "completed", "senderThreadId": "s", "receiverThreadIds": ["r"], "prompt": null,
            "agentsStates": {"r": {"status": "pendingInit", "message": null}}}),
        );
        assert_eq!(
            collab.input(),
            json!({"tool": "spawn_agent", "sender_thread_id": "s", "receiver_thread_ids": ["r"], "prompt": null})
        );
        assert_eq!(
            collab.content()["agents_states"],
            json!({"r": {"status": "pending_init", "message": null}})
        );
        let search = call(json!({"type": "webSearch", "id": "w", "query": "q",
            "action": {"type": "openPage", "url": "u", "queries": null}}));
        assert_eq!(
            search.input(),
            json!({"query": "q", "action": {"type": "open_page", "url": "u"}})
        );
        let change = call(
            json!({"type": "fileChange", "id": "c", "status": "declined",
            "changes": [{"path": "/w/a", "kind": {"type": "update", "move_path": null}, "diff": "x"}]}),
        );
        assert_eq!(
            change.content(),
            json!({"changes": [{"path": "/w/a", "kind": "update"}], "status": "declined"})
        );
    }

    #[test]
    fn what_exec_does_not_report_is_not_published() {
        for kind in SILENT {
            assert!(
                matches!(
                    translated(json!({"type": kind, "id": "x"})),
                    Translated::Nothing
                ),
                "{kind}"
            );
        }
        assert!(matches!(
            translated(json!({"type": "reasoning", "id": "x", "summary": []})),
            Translated::Nothing
        ));
        assert!(
            matches!(translated(json!({"type": "teleport"})), Translated::Unknown(what) if what == "item teleport")
        );
        assert!(
            matches!(translated(json!({"id": 7})), Translated::Unknown(what) if what == "item ")
        );
    }
}
