//! What a machine lacks the means to test is no failure.

use std::fs::OpenOptions;
use std::io::Write;

/// Reports it where also those see it who are not shown what tests print: `ops/test` names a file for that, and lists it
/// beside its result.
pub fn not_tested(what: &str) {
    let _ = std::io::stderr().write_all(format!("NOT TESTED: {what}\n").as_bytes());
    if let Some(list) = std::env::var_os("NOT_CHECKED_LIST") {
        let list = OpenOptions::new().append(true).open(list);
        let _ = list.and_then(|mut list| list.write_all(format!("{what}\n").as_bytes()));
    }
}
