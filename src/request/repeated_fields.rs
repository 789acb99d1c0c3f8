//! Finds fields that an object has more than once: JSON's readers differ in
//! which of them counts.

use std::cell::RefCell;
use std::collections::HashSet;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// How many are named; a body can have tens of thousands.
const MAX_FOUND: usize = 32;
/// A path is shown no further, in bytes.
const MAX_PATH: usize = 200;

/// The paths of the fields of a JSON text that are repeated, the first
/// [`MAX_FOUND`] of them.
pub(super) fn repeated_fields(text: &[u8]) -> Vec<String> {
    let found = RefCell::default();
    let seed = Seed {
        path: "",
        found: &found,
    };
    // What is no JSON has been rejected before.
    let _ = seed.deserialize(&mut serde_json::Deserializer::from_slice(text));
    found.into_inner()
}

#[derive(Clone, Copy)]
struct Seed<'a> {
    path: &'a str,
    found: &'a RefCell<Vec<String>>,
}

impl Seed<'_> {
    fn below(self, name: &str) -> String {
        let mut path = match (self.path, name.starts_with('[')) {
            ("", _) => name.to_owned(),
            (path, true) => format!("{path}{name}"),
            (path, false) => format!("{path}.{name}"),
        };
        path.truncate(path.floor_char_boundary(MAX_PATH));
        path
    }
}

impl<'de> DeserializeSeed<'de> for Seed<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Seed<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        for index in 0_usize.. {
            let path = self.below(&format!("[{index}]"));
            let seed = Seed {
                path: &path,
                ..self
            };
            if seq.next_element_seed(seed)?.is_none() {
                break;
            }
        }
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut seen = HashSet::new();
        while let Some(name) = map.next_key::<String>()? {
            let path = self.below(&name);
            if !seen.insert(name) {
                let mut found = self.found.borrow_mut();
                if found.len() == MAX_FOUND {
                    // The rest of it is not looked at.
                    map.next_value::<IgnoredAny>()?;
                    continue;
                }
                if !found.contains(&path) {
                    found.push(path.clone());
                }
            }
            let seed = Seed {
                path: &path,
                ..self
            };
            map.next_value_seed(seed)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_named_once_by_its_path() {
        let text =
            br#"{"a":1,"b":{"x":[{"c":1},{"c":1,"c":2,"c":3}]},"a":2,"\u0061":3,"d":{"a":1}}"#;
        assert_eq!(repeated_fields(text), ["b.x[1].c", "a"]);
        assert!(repeated_fields(br#"{"a":{"a":{"a":[]}},"b":null}"#).is_empty());
    }

    #[test]
    fn g10_what_is_kept_of_many_and_long_ones_is_bounded() {
        let long = "\u{e4}".repeat(10_000);
        let deep = format!(r#"{{"{long}":"#).repeat(100) + r#"{"a":1,"a":1}"# + &"}".repeat(100);
        let found = repeated_fields(deep.as_bytes());
        assert!(found.len() == 1 && found[0].len() <= MAX_PATH, "{found:?}");
        let fields: Vec<String> = (0..100).map(|n| format!(r#""{n}":0,"{n}":0"#)).collect();
        let many = format!("{{{}}}", fields.join(","));
        assert_eq!(repeated_fields(many.as_bytes()).len(), MAX_FOUND);
    }
}
