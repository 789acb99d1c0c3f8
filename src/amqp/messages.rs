//! Messages between workers and sequencers, and what producers ask of them.
//!
//! Old and new workers run side by side: fields that are unknown are ignored,
//! a version or a type that is unknown is a value, to be counted and ignored.

use std::borrow::Cow;

mod agreement;
mod backlog;
mod claim;
mod control;
mod description;
mod homes;
mod records;

use jiff::Timestamp;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use serde_json::error::Category;
use serde_json::value::RawValue;

use uuid::Uuid;

use crate::event::Tokens;
use crate::labels::ConditionReport;
use crate::request::TurnId;
use crate::workspace::JournalEnd;

pub use agreement::Agreement;
pub use backlog::{
    BacklogReport, LineReport, MAX_LINES, MAX_NEXT, MAX_STUCK, StuckReport, WaitReport,
};
pub(crate) use claim::{ClaimAnswer, Verdict};
pub use control::{Cancel, ControlFault, ControlRequest, DescribeTurn, IgnoredControl};
pub use description::{Description, TurnPosition};
pub use homes::{HomesReport, HostReport, MAX_HOSTS, MAX_ORDERS, OrderProgress, OrderState};
pub use records::{RecordsAnswer, RecordsRequest, RecordsTask};

/// The version of the messages among workers.
pub const VERSION: u32 = 1;

/// The longest control message. A cancel has a few hundred bytes.
const MAX_CONTROL_BYTES: usize = 16 << 10;
/// The longest status message: a heartbeat of a thousand slots, each with the
/// longest names, has half of it.
const MAX_STATUS_BYTES: usize = 1 << 20;
/// What a long status message begins with.
const RECORDED_START: &[u8] = br#"{"v":1,"type":"recorded","#;
/// The longest offer: a prompt of as many characters as codex takes, each
/// escaped, and the rest of a request.
const MAX_OFFER_BYTES: usize = 16 << 20;

/// What a message is to this version.
#[derive(Debug, Clone, PartialEq)]
pub enum Decoded<T> {
    Known(T),
    /// Another version or type; what it says it is.
    Unknown(String),
}

/// Its text ends up in logs: of the message they contain only a name
/// or two, bounded and escaped.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    #[error("the {what} has {found} bytes; allowed are {allowed}")]
    TooLong {
        what: &'static str,
        found: usize,
        allowed: usize,
    },
    #[error("the {what} is not what it should be: {why}")]
    Json { what: &'static str, why: String },
    #[error("the {what} has the {field} {found:?}; allowed is {allowed}")]
    Field {
        what: &'static str,
        field: &'static str,
        found: String,
        allowed: &'static str,
    },
}

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
    /// The answer to a [`RecordsRequest`].
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

/// How many workspaces of waiting servers a heartbeat names.
pub const MAX_IDLE: usize = 256;

/// What a worker reports about itself. Older ones don't.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct About {
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub host: String,
    /// The version of codex, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub codex: Option<String>,
    /// It takes no more turns.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub draining: bool,
    /// What its host lacks for running turns.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lacks: Vec<String>,
    /// Workspaces that processes hold which can't be killed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub held: Vec<HeldReport>,
    /// Turns that were offered to it in the last minutes and did not start.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub blocked: Vec<BlockedReport>,
    /// What is wrong around it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<ConditionReport>,
    /// What must agree among the processes of a pool.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool: Option<Box<Agreement>>,
    /// Its private queue for offers; `None` while it takes no offers there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offers_to: Option<String>,
    /// It answers offers.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub answers_offers: bool,
    /// Workspaces in which a server waits for the next turn, the newest first, at most
    /// [`MAX_IDLE`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub idle: Vec<String>,
}

/// A workspace that stays locked after its turn's end, and one of the processes that hold it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HeldReport {
    pub workspace: String,
    pub host: String,
    pub pid: i32,
    pub user: String,
    pub command: String,
    pub since: Timestamp,
    /// Processes besides this one.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub more: u64,
}

/// Kept short, as heartbeats are many.
pub const MAX_HELD: usize = 16;
/// The same, of turns that did not start.
pub const MAX_BLOCKED: usize = 32;

/// A turn that was offered and did not start.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BlockedReport {
    pub workspace: String,
    pub turn_id: String,
    pub why: Hindrance,
    /// In words: the lock's holder, or the file.
    pub detail: String,
    /// Since when this worker has found it so.
    pub since: Timestamp,
}

/// What keeps a workspace's turn from starting.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Hindrance {
    /// Another process has the workspace's lock.
    Locked,
    /// The workspace's records can't be read or written.
    Records,
    /// Anything else, also what a newer version reports.
    #[serde(other)]
    Other,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// A turn that a worker is running.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Running {
    pub workspace: String,
    pub turn_id: String,
    pub attempt: u32,
    pub started_at: Timestamp,
    /// What this attempt has spent so far, if codex reports that while it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spent: Option<Tokens>,
}

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

/// The type of a message of this version, or its other version.
fn head(what: &'static str, body: &[u8]) -> Result<Result<String, u32>, DecodeError> {
    #[derive(Deserialize)]
    struct Version {
        v: u32,
    }
    #[derive(Deserialize)]
    struct Kind {
        #[serde(rename = "type")]
        kind: String,
    }
    // One by one: another version may not even have a type.
    let Version { v } = json(what, body)?;
    if v != VERSION {
        return Ok(Err(v));
    }
    Ok(Ok(json::<Kind>(what, body)?.kind))
}

/// Before anything is made of it.
fn bounded(what: &'static str, body: &[u8], allowed: usize) -> Result<(), DecodeError> {
    let found = body.len();
    if found <= allowed {
        return Ok(());
    }
    Err(DecodeError::TooLong {
        what,
        found,
        allowed,
    })
}

fn json<'a, T: Deserialize<'a>>(what: &'static str, body: &'a [u8]) -> Result<T, DecodeError> {
    serde_json::from_slice(body).map_err(|error| DecodeError::Json {
        what,
        why: why(&error),
    })
}

/// serde_json's own words may quote the whole message, but for those on a
/// field of ours that isn't there.
fn why(error: &serde_json::Error) -> String {
    let text = error.to_string();
    if text.starts_with("missing field") {
        return text;
    }
    let kind = match error.classify() {
        Category::Data => "a value of another type",
        Category::Io | Category::Syntax | Category::Eof => "no JSON",
    };
    format!("{kind} at line {} column {}", error.line(), error.column())
}

fn encode(message: &impl Serialize) -> Vec<u8> {
    #[expect(
        clippy::expect_used,
        reason = "structs of strings, numbers and times always encode"
    )]
    serde_json::to_vec(message).expect("an internal message encodes as JSON")
}

fn unknown_type<T>(kind: &str) -> Decoded<T> {
    Decoded::Unknown(format!("type {:?}", shown(kind)))
}

fn unknown_version<T>(version: u32) -> Decoded<T> {
    Decoded::Unknown(format!("version {version}"))
}

/// As much of a foreign string as belongs into a log line.
fn shown(text: &str) -> &str {
    let mut end = text.len().min(200);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

const TURN_ID_RULE: &str = "[A-Za-z0-9._-]{1,128}";

fn check_turn_id(what: &'static str, id: &str) -> Result<(), DecodeError> {
    check(what, "turn_id", id, TURN_ID_RULE, is_turn_id)
}

fn check_workspace(what: &'static str, id: &str) -> Result<(), DecodeError> {
    let allowed = "1 to 4 segments [A-Za-z0-9][A-Za-z0-9._-]{0,63} joined by /";
    check(what, "workspace", id, allowed, is_workspace)
}

fn check(
    what: &'static str,
    field: &'static str,
    found: &str,
    allowed: &'static str,
    is_allowed: fn(&str) -> bool,
) -> Result<(), DecodeError> {
    if is_allowed(found) {
        return Ok(());
    }
    Err(DecodeError::Field {
        what,
        field,
        found: shown(found).to_owned(),
        allowed,
    })
}

fn is_turn_id(id: &str) -> bool {
    (1..=128).contains(&id.len()) && id.bytes().all(is_name_byte)
}

fn is_workspace(id: &str) -> bool {
    id.split('/').count() <= 4
        && id.split('/').all(|segment| {
            segment.len() <= 64
                && segment.bytes().all(is_name_byte)
                && segment.starts_with(|c: char| c.is_ascii_alphanumeric())
        })
}

fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-')
}

#[cfg(test)]
mod tests;
