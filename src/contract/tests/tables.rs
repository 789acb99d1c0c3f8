//! The tables of names in `docs/EVENTS.md`.

use std::fmt::Write;

use super::examples::types_of;
use super::*;
use crate::event::{Advice, Again, ErrorCode, EventBody, NoticeCode, Reason, StopReason};

/// A document with the tables between their marks.
pub(crate) fn inserted(document: &str) -> String {
    let mut document = document.to_owned();
    for (name, table) in tables() {
        let (begin, end) = (
            format!("<!-- {name}: made by ops/contract -->\n"),
            "<!-- until here -->",
        );
        let (before, rest) = document
            .split_once(&begin)
            .unwrap_or_else(|| panic!("no line {begin:?}"));
        let (_, after) = rest
            .split_once(end)
            .unwrap_or_else(|| panic!("no {end:?} after {begin:?}"));
        document = format!("{before}{begin}\n{table}\n{end}{after}");
    }
    document
}

fn tables() -> [(&'static str, String); 5] {
    [
        ("event types", event_types()),
        (
            "stop reasons",
            with_advice("stop reason", "the turn", StopReason::ALL),
        ),
        (
            "error codes",
            with_advice("code", "what happened", ErrorCode::ALL),
        ),
        (
            "reasons",
            with_advice("reason", "what happened", Reason::ALL),
        ),
        ("notices", notices()),
    ]
}

fn event_types() -> String {
    let schema = Document::Event.value(&Topology::new("codex", 1));
    let mut table = String::from("| type | set | what it tells | fields |\n|---|---|---|---|\n");
    for kind in types_of(&schema) {
        let of_kind = &schema["$defs"][&kind];
        let set = if EventBody::MINIMAL.contains(&&*kind) {
            "minimal"
        } else {
            "full"
        };
        let about = sentence(
            of_kind["description"]
                .as_str()
                .unwrap_or_else(|| panic!("{kind} has no comment")),
        );
        writeln!(
            table,
            "| `{kind}` | {set} | {about} | {} |",
            fields(of_kind)
        )
        .unwrap();
    }
    table
}

/// The fields of every event.
const COMMON: [&str; 6] = ["turn_id", "workspace", "attempt", "seq", "time", "type"];

/// Those of its own, the optional ones with a question mark.
fn fields(schema: &Value) -> String {
    let required = schema["required"].as_array().unwrap();
    let own = schema["properties"].as_object().unwrap().keys();
    let own = own.filter(|name| !COMMON.contains(&name.as_str()));
    let marked = own.map(|name| {
        let optional = !required.iter().any(|field| field == name);
        format!("`{name}`{}", if optional { "?" } else { "" })
    });
    marked.collect::<Vec<_>>().join(", ")
}

/// One of the closed sets.
trait Name: Copy {
    fn text(self) -> &'static str;
    fn meaning(self) -> &'static str;
    fn what_to_do(self) -> Advice;
}

macro_rules! named {
    ($($set:ty),+) => { $(
        impl Name for $set {
            fn text(self) -> &'static str { self.as_str() }
            fn meaning(self) -> &'static str { self.about() }
            fn what_to_do(self) -> Advice { self.advice() }
        }
    )+ };
}

named!(StopReason, ErrorCode, Reason, NoticeCode);

fn with_advice<T: Name>(what: &str, meaning: &str, names: &[T]) -> String {
    let mut table = format!("| {what} | {meaning} | again? | what to do |\n|---|---|---|---|\n");
    for name in names {
        let Advice { again, then } = name.what_to_do();
        let (text, about) = (name.text(), sentence(name.meaning()));
        writeln!(
            table,
            "| `{text}` | {about} | {} | {then} |",
            again.as_str()
        )
        .unwrap();
    }
    table
}

fn notices() -> String {
    let mut table = String::from("| code | what happened | what to do |\n|---|---|---|\n");
    for code in NoticeCode::ALL {
        let Advice { again, then } = code.advice();
        assert_eq!(
            again,
            Again::No,
            "{code}: the turn goes on, so nobody sends it again"
        );
        writeln!(table, "| `{code}` | {} | {then} |", sentence(code.about())).unwrap();
    }
    table
}

/// In a cell there is no full stop at the end.
fn sentence(text: &str) -> &str {
    text.strip_suffix('.').unwrap_or(text)
}

#[test]
fn every_name_has_its_words() {
    fn check<T: Name>(names: &[T]) {
        for name in names {
            for words in [name.meaning(), name.what_to_do().then] {
                assert!(
                    !words.is_empty() && !words.contains(['|', '\n']),
                    "{}: {words:?}",
                    name.text()
                );
            }
        }
    }
    check(StopReason::ALL);
    check(ErrorCode::ALL);
    check(Reason::ALL);
    check(NoticeCode::ALL);
}
