//! Files that each process writes in the root and the others read, to find out whether a host
//! sees at once what another one has written.
//!
//! A round of process `P`, under the lock of `P.turns`:
//!
//! ```text
//! P.log         a line is appended                 its length and its content
//! P.head        another file takes its place       a rename
//! P.claim.<n>   is created, which none was before  a claim
//! ```
//!
//! Then `P` reports the round's number to the others, over the broker. A reader that has
//! this report and takes the lock must find that round, or a later one.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use rustix::fs::OFlags;
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::dir::{Dir, PRIVATE_FILE};
use super::error::DiskError;
use super::lock;
use super::processes::{Processes, stem};
use crate::fault;

/// What stands behind the process's id.
const TURNS: &str = ".turns";
const LOG: &str = ".log";
const HEAD: &str = ".head";
const CLAIM: &str = ".claim.";

/// Of a line of the log, in bytes: the round's number and a newline.
const LINE: u64 = 16;
/// With so many lines the log starts again.
const MAX_LINES: u64 = 1024;
/// How often a reader tries the lock, which others take for a moment.
const TRIES: usize = 50;
const TRY_EVERY: Duration = Duration::from_millis(10);

/// The last round of a process, as it reports it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeRound {
    pub number: u64,
    /// Of the log after it, in bytes.
    pub length: u64,
}

/// What a reader must see at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Property {
    /// That a lock is held.
    Lock,
    /// The length of a file that was appended to.
    Length,
    /// What was appended.
    Content,
    /// A file that has taken another one's place.
    Rename,
    /// A file that was created.
    Claim,
}

impl Property {
    pub const ALL: [Self; 5] = [
        Self::Lock,
        Self::Length,
        Self::Content,
        Self::Rename,
        Self::Claim,
    ];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Lock => "lock",
            Self::Length => "length",
            Self::Content => "content",
            Self::Rename => "rename",
            Self::Claim => "claim",
        }
    }
}

/// Writes the rounds of this process.
#[derive(Debug)]
pub struct Prober {
    dir: Arc<Dir>,
    id: String,
    turns: File,
    log: File,
    round: ProbeRound,
}

impl Processes {
    /// `None` if the id can't be a file's name.
    pub fn prober(&self, process: &str) -> Result<Option<Prober>, DiskError> {
        let Some(id) = stem(process) else {
            return Ok(None);
        };
        let log = self.dir.make_file(&format!("{id}{LOG}"))?;
        log.set_len(0)
            .map_err(|error| self.dir.error("cut", LOG, error))?;
        Ok(Some(Prober {
            dir: Arc::clone(&self.dir),
            turns: self.dir.make_file(&format!("{id}{TURNS}"))?,
            log,
            id: id.to_owned(),
            round: ProbeRound {
                number: 0,
                length: 0,
            },
        }))
    }

    /// Reads what a process has reported. Returns what is not seen of it, or `None` if all is.
    /// An error has no bearing on that.
    pub fn check_round(
        &self,
        process: &str,
        round: ProbeRound,
    ) -> Result<Option<Property>, DiskError> {
        let Some(id) = stem(process) else {
            return Ok(None);
        };
        let name = format!("{id}{TURNS}");
        let Some(turns) = self.dir.file(&name, OFlags::RDWR)? else {
            return Ok(Some(Property::Claim));
        };
        if !self.locked(&name, &turns)? {
            // Its process holds it for longer than a round takes, which is the disk's matter.
            return Ok(None);
        }
        let unseen = self.unseen(id, round);
        drop(turns);
        unseen
    }

    fn unseen(&self, id: &str, round: ProbeRound) -> Result<Option<Property>, DiskError> {
        let (length, number) = self.read_log(id)?;
        if number < round.number {
            return Ok(Some(match length < round.length {
                true => Property::Length,
                false => Property::Content,
            }));
        }
        let head = match self.dir.read(&format!("{id}{HEAD}"), LINE) {
            // Of a file that another one has replaced.
            Err(error) if error.source.raw_os_error() == Some(Errno::STALE.raw_os_error()) => None,
            head => head?,
        };
        if head.and_then(|head| number_in(&head)) < Some(number) {
            return Ok(Some(Property::Rename));
        }
        let claim = self.dir.stat(&claim_name(id, number))?;
        Ok(claim.is_none().then_some(Property::Claim))
    }

    /// As an ordinary reader does it: so that the caches that there are
    /// hold the state before the next round.
    pub fn look_at_round(&self, process: &str, next: u64) {
        if let Some(id) = stem(process) {
            let _ = self.read_log(id);
            let _ = self.dir.read(&format!("{id}{HEAD}"), LINE);
            let _ = self.dir.stat(&claim_name(id, next));
        }
    }

    /// Its length, and the number of the round that its end shows; 0 without one.
    fn read_log(&self, id: &str) -> Result<(u64, u64), DiskError> {
        let name = format!("{id}{LOG}");
        let Some(log) = self.dir.file(&name, OFlags::RDONLY)? else {
            return Ok((0, 0));
        };
        let failed = |error| self.dir.error("read", &name, error);
        let length = log.metadata().map_err(failed)?.len();
        let mut line = [0; LINE as usize];
        let read = match length.checked_sub(LINE) {
            Some(at) => log.read_exact_at(&mut line, at),
            None => return Ok((length, 0)),
        };
        match read {
            Ok(()) if !fault::is_on("probe.old_content") => {
                Ok((length, number_in(&line).unwrap_or(0)))
            }
            Ok(()) => Ok((length, 0)),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok((length, 0)),
            Err(error) => Err(failed(error)),
        }
    }

    fn locked(&self, name: &str, turns: &File) -> Result<bool, DiskError> {
        for _ in 0..TRIES {
            if lock::take(&self.dir, name, turns)? {
                return Ok(true);
            }
            thread::sleep(TRY_EVERY);
        }
        Ok(false)
    }

    /// What a process that has ended has left; `name` is a file of the folder.
    pub(super) fn sweep_probe(&self, name: &str) -> Result<(), DiskError> {
        let claim = name.rsplit_once(CLAIM).map(|(id, _)| id);
        let of = [TURNS, LOG, HEAD]
            .iter()
            .find_map(|suffix| name.strip_suffix(suffix))
            .or(claim);
        if let Some(id) = of
            && !self.is_there(id)?
        {
            self.dir.remove(name)?;
        }
        Ok(())
    }
}

impl Prober {
    /// Writes the next round; what it returns may be reported from then on. After an error
    /// the files are opened again, since a descriptor may stay bad after its file system is back.
    pub fn next_round(&mut self) -> Result<ProbeRound, DiskError> {
        let round = self.try_round();
        if round.is_err() {
            self.reopen()?;
        }
        round
    }

    /// The round's number goes on: readers expect no smaller one.
    fn reopen(&mut self) -> Result<(), DiskError> {
        let id = &self.id;
        let turns = self.dir.make_file(&format!("{id}{TURNS}"))?;
        self.log = self.dir.make_file(&format!("{id}{LOG}"))?;
        self.turns = turns;
        Ok(())
    }

    fn try_round(&mut self) -> Result<ProbeRound, DiskError> {
        let name = format!("{}{TURNS}", self.id);
        let held = rustix::fs::fstat(&self.turns)
            .map_err(|errno| self.dir.error("look at", &name, errno))?;
        let named = self.dir.stat(&name)?;
        if named.is_none_or(|named| named.st_ino != held.st_ino) {
            // Removed by another process: no reader could see what is written.
            return Err(self.dir.error("find", &name, Errno::NOENT));
        }
        let mut taken = false;
        for _ in 0..TRIES {
            taken = lock::take(&self.dir, &name, &self.turns)?;
            if taken {
                break;
            }
            thread::sleep(TRY_EVERY);
        }
        if !taken {
            return Err(self.dir.error("lock", &name, Errno::WOULDBLOCK));
        }
        let written = self.write();
        let released = self.turns.unlock();
        let round = written?;
        released.map_err(|error| self.dir.error("unlock", &name, error))?;
        self.round = round;
        Ok(round)
    }

    fn write(&self) -> Result<ProbeRound, DiskError> {
        let id = &self.id;
        let number = self.round.number + 1;
        let mut at = self.round.length;
        let line = format!("{number:015}\n");
        let failed = |error| self.dir.error("write", LOG, error);
        if at >= MAX_LINES * LINE {
            self.log.set_len(0).map_err(failed)?;
            at = 0;
        }
        self.log.write_all_at(line.as_bytes(), at).map_err(failed)?;
        self.log.sync_data().map_err(failed)?;
        self.dir
            .write_atomic(&format!("{id}{HEAD}"), line.as_bytes(), PRIVATE_FILE)?;
        self.dir
            .create_exclusive(&claim_name(id, number), line.as_bytes())?;
        if let Some(old) = number.checked_sub(1) {
            self.dir.remove(&claim_name(id, old))?;
        }
        Ok(ProbeRound {
            number,
            length: at + LINE,
        })
    }
}

impl Drop for Prober {
    fn drop(&mut self) {
        // What stays is removed by the next process that starts.
        for suffix in [TURNS, LOG, HEAD] {
            let _ = self.dir.remove(&format!("{}{suffix}", self.id));
        }
        let _ = self.dir.remove(&claim_name(&self.id, self.round.number));
    }
}

fn claim_name(id: &str, number: u64) -> String {
    format!("{id}{CLAIM}{number}")
}

fn number_in(line: &[u8]) -> Option<u64> {
    std::str::from_utf8(line).ok()?.trim_end().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workspace::testing::root;

    const ID: &str = "host-1-a";

    #[test]
    fn g3_each_property_that_is_not_seen_is_named() {
        let (_tmp, root) = root();
        let processes = root.processes();
        let mut prober = processes.prober(ID).unwrap().unwrap();
        let check = |round| processes.check_round(ID, round).unwrap();
        let first = prober.next_round().unwrap();
        assert_eq!(check(first), None);
        let last = prober.next_round().unwrap();
        // A later round than the one that was reported.
        assert_eq!((check(first), check(last)), (None, None));

        let path = |suffix: &str| processes.dir.path().join(format!("{ID}{suffix}"));
        let log = std::fs::read(path(LOG)).unwrap();
        std::fs::write(path(LOG), &log[..LINE as usize]).unwrap();
        assert_eq!(check(last), Some(Property::Length));
        std::fs::write(path(LOG), [0; 2 * LINE as usize]).unwrap();
        assert_eq!(check(last), Some(Property::Content));
        std::fs::write(path(LOG), &log).unwrap();
        std::fs::write(path(HEAD), &log[..LINE as usize]).unwrap();
        assert_eq!(check(last), Some(Property::Rename));
        std::fs::write(path(HEAD), &log[LINE as usize..]).unwrap();
        assert_eq!(check(last), None);
        std::fs::remove_file(path(&format!("{CLAIM}2"))).unwrap();
        assert_eq!(check(last), Some(Property::Claim));
    }

    /// Guards `Prober::reopen`.
    #[test]
    fn a_prober_opens_files_again_that_have_gone_bad() {
        let (_tmp, root) = root();
        let processes = root.processes();
        let mut prober = processes.prober(ID).unwrap().unwrap();
        let before = prober.next_round().unwrap();
        // Of its descriptors one can be looked at, but not used.
        let path = processes.dir.path().join(format!("{ID}{TURNS}"));
        let bad = rustix::fs::open(path, OFlags::PATH, rustix::fs::Mode::empty());
        prober.turns = bad.unwrap().into();
        assert!(prober.next_round().is_err());
        let after = prober.next_round().unwrap();
        assert!(after.number > before.number);
        assert_eq!(processes.check_round(ID, after).unwrap(), None);
        // Another process has removed it.
        processes.dir.remove(&format!("{ID}{TURNS}")).unwrap();
        assert!(prober.next_round().is_err());
        let after = prober.next_round().unwrap();
        assert_eq!(processes.check_round(ID, after).unwrap(), None);
    }

    #[test]
    fn a_log_starts_again_and_a_process_that_has_ended_leaves_none() {
        let (_tmp, root) = root();
        let processes = root.processes();
        let mut prober = processes.prober(ID).unwrap().unwrap();
        prober.round = ProbeRound {
            number: MAX_LINES,
            length: MAX_LINES * LINE,
        };
        let round = prober.next_round().unwrap();
        assert_eq!((round.number, round.length), (MAX_LINES + 1, LINE));
        assert_eq!(processes.check_round(ID, round).unwrap(), None);
        drop(prober);
        assert!(processes.dir.names().unwrap().is_empty());

        // Killed, it leaves its files.
        let held = processes.hold(ID).unwrap().unwrap();
        let mut prober = processes.prober(ID).unwrap().unwrap();
        prober.next_round().unwrap();
        std::mem::forget(prober);
        processes.sweep().unwrap();
        assert_eq!(processes.dir.names().unwrap().len(), 5);
        drop(held);
        processes.sweep().unwrap();
        assert!(processes.dir.names().unwrap().is_empty());
    }
}
