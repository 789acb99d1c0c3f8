//! Questions where a turn is, as a session hears them.

use std::time::Instant;

use lapin::types::ShortString;

use super::Session;
use crate::amqp::consume::Delivery;
use crate::amqp::messages::{DescribeTurn, IgnoredControl};
use crate::amqp::reply::ReplyAddress;
use crate::metrics::DescriptionOutcome;
use crate::sequencer::describe::{Asked, Seen};
use crate::sequencer::intake::PREFETCH;

impl Session<'_> {
    /// A producer wants to know where a turn is.
    pub(super) fn asked(&mut self, turn: DescribeTurn, delivery: &Delivery) {
        let text = |text: &Option<ShortString>| text.as_ref().map(ToString::to_string);
        let (queue, correlation_id) = (
            text(delivery.properties.reply_to()),
            text(delivery.properties.correlation_id()),
        );
        let address = ReplyAddress::of(queue.as_deref(), correlation_id.as_deref());
        let Ok(Some(address)) = address else {
            return self.ignored(&IgnoredControl::without_address(queue.as_deref()));
        };
        if !self.can_describe() {
            return;
        }
        match self.questions.admit(Instant::now(), turn, address) {
            Some(asked) => self.describe(asked),
            None => {
                let metrics = &self.sequencer.metrics;
                metrics.description(DescriptionOutcome::Dropped);
            }
        }
    }

    /// Whether it is this process that answers, and knows enough to do so.
    fn can_describe(&mut self) -> bool {
        let now = Instant::now();
        self.peers.is_to_describe(now, self.active) && self.intake.deadline().is_none()
    }

    pub(super) fn second_look(&mut self, asked: Asked) {
        if self.can_describe() {
            self.describe(asked);
        }
    }

    fn describe(&mut self, asked: Asked) {
        let turn = &asked.turn;
        let has_room = self.held.len() + self.intake.len() < usize::from(PREFETCH);
        // An active one is given what is ready as long as it has room.
        let ready = match self.active && has_room {
            true => 0,
            false => usize::try_from(self.ready).unwrap_or(usize::MAX),
        };
        let (workspace, turn_id) = (turn.workspace.as_str(), &turn.turn_id);
        let seen = Seen {
            disk: self.queue.disk_of(workspace),
            place: self.queue.place(Instant::now(), workspace, turn_id),
            unread: self.intake.len().saturating_add(ready),
        };
        let actor = &self.sequencer.actor;
        actor.describe(asked, seen, self.answers.clone());
    }
}
