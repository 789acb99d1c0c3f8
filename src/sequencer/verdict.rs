//! Ends turns that don't run: cancelled or interrupted while they waited, one
//! too many, not to wait at all, not started in time, or under an id that
//! another workspace's turn has.

mod decision;
mod turn_errors;

use std::sync::Arc;

use uuid::Uuid;

use super::actions::Actor;
use super::queue::{ClaimAnswer, QueuedTurn, Verdict as Wanted};
use super::remote_records::{ANSWER_LIMIT, unexpected};
use crate::amqp::dead_letter::Refusal;
use crate::amqp::messages::{RecordsAnswer, RecordsTask};
use crate::error::with_sources;
use crate::event::StopReason;
use crate::fault;
use crate::homes::Loss;
use crate::request::{Limits, Properties, TurnRequest};
use crate::trace::TraceContext;
use crate::turn::lost_ending;

use decision::{Decided, Decision, claim};
use turn_errors::workspace_lost;

pub(super) use decision::has_ended;

impl Actor {
    /// By the records of `disk`. `other`: that of the workspace which the verdict names.
    pub(super) async fn decide(
        &self,
        turn: &Arc<QueuedTurn>,
        wanted: Wanted,
        disk: Uuid,
        other: Option<Uuid>,
    ) -> ClaimAnswer {
        if let Wanted::HostLost { loss } = &wanted {
            return self.end_lost(turn, loss).await;
        }
        let decided = self.decide_there(turn, wanted, disk, other).await;
        decided.unwrap_or_else(|error| {
            let (turn_id, workspace) = (&*turn.turn_id, &*turn.workspace);
            tracing::warn!(
                error,
                turn_id,
                workspace,
                "can't decide a turn's fate on its workspace's disk yet"
            );
            ClaimAnswer::Failed
        })
    }

    async fn decide_there(
        &self,
        turn: &Arc<QueuedTurn>,
        verdict: Wanted,
        disk: Uuid,
        other: Option<Uuid>,
    ) -> Result<ClaimAnswer, String> {
        let other_ended = match &verdict {
            Wanted::IdTaken { workspace } if other != Some(disk) => Some(match other {
                Some(other) if self.is_here(other) => {
                    let (root, id) = (self.records.root.clone(), workspace.to_string());
                    let turn_id = turn.turn_id.to_string();
                    let known = self.records.pool.journal_end(workspace);
                    let look = move || has_ended(&root, &id, &turn_id, known.as_ref());
                    let looked = tokio::task::spawn_blocking(look).await;
                    let looked = looked.map_err(|error| error.to_string())?;
                    looked.map_err(|error| with_sources(&error))?
                }
                other => self.has_ended_on(other, workspace, &turn.turn_id).await?,
            }),
            _ => None,
        };
        if self.is_here(disk) {
            return Ok(self.decide_here(turn, verdict, other_ended).await);
        }
        let request = String::from_utf8(turn.request.to_vec()).map_err(|it| it.to_string())?;
        let task = RecordsTask::Decide {
            request,
            verdict,
            other_ended,
        };
        match self.ask(disk, task, ANSWER_LIMIT).await? {
            RecordsAnswer::Decided(answer) => Ok(answer),
            other => Err(unexpected(&other)),
        }
    }

    /// The turn may have been started on a disk that is gone for good: it ends, and
    /// no records have its end.
    async fn end_lost(&self, turn: &Arc<QueuedTurn>, loss: &Loss) -> ClaimAnswer {
        let limits = Limits::accepted();
        let Ok(request) = TurnRequest::parse(&turn.request, &limits, &Properties::default()) else {
            return ClaimAnswer::Failed;
        };
        let error = workspace_lost(&turn.workspace, &loss.host);
        let end = lost_ending(&request, error.clone(), loss.at);
        let _place = self.place_for_ending().await;
        if !self.publish_events(end.clone()).await {
            return ClaimAnswer::Failed;
        }
        self.lost_ends.keep(&turn.workspace, &turn.turn_id, end);
        let tenant = turn.tenant.as_deref();
        self.metrics
            .turn_decided(tenant, StopReason::Error, Some(&error));
        tracing::warn!(
            turn_id = &*turn.turn_id,
            workspace = &*turn.workspace,
            host = &*loss.host,
            "ended a turn of a workspace on a lost disk"
        );
        ClaimAnswer::Won
    }

    /// By the records of this process's root. `other_ended`: whether the turn that the
    /// verdict names has ended, if that is of another disk.
    pub(super) async fn decide_here(
        &self,
        turn: &Arc<QueuedTurn>,
        wanted: Wanted,
        other_ended: Option<bool>,
    ) -> ClaimAnswer {
        let (root, by, turn_) = (
            self.records.root.clone(),
            self.records.by.clone(),
            Arc::clone(turn),
        );
        // The lane first: those who wait for it must not have all permits.
        let lane = self.lanes.enter(Some(&turn.workspace)).await;
        let _place = self.place_for_ending().await;
        let decided = match lane {
            Ok(lane) => {
                let pool = self.records.pool.clone();
                let known = move |workspace: &str| pool.journal_end(workspace);
                lane.run(move || claim(&root, &turn_, wanted, by, other_ended, known))
                    .await
            }
            Err(error) => Err(error),
        };
        let decided = match decided {
            Ok(Ok(decided)) => decided,
            // It is tried again.
            Ok(Err(error)) if error.is_old_read() => {
                let error = with_sources(&error);
                let (turn_id, workspace) = (&*turn.turn_id, &*turn.workspace);
                tracing::warn!(
                    error,
                    turn_id,
                    workspace,
                    "reading the records of a workspace again"
                );
                return ClaimAnswer::Failed;
            }
            Ok(Err(error)) => {
                self.not_recorded(&error).await;
                let error = with_sources(&error);
                tracing::error!(
                    error,
                    turn_id = &*turn.turn_id,
                    "can't decide a turn's fate yet"
                );
                return ClaimAnswer::Failed;
            }
            Err(error) => {
                let error = with_sources(&error);
                let (turn_id, workspace) = (&*turn.turn_id, &*turn.workspace);
                tracing::error!(
                    error,
                    turn_id,
                    workspace,
                    "failed to record a verdict; will retry"
                );
                return ClaimAnswer::Failed;
            }
        };
        let (events, refused, now, silent) = match decided {
            Decided::Ended {
                events,
                refused,
                now,
                silent,
            } => (events, refused, now, silent),
            Decided::Runs => {
                let turn_id = &*turn.turn_id;
                tracing::debug!(turn_id, "the turn is not ended here: a worker has it");
                return ClaimAnswer::AlreadyRun;
            }
            Decided::AllEnded => return ClaimAnswer::AllEnded,
            Decided::Spent => return ClaimAnswer::Spent,
        };
        fault::at("sequencer.claimed");
        if let Some(Decision { stop_reason, error }) = &now {
            // Only here: what follows may have to be tried again.
            match &refused {
                Some(error) => self.metrics.request_rejected(error.code),
                None => {
                    let tenant = turn.tenant.as_deref();
                    self.metrics
                        .turn_decided(tenant, *stop_reason, error.as_ref());
                }
            }
            tracing::info!(
                turn_id = &*turn.turn_id,
                workspace = &*turn.workspace,
                tenant = turn.tenant.as_deref(),
                trace_id = (events.first())
                    .and_then(|event| event.trace.as_deref())
                    .map(TraceContext::trace_id),
                outcome = stop_reason.as_str(),
                code = error.as_ref().map(|error| error.code.as_str()),
                "ended a waiting turn"
            );
            if silent {
                tracing::warn!(
                    turn_id = &*turn.turn_id,
                    workspace = &*turn.workspace,
                    "refused a request, unanswered: a turn of another workspace has its id"
                );
            }
        }
        if let Some(error) = &refused {
            let refusal = Refusal {
                request: &turn.request,
                turn_id: Some(&turn.turn_id),
                code: error.code,
                message: &error.message,
            };
            if !self.bury(refusal).await {
                return ClaimAnswer::Failed;
            }
        }
        let told = silent || self.publish_events(events).await;
        fault::at("sequencer.told");
        match (told, now) {
            (false, _) => ClaimAnswer::Failed,
            (true, Some(_)) => ClaimAnswer::Won,
            (true, None) => ClaimAnswer::AlreadyEnded,
        }
    }
}
