//! Finds the turn id and the workspace in a body that can't be read, so that
//! its sender gets an answer all the same.
//!
//! One pass over at most [`MAX_SCANNED`] bytes, without recursion. Only the
//! fields of the outermost object count, and of a repeated field the last, as
//! when the body is parsed. What lies behind a truncation can't be known: of a
//! body that ends in the middle, the last complete one counts.
//!
//! An object within arrays (a batch, or Celery's form) is searched, too, but
//! its id is used only if no other object there has another one. So is a JSON
//! text that was encoded twice, as a string.

use std::borrow::Cow;

use memchr::memchr2;

/// How much of a body is scanned. Brokers take no larger messages by default.
pub const MAX_SCANNED: usize = 16 << 20;

/// The longest field that is decoded: no id is as long, even if each of its
/// characters is escaped.
const MAX_FIELD_BYTES: usize = 24 << 10;

/// The form in which a body came, by its first bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyForm {
    /// No sign of another one.
    Plain,
    /// UTF-8 behind a byte order mark.
    ByteOrderMark,
    /// With or without a byte order mark.
    Utf16,
    /// With a byte order mark.
    Utf32,
    /// By the name of the format.
    Compressed(&'static str),
    /// A body section of AMQP 1.0 other than `data`, as a broker hands it to
    /// an AMQP 0-9-1 consumer.
    Amqp10,
}

/// What the scan of a body found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scan {
    /// How the body is encoded.
    pub form: BodyForm,
    /// As it stands in the body: it need not be a usable id.
    pub turn_id: Option<String>,
    /// Of the object that has the turn id.
    pub workspace: Option<String>,
    /// How deep arrays and objects are nested.
    pub depth: usize,
    /// Where the first value ends, if it is an object or array that does: an
    /// offset into the scanned text.
    pub end: Option<usize>,
}

impl Scan {
    /// Looks at a body that need be no request at all, within bounds.
    pub fn of(body: &[u8]) -> Self {
        let body = body.get(..MAX_SCANNED).unwrap_or(body);
        let (form, text) = decoded(body);
        let found = match twice_encoded(&text) {
            Some(inner) => objects(&inner),
            None => objects(&text),
        };
        let id = found.id.filter(|_| !found.ambiguous).unwrap_or_default();
        Self {
            form,
            turn_id: id.turn_id,
            workspace: id.workspace,
            depth: found.depth,
            end: found.end,
        }
    }
}

/// The body as text in which ASCII is readable: that suffices here.
fn decoded(body: &[u8]) -> (BodyForm, Cow<'_, [u8]>) {
    let plain = |form, skip| (form, Cow::Borrowed(body.get(skip..).unwrap_or_default()));
    let starts = |byte: &u8| matches!(byte, b'{' | b'[' | b'"' | b' ' | b'\t' | b'\r' | b'\n');
    match body {
        [0xef, 0xbb, 0xbf, ..] => plain(BodyForm::ByteOrderMark, 3),
        [0xff, 0xfe, 0, 0, ..] | [0, 0, 0xfe, 0xff, ..] => {
            (BodyForm::Utf32, narrowed(body, 4, body[0] != 0))
        }
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => {
            (BodyForm::Utf16, narrowed(body, 2, body[0] == 0xff))
        }
        [first, 0, 0, 0, ..] if starts(first) => (BodyForm::Utf32, narrowed(body, 4, true)),
        [0, 0, 0, first, ..] if starts(first) => (BodyForm::Utf32, narrowed(body, 4, false)),
        [first, 0, ..] if starts(first) => (BodyForm::Utf16, narrowed(body, 2, true)),
        [0, first, ..] if starts(first) => (BodyForm::Utf16, narrowed(body, 2, false)),
        [0x1f, 0x8b, ..] => plain(BodyForm::Compressed("gzip"), body.len()),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => plain(BodyForm::Compressed("zstd"), body.len()),
        [0x78, 0x01 | 0x5e | 0x9c | 0xda, ..] => plain(BodyForm::Compressed("zlib"), body.len()),
        // A described type, by the short or the long code of its descriptor.
        [0, 0x53, 0x76 | 0x77, rest @ ..]
        | [0, 0x80, 0, 0, 0, 0, 0, 0, 0, 0x76 | 0x77, rest @ ..] => {
            let text = match rest {
                [0xa0 | 0xa1, _, text @ ..] | [0xb0 | 0xb1, _, _, _, _, text @ ..] => text,
                other => other,
            };
            (BodyForm::Amqp10, Cow::Borrowed(text))
        }
        _ => plain(BodyForm::Plain, 0),
    }
}

/// Each unit of so many bytes as one byte; ids and JSON's own signs are ASCII.
fn narrowed(body: &[u8], unit: usize, little_endian: bool) -> Cow<'_, [u8]> {
    let (mut low, high) = if little_endian {
        (0, 1..unit)
    } else {
        (unit - 1, 0..unit - 1)
    };
    low = low.min(unit - 1);
    let narrow = |unit: &[u8]| match (unit.get(low), unit.get(high.clone())) {
        (Some(low), Some(high)) if low.is_ascii() && high.iter().all(|byte| *byte == 0) => *low,
        _ => b'?',
    };
    body.chunks_exact(unit).map(narrow).collect()
}

/// The text within a text that is just one JSON string.
fn twice_encoded(text: &[u8]) -> Option<Vec<u8>> {
    let text = text.trim_ascii_start();
    let raw = text.strip_prefix(b"\"")?;
    // Of a truncated one, what there is.
    let end = end_of_string(text, 1).map_or(raw.len(), |end| end - 1);
    let raw = raw.get(..end)?;
    Some(unescaped(raw).into_bytes())
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Names {
    turn_id: Option<String>,
    workspace: Option<String>,
}

#[derive(Debug, Default)]
struct Found {
    id: Option<Names>,
    /// Several objects in an array have different ids.
    ambiguous: bool,
    depth: usize,
    end: Option<usize>,
}

impl Found {
    fn add(&mut self, names: Names) {
        if names.turn_id.is_none() {
            return;
        }
        let first = self.id.get_or_insert_with(|| names.clone());
        self.ambiguous |= first.turn_id != names.turn_id;
    }
}

fn objects(text: &[u8]) -> Found {
    let mut found = Found::default();
    let mut names = Names::default();
    let (mut at, mut depth) = (0, 0_usize);
    // The depth within the object with the fields that count, while in one.
    let mut inside: Option<usize> = None;
    while let Some(byte) = text.get(at) {
        match byte {
            b'{' | b'[' => {
                depth += 1;
                found.depth = found.depth.max(depth);
                if *byte == b'{' && inside.is_none() {
                    inside = Some(depth);
                }
                at += 1;
            }
            b'}' | b']' => {
                depth = depth.saturating_sub(1);
                at += 1;
                if inside.is_some_and(|inside| depth < inside) {
                    inside = None;
                    found.add(std::mem::take(&mut names));
                }
                if depth == 0 {
                    found.end = Some(at);
                    break;
                }
            }
            b'"' => {
                let Some(end) = end_of_string(text, at + 1) else {
                    break;
                };
                let raw = text.get(at + 1..end).unwrap_or_default();
                at = end + 1;
                if inside != Some(depth) {
                    continue;
                }
                let Some(value) = value_of_field(text, at) else {
                    continue;
                };
                at = value;
                let field = match decoded_field(raw).as_deref() {
                    Some("turn_id") => &mut names.turn_id,
                    Some("workspace") => &mut names.workspace,
                    _ => continue,
                };
                match text.get(at) {
                    Some(b'"') => {
                        let Some(end) = end_of_string(text, at + 1) else {
                            break;
                        };
                        *field = decoded_field(text.get(at + 1..end).unwrap_or_default());
                        at = end + 1;
                    }
                    Some(_) => *field = None,
                    None => break,
                }
            }
            _ => at += 1,
        }
    }
    found.add(names);
    found
}

/// Where the value starts, if a colon follows: then the string was a name.
fn value_of_field(text: &[u8], after: usize) -> Option<usize> {
    let colon = after + space(text.get(after..)?);
    let value = (text.get(colon) == Some(&b':')).then_some(colon + 1)?;
    Some(value + space(text.get(value..).unwrap_or_default()))
}

fn space(text: &[u8]) -> usize {
    text.len() - text.trim_ascii_start().len()
}

/// Where the string's closing quote is; `from` is behind its opening one.
/// Returns `None` if the text ends before.
fn end_of_string(text: &[u8], from: usize) -> Option<usize> {
    let mut at = from;
    loop {
        let found = at + memchr2(b'"', b'\\', text.get(at..)?)?;
        if text.get(found) == Some(&b'"') {
            return Some(found);
        }
        at = found + 2;
    }
}

fn decoded_field(raw: &[u8]) -> Option<String> {
    (raw.len() <= MAX_FIELD_BYTES).then(|| unescaped(raw))
}

/// The text of a string's inside; what is wrong in it becomes U+FFFD.
fn unescaped(raw: &[u8]) -> String {
    let raw = String::from_utf8_lossy(raw);
    let mut text = String::with_capacity(raw.len());
    let mut rest = &*raw;
    while let Some(at) = rest.find('\\') {
        text.push_str(&rest[..at]);
        let mut chars = rest[at + 1..].chars();
        let escaped = match chars.next() {
            Some('u') => {
                let (c, left) = unit(chars.as_str());
                rest = left;
                text.push(c);
                continue;
            }
            Some('b') => '\u{8}',
            Some('f') => '\u{c}',
            Some('n') => '\n',
            Some('r') => '\r',
            Some('t') => '\t',
            Some(c @ ('"' | '\\' | '/')) => c,
            _ => char::REPLACEMENT_CHARACTER,
        };
        text.push(escaped);
        rest = chars.as_str();
    }
    text.push_str(rest);
    text
}

/// The character that four hexadecimal digits name, or two times four, and
/// what comes behind them.
fn unit(text: &str) -> (char, &str) {
    let wrong = char::REPLACEMENT_CHARACTER;
    let hex = |text: &str| {
        let digits = text.get(..4)?;
        let all = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
        u16::from_str_radix(digits, 16).ok().filter(|_| all)
    };
    let Some(first) = hex(text) else {
        return (wrong, text);
    };
    let rest = text.get(4..).unwrap_or_default();
    if let Some(c) = char::from_u32(first.into()) {
        return (c, rest);
    }
    let pair = rest.strip_prefix("\\u").and_then(|rest| {
        let units = [first, hex(rest)?];
        let c = char::decode_utf16(units).next()?.ok()?;
        Some((c, rest.get(4..)?))
    });
    pair.unwrap_or((wrong, rest))
}

#[cfg(test)]
mod tests;
