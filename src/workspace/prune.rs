//! Forgetting verdicts on turns that never ran.
//!
//! Claims of turns that ran live and go with the journal's records; a flood
//! of rejections therefore pushes out rejections only.

use std::collections::HashMap;

use jiff::Timestamp;
use tracing::warn;

use super::claims::{CANCEL, CLAIM, Claims, LOST, RECEIVED, Verdict};
use super::error::DiskError;
use super::lock;

/// So many verdicts (and marks for turns not seen yet) are kept in a folder.
const KEPT_VERDICTS: usize = 10_000;

/// Excludes other pruners, and only those: a process that removes a name must know
/// that it still stands for what was read under it.
const PRUNE_LOCK: &str = "~prune.lock";

#[derive(Default)]
struct Entry {
    /// The newest fact known of it; `None` if it has to stay.
    when: Option<Timestamp>,
    stays: bool,
    claimed: bool,
}

impl Claims {
    /// Removes all but the newest verdicts, and debris. Gives how many turns
    /// were forgotten; `None` if another process is at it.
    pub fn prune(&self) -> Result<usize, DiskError> {
        self.prune_to(KEPT_VERDICTS)
    }

    pub(super) fn prune_to(&self, keep: usize) -> Result<usize, DiskError> {
        let lock_file = self.dir.make_file(PRUNE_LOCK)?;
        if !lock::take(&self.dir, PRUNE_LOCK, &lock_file)? {
            return Ok(0);
        }
        let mut turns: HashMap<String, Entry> = HashMap::new();
        for name in self.dir.names()? {
            self.dir.sweep_if_debris(&name)?;
            if let Some(turn) = name.strip_suffix(CLAIM) {
                let made_at = self.verdict_time(&name);
                let entry = turns.entry(turn.to_owned()).or_default();
                entry.claimed = true;
                entry.add(made_at);
            } else if let Some(turn) = [CANCEL, RECEIVED, LOST]
                .iter()
                .find_map(|mark| name.strip_suffix(mark))
            {
                let marked_at = self.dir.stat(&name)?.map(|stat| {
                    Timestamp::from_second(stat.st_mtime).unwrap_or(Timestamp::UNIX_EPOCH)
                });
                turns.entry(turn.to_owned()).or_default().add(marked_at);
            }
        }
        let mut verdicts: Vec<(Timestamp, String, bool)> = turns
            .into_iter()
            .filter(|(_, entry)| !entry.stays)
            .filter_map(|(turn, entry)| Some((entry.when?, turn, entry.claimed)))
            .collect();
        verdicts.sort_unstable_by(|a, b| b.cmp(a));
        let old = verdicts.get(keep..).unwrap_or_default();
        for (_, turn, claimed) in old {
            self.dir.remove(&format!("{turn}{CANCEL}"))?;
            self.dir.remove(&format!("{turn}{RECEIVED}"))?;
            self.dir.remove(&format!("{turn}{LOST}"))?;
            // A claim that was not there a moment ago is no old verdict.
            if *claimed {
                self.dir.remove(&format!("{turn}{CLAIM}"))?;
            }
        }
        Ok(old.len())
    }

    /// When a claim that may go was made; `None` for one that has to stay,
    /// as what can't be read has: it may be a newer worker's.
    fn verdict_time(&self, name: &str) -> Option<Timestamp> {
        match self.read(name) {
            Ok(Some(claim)) => (claim.verdict != Verdict::Run).then_some(claim.made_at),
            Ok(None) => None,
            Err(error) => {
                warn!(error = %error, "a claim can't be read and stays");
                None
            }
        }
    }
}

impl Entry {
    fn add(&mut self, when: Option<Timestamp>) {
        match when {
            Some(_) => self.when = self.when.max(when),
            None => self.stays = true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::ErrorCode;
    use crate::workspace::claims::Claim;
    use crate::workspace::testing::{events, run_claim, store, time};
    use jiff::ToSpan;

    fn rejected(at: Timestamp) -> Claim {
        Claim {
            verdict: Verdict::Rejected {
                code: ErrorCode::BacklogFull,
                ending: events("r", 0, 1),
            },
            made_at: at,
            ..run_claim()
        }
    }

    #[test]
    fn g4_rejections_push_out_the_oldest_rejections_only() {
        let (tmp, claims) = store();
        claims.claim("ran", &run_claim()).unwrap();
        claims.mark_cancelled("ran", None).unwrap();
        for n in 0..6 {
            let at = time() + (1 + n).minutes();
            claims.claim(&format!("r{n}"), &rejected(at)).unwrap();
        }
        claims.mark_cancelled("r5", None).unwrap();
        std::fs::write(tmp.path().join("odd.claim"), "unreadable").unwrap();
        assert_eq!(claims.prune_to(2).unwrap(), 4);
        for n in 0..4 {
            assert_eq!(claims.find(&format!("r{n}")).unwrap(), None, "{n}");
        }
        for kept in ["r4", "r5", "ran"] {
            assert!(claims.find(kept).unwrap().is_some(), "{kept}");
        }
        assert!(claims.cancel_mark("ran").unwrap().is_some());
        assert!(claims.find("odd").is_err());
        assert_eq!(claims.prune_to(2).unwrap(), 0);
    }

    #[test]
    fn a_cancel_mark_goes_with_its_verdict() {
        let (tmp, claims) = store();
        claims.claim("r", &rejected(time())).unwrap();
        claims.mark_cancelled("r", None).unwrap();
        claims.mark_cancelled("unseen", None).unwrap();
        assert_eq!(claims.prune_to(0).unwrap(), 2);
        let left: Vec<_> = std::fs::read_dir(tmp.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert_eq!(left, [PRUNE_LOCK]);
    }

    #[test]
    fn two_pruners_never_work_at_once() {
        let (_tmp, claims) = store();
        claims.claim("r", &rejected(time())).unwrap();
        let other = claims.dir.make_file(PRUNE_LOCK).unwrap();
        other.lock().unwrap();
        assert_eq!(claims.prune_to(0).unwrap(), 0);
        assert!(claims.find("r").unwrap().is_some());
    }
}
