//! The contract with producers as documents: JSON Schemas of what they send
//! and get, and an AsyncAPI document of where it goes.
//!
//! All of it is made from the types that carry the contract, so that it can't
//! say anything else than they do. `docs/contract/` holds the documents as
//! files, with examples; `ops/contract` writes them, and tests compare.

mod asyncapi;
mod schema;
mod types;

use serde_json::Value;

use crate::amqp::topology::Topology;

/// Raised when something that was promised is taken back, which is not planned.
pub const VERSION: u32 = 1;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
/// A file in `docs/contract/`.
pub enum Document {
    /// The request, with every rule that the worker checks.
    Request,
    /// The request for generators of types.
    RequestTypes,
    /// The events of a turn.
    Event,
    /// Messages to the control exchange.
    Control,
    /// The answer to "where is my turn?".
    Description,
    /// All channels and messages.
    AsyncApi,
}

impl Document {
    /// All of them.
    pub const ALL: &'static [Self] = &[
        Self::Request,
        Self::RequestTypes,
        Self::Event,
        Self::Control,
        Self::Description,
        Self::AsyncApi,
    ];

    /// The name of the file.
    pub const fn file_name(self) -> &'static str {
        match self {
            Self::Request => "request.schema.json",
            Self::RequestTypes => "request-types.schema.json",
            Self::Event => "event.schema.json",
            Self::Control => "control.schema.json",
            Self::Description => "description.schema.json",
            Self::AsyncApi => "asyncapi.json",
        }
    }

    /// `topology`: what the objects on the broker are called.
    pub fn value(self, topology: &Topology) -> Value {
        match self {
            Self::Request => schema::request(),
            Self::RequestTypes => types::request(),
            Self::Event => schema::event(),
            Self::Control => schema::control(),
            Self::Description => schema::description(),
            Self::AsyncApi => asyncapi::document(topology),
        }
    }

    /// As it stands in its file.
    pub fn text(self, topology: &Topology) -> String {
        format!("{:#}\n", self.value(topology))
    }
}

/// The fields that a request may have.
pub fn request_fields() -> Vec<String> {
    fields(&schema::request())
}

/// The fields that a control message with this action may have; those of a
/// cancel if there is no such action.
pub fn control_fields(message: &Value) -> Vec<String> {
    let schema = schema::control();
    let choices = schema["$defs"].as_object().into_iter().flatten();
    let mut choices = choices.map(|(_, choice)| choice);
    let of = choices.find(|choice| {
        let action = &choice["properties"]["action"]["const"];
        action.is_string() && *action == message["action"]
    });
    fields(of.unwrap_or(&schema["$defs"]["Cancel"]))
}

fn fields(schema: &Value) -> Vec<String> {
    let fields = schema["properties"].as_object().into_iter().flatten();
    fields.map(|(name, _)| name.clone()).collect()
}

#[cfg(test)]
mod tests;
