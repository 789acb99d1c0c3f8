//! What an agent, or a program that it ran, has written is not to be trusted
//! with a terminal: escape sequences move the cursor, rename the window, fill
//! the clipboard, and invisible characters turn the order of letters round.

use std::iter::Peekable;
use std::str::Chars;

use unicode_width::UnicodeWidthChar;

const ESCAPE: char = '\u{1b}';
const CUT: char = '…';

/// The text without escape sequences and control characters; line breaks and
/// tabs stay.
pub(crate) fn clean(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            ESCAPE => skip_sequence(&mut chars),
            // These are `ESC [` and `ESC ]` in one character.
            '\u{9b}' => skip_control(&mut chars),
            '\u{90}' | '\u{98}' | '\u{9d}'..='\u{9f}' => skip_string(&mut chars),
            '\n' | '\t' => out.push(c),
            // A progress bar's steps become lines.
            '\r' if chars.peek() != Some(&'\n') => out.push('\n'),
            c if c.is_control() || turns_text_round(c) => {}
            c => out.push(c),
        }
    }
    out
}

/// The first line that is not empty, clean and at most `width` columns wide;
/// a mark says where something was cut off.
pub(crate) fn one_line(text: &str, width: usize) -> String {
    let clean = clean(text.trim());
    let mut lines = clean.lines().filter(|line| !line.trim().is_empty());
    let line = lines.next().unwrap_or_default().replace('\t', " ");
    let more = lines.next().is_some();
    fit(line.trim_end(), width, more)
}

/// `line` in at most `width` columns; `more`: mark it as cut in any case.
pub(crate) fn fit(line: &str, width: usize, more: bool) -> String {
    let columns = |c: char| c.width().unwrap_or(0);
    let whole: usize = line.chars().map(columns).sum();
    if whole + 2 * usize::from(more) <= width {
        let mark = if more { " …" } else { "" };
        return format!("{line}{mark}");
    }
    let mut out = String::new();
    let mut used = 1;
    for c in line.chars() {
        used += columns(c);
        if used > width {
            break;
        }
        out.push(c);
    }
    out.push(CUT);
    out
}

/// JSON with its non-ASCII control characters escaped: the others are already.
pub(crate) fn clean_json(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    for c in json.chars() {
        if c.is_control() || turns_text_round(c) {
            // In valid JSON it stands in a string, where this means the same.
            out.push_str(&format!("\\u{:04x}", u32::from(c)));
        } else {
            out.push(c);
        }
    }
    out
}

/// Marks that make what follows run from right to left, or break lines.
fn turns_text_round(c: char) -> bool {
    matches!(
        c,
        '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
    )
}

type Rest<'a> = Peekable<Chars<'a>>;

/// After an ESC.
fn skip_sequence(chars: &mut Rest<'_>) {
    match chars.peek().copied() {
        Some('[') => {
            chars.next();
            skip_control(chars);
        }
        Some('P' | 'X' | ']' | '^' | '_') => {
            chars.next();
            skip_string(chars);
        }
        // Some designations have a second character.
        Some(' '..='/') => {
            chars.next();
            if matches!(chars.peek(), Some('0'..='~')) {
                chars.next();
            }
        }
        Some('0'..='~') => {
            chars.next();
        }
        _ => {}
    }
}

/// Parameters up to the final character.
fn skip_control(chars: &mut Rest<'_>) {
    while matches!(chars.peek(), Some(' '..='?')) {
        chars.next();
    }
    if matches!(chars.peek(), Some('@'..='~')) {
        chars.next();
    }
}

/// Up to its end. An unterminated sequence is kept as plain text, without its escape.
fn skip_string(chars: &mut Rest<'_>) {
    let mut rest = chars.clone();
    while let Some(c) = rest.next() {
        match c {
            '\u{7}' | '\u{9c}' => {
                *chars = rest;
                return;
            }
            ESCAPE if rest.peek() == Some(&'\\') => {
                rest.next();
                *chars = rest;
                return;
            }
            '\n' => return,
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn g8_no_terminal_escape_gets_through() {
        for (text, cleaned) in [
            ("plain\n\ttext é ≥", "plain\n\ttext é ≥"),
            ("\u{1b}[31mred\u{1b}[0m", "red"),
            ("\u{1b}[2J\u{1b}[1;1Hgone", "gone"),
            ("\u{1b}[?1049hx", "x"),
            ("\u{1b}]0;title\u{7}x", "x"),
            ("\u{1b}]52;c;aGk=\u{1b}\\x", "x"),
            ("\u{1b}]0;never ends", "0;never ends"),
            ("\u{1b}]0;ends later\nx\u{7}", "0;ends later\nx"),
            ("\u{1b}Pdcs\u{1b}\\x", "x"),
            ("\u{1b}(Bx", "x"),
            ("\u{1b}cx", "x"),
            ("\u{9b}31mx", "x"),
            ("\u{9d}0;t\u{9c}x", "x"),
            ("a\u{8}\u{8}b\u{7}\u{0}\u{7f}", "ab"),
            ("10 %\r20 %\r\nx", "10 %\n20 %\nx"),
            ("\u{202e}txt.exe\u{2066}", "txt.exe"),
            ("split\u{1b}", "split"),
            ("[31m after a split", "[31m after a split"),
        ] {
            assert_eq!(clean(text), cleaned, "{text:?}");
        }
    }

    #[test]
    fn g8_json_on_a_terminal_has_no_control_characters_and_means_the_same() {
        let json = "{\"text\":\"a\u{9b}31m\u{7f}\u{202e}é\"}";
        let cleaned = clean_json(json);
        assert_eq!(cleaned, "{\"text\":\"a\\u009b31m\\u007f\\u202eé\"}");
        let parse = |json| serde_json::from_str::<serde_json::Value>(json).unwrap();
        assert_eq!(parse(json), parse(&cleaned));
    }

    #[test]
    fn a_line_fits_its_width_and_marks_a_cut() {
        for (text, width, line) in [
            ("cargo test", 20, "cargo test"),
            ("cargo test", 10, "cargo test"),
            ("cargo test", 9, "cargo te…"),
            ("\n  first\nsecond", 20, "first …"),
            ("first\nsecond", 7, "first …"),
            ("first\nsecond", 6, "first…"),
            ("漢字漢字", 5, "漢字…"),
            ("a\tb", 10, "a b"),
            ("", 10, ""),
        ] {
            assert_eq!(one_line(text, width), line, "{text:?}");
        }
    }
}
