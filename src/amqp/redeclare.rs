//! Declares again what was deleted at the broker. A consumer is notified when its queue
//! goes, but there is no notification for an exchange, of a binding, or of a queue that is
//! only published to: cancels, ends of turns and rejections would go nowhere.

use std::convert::Infallible;
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};

use super::declare_error::DeclareError;
use super::link::Link;
use super::topology::{Fanout, Topology};
use crate::error::with_sources;

/// How often. A few requests without effect are cheap for the broker.
const EVERY: Duration = Duration::from_secs(5);

impl Topology {
    /// Keeps everything there, and these queues of the connection's own bound,
    /// for as long as it is polled. What can't be declared is only logged: most
    /// of what the process does may work all the same.
    pub async fn keep(&self, link: &Link, own: &[(Fanout, &str)]) -> Infallible {
        let mut ticks = interval(EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // The first one is at once, and everything has just been declared.
        ticks.tick().await;
        let mut told = None;
        loop {
            ticks.tick().await;
            let error = match self.restore(link, own).await {
                Ok(()) => None,
                // Its consumers are notified of that, too.
                Err(DeclareError::Link(_)) => continue,
                Err(error) => Some(with_sources(&error)),
            };
            if let Some(error) = &error
                && told.as_ref() != Some(error)
            {
                tracing::warn!(error, "can't keep the broker's objects as they should be");
            }
            told = error;
        }
    }

    async fn restore(&self, link: &Link, own: &[(Fanout, &str)]) -> Result<(), DeclareError> {
        self.declare(link).await?;
        for (fanout, queue) in own {
            self.bind_exclusive(link, *fanout, queue).await?;
        }
        Ok(())
    }
}
