//! What a call prints, line by line while it runs.

use super::tool::shown_line;

/// So many lines are shown as they come; of more, the last ones when the call
/// is done.
const MAX_LINES: usize = 20;
/// What is remembered, to know at the end whether all of it was shown.
const MAX_BYTES: usize = 64 << 10;

#[derive(Debug, Default)]
pub(super) struct Live {
    /// All that came so far.
    text: String,
    /// Where the line starts that is not shown yet.
    shown: usize,
    lines: usize,
    /// Something was not shown, and will not be.
    hidden: bool,
}

impl Live {
    /// The lines that are whole now. `visible`: they can stand below the call.
    pub(super) fn push(&mut self, text: &str, visible: bool, width: usize) -> Vec<String> {
        self.hidden |= !visible || self.text.len() + text.len() > MAX_BYTES;
        if self.hidden {
            return Vec::new();
        }
        self.text.push_str(text);
        let mut lines = Vec::new();
        while let Some(end) = self.text[self.shown..].find('\n') {
            if self.lines == MAX_LINES {
                self.hidden = true;
                break;
            }
            let line = &self.text[self.shown..self.shown + end];
            lines.push(shown_line(line, width));
            self.shown += end + 1;
            self.lines += 1;
        }
        lines
    }

    /// What is still to be shown of a call's whole output; `None`, where its
    /// last lines have to stand for what was not shown.
    pub(super) fn end(self, whole: &str, visible: bool, width: usize) -> Option<Vec<String>> {
        let rest = &self.text[self.shown..];
        // The first of it need not have come in pieces.
        if self.hidden || !whole.ends_with(&self.text) || !(visible || rest.is_empty()) {
            return None;
        }
        let rest = rest.lines().map(|line| shown_line(line, width));
        Some(rest.collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_shown_when_it_is_whole() {
        let mut live = Live::default();
        assert_eq!(live.push("on", true, 40), [""; 0]);
        assert_eq!(live.push("e\ntwo\nthr", true, 40), ["one", "two"]);
        assert_eq!(
            live.end("zero\none\ntwo\nthr", true, 40),
            Some(vec!["thr".to_owned()])
        );
    }

    #[test]
    fn what_was_not_all_shown_is_shown_at_the_end() {
        let mut unseen = Live::default();
        assert_eq!(unseen.push("one\n", false, 40), [""; 0]);
        assert_eq!(unseen.end("one\n", true, 40), None);
        let mut other = Live::default();
        other.push("one\n", true, 40);
        assert_eq!(other.end("one\nmore\n", true, 40), None);
        let mut long = Live::default();
        let text = "x\n".repeat(MAX_LINES + 1);
        assert_eq!(long.push(&text, true, 40).len(), MAX_LINES);
        assert_eq!(long.end(&text, true, 40), None);
        let mut large = Live::default();
        large.push(&"x".repeat(MAX_BYTES + 1), true, 40);
        assert_eq!(large.end(&"x".repeat(MAX_BYTES + 1), true, 40), None);
        let mut begun = Live::default();
        begun.push("begun", true, 40);
        assert_eq!(begun.end("begun", false, 40), None);
    }
}
