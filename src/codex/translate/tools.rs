//! Tool calls: readers pair results with calls by id, so each call gets one
//! id, one `tool_use` and one `tool_result`.

use serde_json::json;

use super::super::tool::{ToolCall, ToolKind};
use super::ids::{Ids, id};
use crate::event::EventBody;

/// So many tool calls wait for their results at once; one more, and the one
/// that has waited longest is closed as unfinished.
pub(super) const MAX_OPEN: usize = 1_000;

/// The most of a call's output that is published before its result, in bytes: the
/// result has all that codex keeps.
pub(super) const MAX_OUTPUT: usize = 64 << 10;

/// The most of it in one event.
pub(super) const MAX_PIECE: usize = 4 << 10;

#[derive(Debug, Default)]
pub(super) struct Tools {
    /// Calls without a result, in the order of their start.
    open: Vec<OpenTool>,
    ids: Ids,
}

#[derive(Debug)]
pub(super) struct OpenTool {
    /// The CLI's id for the item.
    item_id: String,
    /// The id that its `tool_use` was published under.
    pub(super) id: String,
    kind: ToolKind,
    /// How much of its output was published.
    told: usize,
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

impl Tools {
    pub(super) fn started(&mut self, item_id: String, call: &ToolCall, out: &mut Vec<EventBody>) {
        let item_id = id(item_id);
        if self.position(&item_id).is_some() {
            return;
        }
        let id = self.ids.unused(&item_id);
        out.push(EventBody::ToolUse {
            id: id.clone(),
            name: call.kind.as_str().to_owned(),
            input: call.input(),
        });
        self.open.push(OpenTool {
            item_id,
            id,
            kind: call.kind,
            told: 0,
        });
        if self.open.len() > MAX_OPEN {
            out.push(self.open.remove(0).unfinished());
        }
    }

    pub(super) fn completed(&mut self, item_id: String, call: &ToolCall, out: &mut Vec<EventBody>) {
        let item_id = id(item_id);
        let at = match self.position(&item_id) {
            Some(at) => at,
            None => {
                self.started(item_id, call, out);
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

    /// What a call prints, of one that runs and up to a limit.
    pub(super) fn output(&mut self, item_id: String, text: &str, out: &mut Vec<EventBody>) {
        let Some(at) = self.position(&id(item_id)) else {
            return;
        };
        let tool = &mut self.open[at];
        let mut rest = &text[..text.floor_char_boundary(MAX_OUTPUT - tool.told)];
        if rest.len() < text.len() {
            // A shorter character later on would hide what is missing between.
            tool.told = MAX_OUTPUT;
        } else {
            tool.told += rest.len();
        }
        while !rest.is_empty() {
            let (piece, more) = rest.split_at(rest.floor_char_boundary(MAX_PIECE));
            out.push(EventBody::ToolOutput {
                tool_use_id: tool.id.clone(),
                text: piece.to_owned(),
            });
            rest = more;
        }
    }

    /// Gives every call without a result one.
    pub(super) fn close(self) -> Vec<EventBody> {
        self.open.into_iter().map(OpenTool::unfinished).collect()
    }

    /// Without an id, no later line can speak of the same call.
    fn position(&self, item_id: &str) -> Option<usize> {
        let is_it = |tool: &OpenTool| !item_id.is_empty() && tool.item_id == item_id;
        self.open.iter().position(is_it)
    }

    #[cfg(test)]
    pub(crate) fn open(&self) -> &[OpenTool] {
        &self.open
    }

    #[cfg(test)]
    pub(crate) fn ids(&self) -> &Ids {
        &self.ids
    }
}
