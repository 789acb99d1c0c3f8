//! The items of the CLI that are tool calls, and which of their fields a
//! reader sees as the call's input and which as its result.

use serde_json::{Map, Value};

/// A kind of tool call. Its name on the wire is the CLI's item type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ToolKind {
    CommandExecution,
    FileChange,
    McpToolCall,
    WebSearch,
    CollabToolCall,
    /// A turn of a sub-agent's, which no item of the CLI stands for.
    SubAgent,
}

impl ToolKind {
    pub const ALL: &'static [Self] = &[
        Self::CommandExecution,
        Self::FileChange,
        Self::McpToolCall,
        Self::WebSearch,
        Self::CollabToolCall,
        Self::SubAgent,
    ];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::CommandExecution => "command_execution",
            Self::FileChange => "file_change",
            Self::McpToolCall => "mcp_tool_call",
            Self::WebSearch => "web_search",
            Self::CollabToolCall => "collab_tool_call",
            Self::SubAgent => "sub_agent",
        }
    }

    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|kind| kind.as_str() == name)
    }

    /// What is known when the call starts.
    const fn input_fields(self) -> &'static [&'static str] {
        match self {
            Self::CommandExecution => &["command"],
            Self::FileChange => &["changes"],
            Self::McpToolCall => &["server", "tool", "arguments"],
            Self::WebSearch => &["query", "action"],
            Self::CollabToolCall => &["tool", "sender_thread_id", "receiver_thread_ids", "prompt"],
            Self::SubAgent => &["thread_id", "path", "model"],
        }
    }

    /// What the call's end adds. A field that the start may leave empty (a
    /// search's query, the agents a call reaches) stands in both.
    const fn result_fields(self) -> &'static [&'static str] {
        match self {
            Self::CommandExecution => &["exit_code", "aggregated_output", "status"],
            Self::FileChange => &["changes", "status"],
            Self::McpToolCall => &["result", "error", "status"],
            Self::WebSearch => &["query", "action", "status"],
            Self::CollabToolCall => &["receiver_thread_ids", "agents_states", "status"],
            Self::SubAgent => &["status", "error"],
        }
    }
}

/// A tool call as the CLI reports it, at its start or its end.
#[derive(Debug, Clone, PartialEq)]
pub struct ToolCall {
    pub kind: ToolKind,
    /// The item's fields, under the CLI's names.
    pub fields: Map<String, Value>,
}

impl ToolCall {
    pub fn input(&self) -> Value {
        self.pick(self.kind.input_fields())
    }

    pub fn content(&self) -> Value {
        self.pick(self.kind.result_fields())
    }

    /// A call has failed when any of its fields says so: not every kind has a
    /// status, and a command's status was seen beside each exit code.
    pub fn is_error(&self) -> bool {
        let status = self.fields.get("status").and_then(Value::as_str);
        let exit_code = self.fields.get("exit_code").and_then(Value::as_i64);
        matches!(status, Some("failed" | "declined" | "interrupted"))
            || exit_code.is_some_and(|code| code != 0)
            || self.fields.get("error").is_some_and(|e| !e.is_null())
    }

    /// Fields that the CLI left out stay out.
    fn pick(&self, names: &[&str]) -> Value {
        names
            .iter()
            .filter_map(|name| Some(((*name).to_owned(), self.fields.get(*name)?.clone())))
            .collect::<Map<_, _>>()
            .into()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn call(kind: ToolKind, fields: Value) -> ToolCall {
        let Value::Object(fields) = fields else {
            panic!("not an object")
        };
        ToolCall { kind, fields }
    }

    #[test]
    fn any_field_can_say_that_a_call_failed() {
        use ToolKind::*;
        for (kind, fields, is_error) in [
            (
                CommandExecution,
                json!({"exit_code": 0, "status": "completed"}),
                false,
            ),
            (
                CommandExecution,
                json!({"exit_code": null, "status": "completed"}),
                false,
            ),
            (
                CommandExecution,
                json!({"exit_code": 3, "status": "completed"}),
                true,
            ),
            (CommandExecution, json!({"exit_code": -1}), true),
            (
                CommandExecution,
                json!({"exit_code": null, "status": "failed"}),
                true,
            ),
            (FileChange, json!({"status": "declined"}), true),
            (
                McpToolCall,
                json!({"error": null, "result": {"content": []}}),
                false,
            ),
            (McpToolCall, json!({"error": {"message": "no"}}), true),
            (WebSearch, json!({}), false),
        ] {
            let call = call(kind, fields);
            assert_eq!(call.is_error(), is_error, "{call:?}");
        }
    }

    #[test]
    fn input_and_content_are_the_fields_of_the_kind() {
        let mcp = call(
            ToolKind::McpToolCall,
            json!({"id": "item_0", "type": "mcp_tool_call", "server": "mm", "tool": "echo",
                   "arguments": {"text": "hi"}, "result": {"content": []}, "error": null,
                   "status": "completed"}),
        );
        assert_eq!(
            mcp.input(),
            json!({"server": "mm", "tool": "echo", "arguments": {"text": "hi"}})
        );
        assert_eq!(
            mcp.content(),
            json!({"result": {"content": []}, "error": null, "status": "completed"})
        );
        for kind in ToolKind::ALL {
            assert_eq!(ToolKind::named(kind.as_str()), Some(*kind));
        }
    }
}
