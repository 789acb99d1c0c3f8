//! What a command prints on stdout: for a person, or JSON lines for a program.

use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

use anyhow::Context;
use serde_json::Value;

use super::exit;
use super::print::width;
use super::render::clean::clean_json;
use super::render::style::Style;

#[derive(Debug, Clone, Copy)]
pub(super) struct Output {
    is_terminal: bool,
    json: bool,
}

impl Output {
    /// `json`: also on a terminal.
    pub(super) fn new(json: bool) -> Self {
        let is_terminal = io::stdout().is_terminal();
        Self {
            is_terminal,
            json: json || !is_terminal,
        }
    }

    /// How to print for a person, and how wide; `None` if a program reads.
    pub(super) fn screen(self) -> Option<(Style, usize)> {
        (!self.json).then(|| (Style::for_output(self.is_terminal), width()))
    }

    pub(super) fn is_terminal(self) -> bool {
        self.is_terminal
    }

    /// One line.
    pub(super) fn json(self, value: &Value) -> io::Result<()> {
        self.json_text(&value.to_string())
    }

    /// The same of what is JSON on one line already.
    pub(super) fn json_text(self, json: &str) -> io::Result<()> {
        if self.is_terminal {
            return print(&(clean_json(json) + "\n"));
        }
        print(&format!("{json}\n"))
    }
}

pub(super) fn print(text: &str) -> io::Result<()> {
    print_bytes(text.as_bytes())
}

pub(super) fn print_bytes(bytes: &[u8]) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(bytes)?;
    stdout.flush()
}

/// The reader may have gone.
pub(super) fn status(printed: io::Result<()>) -> anyhow::Result<ExitCode> {
    match printed {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
            Ok(ExitCode::from(exit::CLOSED_PIPE))
        }
        Err(error) => Err(error).context("can't print"),
    }
}
