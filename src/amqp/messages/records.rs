//! What a sequencer asks of a disk's records where each host has a disk of its
//! own, and what a process there answers.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::codec::{DecodeError, VERSION, bounded, encode, json};
use super::offer::MAX_OFFER_BYTES;
use super::{ClaimAnswer, Verdict};
use crate::event::SealedEvent;
use crate::workspace::TurnStage;

/// To be answered to the message's `reply_to`.
#[derive(Debug, Serialize, Deserialize)]
pub struct RecordsRequest {
    pub v: u32,
    /// Returned with the answer.
    pub nonce: Uuid,
    /// Whose records.
    pub disk: Uuid,
    pub task: RecordsTask,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RecordsTask {
    /// Ends the turn by that verdict, if it has not been started, and publishes its end.
    Decide {
        /// In its canonical form.
        request: String,
        verdict: Verdict,
        /// Whether the turn that the verdict names has ended, if it is of another disk.
        other_ended: Option<bool>,
    },
    /// Keeps when the turn was first received.
    Receive {
        request: String,
    },
    HasEnded {
        workspace: String,
        turn_id: String,
    },
    /// How far the turn has got.
    Stage {
        workspace: String,
        turn_id: String,
    },
    /// The events that end the turn.
    End {
        workspace: String,
        turn_id: String,
    },
    /// The workspace is to live on another disk: no turn of it starts here any more.
    Release {
        workspace: String,
        to: Uuid,
    },
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RecordsAnswer {
    Decided(ClaimAnswer),
    /// How long ago, in milliseconds.
    Received(u64),
    HasEnded(bool),
    Stage(Option<TurnStage>),
    End(Vec<SealedEvent>),
    /// False while a turn of the workspace is under way.
    Released(bool),
    Failed(String),
}

impl RecordsRequest {
    pub fn new(disk: Uuid, task: RecordsTask) -> Self {
        Self {
            v: VERSION,
            nonce: Uuid::new_v4(),
            disk,
            task,
        }
    }

    pub fn encode(&self) -> Vec<u8> {
        encode(self)
    }

    /// # Errors
    ///
    /// Also of another version: it is not answered, and asked again elsewhere or later.
    pub fn decode(body: &[u8]) -> Result<Self, DecodeError> {
        let what = "question about records";
        bounded(what, body, MAX_OFFER_BYTES)?;
        json(what, body)
    }
}
