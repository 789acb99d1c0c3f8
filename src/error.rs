//! What is asked of errors of every kind.

use std::error::Error;
use std::io;

use rustix::io::Errno;

/// The error and its causes, outermost first.
pub fn with_sources(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        // lapin's errors repeat their cause.
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

/// Whether the system had no process, memory or descriptor left to give,
/// which is no fault of what was asked for.
pub fn is_out_of_resources(error: &io::Error) -> bool {
    const OUT: [Errno; 4] = [Errno::AGAIN, Errno::NOMEM, Errno::MFILE, Errno::NFILE];
    Errno::from_io_error(error).is_some_and(|errno| OUT.contains(&errno))
}
