//! A request's metadata, as it comes back on events.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use serde_json::Value;
use serde_json::value::RawValue;

use super::json;

/// An object, as compact JSON with its fields in the order of their names. An
/// integer keeps all of its digits, where a [`Value`] would have a float.
#[derive(Debug, Clone)]
pub struct Metadata(Box<RawValue>);

impl Metadata {
    /// Of a JSON text of bounded depth: it is read once for each level.
    /// Returns `None` if it is no object.
    pub(super) fn new(object: &RawValue) -> Option<Self> {
        let mut text = String::new();
        write(object, &mut text).ok()?;
        let text = Some(text).filter(|text| text.starts_with('{'))?;
        RawValue::from_string(text).ok().map(Self)
    }

    /// As compact JSON, an object.
    pub fn text(&self) -> &str {
        self.0.get()
    }
}

impl PartialEq for Metadata {
    fn eq(&self, other: &Self) -> bool {
        self.text() == other.text()
    }
}

impl Serialize for Metadata {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

/// From within an event, with its fields parsed to values by then: there an integer of
/// more than 64 bits is a float.
impl<'de> Deserialize<'de> for Metadata {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = json::plain(deserializer)?;
        if !value.is_object() {
            return Err(de::Error::custom("metadata is no object"));
        }
        let text = RawValue::from_string(value.to_string());
        text.map(Self).map_err(de::Error::custom)
    }
}

fn write(value: &RawValue, out: &mut String) -> serde_json::Result<()> {
    let text = value.get();
    match text.as_bytes().first() {
        Some(b'{') => {
            let fields: BTreeMap<Cow<'_, str>, &RawValue> = serde_json::from_str(text)?;
            out.push('{');
            for (index, (name, value)) in fields.into_iter().enumerate() {
                separate(index, out);
                out.push_str(&Value::from(name).to_string());
                out.push(':');
                write(value, out)?;
            }
            out.push('}');
        }
        Some(b'[') => {
            let items: Vec<&RawValue> = serde_json::from_str(text)?;
            out.push('[');
            for (index, value) in items.into_iter().enumerate() {
                separate(index, out);
                write(value, out)?;
            }
            out.push(']');
        }
        _ if is_integer(text) => out.push_str(text),
        _ => out.push_str(&serde_json::from_str::<Value>(text)?.to_string()),
    }
    Ok(())
}

fn separate(index: usize, out: &mut String) {
    if index > 0 {
        out.push(',');
    }
}

/// As JSON spells it, each integer has one spelling.
fn is_integer(text: &str) -> bool {
    let digits = text.strip_prefix('-').unwrap_or(text);
    digits.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn metadata(text: &str) -> Option<Metadata> {
        Metadata::new(serde_json::from_str(text).unwrap())
    }

    #[test]
    fn integers_keep_all_of_their_digits() {
        let text = r#"{ "b" : [12345678901234567890123, -98765432109876543210, -0, 1.50, 1e2],
                        "a\u0062": {"z": 18446744073709551616, "": "1\n"} }"#;
        let written = metadata(text).unwrap();
        assert_eq!(
            written.text(),
            r#"{"ab":{"":"1\n","z":18446744073709551616},"b":[12345678901234567890123,-98765432109876543210,-0,1.5,100.0]}"#
        );
        assert_eq!(metadata(written.text()).unwrap(), written);
        for text in ["[]", "5", "null", "\"{}\""] {
            assert!(metadata(text).is_none(), "{text}");
        }
    }

    fn values() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            ".*".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 32, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map(".*", inner, 0..4)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        /// So that what was accepted by older workers has the same fingerprint.
        #[test]
        fn all_else_is_written_as_a_value_is(value in prop::collection::btree_map(".*", values(), 0..4)) {
            let value = Value::Object(value.into_iter().collect());
            let written = metadata(&format!("{value:#}")).unwrap();
            prop_assert_eq!(written.text(), value.to_string());
        }
    }
}
