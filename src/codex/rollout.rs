//! The thread's own record under CODEX_HOME, and the tokens that it reports.
//!
//! stdout reports a thread's running total, and only when a turn ends well. The
//! record (`sessions/YYYY/MM/DD/rollout-<time>-<thread>.jsonl`) knows more, as
//! experiments with 0.169.0 showed:
//!
//! - A `token_usage_record` line is written for every answer of the model, at
//!   once. It survives a SIGKILL in the middle of a turn.
//! - A `token_count` line holds the running total from which the next turn
//!   counts on. After a SIGKILL the killed turn's answers are not in it, and
//!   never will be; after SIGINT they are.
//! - Agents that the turn's agent starts have threads, records and totals of
//!   their own; neither stdout nor this record counts them. This record names
//!   their threads, and theirs name the turn for which they worked (`turn`).
//! - A torn tail gets its newline before codex appends to it.

mod end;
mod lines;
mod part;
mod turn;

use std::{
    fs::{self, File},
    io::{self, BufReader, Read, Seek, SeekFrom},
    path::{Path, PathBuf},
};

use jiff::{Timestamp, civil::Date, tz::TimeZone};
use rustix::fs::{Mode, OFlags};
use serde_json::{Map, Value};
use uuid::Uuid;

use super::protocol;
use crate::event::Tokens;
use crate::request::json;
pub(crate) use part::Part;
pub(crate) use turn::{Recorded, of_turn};

/// How much of the file is in memory at once, in bytes.
const CHUNK: usize = 64 * 1024;

/// The lines looked for have less than 1 KB; one longer than this, a command's
/// output for example, does not count.
const MAX_LINE: usize = 64 * 1024;

/// The most that is read of a record at once, in bytes. Real ones have up to
/// some hundred MB; an agent can make one of any size that takes no room on disk.
const MAX_READ: u64 = 512 << 20;

/// The most folder entries that a search looks at: some days' threads of a host
/// that starts four every second, read in a second or two. An agent can make more.
const MAX_ENTRIES: usize = 1_000_000;

/// The record of one thread. It is reopened for every look: codex appends
/// to it, and may put another file in its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rollout {
    path: PathBuf,
    thread_id: String,
}

impl Rollout {
    /// The thread's record, if codex has one as a plain file. It has no such file
    /// for an id that is no UUID, before the thread's first answer, and for an
    /// archived or compressed thread; so its absence does not prove that a thread which
    /// ran before has spent no tokens.
    ///
    /// # Errors
    /// A folder that is there but can't be read.
    pub(crate) fn find(codex_home: &Path, thread_id: &str) -> io::Result<Option<Self>> {
        Self::find_among(codex_home, thread_id, &mut { MAX_ENTRIES })
    }

    fn find_among(
        codex_home: &Path,
        thread_id: &str,
        left: &mut usize,
    ) -> io::Result<Option<Self>> {
        let Ok(id) = Uuid::try_parse(thread_id) else {
            return Ok(None);
        };
        let thread_id = id.hyphenated().to_string();
        let suffix = format!("-{thread_id}.jsonl");
        let sessions = codex_home.join("sessions");
        for day in days(id) {
            if let Some(path) = search_day(&sessions, day, &suffix, left)? {
                return Ok(Some(Self { path, thread_id }));
            }
        }
        let path = search_below(&sessions, 3, &suffix, left)?;
        Ok(path.map(|path| Self { path, thread_id }))
    }

    /// Its size now, in bytes: what comes later starts here.
    pub(crate) fn len(&self) -> io::Result<u64> {
        Ok(self.open()?.metadata()?.len())
    }

    /// The running total from which codex counts on: a turn's usage is the
    /// total that it reports minus this, read before the turn. `None` where
    /// the record has no total yet; codex then counts from zero, even if the
    /// thread has spent tokens (in turns that were killed).
    ///
    /// # Errors
    /// The file can't be read, or (`InvalidData`) its last total is in a form
    /// that this version doesn't know: an older one would be a wrong base.
    pub(crate) fn last_total(&self) -> io::Result<Option<Tokens>> {
        let file = self.open()?;
        let end = file.metadata()?.len();
        lines::backwards(file, end, MAX_READ, CHUNK, MAX_LINE, token_count)?.transpose()
    }

    /// What the record has since byte `offset`.
    ///
    /// # Errors
    /// The file can't be read, or (`InvalidData`) one of the answers is recorded
    /// in a form that this version doesn't know: a sum without it is wrong.
    pub(crate) fn since(&self, offset: u64) -> io::Result<Part> {
        let mut part = Part::of_thread(&self.thread_id);
        self.read(offset, MAX_READ, &mut part)?;
        part.whole()
    }

    /// Visits the record's lines since byte `offset`. Returns their bytes.
    fn read(&self, offset: u64, at_most: u64, part: &mut Part) -> io::Result<u64> {
        let mut file = self.open()?;
        let bytes = file.metadata()?.len().saturating_sub(offset);
        if bytes > at_most {
            return Err(lines::too_much());
        }
        file.seek(SeekFrom::Start(offset))?;
        let reader = BufReader::with_capacity(CHUNK, file.take(at_most));
        lines::forwards(reader, MAX_LINE, |line| part.visit(line))?;
        Ok(bytes)
    }

    fn open(&self) -> io::Result<File> {
        // Not blocking, in case it is a pipe.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = File::from(rustix::fs::open(&self.path, flags, Mode::empty())?);
        if !file.metadata()?.is_file() {
            let message = format!("{} is not a regular file", self.path.display());
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        }
        Ok(file)
    }
}

/// The days under which codex may have put the thread. A UUIDv7 holds the time when it
/// was made; the folders are named in codex's local time of that moment.
fn days(id: Uuid) -> Vec<Date> {
    let made = id
        .get_timestamp()
        .filter(|_| id.get_version_num() == 7)
        .and_then(|time| i64::try_from(time.to_unix().0).ok())
        .and_then(|seconds| Timestamp::from_second(seconds).ok());
    let Some(made) = made else {
        return Vec::new();
    };
    let day = made.to_zoned(TimeZone::UTC).date();
    [Ok(day), day.yesterday(), day.tomorrow()]
        .into_iter()
        .flatten()
        .collect()
}

/// `sessions` may be a link, made by the host's operator; no path below it
/// is followed if it is one.
fn search_day(
    sessions: &Path,
    day: Date,
    suffix: &str,
    left: &mut usize,
) -> io::Result<Option<PathBuf>> {
    let mut folder = sessions.to_owned();
    for part in ["%Y", "%m", "%d"] {
        folder.push(day.strftime(part).to_string());
        match fs::symlink_metadata(&folder) {
            Ok(found) if found.is_dir() => {}
            Ok(_) => return Ok(None),
            Err(why) if is_gone(&why) => return Ok(None),
            Err(why) => return Err(why),
        }
    }
    search_below(&folder, 0, suffix, left)
}

/// Looks `depth` folders further down, the newest first, at no more than
/// `left` entries altogether.
fn search_below(
    folder: &Path,
    depth: u8,
    suffix: &str,
    left: &mut usize,
) -> io::Result<Option<PathBuf>> {
    let entries = match fs::read_dir(folder) {
        Err(why) if is_gone(&why) => return Ok(None),
        entries => entries?,
    };
    let mut folders = Vec::new();
    for entry in entries {
        let entry = entry?;
        *left = match left.checked_sub(1) {
            Some(left) => left,
            None => return Ok(None),
        };
        let kind = entry.file_type()?;
        if depth > 0 && kind.is_dir() {
            folders.push(entry.path());
        } else if depth == 0 && kind.is_file() {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            if name.starts_with("rollout-") && name.ends_with(suffix) {
                return Ok(Some(entry.path()));
            }
        }
    }
    folders.sort();
    for folder in folders.iter().rev() {
        if let Some(found) = search_below(folder, depth - 1, suffix, left)? {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

/// Not there, or gone between two looks.
fn is_gone(why: &io::Error) -> bool {
    matches!(
        why.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

const TOTAL: &str = "token_count";

/// The running total in a line that reports it. Some such lines only report rate
/// limits.
fn token_count(line: &[u8]) -> Option<io::Result<Tokens>> {
    let (kind, payload) = record(line, &[TOTAL])?;
    if kind != "event_msg" || payload.get("type").and_then(Value::as_str) != Some(TOTAL) {
        return None;
    }
    let info = payload.get("info").filter(|info| !info.is_null())?;
    let total = info.get("total_token_usage").and_then(Value::as_object);
    let total = total.and_then(protocol::usage);
    Some(total.ok_or_else(|| unknown_form(TOTAL)))
}

/// A line's type and payload, if it is whole and one of `words` stands in it.
fn record(line: &[u8], words: &[&str]) -> Option<(String, Map<String, Value>)> {
    // Most lines are long and of no interest; this spares them the parser.
    let has = |word: &&str| memchr::memmem::find(line, word.as_bytes()).is_some();
    if !words.iter().any(has) {
        return None;
    }
    let Value::Object(mut line) = json::from_slice(line).ok()? else {
        return None;
    };
    match (line.remove("type")?, line.remove("payload")?) {
        (Value::String(kind), Value::Object(payload)) => Some((kind, payload)),
        _ => None,
    }
}

fn unknown_form(what: &str) -> io::Error {
    let message =
        format!("a `{what}` line of the rollout has no token counts where they should be");
    io::Error::new(io::ErrorKind::InvalidData, message)
}

#[cfg(test)]
mod tests;
