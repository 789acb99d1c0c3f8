//! Read by hand from a JSON value, so that every violation has its field's
//! path and all of them are found in one pass.

use std::collections::BTreeSet;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Map, Value};

use super::ids::{MODEL_NAME_RULE, TENANT_RULE, is_model_name, is_tenant};
use super::messages::{self, IgnoredParts, Prompt};
use super::notices;
use super::rejection::{Violations, quoted, shown};
use super::repeated_fields::repeated_fields;
use super::unreadable::{Finding, no_object, unreadable};
use super::{
    IdError, Image, Limits, MAX_IMAGES, MAX_OUTPUT_SCHEMA_BYTES, Metadata, ModelChoice,
    OutputSchema, Properties, Rejection, Scan, TurnId, TurnRequest, WorkspaceId, json,
};
use crate::trace::{TRACEPARENT, TRACESTATE, TraceContext};

/// How deep `metadata` may be nested: what is accepted must be readable again
/// inside an offer, an event, a journal record.
pub(super) const MAX_METADATA_DEPTH: usize = 32;
/// As deep; the model's API allows ten levels of objects, each of which takes
/// three in a schema.
pub(super) const MAX_OUTPUT_SCHEMA_DEPTH: usize = 64;

/// serde_json gives objects with a first key that starts so a meaning of its own,
/// and so may readers of our events.
pub(super) const SERDE_JSON_PRIVATE: &str = "$serde_json::private::";

impl TurnRequest {
    /// Reads a request's body.
    ///
    /// # Errors
    ///
    /// All violations that were found, at most so many as a [`Rejection`] keeps.
    pub fn parse(
        body: &[u8],
        limits: &Limits,
        properties: &Properties<'_>,
    ) -> Result<Self, Rejection> {
        if body.len() > limits.max_request_bytes {
            let found = format!("{} bytes", body.len());
            let rule = format!("at most {} bytes", limits.max_request_bytes);
            return Err(of_the_body(
                (found, rule),
                &Scan::of(body),
                limits,
                properties,
            ));
        }
        match json::read(body) {
            Ok((value, repeats)) => Self::from_value(body, &value, repeats, limits, properties),
            Err(why) => {
                let scan = Scan::of(body);
                let finding = unreadable(body, &why, &scan, properties);
                Err(of_the_body(finding, &scan, limits, properties))
            }
        }
    }

    fn from_value(
        body: &[u8],
        value: &Value,
        repeats: bool,
        limits: &Limits,
        properties: &Properties<'_>,
    ) -> Result<Self, Rejection> {
        let Some(fields) = value.as_object() else {
            let scan = Scan::of(body);
            let finding = no_object(value, &scan);
            return Err(of_the_body(finding, &scan, limits, properties));
        };
        let mut reader = Reader {
            body,
            fields,
            limits,
            violations: Violations::default(),
        };
        if repeats {
            reader.repeated();
        }
        let turn_id = reader.turn_id();
        let workspace = reader.workspace();
        let prompt = reader.prompt();
        let model = reader.model();
        let reasoning_effort = reader.model_choice("reasoning_effort", limits.efforts.as_ref());
        let service_tier = reader.model_choice("service_tier", limits.service_tiers.as_ref());
        let tenant = reader.tenant();
        let seconds = "a whole number of seconds, at least 1";
        let timeout = reader.at_least_one("timeout_s", seconds);
        let start_within = reader.at_least_one("start_within_s", seconds);
        let max_attempts = reader.at_least_one("max_attempts", "a whole number, at least 1");
        let on_busy = reader.choice("on_busy");
        let thread = reader.choice("thread");
        let metadata = reader.metadata();
        let output_schema = reader.output_schema();
        let enqueued_at = reader.enqueued_at();
        let trace = properties.trace().or_else(|| reader.trace());

        match (turn_id, workspace, prompt) {
            (Some(turn_id), Some(workspace), Some((prompt, images, ignored)))
                if reader.violations.is_empty() =>
            {
                let mut notices = notices::handed_on(fields.get("notices"), limits);
                notices.extend(notices::found(&ignored, properties));
                Ok(Self {
                    turn_id,
                    workspace,
                    prompt,
                    images,
                    model,
                    reasoning_effort,
                    service_tier,
                    tenant,
                    timeout: timeout.map(Duration::from_secs),
                    max_attempts: max_attempts.map(|n| u32::try_from(n).unwrap_or(u32::MAX)),
                    start_within: start_within.map(Duration::from_secs),
                    on_busy,
                    thread,
                    metadata,
                    output_schema,
                    enqueued_at: enqueued_at.or(properties.timestamp()),
                    trace,
                    notices,
                })
            }
            (turn_id, workspace, _) => {
                let turn_id = turn_id.or(properties.turn_id());
                Err(reader
                    .violations
                    .reject(turn_id, workspace, metadata, trace))
            }
        }
    }
}

/// The body as a whole is at fault: its sender is answered under the id that
/// can be found in it all the same.
fn of_the_body(
    (found, rule): Finding,
    scan: &Scan,
    limits: &Limits,
    properties: &Properties<'_>,
) -> Rejection {
    let mut violations = Violations::default();
    violations.add("body", found, rule);
    let turn_id = scan.turn_id.as_ref().and_then(|id| id.parse().ok());
    let workspace = scan.workspace.as_ref();
    let workspace = workspace.and_then(|name| WorkspaceId::parse(name, &limits.roots).ok());
    let turn_id = turn_id.or_else(|| properties.turn_id());
    violations.reject(turn_id, workspace, None, properties.trace())
}

impl Properties<'_> {
    fn turn_id(&self) -> Option<TurnId> {
        let of = |id: Option<&str>| id?.parse().ok();
        of(self.message_id).or_else(|| of(self.correlation_id))
    }

    fn trace(&self) -> Option<Arc<TraceContext>> {
        TraceContext::read(self.traceparent?, self.tracestate).map(Arc::new)
    }

    fn timestamp(&self) -> Option<Timestamp> {
        Timestamp::from_second(i64::try_from(self.timestamp?).ok()?).ok()
    }
}

/// Each field's method returns its value, or `None` if it is absent or
/// wrong; what is wrong has been noted then.
struct Reader<'a> {
    /// The text that `fields` were read from.
    body: &'a [u8],
    fields: &'a Map<String, Value>,
    limits: &'a Limits,
    violations: Violations,
}

impl<'a> Reader<'a> {
    /// A field that is there; `null` is as good as absent.
    fn present(&self, field: &str) -> Option<&'a Value> {
        self.fields.get(field).filter(|value| !value.is_null())
    }

    fn violates(&mut self, field: &str, rule: impl Into<String>) {
        let found = shown(self.fields.get(field));
        self.violations.add(field, found, rule);
    }

    /// Another reader may take the other one.
    fn repeated(&mut self) {
        for path in repeated_fields(self.body) {
            let path = path.escape_debug().to_string();
            let rule = "each field of an object once";
            self.violations
                .add(path, "it more than once".to_owned(), rule);
        }
    }

    fn turn_id(&mut self) -> Option<TurnId> {
        let text = self.present("turn_id").and_then(Value::as_str);
        match text.unwrap_or_default().parse::<TurnId>() {
            Ok(id) => Some(id),
            Err(rule) => {
                self.violates("turn_id", rule.to_string());
                None
            }
        }
    }

    fn workspace(&mut self) -> Option<WorkspaceId> {
        let Some(text) = self.present("workspace").and_then(Value::as_str) else {
            self.violates("workspace", IdError::Workspace.to_string());
            return None;
        };
        match WorkspaceId::parse(text, &self.limits.roots) {
            Ok(id) => Some(id),
            Err(rule) => {
                self.violations
                    .add_workspace(quoted(text), rule.to_string());
                None
            }
        }
    }

    fn prompt(&mut self) -> Option<(String, Vec<Image>, IgnoredParts)> {
        let Some(messages) = self.present("messages").and_then(Value::as_array) else {
            self.violates("messages", "an array of messages");
            return None;
        };
        let Prompt { index, text } = messages::prompt(messages, &mut self.violations)?;
        let content = messages
            .get(index)
            .and_then(|message| message.get("content"));
        let images = images(index, content, &mut self.violations);
        let chars = text.chars().count();
        let limit = self.limits.max_prompt_chars;
        if chars > limit {
            let found = format!("a prompt of {chars} characters");
            let rule = format!("a prompt of at most {limit} characters");
            self.violations.add("messages", found, rule);
            return None;
        }
        Some((text, images, IgnoredParts::beside(messages, Some(index))))
    }

    fn tenant(&mut self) -> Option<String> {
        let value = self.present("tenant")?;
        let name = value.as_str().filter(|name| is_tenant(name));
        if name.is_none() {
            self.violates("tenant", TENANT_RULE);
        }
        name.map(str::to_owned)
    }

    fn model(&mut self) -> Option<String> {
        let value = self.present("model")?;
        let Some(name) = value.as_str().filter(|name| is_model_name(name)) else {
            self.violates("model", MODEL_NAME_RULE);
            return None;
        };
        match &self.limits.models {
            Some(list) if !list.contains(name) => {
                let list: Vec<&str> = list.iter().map(String::as_str).collect();
                self.violates("model", format!("one of {}", list.join(", ")));
                None
            }
            _ => Some(name.to_owned()),
        }
    }

    /// One of those that the operator allows.
    fn model_choice<C: ModelChoice>(
        &mut self,
        field: &str,
        listed: Option<&BTreeSet<C>>,
    ) -> Option<C> {
        let value = self.present(field)?;
        let named: Option<C> = value.as_str().and_then(|name| name.parse().ok());
        let taken = named.filter(|choice| listed.is_none_or(|listed| listed.contains(choice)));
        if taken.is_none() {
            self.violates(field, C::rule(listed));
        }
        taken
    }

    fn at_least_one(&mut self, field: &str, rule: &str) -> Option<u64> {
        let number = whole(self.present(field)?).filter(|n| *n >= 1);
        if number.is_none() {
            self.violates(field, rule);
        }
        number
    }

    /// One of a closed set, its default where the field is absent.
    fn choice<C: FromStr<Err = String> + Default>(&mut self, field: &str) -> C {
        let Some(value) = self.present(field) else {
            return C::default();
        };
        value
            .as_str()
            .unwrap_or_default()
            .parse()
            .unwrap_or_else(|allowed: String| {
                self.violates(field, allowed);
                C::default()
            })
    }

    fn metadata(&mut self) -> Option<Metadata> {
        const FIELD: &str = "metadata";
        let value = self.present(FIELD)?;
        if !value.is_object() {
            self.violates(FIELD, "an object");
            return None;
        }
        let (depth, limit) = (MAX_METADATA_DEPTH, self.limits.max_metadata_bytes);
        let read = passes_on(value, value.to_string().len(), depth, limit).and_then(|()| {
            // Again, as integers may be longer than the floats of a value.
            let metadata = json::raw_field(self.body, FIELD).and_then(Metadata::new);
            let bytes = metadata
                .as_ref()
                .map_or(0, |metadata| metadata.text().len());
            passes_on(value, bytes, depth, limit).map(|()| metadata)
        });
        read.unwrap_or_else(|(found, rule)| {
            self.violations.add(FIELD, found, rule);
            None
        })
    }

    fn output_schema(&mut self) -> Option<OutputSchema> {
        const FIELD: &str = "output_schema";
        let value = self.present(FIELD)?;
        // As it was written: a value has lost the order of its fields.
        let schema = json::raw_field(self.body, FIELD).and_then(OutputSchema::new);
        let Some(schema) = schema.filter(|_| value.is_object()) else {
            self.violates(FIELD, "a JSON Schema that is an object");
            return None;
        };
        let (depth, limit) = (MAX_OUTPUT_SCHEMA_DEPTH, MAX_OUTPUT_SCHEMA_BYTES);
        match passes_on(value, schema.text().len(), depth, limit) {
            Ok(()) => Some(schema),
            Err((found, rule)) => {
                self.violations.add(FIELD, found, rule);
                None
            }
        }
    }

    fn enqueued_at(&mut self) -> Option<Timestamp> {
        let value = self.present("enqueued_at")?;
        let time = value.as_str().and_then(|text| text.parse().ok());
        if time.is_none() {
            self.violates("enqueued_at", "a time in RFC 3339");
        }
        time
    }

    /// All other content is accepted: a trace that is broken on
    /// its way must not cost a turn.
    fn trace(&self) -> Option<Arc<TraceContext>> {
        let text = |field| self.present(field).and_then(Value::as_str);
        TraceContext::read(text(TRACEPARENT)?, text(TRACESTATE)).map(Arc::new)
    }
}

/// JSON has one type of numbers: 60.0 is 60.
fn whole(value: &Value) -> Option<u64> {
    const BEYOND: f64 = 18_446_744_073_709_551_616.0;
    let float = || {
        let float = value.as_f64()?;
        ((0.0..BEYOND).contains(&float) && float.fract() == 0.0).then_some(float as u64)
    };
    value.as_u64().or_else(float)
}

/// The images of the message that the prompt is taken from, but for wrong ones.
fn images(index: usize, content: Option<&Value>, violations: &mut Violations) -> Vec<Image> {
    let blocks = content.and_then(Value::as_array);
    let mut images = Vec::new();
    let mut count = 0;
    for (at, block) in blocks.into_iter().flatten().enumerate() {
        if block.get("type").and_then(Value::as_str) != Some("image") {
            continue;
        }
        count += 1;
        if count <= MAX_IMAGES {
            let at = format!("messages[{index}].content[{at}].source");
            let source = block.get("source").unwrap_or(&Value::Null);
            images.extend(Image::read(&at, source, violations));
        }
    }
    if count > MAX_IMAGES {
        let rule = format!("at most {MAX_IMAGES} images with a prompt");
        let field = format!("messages[{index}].content");
        violations.add(field, format!("{count} images"), rule);
    }
    images
}

/// Whether an object from a stranger can be handed on to others; else what was
/// found, and what is allowed.
fn passes_on(
    value: &Value,
    bytes: usize,
    max_depth: usize,
    max_bytes: usize,
) -> Result<(), (String, String)> {
    Err(if json::is_deeper(value, max_depth) {
        let rule = format!("an object nested at most {max_depth} deep");
        ("a deeper one".to_owned(), rule)
    } else if has_private_key(value) {
        let found = format!("a key that begins with {SERDE_JSON_PRIVATE}");
        (found, "an object without such keys".to_owned())
    } else if bytes > max_bytes {
        let rule = format!("at most {max_bytes} bytes of JSON");
        (format!("{bytes} bytes"), rule)
    } else {
        return Ok(());
    })
}

fn has_private_key(value: &Value) -> bool {
    match value {
        Value::Array(items) => items.iter().any(has_private_key),
        Value::Object(map) => map
            .iter()
            .any(|(key, value)| key.starts_with(SERDE_JSON_PRIVATE) || has_private_key(value)),
        _ => false,
    }
}
