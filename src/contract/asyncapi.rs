//! Where the contract's messages go, as AsyncAPI 3.0.
//!
//! It describes the worker: what it receives, a producer sends. Its payloads
//! are the schemas, as the AsyncAPI Schema Object has them, which is a superset
//! of JSON Schema draft-07: they use no newer keywords.

use serde_json::{Map, Value, json};

use super::{VERSION, schema, types};
use crate::amqp::dead_letter::{CODE_HEADER, MESSAGE_HEADER};
use crate::amqp::event_log::FILTER_VALUE;
use crate::amqp::reply::DESCRIPTION;
use crate::amqp::topology::{REQUEST_KEY, Topology};
use crate::trace::{TRACEPARENT, TRACESTATE};

/// Of the AMQP 0-9-1 bindings.
const BINDING_VERSION: &str = "0.3.0";
const PERSISTENT: u8 = 2;

pub(super) fn document(topology: &Topology) -> Value {
    let mut schemas = Map::new();
    let request = with_definitions_in(&mut schemas, "TurnRequest", types::request());
    with_definitions_in(&mut schemas, "Control", schema::control());
    let description = with_definitions_in(&mut schemas, "TurnDescription", schema::description());
    let event = schema::event();
    let types: Vec<String> = (event["oneOf"].as_array().into_iter().flatten())
        .filter_map(|choice| Some(choice["$ref"].as_str()?.rsplit_once('/')?.1.to_owned()))
        .collect();
    with_definitions_in(&mut schemas, "TurnEvent", event);

    let mut messages = Map::new();
    messages.insert(
        "request".to_owned(),
        json!({
            "title": "A turn to be run",
            "contentType": "application/json",
            "headers": trace_headers(),
            "correlationId": { "location": "$message.payload#/turn_id" },
            "payload": request,
        }),
    );
    messages.insert("cancel".to_owned(), control("Ends a turn", "Cancel"));
    let mut question = control("Asks where a turn is", "Describe");
    question["headers"] = json!({ "type": "object", "properties": {
        "reply_to": {
            "description": "The AMQP property: the queue for the answer, one named by the broker or with a name that ends \
                            in a UUID.",
            "type": "string",
        },
    }, "required": ["reply_to"] });
    messages.insert("describe".to_owned(), question);
    messages.insert(
        "description".to_owned(),
        json!({
            "title": "Where a turn is",
            "description": "Its correlation_id is the question's.",
            "contentType": "application/json",
            "payload": description,
            "bindings": { "amqp": { "messageType": DESCRIPTION, "bindingVersion": BINDING_VERSION } },
        }),
    );
    messages.insert("rejected".to_owned(), rejected());
    for name in &types {
        messages.insert(name.clone(), event_message(name, &schemas));
    }

    json!({
        "asyncapi": "3.0.0",
        "id": format!("urn:codex-turn-worker:v{VERSION}"),
        "info": {
            "title": "codex-turn-worker",
            "version": VERSION.to_string(),
            "description": "Turns of a coding agent, from a queue. This describes the worker: \
                            what it receives, a producer sends, and the other way round. \
                            docs/EVENTS.md describes its meaning.",
            "license": { "name": "MIT" },
        },
        "defaultContentType": "application/json",
        "channels": channels(topology, &types),
        "operations": operations(),
        "components": { "messages": messages, "schemas": schemas },
    })
}

fn control(title: &str, schema: &str) -> Value {
    json!({
        "title": title,
        "contentType": "application/json",
        "correlationId": { "location": "$message.payload#/turn_id" },
        "payload": { "$ref": format!("#/components/schemas/{schema}") },
    })
}

fn channels(topology: &Topology, types: &[String]) -> Value {
    let message = |name: &str| json!({ "$ref": format!("#/components/messages/{name}") });
    let events: Map<String, Value> = types
        .iter()
        .map(|name| (name.clone(), message(name)))
        .collect();
    json!({
        "requests": {
            "address": REQUEST_KEY,
            "description": "Turns to run. Publish them persistent, mandatory, with publisher confirms, and without \
                            `expiration`; one is accepted when the broker has confirmed it.",
            "messages": { "request": message("request") },
            "bindings": exchange(&topology.requests, "direct"),
        },
        "events": {
            "address": "{turn_id}",
            "description": "What happens to the turns. Bind a queue of your own before you publish the request.",
            "parameters": { "turn_id": { "description": "The routing key: the turn's id, `*` for all." } },
            "messages": events.clone(),
            "bindings": exchange(&topology.events, "topic"),
        },
        "eventLog": {
            "address": topology.log,
            "description": "All events, kept for those who come late, where the operator wants that: a stream, read with \
                            acks, a prefetch and the argument `x-stream-offset`; `x-stream-filter` asks for one turn.",
            "messages": events,
            "bindings": queue(&topology.log),
        },
        "control": {
            "address": "any",
            "description": "Cancels, and questions where a turn is; any routing key will do. Publish them mandatory, and \
                            again if no `message_end` or no answer follows.",
            "messages": { "cancel": message("cancel"), "describe": message("describe") },
            "bindings": exchange(&topology.control, "fanout"),
        },
        "answers": {
            "address": null,
            "description": "Where a turn is: sent to the queue that the question names in `reply_to`.",
            "messages": { "description": message("description") },
        },
        "rejected": {
            "address": topology.dead,
            "description": "Requests that were not accepted, for operators.",
            "messages": { "rejected": message("rejected") },
            "bindings": queue(&topology.dead),
        },
    })
}

fn operations() -> Value {
    let channel = |name: &str| json!({ "$ref": format!("#/channels/{name}") });
    json!({
        "takeTurn": {
            "action": "receive",
            "title": "A producer enqueues a turn",
            "channel": channel("requests"),
            "reply": { "channel": channel("events") },
            "bindings": {
                "amqp": {
                    "deliveryMode": PERSISTENT,
                    "mandatory": true,
                    "timestamp": true,
                    "ack": true,
                    "bindingVersion": BINDING_VERSION,
                },
            },
        },
        "tellEvent": {
            "action": "send",
            "title": "The worker publishes what happens to a turn",
            "channel": channel("events"),
            "bindings": {
                "amqp": { "deliveryMode": PERSISTENT, "mandatory": false, "bindingVersion": BINDING_VERSION },
            },
        },
        "takeCancel": {
            "action": "receive",
            "title": "A client cancels a turn",
            "channel": channel("control"),
            "messages": [{ "$ref": "#/channels/control/messages/cancel" }],
            "bindings": {
                "amqp": { "mandatory": true, "bindingVersion": BINDING_VERSION },
            },
        },
        "describeTurn": {
            "action": "receive",
            "title": "A producer asks where a turn is",
            "channel": channel("control"),
            "messages": [{ "$ref": "#/channels/control/messages/describe" }],
            "reply": {
                "address": { "location": "$message.header#/reply_to" },
                "channel": channel("answers"),
            },
            "bindings": {
                "amqp": { "mandatory": true, "bindingVersion": BINDING_VERSION },
            },
        },
        "keepRejected": {
            "action": "send",
            "title": "The worker keeps a request that it can't accept",
            "channel": channel("rejected"),
            "bindings": {
                "amqp": { "deliveryMode": PERSISTENT, "mandatory": true, "bindingVersion": BINDING_VERSION },
            },
        },
    })
}

fn exchange(name: &str, kind: &str) -> Value {
    json!({
        "amqp": {
            "is": "routingKey",
            "exchange": { "name": name, "type": kind, "durable": true, "autoDelete": false },
            "bindingVersion": BINDING_VERSION,
        },
    })
}

fn queue(name: &str) -> Value {
    json!({
        "amqp": {
            "is": "queue",
            "queue": { "name": name, "durable": true, "exclusive": false, "autoDelete": false },
            "bindingVersion": BINDING_VERSION,
        },
    })
}

fn event_message(name: &str, schemas: &Map<String, Value>) -> Value {
    json!({
        "name": name,
        "title": name,
        "description": schemas[name]["description"],
        "contentType": "application/json",
        "headers": event_headers(),
        "correlationId": { "location": "$message.payload#/turn_id" },
        "payload": { "$ref": format!("#/components/schemas/{name}") },
        "bindings": { "amqp": { "messageType": name, "bindingVersion": BINDING_VERSION } },
    })
}

fn event_headers() -> Value {
    let mut headers = trace_headers();
    headers["properties"][FILTER_VALUE] = json!({
        "description": "The turn's id, for readers of the event log.",
        "type": "string",
    });
    headers
}

/// Those of the request come back on its events.
fn trace_headers() -> Value {
    json!({
        "type": "object",
        "properties": {
            TRACEPARENT: {
                "description": "The trace that the turn belongs to, of W3C Trace Context.",
                "type": "string",
            },
            TRACESTATE: {
                "description": "What belongs to that traceparent.",
                "type": "string",
            },
        },
    })
}

fn rejected() -> Value {
    json!({
        "title": "A request that was not accepted",
        "description": "As it came, cut off where it is too large.",
        "contentType": "application/json",
        "headers": {
            "type": "object",
            "properties": {
                CODE_HEADER: { "$ref": "#/components/schemas/ErrorCode" },
                MESSAGE_HEADER: {
                    "description": "What is wrong with it, for people.",
                    "type": "string",
                },
            },
            "required": [CODE_HEADER, MESSAGE_HEADER],
        },
        "payload": {},
    })
}

/// Moves a schema and what it refers to where AsyncAPI has its schemas, and
/// returns a reference to it.
fn with_definitions_in(schemas: &mut Map<String, Value>, name: &str, mut schema: Value) -> Value {
    if let Some(fields) = schema.as_object_mut() {
        fields.remove("$schema");
        fields.remove("$id");
        if let Some(Value::Object(definitions)) = fields.remove("$defs") {
            for (name, mut definition) in definitions {
                refer_to_components(&mut definition);
                schemas.insert(name, definition);
            }
        }
    }
    refer_to_components(&mut schema);
    schemas.insert(name.to_owned(), schema);
    json!({ "$ref": format!("#/components/schemas/{name}") })
}

fn refer_to_components(schema: &mut Value) {
    match schema {
        Value::Array(items) => items.iter_mut().for_each(refer_to_components),
        Value::Object(fields) => {
            for (key, value) in fields {
                match value {
                    Value::String(target) if key == "$ref" => {
                        *target = target.replace("#/$defs/", "#/components/schemas/");
                    }
                    value => refer_to_components(value),
                }
            }
        }
        _ => {}
    }
}
