//! JSON-RPC as the server speaks it: one object a line, without a `jsonrpc`
//! field.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::rc::Rc;

use serde::Serialize;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::{Value, json, value::RawValue};

use crate::codex::protocol::{self, MAX_FIELDS};
use crate::request::json::Room;

/// The fields of an object, each still as text: only what is looked at gets
/// decoded, as lines of several MB are real. What an agent can make of a line
/// has one limit for all of it.
pub(super) struct Fields<'a> {
    fields: HashMap<Cow<'a, str>, &'a RawValue>,
    room: Rc<Room>,
}

impl<'a> Fields<'a> {
    pub(super) fn of(line: &'a [u8]) -> Option<Self> {
        let fields = read(std::str::from_utf8(line).ok()?, RawFields)?;
        let room = Rc::new(Room::new());
        Some(Self { fields, room })
    }

    /// A field's text; of a missing one that of a null.
    pub(super) fn raw(&self, name: &str) -> &'a str {
        self.fields.get(name).map_or("null", |raw| raw.get())
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.raw(name) != "null"
    }

    /// An object's fields; empty for any other value.
    pub(super) fn object(&self, name: &str) -> Fields<'a> {
        self.within(read(self.raw(name), RawFields).unwrap_or_default())
    }

    /// The objects of a list, as far as there is room.
    pub(super) fn array(&self, name: &str) -> Vec<Fields<'a>> {
        let items: Vec<&RawValue> = read(self.raw(name), self.room.list()).unwrap_or_default();
        let fields = |item: &&'a RawValue| Some(self.within(read(item.get(), RawFields)?));
        items.iter().filter_map(fields).collect()
    }

    pub(super) fn text(&self, name: &str) -> String {
        serde_json::from_str(self.raw(name)).unwrap_or_default()
    }

    pub(super) fn texts(&self, name: &str) -> Vec<String> {
        read(self.raw(name), self.room.list()).unwrap_or_default()
    }

    pub(super) fn number(&self, name: &str) -> Option<u64> {
        serde_json::from_str(self.raw(name)).ok()
    }

    pub(super) fn is(&self, name: &str, text: &str) -> bool {
        serde_json::from_str::<Cow<'_, str>>(self.raw(name)).is_ok_and(|found| found == text)
    }

    /// A value that an agent may have chosen, without what there is no room for.
    pub(super) fn value(&self, name: &str) -> Value {
        read(self.raw(name), self.room.seed()).unwrap_or_default()
    }

    fn within(&self, fields: HashMap<Cow<'a, str>, &'a RawValue>) -> Self {
        let room = Rc::clone(&self.room);
        Self { fields, room }
    }
}

fn read<'a, S: DeserializeSeed<'a>>(text: &'a str, seed: S) -> Option<S::Value> {
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let value = seed.deserialize(&mut deserializer).ok()?;
    deserializer.end().ok()?;
    Some(value)
}

/// The first fields of an object: it may have millions.
struct RawFields;

impl<'de> DeserializeSeed<'de> for RawFields {
    type Value = HashMap<Cow<'de, str>, &'de RawValue>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for RawFields {
    type Value = HashMap<Cow<'de, str>, &'de RawValue>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut fields = HashMap::new();
        while fields.len() < MAX_FIELDS {
            match map.next_entry()? {
                Some((name, raw)) => fields.insert(name, raw),
                None => return Ok(fields),
            };
        }
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(fields)
    }
}

/// One line of the server's.
pub(super) enum Incoming<'a> {
    Notification {
        method: String,
        params: Fields<'a>,
    },
    Answer {
        id: u64,
        result: Result<Fields<'a>, String>,
    },
    /// The server wants an answer, under an id of any type.
    Request {
        id: &'a str,
        method: String,
    },
}

impl<'a> Incoming<'a> {
    /// Of a line that has something unreadable before its message.
    pub(super) fn read_rest(line: &'a [u8]) -> Option<Self> {
        const BEGINNINGS: &[&[u8]] = &[br#"{"method":"#, br#"{"id":"#, br#"{"error":"#];
        protocol::rests(line, BEGINNINGS).find_map(Self::read)
    }

    pub(super) fn read(line: &'a [u8]) -> Option<Self> {
        let fields = Fields::of(line.trim_ascii())?;
        let method = fields.text("method");
        match (fields.has("id"), method.is_empty()) {
            (false, false) => Some(Self::Notification {
                params: fields.object("params"),
                method,
            }),
            (true, false) => Some(Self::Request {
                id: fields.raw("id"),
                method,
            }),
            (_, true) if fields.has("error") => Some(Self::Answer {
                // Without one where the server could not read what it answers.
                id: fields.number("id").unwrap_or_default(),
                result: Err(fields.object("error").text("message")),
            }),
            (true, true) => Some(Self::Answer {
                id: fields.number("id")?,
                result: Ok(fields.object("result")),
            }),
            (false, true) => None,
        }
    }
}

/// Which turn has ended, by the first bytes of a line that was too long. Only
/// as the server writes it: what comes later in the line is not the server's.
pub(super) fn ended_turn(head: &[u8]) -> Option<(String, String)> {
    let text = String::from_utf8_lossy(head);
    let text = text.strip_prefix(r#"{"method":"turn/completed","params":{"threadId":""#)?;
    let (thread, text) = text.split_once('"')?;
    let text = text.strip_prefix(r#","turn":{"id":""#)?;
    let (turn, _) = text.split_once('"')?;
    Some((thread.to_owned(), turn.to_owned()))
}

/// What is sent, until it is taken.
#[derive(Debug, Default)]
pub(super) struct Outgoing(Vec<u8>);

impl Outgoing {
    pub(super) fn request(&mut self, id: u64, method: &str, params: &impl Serialize) {
        #[derive(Serialize)]
        struct Request<'a, P> {
            id: u64,
            method: &'a str,
            params: &'a P,
        }
        let request = Request { id, method, params };
        #[expect(
            clippy::expect_used,
            reason = "texts and maps with string keys always encode"
        )]
        serde_json::to_writer(&mut self.0, &request).expect("a request encodes as JSON");
        self.0.push(b'\n');
    }

    pub(super) fn notification(&mut self, method: &str) {
        self.line(&json!({"method": method}));
    }

    /// There is no person to ask: a request for a decision is declined, in the
    /// words of each request, and anything else refused.
    pub(super) fn decline(&mut self, id: &str, method: &str) {
        let result = match method {
            "item/commandExecution/requestApproval" | "item/fileChange/requestApproval" => {
                json!({"decision": "decline"})
            }
            "item/permissions/requestApproval" => json!({"permissions": {}}),
            "mcpServer/elicitation/request" => json!({"action": "decline", "content": null}),
            "item/tool/requestUserInput" => json!({"answers": {}}),
            "item/tool/call" => json!({"contentItems": [], "success": false}),
            _ => {
                let error = json!({"code": -32601, "message": "not supported by this client"});
                return self.text(&format!(r#"{{"id":{id},"error":{error}}}"#));
            }
        };
        self.text(&format!(r#"{{"id":{id},"result":{result}}}"#));
    }

    fn line(&mut self, message: &Value) {
        self.text(&message.to_string());
    }

    fn text(&mut self, line: &str) {
        self.0.extend_from_slice(line.as_bytes());
        self.0.push(b'\n');
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::json::MAX_VALUES;

    /// A line of 16 MiB would take a hundred times that in memory.
    #[test]
    fn g10_of_too_many_values_in_one_line_the_last_are_left_out() {
        let many = |open: &str, one: &str| format!("{open}{}", one.repeat(50_000));
        let line = format!(
            r#"{{"words":{}"z"],"steps":{}{{}}],"value":{}0],"after":[0],"status":"failed"}}"#,
            many("[", r#""x","#),
            many("[", "{},"),
            many("[", "0,"),
        );
        let fields = Fields::of(line.as_bytes()).unwrap();
        let (words, steps) = (fields.texts("words"), fields.array("steps"));
        assert_eq!(words.len(), 50_001);
        assert_eq!(words.len() + steps.len(), MAX_VALUES);
        assert_eq!(fields.value("value"), json!([]));
        assert_eq!(fields.value("after"), json!([]));
        assert_eq!(fields.text("status"), "failed");
        // The next line has its own.
        assert_eq!(
            Fields::of(line.as_bytes()).unwrap().value("after"),
            json!([0])
        );
    }

    #[test]
    fn g10_of_too_many_fields_the_first_are_kept() {
        let many: String = (0..1000).map(|n| format!(r#","f{n}":0"#)).collect();
        let line = format!(r#"{{"method":"m","params":{{"x":1{many}}}{many}}}"#);
        let fields = Fields::of(line.as_bytes()).unwrap();
        assert_eq!(fields.fields.len(), MAX_FIELDS);
        let params = fields.object("params");
        assert_eq!(
            (params.fields.len(), params.number("x")),
            (MAX_FIELDS, Some(1))
        );
    }
}
