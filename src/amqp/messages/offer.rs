//! A turn, offered by the sequencer.

use std::borrow::Cow;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use uuid::Uuid;

use super::codec::{
    DecodeError, Decoded, VERSION, bounded, encode, head, json, unknown_type, unknown_version,
};
use crate::workspace::JournalEnd;

/// The longest offer: a prompt of as many characters as codex takes, each
/// escaped, and the rest of a request.
pub(super) const MAX_OFFER_BYTES: usize = 16 << 20;

/// A turn that the sequencer offers to the workers.
#[derive(Debug, Clone)]
pub struct Offer {
    /// Offered before: a worker doesn't wait for a lock that is not free.
    pub repeat: bool,
    /// When the turn was enqueued, if that is known.
    pub enqueued_at: Option<Timestamp>,
    /// The random id of the sequencer's workspace root; absent for older ones.
    pub root: Option<Uuid>,
    /// Another turn of the workspace stands behind it.
    pub next_waits: bool,
    /// How far the workspace's journal is known to reach.
    pub journal: Option<JournalEnd>,
    /// The request in its canonical form.
    pub request: Box<RawValue>,
}

impl Offer {
    pub fn encode(&self) -> Vec<u8> {
        encode(&OfferWire {
            v: VERSION,
            kind: "offer".into(),
            repeat: self.repeat,
            enqueued_at: self.enqueued_at,
            root: self.root,
            next_waits: self.next_waits,
            journal: self.journal,
            request: Cow::Borrowed(&self.request),
        })
    }

    pub fn decode(body: &[u8]) -> Result<Decoded<Self>, DecodeError> {
        let what = "offer";
        bounded(what, body, MAX_OFFER_BYTES)?;
        match head(what, body)?.as_deref() {
            Ok("offer") => {
                let wire: OfferWire<'_> = json(what, body)?;
                Ok(Decoded::Known(Self {
                    repeat: wire.repeat,
                    enqueued_at: wire.enqueued_at,
                    root: wire.root,
                    next_waits: wire.next_waits,
                    journal: wire.journal,
                    request: wire.request.into_owned(),
                }))
            }
            Ok(kind) => Ok(unknown_type(kind)),
            Err(version) => Ok(unknown_version(*version)),
        }
    }
}

#[derive(Serialize, Deserialize)]
struct OfferWire<'a> {
    v: u32,
    #[serde(rename = "type")]
    kind: Cow<'a, str>,
    #[serde(default)]
    repeat: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    enqueued_at: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    root: Option<Uuid>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    next_waits: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    journal: Option<JournalEnd>,
    request: Cow<'a, RawValue>,
}
