//! What the records under a workspace root say of a turn, for operators and for
//! producers that ask where it is: reads only, and needs no lock.

use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::claims::{CancelMark, Claim, Claims};
use super::dir::{Dir, Found};
use super::error::{DiskError, StateError};
use super::journal::{self, Progress, Started, TurnHistory};
use super::root::{NAMELESS, OURS, WORKSPACES};
use super::{CLAIMS, REJECTED, STATE, failed_requests, id};
use crate::event::SealedEvent;

/// How many folders a search for a turn without its workspace looks into.
const MAX_FOLDERS: usize = 200_000;

/// The records under a workspace root.
#[derive(Debug)]
pub struct RecordReader {
    ours: Dir,
    path: PathBuf,
}

/// What is recorded of a turn.
#[derive(Debug, Clone, PartialEq)]
pub struct TurnRecord {
    /// `None` of a rejected request without a workspace.
    pub workspace: Option<String>,
    /// What was decided for it.
    pub claim: Claim,
    /// Its attempts and its end, if it runs or ran.
    pub history: TurnHistory,
    /// Whether it was asked to end.
    pub cancel: Option<CancelMark>,
}

/// How far a turn has got, by what is durable.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum TurnStage {
    /// An attempt has started, and neither ended nor been given back: a worker runs it, or died.
    Started { attempt: u32, at: Timestamp },
    /// With `error`, if there was one, and `message_end`, or all events of a turn that never ran.
    Ended(Vec<SealedEvent>),
}

impl TurnStage {
    fn of(progress: Progress) -> Self {
        match progress {
            Progress::Open(Started { attempt, at, .. }) => Self::Started { attempt, at },
            Progress::Finished(finished) => Self::Ended(finished.ending),
        }
    }
}

impl RecordReader {
    /// Fails if there is no workspace root of a pool at `root`.
    pub fn open(root: &Path) -> Result<Self, DiskError> {
        let path = root.join(OURS);
        let ours = Dir::open(&path)?;
        Ok(Self { ours, path })
    }

    /// The folder of the records.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What is recorded of the turn in that workspace; `None` if
    /// no worker has seen it, or it was forgotten.
    pub fn turn(&self, workspace: &str, turn_id: &str) -> Result<Option<TurnRecord>, StateError> {
        let turn_id = id::turn_id(turn_id)?;
        let Ok(segments) = id::segments(workspace) else {
            return Ok(None);
        };
        let path: Vec<&str> = [WORKSPACES].into_iter().chain(segments).collect();
        match self.below(&path)? {
            Some(folder) => in_workspace(&folder, workspace, turn_id),
            None => Ok(None),
        }
    }

    /// How far the turn in that workspace has got. Returns `None` if it has not
    /// started, or it has no record.
    pub fn stage(&self, workspace: &str, turn_id: &str) -> Result<Option<TurnStage>, StateError> {
        let turn_id = id::turn_id(turn_id)?;
        let Ok(segments) = id::segments(workspace) else {
            return Ok(None);
        };
        let path: Vec<&str> = [WORKSPACES].into_iter().chain(segments).collect();
        let Some(folder) = self.below(&path)? else {
            return Ok(None);
        };
        let ended = |claim: &Claim| {
            let ending = claim.verdict.ending();
            ending.map(|events| TurnStage::Ended(events.to_vec()))
        };
        if let Found::Dir(state) = folder.dir(STATE)?
            && let Found::Dir(claims) = state.dir(CLAIMS)?
            && let Some(claim) = Claims::new(claims).find(turn_id)?
        {
            return match ended(&claim) {
                None => Ok(journal::progress(&state, turn_id)?.map(TurnStage::of)),
                ended => Ok(ended),
            };
        }
        if let Found::Dir(rejected) = folder.dir(REJECTED)? {
            let claim = Claims::new(rejected).find(turn_id)?;
            return Ok(claim.as_ref().and_then(ended));
        }
        Ok(None)
    }

    /// The request of a turn that failed, if it is kept.
    pub fn failed_request(
        &self,
        workspace: &str,
        turn_id: &str,
    ) -> Result<Option<Vec<u8>>, StateError> {
        let turn_id = id::turn_id(turn_id)?;
        let Ok(segments) = id::segments(workspace) else {
            return Ok(None);
        };
        let path: Vec<&str> = [WORKSPACES]
            .into_iter()
            .chain(segments)
            .chain([STATE])
            .collect();
        match self.below(&path)? {
            Some(state) => Ok(failed_requests::find(&state, turn_id)?),
            None => Ok(None),
        }
    }

    /// What is recorded of turns of that id in any workspace. Looks into each
    /// workspace's folder, up to 200,000; the second value is false if there were more.
    pub fn find(&self, turn_id: &str) -> Result<(Vec<TurnRecord>, bool), StateError> {
        let turn_id = id::turn_id(turn_id)?;
        let mut found = Vec::new();
        if let Some(nameless) = self.below(&[NAMELESS])?
            && let Some(claim) = Claims::new(nameless).look(turn_id)?
        {
            found.push(TurnRecord {
                workspace: None,
                claim,
                history: TurnHistory::default(),
                cancel: None,
            });
        }
        let mut ahead: Vec<(String, Dir)> = Vec::new();
        ahead.extend(self.below(&[WORKSPACES])?.map(|dir| (String::new(), dir)));
        let mut folders = 0;
        while let Some((above, dir)) = ahead.pop() {
            for name in dir.names()? {
                folders += 1;
                if folders > MAX_FOLDERS {
                    return Ok((found, false));
                }
                if name == STATE || name == REJECTED {
                    continue;
                }
                let Found::Dir(below) = dir.dir(&name)? else {
                    continue;
                };
                let workspace = match above.as_str() {
                    "" => name,
                    above => format!("{above}/{name}"),
                };
                found.extend(in_workspace(&below, &workspace, turn_id)?);
                ahead.push((workspace, below));
            }
        }
        Ok((found, true))
    }

    fn below(&self, path: &[&str]) -> Result<Option<Dir>, DiskError> {
        let Some((first, rest)) = path.split_first() else {
            return Ok(None);
        };
        let mut at = self.ours.dir(first)?;
        for name in rest {
            let Found::Dir(dir) = at else {
                return Ok(None);
            };
            at = dir.dir(name)?;
        }
        Ok(match at {
            Found::Dir(dir) => Some(dir),
            Found::Missing | Found::Other(_) => None,
        })
    }
}

fn in_workspace(
    folder: &Dir,
    workspace: &str,
    turn_id: &str,
) -> Result<Option<TurnRecord>, StateError> {
    let record = |claim, history, cancel| TurnRecord {
        workspace: Some(workspace.to_owned()),
        claim,
        history,
        cancel,
    };
    if let Found::Dir(state) = folder.dir(STATE)?
        && let Found::Dir(claims) = state.dir(CLAIMS)?
    {
        let claims = Claims::new(claims);
        if let Some(claim) = claims.look(turn_id)? {
            let history = match claim.verdict.ending() {
                Some(_) => TurnHistory::default(),
                None => journal::recent_history(&state, turn_id)?,
            };
            return Ok(Some(record(claim, history, claims.cancel_mark(turn_id)?)));
        }
    }
    if let Found::Dir(rejected) = folder.dir(REJECTED)?
        && let Some(claim) = Claims::new(rejected).look(turn_id)?
    {
        return Ok(Some(record(claim, TurnHistory::default(), None)));
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::ErrorCode;
    use crate::workspace::Verdict;
    use crate::workspace::testing::{events, finished, lock, root, run_claim, started};

    #[test]
    fn a_turn_is_found_with_and_without_its_workspace_without_writes() {
        let (tmp, root) = root();
        let path = tmp.path().join("root");
        let a = root.workspace("acme/a").unwrap();
        a.claims().claim("t", &run_claim()).unwrap();
        a.claims().mark_cancelled("t", None).unwrap();
        let mut journal = lock(&a).open_journal(None).unwrap();
        journal.started(&started("t", 1)).unwrap();
        journal.finished(&finished("t", 1, 1)).unwrap();
        let rejected = Claim {
            verdict: Verdict::Rejected {
                code: ErrorCode::WorkspaceRejected,
                ending: events("u", 0, 2),
            },
            ..run_claim()
        };
        let inside = root.rejected_in("acme/a/inside").unwrap();
        inside.claim("u", &rejected).unwrap();
        root.rejected().claim("v", &rejected).unwrap();

        let reader = RecordReader::open(&path).unwrap();
        let t = reader.turn("acme/a", "t").unwrap().unwrap();
        assert_eq!(t.history.finished, Some(finished("t", 1, 1)));
        assert!(t.cancel.is_some());
        assert_eq!(reader.find("t").unwrap(), (vec![t], true));
        let of = |id: &str| reader.find(id).unwrap().0.remove(0).workspace;
        assert_eq!(of("u").as_deref(), Some("acme/a/inside"));
        assert_eq!(of("v"), None);
        for (workspace, id) in [("acme/a", "w"), ("acme/b", "t"), ("..", "t"), ("acme", "t")] {
            assert_eq!(reader.turn(workspace, id).unwrap(), None, "{workspace}");
        }
        let stage = |workspace: &str, id: &str| reader.stage(workspace, id).unwrap();
        let ending = finished("t", 1, 1).ending;
        assert_eq!(stage("acme/a", "t"), Some(TurnStage::Ended(ending)));
        let ending = events("u", 0, 2);
        assert_eq!(stage("acme/a/inside", "u"), Some(TurnStage::Ended(ending)));
        a.claims().claim("w", &run_claim()).unwrap();
        assert_eq!(stage("acme/a", "w"), None);
        journal.started(&started("w", 1)).unwrap();
        let Started { attempt, at, .. } = started("w", 1);
        assert_eq!(
            stage("acme/a", "w"),
            Some(TurnStage::Started { attempt, at })
        );
        // In another workspace, or without one, a turn is as unknown as one that never came.
        for (workspace, id) in [
            ("acme/b", "t"),
            ("acme", "t"),
            ("acme/a", "u"),
            ("acme/a", "v"),
        ] {
            assert_eq!(stage(workspace, id), None, "{workspace} {id}");
        }
        assert!(!path.join(".turn-worker/workspaces/acme/b").exists());
        assert!(reader.turn("acme/a", "../t").is_err());
        assert!(RecordReader::open(tmp.path()).is_err());
    }
}
