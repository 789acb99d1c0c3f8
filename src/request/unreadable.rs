//! What a body is instead of a JSON object, in words that name the cause.

use serde_json::Value;

use super::json::{MAX_VALUES, Unreadable};
use super::rejection::{quoted, shown};
use super::{BodyForm, Properties, Scan};

/// What is expected of any body.
const OBJECT: &str = "a JSON object in UTF-8";
/// The deepest nesting that is read.
const MAX_DEPTH: usize = 127;

/// What was found, and what is expected instead.
pub(super) type Finding = (String, String);

/// Of a body that is no JSON text, or one with too much in it.
pub(super) fn unreadable(
    body: &[u8],
    why: &Unreadable,
    scan: &Scan,
    properties: &Properties<'_>,
) -> Finding {
    match why {
        Unreadable::TooManyValues => (
            format!("more than {MAX_VALUES} JSON values"),
            format!("at most {MAX_VALUES} values, with all that are in others"),
        ),
        Unreadable::NotJson(error) => {
            form(body, scan, properties).unwrap_or_else(|| no_json(body, error, scan, properties))
        }
    }
}

/// Of a body that is JSON, and no object.
pub(super) fn no_object(value: &Value, scan: &Scan) -> Finding {
    let found = match value {
        Value::String(_) if scan.depth > 0 => "a string with JSON in it, encoded twice".to_owned(),
        _ => shown(Some(value)),
    };
    (found, OBJECT.to_owned())
}

/// What the first bytes show.
fn form(body: &[u8], scan: &Scan, properties: &Properties<'_>) -> Option<Finding> {
    let found = match scan.form {
        BodyForm::Plain if body.is_empty() => "an empty body".to_owned(),
        BodyForm::Plain => return None,
        BodyForm::ByteOrderMark => {
            let expected = format!("{OBJECT} without a byte order mark");
            return Some(("a UTF-8 byte order mark".to_owned(), expected));
        }
        BodyForm::Utf16 => "UTF-16".to_owned(),
        BodyForm::Utf32 => "UTF-32".to_owned(),
        BodyForm::Compressed(format) => format!("{format}{}", encoding(properties)),
        BodyForm::Amqp10 => {
            let expected = format!("{OBJECT} in a data section");
            return Some(("an AMQP 1.0 value as the body".to_owned(), expected));
        }
    };
    Some((found, OBJECT.to_owned()))
}

/// serde_json has no codes for its errors: their texts are matched, which the
/// tests below check against the version in use.
fn no_json(
    body: &[u8],
    error: &serde_json::Error,
    scan: &Scan,
    properties: &Properties<'_>,
) -> Finding {
    let at = offset(body, error.line(), error.column());
    let text = error.to_string();
    let is = |words: &str| text.starts_with(words);
    let of_object = |found: String| (found, OBJECT.to_owned());
    if is("recursion limit exceeded") {
        let found = format!("depth {}", scan.depth);
        return (found, format!("a depth of at most {MAX_DEPTH}"));
    }
    if is("number out of range") {
        let (start, number) = number_around(body, at);
        let expected = "numbers that a 64-bit float can represent".to_owned();
        return (format!("the number {number} at offset {start}"), expected);
    }
    // The first error may lie in bytes of another encoding.
    if let Err(error) = std::str::from_utf8(body) {
        let at = error.valid_up_to();
        let byte = body.get(at).copied().unwrap_or_default();
        let cut = error.error_len().is_none();
        if !cut {
            return of_object(format!(
                "bytes that are not UTF-8, first 0x{byte:02x} at offset {at}"
            ));
        }
    }
    if is("lone leading surrogate") || is("unexpected end of hex escape") {
        return (
            format!("a lone surrogate in a string, before offset {at}"),
            "both halves of a surrogate pair".to_owned(),
        );
    }
    if is("trailing characters") {
        let end = scan.end.unwrap_or(at);
        let object = if body.trim_ascii_start().starts_with(b"{") {
            "the object"
        } else {
            "the first value"
        };
        return (
            format!("more bytes after {object}, which ends at offset {end}"),
            format!("{OBJECT} and no more"),
        );
    }
    // In a string, the end of the body may come behind a line break.
    if error.is_eof() || (is("control character") && scan.depth > 0 && scan.end.is_none()) {
        let found = format!("a JSON text that is truncated after {} bytes", body.len());
        return of_object(found);
    }
    of_object(format!(
        "{} bytes that are no JSON ({error}){}{}",
        body.len(),
        encoding(properties),
        media_type(properties)
    ))
}

fn encoding(properties: &Properties<'_>) -> String {
    let encoding = properties.content_encoding.filter(|encoding| {
        !["", "utf-8", "utf8", "identity"].contains(&encoding.to_ascii_lowercase().as_str())
    });
    encoding.map_or_else(String::new, |encoding| {
        format!(" (content_encoding {})", quoted(encoding))
    })
}

fn media_type(properties: &Properties<'_>) -> String {
    let other = properties
        .content_type
        .filter(|kind| !kind.is_empty() && !kind.to_ascii_lowercase().contains("json"));
    other.map_or_else(String::new, |kind| {
        format!(" (content_type {})", quoted(kind))
    })
}

/// Lines and columns count from 1.
fn offset(body: &[u8], line: usize, column: usize) -> usize {
    let before = line.saturating_sub(1);
    let lines = body.split_inclusive(|byte| *byte == b'\n').take(before);
    let start: usize = lines.map(<[u8]>::len).sum();
    (start + column.saturating_sub(1)).min(body.len())
}

/// The number around an offset, in part where it is long, and where it starts.
fn number_around(body: &[u8], at: usize) -> (usize, String) {
    const MOST: usize = 40;
    let is_part = |byte: &&u8| byte.is_ascii_digit() || b"+-.eE".contains(byte);
    let before = body.get(..at).unwrap_or_default();
    let start = at - before.iter().rev().take_while(is_part).count();
    let number = body.get(start..).unwrap_or_default().iter();
    let number: Vec<u8> = number.take_while(is_part).copied().collect();
    let mut text = String::from_utf8_lossy(number.get(..MOST).unwrap_or(&number)).into_owned();
    if number.len() > MOST {
        text.push('…');
    }
    (start, text)
}

#[cfg(test)]
mod tests {
    use crate::request::{Limits, Properties, TurnRequest};

    fn found_with(body: &[u8], properties: &Properties<'_>) -> (String, String) {
        let rejection = TurnRequest::parse(body, &Limits::accepted(), properties).unwrap_err();
        let violation = &rejection.violations[0];
        assert_eq!(violation.field, "body");
        (violation.found.clone(), violation.rule.clone())
    }

    fn found(body: impl AsRef<[u8]>) -> String {
        found_with(body.as_ref(), &Properties::default()).0
    }

    #[test]
    fn the_cause_is_named() {
        let deep = |n: usize| format!(r#"{{"x":{}{}}}"#, "[".repeat(n), "]".repeat(n));
        for (body, text) in [
            ("", "an empty body"),
            ("\u{feff}{}", "a UTF-8 byte order mark"),
            ("[[{}],{},{}]", "an array of 3"),
            ("7", "7"),
            (
                r#""{\"turn_id\":\"t\"}""#,
                "a string with JSON in it, encoded twice",
            ),
            (&deep(199), "depth 200"),
            (r#"{"x":1e400}"#, "the number 1e400 at offset 5"),
            (r#"{"x":-1e400,"y":1}"#, "the number -1e400 at offset 5"),
            (
                r#"{"x":"\ud83d"}"#,
                "a lone surrogate in a string, before offset 12",
            ),
            (
                r#"{"x":"\ud83d y"}"#,
                "a lone surrogate in a string, before offset 12",
            ),
            (
                "{} {}",
                "more bytes after the object, which ends at offset 2",
            ),
            ("{}]", "more bytes after the object, which ends at offset 2"),
            (r#"{"x":[1,"#, "a JSON text that is truncated after 8 bytes"),
            (
                "{\"x\":\"a\n",
                "a JSON text that is truncated after 8 bytes",
            ),
            (
                "{\"x\":\"a\nb\"}",
                "11 bytes that are no JSON (control character (\\u0000-\\u001F) found while parsing a string at line 2 column 0)",
            ),
            (
                "Fix it",
                "6 bytes that are no JSON (expected value at line 1 column 1)",
            ),
            (
                r#"{"x":NaN}"#,
                "9 bytes that are no JSON (expected value at line 1 column 6)",
            ),
        ] {
            assert_eq!(found(body), text, "{body}");
        }
        let utf16: Vec<u8> = "\u{feff}{}"
            .encode_utf16()
            .flat_map(u16::to_le_bytes)
            .collect();
        assert_eq!(found(utf16), "UTF-16");
        assert_eq!(
            found(b"{\"x\":\"J\xfcrgen\"}"),
            "bytes that are not UTF-8, first 0xfc at offset 7"
        );
        assert_eq!(
            found(b"{\"x\":\"a \xf0\x9f"),
            "a JSON text that is truncated after 10 bytes"
        );
        assert_eq!(
            found(b"\0\x53\x77\xa1\x02{}"),
            "an AMQP 1.0 value as the body"
        );
    }

    #[test]
    fn properties_are_named_if_they_explain_it() {
        let properties = Properties {
            content_encoding: Some("gzip"),
            content_type: Some("application/x-python-serialize\n"),
            ..Properties::default()
        };
        let (found, expected) = found_with(b"\x1f\x8b\x08", &properties);
        assert_eq!(found, r#"gzip (content_encoding "gzip")"#);
        assert_eq!(expected, "a JSON object in UTF-8");
        let (found, _) = found_with(b"cos", &properties);
        let names =
            r#"(content_encoding "gzip") (content_type "application/x-python-serialize\n")"#;
        assert!(found.ends_with(names), "{found}");
        let plain = Properties {
            content_encoding: Some("UTF-8"),
            content_type: Some("application/json"),
            ..Properties::default()
        };
        let (found, _) = found_with(b"cos", &plain);
        assert!(!found.contains("content_"), "{found}");
    }
}
