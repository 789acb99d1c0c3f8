//! Control messages, as a session hears them.

use std::time::Instant;

use super::Session;
use crate::amqp::consume::{Delivery, SettleError, ack_all};
use crate::amqp::messages::{Cancel, ControlRequest, IgnoredControl};
use crate::fault;
use crate::request::WorkspaceId;

impl Session<'_> {
    pub(super) async fn controls(&mut self, deliveries: Vec<Delivery>) -> Result<(), SettleError> {
        for delivery in &deliveries {
            self.control(delivery);
        }
        ack_all(deliveries).await
    }

    fn control(&mut self, delivery: &Delivery) {
        fault::at("sequencer.control");
        match ControlRequest::read(&delivery.body, &self.sequencer.limits.roots) {
            // Another sequencer's word to the workers: which turn interrupts which is in the records.
            Ok(ControlRequest::Cancel(Cancel {
                superseded_by: Some(_),
                ..
            })) => {}
            Ok(ControlRequest::Cancel(Cancel {
                turn_id, workspace, ..
            })) => {
                let workspace = workspace.as_ref().map(WorkspaceId::as_str);
                self.queue
                    .cancel(Instant::now(), &turn_id, workspace, &mut self.out);
            }
            Ok(ControlRequest::Describe(turn)) => self.asked(turn, delivery),
            Err(ignored) => self.ignored(&ignored),
        }
    }

    pub(super) fn ignored(&mut self, ignored: &IgnoredControl) {
        self.sequencer.metrics.control_ignored(ignored.fault);
        self.complaints.control(ignored);
    }
}
