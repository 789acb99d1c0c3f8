//! The schemas judge as the code does.

use jsonschema::Validator;
use proptest::prelude::*;
use proptest::sample::Index;

use super::examples::{self, BY_SCHEMA, BY_WORKER, limits};
use super::*;
use crate::amqp::messages::{Control, Decoded};
use crate::request::{Properties, TurnRequest};

fn validator(document: Document) -> Validator {
    let schema = document.value(&Topology::new("codex", 1));
    jsonschema::options()
        .should_validate_formats(true)
        .build(&schema)
        .unwrap()
}

#[test]
fn a_schema_takes_and_rejects_what_the_worker_does() {
    let schema = validator(Document::Request);
    for request in examples::requests() {
        let value = request.value().unwrap();
        if let Err(error) = schema.validate(&value) {
            panic!("{}: {error} at {}", request.name, error.instance_path());
        }
    }
    for request in examples::of(BY_SCHEMA) {
        let value = request
            .value()
            .unwrap_or_else(|| panic!("{} is no JSON", request.name));
        assert!(
            !schema.is_valid(&value),
            "the schema takes {}; by-worker is the place for it",
            request.name
        );
    }
    for request in examples::of(BY_WORKER) {
        // What is no JSON no schema can judge.
        if let Some(value) = request.value() {
            assert!(
                schema.is_valid(&value),
                "the schema rejects {}; by-schema is the place for it",
                request.name
            );
        }
    }
}

#[test]
fn the_schemas_take_all_other_examples() {
    for (document, examples) in [
        (Document::Event, examples::events()),
        (Document::Control, examples::controls()),
        (Document::Description, examples::descriptions()),
    ] {
        let schema = validator(document);
        for example in examples {
            if let Err(error) = schema.validate(&example.value().unwrap()) {
                panic!("{}: {error} at {}", example.name, error.instance_path());
            }
        }
    }
}

#[test]
fn the_schemas_are_schemas() {
    for document in [
        Document::Request,
        Document::Event,
        Document::Control,
        Document::Description,
    ] {
        let schema = document.value(&Topology::new("codex", 1));
        jsonschema::meta::validate(&schema).unwrap_or_else(|e| panic!("{document:?}: {e}"));
    }
}

/// A place in a request, and what is put there.
#[derive(Debug, Clone)]
enum Change {
    Replace(Index, Value),
    Remove(Index),
    Add(Index, &'static str, Value),
}

/// Values at and beside every limit that a schema has.
fn values(parts: Vec<Value>) -> impl Strategy<Value = Value> {
    let texts = prop::sample::select(vec![
        "",
        " ",
        "\u{feff}",
        "\u{85}\u{2028}",
        "\u{200b}",
        "user",
        "assistant",
        "text",
        "a",
        "-a",
        "a b",
        "ä",
        ".",
        "a/b",
        "../a",
        "a/.b",
        "a/b/c/d/e",
        "gpt-5.5",
        "cancel",
        "describe",
        "2026-01-02T03:04:05Z",
        "2026-02-30T03:04:05Z",
        "2026-01-02",
        "$serde_json::private::RawValue",
        "new",
        "continue",
        "reject",
        "interrupt",
        "enqueue",
        "image",
        "base64",
        "path",
        "image/png",
        "a/../b.png",
        "/a.png",
        "..a",
        "a//b",
    ]);
    let numbers = prop::sample::select(vec![
        json!(-1),
        json!(0),
        json!(1),
        json!(2),
        json!(1.5),
        json!(u64::MAX),
        json!(1e300),
        json!(u64::from(u32::MAX) + 1),
    ]);
    prop_oneof![
        1 => Just(Value::Null),
        1 => any::<bool>().prop_map(Value::from),
        4 => texts.prop_map(Value::from),
        1 => "[A-Za-z0-9._:/@-]{60,70}".prop_map(Value::from),
        1 => "[A-Za-z0-9._-]{127,129}".prop_map(Value::from),
        2 => numbers,
        1 => Just(json!([])),
        1 => Just(json!({})),
        4 => prop::sample::select(parts),
    ]
}

fn changes(parts: Vec<Value>) -> impl Strategy<Value = Vec<Change>> {
    let keys = prop::sample::select(vec![
        "turn_id",
        "workspace",
        "messages",
        "model",
        "reasoning_effort",
        "service_tier",
        "tenant",
        "timeout_s",
        "max_attempts",
        "metadata",
        "output_schema",
        "start_within_s",
        "on_busy",
        "thread",
        "source",
        "path",
        "media_type",
        "enqueued_at",
        "role",
        "content",
        "type",
        "text",
        "action",
        "x",
        "$serde_json::private::Number",
    ]);
    let change = prop_oneof![
        4 => (any::<Index>(), values(parts.clone())).prop_map(|(at, value)| Change::Replace(at, value)),
        1 => any::<Index>().prop_map(Change::Remove),
        2 => (any::<Index>(), keys, values(parts)).prop_map(|(at, key, value)| Change::Add(at, key, value)),
    ];
    prop::collection::vec(change, 0..4)
}

fn changed(mut value: Value, changes: &[Change]) -> Value {
    for change in changes {
        let places = places(&value);
        match change {
            Change::Replace(at, new) => {
                *at_place(&mut value, &places[at.index(places.len())]) = new.clone()
            }
            Change::Remove(at) => {
                let Some((last, parent)) = &places[at.index(places.len())].split_last() else {
                    continue;
                };
                match at_place(&mut value, parent) {
                    Value::Object(fields) => drop(fields.remove(last.as_str())),
                    Value::Array(items) => drop(items.remove(last.parse().unwrap())),
                    _ => {}
                }
            }
            Change::Add(at, key, new) => {
                match at_place(&mut value, &places[at.index(places.len())]) {
                    Value::Object(fields) => drop(fields.insert((*key).to_owned(), new.clone())),
                    Value::Array(items) => items.push(new.clone()),
                    _ => {}
                }
            }
        }
    }
    value
}

/// The paths of a value and of all that are in it.
fn places(value: &Value) -> Vec<Vec<String>> {
    let inner: Vec<(String, &Value)> = match value {
        Value::Object(fields) => fields
            .iter()
            .map(|(key, value)| (key.clone(), value))
            .collect(),
        Value::Array(items) => items
            .iter()
            .enumerate()
            .map(|(i, value)| (i.to_string(), value))
            .collect(),
        _ => Vec::new(),
    };
    let mut all = vec![Vec::new()];
    for (key, value) in inner {
        all.extend(
            places(value)
                .into_iter()
                .map(|rest| [vec![key.clone()], rest].concat()),
        );
    }
    all
}

fn at_place<'a>(value: &'a mut Value, path: &[String]) -> &'a mut Value {
    path.iter().fold(value, |value, key| match value {
        Value::Array(items) => &mut items[key.parse::<usize>().unwrap()],
        value => &mut value[key.as_str()],
    })
}

/// What no schema can say, see the description of the request's: there the
/// worker's word counts.
fn is_beyond(request: &Value) -> bool {
    request["workspace"]
        .as_str()
        .is_some_and(|path| path.starts_with('/'))
        || request["metadata"].to_string().len() > 1000
        || request["output_schema"].to_string().len() > 1000
        || has_image_beyond(&request["messages"])
        || has_unusable_message(&request["messages"])
}

/// Which of several messages is the last of the user's: there a block, a role
/// or a missing content may be wrong that is ignored elsewhere.
fn has_unusable_message(messages: &Value) -> bool {
    let messages = messages.as_array().map(Vec::as_slice).unwrap_or_default();
    let known = |block: &Value| {
        !block.is_object() || matches!(block["type"].as_str(), Some("text" | "image"))
    };
    messages.len() > 1
        && messages.iter().any(|message| {
            let blocks = message["content"].as_array();
            let unknown = blocks.is_some_and(|blocks| !blocks.iter().all(known));
            unknown || (message.is_object() && message.get("content").is_none())
        })
}

/// Which message is the prompt's, and what an image's bytes are.
fn has_image_beyond(messages: &Value) -> bool {
    let of = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let messages = of(messages);
    let mut images = messages
        .iter()
        .flat_map(|message| of(&message["content"]))
        .filter(|block| block["type"] == "image");
    let is_beyond = |image: Value| {
        let source = &image["source"];
        let is_png = source["media_type"] == "image/png" && source["data"] == "iVBORw0KGgo=";
        source["data"].is_string() && !is_png
    };
    match messages.len() {
        1 => images.any(is_beyond),
        _ => images.next().is_some(),
    }
}

/// Requests and cancels that are nearly right.
fn nearly(examples: Vec<Value>) -> impl Strategy<Value = Value> {
    let parts = examples
        .iter()
        .flat_map(|example| {
            let whole = example.clone();
            places(example)
                .into_iter()
                .map(move |path| at_place(&mut whole.clone(), &path).clone())
        })
        .filter(|part| part.to_string().len() < 500)
        .collect();
    (prop::sample::select(examples), changes(parts))
        .prop_map(|(example, changes)| changed(example, &changes))
}

fn of_requests() -> Vec<Value> {
    let (valid, rejected) = (examples::requests(), examples::of(BY_SCHEMA));
    valid
        .iter()
        .chain(&rejected)
        .filter_map(examples::Example::value)
        .collect()
}

fn of_controls() -> Vec<Value> {
    examples::controls()
        .iter()
        .filter_map(examples::Example::value)
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn request_and_schema_agree_on_any_input(request in nearly(of_requests())) {
        thread_local! { static SCHEMA: Validator = validator(Document::Request); }
        prop_assume!(!is_beyond(&request));
        let verdict = TurnRequest::parse(request.to_string().as_bytes(), &limits(), &Properties::default());
        let by_schema = SCHEMA.with(|schema| schema.validate(&request).map_err(|error| error.to_string()));
        prop_assert_eq!(verdict.is_ok(), by_schema.is_ok(), "the worker: {:?}, the schema: {:?}", verdict, by_schema);
    }

    #[test]
    fn control_and_schema_agree_on_any_input(control in nearly(of_controls())) {
        thread_local! { static SCHEMA: Validator = validator(Document::Control); }
        let decoded = Control::decode(control.to_string().as_bytes());
        let taken = matches!(decoded, Ok(Decoded::Known(_)));
        let by_schema = SCHEMA.with(|schema| schema.validate(&control).map_err(|error| error.to_string()));
        prop_assert_eq!(taken, by_schema.is_ok(), "the worker: {:?}, the schema: {:?}", decoded, by_schema);
    }
}
