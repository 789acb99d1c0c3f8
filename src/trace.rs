//! The trace that a request belongs to, in the form of W3C Trace Context
//! (<https://www.w3.org/TR/trace-context-1/>).
//!
//! Events *forward* it, in that specification's words: readers' spans are children
//! of the producer's span. A parent id of the worker's own would name a span that
//! only exists where [`crate::telemetry`] exports it, and differ from attempt to
//! attempt. So every event of a turn has the same context, regardless of the worker
//! that published it.

use serde::{Deserialize, Serialize};

/// Under these names the context travels: as headers of messages, and as
/// fields of a request.
pub const TRACEPARENT: &str = "traceparent";
/// See [`TRACEPARENT`].
pub const TRACESTATE: &str = "tracestate";

/// Of a `traceparent` of version 00, in bytes.
const TRACEPARENT_BYTES: usize = 55;
/// More of `tracestate` need not be passed on, in bytes.
pub const MAX_TRACESTATE_BYTES: usize = 512;
const MAX_MEMBERS: usize = 32;
/// Where it is too long, members longer than this go first.
const LONG_MEMBER_BYTES: usize = 128;
/// What is read at all: of the largest valid one, each member as long as may be.
const MAX_READ_BYTES: usize = MAX_MEMBERS * 2 * 520;

/// Valid when it was read; no character in it can break a line or a header.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct TraceContext {
    /// Of version 00.
    pub traceparent: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    /// At most [`MAX_TRACESTATE_BYTES`].
    pub tracestate: Option<String>,
}

impl TraceContext {
    /// `None` if `traceparent` is not valid: it counts as absent then,
    /// and `tracestate` without it has no meaning. A `tracestate` that is not
    /// valid is left out.
    pub fn read(traceparent: &str, tracestate: Option<&str>) -> Option<Self> {
        Some(Self {
            traceparent: parent(traceparent)?,
            tracestate: tracestate.and_then(state),
        })
    }

    /// 32 hexadecimal digits: what the logs of all who had to do with it have
    /// in common.
    pub fn trace_id(&self) -> &str {
        self.traceparent.get(3..35).unwrap_or_default()
    }
}

/// Of a version that is newer, what version 00 has: the rest is not ours to
/// pass on.
fn parent(text: &str) -> Option<String> {
    let text = text.trim_matches([' ', '\t']);
    let (known, rest) = text.split_at_checked(TRACEPARENT_BYTES)?;
    let mut parts = known.split('-');
    let (version, trace, parent, flags) =
        (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let valid = parts.next().is_none()
        && is_hex(version, 2)
        && version != "ff"
        && is_id(trace, 32)
        && is_id(parent, 16)
        && is_hex(flags, 2);
    match version {
        _ if !valid => None,
        "00" => rest.is_empty().then(|| known.to_owned()),
        _ if !rest.is_empty() && !rest.starts_with('-') => None,
        // Whether it is sampled is all that its flags are known to say.
        _ => {
            let sampled = u8::from_str_radix(flags, 16).ok()? & 1;
            Some(format!("00-{trace}-{parent}-{sampled:02x}"))
        }
    }
}

fn is_hex(text: &str, digits: usize) -> bool {
    let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    text.len() == digits && text.bytes().all(is_digit)
}

fn is_id(text: &str, digits: usize) -> bool {
    is_hex(text, digits) && text.bytes().any(|byte| byte != b'0')
}

/// The members, in their order, as many as there is room for.
fn state(text: &str) -> Option<String> {
    if text.len() > MAX_READ_BYTES {
        return None;
    }
    let mut members: Vec<&str> = Vec::new();
    for member in text.split(',') {
        let member = member.trim_matches([' ', '\t']);
        if member.is_empty() {
            continue;
        }
        let key = key_of(member)?;
        let known = members.iter().any(|other| key_of(other) == Some(key));
        if known || members.len() == MAX_MEMBERS {
            return None;
        }
        members.push(member);
    }
    while length(&members) > MAX_TRACESTATE_BYTES {
        let long = members.iter().position(|m| m.len() > LONG_MEMBER_BYTES);
        members.remove(long.unwrap_or(members.len() - 1));
    }
    (!members.is_empty()).then(|| members.join(","))
}

/// With the commas between them.
fn length(members: &[&str]) -> usize {
    let bytes: usize = members.iter().map(|member| member.len() + 1).sum();
    bytes.saturating_sub(1)
}

fn key_of(member: &str) -> Option<&str> {
    let (key, value) = member.split_once('=')?;
    let is_first = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let is_rest = |byte: u8| is_first(byte) || matches!(byte, b'_' | b'-' | b'*' | b'/' | b'@');
    let is_value = |byte: u8| matches!(byte, b' '..=b'~') && byte != b'=';
    let valid = (1..=256).contains(&key.len())
        && key.bytes().next().is_some_and(is_first)
        && key.bytes().all(is_rest)
        && (1..=256).contains(&value.len())
        && value.bytes().all(is_value);
    valid.then_some(key)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const VALID: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn parent_of(text: &str) -> Option<String> {
        Some(TraceContext::read(text, None)?.traceparent)
    }

    fn state_of(text: &str) -> Option<String> {
        TraceContext::read(VALID, Some(text))?.tracestate
    }

    #[test]
    fn a_valid_parent_is_passed_on_as_it_is() {
        let context = TraceContext::read(VALID, None).unwrap();
        assert_eq!(context.traceparent, VALID);
        assert_eq!(context.trace_id(), "4bf92f3577b34da6a3ce929d0e0e4736");
        // Flags that this version does not know are somebody's all the same.
        let flags = VALID.replace("-01", "-03");
        assert_eq!(parent_of(&flags), Some(flags.clone()));
        assert_eq!(parent_of(&format!(" {VALID}\t")).as_deref(), Some(VALID));
    }

    #[test]
    fn of_a_newer_version_the_known_part_is_passed_on() {
        for newer in [
            VALID.replacen("00", "cc", 1),
            VALID.replacen("00", "01", 1) + "-what-ever",
            VALID.replacen("00", "fe", 1).replace("-01", "-ff") + "-",
        ] {
            assert_eq!(parent_of(&newer).as_deref(), Some(VALID), "{newer}");
        }
    }

    #[test]
    fn what_is_no_parent_is_as_good_as_absent() {
        for wrong in [
            String::new(),
            VALID[..54].to_owned(),
            VALID.to_owned() + "-",
            VALID.to_owned() + "0",
            VALID.to_uppercase(),
            VALID.replacen("00", "ff", 1),
            VALID.replacen("00", "01", 1) + "x",
            VALID.replace("-01", "-0x"),
            VALID.replace('-', "_"),
            VALID.replace("4bf92f3577b34da6a3ce929d0e0e4736", &"0".repeat(32)),
            VALID.replace("00f067aa0ba902b7", &"0".repeat(16)),
            VALID.replace("00f067aa0ba902b7", "0-f067aa0ba902b7"),
            VALID.replace("4bf9", "4b\n9"),
            VALID.replace("4bf9", "4bé"),
            format!("{VALID}, {VALID}"),
        ] {
            assert_eq!(parent_of(&wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_state_is_passed_on_whole_or_not_at_all() {
        for (state, passed) in [
            ("congo=t61rcWkgMzE", Some("congo=t61rcWkgMzE")),
            (" a=1 ,, b@c=x y\t,", Some("a=1,b@c=x y")),
            ("0a_-*/=!", Some("0a_-*/=!")),
            ("", None),
            (",", None),
            ("a", None),
            ("a=", None),
            ("=1", None),
            ("A=1", None),
            ("a=1=2", None),
            ("a=1,a=2", None),
            ("a=1,b=\u{7f}", None),
            ("a=1,b=é", None),
            ("a=1\nb=2", None),
        ] {
            assert_eq!(state_of(state).as_deref(), passed, "{state:?}");
        }
        let many = |count: usize| {
            let members: Vec<String> = (0..count).map(|n| format!("k{n}=v")).collect();
            members.join(",")
        };
        assert_eq!(state_of(&many(32)), Some(many(32)));
        assert_eq!(state_of(&many(33)), None);
    }

    #[test]
    fn a_long_state_loses_its_longest_members_first_and_then_its_last() {
        let member = |key: &str, bytes: usize| format!("{key}={}", "v".repeat(bytes - 2));
        let (long, short) = (member("l", 129), member("s", 128));
        assert_eq!(
            state_of(&format!("a=1,{long},b=2,{short},{}", member("m", 250))).as_deref(),
            Some(&*format!("a=1,b=2,{short},{}", member("m", 250)))
        );
        let keys = ["a", "b", "c", "d", "e"];
        let five: Vec<String> = keys.iter().map(|key| member(key, 110)).collect();
        assert_eq!(state_of(&five.join(",")), Some(five[..4].join(",")));
    }

    proptest! {
        #[test]
        fn g8_any_body_makes_a_header_of_bounded_printable_text(
            parent in "(00|01|..)-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}.{0,3}|.{0,80}",
            state in "([a-z@=,\\n é]{0,9}=[ -~]{0,300},?){0,40}",
        ) {
            if let Some(context) = TraceContext::read(&parent, Some(&state)) {
                prop_assert_eq!(context.traceparent.len(), TRACEPARENT_BYTES);
                prop_assert_eq!(context.trace_id().len(), 32);
                let state = context.tracestate.clone().unwrap_or_default();
                prop_assert!(state.len() <= MAX_TRACESTATE_BYTES);
                prop_assert!(state.bytes().all(|byte| matches!(byte, b' '..=b'~')));
                let again = TraceContext::read(&context.traceparent, context.tracestate.as_deref());
                prop_assert_eq!(again, Some(context));
            }
        }
    }
}
