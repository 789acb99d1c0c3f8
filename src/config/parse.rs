//! From the text of one setting to its value. Each returns `None` if the text is not what `table.rs` says is expected.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::str::FromStr;

use super::table::VARIABLE_PREFIX;
use super::{ACCOUNT_FAULTS, CodexHome, Roles, RunAs, value};
use crate::event::Reason;
use crate::request::{is_model_name, is_tenant};
use crate::tenants::{self, MAX_TENANTS};

pub(super) fn path(text: &str) -> Option<PathBuf> {
    (!text.trim().is_empty()).then(|| text.into())
}

pub(super) fn codex_home(text: &str) -> Option<CodexHome> {
    match text {
        "default" => Some(CodexHome::Default),
        "per-workspace" => Some(CodexHome::PerWorkspace),
        other => path(other).map(CodexHome::Shared),
    }
}

pub(super) fn models(text: &str) -> Option<BTreeSet<String>> {
    let names: BTreeSet<String> = value::list(text).map(str::to_owned).collect();
    (!names.is_empty() && names.iter().all(|name| is_model_name(name))).then_some(names)
}

pub(super) fn tenants(text: &str) -> Option<BTreeSet<String>> {
    let names: BTreeSet<String> = value::list(text).map(str::to_owned).collect();
    let can_be_label =
        |name: &String| is_tenant(name) && ![tenants::OTHER, tenants::NONE].contains(&&**name);
    let sound = (1..=MAX_TENANTS).contains(&names.len()) && names.iter().all(can_be_label);
    sound.then_some(names)
}

/// At least one.
pub(super) fn some_of<T: FromStr + Ord>(text: &str) -> Option<BTreeSet<T>> {
    let some: Result<BTreeSet<T>, _> = value::list(text).map(str::parse).collect();
    some.ok().filter(|some| !some.is_empty())
}

/// An empty list is one, too.
pub(super) fn faults(text: &str) -> Option<Vec<Reason>> {
    let fault = |word: &str| {
        let mut all = ACCOUNT_FAULTS.into_iter();
        all.find(|reason| reason.as_str() == word)
    };
    value::list(text).map(fault).collect()
}

pub(super) fn variables(text: &str) -> Option<Vec<String>> {
    let mut names: Vec<String> = Vec::new();
    for name in value::list(text) {
        let sound = name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
            && !name.starts_with(|c: char| c.is_ascii_digit())
            && !name.starts_with(VARIABLE_PREFIX);
        if !sound {
            return None;
        }
        if !names.iter().any(|known| known == name) {
            names.push(name.to_owned());
        }
    }
    Some(names)
}

/// Names as `useradd` takes them, and those with capitals, points and `@`
/// that directory services have.
pub(super) fn run_as(text: &str) -> Option<RunAs> {
    if let Some((uid, gid)) = text.split_once(':') {
        let id = |text| u32::try_from(value::count(text)?).ok();
        // The largest stands for "no change" in the system's calls.
        let (uid, gid) = (id(uid)?, id(gid)?);
        return (uid != 0 && uid != u32::MAX && gid != u32::MAX).then_some(RunAs::Ids { uid, gid });
    }
    let sound = text
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.' | b'@' | b'$'))
        && text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    (sound && text != "root").then(|| RunAs::Name(text.to_owned()))
}

pub(super) fn log_filter(text: &str) -> Option<String> {
    tracing_subscriber::EnvFilter::try_new(text).ok()?;
    Some(text.to_owned())
}

pub(super) fn object_prefix(text: &str) -> Option<String> {
    let sound = (1..=64).contains(&text.len())
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        // The broker keeps such names to itself.
        && !text.starts_with("amq.");
    sound.then(|| text.to_owned())
}

/// Whether a disk can be called so.
pub fn is_host_name(text: &str) -> bool {
    let is_part = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    (1..=64).contains(&text.len()) && text.bytes().all(is_part) && !text.starts_with('-')
}

pub(super) fn roles(text: &str) -> Option<Roles> {
    let mut roles = Roles {
        sequencer: false,
        worker: false,
    };
    for word in value::list(text) {
        match word {
            "sequencer" => roles.sequencer = true,
            "worker" => roles.worker = true,
            _ => return None,
        }
    }
    (roles.sequencer || roles.worker).then_some(roles)
}
