//! The answer to an offer, for the sequencer that made it.

use crate::amqp::messages::{DeclineReason, Status};
use crate::amqp::pool::PublisherLink;
use crate::amqp::publish::transient_properties;
use crate::error::with_sources;

/// Answers an offer, to its sequencer alone. Answers are not waited for, and
/// one that is lost costs a repeat.
pub(super) struct Reply {
    pub(super) publisher: PublisherLink,
    pub(super) queue: String,
    pub(super) workspace: String,
    pub(super) turn_id: String,
    pub(super) worker: String,
}

impl Reply {
    pub(super) fn taken(self) {
        let (workspace, turn_id, worker) = (
            self.workspace.clone(),
            self.turn_id.clone(),
            self.worker.clone(),
        );
        self.send(Status::Taken {
            workspace,
            turn_id,
            worker,
        });
    }

    pub(super) fn declined(self, why: DeclineReason) {
        let (workspace, turn_id, worker) = (
            self.workspace.clone(),
            self.turn_id.clone(),
            self.worker.clone(),
        );
        self.send(Status::Declined {
            workspace,
            turn_id,
            worker,
            why: why.as_str().to_owned(),
        });
    }

    /// Completes when the broker has it.
    pub(super) async fn returned(self) {
        let (workspace, turn_id, worker) = (
            self.workspace.clone(),
            self.turn_id.clone(),
            self.worker.clone(),
        );
        let returned = Status::Declined {
            workspace,
            turn_id,
            worker,
            why: DeclineReason::Requeued.as_str().to_owned(),
        };
        self.publish(returned).await;
    }

    fn send(self, answer: Status) {
        tokio::spawn(self.publish(answer));
    }

    async fn publish(self, answer: Status) {
        if !self.publisher.is_connected() {
            return;
        }
        let (publisher, body) = (self.publisher, answer.encode());
        let sent =
            publisher.publish_confirmed("", &self.queue, transient_properties(), &body, false);
        if let Err(error) = sent.await {
            tracing::debug!(error = with_sources(&error), "an offer was not answered");
        }
    }
}
