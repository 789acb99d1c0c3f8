//! Errors in one line.

use std::error::Error;
use std::fmt::Write;

/// The error and all of its sources, outermost first.
pub fn with_sources(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        // Writing to a string can't fail.
        let _ = write!(text, ": {error}");
        source = error.source();
    }
    text
}
