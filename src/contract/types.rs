//! The request for generators of types: what a producer writes, in the words
//! that generators follow.
//!
//! They ignore `if`, `contains` and `propertyNames`, or fail on them, so the
//! rules stay in the validating schema. What both have is read from that one:
//! a new field of a request needs no line here, unless it has no type there.

use serde_json::{Map, Value, json};

use super::VERSION;
use super::schema::{self, type_name};
use crate::request::MediaType;
use crate::trace::{TRACEPARENT, TRACESTATE};

const ABOUT: &str = "A turn to be run, for generators of types: what a producer writes, and only what is used. \
                     The validating schema has the rules (request.schema.json). Leave out a field that has no value.";

pub(super) fn request() -> Value {
    let rules = schema::request();
    let fields = rules["properties"].as_object().into_iter().flatten();
    let properties: Map<String, Value> = fields
        .map(|(name, rule)| (name.clone(), plain(name, rule, &rules["$defs"])))
        .collect();
    json!({
        "$schema": rules["$schema"],
        "$id": format!("urn:codex-turn-worker:v{VERSION}:request-types"),
        "title": rules["title"],
        "description": ABOUT,
        "type": "object",
        "properties": properties,
        "required": rules["required"],
        "$defs": definitions(),
    })
}

/// The type of a field, without what is only a rule.
fn plain(name: &str, rule: &Value, definitions: &Value) -> Value {
    let mut field = match name {
        "messages" => json!({ "type": "array", "items": reference("Message") }),
        // A trace that can't be used is no reason to reject: there any value is valid.
        TRACEPARENT | TRACESTATE => json!({ "type": "string" }),
        _ => type_of(name, rule, definitions),
    };
    let about = [rule, resolved(rule, definitions)].map(|schema| schema["description"].clone());
    if let Some(about) = about.into_iter().find(Value::is_string) {
        field["description"] = about;
    }
    field
}

fn type_of(name: &str, rule: &Value, definitions: &Value) -> Value {
    let rule = resolved(rule, definitions);
    if let Some(names) = rule["enum"].as_array() {
        let names: Vec<&Value> = names.iter().filter(|name| !name.is_null()).collect();
        // `Thread` is a type of several languages.
        let title = match name {
            "thread" => "ThreadChoice".to_owned(),
            name => type_name(name),
        };
        return json!({ "type": "string", "enum": names, "title": title });
    }
    let choices = rule["anyOf"].as_array().and_then(|choices| choices.first());
    if let Some(first) = choices {
        return type_of(name, first, definitions);
    }
    let mut field = json!({ "type": one_type(&rule["type"]) });
    if field["type"] == "object" {
        // Of any names and values: unsaid, some generators allow no other fields.
        field["additionalProperties"] = true.into();
    }
    for keyword in ["format", "minimum"] {
        if let Some(value) = rule.get(keyword) {
            field[keyword] = value.clone();
        }
    }
    field
}

/// `null` is treated as absent, so it need not be written.
fn one_type(kinds: &Value) -> Value {
    let several = kinds.as_array().into_iter().flatten();
    let mut several = several.filter(|kind| *kind != "null");
    several.next().unwrap_or(kinds).clone()
}

fn resolved<'a>(rule: &'a Value, definitions: &'a Value) -> &'a Value {
    let target = rule["$ref"].as_str().and_then(|to| to.rsplit_once('/'));
    target.map_or(rule, |(_, name)| &definitions[name])
}

fn reference(name: &str) -> Value {
    json!({ "$ref": format!("#/$defs/{name}") })
}

/// Messages, blocks and images, each discriminated by one field.
fn definitions() -> Value {
    let object = |about: &str, tag: &str, name: &str, fields: Value| {
        let mut properties = fields;
        properties[tag] = json!({ "type": "string", "const": name });
        let required: Vec<&String> = properties
            .as_object()
            .into_iter()
            .flat_map(Map::keys)
            .collect();
        json!({ "description": about, "type": "object", "required": required, "properties": properties })
    };
    let text = json!({ "type": "string" });
    json!({
        "Message": {
            "description": "One message of the conversation. The prompt is the last one of the user's.",
            "oneOf": [reference("UserMessage"), reference("OtherMessage")],
        },
        "UserMessage": object("What the agent is asked.", "role", "user", json!({
            "content": {
                "description": "The text, or blocks.",
                "oneOf": [text, { "type": "array", "items": reference("Block") }],
            },
        })),
        "OtherMessage": {
            "description": "History, which is ignored: the workspace is the memory.",
            "type": "object",
            "properties": {
                "role": {
                    "title": "OtherRole",
                    "type": "string",
                    "enum": ["assistant", "system", "developer", "tool"],
                },
                "content": {},
            },
            "required": ["role"],
        },
        "Block": {
            "description": "A part of a user's message.",
            "oneOf": [reference("TextBlock"), reference("ImageBlock")],
        },
        "TextBlock": object("A part of the prompt.", "type", "text", json!({ "text": text })),
        "ImageBlock": object("An image that the model is shown.", "type", "image", json!({ "source": reference("ImageSource") })),
        "ImageSource": {
            "description": "An image, or where it is in the workspace when the turn runs.",
            "oneOf": [reference("Base64Image"), reference("ImagePath")],
        },
        "Base64Image": object("An image within the request.", "type", "base64", json!({
            "media_type": { "title": "MediaType", "type": "string", "enum": MediaType::ALL },
            "data": { "description": "In standard base64 with its padding.", "type": "string" },
        })),
        "ImagePath": object("A file inside the workspace.", "type", "path", json!({ "path": text })),
    })
}
