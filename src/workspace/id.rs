//! The last look at ids from outside before a path is formed of them; their
//! own types have checked them before.

use super::error::{Rejection, StateError};

const MAX_SEGMENTS: usize = 4;
const MAX_SEGMENT: usize = 64;
const MAX_TURN_ID: usize = 128;

/// The segments of a workspace id: they are not empty, absolute, `.` or `..`, and
/// can't clash with a name of ours, as these start with `.` or `~`.
pub(super) fn segments(id: &str) -> Result<Vec<&str>, Rejection> {
    let segments: Vec<&str> = id.split('/').collect();
    if let Some(segment) = segments.iter().find(|segment| !is_segment(segment)) {
        return Err(Rejection::Segment {
            segment: (*segment).to_owned(),
        });
    }
    if segments.len() > MAX_SEGMENTS {
        return Err(Rejection::Depth {
            found: segments.len(),
        });
    }
    Ok(segments)
}

fn is_segment(segment: &str) -> bool {
    segment.len() <= MAX_SEGMENT
        && segment.starts_with(|first: char| first.is_ascii_alphanumeric())
        && segment.bytes().all(is_id_byte)
}

fn is_id_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-')
}

pub(super) fn turn_id(id: &str) -> Result<&str, StateError> {
    if id.is_empty() || id.len() > MAX_TURN_ID || !id.bytes().all(is_id_byte) {
        return Err(StateError::TurnId {
            found: id.to_owned(),
        });
    }
    Ok(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn g8_only_plain_relative_ids_become_paths() {
        let long = "a".repeat(MAX_SEGMENT);
        for id in ["a", "acme/website", "a/b/c/d", "A.b_c-9", &long] {
            assert!(segments(id).is_ok(), "{id}");
        }
        let longer = "a".repeat(MAX_SEGMENT + 1);
        for id in [
            "",
            "/",
            "/a",
            "a/",
            "a//b",
            ".",
            "..",
            "a/..",
            "a/../b",
            ".turn-worker",
            "a/.state",
            "-a",
            "_a",
            "a b",
            "a\0",
            "ä",
            "a\\b",
            "~a",
            "a/b/c/d/e",
            &longer,
        ] {
            assert!(segments(id).is_err(), "{id:?}");
        }
    }

    #[test]
    fn g8_only_plain_turn_ids_become_file_names() {
        for id in [".", "..", "...", "-", "t-01", &"x".repeat(MAX_TURN_ID)] {
            assert!(turn_id(id).is_ok(), "{id}");
        }
        for id in [
            "",
            "a/b",
            "../a",
            "~a",
            "a\0",
            "ä",
            &"x".repeat(MAX_TURN_ID + 1),
        ] {
            assert!(turn_id(id).is_err(), "{id:?}");
        }
    }
}
