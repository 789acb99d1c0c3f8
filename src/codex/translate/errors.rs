//! What a failure reads like.

use super::super::failure::{Cause, classify, classify_exit};
use super::super::stderr;
use crate::event::{ErrorCode, EventBody, NoticeCode, Reason, TurnError};
use crate::guard::Exit;

/// The most of a passed-on error or warning that is published, in bytes: a
/// proxy's whole HTML page can stand in one.
const MAX_MESSAGE: usize = 8192;

pub(super) fn turn_failed(message: String, cause: Option<Cause>) -> TurnError {
    let cause = cause.unwrap_or_else(|| classify(&message));
    let message = if message.trim().is_empty() {
        "codex gave no message".to_owned()
    } else {
        message
    };
    turn_error(ErrorCode::TurnFailed, message, cause)
}

/// Not by the worker, which would have a reason to give.
pub(super) fn interrupted() -> TurnError {
    let cause = Cause {
        reason: Reason::Unknown,
        retryable: true,
    };
    turn_error(
        ErrorCode::TurnFailed,
        "codex was interrupted".to_owned(),
        cause,
    )
}

/// codex ended, or never started, without a terminal event.
pub(super) fn ended_silently(
    exit: &Exit,
    held_error: Option<(String, Option<Cause>)>,
    stderr_tail: &str,
) -> TurnError {
    let tail = stderr::clean_tail(stderr_tail);
    let how = match exit {
        Exit::NotStarted { message, .. } => {
            let message = format!("codex could not be started: {message}");
            return turn_error(
                ErrorCode::StartFailed,
                message,
                classify_exit(exit, stderr_tail),
            );
        }
        Exit::Code(code) => format!("codex exited with code {code}"),
        Exit::Signal(signal) => format!("codex was ended by signal {signal}"),
        Exit::GuardLost => "codex's guard died".to_owned(),
    };
    let how = format!("{how} before it told how the turn ended");
    match held_error {
        Some((held, cause)) => {
            let cause = cause.unwrap_or_else(|| classify(&held));
            turn_error(ErrorCode::Exited, format!("{how}: {held}"), cause)
        }
        None => {
            let message = if tail.is_empty() {
                how
            } else {
                format!("{how}: {tail}")
            };
            turn_error(ErrorCode::Exited, message, classify_exit(exit, stderr_tail))
        }
    }
}

/// What helps where codex does not go on with a thread.
const WAY_OUT: &str = "; a turn with `thread` `new` begins another conversation, one with `continue_or_new` does so only where it has to";

fn turn_error(code: ErrorCode, message: String, cause: Cause) -> TurnError {
    let message = match cause.reason {
        Reason::Thread => bounded(message, MAX_MESSAGE - WAY_OUT.len()) + WAY_OUT,
        _ => bounded(message, MAX_MESSAGE),
    };
    TurnError {
        code,
        message,
        reason: cause.reason,
        retryable: cause.retryable,
    }
}

pub(super) fn notice(code: NoticeCode, message: String) -> EventBody {
    EventBody::Notice {
        code,
        message: bounded(message, MAX_MESSAGE),
    }
}

/// At most `max` bytes, cut at a character and marked where cut.
pub(super) fn bounded(mut text: String, max: usize) -> String {
    const CUT: &str = " …";
    if text.len() > max {
        let end = text.floor_char_boundary(max.saturating_sub(CUT.len()));
        text.truncate(end);
        text.push_str(CUT);
    }
    text
}
