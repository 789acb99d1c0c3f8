//! JSON-RPC as the server speaks it: one object a line, without a `jsonrpc`
//! field.

use std::borrow::Cow;
use std::collections::HashMap;

use serde_json::{Value, json, value::RawValue};

use crate::request::json;

/// The fields of an object, each still as text: only what is looked at gets
/// decoded, as lines of several MB are real.
pub(super) struct Fields<'a>(HashMap<Cow<'a, str>, &'a RawValue>);

impl<'a> Fields<'a> {
    pub fn of(raw: &'a [u8]) -> Option<Self> {
        serde_json::from_slice(raw).ok().map(Self)
    }

    /// A field's text; of a missing one that of a null.
    pub fn raw(&self, name: &str) -> &'a str {
        self.0.get(name).map_or("null", |raw| raw.get())
    }

    pub fn has(&self, name: &str) -> bool {
        self.raw(name) != "null"
    }

    /// An object's fields; of anything else none.
    pub fn object(&self, name: &str) -> Fields<'a> {
        Fields::of(self.raw(name).as_bytes()).unwrap_or_else(|| Fields(HashMap::new()))
    }

    pub fn array(&self, name: &str) -> Vec<Fields<'a>> {
        let items: Vec<&RawValue> = serde_json::from_str(self.raw(name)).unwrap_or_default();
        let fields = |item: &&'a RawValue| Fields::of(item.get().as_bytes());
        items.iter().filter_map(fields).collect()
    }

    pub fn text(&self, name: &str) -> String {
        serde_json::from_str(self.raw(name)).unwrap_or_default()
    }

    pub fn texts(&self, name: &str) -> Vec<String> {
        serde_json::from_str(self.raw(name)).unwrap_or_default()
    }

    pub fn number(&self, name: &str) -> Option<u64> {
        serde_json::from_str(self.raw(name)).ok()
    }

    pub fn is(&self, name: &str, text: &str) -> bool {
        serde_json::from_str::<Cow<'_, str>>(self.raw(name)).is_ok_and(|found| found == text)
    }

    /// A value that an agent may have chosen; null where it is too large to
    /// be taken apart.
    pub fn value(&self, name: &str) -> Value {
        json::from_slice(self.raw(name).as_bytes()).unwrap_or_default()
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
    pub fn read(line: &'a [u8]) -> Option<Self> {
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

/// What is sent, until somebody takes it.
#[derive(Debug, Default)]
pub(super) struct Outgoing(Vec<u8>);

impl Outgoing {
    pub fn request(&mut self, id: u64, method: &str, params: &Value) {
        self.line(&json!({"id": id, "method": method, "params": params}));
    }

    pub fn notification(&mut self, method: &str) {
        self.line(&json!({"method": method}));
    }

    /// Nobody is there to be asked: what wants a decision is declined, in the
    /// words of each request, and anything else refused.
    pub fn decline(&mut self, id: &str, method: &str) {
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

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.0)
    }
}
