//! What the broker's user may not do, of what a process does besides declaring.
//!
//! Each right is tried by a request that can't be carried out: the broker looks
//! at the right first (403), and only then at what is wrong with it (406). So
//! they have no effect, regardless of the answer.

use std::fmt;

use lapin::options::{BasicConsumeOptions, BasicPublishOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, ErrorKind};

use super::link::{Link, LinkError};
use super::topology::Topology;

/// What is needed and missing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Right {
    Read { queue: String },
    Write { exchange: String },
}

impl fmt::Display for Right {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read { queue } => write!(f, "no read permission for queue {queue}"),
            Self::Write { exchange } if exchange.is_empty() => {
                write!(
                    f,
                    "no write permission for the default exchange, amq.default"
                )
            }
            Self::Write { exchange } => {
                write!(f, "no write permission for exchange {exchange}")
            }
        }
    }
}

impl Topology {
    /// Of what workers and sequencers need, with everything declared.
    pub async fn missing_rights(&self, link: &Link) -> Result<Vec<Right>, LinkError> {
        let read = |queue: &String| Right::Read {
            queue: queue.clone(),
        };
        let write = |exchange: &str| Right::Write {
            exchange: exchange.to_owned(),
        };
        let homes = self.is_local().then(|| read(&self.homes));
        let mut missing = Vec::new();
        let always = [
            read(&self.turns),
            read(&self.work),
            // Of offers and dead letters.
            write(""),
            write(&self.events),
            write(&self.status),
            write(&self.control),
        ];
        for right in always.into_iter().chain(homes) {
            if !right.is_given(link).await? {
                missing.push(right);
            }
        }
        Ok(missing)
    }
}

impl Right {
    async fn is_given(&self, link: &Link) -> Result<bool, LinkError> {
        // Either answer closes the channel.
        let channel = link.confirm_channel().await?;
        let tried = async {
            match self {
                Self::Read { queue } => {
                    let mut no_number = FieldTable::default();
                    no_number.insert("x-priority".into(), AMQPValue::LongString("none".into()));
                    let options = BasicConsumeOptions::default();
                    channel
                        .basic_consume(queue.as_str().into(), "".into(), options, no_number)
                        .await?;
                }
                Self::Write { exchange } => {
                    let no_number = BasicProperties::default().with_expiration("none".into());
                    let options = BasicPublishOptions::default();
                    channel
                        .basic_publish(exchange.as_str().into(), "".into(), options, b"", no_number)
                        .await?
                        .await?;
                }
            }
            Ok(true)
        };
        match link.bounded("trying a right", tried).await {
            Err(LinkError::Amqp { what, source }) => match source.kind() {
                ErrorKind::ProtocolError(refusal) if refusal.get_id() == 403 => Ok(false),
                ErrorKind::ProtocolError(refusal) if refusal.get_id() == 406 => Ok(true),
                _ => Err(LinkError::Amqp { what, source }),
            },
            other => other,
        }
    }
}
