//! How a record stands on disk: `<crc32, 8 hex digits> <json>\n`, the JSON
//! beginning with its version. One record never holds a second newline, so
//! what a crash tears is always the last line.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// What this worker writes and the newest that it understands.
pub(super) const VERSION: u64 = 1;

/// How every line of this version starts, so that it is recognised without parsing.
const OUR_VERSION: &[u8] = br#"{"v":1,"#;

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Unreadable {
    /// Not what was written: torn by a crash, or damaged.
    Checksum,
    Newer(u64),
    /// Whole, of this version, and yet not understood.
    Meaning(String),
}

#[derive(Serialize)]
struct Versioned<'a, T> {
    v: u64,
    #[serde(flatten)]
    record: &'a T,
}

#[derive(Deserialize)]
struct Version {
    v: u64,
}

/// The whole line, newline and all. `record` must encode as a map.
pub(super) fn encode<T: Serialize>(record: &T) -> Vec<u8> {
    #[expect(
        clippy::expect_used,
        reason = "our records are maps with string keys and plain values"
    )]
    let json = serde_json::to_vec(&Versioned { v: VERSION, record }).expect("a record encodes");
    let mut line = format!("{:08x} ", crc32fast::hash(&json)).into_bytes();
    line.extend_from_slice(&json);
    line.push(b'\n');
    line
}

/// Checks checksum and version of a line (with or without its newline) and
/// gives its JSON.
pub(super) fn check(line: &[u8]) -> Result<&[u8], Unreadable> {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    let json = match line.split_at_checked(9) {
        Some((head, json)) if head == format!("{:08x} ", crc32fast::hash(json)).as_bytes() => json,
        _ => return Err(Unreadable::Checksum),
    };
    if !json.starts_with(OUR_VERSION) {
        let Version { v, .. } = serde_json::from_slice(json).map_err(meaning)?;
        if v > VERSION {
            return Err(Unreadable::Newer(v));
        }
    }
    Ok(json)
}

pub(super) fn parse<T: DeserializeOwned>(json: &[u8]) -> Result<T, Unreadable> {
    serde_json::from_slice(json).map_err(meaning)
}

pub(super) fn decode<T: DeserializeOwned>(line: &[u8]) -> Result<T, Unreadable> {
    parse(check(line)?)
}

fn meaning(error: serde_json::Error) -> Unreadable {
    Unreadable::Meaning(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Note {
        text: String,
    }

    fn sealed(json: &str) -> Vec<u8> {
        format!("{:08x} {json}\n", crc32fast::hash(json.as_bytes())).into_bytes()
    }

    proptest! {
        #[test]
        fn reads_back_what_it_wrote(text in ".*") {
            let note = Note { text };
            let line = encode(&note);
            prop_assert_eq!(line.iter().filter(|byte| **byte == b'\n').count(), 1);
            prop_assert_eq!(decode::<Note>(&line), Ok(note));
        }

        #[test]
        fn notices_any_changed_byte(text in ".{0,40}", at in any::<prop::sample::Index>(), flip in 1u8..) {
            let mut line = encode(&Note { text });
            line.pop();
            let at = at.index(line.len());
            line[at] ^= flip;
            prop_assert_eq!(check(&line), Err(Unreadable::Checksum));
        }
    }

    #[test]
    fn distinguishes_a_newer_version_from_damage() {
        assert_eq!(
            decode::<Note>(&sealed(r#"{"v":2,"other":[]}"#)),
            Err(Unreadable::Newer(2))
        );
        // Ours, though not in our order.
        let line = sealed(r#"{"text":"hi","v":1}"#);
        assert_eq!(decode(&line), Ok(Note { text: "hi".into() }));
        for json in [r#"{"v":1,"text":3}"#, r#"{"text":"hi"}"#, "[]"] {
            let read = decode::<Note>(&sealed(json));
            assert!(matches!(read, Err(Unreadable::Meaning(_))), "{json}");
        }
    }

    #[test]
    fn shorter_than_a_checksum_is_torn() {
        for line in [&b""[..], b"\n", b"0000", b"00000000"] {
            assert_eq!(check(line), Err(Unreadable::Checksum));
        }
    }
}
