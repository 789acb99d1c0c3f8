//! What a command says on stderr, beside its output.

use std::io::Write;

/// One line. A stderr that is gone is no reason to fail.
pub(super) fn notice(text: &str) {
    let _ = writeln!(std::io::stderr(), "turn-worker: {text}");
}
