//! Orders to a pool without shared storage: the one thing that an operator sends.
//! They are kept in the log of homes until the active sequencer has carried them out.

use std::sync::Arc;

use super::{Operator, OperatorError};
use crate::amqp::publish::{PublishError, json_properties, publish_on};
use crate::client::is_missing;
use crate::error::with_sources;
use crate::homes::{HomeEntry, Order};

impl Operator {
    /// Durable when this returns. It takes a worker's rights at the broker.
    pub async fn order(&self, order: Order) -> Result<(), OperatorError> {
        let link = self.connector.connect().await?;
        let queue = &self.topology.homes;
        let published = async {
            let channel = link
                .confirm_channel()
                .await
                .map_err(|error| PublishError::Lost(with_sources(&error)))?;
            let body = HomeEntry::Order(order).encode();
            publish_on(&channel, "", queue, json_properties(), &body, true).await
        };
        let published = published.await;
        let target = Arc::clone(link.target());
        link.close().await;
        published.map_err(|error| match error {
            PublishError::Returned { .. } => OperatorError::NoHomes {
                queue: queue.clone(),
                target,
            },
            PublishError::Refused { detail, .. } if is_missing(&detail) => {
                OperatorError::NoTopology { target, detail }
            }
            PublishError::Refused { detail, .. } => OperatorError::Forbidden { target, detail },
            error => OperatorError::Order(error),
        })
    }
}
