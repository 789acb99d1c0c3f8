//! The schema of the answer that a turn is to give.

use serde_json::value::RawValue;

/// A JSON Schema, an object, in the words and the order in which it came: a
/// model writes an answer's fields in the order of its schema.
#[derive(Debug, Clone)]
pub struct OutputSchema(Box<RawValue>);

impl OutputSchema {
    /// Of a JSON text.
    pub(super) fn new(text: &RawValue) -> Option<Self> {
        RawValue::from_string(compact(text.get())).ok().map(Self)
    }

    /// In one line, without white space.
    pub fn text(&self) -> &str {
        self.0.get()
    }

    pub(crate) fn raw(&self) -> &RawValue {
        &self.0
    }
}

impl PartialEq for OutputSchema {
    fn eq(&self, other: &Self) -> bool {
        self.text() == other.text()
    }
}

/// Without the white space between the parts of a JSON text.
fn compact(text: &str) -> String {
    let (mut in_string, mut escaped) = (false, false);
    let keep = |c: &char| {
        if !in_string {
            in_string = *c == '"';
            return !c.is_ascii_whitespace();
        }
        in_string = escaped || *c != '"';
        escaped = !escaped && *c == '\\';
        true
    };
    text.chars().filter(keep).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_white_space_between_its_parts_is_left_out() {
        for (text, same) in [
            (
                "{ \"b\" :\n\t[1 , 2 ],\r\n\"a\": true }",
                r#"{"b":[1,2],"a":true}"#,
            ),
            (
                r#"{"a b": "c \" d \\" , "e" : "f\\\" g"}"#,
                r#"{"a b":"c \" d \\","e":"f\\\" g"}"#,
            ),
        ] {
            let raw: &RawValue = serde_json::from_str(text).unwrap();
            assert_eq!(OutputSchema::new(raw).unwrap().text(), same);
        }
    }
}
