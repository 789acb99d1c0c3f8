//! The schemas, JSON Schema 2020-12.

use schemars::generate::SchemaSettings;
use schemars::transform::{Transform, transform_subschemas};
use schemars::{JsonSchema, Schema};
use serde_json::{Map, Value, json};

use crate::amqp::messages::{Control, Description};
use crate::contract::VERSION;
use crate::event::TurnEvent;
use crate::request::TurnRequest;

/// Older workers name the workspace on this type of event only.
const NAMES_ITS_WORKSPACE: &str = "message_start";

pub(super) fn request() -> Value {
    of::<TurnRequest>("request")
}

pub(super) fn control() -> Value {
    of::<Control>("control")
}

pub(super) fn description() -> Value {
    let about = "Where a turn is: the answer to a question (control.schema.json). Readers ignore fields and states that \
                 they don't know: that is how the contract grows.";
    one_for_each(of::<Description>("description"), "state", about, |state| {
        let name = format!("{}Turn", type_name(state));
        (name.clone(), name)
    })
}

pub(super) fn event() -> Value {
    let about = "What happens to a turn. Readers ignore fields and types that they don't know: \
                 that is how the contract grows, so validate only what is of a type that stands here.";
    let mut schema = one_for_each(of::<TurnEvent>("event"), "type", about, |name| {
        // `Error` alone would hide a language's own.
        (name.to_owned(), format!("{}Event", type_name(name)))
    });
    if let Some(required) = schema["$defs"][NAMES_ITS_WORKSPACE]["required"].as_array_mut() {
        required.push("workspace".into());
    }
    schema
}

/// One definition for each value of `tag`, with all of its fields: derived, the
/// common ones would stand apart from the others. `names`: what the definition
/// and its type are called.
fn one_for_each(
    mut schema: Value,
    tag: &str,
    about: &str,
    names: impl Fn(&str) -> (String, String),
) -> Value {
    without_null(&mut schema);
    let common = json!({
        "properties": schema["properties"].take(),
        "required": schema["required"].take(),
    });
    let variants = schema["oneOf"].take();
    let mut types = Vec::new();
    for variant in variants.as_array().into_iter().flatten() {
        let value = &variant["properties"][tag]["const"];
        let (name, title) = names(value.as_str().unwrap_or_default());
        types.push(json!({ "$ref": format!("#/$defs/{name}") }));
        let mut of_type = with_common(variant.clone(), &common);
        anything_described(&mut of_type);
        of_type["title"] = title.into();
        schema["$defs"][&name] = of_type;
    }
    if let Some(schema) = schema.as_object_mut() {
        schema.retain(|_, value| !value.is_null());
        schema.insert("oneOf".to_owned(), types.into());
        schema.insert("description".to_owned(), about.into());
    }
    schema
}

/// `tool_use` as a type is called: `ToolUse`.
pub(super) fn type_name(name: &str) -> String {
    let words = name.split('_').map(|word| {
        let (first, rest) = word.split_at(word.len().min(1));
        first.to_uppercase() + rest
    });
    words.collect()
}

fn with_common(mut variant: Value, common: &Value) -> Value {
    let fields = common["properties"].as_object().into_iter().flatten();
    for (name, field) in fields {
        variant["properties"][name] = field.clone();
    }
    let mut required = common["required"].as_array().cloned().unwrap_or_default();
    required.extend(
        variant["required"]
            .as_array()
            .cloned()
            .into_iter()
            .flatten(),
    );
    variant["required"] = required.into();
    variant
}

fn of<T: JsonSchema>(name: &str) -> Value {
    let generator = SchemaSettings::draft2020_12()
        .for_serialize()
        .with_transform(Plain)
        .into_generator();
    let mut schema = Value::from(generator.into_root_schema_for::<T>());
    schema["$id"] = format!("urn:codex-turn-worker:v{VERSION}:{name}").into();
    schema
}

/// What the derived schemas say too much.
#[derive(Debug, Clone)]
struct Plain;

impl Transform for Plain {
    fn transform(&mut self, schema: &mut Schema) {
        if let Some(schema) = schema.as_object_mut() {
            one_line_descriptions(schema);
            without_rust_formats(schema);
            anything_as_object(schema);
        }
        transform_subschemas(self, schema);
    }
}

/// A comment's lines end where the source's do; paragraphs stay.
fn one_line_descriptions(schema: &mut Map<String, Value>) {
    if let Some(Value::String(text)) = schema.get_mut("description") {
        let paragraphs: Vec<String> = text.split("\n\n").map(|p| p.replace('\n', " ")).collect();
        *text = paragraphs.join("\n\n");
    }
}

/// `uint32` and the like are no formats of JSON Schema's; `minimum` has it.
fn without_rust_formats(schema: &mut Map<String, Value>) {
    schema.retain(|key, value| {
        key != "format"
            || !value
                .as_str()
                .is_some_and(|format| format.starts_with("uint"))
    });
}

/// A property of any type: generators know `{}` and fail on `true`.
fn anything_as_object(schema: &mut Map<String, Value>) {
    let properties = schema.get_mut("properties").and_then(Value::as_object_mut);
    for property in properties.into_iter().flat_map(Map::values_mut) {
        if *property == Value::Bool(true) {
            *property = json!({});
        }
    }
}

/// Generators take what has a description and no type for an object.
fn anything_described(schema: &mut Value) {
    let properties = schema["properties"].as_object_mut();
    for property in properties.into_iter().flat_map(Map::values_mut) {
        if let Value::Object(fields) = property
            && fields.keys().eq(["description"])
        {
            fields.insert("anyOf".to_owned(), json!([{}]));
        }
    }
}

/// A derived `Option` may be `null`; an event's is left out instead.
fn without_null(schema: &mut Value) {
    match schema {
        Value::Array(items) => items.iter_mut().for_each(without_null),
        Value::Object(fields) => {
            if let Some(kind) = fields.get_mut("type")
                && let Value::Array(types) = kind
            {
                types.retain(|name| name != "null");
                if let [only] = &types[..] {
                    *kind = only.clone();
                }
            }
            if let Some(Value::Array(choices)) = fields.get_mut("anyOf") {
                choices.retain(|choice| choice["type"] != "null");
                if let [Value::Object(only)] = &mut choices[..] {
                    let only = std::mem::take(only);
                    fields.remove("anyOf");
                    fields.extend(only);
                }
            }
            fields.values_mut().for_each(without_null);
        }
        _ => {}
    }
}
