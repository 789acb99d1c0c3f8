//! What the stand-in keeps on disk, and its stdout.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::exit;

use serde_json::{Value, json};

/// What each model answer "costs"; a turn has one answer, and one more for each `say`.
pub const ANSWER: [u64; 5] = [100, 40, 0, 20, 5];

pub fn usage(tokens: [u64; 5]) -> Value {
    json!({
        "input_tokens": tokens[0], "cached_input_tokens": tokens[1], "cache_write_input_tokens": tokens[2],
        "output_tokens": tokens[3], "reasoning_output_tokens": tokens[4]})
}

/// A thread's record: its tokens so far.
#[derive(Clone)]
pub struct Thread {
    pub id: String,
    file: PathBuf,
}

/// Locked as long as this process may write to the thread.
pub struct Writer(#[allow(dead_code, reason = "it is held, not used")] File);

impl Thread {
    pub fn new(dir: &Path, id: String) -> Self {
        fs::create_dir_all(dir.join("threads")).unwrap();
        let file = dir.join("threads").join(&id);
        Self { id, file }
    }

    pub fn exists(&self) -> bool {
        self.file.exists()
    }

    pub fn create(&self) {
        if !self.exists() {
            write_whole(&self.file, "[0,0,0,0,0]");
        }
    }

    pub fn total(&self) -> [u64; 5] {
        serde_json::from_slice(&fs::read(&self.file).unwrap()).unwrap()
    }

    /// Adds so many answers, and returns the new total.
    pub fn add(&self, answers: u64) -> [u64; 5] {
        let total = plus(self.total(), answers);
        write_whole(&self.file, &json!(total).to_string());
        total
    }

    /// `None` while another process writes to it.
    pub fn writer(&self, dir: &Path) -> Option<Writer> {
        let folder = dir.join("writers");
        fs::create_dir_all(&folder).unwrap();
        let file = File::create(folder.join(&self.id)).unwrap();
        file.try_lock().ok().map(|()| Writer(file))
    }
}

pub fn plus(mut total: [u64; 5], answers: u64) -> [u64; 5] {
    for (sum, each) in total.iter_mut().zip(ANSWER) {
        *sum += each * answers;
    }
    total
}

/// One for each workspace. All that this process starts inherits it.
pub fn busy_file(dir: &Path, here: &Path) -> File {
    let name = here.to_str().unwrap().replace('/', "%");
    let file = File::create(dir.join(format!("busy-{name}"))).unwrap();
    rustix::io::fcntl_setfd(&file, rustix::io::FdFlags::empty()).unwrap();
    file
}

pub fn append(path: &Path, line: &str) {
    let mut file = OpenOptions::new()
        .append(true)
        .create(true)
        .open(path)
        .unwrap();
    file.write_all(line.as_bytes()).unwrap();
}

/// Also where it is killed meanwhile.
fn write_whole(path: &Path, text: &str) {
    let new = path.with_extension("new");
    fs::write(&new, text).unwrap();
    fs::rename(&new, path).unwrap();
}

pub fn write_line(line: &Value) {
    write_all(format!("{line}\n").as_bytes());
}

pub fn write_all(bytes: &[u8]) {
    let mut stdout = std::io::stdout().lock();
    // The real one panics when its stdout is closed.
    stdout
        .write_all(bytes)
        .and_then(|()| stdout.flush())
        .unwrap_or_else(|_| exit(101));
}

/// Leaves in the file `resumed` which thread was asked for.
pub fn note_resumed(dir: &Path, thread: Option<&str>) {
    fs::write(dir.join("resumed"), thread.unwrap_or_default()).unwrap();
}
