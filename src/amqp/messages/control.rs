//! A control message, as it is sent.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use super::codec::{DecodeError, Decoded, bounded, encode, json, shown};
use super::id_rules::{TURN_ID_RULE, check, check_turn_id, is_turn_id};
use crate::request::TurnId;

/// The longest control message. A cancel has a few hundred bytes.
pub(super) const MAX_CONTROL_BYTES: usize = 16 << 10;

/// A question to all processes, from any client.
#[derive(Debug, Clone, PartialEq)]
pub enum Control {
    /// `workspace` is as the sender spelt it: not checked here.
    Cancel {
        turn_id: String,
        workspace: Option<String>,
        /// For which turn, where a sequencer asks the workers; who is older
        /// than this field takes it for a plain cancel.
        superseded_by: Option<String>,
    },
    /// Where is the turn? `workspace` is as the sender spelt it.
    Describe { turn_id: String, workspace: String },
}

impl Control {
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Cancel {
                turn_id,
                workspace,
                superseded_by,
            } => encode(&CancelWire {
                action: "cancel".into(),
                turn_id: turn_id.into(),
                workspace: workspace.as_deref().map(Cow::Borrowed),
                superseded_by: superseded_by.as_deref().map(Cow::Borrowed),
            }),
            Self::Describe { turn_id, workspace } => encode(&DescribeWire {
                action: "describe".into(),
                turn_id: turn_id.into(),
                workspace: workspace.into(),
            }),
        }
    }

    /// Part of the contract with the outside, which has no version field.
    pub fn decode(body: &[u8]) -> Result<Decoded<Self>, DecodeError> {
        #[derive(Deserialize)]
        struct Head {
            action: String,
        }
        let what = "control message";
        bounded(what, body, MAX_CONTROL_BYTES)?;
        let Head { action } = json(what, body)?;
        match &*action {
            "cancel" => Self::cancel(what, body),
            "describe" => {
                let wire: DescribeWire<'_> = json(what, body)?;
                check_turn_id(what, &wire.turn_id)?;
                Ok(Decoded::Known(Self::Describe {
                    turn_id: wire.turn_id.into_owned(),
                    workspace: wire.workspace.into_owned(),
                }))
            }
            other => Ok(Decoded::Unknown(format!("action {:?}", shown(other)))),
        }
    }

    fn cancel(what: &'static str, body: &[u8]) -> Result<Decoded<Self>, DecodeError> {
        let wire: CancelWire<'_> = json(what, body)?;
        check_turn_id(what, &wire.turn_id)?;
        if let Some(id) = &wire.superseded_by {
            check(what, "superseded_by", id, TURN_ID_RULE, is_turn_id)?;
        }
        Ok(Decoded::Known(Self::Cancel {
            turn_id: wire.turn_id.into_owned(),
            workspace: wire.workspace.map(Cow::into_owned),
            superseded_by: wire.superseded_by.map(Cow::into_owned),
        }))
    }
}

/// Ends a turn, waiting or running, as cancelled. One that has ended is left
/// as it is.
#[derive(Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Cancel")]
struct CancelWire<'a> {
    #[schemars(extend("const" = "cancel"))]
    action: Cow<'a, str>,
    #[schemars(with = "TurnId")]
    turn_id: Cow<'a, str>,
    /// In any workspace, if no workspace is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    workspace: Option<Cow<'a, str>>,
    /// Among workers only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(skip)]
    superseded_by: Option<Cow<'a, str>>,
}

/// Asks where a turn is. The answer goes to the queue that the message's property `reply_to` names.
#[derive(Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Describe")]
struct DescribeWire<'a> {
    #[schemars(extend("const" = "describe"))]
    action: Cow<'a, str>,
    #[schemars(with = "TurnId")]
    turn_id: Cow<'a, str>,
    workspace: Cow<'a, str>,
}

impl JsonSchema for Control {
    fn schema_name() -> Cow<'static, str> {
        "Control".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let choices = [
            generator.subschema_for::<CancelWire<'_>>(),
            generator.subschema_for::<DescribeWire<'_>>(),
        ];
        json_schema!({
            "description": "What a producer may ask of the workers about a turn that it knows.",
            "oneOf": choices,
        })
    }
}
