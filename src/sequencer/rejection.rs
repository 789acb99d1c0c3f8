//! Answers requests that can't be accepted: kept in the dead queue with the
//! reason, and told to whoever listens for the turn, where it has a usable id.

use jiff::Timestamp;
use tokio::time::sleep;

use super::actions::Actor;
use crate::amqp::connect::backoff;
use crate::amqp::dead_letter::bury;
use crate::error::with_sources;
use crate::event::{ErrorCode, SealedEvent};
use crate::request::Rejection;
use crate::turn::{NotStarted, rejected_ending};
use crate::workspace::{Claim, ClaimOutcome, Root, Verdict, WorkspaceError};

impl Actor {
    /// Until it is done, over and over; then calls `done`. `names_held`: a
    /// turn of its id is in line, which must not be ended by it.
    pub(super) fn reject(
        &self,
        rejection: Rejection,
        names_held: bool,
        body: Vec<u8>,
        done: impl FnOnce() + Send + 'static,
    ) {
        let actor = self.clone();
        tokio::spawn(async move {
            let mut delays = backoff();
            loop {
                let place = actor.place_for_ending().await;
                if actor.try_reject(&rejection, names_held, &body).await {
                    break;
                }
                drop(place);
                tokio::select! {
                    () = sleep(delays.next().unwrap_or_default()) => {}
                    () = actor.cut.cancelled() => return,
                }
            }
            done();
        });
    }

    async fn try_reject(&self, rejection: &Rejection, names_held: bool, body: &[u8]) -> bool {
        let message = rejection.to_string();
        let (root, by, rejection_, fingerprint) = (
            self.root.clone(),
            self.by.clone(),
            rejection.clone(),
            crc32fast::hash(body),
        );
        let ending = tokio::task::spawn_blocking(move || match names_held {
            true => Ok(Answered::KnownTurn),
            false => claim(&root, &rejection_, fingerprint, by),
        });
        let ending = ending.await;
        let ending = match ending {
            Ok(Ok(ending)) => ending,
            Ok(Err(error)) => {
                tracing::error!(error = with_sources(&error), "can't record a rejection yet");
                return false;
            }
            Err(panic) => {
                tracing::error!(%panic, "recording a rejection failed");
                return false;
            }
        };
        if !self.bury(body, rejection.code, &message).await {
            return false;
        }
        let events = match ending {
            Answered::With(events) => events,
            Answered::KnownTurn => Vec::new(),
        };
        if !self.publish_events(events).await {
            return false;
        }
        self.metrics.request_rejected(rejection.code);
        tracing::warn!(
            turn_id = rejection.turn_id.as_ref().map(|id| id.as_str()),
            code = rejection.code.as_str(),
            rules = rejection.rules(),
            "rejected a request"
        );
        true
    }

    /// Puts a request into the dead queue, with the reason. False: try again.
    pub(super) async fn bury(&self, body: &[u8], code: ErrorCode, message: &str) -> bool {
        let buried = bury(&self.publisher, &self.topology, body, code, message).await;
        if let Err(error) = &buried {
            tracing::warn!(
                error = with_sources(error),
                "can't keep a rejected request yet"
            );
        }
        buried.is_ok()
    }
}

enum Answered {
    With(Vec<SealedEvent>),
    /// A turn of that id was accepted before: what is said of it is its own.
    KnownTurn,
}

/// Claims the rejection, so that whoever rejects it again says the same.
fn claim(
    root: &Root,
    rejection: &Rejection,
    fingerprint: u32,
    by: String,
) -> Result<Answered, NotStarted> {
    let Some(turn_id) = &rejection.turn_id else {
        return Ok(Answered::With(Vec::new()));
    };
    let workspace = match &rejection.workspace {
        None => None,
        Some(id) => match root.workspace(id.as_str()) {
            Ok(workspace) => Some(workspace),
            Err(WorkspaceError::Rejected { .. }) => None,
            Err(error) => return Err(error.into()),
        },
    };
    let claims = match &workspace {
        Some(workspace) => workspace.claims(),
        None => root.rejected(),
    };
    let ending = rejected_ending(rejection, turn_id);
    let claim = Claim {
        verdict: Verdict::Rejected {
            code: rejection.code,
            ending: ending.clone(),
        },
        fingerprint,
        made_at: Timestamp::now(),
        by,
    };
    Ok(match claims.claim(turn_id.as_str(), &claim)? {
        ClaimOutcome::Won => Answered::With(ending),
        ClaimOutcome::Lost(other) if other.fingerprint == fingerprint => {
            // This very request, delivered again.
            Answered::With(other.verdict.ending().unwrap_or_default().to_vec())
        }
        ClaimOutcome::Lost(_) => Answered::KnownTurn,
    })
}
