//! What codex wrote to stderr, for people and for [`super::failure`].

/// The most of stderr that an error message carries, in bytes.
const MAX_TAIL: usize = 2048;

/// Printed by every run without a terminal as stdin; it is never the cause.
const NOISE: &str = "Reading additional input from stdin...";
/// Starts a warning that codex writes at each start where its home is below
/// the temporary folder.
const WARNING: &str = "WARNING: proceeding, even though ";

fn is_noise(line: &str) -> bool {
    let line = line.trim();
    line == NOISE || line.starts_with(WARNING)
}

/// The end of what codex wrote, as plain text: no terminal codes, no other
/// control characters, at most 2 KiB.
pub(crate) fn clean_tail(stderr: &str) -> String {
    let plain = strip_terminal_codes(stderr);
    let lines: Vec<&str> = plain.lines().filter(|line| !is_noise(line)).collect();
    let text = lines.join("\n");
    let text = text.trim();
    let mut start = text.len().saturating_sub(MAX_TAIL);
    while !text.is_char_boundary(start) {
        start += 1;
    }
    text[start..].to_owned()
}

/// What codex itself said, without its log: log lines quote commands and
/// patches, with words that must not be taken for the cause. When it only logged,
/// the log is all there is.
pub(super) fn spoken(tail: &str) -> String {
    let spoken: Vec<&str> = tail.lines().filter(|line| !is_log(line)).collect();
    if spoken.iter().all(|line| line.trim().is_empty()) {
        tail.to_owned()
    } else {
        spoken.join("\n")
    }
}

/// `2026-11-22T06:28:26.894368Z ERROR codex_core::…`
fn is_log(line: &str) -> bool {
    let mut words = line.split_whitespace();
    let time = words.next().unwrap_or_default();
    let level = words.next().unwrap_or_default();
    time.parse::<jiff::Timestamp>().is_ok()
        && matches!(level, "ERROR" | "WARN" | "INFO" | "DEBUG" | "TRACE")
}

fn strip_terminal_codes(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\u{1b}' => match chars.next() {
                // CSI: parameters, then one final byte.
                Some('[') => while chars.next().is_some_and(|c| !('@'..='~').contains(&c)) {},
                // OSC: to BEL or ESC \.
                Some(']') => {
                    while let Some(c) = chars.next() {
                        if c == '\u{7}' || (c == '\u{1b}' && chars.next_if_eq(&'\\').is_some()) {
                            break;
                        }
                    }
                }
                _ => {}
            },
            '\n' | '\t' => plain.push(c),
            c if c.is_control() => {}
            c => plain.push(c),
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tail_is_plain_text() {
        for (raw, plain) in [
            ("", ""),
            ("Reading additional input from stdin...\n", ""),
            (
                "WARNING: proceeding, even though we could not create PATH aliases: no\nError: no",
                "Error: no",
            ),
            (
                "\u{1b}[31;1mError:\u{1b}[0m no\r\n\u{1b}]0;title\u{7}way\u{0}",
                "Error: no\nway",
            ),
            ("\u{1b}]8;;http://x\u{1b}\\link\u{1b}[", "link"),
            ("a\tb\n\n", "a\tb"),
        ] {
            assert_eq!(clean_tail(raw), plain, "{raw:?}");
        }
    }

    #[test]
    fn g10_tail_is_the_bounded_end() {
        let long = format!("{}the end", "é".repeat(MAX_TAIL));
        let tail = clean_tail(&long);
        assert!(tail.len() <= MAX_TAIL && tail.len() > MAX_TAIL - 4);
        assert!(tail.ends_with("the end"));
    }

    #[test]
    fn log_is_not_what_codex_said() {
        let log = "2026-11-22T06:28:26.894368Z ERROR codex_core::tools::router: error=rate limit";
        assert_eq!(spoken(&format!("{log}\nError: no")), "Error: no");
        assert_eq!(spoken(log), log);
    }
}
