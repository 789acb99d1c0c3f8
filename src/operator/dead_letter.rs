//! One message of the dead queue. Everything in it but the reason is as a
//! stranger wrote it.

use jiff::Timestamp;
use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable};
use serde_json::{Map, Value, json};

use crate::amqp::consume::Delivery;
use crate::amqp::dead_letter::{CODE_HEADER, MESSAGE_HEADER};
use crate::request::Scan;

/// Of a header's tables within tables.
const MAX_DEPTH: usize = 8;

#[derive(Debug, Clone, PartialEq)]
pub struct DeadLetter {
    /// Its place in the queue: the oldest has 1.
    pub place: u64,
    /// Why it was not accepted; `None` if no worker put it there.
    pub code: Option<String>,
    pub message: Option<String>,
    /// As the worker found it, or else as it stands in the body.
    pub turn_id: Option<String>,
    /// As it stands in the body.
    pub workspace: Option<String>,
    /// To the second; `None` if an older worker put it there.
    pub rejected_at: Option<Timestamp>,
    /// All headers, as JSON.
    pub headers: Map<String, Value>,
    /// The properties that are set, as JSON.
    pub properties: Map<String, Value>,
    pub body: Vec<u8>,
}

impl DeadLetter {
    /// The delivery is dropped unsettled: it stays held.
    pub(super) fn of(place: u64, delivery: Delivery) -> Self {
        Self::new(place, &delivery.properties, delivery.body)
    }

    fn new(place: u64, told: &BasicProperties, body: Vec<u8>) -> Self {
        let headers = told.headers().as_ref().map(table).unwrap_or_default();
        let header = |name: &str| headers.get(name).and_then(Value::as_str).map(str::to_owned);
        let named = Scan::of(&body);
        let id = |id: &lapin::types::ShortString| id.as_str().to_owned();
        let timestamp = *told.timestamp();
        let rejected_at = timestamp.and_then(|seconds| {
            let seconds = i64::try_from(seconds).ok()?;
            Timestamp::from_second(seconds).ok()
        });
        Self {
            place,
            code: header(CODE_HEADER),
            message: header(MESSAGE_HEADER),
            turn_id: told.message_id().as_ref().map(id).or(named.turn_id),
            workspace: named.workspace,
            rejected_at,
            properties: properties(told),
            headers,
            body,
        }
    }
}

fn properties(told: &BasicProperties) -> Map<String, Value> {
    let texts = [
        ("content_type", told.content_type()),
        ("content_encoding", told.content_encoding()),
        ("correlation_id", told.correlation_id()),
        ("reply_to", told.reply_to()),
        ("expiration", told.expiration()),
        ("message_id", told.message_id()),
        ("type", told.kind()),
        ("user_id", told.user_id()),
        ("app_id", told.app_id()),
    ];
    let texts = texts
        .into_iter()
        .filter_map(|(name, text)| Some((name, json!(text.as_ref()?.as_str()))));
    let numbers = [
        ("delivery_mode", told.delivery_mode().map(u64::from)),
        ("priority", told.priority().map(u64::from)),
        ("timestamp", *told.timestamp()),
    ];
    let numbers = numbers
        .into_iter()
        .filter_map(|(name, number)| Some((name, json!(number?))));
    texts
        .chain(numbers)
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
}

fn table(table: &FieldTable) -> Map<String, Value> {
    within(table, MAX_DEPTH)
}

fn within(table: &FieldTable, depth: usize) -> Map<String, Value> {
    let fields = table.inner().iter();
    fields
        .map(|(name, field)| (name.as_str().to_owned(), value(field, depth)))
        .collect()
}

/// Values that JSON can't express are shown as text.
fn value(field: &AMQPValue, depth: usize) -> Value {
    let lossy = |bytes: &[u8]| json!(String::from_utf8_lossy(bytes));
    match field {
        AMQPValue::Boolean(value) => json!(value),
        AMQPValue::ShortShortInt(value) => json!(value),
        AMQPValue::ShortShortUInt(value) => json!(value),
        AMQPValue::ShortInt(value) => json!(value),
        AMQPValue::ShortUInt(value) => json!(value),
        AMQPValue::LongInt(value) => json!(value),
        AMQPValue::LongUInt(value) => json!(value),
        AMQPValue::LongLongInt(value) => json!(value),
        AMQPValue::Float(value) => json!(value),
        AMQPValue::Double(value) => json!(value),
        AMQPValue::Timestamp(value) => json!(value),
        AMQPValue::ShortString(text) => json!(text.as_str()),
        AMQPValue::LongString(text) => lossy(text.as_bytes()),
        AMQPValue::ByteArray(bytes) => lossy(bytes.as_slice()),
        AMQPValue::FieldArray(_) | AMQPValue::FieldTable(_) if depth == 0 => json!("…"),
        AMQPValue::FieldArray(values) => {
            let values = values.as_slice().iter();
            values.map(|field| value(field, depth - 1)).collect()
        }
        AMQPValue::FieldTable(table) => Value::Object(within(table, depth - 1)),
        AMQPValue::Void => Value::Null,
        AMQPValue::DecimalValue(value) => json!(format!("{value:?}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn buried(body: &str) -> BasicProperties {
        let mut headers = FieldTable::default();
        headers.insert(
            CODE_HEADER.into(),
            AMQPValue::LongString("request.invalid".into()),
        );
        headers.insert("x-delivery-count".into(), AMQPValue::LongLongInt(2));
        BasicProperties::default()
            .with_headers(headers)
            .with_timestamp(u64::try_from(body.len()).unwrap())
    }

    fn letter(body: &str) -> DeadLetter {
        DeadLetter::new(1, &buried(body), body.as_bytes().to_vec())
    }

    #[test]
    fn it_reports_what_is_known_of_it() {
        let body = r#"{"turn_id":"t-01","workspace":"../a","messages":[],"timeout_s":-1}"#;
        let read = letter(body);
        assert_eq!(read.code.as_deref(), Some("request.invalid"));
        assert_eq!(read.message, None);
        assert_eq!(read.turn_id.as_deref(), Some("t-01"));
        assert_eq!(read.workspace.as_deref(), Some("../a"));
        assert_eq!(read.rejected_at.unwrap().as_second(), body.len() as i64);
        assert_eq!(read.headers["x-delivery-count"], 2);

        // The worker's finding counts more than the body's word.
        let properties = buried(body).with_message_id("m".into());
        let read = DeadLetter::new(7, &properties, body.as_bytes().to_vec());
        assert_eq!((read.place, read.turn_id.as_deref()), (7, Some("m")));
        assert_eq!(read.properties["message_id"], "m");
    }

    #[test]
    fn any_body_is_read() {
        for body in [
            "",
            "no JSON",
            "[]",
            r#"{"turn_id":7,"workspace":{"a":[]}}"#,
            r#"{"turn_id":null}"#,
            r#"{"turn_id":"cut"#,
        ] {
            let read = letter(body);
            assert_eq!((read.turn_id, read.workspace), (None, None), "{body}");
            assert_eq!(read.body, body.as_bytes());
        }
        let deep = "[".repeat(100_000);
        assert_eq!(letter(&format!(r#"{{"x":{deep}"#)).turn_id, None);
        // What the sequencer finds in a broken body is found here as well.
        let read = letter(&format!(r#"{{"turn_id":"t","workspace":"a","x":{deep}"#));
        assert_eq!(read.turn_id.as_deref(), Some("t"));
        assert_eq!(read.workspace.as_deref(), Some("a"));
    }

    #[test]
    fn g10_a_header_of_tables_within_tables_is_shown_in_part() {
        let mut inner = AMQPValue::LongString("\u{1b}[31mdeep".into());
        for _ in 0..20 {
            let mut table = FieldTable::default();
            table.insert("t".into(), inner);
            inner = AMQPValue::FieldTable(table);
        }
        let told = value(&inner, MAX_DEPTH).to_string();
        assert!(told.contains('…') && !told.contains("deep"), "{told}");
    }
}
