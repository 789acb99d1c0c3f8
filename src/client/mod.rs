//! The producer's side: sends a turn, follows its events, cancels it.
//!
//! It declares only a queue of its own: a producer need not have the
//! rights for more. What it sends twice runs once, since a turn's id is its
//! idempotency key; so whenever in doubt it sends again.

mod event_order;
mod follow;
mod message;
mod origin;
mod retry;
mod tail;
mod turn;

use std::sync::Arc;

use lapin::BasicProperties;
use lapin::types::{FieldTable, ShortString};

use crate::amqp::connect::{ConnectError, Connector};
use crate::amqp::declare_error::DeclareError;
use crate::amqp::link::{Link, LinkState, blocked};
use crate::amqp::messages::Control;
use crate::amqp::publish::{PublishError, json_properties, publish_on, trace_headers};
use crate::amqp::topology::{REQUEST_KEY, Topology};
use crate::config::target::Target;
use crate::error::with_sources;

pub use event_order::{Arrival, Order};
pub use follow::{Follow, Update};
pub use message::TurnMessage;
pub use origin::Origin;
pub use retry::{RetryError, retried, retry_id};
pub use tail::{Tail, TailUpdate};
pub use turn::{NewTurn, Submission};

#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("can't reach the broker that TURN_WORKER_AMQP_URL names")]
    Connect(#[from] ConnectError),
    #[error(
        "no worker has ever run on {target} under this prefix: {detail}; start `turn-worker serve`, or fix TURN_WORKER_PREFIX or the URL's virtual host"
    )]
    NoTopology { target: Arc<Target>, detail: String },
    #[error(
        "there is no event log on {target} (queue {queue:?}): a worker with TURN_WORKER_EVENT_LOG=on keeps one, from then on; or fix TURN_WORKER_PREFIX or the URL's virtual host"
    )]
    NoLog { target: Arc<Target>, queue: String },
    #[error("can't listen to the turn's events")]
    Listen(#[source] DeclareError),
    #[error("can't listen to the turn's events")]
    Consume(#[from] crate::amqp::consume::ConsumeError),
    #[error(
        "no worker listens on {target}, so the cancel was not received; is `turn-worker serve` running?"
    )]
    Unheard { target: Arc<Target> },
    #[error("the {what} was not taken by {target}")]
    Refused {
        what: &'static str,
        target: Arc<Target>,
        #[source]
        source: PublishError,
    },
    #[error(
        "whether {target} took the {what} is not known; send it again{}",
        match *what {
            "cancel" => ": a turn that has ended is left as it is",
            _ => " under the same turn id: it runs once at most",
        }
    )]
    Unconfirmed {
        what: &'static str,
        target: Arc<Target>,
        #[source]
        source: PublishError,
    },
}

/// A producer of one broker.
#[derive(Debug, Clone)]
pub struct Client {
    connector: Connector,
    topology: Topology,
}

impl Client {
    /// `prefix`: what the names of the workers' exchanges start with.
    pub fn new(connector: Connector, prefix: &str) -> Self {
        Self {
            connector,
            // A limit that only the queue's declarer can use.
            topology: Topology::new(prefix, 0),
        }
    }

    /// Sends a turn, and reads no events.
    pub async fn submit(&self, submission: &Submission) -> Result<(), ClientError> {
        let link = self.connector.connect().await?;
        let sent = self.publish_request(&link, submission).await;
        link.close().await;
        sent
    }

    /// Asks all workers to end a turn, in any workspace if no workspace is given.
    pub async fn cancel(&self, turn_id: &str, workspace: Option<&str>) -> Result<(), ClientError> {
        let link = self.connector.connect().await?;
        let sent = self.publish_cancel(&link, turn_id, workspace).await;
        link.close().await;
        sent
    }

    async fn publish_request(
        &self,
        link: &Link,
        submission: &Submission,
    ) -> Result<(), ClientError> {
        let exchange = &self.topology.requests;
        let mut properties = named(&submission.turn_id);
        if let Some(trace) = &submission.trace {
            let mut headers = FieldTable::default();
            trace_headers(&mut headers, trace);
            properties = properties.with_headers(headers);
        }
        let body = &submission.body;
        match publish(link, "turn", exchange, REQUEST_KEY, properties, body).await {
            // The exchange is there, and no queue behind it.
            Err(ClientError::Refused {
                target,
                source: source @ PublishError::Returned { .. },
                ..
            }) => Err(ClientError::NoTopology {
                target,
                detail: source.to_string(),
            }),
            other => other,
        }
    }

    async fn publish_cancel(
        &self,
        link: &Link,
        turn_id: &str,
        workspace: Option<&str>,
    ) -> Result<(), ClientError> {
        let cancel = Control::Cancel {
            turn_id: turn_id.to_owned(),
            workspace: workspace.map(str::to_owned),
            superseded_by: None,
        };
        let exchange = &self.topology.control;
        let properties = named(turn_id);
        match publish(link, "cancel", exchange, "", properties, &cancel.encode()).await {
            Err(ClientError::Refused {
                target,
                source: PublishError::Returned { .. },
                ..
            }) => Err(ClientError::Unheard { target }),
            other => other,
        }
    }
}

fn named(turn_id: &str) -> BasicProperties {
    json_properties().with_message_id(ShortString::from(turn_id))
}

/// On a channel of its own: a refusal closes the channel, and a publish that
/// was given up would meet the next one's confirm.
async fn publish(
    link: &Link,
    what: &'static str,
    exchange: &str,
    key: &str,
    properties: BasicProperties,
    body: &[u8],
) -> Result<(), ClientError> {
    let target = || Arc::clone(link.target());
    let published = async {
        let channel = link
            .confirm_channel()
            .await
            .map_err(|error| PublishError::Lost(with_sources(&error)))?;
        publish_on(&channel, exchange, key, properties, body, true).await
    };
    let published = match (published.await, link.state()) {
        (Err(PublishError::Lost(_)), LinkState::Blocked(reason)) => {
            Err(PublishError::Lost(blocked(&reason)))
        }
        (published, _) => published,
    };
    published.map_err(|source| match source {
        PublishError::Lost(_) => ClientError::Unconfirmed {
            what,
            target: target(),
            source,
        },
        PublishError::Refused { ref detail, .. } if is_missing(detail) => ClientError::NoTopology {
            target: target(),
            detail: detail.clone(),
        },
        source => ClientError::Refused {
            what,
            target: target(),
            source,
        },
    })
}

/// The broker's words for an object that is not there.
pub(crate) fn is_missing(detail: &str) -> bool {
    detail.starts_with("NOT_FOUND")
}
