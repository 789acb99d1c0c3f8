#![allow(
    clippy::unwrap_used,
    reason = "a stand-in that fails should fail loudly"
)]
//! Stands in for `codex-code-mode-host`, beside the stand-in for codex. Each
//! line of its stdin is a script, which it answers by a line: `end` ends at once,
//! and any other runs on, in a thread of its own, as in the real one.

use std::io::{BufRead, Write};
use std::thread;
use std::time::Duration;

fn main() {
    for line in std::io::stdin().lock().lines() {
        if line.unwrap() != "end" {
            thread::spawn(|| thread::sleep(Duration::MAX));
        }
        std::io::stdout().write_all(b"done\n").unwrap();
    }
}
