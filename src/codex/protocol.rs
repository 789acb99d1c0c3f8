//! One stdout line of `codex exec --json` → a [`CliEvent`]. What
//! [`super::app_server`] hears becomes the same events.
//!
//! No content of a line can fail a turn: an unknown kind is a value that
//! gets counted, a missing or oddly typed field reads as empty, and what isn't
//! an event at all says so.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{IgnoredAny, MapAccess, Visitor},
};
use serde_json::{Map, Value, value::RawValue};
use thiserror::Error;

use super::failure::Cause;
use super::tool::{ToolCall, ToolKind};
use crate::event::{NoticeCode, PlanItem, Tokens};
use crate::request::json::Room;

/// What codex reports while it runs a turn.
#[derive(Debug, Clone, PartialEq)]
pub enum CliEvent {
    ThreadStarted {
        thread_id: String,
    },
    TurnStarted,
    ItemStarted(Item),
    ItemUpdated(Item),
    ItemCompleted(Item),
    /// The total is the thread's, across all of its turns.
    TurnCompleted {
        usage: Option<Tokens>,
    },
    TurnFailed {
        message: String,
        /// What codex says of it as a code, if it does.
        cause: Option<Cause>,
    },
    /// The turn was stopped, on request.
    TurnInterrupted,
    /// Mostly not terminal; the line itself does not show it.
    Error {
        message: String,
        cause: Option<Cause>,
    },
    /// An error that codex retries by itself.
    Retrying {
        message: String,
    },
    /// A piece of a message, before its item is completed.
    TextDelta {
        item_id: String,
        text: String,
    },
    /// A piece of the reasoning, before its item is completed.
    ThinkingDelta {
        item_id: String,
        text: String,
    },
    /// A piece of what a running command prints.
    OutputDelta {
        item_id: String,
        text: String,
    },
    /// What the turn has spent so far on its own thread.
    UsageUpdated {
        spent: Tokens,
    },
    /// Something that readers may want to know.
    Notice {
        code: NoticeCode,
        message: String,
    },
    /// A kind of event or item that this version doesn't know.
    Unknown {
        what: String,
    },
}

#[derive(Debug, Clone, PartialEq)]
pub struct Item {
    /// Unique within one process; empty if the CLI left it out.
    pub id: String,
    pub kind: ItemKind,
}

#[derive(Debug, Clone, PartialEq)]
pub enum ItemKind {
    AgentMessage { text: String },
    Reasoning { text: String },
    Tool(ToolCall),
    TodoList { items: Vec<PlanItem> },
    Warning { message: String },
}

/// The most fields of an item, a usage or an error that are looked at. The
/// longest of them have ten.
pub(super) const MAX_FIELDS: usize = 256;

/// Why a line is no event.
#[derive(Debug, Error)]
pub enum NotAnEvent {
    #[error("the line is empty")]
    Empty,
    #[error("the line is not a JSON object in UTF-8")]
    NotAnObject(#[source] serde_json::Error),
    #[error("the object has no `type` that is a string")]
    NoType,
}

/// Reads one line, with or without its newline.
pub fn parse_line(line: &[u8]) -> Result<CliEvent, NotAnEvent> {
    let line = line.trim_ascii();
    if line.is_empty() {
        return Err(NotAnEvent::Empty);
    }
    // Only what is looked at gets decoded: lines of several MB are real.
    let fields: Fields<'_> = serde_json::from_slice(line).map_err(NotAnEvent::NotAnObject)?;
    let get = |name: &str| fields.get(name);
    let kind: String = serde_json::from_str(get("type")).map_err(|_| NotAnEvent::NoType)?;

    let item = || item(get("item"));
    Ok(match kind.as_str() {
        "thread.started" => CliEvent::ThreadStarted {
            thread_id: text(get("thread_id")),
        },
        "turn.started" => CliEvent::TurnStarted,
        "item.started" => item().map_or_else(unknown, CliEvent::ItemStarted),
        "item.updated" => item().map_or_else(unknown, CliEvent::ItemUpdated),
        "item.completed" => item().map_or_else(unknown, CliEvent::ItemCompleted),
        "turn.completed" => CliEvent::TurnCompleted {
            usage: usage(&object(get("usage"))),
        },
        "turn.failed" => CliEvent::TurnFailed {
            message: field(&object(get("error")), "message"),
            cause: None,
        },
        "error" => CliEvent::Error {
            message: text(get("message")),
            cause: None,
        },
        _ => unknown(format!("event {kind}")),
    })
}

/// Reads a line that has something unreadable before its event.
pub fn parse_rest(line: &[u8]) -> Option<CliEvent> {
    rests(line, &[br#"{"type":""#]).find_map(|rest| parse_line(rest).ok())
}

/// The ends of a line that start as a message may, so many of them at most:
/// each is read as a whole. Within a message's texts no line starts so, as their
/// quotes are escaped.
pub(super) fn rests<'a>(
    line: &'a [u8],
    beginnings: &'a [&'a [u8]],
) -> impl Iterator<Item = &'a [u8]> {
    const MOST: usize = 4;
    memchr::memmem::find_iter(line, b"{\"")
        .map(|at| &line[at..])
        .filter(|rest| beginnings.iter().any(|begin| rest.starts_with(begin)))
        .take(MOST)
}

/// What is looked at of a line's own fields, as it stands there.
struct Fields<'a>([(&'static str, &'a str); 6]);

impl<'a> Fields<'a> {
    fn get(&self, name: &str) -> &'a str {
        let field = self.0.iter().find(|(of, _)| *of == name);
        field.map_or("null", |(_, raw)| raw)
    }
}

impl<'de> Deserialize<'de> for Fields<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Known;

        impl<'de> Visitor<'de> for Known {
            type Value = Fields<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let names = ["type", "thread_id", "item", "usage", "error", "message"];
                let mut fields = names.map(|name| (name, "null"));
                // All others are skipped: there may be millions.
                while let Some(name) = map.next_key::<String>()? {
                    match fields.iter_mut().find(|(known, _)| *known == name) {
                        Some((_, raw)) => *raw = map.next_value::<&RawValue>()?.get(),
                        None => drop(map.next_value::<IgnoredAny>()?),
                    }
                }
                Ok(Fields(fields))
            }
        }

        deserializer.deserialize_map(Known)
    }
}

fn unknown(what: String) -> CliEvent {
    CliEvent::Unknown { what }
}

/// An item, or the name of what isn't known as one.
fn item(raw: &str) -> Result<Item, String> {
    let fields = object(raw);
    let id = match fields.get("id") {
        Some(Value::Number(id)) => id.to_string(),
        _ => field(&fields, "id"),
    };
    let kind = match field(&fields, "type").as_str() {
        "agent_message" => ItemKind::AgentMessage {
            text: field(&fields, "text"),
        },
        "reasoning" => ItemKind::Reasoning {
            text: field(&fields, "text"),
        },
        "todo_list" => ItemKind::TodoList {
            items: todo(&fields),
        },
        "error" => ItemKind::Warning {
            message: field(&fields, "message"),
        },
        name => match ToolKind::named(name) {
            Some(kind) => ItemKind::Tool(ToolCall { kind, fields }),
            None => return Err(format!("item {name}")),
        },
    };
    Ok(Item { id, kind })
}

fn todo(fields: &Map<String, Value>) -> Vec<PlanItem> {
    let items = fields.get("items").and_then(Value::as_array);
    items
        .into_iter()
        .flatten()
        .filter_map(Value::as_object)
        .map(|item| PlanItem {
            text: field(item, "text"),
            completed: item.get("completed").and_then(Value::as_bool) == Some(true),
        })
        .collect()
}

/// The CLI's token counts, on stdout as in its rollouts. Without whole numbers
/// for input and output no value was reported; the other three are newer than
/// these and read as zero where they are missing.
pub(super) fn usage(fields: &Map<String, Value>) -> Option<Tokens> {
    let count = |name: &str| fields.get(name).and_then(Value::as_u64);
    Some(Tokens {
        input_tokens: count("input_tokens")?,
        cache_read_tokens: count("cached_input_tokens").unwrap_or(0),
        cache_write_tokens: count("cache_write_input_tokens").unwrap_or(0),
        output_tokens: count("output_tokens")?,
        thinking_tokens: count("reasoning_output_tokens").unwrap_or(0),
    })
}

fn text(raw: &str) -> String {
    serde_json::from_str(raw).unwrap_or_default()
}

fn field(fields: &Map<String, Value>, name: &str) -> String {
    let value = fields.get(name).and_then(Value::as_str);
    value.unwrap_or_default().to_owned()
}

fn object(raw: &str) -> Map<String, Value> {
    serde_json::from_str(raw).map_or_else(|_| Map::new(), |FirstWins(fields)| fields)
}

/// An object that keeps the first of fields with the same name: `web_search`
/// items carry their own `id` and then the model's. What its fields hold has a
/// limit altogether, but each of them is there, also the status after a result.
struct FirstWins(Map<String, Value>);

impl<'de> Deserialize<'de> for FirstWins {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields;

        impl<'de> Visitor<'de> for Fields {
            type Value = FirstWins;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<FirstWins, A::Error> {
                let mut fields = Map::new();
                // An agent chooses what stands in a tool's arguments.
                let room = Room::new();
                while let Some(name) = map.next_key::<String>()? {
                    if fields.len() < MAX_FIELDS && !fields.contains_key(&name) {
                        fields.insert(name, map.next_value_seed(room.seed())?);
                    } else {
                        map.next_value::<IgnoredAny>()?;
                    }
                }
                Ok(FirstWins(fields))
            }
        }

        deserializer.deserialize_map(Fields)
    }
}

#[cfg(test)]
mod tests;
