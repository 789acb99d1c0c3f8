//! How a turn ended, in words.

use std::time::Duration;

use serde_json::Value;
use turn_worker::event::{StopReason, TurnError, Usage};

use super::clean::clean;
use super::style::Style;

/// What went wrong, why, and whether retrying is worth it.
pub(crate) fn error(style: Style, error: &TurnError) -> String {
    let TurnError {
        code,
        message,
        reason,
        retryable,
    } = error;
    let what = style.red(&format!("error: {}", clean(message.trim())));
    let advice = if *retryable {
        "sent again under a new id, it may succeed later"
    } else {
        "sent again as it is, it would fail again"
    };
    let why = style.dim(&format!("{code}, {reason}; {advice}"));
    format!("{what}\n  {why}\n")
}

/// The turn for which this one was cancelled.
pub(crate) fn superseded(style: Style, by: &str) -> String {
    style.dim(&format!("turn {} takes its place", clean(by))) + "\n"
}

/// Outcome, duration, tokens.
pub(crate) fn line(
    style: Style,
    stop_reason: StopReason,
    duration_ms: u64,
    usage: Option<&Usage>,
) -> String {
    let outcome = match stop_reason {
        StopReason::EndTurn => style.green("done"),
        StopReason::Error => style.red("failed"),
        StopReason::Cancelled => style.yellow("cancelled"),
        StopReason::Timeout => style.red("timed out"),
    };
    let duration = duration_text(Duration::from_millis(duration_ms));
    let tokens = tokens(usage);
    format!(
        "{outcome} {}\n",
        style.dim(&format!("· {duration} · {tokens}"))
    )
}

/// What a turn spent.
pub(crate) fn tokens(usage: Option<&Usage>) -> String {
    match usage {
        None => "tokens unknown".to_owned(),
        Some(Usage { tokens, .. }) => {
            let part = |count: u64, word: &str| match count {
                0 => String::new(),
                count => format!(" ({} {word})", grouped(count)),
            };
            format!(
                "{} tokens in{} · {} out{}",
                grouped(tokens.input_tokens),
                part(tokens.cache_read_tokens, "cached"),
                grouped(tokens.output_tokens),
                part(tokens.thinking_tokens, "thinking"),
            )
        }
    }
}

/// The answer to a request with an output schema.
pub(crate) fn structured(style: Style, value: &Value) -> String {
    let text = serde_json::to_string_pretty(value).unwrap_or_default();
    format!("{}\n{}\n", style.dim("the answer as JSON:"), clean(&text))
}

pub(crate) fn duration_text(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, _) => format!("{:.1} s", duration.as_secs_f64()),
        (0, minutes, seconds) => format!("{minutes} min {seconds} s"),
        (hours, minutes, _) => format!("{hours} h {minutes} min"),
    }
}

/// `1,234,567`.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        for (number, text) in [
            (0, "0"),
            (999, "999"),
            (1000, "1,000"),
            (1_234_567, "1,234,567"),
        ] {
            assert_eq!(grouped(number), text);
        }
        for (ms, text) in [
            (0, "0.0 s"),
            (5120, "5.1 s"),
            (59_900, "59.9 s"),
            (60_000, "1 min 0 s"),
            (3_725_000, "1 h 2 min"),
        ] {
            assert_eq!(duration_text(Duration::from_millis(ms)), text);
        }
    }
}
