//! A turn's events on stdout: for a person or, line by line, for a program.

use std::io::{self, IsTerminal, Write};

use turn_worker::client::{Arrival, TurnMessage};
use turn_worker::event::EventBody;

use super::exit;
use super::render::Screen;
use super::render::clean::clean_json;
use super::render::style::Style;

/// If the terminal's width is unknown.
const WIDTH: usize = 80;
/// Narrower, no text would be left on a line.
const MIN_WIDTH: usize = 20;

#[derive(Debug)]
pub(super) struct Printer {
    form: Form,
    /// The turn's exit status, once it has ended.
    ended: Option<u8>,
    /// Why printing has failed.
    broken: Option<io::Error>,
}

#[derive(Debug)]
enum Form {
    Screen(Box<Screen>),
    Json { to_terminal: bool },
}

impl Printer {
    /// `json`: also on a terminal.
    pub(super) fn new(json: bool) -> Self {
        let is_terminal = io::stdout().is_terminal();
        let form = if is_terminal && !json {
            let style = Style::for_output(is_terminal);
            Form::Screen(Box::new(Screen::new(style)))
        } else {
            Form::Json {
                to_terminal: is_terminal,
            }
        };
        Self {
            form,
            ended: None,
            broken: None,
        }
    }

    /// Whether a person reads along.
    pub(super) fn is_screen(&self) -> bool {
        matches!(self.form, Form::Screen(_))
    }

    pub(super) fn event(&mut self, message: &TurnMessage, arrival: Arrival) {
        if message.is_end() {
            self.ended = Some(match message.body {
                Some(EventBody::MessageEnd { stop_reason, .. }) => exit::of(stop_reason),
                _ => exit::FAILURE,
            });
        }
        let text = match &mut self.form {
            Form::Screen(screen) => screen.event(message, arrival, width()),
            Form::Json { to_terminal: true } => clean_json(&message.json) + "\n",
            Form::Json { to_terminal: false } => format!("{}\n", message.json),
        };
        self.write(&text);
    }

    /// Sets off what is about to be said on stderr.
    pub(super) fn interrupt(&mut self) {
        if let Form::Screen(screen) = &mut self.form {
            let text = screen.interrupt();
            self.write(&text);
        }
    }

    pub(super) fn ended(&self) -> Option<u8> {
        self.ended
    }

    /// Why printing has failed, once it has.
    pub(super) fn take_broken(&mut self) -> Option<io::Error> {
        self.broken.take()
    }

    fn write(&mut self, text: &str) {
        if self.broken.is_some() || text.is_empty() {
            return;
        }
        let mut stdout = io::stdout().lock();
        let written = stdout
            .write_all(text.as_bytes())
            .and_then(|()| stdout.flush());
        self.broken = written.err();
    }
}

/// Of the terminal that stdout is.
pub(super) fn width() -> usize {
    let size = rustix::termios::tcgetwinsize(io::stdout()).ok();
    match size.map(|size| usize::from(size.ws_col)) {
        None | Some(0) => WIDTH,
        Some(columns) => columns.max(MIN_WIDTH),
    }
}
