//! A codex without cost: prints what a turn says, as fast as a process can,
//! and ends. So what is measured with it is what the worker costs.
//!
//! Its prompt may ask for more: `sleep MS` lets it work for so long, `events N`
//! has it write N messages. Only the standard library, since its start
//! is what counts; as a server it starts but once, and answers each prompt alike.

mod free_server;

use std::fmt::Write as _;
use std::io::{Read, Write, stdin, stdout};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Of each message: a line or two, as agents write them.
const TEXT_BYTES: usize = 160;
/// codex writes each line on its own; 64 KiB is what a pipe takes at once.
const AT_ONCE: usize = 64 << 10;

fn main() {
    let args: Vec<String> = std::env::args().collect();
    if args.iter().any(|arg| arg == "--version") {
        println!("codex-cli {}", turn_worker::versions::CODEX);
        return;
    }
    if args.iter().any(|arg| arg == "app-server") {
        if free_server::serve(&"x".repeat(TEXT_BYTES), new_thread).is_err() {
            std::process::exit(101);
        }
        return;
    }
    let mut prompt = [0; 64];
    let read = stdin().read(&mut prompt).unwrap_or(0);
    let prompt = String::from_utf8_lossy(&prompt[..read]);
    let (word, number) = prompt.trim().split_once(' ').unwrap_or_default();
    let number: u64 = number.parse().unwrap_or(0);

    let resumed = args.iter().position(|arg| arg == "resume");
    let thread = resumed.and_then(|at| args.get(at + 1)).cloned();
    let thread = thread.unwrap_or_else(new_thread);
    let mut out = format!(
        "{{\"type\":\"thread.started\",\"thread_id\":\"{thread}\"}}\n{{\"type\":\"turn.started\"}}\n"
    );
    if word == "sleep" {
        write_out(&mut out);
        std::thread::sleep(Duration::from_millis(number));
    }
    let messages = if word == "events" { number } else { 1 };
    let text = "x".repeat(TEXT_BYTES);
    for n in 0..messages {
        // Writing to a String can't fail.
        let _ = writeln!(
            out,
            "{{\"type\":\"item.completed\",\"item\":{{\"id\":\"item_{n}\",\"type\":\"agent_message\",\"text\":\"{text}\"}}}}"
        );
        if out.len() > AT_ONCE {
            write_out(&mut out);
        }
    }
    out += "{\"type\":\"turn.completed\",\"usage\":{\"input_tokens\":100,\"cached_input_tokens\":40,\
            \"cache_write_input_tokens\":0,\"output_tokens\":20,\"reasoning_output_tokens\":5}}\n";
    write_out(&mut out);
}

fn write_out(out: &mut String) {
    let mut stdout = stdout().lock();
    if (stdout
        .write_all(out.as_bytes())
        .and_then(|()| stdout.flush()))
    .is_err()
    {
        std::process::exit(101);
    }
    out.clear();
}

/// A UUIDv7, as codex makes them.
fn new_thread() -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = now.unwrap_or_default();
    let (ms, rest) = (now.as_millis() & 0xffff_ffff_ffff, now.subsec_nanos());
    format!(
        "{:08x}-{:04x}-7{:03x}-8000-{:012x}",
        ms >> 16,
        ms & 0xffff,
        rest & 0xfff,
        (u64::from((rest >> 12) & 0xffff) << 32) | u64::from(std::process::id())
    )
}
