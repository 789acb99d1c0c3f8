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
mod tests {
    use super::*;
    use crate::request::json::MAX_VALUES;

    fn parse(line: &str) -> CliEvent {
        parse_line(line.as_bytes()).unwrap()
    }

    #[test]
    fn first_of_two_ids_is_the_items() {
        let event = parse(
            r#"{"type":"item.started","item":{"id":"item_0","type":"web_search","id":"ws_16","query":"q"}}"#,
        );
        let CliEvent::ItemStarted(item) = event else {
            panic!("{event:?}")
        };
        assert_eq!(item.id, "item_0");
    }

    #[test]
    fn what_is_not_known_is_a_value() {
        for (line, what) in [
            (r#"{"type":"turn.paused"}"#, "event turn.paused"),
            (
                r#"{"type":"item.started","item":{"type":"teleport"}}"#,
                "item teleport",
            ),
            (r#"{"type":"item.completed","item":7}"#, "item "),
            (r#"{"type":"item.completed"}"#, "item "),
        ] {
            assert_eq!(parse(line), unknown(what.into()), "{line}");
        }
    }

    #[test]
    fn odd_fields_read_as_empty() {
        let error = |message: &str| CliEvent::Error {
            message: message.into(),
            cause: None,
        };
        assert_eq!(
            parse(r#" {"message":"a","type":"error","new":[1]} "#),
            error("a")
        );
        assert_eq!(parse(r#"{"type":"error"}"#), error(""));
        assert_eq!(parse(r#"{"type":"error","message":{"a":1}}"#), error(""));
        for line in [
            r#"{"type":"turn.failed"}"#,
            r#"{"type":"turn.failed","error":"x"}"#,
            r#"{"type":"turn.failed","error":{"message":null}}"#,
        ] {
            assert_eq!(
                parse(line),
                CliEvent::TurnFailed {
                    message: String::new(),
                    cause: None,
                }
            );
        }
        let event = parse(
            r#"{"type":"item.updated","item":{"id":3,"type":"todo_list","items":[1,{},{"text":"a","completed":true}]}}"#,
        );
        let CliEvent::ItemUpdated(item) = event else {
            panic!("{event:?}")
        };
        assert_eq!(item.id, "3");
        let ItemKind::TodoList { items } = item.kind else {
            panic!("{item:?}")
        };
        assert_eq!(items.len(), 2);
        assert!(items[1].completed && items[1].text == "a");
    }

    fn values(of: &Value) -> usize {
        1 + match of {
            Value::Array(items) => items.iter().map(values).sum(),
            Value::Object(fields) => fields.values().map(values).sum::<usize>(),
            _ => 0,
        }
    }

    /// A line of 16 MiB would take a hundred times that in memory.
    #[test]
    fn g10_of_too_many_values_the_last_are_left_out_and_the_items_own_stay() {
        for (open, one, close) in [
            ("[0", ",0", "]"),
            ("[0", r#",{"a":[{}]}"#, "]"),
            (r#"{"a":0"#, r#","a":1,"b":{"c":0}"#, "}"),
        ] {
            let many = format!("{open}{}{close}", one.repeat(100_000));
            let event = parse(&format!(
                r#"{{"type":"item.completed","item":{{"id":"i","type":"mcp_tool_call","arguments":{many},"result":{many},"server":"s","status":"failed"}}}}"#
            ));
            let CliEvent::ItemCompleted(item) = event else {
                panic!("no item")
            };
            let ItemKind::Tool(call) = item.kind else {
                panic!("another kind")
            };
            assert!(call.is_error(), "{one}");
            assert_eq!(call.fields["server"], "s");
            assert_eq!(call.fields["arguments"].is_array(), open == "[0");
            let held: usize = call.fields.values().map(values).sum();
            assert!(held <= MAX_VALUES + MAX_FIELDS, "{one}: {held}");
        }
    }

    #[test]
    fn g10_of_too_many_fields_the_first_are_kept() {
        let many: String = (0..1000).map(|n| format!(r#""f{n}":0,"#)).collect();
        let event = parse(&format!(
            r#"{{{many}"type":"item.started","item":{{"id":"i","type":"web_search",{many}"x":0}},{many}"y":0}}"#
        ));
        let CliEvent::ItemStarted(item) = event else {
            panic!("{event:?}")
        };
        let ItemKind::Tool(call) = item.kind else {
            panic!("{item:?}")
        };
        assert_eq!(call.fields.len(), MAX_FIELDS);
    }

    #[test]
    fn g7_usage_that_is_not_reported_is_absent() {
        let told = |usage: &str| match parse(&format!(r#"{{"type":"turn.completed"{usage}}}"#)) {
            CliEvent::TurnCompleted { usage } => usage,
            other => panic!("{other:?}"),
        };
        assert_eq!(told(""), None);
        assert_eq!(told(r#","usage":null"#), None);
        assert_eq!(told(r#","usage":{"input_tokens":5}"#), None);
        assert_eq!(
            told(r#","usage":{"input_tokens":-5,"output_tokens":1}"#),
            None
        );
        assert_eq!(
            told(
                r#","usage":{"input_tokens":9,"cached_input_tokens":4,"cache_write_input_tokens":3,"output_tokens":2,"reasoning_output_tokens":1}"#
            ),
            Some(Tokens {
                input_tokens: 9,
                cache_read_tokens: 4,
                cache_write_tokens: 3,
                output_tokens: 2,
                thinking_tokens: 1,
            })
        );
    }

    #[test]
    fn an_event_behind_unreadable_bytes_is_read() {
        let event = parse_rest(b"\xff\xfe {\"x {\"type\":\"turn.started\"}");
        assert_eq!(event, Some(CliEvent::TurnStarted));
        // Not out of the middle of what is readable.
        let quoted = br#"\xff {"text":"{\"type\":\"turn.started\"}"#;
        assert_eq!(parse_rest(quoted), None);
        assert_eq!(parse_rest(b"\xff\xfe not json"), None);
    }

    #[test]
    fn what_is_no_event_says_why() {
        use NotAnEvent::*;
        assert!(matches!(parse_line(b" \r\n"), Err(Empty)));
        for line in [
            &b"Reading additional input"[..],
            b"[1]",
            b"{\"type\":\"error\"",
            b"{\"type\":\"err\xff\"}",
        ] {
            assert!(matches!(parse_line(line), Err(NotAnObject(_))), "{line:?}");
        }
        for line in [&b"{}"[..], b"{\"type\":7}"] {
            assert!(matches!(parse_line(line), Err(NoType)), "{line:?}");
        }
    }

    /// Texts within texts, each as deep as one may be. So escaped they hardly
    /// grow: one line can hold hundreds.
    fn hidden_texts(texts: usize) -> String {
        let mut text = "1".to_owned();
        for _ in 0..texts {
            let deep = "[".repeat(100) + &text + &"]".repeat(100);
            let quoted = deep.replace('\\', r"\u005c").replace('"', r"\u0022");
            text = format!(r#"{{"$serde_json::private::RawValue":"{quoted}"}}"#);
        }
        text
    }

    #[test]
    fn g10_a_text_in_an_agents_arguments_stays_a_text() {
        let hidden = r#"{"$serde_json::private::RawValue":"[1]"}"#;
        let line = |arguments: &str| {
            format!(
                r#"{{"type":"item.started","item":{{"id":"i","type":"mcp_tool_call","arguments":{arguments}}}}}"#
            )
        };
        let CliEvent::ItemStarted(item) = parse(&line(hidden)) else {
            panic!("no item")
        };
        let ItemKind::Tool(call) = item.kind else {
            panic!("{item:?}")
        };
        assert_eq!(
            call.fields["arguments"],
            serde_json::json!({"$serde_json::private::RawValue": "[1]"})
        );
        // More than any thread's stack would hold.
        let deep = line(&hidden_texts(200));
        assert!(deep.len() < 16 << 20, "{}", deep.len());
        assert!(matches!(parse(&deep), CliEvent::ItemStarted(_)));
    }
}
