//! Claims: each turn's fate, decided once by the exclusive creation of a file.
//!
//! A turn's files are `<turn id>.claim`, `<turn id>.cancel`,
//! `<turn id>.received` and `<turn id>.lost`. Turn ids may hold dots, even be `..`, and yet no two
//! names meet: each ends in one of the suffixes, what stands before it is the whole id, and names of other
//! files in here hold a `~`, which no id may.

use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tracing::warn;
use uuid::Uuid;

use super::dir::{Dir, PRIVATE_FILE};
use super::durable::Created;
use super::error::{DiskError, StateError};
use super::{id, line};
use crate::event::{ErrorCode, SealedEvent};

pub(super) const CLAIM: &str = ".claim";
pub(super) const CANCEL: &str = ".cancel";
pub(super) const RECEIVED: &str = ".received";
pub(super) const LOST: &str = ".lost";

/// Of one claim. The longest ending is that of a request with 32 violations
/// and the most metadata, which is far below.
const MAX_BYTES: u64 = 1 << 20;

/// Of so many verdicts one prunes. No count is kept: on average that does.
const VERDICTS_PER_PRUNE: u128 = 1_000;

/// What was decided for a turn.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Claim {
    #[serde(flatten)]
    pub verdict: Verdict,
    /// Of the request's body: another body under the same id is recognised by it.
    pub fingerprint: u32,
    pub made_at: Timestamp,
    /// The worker that made it.
    pub by: String,
}

/// A verdict that ends the turn holds its whole ending, every event of it:
/// a later process publishes the same.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "verdict", rename_all = "snake_case")]
pub enum Verdict {
    /// It runs, or ran: the journal has its attempts. Only for who holds the
    /// workspace's lock.
    Run,
    /// It ends without having run, and its ending has the reason: cancelled while it
    /// waited, or not started in time. One name for all on disk, so that workers
    /// that don't know the reason can read the ending.
    #[serde(rename = "cancelled")]
    Unrun { ending: Vec<SealedEvent> },
    /// It was not acceptable: it lies in the dead queue, too.
    Rejected {
        code: ErrorCode,
        ending: Vec<SealedEvent>,
    },
}

impl Verdict {
    /// The events that end the turn, unless it runs.
    pub fn ending(&self) -> Option<&[SealedEvent]> {
        match self {
            Self::Run => None,
            Self::Unrun { ending } | Self::Rejected { ending, .. } => Some(ending),
        }
    }
}

/// The turn was cancelled.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CancelMark {
    /// The turn that takes its place, if that is why.
    pub superseded_by: Option<String>,
}

/// When a sequencer first received a turn for which that matters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Received {
    /// By the clock of its host.
    pub at: Timestamp,
    /// The process; `None` from older versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Lost {
    attempts: Vec<u32>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum ClaimOutcome {
    Won,
    /// It was decided before.
    Lost(Claim),
}

/// A folder of claims and cancel marks. Needs no lock.
#[derive(Debug, Clone)]
pub struct Claims {
    pub(super) dir: Arc<Dir>,
}

impl Claims {
    pub(super) fn new(dir: Dir) -> Self {
        Self { dir: Arc::new(dir) }
    }

    /// Decides the turn's fate, unless it is decided. Either way the decision
    /// that it returns is durable.
    pub fn claim(&self, turn_id: &str, claim: &Claim) -> Result<ClaimOutcome, StateError> {
        let name = claim_name(turn_id)?;
        let bytes = line::encode(claim);
        loop {
            if self.dir.create_exclusive(&name, &bytes)? == Created::New {
                if claim.verdict != Verdict::Run {
                    self.prune_now_and_then();
                }
                return Ok(ClaimOutcome::Won);
            }
            // Pruned since it was met? Then it is free again.
            if let Some(claim) = self.read(&name)? {
                return Ok(ClaimOutcome::Lost(claim));
            }
        }
    }

    /// The turn's claim, made durable. A turn without one has never been seen.
    pub fn find(&self, turn_id: &str) -> Result<Option<Claim>, StateError> {
        let claim = self.read(&claim_name(turn_id)?)?;
        if claim.is_some() {
            // Who made it may not have got to syncing it.
            self.dir.sync()?;
        }
        Ok(claim)
    }

    /// As [`Self::find`], for a reader that does not act on it: waits for no disk.
    pub(super) fn look(&self, turn_id: &str) -> Result<Option<Claim>, StateError> {
        self.read(&claim_name(turn_id)?)
    }

    /// Marks the turn as cancelled, for every later attempt to see; by another
    /// turn, if one is named. The first mark counts, and is what it returns.
    pub fn mark_cancelled(
        &self,
        turn_id: &str,
        superseded_by: Option<&str>,
    ) -> Result<CancelMark, StateError> {
        let name = cancel_name(turn_id)?;
        match superseded_by.map(str::to_owned) {
            // Empty, as all marks once were: its existence is enough.
            None => {
                self.dir.make_file(&name)?;
                self.dir.sync()?;
            }
            superseded_by => {
                let mark = line::encode(&CancelMark { superseded_by });
                self.dir.create_exclusive(&name, &mark)?;
            }
        }
        Ok(self.cancel_mark(turn_id)?.unwrap_or_default())
    }

    pub fn cancel_mark(&self, turn_id: &str) -> Result<Option<CancelMark>, StateError> {
        let bytes = self.dir.read(&cancel_name(turn_id)?, MAX_BYTES)?;
        // It counts as cancelled even if its content can't be read.
        Ok(bytes.map(|bytes| line::decode(&bytes).unwrap_or_default()))
    }

    /// When the turn was first received: as `new` says, unless that is kept
    /// already.
    pub fn received(&self, turn_id: &str, new: Received) -> Result<Received, StateError> {
        let name = received_name(turn_id)?;
        if self.dir.create_exclusive(&name, &line::encode(&new))? == Created::New {
            return Ok(new);
        }
        // Pruned since it was met? Then it is of no turn that waits.
        let Some(bytes) = self.dir.read(&name, MAX_BYTES)? else {
            return Ok(new);
        };
        line::decode(&bytes)
            .map_err(|why| StateError::unreadable(&self.dir.path().join(name), 0, why))
    }

    /// Notes that the attempt's processes are gone, as its lock was lost: it is not charged.
    /// Needs no lock. Of two that are noted at the same moment one may stay charged.
    pub fn note_lost(&self, turn_id: &str, attempt: u32) -> Result<(), StateError> {
        let mut lost = self.lost_attempts(turn_id)?;
        if !lost.contains(&attempt) {
            lost.push(attempt);
            let bytes = line::encode(&Lost { attempts: lost });
            self.dir
                .write_atomic(&lost_name(turn_id)?, &bytes, PRIVATE_FILE)?;
        }
        Ok(())
    }

    /// The attempts with no process left, as their lock was lost.
    pub fn lost_attempts(&self, turn_id: &str) -> Result<Vec<u32>, StateError> {
        let bytes = self.dir.read(&lost_name(turn_id)?, MAX_BYTES)?;
        // What can't be read is charged.
        let lost = bytes.and_then(|bytes| line::decode::<Lost>(&bytes).ok());
        Ok(lost.unwrap_or_default().attempts)
    }

    pub(super) fn read(&self, name: &str) -> Result<Option<Claim>, StateError> {
        let Some(bytes) = self.dir.read(name, MAX_BYTES)? else {
            return Ok(None);
        };
        match line::decode(&bytes) {
            Ok(claim) => Ok(Some(claim)),
            Err(why) => Err(StateError::unreadable(&self.dir.path().join(name), 0, why)),
        }
    }

    /// Forgets a turn: all its files, the claim last. Durable after a sync.
    pub(super) fn forget(&self, turn_id: &str) -> Result<(), DiskError> {
        self.dir.remove(&format!("{turn_id}{CANCEL}"))?;
        self.dir.remove(&format!("{turn_id}{RECEIVED}"))?;
        self.dir.remove(&format!("{turn_id}{LOST}"))?;
        self.dir.remove(&format!("{turn_id}{CLAIM}"))?;
        Ok(())
    }

    fn prune_now_and_then(&self) {
        if Uuid::new_v4().as_u128().is_multiple_of(VERDICTS_PER_PRUNE)
            && let Err(error) = self.prune()
        {
            warn!(error = %error, "old verdicts stay for now");
        }
    }
}

fn claim_name(turn_id: &str) -> Result<String, StateError> {
    Ok(format!("{}{CLAIM}", id::turn_id(turn_id)?))
}

fn cancel_name(turn_id: &str) -> Result<String, StateError> {
    Ok(format!("{}{CANCEL}", id::turn_id(turn_id)?))
}

fn lost_name(turn_id: &str) -> Result<String, StateError> {
    Ok(format!("{}{LOST}", id::turn_id(turn_id)?))
}

fn received_name(turn_id: &str) -> Result<String, StateError> {
    Ok(format!("{}{RECEIVED}", id::turn_id(turn_id)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workspace::durable::syncs;
    use crate::workspace::testing::{events, run_claim, store, time};
    use std::collections::HashSet;
    use std::os::unix::fs::symlink;
    use std::sync::Barrier;

    #[test]
    fn g5_of_racing_claims_one_wins_and_all_read_the_same() {
        let (_tmp, claims) = store();
        let barrier = Barrier::new(6);
        let outcomes: Vec<(Claim, ClaimOutcome)> = std::thread::scope(|scope| {
            let racers: Vec<_> = (0..6)
                .map(|n| {
                    let (claims, barrier) = (&claims, &barrier);
                    scope.spawn(move || {
                        let claim = Claim {
                            verdict: Verdict::Unrun {
                                ending: events("t", 0, 2),
                            },
                            by: format!("worker {n}"),
                            ..run_claim()
                        };
                        barrier.wait();
                        let outcome = claims.claim("t", &claim).unwrap();
                        (claim, outcome)
                    })
                })
                .collect();
            racers.into_iter().map(|r| r.join().unwrap()).collect()
        });
        let kept = claims.find("t").unwrap().unwrap();
        let mut won = 0;
        for (claim, outcome) in outcomes {
            match outcome {
                ClaimOutcome::Won => {
                    won += 1;
                    assert_eq!(claim, kept);
                }
                ClaimOutcome::Lost(existing) => assert_eq!(existing, kept),
            }
        }
        assert_eq!(won, 1);
    }

    #[test]
    fn g5_a_lost_claim_gives_the_winners_whole_ending() {
        let (_tmp, claims) = store();
        let rejected = Claim {
            verdict: Verdict::Rejected {
                code: ErrorCode::BacklogFull,
                ending: events("t", 0, 3),
            },
            ..run_claim()
        };
        assert_eq!(claims.find("t").unwrap(), None);
        assert_eq!(claims.claim("t", &rejected).unwrap(), ClaimOutcome::Won);
        let lost = claims.claim("t", &run_claim()).unwrap();
        let ClaimOutcome::Lost(existing) = lost else {
            panic!("won twice");
        };
        assert_eq!(existing.verdict.ending().unwrap(), events("t", 0, 3));
        assert_eq!(run_claim().verdict.ending(), None);
    }

    #[test]
    fn g5_a_claim_is_durable_before_it_is_acted_on() {
        let (_tmp, claims) = store();
        claims.claim("t", &run_claim()).unwrap();
        syncs::take();
        assert!(claims.find("t").unwrap().is_some());
        assert_eq!(syncs::take(), 1, "found: the folder");
        assert_eq!(claims.find("other").unwrap(), None);
        assert_eq!(syncs::take(), 0, "no claim");
        claims.claim("t", &run_claim()).unwrap();
        assert_eq!(syncs::take(), 2, "lost: file and folder");
        for _ in 0..2 {
            claims.mark_cancelled("t", None).unwrap();
            assert_eq!(syncs::take(), 1, "cancelled: the folder");
        }
    }

    #[test]
    fn g5_the_first_cancel_mark_counts_and_names_its_origin() {
        let (tmp, claims) = store();
        let by = |turn_id| claims.cancel_mark(turn_id).unwrap().unwrap().superseded_by;
        claims.mark_cancelled("t", Some("u")).unwrap();
        syncs::take();
        claims.mark_cancelled("t", Some("v")).unwrap();
        assert_eq!(syncs::take(), 2, "found: file and folder");
        claims.mark_cancelled("t", None).unwrap();
        assert_eq!(by("t").as_deref(), Some("u"));
        claims.mark_cancelled("plain", None).unwrap();
        claims.mark_cancelled("plain", Some("u")).unwrap();
        assert_eq!(by("plain"), None);
        // A newer worker's, or damaged: it is cancelled all the same.
        std::fs::write(tmp.path().join("odd.cancel"), "odd").unwrap();
        assert_eq!(by("odd"), None);
    }

    #[test]
    fn g4_lost_attempts_are_noted_and_forgotten_with_their_turn() {
        let (_tmp, claims) = store();
        assert!(claims.lost_attempts("t").unwrap().is_empty());
        for attempt in [1, 3, 1] {
            claims.note_lost("t", attempt).unwrap();
        }
        assert_eq!(claims.lost_attempts("t").unwrap(), [1, 3]);
        assert!(claims.lost_attempts("t.1").unwrap().is_empty());
        claims.forget("t").unwrap();
        assert!(claims.lost_attempts("t").unwrap().is_empty());
    }

    #[test]
    fn names_of_different_turns_and_kinds_never_meet() {
        let (_tmp, claims) = store();
        let long = "x".repeat(128);
        let ids = [
            ".",
            "..",
            "...",
            "a",
            "a.claim",
            "a.cancel",
            "a.received",
            ".claim",
            ".cancel",
            ".received",
            &long,
        ];
        let names: HashSet<_> = ids
            .iter()
            .flat_map(|id| [claim_name(id), cancel_name(id), received_name(id)])
            .map(Result::unwrap)
            .collect();
        assert_eq!(names.len(), 3 * ids.len());
        for (n, id) in ids.iter().enumerate() {
            assert_eq!(claims.find(id).unwrap(), None, "{id}");
            assert_eq!(claims.cancel_mark(id).unwrap(), None, "{id}");
            let claim = Claim {
                fingerprint: n as u32,
                ..run_claim()
            };
            assert_eq!(claims.claim(id, &claim).unwrap(), ClaimOutcome::Won);
            claims.mark_cancelled(id, None).unwrap();
            claims.mark_cancelled(id, None).unwrap();
            assert_eq!(claims.received(id, received(n)).unwrap(), received(n));
        }
        for (n, id) in ids.iter().enumerate() {
            assert_eq!(claims.find(id).unwrap().unwrap().fingerprint, n as u32);
            assert!(claims.cancel_mark(id).unwrap().is_some());
            let later = claims.received(id, received(1_000)).unwrap();
            assert_eq!(later, received(n), "the first counts");
        }
    }

    fn received(second: usize) -> Received {
        Received {
            at: Timestamp::from_second(second as i64).unwrap(),
            by: Some(format!("host-{second}-x")),
        }
    }

    #[test]
    fn a_receipt_of_an_older_version_has_no_process() {
        let (_tmp, claims) = store();
        let old = line::encode(&serde_json::json!({"at": time()}));
        claims.dir.create_exclusive("t.received", &old).unwrap();
        let expected = Received {
            at: time(),
            by: None,
        };
        assert_eq!(claims.received("t", received(1)).unwrap(), expected);
    }

    #[test]
    fn g8_a_turn_id_that_is_a_path_is_refused() {
        let (_tmp, claims) = store();
        for id in ["", "../x", "/etc/passwd", "a/b"] {
            assert!(matches!(
                claims.claim(id, &run_claim()),
                Err(StateError::TurnId { .. })
            ));
            assert!(claims.find(id).is_err());
            assert!(claims.mark_cancelled(id, None).is_err());
            assert!(claims.mark_cancelled(id, Some("x")).is_err());
            assert!(claims.cancel_mark(id).is_err());
            assert!(claims.received(id, received(0)).is_err());
        }
    }

    #[test]
    fn g4_a_claim_of_a_newer_version_is_an_error_not_a_free_turn() {
        let (tmp, claims) = store();
        let json = r#"{"v":2,"verdict":"postponed"}"#;
        let text = format!("{:08x} {json}\n", crc32fast::hash(json.as_bytes()));
        std::fs::write(tmp.path().join("t.claim"), text).unwrap();
        for error in [
            claims.find("t").unwrap_err(),
            claims.claim("t", &run_claim()).unwrap_err(),
        ] {
            assert!(matches!(error, StateError::NewerVersion { found: 2, .. }));
            assert!(error.to_string().contains("t.claim"));
        }
    }

    #[test]
    fn g4_a_damaged_claim_is_an_error_not_a_free_turn() {
        let (tmp, claims) = store();
        claims.claim("t", &run_claim()).unwrap();
        let path = tmp.path().join("t.claim");
        let whole = std::fs::read(&path).unwrap();
        // All but the newline.
        for len in 0..whole.len() - 1 {
            std::fs::write(&path, &whole[..len]).unwrap();
            assert!(matches!(claims.find("t"), Err(StateError::Damaged { .. })));
        }
        std::fs::remove_file(&path).unwrap();
        symlink("/dev/null", &path).unwrap();
        assert!(claims.find("t").is_err());
    }

    #[test]
    fn a_claim_reads_as_documented() {
        let (tmp, claims) = store();
        claims.claim("t", &run_claim()).unwrap();
        let text = std::fs::read_to_string(tmp.path().join("t.claim")).unwrap();
        let json = &text[9..text.len() - 1];
        assert_eq!(
            json,
            format!(
                r#"{{"v":1,"verdict":"run","fingerprint":7,"made_at":"{}","by":"w"}}"#,
                time()
            )
        );
    }
}
