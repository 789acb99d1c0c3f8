//! JSON as it was written, laid out again: order, numbers and doubled keys stay
//! as they are, so that what is wrong with it can be seen.

use serde::de::IgnoredAny;

use super::clean::clean_json;

/// Deeper is no request, and only white space to look at.
const MAX_DEPTH: usize = 128;
/// Indented further, it would be white space mostly.
const MAX_INDENT: usize = 16;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Layout {
    /// On one line.
    Compact,
    /// For a person, and without what a terminal obeys.
    Pretty,
}

/// `None` if it is no JSON, or nested deeper than any request may be.
pub(crate) fn layout(json: &str, layout: Layout) -> Option<String> {
    serde_json::from_str::<IgnoredAny>(json).ok()?;
    let pretty = layout == Layout::Pretty;
    let mut out = String::with_capacity(json.len());
    let mut depth = 0;
    let mut chars = json.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => {
                let end = string_end(&json[at..]);
                let text = &json[at..at + end];
                out.push_str(&if pretty {
                    clean_json(text)
                } else {
                    text.to_owned()
                });
                while chars.next_if(|(inside, _)| *inside < at + end).is_some() {}
            }
            '{' | '[' => {
                out.push(c);
                depth += 1;
                if depth > MAX_DEPTH {
                    return None;
                }
                while chars.next_if(|(_, c)| c.is_ascii_whitespace()).is_some() {}
                if let Some((_, close)) = chars.next_if(|(_, c)| matches!(c, '}' | ']')) {
                    out.push(close);
                    depth -= 1;
                } else if pretty {
                    begin_line(&mut out, depth);
                }
            }
            '}' | ']' => {
                depth -= 1;
                if pretty {
                    begin_line(&mut out, depth);
                }
                out.push(c);
            }
            ',' => {
                out.push(c);
                if pretty {
                    begin_line(&mut out, depth);
                }
            }
            ':' => out.push_str(if pretty { ": " } else { ":" }),
            c if c.is_ascii_whitespace() => {}
            c => out.push(c),
        }
    }
    Some(out)
}

/// Of a string that starts at the first character: where it has ended.
fn string_end(json: &str) -> usize {
    let mut escaped = false;
    let inside = json.bytes().enumerate().skip(1);
    for (at, byte) in inside {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return at + 1,
            _ => {}
        }
    }
    json.len()
}

fn begin_line(out: &mut String, depth: usize) {
    out.push('\n');
    out.push_str(&"  ".repeat(depth.min(MAX_INDENT)));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_stays_as_it_is() {
        let json = " {\"b\":1.0e3, \"a\" : [ ] ,\n\"a\":[{},\"x\\\"]y\",-0]}";
        assert_eq!(
            layout(json, Layout::Pretty).unwrap(),
            "{\n  \"b\": 1.0e3,\n  \"a\": [],\n  \"a\": [\n    {},\n    \"x\\\"]y\",\n    -0\n  ]\n}"
        );
        assert_eq!(
            layout(json, Layout::Compact).unwrap(),
            "{\"b\":1.0e3,\"a\":[],\"a\":[{},\"x\\\"]y\",-0]}"
        );
        for scalar in ["1", "null", "\"a\""] {
            assert_eq!(layout(scalar, Layout::Pretty).as_deref(), Some(scalar));
        }
    }

    #[test]
    fn g8_no_string_in_it_moves_a_cursor() {
        let json = "{\"a\u{9b}31m\":\"\u{202e}x\"}";
        let told = layout(json, Layout::Pretty).unwrap();
        assert_eq!(told, "{\n  \"a\\u009b31m\": \"\\u202ex\"\n}");
    }

    #[test]
    fn g10_what_is_no_json_or_nested_without_end_is_left_alone() {
        let deep = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
        assert!(layout(&deep(127), Layout::Pretty).is_some());
        for text in ["", "{", "[1] [2]", "{\"a\":\"\u{1b}\"}", &deep(100_000)] {
            assert_eq!(layout(text, Layout::Pretty), None);
        }
    }
}
