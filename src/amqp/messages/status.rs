//! What workers and sequencers report.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::codec::{
    DecodeError, Decoded, VERSION, bounded, encode, head, json, unknown_type, unknown_version,
};
use super::id_rules::{check_turn_id, check_workspace};
use super::offer::MAX_OFFER_BYTES;
use super::{About, Agreement, BacklogReport, HomesReport, RecordsAnswer, Running};
use crate::labels::ConditionReport;
use crate::workspace::JournalEnd;

/// The longest status message: a heartbeat of a thousand slots, each with the
/// longest names, has half of it.
pub(super) const MAX_STATUS_BYTES: usize = 1 << 20;
/// What a long status message begins with.
const RECORDED_START: &[u8] = br#"{"v":1,"type":"recorded","#;
/// What a worker reports to the sequencers.
#[derive(Debug, Clone, PartialEq)]
pub enum Status {
    /// The turn's end is recorded and published.
    Done {
        workspace: String,
        turn_id: String,
        worker: String,
        /// The worker keeps a server for the workspace's next turn.
        warm: bool,
        /// How far the workspace's journal reaches; `None` from older versions.
        journal: Option<JournalEnd>,
    },
    /// The answer to an offer, to its sequencer alone: the worker has it.
    Taken {
        workspace: String,
        turn_id: String,
        worker: String,
    },
    /// The answer to a private offer that the worker does not take: the broker
    /// moves it to the shared queue.
    Declined {
        workspace: String,
        turn_id: String,
        worker: String,
        /// One of [`DeclineReason`], or of a newer worker.
        why: String,
    },
    Heartbeat {
        worker: String,
        /// Of the program, for the operator.
        version: String,
        slots: u32,
        running: Vec<Running>,
        /// For the operator, too.
        about: About,
    },
    /// For the operator alone: sequencers don't listen to each other.
    Sequencer {
        process: String,
        version: String,
        /// It has been given turns; else it stands by.
        active: bool,
        /// Of the active one.
        backlog: Option<BacklogReport>,
        conditions: Vec<ConditionReport>,
        /// `None` from older versions.
        pool: Option<Box<Agreement>>,
        /// It answers producers that ask where a turn is.
        describes: bool,
        /// Of the active one, in a pool without shared storage.
        homes: Option<HomesReport>,
    },
    /// The answer to a [`super::RecordsRequest`].
    Recorded { nonce: Uuid, answer: RecordsAnswer },
    /// Of a process that has just started and does no work yet: for the other
    /// processes, so that two that start at once hear of each other.
    Pool { process: String, pool: Agreement },
}

/// Why a worker does not take a private offer, or requeues one that it has taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeclineReason {
    /// It has no free slot.
    Full,
    /// Its host can't run turns.
    NotServing,
    /// It was taken, and is another slot's now.
    Requeued,
}

impl DeclineReason {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::NotServing => "not_serving",
            Self::Requeued => "requeued",
        }
    }
}

impl Status {
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Done {
                workspace,
                turn_id,
                worker,
                warm,
                journal,
            } => encode(&DoneWire {
                v: VERSION,
                kind: "done".into(),
                workspace: workspace.into(),
                turn_id: turn_id.into(),
                worker: worker.into(),
                warm: *warm,
                journal: *journal,
            }),
            Self::Taken {
                workspace,
                turn_id,
                worker,
            } => encode(&AnswerWire {
                v: VERSION,
                kind: "taken".into(),
                workspace: workspace.into(),
                turn_id: turn_id.into(),
                worker: worker.into(),
                why: None,
            }),
            Self::Declined {
                workspace,
                turn_id,
                worker,
                why,
            } => encode(&AnswerWire {
                v: VERSION,
                kind: "declined".into(),
                workspace: workspace.into(),
                turn_id: turn_id.into(),
                worker: worker.into(),
                why: Some(why.into()),
            }),
            Self::Heartbeat {
                worker,
                version,
                slots,
                running,
                about,
            } => encode(&HeartbeatWire {
                v: VERSION,
                kind: "heartbeat".into(),
                worker: worker.into(),
                version: version.into(),
                slots: *slots,
                running: running.into(),
                about: Cow::Borrowed(about),
            }),
            Self::Sequencer {
                process,
                version,
                active,
                backlog,
                conditions,
                pool,
                describes,
                homes,
            } => encode(&SequencerWire {
                v: VERSION,
                kind: "sequencer".into(),
                process: process.into(),
                version: version.into(),
                active: *active,
                backlog: backlog.as_ref().map(Cow::Borrowed),
                conditions: conditions.into(),
                pool: pool.as_deref().map(Cow::Borrowed),
                describes: *describes,
                homes: homes.as_ref().map(Cow::Borrowed),
            }),
            Self::Recorded { nonce, answer } => encode(&RecordedWire {
                v: VERSION,
                kind: "recorded".into(),
                nonce: *nonce,
                answer: Cow::Borrowed(answer),
            }),
            Self::Pool { process, pool } => encode(&PoolWire {
                v: VERSION,
                kind: "pool".into(),
                process: process.into(),
                pool: Cow::Borrowed(pool),
            }),
        }
    }

    pub fn decode(body: &[u8]) -> Result<Decoded<Self>, DecodeError> {
        let what = "status";
        // An answer about records may hold a turn's end. It is only read if it begins as ours do.
        let most = match body.starts_with(RECORDED_START) {
            true => MAX_OFFER_BYTES,
            false => MAX_STATUS_BYTES,
        };
        bounded(what, body, most)?;
        match head(what, body)?.as_deref() {
            Ok("recorded") => {
                let wire: RecordedWire<'_> = json(what, body)?;
                Ok(Decoded::Known(Self::Recorded {
                    nonce: wire.nonce,
                    answer: wire.answer.into_owned(),
                }))
            }
            Ok("done") => {
                let wire: DoneWire<'_> = json(what, body)?;
                check_turn_id(what, &wire.turn_id)?;
                check_workspace(what, &wire.workspace)?;
                Ok(Decoded::Known(Self::Done {
                    workspace: wire.workspace.into_owned(),
                    turn_id: wire.turn_id.into_owned(),
                    worker: wire.worker.into_owned(),
                    warm: wire.warm,
                    journal: wire.journal,
                }))
            }
            Ok(kind @ ("taken" | "declined")) => {
                let wire: AnswerWire<'_> = json(what, body)?;
                check_turn_id(what, &wire.turn_id)?;
                check_workspace(what, &wire.workspace)?;
                let (workspace, turn_id) = (wire.workspace.into(), wire.turn_id.into());
                let worker = wire.worker.into();
                Ok(Decoded::Known(match kind {
                    "taken" => Self::Taken {
                        workspace,
                        turn_id,
                        worker,
                    },
                    _ => Self::Declined {
                        workspace,
                        turn_id,
                        worker,
                        why: wire.why.unwrap_or_default().into(),
                    },
                }))
            }
            Ok("heartbeat") => {
                let wire: HeartbeatWire<'_> = json(what, body)?;
                for workspace in &wire.about.idle {
                    check_workspace(what, workspace)?;
                }
                for running in wire.running.iter() {
                    check_turn_id(what, &running.turn_id)?;
                    check_workspace(what, &running.workspace)?;
                }
                Ok(Decoded::Known(Self::Heartbeat {
                    worker: wire.worker.into_owned(),
                    version: wire.version.into_owned(),
                    slots: wire.slots,
                    running: wire.running.into_owned(),
                    about: wire.about.into_owned(),
                }))
            }
            Ok("sequencer") => {
                let wire: SequencerWire<'_> = json(what, body)?;
                let lines = wire.backlog.iter().flat_map(|backlog| &backlog.top);
                let stuck = wire.backlog.iter().flat_map(|backlog| &backlog.stuck);
                for stuck in stuck {
                    check_workspace(what, &stuck.workspace)?;
                    check_turn_id(what, &stuck.turn_id)?;
                }
                for line in lines {
                    check_workspace(what, &line.workspace)?;
                    for turn_id in &line.next {
                        check_turn_id(what, turn_id)?;
                    }
                }
                Ok(Decoded::Known(Self::Sequencer {
                    process: wire.process.into_owned(),
                    version: wire.version.into_owned(),
                    active: wire.active,
                    backlog: wire.backlog.map(Cow::into_owned),
                    conditions: wire.conditions.into_owned(),
                    pool: wire.pool.map(|pool| Box::new(pool.into_owned())),
                    describes: wire.describes,
                    homes: wire.homes.map(Cow::into_owned),
                }))
            }
            Ok("pool") => {
                let wire: PoolWire<'_> = json(what, body)?;
                Ok(Decoded::Known(Self::Pool {
                    process: wire.process.into_owned(),
                    pool: wire.pool.into_owned(),
                }))
            }
            Ok(kind) => Ok(unknown_type(kind)),
            Err(version) => Ok(unknown_version(*version)),
        }
    }
}

#[derive(Serialize, Deserialize)]
struct DoneWire<'a> {
    v: u32,
    #[serde(rename = "type")]
    kind: Cow<'a, str>,
    workspace: Cow<'a, str>,
    turn_id: Cow<'a, str>,
    worker: Cow<'a, str>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    warm: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    journal: Option<JournalEnd>,
}

#[derive(Serialize, Deserialize)]
struct AnswerWire<'a> {
    v: u32,
    #[serde(rename = "type")]
    kind: Cow<'a, str>,
    workspace: Cow<'a, str>,
    turn_id: Cow<'a, str>,
    worker: Cow<'a, str>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    why: Option<Cow<'a, str>>,
}

#[derive(Serialize, Deserialize)]
struct HeartbeatWire<'a> {
    v: u32,
    #[serde(rename = "type")]
    kind: Cow<'a, str>,
    worker: Cow<'a, str>,
    #[serde(default)]
    version: Cow<'a, str>,
    #[serde(default)]
    slots: u32,
    running: Cow<'a, [Running]>,
    #[serde(default)]
    about: Cow<'a, About>,
}

#[derive(Serialize, Deserialize)]
struct SequencerWire<'a> {
    v: u32,
    #[serde(rename = "type")]
    kind: Cow<'a, str>,
    process: Cow<'a, str>,
    #[serde(default)]
    version: Cow<'a, str>,
    active: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    backlog: Option<Cow<'a, BacklogReport>>,
    #[serde(default, skip_serializing_if = "<[_]>::is_empty")]
    conditions: Cow<'a, [ConditionReport]>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pool: Option<Cow<'a, Agreement>>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    describes: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    homes: Option<Cow<'a, HomesReport>>,
}

#[derive(Serialize, Deserialize)]
struct RecordedWire<'a> {
    v: u32,
    #[serde(rename = "type")]
    kind: Cow<'a, str>,
    nonce: Uuid,
    answer: Cow<'a, RecordsAnswer>,
}

#[derive(Serialize, Deserialize)]
struct PoolWire<'a> {
    v: u32,
    #[serde(rename = "type")]
    kind: Cow<'a, str>,
    process: Cow<'a, str>,
    pool: Cow<'a, Agreement>,
}
