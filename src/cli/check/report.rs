//! The lines of a check: for a person, or one JSON object each.

use std::io::{IsTerminal, Write};

use serde_json::json;

use crate::cli::render::clean::clean;
use crate::cli::render::style::Style;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Ok,
    /// It works, though perhaps not as it is meant.
    Warn,
    Fail,
}

impl Verdict {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail => "FAIL",
        }
    }
}

#[derive(Debug)]
pub(super) struct Report {
    json: bool,
    style: Style,
    tried: usize,
    warned: usize,
    failed: usize,
}

impl Report {
    pub(super) fn new(json: bool) -> Self {
        Self {
            json,
            style: Style::for_output(std::io::stdout().is_terminal()),
            tried: 0,
            warned: 0,
            failed: 0,
        }
    }

    pub(super) fn ok(&mut self, what: &str, detail: &str) {
        self.line(Verdict::Ok, what, detail);
    }

    pub(super) fn warn(&mut self, what: &str, detail: &str) {
        self.line(Verdict::Warn, what, detail);
    }

    pub(super) fn fail(&mut self, what: &str, detail: &str) {
        self.line(Verdict::Fail, what, detail);
    }

    /// Printed at once: some checks take seconds.
    pub(super) fn line(&mut self, verdict: Verdict, what: &str, detail: &str) {
        self.tried += 1;
        match verdict {
            Verdict::Ok => {}
            Verdict::Warn => self.warned += 1,
            Verdict::Fail => self.failed += 1,
        }
        let detail = clean(detail).replace('\n', " ");
        let status = verdict.as_str();
        if self.json {
            print(
                &json!({"check": what, "status": status.to_lowercase(), "detail": detail})
                    .to_string(),
            );
            return;
        }
        let status = format!("{status:<4}");
        let status = match verdict {
            Verdict::Ok => self.style.green(&status),
            Verdict::Warn => self.style.yellow(&status),
            Verdict::Fail => self.style.red(&status),
        };
        print(&format!("{status}  {what:<14}  {detail}"));
    }

    /// The last line, and whether no check failed.
    pub(super) fn finish(self) -> bool {
        if !self.json {
            let Self {
                tried,
                warned,
                failed,
                ..
            } = self;
            let warnings = match warned {
                0 => String::new(),
                1 => ", 1 warning".to_owned(),
                n => format!(", {n} warnings"),
            };
            let sum = match failed {
                0 => format!("all {tried} passed{warnings}"),
                n => format!("{n} of {tried} failed{warnings}"),
            };
            print(&self.style.bold(&sum));
        }
        self.failed == 0
    }
}

/// The exit status reports the outcome to a caller that reads no output.
fn print(line: &str) {
    let _ = writeln!(std::io::stdout(), "{line}");
}
