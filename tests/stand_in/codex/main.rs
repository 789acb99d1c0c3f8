#![allow(
    clippy::unwrap_used,
    reason = "a stand-in that fails should fail loudly"
)]
//! A stand-in for codex that does what its prompt says, one step a line, and
//! records when it ran: as `codex exec --json`, or as `codex app-server
//! --stdio`. It is as fast as a process can be, and it can misbehave in every
//! way that the real one was seen to.
//!
//! What it records goes to `$STAND_IN_DIR/log`, one line an event, appended
//! in one write, so that the file's order is the order of events:
//! `start <workspace> <pid> <first word of the prompt's first line> <nanoseconds since 1970>`,
//! then `end …`, and `overlap …` when another one, or anything that one had started,
//! was alive in the workspace at its start.
//! Threads with their token totals live in `$STAND_IN_DIR/threads`; a process that
//! writes to one holds a lock in `$STAND_IN_DIR/writers`.

mod app_server;
mod commands;
mod exec;
mod files;
mod mcp;
mod server_voice;
mod steps;

use std::path::PathBuf;
use std::process::exit;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if args.iter().any(|arg| arg == "--version") {
        println!("codex-cli {}", turn_worker::versions::CODEX);
        return;
    }
    if args == ["login", "status"] {
        return commands::login_status();
    }
    if args == ["mcp"] {
        return mcp::run();
    }
    let dir = PathBuf::from(std::env::var_os("STAND_IN_DIR").unwrap_or_else(|| {
        eprintln!("STAND_IN_DIR is not set");
        exit(2)
    }));
    match args.iter().any(|arg| arg == "app-server") {
        true => app_server::run(dir, &args),
        false => exec::run(dir, &args),
    }
}
