//! The messages of a request: which of them is the prompt, and what in them is
//! not used.
//!
//! The prompt is never taken from an older message because the last one can't
//! be used: an agent would do again what it was asked to do before. A user
//! message that has no content (blank, empty, `null`, only images or blocks
//! that are its producer's own, `x-…`) is passed over, as it always was.

use serde_json::{Map, Value};

use super::rejection::{Violations, quoted, shown};

/// What is expected where a block can't be used.
const BLOCK_TYPES: &str = "\"text\" or \"image\"";
/// How many parts of a request's messages are listed as ignored.
const MAX_LISTED: usize = 64;
/// How many of them a notice names.
const MAX_IN_NOTICE: usize = 8;
/// A misspelled type or role is so many letters away from the right one, at most.
const NEAR: usize = 2;

/// The prompt, and the message that it is taken from.
pub(super) struct Prompt {
    pub index: usize,
    pub text: String,
}

/// What one message is.
enum Said {
    Text(String),
    /// Another role's, or without content.
    Nothing,
    /// It is at fault, which has been noted.
    Wrong,
    /// A user's with unusable content: field, found, expected.
    Unusable(Vec<(String, String, &'static str)>),
}

/// Older messages are read, too, so that what is wrong with them is reported.
/// Returns `None` if there is no prompt; the reason has been noted then.
pub(super) fn prompt(messages: &[Value], violations: &mut Violations) -> Option<Prompt> {
    let (mut last, mut wrong) = (None, false);
    for (index, message) in messages.iter().enumerate() {
        match said(index, message, violations) {
            Said::Nothing => {}
            Said::Wrong => wrong = true,
            said => last = Some((index, said)),
        }
    }
    match last {
        Some((index, Said::Text(text))) => return Some(Prompt { index, text }),
        Some((_, Said::Unusable(parts))) => {
            for (field, found, rule) in parts {
                violations.add(field, found, rule);
            }
        }
        _ if wrong => {}
        _ => {
            let rule = "at least one message of role \"user\" that has text";
            violations.add("messages", format!("an array of {}", messages.len()), rule);
        }
    }
    None
}

fn said(index: usize, message: &Value, violations: &mut Violations) -> Said {
    let Some(fields) = message.as_object() else {
        let field = format!("messages[{index}]");
        violations.add(field, shown(Some(message)), "an object");
        return Said::Wrong;
    };
    match fields.get("role") {
        Some(Value::String(role)) if role == "user" => {}
        Some(Value::String(role)) if means_user(role) => {
            let field = format!("messages[{index}].role");
            return Said::Unusable(vec![(field, quoted(role), "\"user\"")]);
        }
        Some(Value::String(_)) => return Said::Nothing,
        role => {
            let field = format!("messages[{index}].role");
            violations.add(field, shown(role), "a role, such as \"user\"");
            return Said::Wrong;
        }
    }
    let path = format!("messages[{index}].content");
    let rule = "a string or an array of blocks";
    match fields.get("content") {
        // What it has to say stands somewhere else.
        None if fields.len() > 1 => Said::Unusable(vec![(path, shown(None), rule)]),
        None | Some(Value::Null) => Said::Nothing,
        Some(Value::String(text)) if text.trim().is_empty() => Said::Nothing,
        Some(Value::String(text)) => Said::Text(text.clone()),
        Some(Value::Array(blocks)) => said_in_blocks(&path, blocks, violations),
        other => {
            violations.add(path, shown(other), rule);
            Said::Wrong
        }
    }
}

fn said_in_blocks(path: &str, blocks: &[Value], violations: &mut Violations) -> Said {
    let (mut texts, mut unusable, mut wrong) = (Vec::new(), Vec::new(), false);
    for (index, block) in blocks.iter().enumerate() {
        let Some(block) = block.as_object() else {
            violations.add(format!("{path}[{index}]"), shown(Some(block)), "an object");
            wrong = true;
            continue;
        };
        match kind(block) {
            Kind::Text => match block.get("text") {
                Some(Value::String(text)) => texts.push(text.as_str()),
                other => {
                    violations.add(format!("{path}[{index}].text"), shown(other), "a string");
                    wrong = true;
                }
            },
            Kind::Image | Kind::Own => {}
            Kind::Unknown => {
                let found = shown(block.get("type"));
                unusable.push((format!("{path}[{index}].type"), found, BLOCK_TYPES));
            }
        }
    }
    let text = texts.join("\n");
    if !text.trim().is_empty() {
        Said::Text(text)
    } else if wrong {
        Said::Wrong
    } else if !unusable.is_empty() {
        Said::Unusable(unusable)
    } else {
        Said::Nothing
    }
}

/// What a block of a message is to us.
enum Kind {
    Text,
    Image,
    /// Its producer's own, for other readers.
    Own,
    Unknown,
}

fn kind(block: &Map<String, Value>) -> Kind {
    match block.get("type").and_then(Value::as_str) {
        Some("text") => Kind::Text,
        Some("image") => Kind::Image,
        Some(own) if own.starts_with("x-") => Kind::Own,
        _ => Kind::Unknown,
    }
}

/// A role that another spelling of `user` stands for; some libraries say `human`.
fn means_user(role: &str) -> bool {
    let role = role.trim();
    role.eq_ignore_ascii_case("user") || role.eq_ignore_ascii_case("human")
}

/// A part of a request's messages that is not used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IgnoredPart {
    /// Such as `messages[0]` or `messages[1].content[2]`.
    pub path: String,
    /// What it is, in bounded length and safe to print.
    pub what: String,
    /// What was probably meant.
    pub meant: Option<&'static str>,
    /// More than the usual history of a conversation: its sender may miss it.
    notable: bool,
}

/// What is not used of a request's messages: the first so many.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct IgnoredParts {
    /// In the order in which they were found.
    pub listed: Vec<IgnoredPart>,
    /// How many more there are.
    pub omitted: usize,
    /// For a notice.
    notable: Vec<String>,
    more_notable: usize,
}

impl IgnoredParts {
    /// Of a request's body.
    pub fn of(body: &Value) -> Self {
        let messages = body.get("messages").and_then(Value::as_array);
        let messages = messages.map(Vec::as_slice).unwrap_or_default();
        let prompt = prompt(messages, &mut Violations::default());
        Self::beside(messages, prompt.map(|prompt| prompt.index))
    }

    /// Beside the prompt's message.
    pub(super) fn beside(messages: &[Value], prompt: Option<usize>) -> Self {
        let mut parts = Self::default();
        for (index, message) in messages.iter().enumerate() {
            if prompt != Some(index) {
                parts.add(other_message(index, message, prompt));
            }
            let role = message.get("role").and_then(Value::as_str);
            if matches!(role, Some("user" | "assistant")) {
                parts.add_blocks(index, message);
            }
        }
        parts
    }

    fn add_blocks(&mut self, index: usize, message: &Value) {
        let blocks = message.get("content").and_then(Value::as_array);
        for (at, block) in blocks.into_iter().flatten().enumerate() {
            let Some(block) = block.as_object() else {
                continue;
            };
            let notable = match kind(block) {
                Kind::Text | Kind::Image => continue,
                Kind::Own => false,
                Kind::Unknown => true,
            };
            let name = block.get("type");
            self.add(IgnoredPart {
                path: format!("messages[{index}].content[{at}]"),
                what: format!("a block of type {}", shown(name)),
                meant: name.and_then(Value::as_str).and_then(near_block),
                notable,
            });
        }
    }

    fn add(&mut self, part: IgnoredPart) {
        if part.notable && self.notable.len() < MAX_IN_NOTICE {
            self.notable.push(format!("{}: {}", part.path, part.what));
        } else if part.notable {
            self.more_notable += 1;
        }
        if self.listed.len() < MAX_LISTED {
            self.listed.push(part);
        } else {
            self.omitted += 1;
        }
    }

    /// For the sender of a request that is accepted all the same.
    /// Returns `None` if only the usual history is ignored.
    pub(super) fn notice(&self) -> Option<String> {
        if self.notable.is_empty() {
            return None;
        }
        let mut text = format!(
            "parts of the request's messages are not used: {}",
            self.notable.join("; ")
        );
        if self.more_notable > 0 {
            text.push_str(&format!("; and {} more", self.more_notable));
        }
        Some(text)
    }
}

fn other_message(index: usize, message: &Value, prompt: Option<usize>) -> IgnoredPart {
    let is_later = prompt.is_some_and(|prompt| index > prompt);
    let role = message.get("role");
    let name = role.and_then(Value::as_str);
    let (after, notable) = match name {
        Some("user") if is_later => (", which has no text", true),
        Some("assistant") if is_later => (", after the prompt", true),
        Some("user" | "assistant") => ("", false),
        _ => ("", true),
    };
    IgnoredPart {
        path: format!("messages[{index}]"),
        what: format!("a message of role {}{after}", shown(role)),
        meant: name
            .filter(|name| *name != "user" && means_user(name))
            .map(|_| "user"),
        notable,
    }
}

/// The type that another API calls by that name, or that is misspelled.
fn near_block(name: &str) -> Option<&'static str> {
    match name {
        "input_text" | "output_text" => Some("text"),
        "input_image" | "image_url" => Some("image"),
        name if name.len() > 16 => None,
        name => ["text", "image"]
            .into_iter()
            .find(|right| strsim::levenshtein(right, &name.to_ascii_lowercase()) <= NEAR),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// The prompt, or the fields that are wrong and what was found there.
    fn read(messages: &Value) -> Result<String, Vec<(String, String)>> {
        let mut violations = Violations::default();
        let prompt = prompt(messages.as_array().unwrap(), &mut violations);
        prompt.map(|prompt| prompt.text).ok_or_else(|| {
            let rejection = violations.reject(None, None, None, None);
            let found = rejection.violations.into_iter();
            found.map(|v| (v.field, v.found)).collect()
        })
    }

    fn user(content: Value) -> Value {
        json!({"role": "user", "content": content})
    }

    #[test]
    fn no_older_message_is_run_in_place_of_one_that_can_not_be_used() {
        let old = user(json!("Delete build/ now"));
        let tool = json!({"role": "assistant", "content": [{"type": "tool_use", "id": "a"}]});
        for (last, field, found) in [
            (
                user(json!([{"type": "input_text", "text": "thanks, what is left?"}])),
                "messages[2].content[0].type",
                "\"input_text\"",
            ),
            (
                user(json!([{"type": "image"}, {"type": "tool_result", "content": "deleted"}])),
                "messages[2].content[1].type",
                "\"tool_result\"",
            ),
            (
                user(json!([{"type": "text", "text": " "}, {"text": "no type"}])),
                "messages[2].content[1].type",
                "nothing",
            ),
            (
                json!({"role": "user", "parts": [{"text": "what is left?"}]}),
                "messages[2].content",
                "nothing",
            ),
            (
                json!({"role": "User", "content": "what is left?"}),
                "messages[2].role",
                "\"User\"",
            ),
            (
                json!({"role": "human", "content": "what is left?"}),
                "messages[2].role",
                "\"human\"",
            ),
        ] {
            let messages = json!([old, tool, last]);
            let expected = vec![(field.to_owned(), found.to_owned())];
            assert_eq!(read(&messages), Err(expected), "{messages}");
            // Answered by the user since.
            let messages = json!([old, last, user(json!("Go on"))]);
            assert_eq!(read(&messages).as_deref(), Ok("Go on"), "{messages}");
        }
    }

    #[test]
    fn a_message_without_content_is_passed_over() {
        for last in [
            user(json!(" \n")),
            user(json!([])),
            user(json!(null)),
            user(json!([{"type": "x-note"}])),
            user(json!([{"type": "image", "source": {}}])),
            json!({"role": "user"}),
            json!({"role": "tool", "content": 5}),
        ] {
            let messages = json!([user(json!("Fix it")), last]);
            assert_eq!(read(&messages).as_deref(), Ok("Fix it"), "{messages}");
        }
    }

    fn ignored(messages: Value) -> IgnoredParts {
        IgnoredParts::of(&json!({ "messages": messages }))
    }

    #[test]
    fn what_is_not_used_is_listed_with_what_was_meant() {
        let parts = ignored(json!([
            {"role": "system", "content": "Never touch files outside docs/."},
            {"role": "user", "content": "Old"},
            {"role": "assistant", "content": [{"type": "text", "text": "Done"}]},
            {"role": "user", "content": [
                {"type": "text", "text": "Look"}, {"type": "image_url"}, {"type": "x-note"}, {"type": "txt"}]},
            {"role": "assistant", "content": "Sure: {"},
        ]));
        let listed: Vec<String> = (parts.listed.iter())
            .map(|part| format!("{} {} {}", part.path, part.what, part.meant.unwrap_or("-")))
            .collect();
        assert_eq!(
            listed,
            [
                r#"messages[0] a message of role "system" -"#,
                r#"messages[1] a message of role "user" -"#,
                r#"messages[2] a message of role "assistant" -"#,
                r#"messages[3].content[1] a block of type "image_url" image"#,
                r#"messages[3].content[2] a block of type "x-note" -"#,
                r#"messages[3].content[3] a block of type "txt" text"#,
                r#"messages[4] a message of role "assistant", after the prompt -"#,
            ]
        );
        assert_eq!(
            parts.notice().unwrap(),
            r#"parts of the request's messages are not used: messages[0]: a message of role "system"; messages[3].content[1]: a block of type "image_url"; messages[3].content[3]: a block of type "txt"; messages[4]: a message of role "assistant", after the prompt"#
        );
    }

    #[test]
    fn the_usual_history_is_worth_no_notice() {
        let parts = ignored(json!([
            user(json!("Old")),
            {"role": "assistant", "content": "Done"},
            user(json!([{"type": "text", "text": "New"}, {"type": "x-note"}])),
        ]));
        assert_eq!(parts.listed.len(), 3);
        assert_eq!(parts.notice(), None);
        assert_eq!(
            ignored(json!([user(json!("Only"))])),
            IgnoredParts::default()
        );
        assert_eq!(IgnoredParts::of(&json!([])), IgnoredParts::default());
    }

    #[test]
    fn g10_the_lists_are_bounded() {
        let mut messages = vec![json!({"role": "r".repeat(500)}); 10_000];
        messages.push(user(json!("x")));
        let parts = ignored(json!(messages));
        assert_eq!(parts.listed.len() + parts.omitted, 10_000);
        let notice = parts.notice().unwrap();
        assert!(notice.ends_with("; and 9992 more"), "{notice}");
        assert!(notice.len() < 4096);
    }
}
