//! Whether a policy of the broker would lose turns. No client can ask which
//! policies apply to a queue, so that is found out by experiment: on a queue
//! that is declared as `codex.turns` is, under a name that starts with its.

use std::time::Duration;

use lapin::options::{
    BasicGetOptions, BasicPublishOptions, BasicRejectOptions, QueueDeleteOptions,
};
use lapin::types::ShortString;
use lapin::{Channel, Confirmation};
use tokio::time::sleep;

use super::declare_error::DeclareError;
use super::link::{Link, LinkError};
use super::publish::json_properties;
use super::topology::Topology;

/// How often the probe is requeued: more than RabbitMQ's own limit of 20.
const REQUEUES: u32 = 25;
/// How many messages are kept then: more than a queue of a single message.
const MESSAGES: u32 = 3;
/// How long the queue is left alone.
const ALONE: Duration = Duration::from_secs(2);
/// Between two looks at a queue that seems empty.
const PAUSE: Duration = Duration::from_millis(300);

/// What a policy does to the probe, and would do to turns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PolicyLoss {
    #[error("a message that was requeued {0} times was dropped (delivery-limit)")]
    Requeued(u32),
    #[error(
        "of {MESSAGES} messages {found} were kept (max-length, max-length-bytes, or a message-ttl)"
    )]
    Length { found: u32 },
    #[error("a message was refused (max-length or max-length-bytes with overflow reject-publish)")]
    Refused,
    #[error("a message that waited for {} s was dropped (message-ttl)", ALONE.as_secs())]
    Waited,
    #[error("the queue was deleted after {} s without a consumer (expires)", ALONE.as_secs())]
    Deleted,
}

impl Topology {
    /// Takes some seconds. Returns `None` if all messages were kept: limits
    /// that are larger than the experiment are not found, and `expires` hardly
    /// ever, since the broker looks for it every 5 s.
    pub async fn probe_policies(&self, link: &Link) -> Result<Option<PolicyLoss>, DeclareError> {
        let queue = self.declare_probe(link).await?;
        let probe = Probe {
            link,
            channel: link.confirm_channel().await?,
            queue: ShortString::from(queue),
        };
        let found = probe.run(self).await;
        probe.delete().await;
        found
    }
}

struct Probe<'a> {
    link: &'a Link,
    channel: Channel,
    queue: ShortString,
}

impl Probe<'_> {
    async fn run(&self, topology: &Topology) -> Result<Option<PolicyLoss>, DeclareError> {
        if !self.publish().await? {
            return Ok(Some(PolicyLoss::Refused));
        }
        for requeued in 0..=REQUEUES {
            if !self.requeue().await? {
                return Ok(Some(match requeued {
                    0 => PolicyLoss::Length { found: 0 },
                    _ => PolicyLoss::Requeued(requeued),
                }));
            }
        }
        for _ in 1..MESSAGES {
            if !self.publish().await? {
                return Ok(Some(PolicyLoss::Refused));
            }
        }
        let found = self.kept(topology).await?;
        if found != Some(MESSAGES) {
            let found = found.unwrap_or(0);
            return Ok(Some(PolicyLoss::Length { found }));
        }
        sleep(ALONE).await;
        Ok(match self.kept(topology).await? {
            None => Some(PolicyLoss::Deleted),
            Some(MESSAGES) => None,
            Some(_) => Some(PolicyLoss::Waited),
        })
    }

    /// False if it was refused.
    async fn publish(&self) -> Result<bool, LinkError> {
        let options = BasicPublishOptions {
            mandatory: true,
            ..BasicPublishOptions::default()
        };
        let publish = async {
            let name = self.queue.clone();
            (self.channel)
                .basic_publish("".into(), name, options, b"{}", json_properties())
                .await?
                .await
        };
        let confirmed = self.link.bounded("publishing a probe", publish).await?;
        Ok(matches!(confirmed, Confirmation::Ack(None)))
    }

    /// Takes a message and requeues it; false if the queue is empty.
    async fn requeue(&self) -> Result<bool, LinkError> {
        // One that was requeued just now may be there a little later.
        for wait in [Duration::ZERO, PAUSE, PAUSE] {
            sleep(wait).await;
            let options = BasicGetOptions::default();
            let get = self.channel.basic_get(self.queue.clone(), options);
            let Some(message) = self.link.bounded("taking a probe", get).await? else {
                continue;
            };
            // Not by nack, which some versions do not count.
            let reject = message.reject(BasicRejectOptions { requeue: true });
            self.link.bounded("requeueing a probe", reject).await?;
            return Ok(true);
        }
        Ok(false)
    }

    /// How many messages there are; `None` if the queue is gone.
    async fn kept(&self, topology: &Topology) -> Result<Option<u32>, DeclareError> {
        let mut found = 0;
        for wait in [Duration::ZERO, PAUSE, PAUSE] {
            sleep(wait).await;
            match topology.depth(self.link, self.queue.as_str()).await {
                Ok(depth) => found = u32::try_from(depth.ready).unwrap_or(u32::MAX),
                Err(error) if is_missing(&error) => return Ok(None),
                Err(error) => return Err(error),
            }
            if found >= MESSAGES {
                break;
            }
        }
        Ok(Some(found))
    }

    /// Else it expires by itself.
    async fn delete(&self) {
        let Ok(channel) = self.link.channel().await else {
            return;
        };
        let delete = channel.queue_delete(self.queue.clone(), QueueDeleteOptions::default());
        if let Err(error) = self.link.bounded("deleting a probe", delete).await {
            tracing::debug!(%error, "a probe is left to expire");
        }
    }
}

fn is_missing(error: &DeclareError) -> bool {
    matches!(error, DeclareError::Refused { detail, .. } if detail.starts_with("NOT_FOUND"))
}
