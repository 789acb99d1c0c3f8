//! Where the log goes, and how it reads.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write};
use std::panic::PanicHookInfo;

use anyhow::Context;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use turn_worker::config::{LogFormat, Settings};

/// Logs to stderr. `quiet`: only warnings, unless the operator set a level,
/// for commands with output for people.
pub(super) fn init(settings: &Settings, quiet: bool) -> anyhow::Result<()> {
    let terminal = std::io::stderr().is_terminal();
    let level_set = std::env::var_os("TURN_WORKER_LOG").is_some_and(|level| !level.is_empty());
    let directives = if quiet && !level_set {
        "warn"
    } else {
        &settings.log
    };
    // lapin logs messages that come back with their whole body, prompts, and at
    // `trace` the login as it goes over the wire: no directive switches it on.
    // It also takes every connection that is closed for an error; we report which are.
    let not_lapin = filter_fn(|metadata| !metadata.target().starts_with("lapin"));
    let filter = EnvFilter::try_new(directives)
        .with_context(|| format!("TURN_WORKER_LOG: {directives:?} is no log filter"))?;
    let format = settings.log_format.unwrap_or(if terminal || quiet {
        LogFormat::Text
    } else {
        LogFormat::Json
    });
    let log = tracing_subscriber::registry().with(filter).with(not_lapin);
    let colored = terminal && std::env::var_os("NO_COLOR").is_none();
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(move || OneLine {
            out: io::stderr(),
            colored,
        })
        .with_ansi(colored);
    match format {
        LogFormat::Text => log.with(lines).init(),
        // Of spans there is one: its list would say the same again.
        LogFormat::Json => {
            let lines = lines.json().flatten_event(true).with_span_list(false);
            log.with(lines).init();
        }
    }
    std::panic::set_hook(Box::new(log_panic));
    Ok(())
}

/// A panic's message may quote any text that was at hand.
fn log_panic(panic: &PanicHookInfo<'_>) {
    let location = panic.location().map(ToString::to_string);
    tracing::error!(location, "panicked, which is a bug");
    let payload = panic.payload();
    let text = payload.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| payload.downcast_ref::<&str>().copied());
    tracing::debug!(text, "what the panic said");
}

/// One event is one line, regardless of the texts from outside in it: no text can pass
/// for an event of its own, nor move a terminal's cursor.
struct OneLine<W> {
    out: W,
    /// Escape characters are the log's own: it has escaped all others.
    colored: bool,
}

impl<W: Write> Write for OneLine<W> {
    /// Gets an event at a time, whole.
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(event);
        let escaped = escaped(&text, self.colored);
        self.out.write_all(escaped.as_bytes())?;
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

fn escaped(event: &str, colored: bool) -> Cow<'_, str> {
    let breaks = |c: char| match c {
        '\u{1b}' => !colored,
        '\u{2028}' | '\u{2029}' => true,
        c => c.is_control(),
    };
    let text = event.strip_suffix('\n').unwrap_or(event);
    if !text.contains(breaks) {
        return Cow::Borrowed(event);
    }
    let mut line = String::with_capacity(event.len() + 16);
    for c in text.chars() {
        if breaks(c) {
            // Writing to a String can't fail.
            let _ = write!(line, "{}", c.escape_default());
        } else {
            line.push(c);
        }
    }
    line.push('\n');
    Cow::Owned(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn g8_an_event_is_one_line_with_any_content() {
        for (event, colored, line) in [
            ("plain é\n", false, "plain é\n"),
            ("a\nINFO forged\r\n", false, "a\\nINFO forged\\r\n"),
            (
                "\u{1b}[2J\u{9b}\t\u{2028}\n",
                false,
                "\\u{1b}[2J\\u{9b}\\t\\u{2028}\n",
            ),
            (
                "\u{1b}[32mINFO\u{1b}[0m\n",
                true,
                "\u{1b}[32mINFO\u{1b}[0m\n",
            ),
            ("", false, ""),
        ] {
            let mut out = OneLine {
                out: Vec::new(),
                colored,
            };
            out.write_all(event.as_bytes()).unwrap();
            assert_eq!(String::from_utf8(out.out).unwrap(), line);
        }
    }
}
