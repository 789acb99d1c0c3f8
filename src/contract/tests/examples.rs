//! The examples in `docs/contract/examples/`: what lies there, and that they
//! show everything.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::*;
use crate::client::{Order, Origin, TurnMessage};
use crate::codex::tool::ToolKind;
use crate::config::Settings;
use crate::event::{ErrorCode, EventBody, NoticeCode, Reason, StopReason, TurnEvent};
use crate::request::{
    Limits, OnBusy, OutputSchema, Properties, Rejection, ThreadChoice, TurnRequest,
};

/// Of the package.
pub(crate) fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

/// Those that never change: they are version 1.
pub(crate) const FROZEN: &str = "docs/contract/examples/v1";
/// Requests that the schema rejects, and those that only the worker does.
pub(crate) const BY_SCHEMA: &str = "docs/contract/examples/rejected/by-schema";
pub(crate) const BY_WORKER: &str = "docs/contract/examples/rejected/by-worker";

/// A handwritten file, not one that was made of it.
#[derive(Debug)]
pub(crate) struct Example {
    /// Without its folder and endings.
    pub name: String,
    pub body: Vec<u8>,
    folder: &'static str,
}

impl Example {
    /// What is made of it stands beside it.
    pub(crate) fn beside(&self, ending: &str) -> PathBuf {
        path(self.folder).join(format!("{}.{ending}.json", self.name))
    }

    /// `None` if it is no JSON.
    pub(crate) fn value(&self) -> Option<Value> {
        crate::request::json::from_slice(&self.body).ok()
    }

    pub(crate) fn parse(&self) -> Result<TurnRequest, Rejection> {
        TurnRequest::parse(&self.body, &limits(), &Properties::default())
    }

    fn events(&self) -> Vec<TurnMessage> {
        let lines = self.body.split(|byte| *byte == b'\n');
        let lines = lines.filter(|line| !line.is_empty());
        lines
            .map(|line| {
                TurnMessage::parse(line).unwrap_or_else(|| panic!("no event in {}", self.name))
            })
            .collect()
    }
}

/// All of a folder, in the order of their names.
pub(crate) fn of(folder: &'static str) -> Vec<Example> {
    let entries = fs::read_dir(path(folder)).unwrap_or_else(|e| panic!("{folder}: {e}"));
    let mut examples: Vec<Example> = entries
        .filter_map(|entry| {
            let path = entry.unwrap().path();
            let file = path.file_name()?.to_str()?;
            let (name, ending) = file.split_once('.')?;
            let is_example = ["json", "jsonl", "txt"].contains(&ending);
            is_example.then(|| Example {
                name: name.to_owned(),
                body: fs::read(&path).unwrap(),
                folder,
            })
        })
        .collect();
    examples.sort_by(|a, b| a.name.cmp(&b.name));
    assert!(!examples.is_empty(), "no examples in {folder}");
    examples
}

pub(crate) fn requests() -> Vec<Example> {
    of("docs/contract/examples/v1/requests")
}

pub(crate) fn controls() -> Vec<Example> {
    of("docs/contract/examples/v1/control")
}

pub(crate) fn descriptions() -> Vec<Example> {
    of("docs/contract/examples/v1/descriptions")
}

pub(crate) fn events() -> Vec<Example> {
    of("docs/contract/examples/v1/events")
}

pub(crate) fn turns() -> Vec<Example> {
    of("docs/contract/examples/v1/turns")
}

/// Those that the examples are judged by: the defaults, and a certain root.
pub(crate) fn limits() -> Limits {
    let (settings, _) = Settings::from_vars([]).unwrap();
    settings.request_limits(vec!["/srv/workspaces".into()])
}

/// What a request means. A new field of a request fails to compile here: it
/// stands in the summary where it is not its default, so that what is said of
/// older requests stays as it is.
pub(crate) fn understood(request: &TurnRequest) -> Value {
    let TurnRequest {
        turn_id,
        workspace,
        prompt,
        images,
        model,
        reasoning_effort,
        service_tier,
        tenant,
        timeout,
        max_attempts,
        start_within,
        on_busy,
        thread,
        metadata,
        output_schema,
        enqueued_at,
        trace,
        // What its producer should know besides; no part of what it means.
        notices: _,
    } = request;
    let mut summary = json!({
        "turn_id": turn_id,
        "workspace": workspace,
        "prompt": prompt,
        "images": (!images.is_empty()).then_some(images),
        "model": model,
        "reasoning_effort": reasoning_effort,
        "service_tier": service_tier,
        "tenant": tenant,
        "timeout_s": timeout.map(|limit| limit.as_secs()),
        "max_attempts": max_attempts,
        "start_within_s": start_within.map(|limit| limit.as_secs()),
        "on_busy": (*on_busy != OnBusy::default()).then_some(on_busy),
        "thread": (*thread != ThreadChoice::default()).then_some(thread),
        "metadata": metadata,
        "output_schema": output_schema.as_ref().map(OutputSchema::raw),
        "enqueued_at": enqueued_at,
        "traceparent": trace.as_ref().map(|trace| &trace.traceparent),
        "tracestate": trace.as_ref().and_then(|trace| trace.tracestate.as_ref()),
    });
    let fields = summary.as_object_mut().unwrap();
    fields.retain(|_, value| !value.is_null());
    summary
}

/// The error that a request gets, and what `turn-worker validate` prints.
pub(crate) fn error(rejection: &Rejection) -> Value {
    let violations: Vec<Value> = (rejection.violations.iter())
        .map(|v| json!({ "field": v.field, "found": v.found, "allowed": v.rule }))
        .collect();
    json!({
        "turn_id": rejection.turn_id,
        "error": {
            "code": rejection.code,
            "message": rejection.to_string(),
            "reason": Reason::Unknown,
            "retryable": false,
        },
        "violations": violations,
    })
}

/// Of the reader of the examples of turns.
const READERS_WORKSPACE: &str = "acme/website";

/// What a reader makes of a turn's deliveries.
pub(crate) fn read(turn: &Example) -> Value {
    let mut origin = Origin::new(Some(READERS_WORKSPACE.to_owned()));
    let mut order = Order::default();
    let (mut taken, mut restarts) = (Vec::new(), Vec::new());
    let mut texts: Vec<(String, String)> = Vec::new();
    let (mut error, mut end) = (Value::Null, Value::Null);
    for (line, message) in turn.events().into_iter().enumerate() {
        if !origin.admits(message.workspace.as_deref()) {
            continue;
        }
        let Some(arrival) = order.place(message.attempt, message.seq) else {
            continue;
        };
        taken.push(line);
        if arrival.restarted {
            restarts.push(line);
            texts.clear();
        }
        match message.body {
            Some(EventBody::TextDelta { item_id, text }) => {
                match texts.iter_mut().find(|(id, _)| *id == item_id) {
                    Some((_, whole)) => whole.push_str(&text),
                    None => texts.push((item_id, text)),
                }
            }
            Some(EventBody::Error { error: told }) => error = json!(told),
            Some(EventBody::MessageEnd { .. }) => {
                end = serde_json::from_str(&message.json).unwrap()
            }
            _ => {}
        }
    }
    let texts: Vec<Value> = texts
        .into_iter()
        .map(|(item_id, text)| json!({ "item_id": item_id, "text": text }))
        .collect();
    json!({
        "taken": taken,
        "restarts": restarts,
        "texts": texts,
        "error": error,
        "stop_reason": end["stop_reason"],
        "text": end["text"],
        "usage": end["usage"],
    })
}

#[test]
fn each_example_is_what_its_folder_says() {
    for request in requests() {
        if let Err(rejection) = request.parse() {
            panic!("{}: {rejection}", request.name);
        }
    }
    for request in of(BY_SCHEMA).iter().chain(&of(BY_WORKER)) {
        assert!(request.parse().is_err(), "{} is valid", request.name);
    }
    for event in events() {
        let read: TurnEvent =
            serde_json::from_slice(&event.body).unwrap_or_else(|e| panic!("{}: {e}", event.name));
        assert_eq!(Some(json!(read)), event.value(), "{}", event.name);
        let kind = read.body.kind();
        let name = event.name.split('-').next().unwrap();
        assert_eq!(
            name, kind,
            "the name of an event's example starts with its type"
        );
    }
    for turn in turns() {
        assert!(
            turn.events().last().unwrap().is_end(),
            "{} has no end",
            turn.name
        );
    }
}

/// Adding a field or a name is not done before an example shows it.
#[test]
fn examples_show_every_field_and_every_name() {
    let mut missing = Vec::new();
    fields_of_requests(&mut missing);
    fields_of_events(&mut missing);
    names_in_events(&mut missing);
    fields_of_descriptions(&mut missing);
    assert!(
        missing.is_empty(),
        "docs/contract/examples/ lacks these; add files there, then run ops/contract:\n  {}",
        missing.join("\n  ")
    );
}

fn fields_of_requests(missing: &mut Vec<String>) {
    let requests: Vec<Value> = requests().iter().filter_map(Example::value).collect();
    let schema = Document::Request.value(&Topology::new("codex", 1));
    compare_fields("a request", &schema, &requests, missing);
    let violated: BTreeSet<String> = (of(BY_SCHEMA).iter().chain(&of(BY_WORKER)))
        .flat_map(|request| request.parse().unwrap_err().violations)
        .map(|violation| violation.field)
        .collect();
    for field in request_fields() {
        // Some break no rule.
        let has_rules = schema["properties"][&field].as_object().unwrap().len() > 1;
        if has_rules && !violated.iter().any(|found| found.starts_with(&field)) {
            missing.push(format!("a rejected request whose field {field} is wrong"));
        }
    }
}

fn fields_of_events(missing: &mut Vec<String>) {
    let schema = Document::Event.value(&Topology::new("codex", 1));
    let values: Vec<Value> = events().iter().filter_map(Example::value).collect();
    for kind in types_of(&schema) {
        let of_kind: Vec<Value> = values
            .iter()
            .filter(|event| event["type"] == *kind)
            .cloned()
            .collect();
        compare_fields(
            &format!("an event {kind}"),
            &schema["$defs"][&kind],
            &of_kind,
            missing,
        );
    }
}

fn fields_of_descriptions(missing: &mut Vec<String>) {
    let schema = Document::Description.value(&Topology::new("codex", 1));
    let values: Vec<Value> = descriptions().iter().filter_map(Example::value).collect();
    for name in types_of(&schema) {
        let of_state = &schema["$defs"][&name];
        let state = &of_state["properties"]["state"]["const"];
        let values = values.iter().filter(|value| value["state"] == *state);
        let values: Vec<Value> = values.cloned().collect();
        compare_fields(
            &format!("a description {state}"),
            of_state,
            &values,
            missing,
        );
    }
}

/// The types of events, in the order in which they are declared.
pub(crate) fn types_of(event_schema: &Value) -> Vec<String> {
    let types = event_schema["oneOf"].as_array().unwrap();
    types
        .iter()
        .map(|of| {
            of["$ref"]
                .as_str()
                .unwrap()
                .rsplit_once('/')
                .unwrap()
                .1
                .to_owned()
        })
        .collect()
}

fn compare_fields(what: &str, schema: &Value, examples: &[Value], missing: &mut Vec<String>) {
    if examples.is_empty() {
        missing.push(what.to_owned());
        return;
    }
    let required = schema["required"].as_array().unwrap();
    let fields: &Map<String, Value> = schema["properties"].as_object().unwrap();
    for field in fields.keys() {
        if !examples.iter().any(|example| !example[field].is_null()) {
            missing.push(format!("{what} with the field {field}"));
        }
        let optional = !required.iter().any(|name| name == field);
        if optional && !examples.iter().any(|example| example.get(field).is_none()) {
            missing.push(format!("{what} without the field {field}"));
        }
    }
}

fn names_in_events(missing: &mut Vec<String>) {
    let mut shown = BTreeSet::new();
    for event in events() {
        let event: TurnEvent = serde_json::from_slice(&event.body).unwrap();
        let names: &[&str] = match &event.body {
            EventBody::ToolUse { name, .. } | EventBody::ToolResult { name, .. } => &[name],
            EventBody::Notice { code, .. } => &[code.as_str()],
            EventBody::Error { error } => &[error.code.as_str(), error.reason.as_str()],
            EventBody::MessageEnd { stop_reason, .. } => &[stop_reason.as_str()],
            _ => &[],
        };
        for name in names {
            shown.insert((event.body.kind(), (*name).to_owned()));
        }
    }
    let mut expect = |kind, name: &str| {
        if !shown.contains(&(kind, name.to_owned())) {
            missing.push(format!("an event {kind} with {name}"));
        }
    };
    ErrorCode::ALL
        .iter()
        .for_each(|name| expect("error", name.as_str()));
    Reason::ALL
        .iter()
        .for_each(|name| expect("error", name.as_str()));
    NoticeCode::ALL
        .iter()
        .for_each(|name| expect("notice", name.as_str()));
    StopReason::ALL
        .iter()
        .for_each(|name| expect("message_end", name.as_str()));
    for kind in ToolKind::ALL {
        expect("tool_use", kind.as_str());
        expect("tool_result", kind.as_str());
    }
}
