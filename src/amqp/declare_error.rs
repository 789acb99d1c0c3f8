//! Why a declaration was refused, from the broker's words, and what to do.

use std::fmt;
use std::sync::Arc;

use lapin::ErrorKind;
use lapin::types::ShortString;

use super::link::LinkError;
use crate::config::target::Target;

/// What was being declared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operation {
    Exchange { name: String },
    Queue { name: String },
    Binding { queue: String, exchange: String },
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exchange { name } => write!(f, "exchange {name:?}"),
            Self::Queue { name } => write!(f, "queue {name:?}"),
            Self::Binding { queue, exchange } => {
                write!(f, "binding of queue {queue:?} to exchange {exchange:?}")
            }
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum DeclareError {
    #[error("{operation} on {target} exists with another {}: it has {}, wanted is {}; {}", .mismatch.argument, .mismatch.found, .mismatch.wanted, remedy(.operation))]
    Mismatch {
        operation: Operation,
        target: Arc<Target>,
        mismatch: Box<Mismatch>,
    },
    #[error("{operation} on {target} can't be declared: user {:?} has no {permission} permission for {object:?} (rabbitmqctl set_permissions): {detail}", .target.user)]
    Forbidden {
        operation: Operation,
        target: Arc<Target>,
        permission: &'static str,
        object: String,
        detail: String,
    },
    #[error("{operation} on {target} was refused: {detail}")]
    Refused {
        operation: Operation,
        target: Arc<Target>,
        detail: String,
    },
    #[error("the name of {operation} has {length} bytes; expected at most 255")]
    NameTooLong { operation: Operation, length: usize },
    #[error(transparent)]
    Link(#[from] LinkError),
}

fn remedy(operation: &Operation) -> &'static str {
    match operation {
        Operation::Exchange { .. } => {
            "delete the exchange, so that it is declared again (bindings of others to it must be made again), or use another prefix"
        }
        _ => {
            "change the setting back if one was changed, or delete the queue once it is empty, so that it is declared again, or use another prefix"
        }
    }
}

impl Operation {
    /// A name as it goes over the wire; lapin panics on one that is too long.
    pub(super) fn short(&self, name: &str) -> Result<ShortString, DeclareError> {
        ShortString::try_new(name).map_err(|_| DeclareError::NameTooLong {
            operation: self.clone(),
            length: name.len(),
        })
    }

    /// The permission and the object that this needs, in case the broker's
    /// text does not show: RabbitMQ before 3.11 names only the object.
    fn needs(&self, detail: &str) -> (&'static str, String) {
        let object = |name: &str| match self {
            Self::Exchange { .. } => format!("exchange {name}"),
            _ => format!("queue {name}"),
        };
        match self {
            Self::Exchange { name } | Self::Queue { name } => ("configure", object(name)),
            Self::Binding { exchange, .. }
                if detail.contains(&format!("exchange '{exchange}'")) =>
            {
                ("read", format!("exchange {exchange}"))
            }
            Self::Binding { queue, .. } => ("write", object(queue)),
        }
    }
}

impl DeclareError {
    /// The queue is another connection's own.
    pub(super) fn is_locked(&self) -> bool {
        matches!(self, Self::Refused { detail, .. } if detail.contains("RESOURCE_LOCKED"))
    }

    pub(super) fn of(operation: Operation, target: &Arc<Target>, error: LinkError) -> Self {
        let LinkError::Amqp { source, .. } = &error else {
            return Self::Link(error);
        };
        let ErrorKind::ProtocolError(refusal) = source.kind() else {
            return Self::Link(error);
        };
        let target = Arc::clone(target);
        let detail = refusal.get_message().to_string();
        match (refusal.get_id(), Mismatch::parse(&detail)) {
            (406, Some(mismatch)) => Self::Mismatch {
                operation,
                target,
                mismatch: Box::new(mismatch),
            },
            (403, _) => {
                let (permission, object) = operation.needs(&detail);
                Self::Forbidden {
                    operation,
                    target,
                    permission,
                    object,
                    detail,
                }
            }
            _ => Self::Refused {
                operation,
                target,
                detail,
            },
        }
    }
}

/// What the broker has and what was declared; an argument not given is `none`.
#[derive(Debug, PartialEq, Eq)]
pub struct Mismatch {
    pub argument: String,
    pub found: String,
    pub wanted: String,
}

impl Mismatch {
    /// Reads the broker's `inequivalent arg` text.
    fn parse(detail: &str) -> Option<Self> {
        let (_, rest) = detail.split_once("inequivalent arg '")?;
        let (argument, rest) = rest.split_once('\'')?;
        let (_, rest) = rest.split_once(": received ")?;
        let (wanted, found) = rest.split_once(" but current is ")?;
        Some(Self {
            argument: argument.to_owned(),
            found: value(found).to_owned(),
            wanted: value(wanted).to_owned(),
        })
    }
}

/// `the value '5' of type 'signedint'` → `5`; `none` is an argument not given.
fn value(text: &str) -> &str {
    let text = text.trim();
    if text == "none" {
        return "none";
    }
    let Some((_, quoted)) = text.split_once('\'') else {
        return text;
    };
    quoted.split_once('\'').map_or(quoted, |(value, _)| value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_brokers_words_about_a_mismatch_are_taken_apart() {
        for (detail, argument, found, wanted) in [
            (
                "PRECONDITION_FAILED - inequivalent arg 'x-max-length' for queue 'codex.turns.dead' in vhost '/': received the value '7' of type 'long' but current is the value '5' of type 'signedint'",
                "x-max-length",
                "5",
                "7",
            ),
            (
                "PRECONDITION_FAILED - inequivalent arg 'x-single-active-consumer' for queue 'codex.turns' in vhost '/': received the value 'true' of type 'bool' but current is none",
                "x-single-active-consumer",
                "none",
                "true",
            ),
            (
                "PRECONDITION_FAILED - inequivalent arg 'x-overflow' for queue 'q' in vhost 'it''s': received none but current is the value 'drop-head' of type 'longstr'",
                "x-overflow",
                "drop-head",
                "none",
            ),
            (
                "PRECONDITION_FAILED - inequivalent arg 'type' for exchange 'codex.events' in vhost '/': received 'topic' but current is 'fanout'",
                "type",
                "fanout",
                "topic",
            ),
            (
                "PRECONDITION_FAILED - inequivalent arg 'durable' for queue 'q' in vhost '/': received 'true' but current is 'false'",
                "durable",
                "false",
                "true",
            ),
        ] {
            assert_eq!(
                Mismatch::parse(detail),
                Some(Mismatch {
                    argument: argument.to_owned(),
                    found: found.to_owned(),
                    wanted: wanted.to_owned()
                }),
                "{detail}"
            );
        }
        assert_eq!(Mismatch::parse("PRECONDITION_FAILED - something new"), None);
    }
}
