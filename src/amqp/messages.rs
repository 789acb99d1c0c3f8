//! Messages between workers and sequencers, and what producers ask of them.
//!
//! Old and new workers run side by side: fields that are unknown are ignored,
//! a version or a type that is unknown is a value, to be counted and ignored.

mod agreement;
mod backlog;
mod claim;
mod codec;
mod control;
mod control_request;
mod description;
mod heartbeat;
mod homes;
mod id_rules;
mod offer;
mod records;
mod status;
#[cfg(test)]
mod tests;

pub use agreement::Agreement;
pub use backlog::{
    BacklogReport, LineReport, MAX_LINES, MAX_NEXT, MAX_STUCK, StuckReport, WaitReport,
};
pub(crate) use claim::{ClaimAnswer, Verdict};
pub use codec::{DecodeError, Decoded, VERSION};
pub use control::Control;
pub use control_request::{Cancel, ControlFault, ControlRequest, DescribeTurn, IgnoredControl};
pub use description::{Description, TurnPosition};
pub use heartbeat::{
    About, BlockedReport, HeldReport, Hindrance, MAX_BLOCKED, MAX_HELD, MAX_IDLE, Running,
};
pub use homes::{HomesReport, HostReport, MAX_HOSTS, MAX_ORDERS, OrderProgress, OrderState};
pub use offer::Offer;
pub use records::{RecordsAnswer, RecordsRequest, RecordsTask};
pub use status::{DeclineReason, Status};
