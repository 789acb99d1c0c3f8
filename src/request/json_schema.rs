//! The request as a JSON Schema, for producers that check before sending.
//!
//! It stands beside the parser, which decides: tests hold the two against each
//! other, with requests of all kinds. A new field needs a line in
//! [`properties`]; what no schema can say is said in [`beyond`].

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde_json::{Map, Value, json};

use super::image::MAX_PATH_BYTES;
use super::json::MAX_VALUES;
use super::parse::{MAX_METADATA_DEPTH, MAX_OUTPUT_SCHEMA_DEPTH, SERDE_JSON_PRIVATE};
use super::{
    Effort, Image, MAX_IMAGES, MAX_METADATA_BYTES, MAX_OUTPUT_SCHEMA_BYTES, MAX_PROMPT_CHARS,
    MediaType, ModelChoice, OnBusy, ServiceTier, ThreadChoice, TurnId, TurnRequest, WorkspaceId,
};

use crate::trace::{TRACEPARENT, TRACESTATE};

const TURN_ID: &str = "^[A-Za-z0-9._-]{1,128}$";
const WORKSPACE_ID: &str =
    "^[A-Za-z0-9][A-Za-z0-9._-]{0,63}(/[A-Za-z0-9][A-Za-z0-9._-]{0,63}){0,3}$";
const MODEL_NAME: &str = "^[A-Za-z0-9._:/@][A-Za-z0-9._:/@-]{0,127}$";
const TENANT: &str = "^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$";
const BASE64: &str = "^[A-Za-z0-9+/]{2,}={0,2}$";
/// Names joined by slashes, not empty, `.` or `..`.
const IMAGE_PATH: &str = r"^([^./\u0000]|\.[^./\u0000]|\.\.[^/\u0000])[^/\u0000]*(/([^./\u0000]|\.[^./\u0000]|\.\.[^/\u0000])[^/\u0000]*)*$";
/// Something that Rust's `trim` leaves. `\S` means other characters in each
/// language's expressions.
const NOT_BLANK: &str =
    r"[^\u0009-\u000d\u0020\u0085\u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]";

impl JsonSchema for TurnId {
    fn schema_name() -> Cow<'static, str> {
        "TurnId".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "The turn's name, best a UUID. Routing key of its events and, together with the workspace, the idempotency key.",
            "type": "string",
            "pattern": TURN_ID,
        })
    }
}

impl JsonSchema for WorkspaceId {
    fn schema_name() -> Cow<'static, str> {
        "WorkspaceId".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "A directory under the workspace root, created if missing.",
            "type": "string",
            "pattern": WORKSPACE_ID,
        })
    }
}

impl JsonSchema for TurnRequest {
    fn schema_name() -> Cow<'static, str> {
        "TurnRequest".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let properties = properties(generator);
        json_schema!({
            "description": format!("A turn to be run. Unknown fields are ignored, null is as good as absent.\n\n{}", beyond()),
            "type": "object",
            "properties": properties,
            "required": ["turn_id", "workspace", "messages"],
        })
    }
}

/// Every field of a request.
fn properties(generator: &mut SchemaGenerator) -> Map<String, Value> {
    let fields = [
        ("turn_id", generator.subschema_for::<TurnId>().into()),
        (
            "workspace",
            json!({
                "description": "Where the turn runs. An absolute path under the workspace root names the same workspace as its id.",
                "anyOf": [
                    generator.subschema_for::<WorkspaceId>(),
                    { "type": "string", "pattern": "^/" },
                ],
            }),
        ),
        (
            "messages",
            json!({
                "description": "The prompt is the last message of role `user` that has content: its text blocks joined by newlines.",
                "type": "array",
                "items": generator.subschema_for::<Message>(),
                "contains": generator.subschema_for::<UserMessageWithText>(),
                // Of several, a schema can't express which one the prompt is taken from.
                "if": { "maxItems": 1 },
                "then": { "items": generator.subschema_for::<MessageWithImages>() },
            }),
        ),
        (
            "model",
            json!({
                "description": "On the operator's list where there is one.",
                "type": ["string", "null"],
                "pattern": MODEL_NAME,
            }),
        ),
        (
            "reasoning_effort",
            json!({
                "description": "How much the model is to think, for this turn only. On the operator's list where there is one.",
                "enum": choices(Effort::ALL.iter().map(|effort| effort.as_str())),
            }),
        ),
        (
            "service_tier",
            json!({
                "description": "How fast, and for which price, the provider is to serve the model, for this turn only; `default` is none, also if the operator has configured one. On the operator's list where there is one.",
                "enum": choices(ServiceTier::ALL.iter().map(|tier| tier.as_str())),
            }),
        ),
        (
            "tenant",
            json!({
                "description": "The tenant that the turn runs for: for metrics and pauses, if the operator takes the tenant from the request.",
                "type": ["string", "null"],
                "pattern": TENANT,
            }),
        ),
        (
            "timeout_s",
            json!({
                "description": "Whole seconds; the worker's own limit caps it.",
                "type": ["integer", "null"],
                "minimum": 1,
                "maximum": u64::MAX,
            }),
        ),
        (
            "max_attempts",
            json!({
                "description": "How often the turn is started when workers die running it; the worker's own limit caps it.",
                "type": ["integer", "null"],
                "minimum": 1,
                "maximum": u64::MAX,
            }),
        ),
        (
            "start_within_s",
            json!({
                "description": "Whole seconds: a turn that could not start within them is not run, and ends with turn.expired.",
                "type": ["integer", "null"],
                "minimum": 1,
                "maximum": u64::MAX,
            }),
        ),
        (
            "on_busy",
            json!({
                "description": "What becomes of the turn where a turn ahead of it in its workspace has not ended: it waits for its place, as it does by default, ends with workspace.busy without being run, or interrupts all ahead of it.",
                "enum": choices(OnBusy::ALL.iter().map(|choice| choice.as_str())),
            }),
        ),
        (
            "thread",
            json!({
                "description": "Whether the turn goes on with the workspace's conversation, as it does by default, starts a new one, or goes on and starts a new one only where codex refuses to resume the conversation.",
                "enum": choices(ThreadChoice::ALL.iter().map(|choice| choice.as_str())),
            }),
        ),
        (
            "metadata",
            json!({
                "description": "Comes back on `message_start` and `message_end`.",
                "type": ["object", "null"],
                "allOf": [generator.subschema_for::<PlainValue>()],
            }),
        ),
        (
            "output_schema",
            json!({
                "description": "What the answer is to look like: a JSON Schema. The answer comes as `structured` on `message_end`.",
                "type": ["object", "null"],
                "allOf": [generator.subschema_for::<PlainValue>()],
            }),
        ),
        (
            "enqueued_at",
            json!({
                "description": "When the turn was enqueued, for the queue-wait metric; without it the message's AMQP timestamp counts.",
                "type": ["string", "null"],
                "format": "date-time",
            }),
        ),
        // A trace that is broken on its way must not cost a turn.
        (
            TRACEPARENT,
            json!({ "description": "The trace that the turn belongs to, of W3C Trace Context, where the message has no header of that name. What is not valid is as good as absent." }),
        ),
        (
            TRACESTATE,
            json!({ "description": "What belongs to that traceparent." }),
        ),
    ];
    fields
        .into_iter()
        .map(|(name, schema)| (name.to_owned(), schema))
        .collect()
}

/// Or null.
fn choices(names: impl Iterator<Item = &'static str>) -> Vec<Value> {
    names.map(Value::from).chain([Value::Null]).collect()
}

/// The rules that the schema leaves to the worker.
fn beyond() -> String {
    let rules = [
        "the body is no larger than the worker's MAX_REQUEST_BYTES (256 KiB by default)".to_owned(),
        format!(
            "it has at most {MAX_VALUES} JSON values, with all that are in others, and a depth of at most 127"
        ),
        "an absolute path lies under the workspace root, and no workspace inside another"
            .to_owned(),
        format!("the prompt has at most {MAX_PROMPT_CHARS} characters"),
        format!(
            "the images beside the prompt are at most {MAX_IMAGES}, are what their media_type says, and stand in standard base64 with its padding; of several messages, those of the prompt's are looked at"
        ),
        "a path has at most 1024 bytes in UTF-8".to_owned(),
        "the model is on the operator's list, where there is one, and so are the reasoning effort and the service tier"
            .to_owned(),
        "of several messages, the last one of role `user` that has content has text; blocks of types other than text and image (and x-…) without any, no `content` beside other fields, and a role such as `User` or `human` are rejected there".to_owned(),
        format!(
            "metadata has at most {MAX_METADATA_BYTES} bytes of compact JSON and is nested at most {MAX_METADATA_DEPTH} deep"
        ),
        format!(
            "output_schema has at most {MAX_OUTPUT_SCHEMA_BYTES} bytes without white space and is nested at most {MAX_OUTPUT_SCHEMA_DEPTH} deep"
        ),
        "a time is before 9999-12-30T22:00:00Z, and may be spelt in some other ways of ISO 8601"
            .to_owned(),
    ];
    format!(
        "What a schema can't say, and the worker checks: {}.",
        rules.join("; ")
    )
}

/// A schema that a type of its own gives a name.
macro_rules! named {
    ($(#[$meta:meta])* $name:ident, $($schema:tt)+) => {
        $(#[$meta])*
        struct $name;

        impl JsonSchema for $name {
            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(generator: &mut SchemaGenerator) -> Schema {
                let schema: fn(&mut SchemaGenerator) -> Schema = $($schema)+;
                schema(generator)
            }
        }
    };
}

named!(Message, |generator| json_schema!({
    "description": "One message of the conversation. Only those of role `user` are looked at.",
    "type": "object",
    "properties": { "role": { "type": "string" } },
    "required": ["role"],
    "if": { "properties": { "role": { "const": "user" } }, "required": ["role"] },
    "then": {
        "properties": {
            "content": {
                "description": "The text, or blocks.",
                "type": ["string", "array", "null"],
                "items": generator.subschema_for::<Block>(),
            },
        },
    },
}));

named!(Block, |_| json_schema!({
    "description": "A part of a user's message. Blocks of unknown types are ignored.",
    "type": "object",
    "allOf": [
        {
            "if": { "properties": { "type": { "const": "text" } }, "required": ["type"] },
            "then": { "properties": { "text": { "type": "string" } }, "required": ["text"] },
        },
    ],
}));

named!(MessageWithImages, |generator| json_schema!({
    "description": "The only message: the images in it go with the prompt.",
    "if": { "properties": { "role": { "const": "user" } }, "required": ["role"] },
    "then": {
        "properties": { "content": { "items": generator.subschema_for::<ImageBlock>() } },
    },
}));

named!(ImageBlock, |generator| json_schema!({
    "if": { "properties": { "type": { "const": "image" } }, "required": ["type"] },
    "then": {
        "properties": { "source": generator.subschema_for::<Image>() },
        "required": ["source"],
    },
}));

impl JsonSchema for Image {
    fn schema_name() -> Cow<'static, str> {
        "Image".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "An image, or where it is in the workspace when the turn runs.",
            "oneOf": [
                {
                    "type": "object",
                    "properties": {
                        "type": { "const": "base64" },
                        "media_type": { "enum": MediaType::ALL },
                        "data": { "type": "string", "pattern": BASE64 },
                    },
                    "required": ["type", "media_type", "data"],
                },
                {
                    "type": "object",
                    "properties": {
                        "type": { "const": "path" },
                        "path": { "type": "string", "pattern": IMAGE_PATH, "maxLength": MAX_PATH_BYTES },
                    },
                    "required": ["type", "path"],
                },
            ],
        })
    }
}

named!(UserMessageWithText, |_| json_schema!({
    "type": "object",
    "properties": {
        "role": { "const": "user" },
        "content": {
            "anyOf": [
                { "type": "string", "pattern": NOT_BLANK },
                {
                    "type": "array",
                    "contains": {
                        "type": "object",
                        "properties": {
                            "type": { "const": "text" },
                            "text": { "type": "string", "pattern": NOT_BLANK },
                        },
                        "required": ["type", "text"],
                    },
                },
            ],
        },
    },
    "required": ["role", "content"],
}));

named!(
    /// Any JSON, without keys that could have a hidden meaning to a reader.
    PlainValue,
    |generator| json_schema!({
        "propertyNames": { "not": { "pattern": format!("^{}", SERDE_JSON_PRIVATE.replace('$', r"\$")) } },
        "additionalProperties": generator.subschema_for::<PlainValue>(),
        "items": generator.subschema_for::<PlainValue>(),
    })
);
