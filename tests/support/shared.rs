//! What the tests of one run share: a broker, programs, users. Under `cargo test` they are threads of one process, under
//! cargo-nextest each is a process of its own; either way the first test that needs something makes it.

#![allow(
    dead_code,
    clippy::unwrap_used,
    reason = "not every test binary needs it, and a test fails by panicking"
)]

use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio, id};
use std::sync::OnceLock;

use rustix::fs::{CWD, FileType, Mode, mknodat};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Names the folder of a run of several processes; `tests/nextest-setup` sets it.
const VARIABLE: &str = "TURN_WORKER_TEST_RUN";

/// A pipe that some process has open for writing as long as the run goes on.
const ALIVE: &str = "alive";

struct Run {
    dir: PathBuf,
    /// Closes with this process where the run is this process.
    _alive: Option<File>,
}

/// What the first call of that name in the run made.
pub fn shared<T: Serialize + DeserializeOwned>(name: &str, make: impl FnOnce() -> T) -> T {
    let file = run().dir.join(name);
    let lock = File::create(file.with_extension("lock")).unwrap();
    lock.lock().unwrap();
    let made = match fs::read(&file) {
        Ok(made) => serde_json::from_slice(&made).unwrap(),
        Err(_) => {
            let made = make();
            fs::write(&file, serde_json::to_vec(&made).unwrap()).unwrap();
            made
        }
    };
    // Not only by closing it: a process that another test just starts may have it open, too.
    lock.unlock().unwrap();
    made
}

/// Ends when the run does, however that ends: for the standard input of a process that serves all of it.
pub fn until_the_run_ends() -> Stdio {
    File::open(run().dir.join(ALIVE)).unwrap().into()
}

/// A file for what such a process writes. Nextest waits for the outputs of a test, so it must not inherit them.
pub fn log(name: &str) -> (PathBuf, File) {
    let path = run().dir.join(name).with_extension("log");
    let file = File::create(&path).unwrap();
    (path, file)
}

fn run() -> &'static Run {
    static RUN: OnceLock<Run> = OnceLock::new();
    RUN.get_or_init(|| match std::env::var_os(VARIABLE) {
        Some(dir) => Run {
            dir: dir.into(),
            _alive: None,
        },
        None => of_this_process(),
    })
}

fn of_this_process() -> Run {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("run-{}", id()));
    fs::create_dir_all(&dir).unwrap();
    let pipe = dir.join(ALIVE);
    mknodat(CWD, &pipe, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    let alive = OpenOptions::new().read(true).write(true).open(&pipe);
    let remover = Command::new("sh")
        .args(["-c", "cat; rm -rf \"$0\""])
        .arg(&dir)
        .stdin(File::open(&pipe).unwrap())
        .spawn();
    // It outlives this process.
    drop(remover.unwrap());
    Run {
        dir,
        _alive: Some(alive.unwrap()),
    }
}
