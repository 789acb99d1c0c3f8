//! Which of a failed turn's words are logged.

use std::borrow::Cow;

use crate::config::LogErrors;
use crate::event::{ErrorCode, Reason, TurnError};

/// Of words that are not the worker's own.
const MAX_CHARS: usize = 500;

/// The worker's own words in any case; those of codex and of the model's API
/// as the setting wants it.
pub(super) fn logged_message(error: &TurnError, setting: LogErrors) -> Option<Cow<'_, str>> {
    let all = match setting {
        LogErrors::Off => false,
        // Where codex exited without one, its message is what it wrote to stderr.
        LogErrors::Known => {
            error.code == ErrorCode::TurnFailed && is_about_the_operators_part(error.reason)
        }
        LogErrors::All => true,
    };
    match error.own_words() {
        _ if all => Some(error.message.chars().take(MAX_CHARS).collect()),
        own => own.map(Cow::Borrowed),
    }
}

/// Whether the words for it are about the account, the connection or the
/// settings, and quote no text of a turn.
fn is_about_the_operators_part(reason: Reason) -> bool {
    match reason {
        Reason::Auth
        | Reason::RateLimited
        | Reason::UsageLimit
        | Reason::Overloaded
        | Reason::ContextWindow
        | Reason::Network
        | Reason::Config
        | Reason::Thread => true,
        Reason::InvalidPrompt | Reason::Policy | Reason::Workspace | Reason::Unknown => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn g8_words_that_may_quote_a_prompt_are_logged_only_if_that_is_asked_for() {
        let logged = |code, reason, setting| {
            let message = format!("its words{}", "x".repeat(10_000));
            let error = TurnError {
                code,
                message,
                reason,
                retryable: false,
            };
            let words = logged_message(&error, setting).map(Cow::into_owned);
            assert!(words.as_ref().is_none_or(|words| words.len() <= MAX_CHARS));
            words.is_some()
        };
        let failed = ErrorCode::TurnFailed;
        for (reason, known) in [
            (Reason::Auth, true),
            (Reason::Network, true),
            (Reason::Config, true),
            (Reason::Unknown, false),
            (Reason::InvalidPrompt, false),
            (Reason::Policy, false),
        ] {
            assert_eq!(logged(failed, reason, LogErrors::Known), known, "{reason}");
            assert!(logged(failed, reason, LogErrors::All), "{reason}");
            assert!(!logged(failed, reason, LogErrors::Off), "{reason}");
        }
        let exited = |setting| {
            let error = TurnError {
                code: ErrorCode::Exited,
                message: "codex exited with code 1: 401: SECRET".to_owned(),
                reason: Reason::Auth,
                retryable: false,
            };
            logged_message(&error, setting)
                .map(Cow::into_owned)
                .unwrap_or_default()
        };
        assert_eq!(exited(LogErrors::Known), "codex exited with code 1");
        assert!(exited(LogErrors::All).contains("SECRET"));
    }
}
