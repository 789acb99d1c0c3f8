//! Whether the broker takes no publishes: a memory or disk alarm.

use std::time::Duration;

use lapin::BasicProperties;
use lapin::options::BasicPublishOptions;
use tokio::time::timeout;

use super::link::Link;

/// How long the broker may take to answer.
const LIMIT: Duration = Duration::from_secs(5);
/// How much later than its other answer the broker may report the alarm.
const GRACE: Duration = Duration::from_millis(500);

impl Link {
    /// The broker's reason for taking no publishes; `None` if it takes them.
    ///
    /// It reports an alarm only to a connection that publishes. So this
    /// publishes what the broker refuses for its `expiration`, or for a missing
    /// right: it has no effect.
    pub async fn alarm(&self) -> Option<String> {
        let refused = async {
            let channel = self.confirm_channel().await?;
            let no_number = BasicProperties::default().with_expiration("none".into());
            let options = BasicPublishOptions::default();
            let publish = channel.basic_publish("".into(), "".into(), options, b"", no_number);
            let publish = async { publish.await?.await };
            self.bounded("trying to publish", publish).await
        };
        tokio::select! {
            biased;
            reason = self.blocked() => return Some(reason),
            _ = timeout(LIMIT, refused) => {}
        }
        timeout(GRACE, self.blocked()).await.ok()
    }
}
