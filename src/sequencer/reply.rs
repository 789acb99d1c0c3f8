//! Sends the end of a turn to the queues that requests name for it, too, as
//! AMQP's callers are used to.
//!
//! A reply is sent once, by the sequencer that hears of the end, and is not
//! tried again: `codex.events` is what can be relied on.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::actions::Actor;
use super::remote_records::{ANSWER_LIMIT, unexpected};
use crate::amqp::messages::{RecordsAnswer, RecordsTask};
use crate::amqp::reply::{ReplyAddress, ReplyOutcome};
use crate::error::with_sources;
use crate::event::SealedEvent;
use crate::turn::NotStarted;
use crate::workspace::{Root, WorkspaceError};

/// How many callers get the end of one turn; the first ones count.
const MAX_CALLERS: usize = 8;
/// Those who wait for the end of one turn.
#[derive(Debug)]
pub(super) struct Callers {
    workspace: Arc<str>,
    turn_id: Arc<str>,
    addresses: Vec<ReplyAddress>,
}

impl Callers {
    pub(super) fn of(workspace: Arc<str>, turn_id: Arc<str>) -> Self {
        Self {
            workspace,
            turn_id,
            addresses: Vec::new(),
        }
    }

    pub(super) fn workspace(&self) -> &str {
        &self.workspace
    }

    pub(super) fn add(&mut self, address: ReplyAddress) {
        if self.addresses.len() < MAX_CALLERS && !self.addresses.contains(&address) {
            self.addresses.push(address);
        }
    }
}

impl Actor {
    /// Off the loop: the turn has ended, and the records of that disk have its end.
    pub(super) fn reply(&self, callers: Callers, disk: Option<Uuid>) {
        let (actor, cut) = (self.clone(), self.cut.clone());
        unless_cut(cut, async move {
            let _place = actor.replies.acquire().await;
            let end = actor.end_of(&callers, disk).await.unwrap_or_else(|error| {
                tracing::warn!(
                    error,
                    turn_id = &*callers.turn_id,
                    "found no end to reply with"
                );
                Vec::new()
            });
            for address in &callers.addresses {
                actor.send(address, &end).await;
            }
        });
    }

    async fn end_of(
        &self,
        callers: &Callers,
        disk: Option<Uuid>,
    ) -> Result<Vec<SealedEvent>, String> {
        // One that ended with its disk has no other record.
        if let Some(end) = self.lost_ends.take(&callers.workspace, &callers.turn_id) {
            return Ok(end);
        }
        let disk = disk.ok_or_else(|| "the workspace has no home".to_owned())?;
        if self.is_here(disk) {
            return self.recorded_end(callers).await;
        }
        let task = RecordsTask::End {
            workspace: callers.workspace.to_string(),
            turn_id: callers.turn_id.to_string(),
        };
        match self.ask(disk, task, ANSWER_LIMIT).await? {
            RecordsAnswer::End(end) => Ok(end),
            other => Err(unexpected(&other)),
        }
    }

    async fn recorded_end(&self, callers: &Callers) -> Result<Vec<SealedEvent>, String> {
        let lane = self.lanes.enter(Some(&callers.workspace)).await;
        let lane = lane.map_err(|error| with_sources(&error))?;
        let root = self.records.root.clone();
        let (workspace, turn_id) = (Arc::clone(&callers.workspace), Arc::clone(&callers.turn_id));
        let read = lane.run(move || recorded_end(&root, &workspace, &turn_id));
        let read = read.await.map_err(|error| with_sources(&error))?;
        let end = read.map_err(|error| with_sources(&error))?;
        Ok(end.unwrap_or_default())
    }

    /// To the sender of a request that was rejected.
    pub(super) fn reply_with(&self, address: ReplyAddress, end: Vec<SealedEvent>) {
        let (actor, cut) = (self.clone(), self.cut.clone());
        unless_cut(cut, async move {
            let _place = actor.replies.acquire().await;
            actor.send(&address, &end).await;
        });
    }

    async fn send(&self, address: &ReplyAddress, end: &[SealedEvent]) {
        let outcome = match end.last() {
            Some(message_end) => self.publisher.reply(address, message_end, end).await,
            None => ReplyOutcome::Failed,
        };
        self.metrics.reply(outcome);
    }
}

pub(super) fn unless_cut(cut: CancellationToken, work: impl Future<Output = ()> + Send + 'static) {
    tokio::spawn(async move {
        tokio::select! {
            () = work => {}
            () = cut.cancelled() => {}
        }
    });
}

/// How the turn ended: `error`, if there was one, and `message_end`. Returns
/// `None` if the records have no end of it.
pub(super) fn recorded_end(
    root: &Root,
    workspace: &str,
    turn_id: &str,
) -> Result<Option<Vec<SealedEvent>>, NotStarted> {
    match root.workspace(workspace) {
        Ok(workspace) => Ok(workspace.recorded_end(turn_id)?),
        Err(WorkspaceError::Rejected { .. }) => {
            let claim = root.rejected_in(workspace)?.find(turn_id)?;
            Ok(claim.and_then(|claim| Some(claim.verdict.ending()?.to_vec())))
        }
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn g10_so_many_callers_of_a_turn_are_kept_each_once() {
        let mut callers = Callers::of("a".into(), "t".into());
        for n in 0..100 {
            let id = format!("call-{}", n / 2);
            let name = "amq_0123456789abcdef0123456789abcdef";
            callers.add(ReplyAddress::new(name, Some(&id)).unwrap());
        }
        assert_eq!(callers.addresses.len(), MAX_CALLERS);
        assert_eq!(
            callers.addresses[7].correlation_id.as_deref(),
            Some("call-7")
        );
    }
}
