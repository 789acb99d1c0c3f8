//! Mistakes of producers that no `error` event reports: logged, but not as often
//! as they happen.

use std::time::Instant;

use crate::amqp::messages::{ControlFault, IgnoredControl};
use crate::throttle::Throttle;

#[derive(Debug, Default)]
pub(super) struct Complaints {
    controls: [Throttle; ControlFault::ALL.len()],
    expiration: Throttle,
    reply_to: Throttle,
}

impl Complaints {
    /// Once a minute for each kind.
    pub(super) fn control(&mut self, ignored: &IgnoredControl) {
        let kinds = ControlFault::ALL.iter().zip(&mut self.controls);
        for (_, throttle) in kinds.filter(|(kind, _)| **kind == ignored.fault) {
            if let Some(suppressed) = throttle.admit(Instant::now()) {
                let fault = ignored.fault.as_str();
                tracing::warn!(%ignored, fault, suppressed, "ignored a control message");
            }
        }
    }

    pub(super) fn reply_to(&mut self, queue: &str) {
        if let Some(suppressed) = self.reply_to.admit(Instant::now()) {
            tracing::warn!(
                queue = %queue.escape_debug(),
                suppressed,
                "ignored a reply_to: found a queue that another user may have, expected one that the broker \
                 has named or whose name ends in a UUID"
            );
        }
    }

    pub(super) fn expiration(&mut self, expiration: &str) {
        if let Some(suppressed) = self.expiration.admit(Instant::now()) {
            tracing::warn!(
                expiration = %expiration.escape_debug(),
                suppressed,
                "a request has the property expiration, expected none: the broker drops such a turn \
                 without an event if it waits for longer"
            );
        }
    }
}
