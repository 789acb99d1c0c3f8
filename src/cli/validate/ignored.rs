//! What of a message is not used: no fault, as the contract has it, but
//! perhaps a misspelling, or something that its sender counts on.

use serde_json::{Value, json};
use turn_worker::contract::{control_fields, request_fields};
use turn_worker::request::IgnoredParts;

use crate::cli::render::style::Style;

/// A misspelled field is so many letters away from the right one, at most.
const NEAR: usize = 2;

pub(super) struct Ignored {
    fields: Vec<Field>,
    omitted: usize,
}

struct Field {
    /// A field, or the path of a part of the messages.
    path: String,
    what: String,
    /// What was probably meant.
    meant: Option<String>,
}

impl Ignored {
    pub(super) fn in_request(body: &[u8]) -> Self {
        let Ok(body) = turn_worker::request::json::from_slice(body) else {
            return Self::none();
        };
        let IgnoredParts {
            listed, omitted, ..
        } = IgnoredParts::of(&body);
        let parts = listed.into_iter().map(|part| Field {
            path: part.path,
            what: part.what,
            meant: part.meant.map(str::to_owned),
        });
        let mut fields = unknown_fields(&body, &request_fields());
        fields.extend(parts);
        Self { fields, omitted }
    }

    pub(super) fn in_control(body: &[u8]) -> Self {
        let Ok(body) = turn_worker::request::json::from_slice(body) else {
            return Self::none();
        };
        Self {
            fields: unknown_fields(&body, &control_fields(&body)),
            omitted: 0,
        }
    }

    fn none() -> Self {
        Self {
            fields: Vec::new(),
            omitted: 0,
        }
    }

    pub(super) fn add_to(&self, told: &mut Value) {
        let ignored: Vec<Value> = (self.fields.iter())
            .map(|field| json!({ "field": field.path, "what": field.what, "meant": field.meant }))
            .collect();
        told["ignored"] = ignored.into();
        if self.omitted > 0 {
            told["ignored_omitted"] = self.omitted.into();
        }
    }

    pub(super) fn lines(&self, style: Style) -> Vec<String> {
        let line = |field: &Field| {
            let (path, what) = (field.path.escape_debug(), &field.what);
            let meant = field.meant.as_ref();
            let hint = meant.map_or_else(String::new, |meant| format!("; did you mean {meant}?"));
            style.yellow(&format!("ignored: {path}, {what}{hint}"))
        };
        let mut lines: Vec<String> = self.fields.iter().map(line).collect();
        if self.omitted > 0 {
            lines.push(style.yellow(&format!("ignored: {} more", self.omitted)));
        }
        lines
    }
}

fn unknown_fields(body: &Value, known: &[String]) -> Vec<Field> {
    let fields = body.as_object().into_iter().flatten();
    fields
        .map(|(field, _)| field)
        .filter(|field| !known.contains(field))
        .map(|field| {
            let near = known
                .iter()
                .map(|name| (strsim::levenshtein(name, field), name))
                .filter(|(distance, _)| *distance <= NEAR)
                .min();
            Field {
                path: field.clone(),
                what: "an unknown field".to_owned(),
                meant: near.map(|(_, name)| name.clone()),
            }
        })
        .collect()
}
