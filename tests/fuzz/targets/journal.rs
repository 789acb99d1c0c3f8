//! A workspace's records, as a crash or a failing disk may have left them.
//! Each line of the input gets its checksum, unless it starts with `!`.
#![no_main]

use std::sync::OnceLock;
use std::{env, fs, process};

use libfuzzer_sys::fuzz_target;
use turn_worker::workspace::{Root, Workspace};

fn workspace() -> &'static Workspace {
    static WORKSPACE: OnceLock<Workspace> = OnceLock::new();
    WORKSPACE.get_or_init(|| {
        let dir = env::temp_dir().join(format!("fuzz-journal-{}", process::id()));
        let root = Root::open(&dir).expect("a root can be made");
        root.workspace("w").expect("a workspace can be made")
    })
}

fn sealed(input: &[u8]) -> Vec<u8> {
    let mut file = Vec::new();
    for line in input.split_inclusive(|byte| *byte == b'\n') {
        if let Some(raw) = line.strip_prefix(b"!") {
            file.extend_from_slice(raw);
        } else {
            let json = line.strip_suffix(b"\n").unwrap_or(line);
            file.extend(format!("{:08x} ", crc32fast::hash(json)).into_bytes());
            file.extend_from_slice(line);
        }
    }
    file
}

fuzz_target!(|input: &[u8]| {
    let workspace = workspace();
    let state = workspace.state_dir();
    let journal = sealed(input);
    for name in ["checkpoint", "journal.old"] {
        let _ = fs::remove_file(state.join(name));
    }
    fs::write(state.join("journal"), &journal).expect("a journal can be written");
    fs::write(state.join("claims/t.claim"), &journal).expect("a claim can be written");
    fuzz::bounded(&journal, 64, 256 << 10, || {
        let _ = workspace.claims().find("t");
        let _ = workspace.history("t");
        let lock = workspace.try_lock().expect("the lock can be tried");
        if let Ok(opened) = lock.expect("no other process has it").open_journal(None) {
            let history = opened.history("t").expect("what was understood can be read");
            // What opening cut off is no record.
            assert_eq!(workspace.history("t").expect("so can the rest"), history);
        }
    });
});
