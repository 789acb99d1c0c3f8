//! An answer that was to be JSON, as the value that it is.

use serde_json::Value;

use crate::request::json::{self, Unreadable};

/// How deep it may be nested: readers must be able to read the event that it
/// stands in.
const MAX_DEPTH: usize = 64;

/// The value that the last message holds, or why it holds no value.
pub(super) fn read(text: Option<&str>) -> Result<Value, String> {
    let because = |why: &str| {
        format!("the request has an output_schema, but the last message is no JSON for it: {why}")
    };
    let text = text.ok_or_else(|| because("there is none"))?;
    match json::from_slice(text.as_bytes()) {
        Ok(value) if json::is_deeper(&value, MAX_DEPTH) => {
            Err(because(&format!("it is nested more than {MAX_DEPTH} deep")))
        }
        Ok(value) => Ok(value),
        Err(Unreadable::NotJson(error)) => Err(because(&error.to_string())),
        Err(error @ Unreadable::TooManyValues) => Err(because(&error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_last_message_is_a_value_or_a_notice_says_why_not() {
        let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        for (text, value) in [
            (
                r#" {"b": [1, 2.5], "a": null} "#,
                json!({"a": null, "b": [1, 2.5]}),
            ),
            ("null", json!(null)),
            ("\"word\"", json!("word")),
        ] {
            assert_eq!(read(Some(text)), Ok(value));
        }
        assert!(read(Some(&nested(MAX_DEPTH))).is_ok());
        for (text, why) in [
            (None, "there is none"),
            (Some("Here it is: {}"), "expected value at line 1 column 1"),
            (Some("{} {}"), "trailing characters at line 1 column 4"),
            (Some(&*nested(MAX_DEPTH + 1)), "nested more than 64 deep"),
            (Some(&*nested(10_000)), "recursion limit exceeded"),
            (
                Some(&*format!("[{}0]", "0,".repeat(70_000))),
                "more than 65536 values",
            ),
        ] {
            let told = read(text).unwrap_err();
            assert!(told.contains(why), "{told}");
        }
    }
}
