//! JSON from strangers, as a [`Value`].
//!
//! `serde_json::from_slice::<Value>` gives objects with a certain first key a
//! meaning of their own when the feature `raw_value` is on: the text in them
//! is read as JSON, with a depth limit of its own. Texts within texts thus go
//! as deep as they like and overflow the stack, which ends the process. Here
//! an object is an object, and the one depth limit of 128 holds for all.
//!
//! An object of one field takes some hundred times the memory of its text, so
//! that a limit on bytes alone does not bound memory: values are counted, too.
//! A text that has too many is refused, or read without the rest of them.

use std::borrow::Cow;
use std::cell::Cell;
use std::fmt;
use std::marker::PhantomData;

use serde::de::{
    self, Deserialize, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor,
};
use serde_json::value::RawValue;
use serde_json::{Map, Number, Value};

/// The most values in one text: of each, also within others, and however small.
pub const MAX_VALUES: usize = 1 << 16;

/// Why a text is no value for us.
#[derive(Debug, thiserror::Error)]
pub enum Unreadable {
    /// It can't be parsed.
    #[error("it is no JSON")]
    NotJson(#[from] serde_json::Error),
    /// Reading it would take too much memory.
    #[error("it has more than {MAX_VALUES} values")]
    TooManyValues,
}

/// Of a field that an object has twice, the last counts.
pub fn from_slice(bytes: &[u8]) -> Result<Value, Unreadable> {
    read(bytes).map(|(value, _)| value)
}

/// With whether an object in it has a field twice.
pub(super) fn read(bytes: &[u8]) -> Result<(Value, bool), Unreadable> {
    let budget = Budget {
        left: Cell::new(Some(MAX_VALUES)),
        repeats: Cell::new(false),
    };
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let value = Counted(Limit::Refuse(&budget)).deserialize(&mut deserializer);
    if budget.left.get().is_none() {
        return Err(Unreadable::TooManyValues);
    }
    let value = value?;
    deserializer.end()?;
    Ok((value, budget.repeats.get()))
}

/// The text of a field of the object that a text holds: of the last of that
/// name, as a [`Value`] would have it.
pub(super) fn raw_field<'a>(object: &'a [u8], name: &str) -> Option<&'a RawValue> {
    RawField(name)
        .deserialize(&mut serde_json::Deserializer::from_slice(object))
        .ok()?
}

struct RawField<'n>(&'n str);

impl<'de> DeserializeSeed<'de> for RawField<'_> {
    type Value = Option<&'de RawValue>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for RawField<'_> {
    type Value = Option<&'de RawValue>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut found = None;
        while let Some(key) = map.next_key::<Cow<'de, str>>()? {
            if key == self.0 {
                found = Some(map.next_value()?);
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(found)
    }
}

/// Whether it has values within values more than `limit` times over.
pub(crate) fn is_deeper(value: &Value, limit: usize) -> bool {
    let mut inner: Box<dyn Iterator<Item = &Value>> = match value {
        Value::Array(items) => Box::new(items.iter()),
        Value::Object(map) => Box::new(map.values()),
        _ => return false,
    };
    limit == 0 || inner.any(|value| is_deeper(value, limit - 1))
}

/// For a field of a type that is read by derived code.
pub(crate) fn plain<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Value, D::Error> {
    Plain.deserialize(deserializer)
}

/// For a field that may be missing: a null is a value, too.
pub(crate) fn some_plain<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Value>, D::Error> {
    plain(deserializer).map(Some)
}

/// Reads a value without hidden meanings from any deserializer.
pub(crate) struct Plain;

impl<'de> DeserializeSeed<'de> for Plain {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        Counted(Limit::None).deserialize(deserializer)
    }
}

/// How many more values are read of one text, or of several together.
#[derive(Debug)]
pub(crate) struct Room(Cell<usize>);

impl Room {
    pub(crate) fn new() -> Self {
        Self(Cell::new(MAX_VALUES))
    }

    /// Reads as [`Plain`] does, leaving out what there is no room for: the last
    /// items of lists, and fields of objects. The value itself is always there.
    pub(crate) fn seed<'de>(&self) -> impl DeserializeSeed<'de, Value = Value> {
        Counted(Limit::LeaveOut(&self.0))
    }

    /// Reads a list of anything, as far as there is room.
    pub(crate) fn list<'de, T: Deserialize<'de>>(
        &self,
    ) -> impl DeserializeSeed<'de, Value = Vec<T>> {
        List(&self.0, PhantomData)
    }
}

struct List<'a, T>(&'a Cell<usize>, PhantomData<T>);

impl<'de, T: Deserialize<'de>> DeserializeSeed<'de> for List<'_, T> {
    type Value = Vec<T>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Vec<T>, D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de, T: Deserialize<'de>> Visitor<'de> for List<'_, T> {
    type Value = Vec<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Vec<T>, A::Error> {
        let mut items = Vec::new();
        while let Some(left) = self.0.get().checked_sub(1) {
            let Some(item) = seq.next_element()? else {
                return Ok(items);
            };
            self.0.set(left);
            items.push(item);
        }
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(items)
    }
}

/// As [`Plain`], of a limited number of values.
#[derive(Clone, Copy)]
struct Counted<'a>(Limit<'a>);

/// What is counted of one text.
struct Budget {
    /// `None` once there was a value too many.
    left: Cell<Option<usize>>,
    /// An object has a field twice.
    repeats: Cell<bool>,
}

#[derive(Clone, Copy)]
enum Limit<'a> {
    None,
    /// `None` inside once there was one too many.
    Refuse(&'a Budget),
    LeaveOut(&'a Cell<usize>),
}

impl Counted<'_> {
    fn has_room(self) -> bool {
        !matches!(self.0, Limit::LeaveOut(left) if left.get() == 0)
    }
}

impl<'de> DeserializeSeed<'de> for Counted<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        match self.0 {
            Limit::None => {}
            Limit::LeaveOut(left) => left.set(left.get().saturating_sub(1)),
            Limit::Refuse(Budget { left, .. }) => {
                left.set(left.get().and_then(|left| left.checked_sub(1)));
                if left.get().is_none() {
                    return Err(de::Error::custom(Unreadable::TooManyValues));
                }
            }
        }
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Counted<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while self.has_room() {
            match seq.next_element_seed(self)? {
                Some(item) => items.push(item),
                None => return Ok(Value::Array(items)),
            }
        }
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Value::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut fields = Map::new();
        while self.has_room() {
            let Some(key) = map.next_key()? else {
                return Ok(Value::Object(fields));
            };
            let before = fields.insert(key, map.next_value_seed(self)?);
            if let (Some(_), Limit::Refuse(budget)) = (before, self.0) {
                budget.repeats.set(true);
            }
        }
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Value::Object(fields))
    }
}
