//! Answers requests that can't be accepted: kept in the dead queue with the
//! reason, and published to the turn's readers, where it has a usable id.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures_util::FutureExt;
use jiff::Timestamp;
use tokio::sync::SemaphorePermit;
use tokio::time::sleep;

use super::actions::Actor;
use crate::amqp::connect::backoff;
use crate::amqp::dead_letter::{Refusal, bury};
use crate::amqp::reply::ReplyAddress;
use crate::error::with_sources;
use crate::event::SealedEvent;
use crate::fault;
use crate::request::{Rejection, TurnId, WorkspaceId};
use crate::turn::{NotStarted, rejected_ending};
use crate::workspace::{Claim, ClaimOutcome, Claims, Root, Verdict, WorkspaceError};

/// A request that can't be accepted.
pub(super) struct Refused {
    pub rejection: Rejection,
    pub body: Vec<u8>,
    /// A turn of its id is in line, which must not be ended by it.
    pub names_held: bool,
    /// Delivered before, to a sequencer that may have dealt with it.
    pub redelivered: bool,
    /// Its sender wants the answer there, too.
    pub reply_to: Option<ReplyAddress>,
    /// The records of its workspace may be on another host's disk.
    pub is_local: bool,
}

impl Actor {
    /// Until it is done, over and over; then calls `done`.
    pub(super) fn reject(&self, refused: Refused, done: impl FnOnce() + Send + 'static) {
        let (actor, refused) = (self.clone(), Arc::new(refused));
        tokio::spawn(async move {
            let mut delays = backoff();
            let mut kept = false;
            let ending = loop {
                let trying = AssertUnwindSafe(actor.try_reject(&refused, &mut kept));
                match trying.catch_unwind().await {
                    Ok(Some(ending)) => break ending,
                    Ok(None) => {}
                    Err(_) => tracing::error!("rejecting a request panicked; will retry"),
                }
                tokio::select! {
                    () = sleep(delays.next().unwrap_or_default()) => {}
                    () = actor.cut.cancelled() => return,
                }
            };
            done();
            if let (Some(address), Some(turn_id)) = (&refused.reply_to, &refused.rejection.turn_id)
            {
                let end = match ending.is_empty() {
                    // What readers of the turn must not see, its sender may.
                    true => rejected_ending(&refused.rejection, turn_id),
                    false => ending,
                };
                actor.reply_with(address.clone(), end);
            }
        });
    }

    /// The events that answer it, empty if they would be another turn's; `None`: try again.
    async fn try_reject(
        &self,
        refused: &Arc<Refused>,
        kept: &mut bool,
    ) -> Option<Vec<SealedEvent>> {
        let rejection = &refused.rejection;
        let (root, refused_) = (self.records.root.clone(), Arc::clone(refused));
        let again = move || refused_.was_dealt_with(&root);
        let (again, place) = self.on_disk(refused, again).await?;
        if !again && !*kept {
            let message = rejection.to_string();
            let refusal = Refusal {
                request: &refused.body,
                turn_id: rejection.turn_id.as_ref().map(TurnId::as_str),
                code: rejection.code,
                message: &message,
            };
            if !self.bury(refusal).await {
                return None;
            }
            *kept = true;
        }
        drop(place);
        // Only now, so that it shows any later reader of the request that it is kept.
        let (records, refused_) = (self.records.clone(), Arc::clone(refused));
        let claim = move || refused_.claim(&records.root, records.by);
        let (ending, _place) = self.on_disk(refused, claim).await?;
        fault::at("sequencer.rejected");
        if !self.publish_events(ending.clone()).await {
            return None;
        }
        fault::at("sequencer.answered");
        if !again {
            self.metrics.request_rejected(rejection.code);
            tracing::warn!(
                turn_id = rejection.turn_id.as_ref().map(|id| id.as_str()),
                trace_id = rejection.trace.as_ref().map(|trace| trace.trace_id()),
                code = rejection.code.as_str(),
                rules = rejection.rules(),
                "rejected a request"
            );
        }
        Some(ending)
    }

    /// Puts a request into the dead queue, with the reason. False: try again.
    pub(super) async fn bury(&self, refusal: Refusal<'_>) -> bool {
        let buried = bury(&self.publisher, &self.topology, refusal).await;
        if let Err(error) = &buried {
            tracing::warn!(
                error = with_sources(error),
                "can't keep a rejected request yet"
            );
        }
        fault::at("sequencer.buried");
        buried.is_ok()
    }

    /// Off the loop, with a place for the ending. Returns `None` if it failed.
    async fn on_disk<T: Send + 'static>(
        &self,
        refused: &Refused,
        work: impl FnOnce() -> Result<T, NotStarted> + Send + 'static,
    ) -> Option<(T, Option<SemaphorePermit<'_>>)> {
        let workspace = refused.rejection.workspace.as_ref();
        let workspace = workspace.map(WorkspaceId::as_str);
        // The lane first: those who wait for it must not have all permits.
        let lane = self.lanes.enter(workspace).await;
        let place = self.place_for_ending().await;
        let done = match lane {
            Ok(lane) => lane.run(work).await,
            Err(error) => Err(error),
        };
        match done {
            Ok(Ok(done)) => Some((done, place)),
            Ok(Err(error)) => {
                self.not_recorded(&error).await;
                tracing::error!(error = with_sources(&error), "can't record a rejection yet");
                None
            }
            Err(error) => {
                let error = with_sources(&error);
                tracing::error!(error, "failed to record a rejection; will retry");
                None
            }
        }
    }
}

impl Refused {
    /// Whether all but its ack was done: its claim comes after the dead queue.
    fn was_dealt_with(&self, root: &Root) -> Result<bool, NotStarted> {
        let (true, Some((turn_id, claims))) = (self.redelivered, self.claims(root)?) else {
            return Ok(false);
        };
        let claim = claims.find(turn_id.as_str())?;
        Ok(claim.is_some_and(|claim| claim.fingerprint == self.fingerprint()))
    }

    /// Claims the rejection, so that each later rejection is the same.
    /// Its events; empty if a turn of that id was accepted before: what is
    /// said of that is its own.
    fn claim(&self, root: &Root, by: String) -> Result<Vec<SealedEvent>, NotStarted> {
        let Some((turn_id, claims)) = self.claims(root)? else {
            return Ok(Vec::new());
        };
        let ending = rejected_ending(&self.rejection, turn_id);
        let claim = Claim {
            verdict: Verdict::Rejected {
                code: self.rejection.code,
                ending: ending.clone(),
            },
            fingerprint: self.fingerprint(),
            made_at: Timestamp::now(),
            by,
        };
        Ok(match claims.claim(turn_id.as_str(), &claim)? {
            ClaimOutcome::Won => ending,
            // This very request, delivered again.
            ClaimOutcome::Lost(other) if other.fingerprint == claim.fingerprint => {
                other.verdict.ending().unwrap_or_default().to_vec()
            }
            ClaimOutcome::Lost(_) => Vec::new(),
        })
    }

    /// The turn that it is about, and where that turn's claim lies.
    fn claims(&self, root: &Root) -> Result<Option<(&TurnId, Claims)>, NotStarted> {
        let turn_id = self.rejection.turn_id.as_ref();
        let Some(turn_id) = turn_id.filter(|_| !self.names_held) else {
            return Ok(None);
        };
        let claims = match &self.rejection.workspace {
            None => root.rejected().clone(),
            // Apart from the turns of that workspace, which may live elsewhere.
            Some(id) if self.is_local => root.rejected_in(id.as_str())?,
            Some(id) => match root.workspace(id.as_str()) {
                Ok(workspace) => workspace.claims().clone(),
                Err(WorkspaceError::Rejected { .. }) => root.rejected_in(id.as_str())?,
                Err(error) => return Err(error.into()),
            },
        };
        Ok(Some((turn_id, claims)))
    }

    fn fingerprint(&self) -> u32 {
        crc32fast::hash(&self.body)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::{Limits, Properties, TurnRequest};

    fn refused(turn_id: &str, workspace: &str, redelivered: bool) -> Refused {
        let body = format!(r#"{{"turn_id":"{turn_id}","workspace":"{workspace}"}}"#).into_bytes();
        let limits = Limits::accepted();
        Refused {
            rejection: TurnRequest::parse(&body, &limits, &Properties::default()).unwrap_err(),
            body,
            names_held: false,
            redelivered,
            reply_to: None,
            is_local: false,
        }
    }

    #[test]
    fn g5_a_rejection_is_known_as_dealt_with_when_it_comes_again_from_the_broker() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::open(dir.path()).unwrap();
        root.workspace("a").unwrap();
        for workspace in ["b", "a/inside", ""] {
            let dealt_with = |id: &str, redelivered| {
                let refused = refused(id, workspace, redelivered);
                refused.was_dealt_with(&root).unwrap()
            };
            assert!(!dealt_with("t", true), "{workspace:?}");
            let ending = refused("t", workspace, false).claim(&root, "me".into());
            assert!(dealt_with("t", true), "{workspace:?}");
            // From its producer, it is another one that says the same.
            assert!(!dealt_with("t", false));
            assert!(!dealt_with("u", true));
            let again = refused("t", workspace, true).claim(&root, "other".into());
            assert_eq!(again.unwrap(), ending.unwrap());
        }
    }

    #[test]
    fn g5_two_workspaces_that_can_not_be_get_their_own_rejection_of_a_turn_id() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::open(dir.path()).unwrap();
        for workspace in ["x", "y"] {
            root.workspace(workspace).unwrap();
            let inside = format!("{workspace}/in");
            let ending = refused("t", &inside, false).claim(&root, "me".into());
            let start = &ending.unwrap()[0].json;
            assert!(
                start.contains(&format!(r#""workspace":"{inside}""#)),
                "{start}"
            );
        }
    }
}
