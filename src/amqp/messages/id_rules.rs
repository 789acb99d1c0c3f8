//! The ids in a message, which processes of other versions and strangers may have written.

use super::codec::{DecodeError, shown};

pub(super) const TURN_ID_RULE: &str = "[A-Za-z0-9._-]{1,128}";

pub(super) fn check_turn_id(what: &'static str, id: &str) -> Result<(), DecodeError> {
    check(what, "turn_id", id, TURN_ID_RULE, is_turn_id)
}

pub(super) fn check_workspace(what: &'static str, id: &str) -> Result<(), DecodeError> {
    let allowed = "1 to 4 segments [A-Za-z0-9][A-Za-z0-9._-]{0,63} joined by /";
    check(what, "workspace", id, allowed, is_workspace)
}

pub(super) fn check(
    what: &'static str,
    field: &'static str,
    found: &str,
    allowed: &'static str,
    is_allowed: fn(&str) -> bool,
) -> Result<(), DecodeError> {
    if is_allowed(found) {
        return Ok(());
    }
    Err(DecodeError::Field {
        what,
        field,
        found: shown(found).to_owned(),
        allowed,
    })
}

pub(super) fn is_turn_id(id: &str) -> bool {
    (1..=128).contains(&id.len()) && id.bytes().all(is_name_byte)
}

fn is_workspace(id: &str) -> bool {
    id.split('/').count() <= 4
        && id.split('/').all(|segment| {
            segment.len() <= 64
                && segment.bytes().all(is_name_byte)
                && segment.starts_with(|c: char| c.is_ascii_alphanumeric())
        })
}

fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-')
}
