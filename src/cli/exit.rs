//! Exit statuses: the outcome of a turn, for scripts.

use turn_worker::event::StopReason;

/// For the help of the commands that run a turn or follow one.
pub(super) const HELP: &str = "\
Exit status:
  0    the agent came to the end of its turn
  1    the turn failed, or could not be sent or followed; the error says why
  2    wrong arguments or settings
  124  the turn ran out of time
  130  the turn was cancelled, or a second Ctrl-C left it
  141  the reader of the output is gone";

pub(super) const FAILURE: u8 = 1;
pub(super) const USAGE: u8 = 2;
pub(super) const INTERRUPTED: u8 = 130;
/// As a shell reports a program that SIGPIPE ended.
pub(super) const CLOSED_PIPE: u8 = 141;

pub(super) const fn of(stop_reason: StopReason) -> u8 {
    match stop_reason {
        StopReason::EndTurn => 0,
        StopReason::Error => FAILURE,
        StopReason::Cancelled => INTERRUPTED,
        StopReason::Timeout => 124,
    }
}

/// The command line, or what it names, is wrong: no action was tried.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Usage(pub String);
