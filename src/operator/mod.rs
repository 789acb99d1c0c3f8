//! The operator's side: what a pool says of itself, and what it would not take.
//! It is read-only: it declares only a queue of its own, and sends only
//! orders to a pool without shared storage.

mod dead;
mod dead_letter;
mod homes;
mod status;
mod turn;
mod wait_reason;

use std::sync::Arc;
use std::time::Duration;

use crate::amqp::connect::{ConnectError, Connector};
use crate::amqp::consume::ConsumeError;
use crate::amqp::declare_error::DeclareError;
use crate::amqp::link::{Link, LinkError, blocked};
use crate::amqp::publish::PublishError;
use crate::amqp::topology::Topology;
use crate::client::is_missing;
use crate::config::target::Target;

pub use dead::{DeadLetters, MAX_HELD};
pub use dead_letter::DeadLetter;
pub use status::{PoolStatus, SequencerStatus, WorkerStatus};
pub use turn::{AttemptEnd, AttemptReport, EndReport, TurnReport, TurnState};
pub use wait_reason::why;

#[derive(Debug, thiserror::Error)]
pub enum OperatorError {
    #[error("can't reach the broker that TURN_WORKER_AMQP_URL names")]
    Connect(#[from] ConnectError),
    #[error(
        "no worker has ever run on {target} under this prefix: {detail}; start `turn-worker serve`, or fix TURN_WORKER_PREFIX or the URL's virtual host"
    )]
    NoTopology { target: Arc<Target>, detail: String },
    #[error(
        "user {:?} may not do this on {target}: {detail}; the script ops/deploy/rabbitmq/users gives what it takes: users set operator NAME", .target.user
    )]
    Forbidden { target: Arc<Target>, detail: String },
    #[error(
        "another client consumes from queue {queue:?} on {target}, and two at once would change its order; try again when that one is done"
    )]
    InUse { queue: String, target: Arc<Target> },
    #[error(
        "no reports on exchange {exchange:?} of {target} within {limit:?}: no process of the pool runs or reaches the broker, or they have another prefix or virtual host than TURN_WORKER_PREFIX and the URL name"
    )]
    Silent {
        exchange: String,
        target: Arc<Target>,
        limit: Duration,
    },
    #[error("{target}: {}; so no process of the pool can report its state", blocked(.reason))]
    Blocked { target: Arc<Target>, reason: String },
    #[error(
        "there is no queue {queue:?} on {target}: no process of a pool with TURN_WORKER_WORKSPACE_STORAGE=local has run there under this prefix"
    )]
    NoHomes { queue: String, target: Arc<Target> },
    #[error("the order was not kept")]
    Order(#[source] PublishError),
    #[error("the broker does not do what it is asked for")]
    Declare(#[source] DeclareError),
    #[error("can't read from the broker")]
    Consume(#[source] ConsumeError),
}

/// An operator of one pool.
#[derive(Debug, Clone)]
pub struct Operator {
    connector: Connector,
    topology: Topology,
}

impl Operator {
    /// `prefix`: what the names of the pool's exchanges start with.
    pub fn new(connector: Connector, prefix: &str) -> Self {
        Self {
            connector,
            // A limit that only a process that declares the queue has a use for.
            topology: Topology::new(prefix, 0),
        }
    }
}

impl OperatorError {
    fn of_declare(link: &Link, error: DeclareError) -> Self {
        let target = Arc::clone(link.target());
        match error {
            DeclareError::Refused { detail, .. } if is_missing(&detail) => {
                Self::NoTopology { target, detail }
            }
            DeclareError::Forbidden { detail, .. } => Self::Forbidden { target, detail },
            error => Self::Declare(error),
        }
    }

    fn of_consume(link: &Link, error: ConsumeError) -> Self {
        let ConsumeError::Open { queue, source } = &error else {
            return Self::Consume(error);
        };
        let LinkError::Amqp { source, .. } = source else {
            return Self::Consume(error);
        };
        let lapin::ErrorKind::ProtocolError(refusal) = source.kind() else {
            return Self::Consume(error);
        };
        let (target, queue) = (Arc::clone(link.target()), queue.clone());
        let detail = refusal.get_message().to_string();
        match refusal.get_id() {
            404 => Self::NoTopology { target, detail },
            403 if detail.contains("exclusive") => Self::InUse { queue, target },
            403 => Self::Forbidden { target, detail },
            _ => Self::Consume(error),
        }
    }
}
