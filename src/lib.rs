//! Turns from RabbitMQ, run by the `codex` CLI, published as canonical events.
//!
//! The modules stand in the order in which a turn flows through them:
//!
//! ```text
//! delivery → request → lock → journal → codex → translate → publish → settle
//! ```

#![warn(unreachable_pub)]

pub mod config;
pub mod error;
pub mod fault;
pub(crate) mod heartbeat;
pub mod labels;
pub mod supervisor;
pub(crate) mod throttle;
pub mod versions;

/// Of this program, with the commit if it is a release build.
pub const VERSION: &str = env!("BUILD_VERSION");

#[warn(missing_docs)]
pub mod codes;
#[warn(missing_docs)]
pub mod event;
#[warn(missing_docs)]
pub mod request;
#[warn(missing_docs)]
pub(crate) mod tenants;
#[warn(missing_docs)]
pub mod trace;

pub mod amqp;
pub mod homes;
pub mod pool;
pub mod sequencer;

pub mod workspace;

pub mod capacity;
pub mod codex;
pub mod guard;
pub mod host;
pub mod isolation;

pub(crate) mod settlement;
pub mod turn;
pub(crate) mod worker;

pub mod serve;

pub mod client;
#[warn(missing_docs)]
pub mod contract;
pub mod operator;

pub mod conditions;
pub mod http;
pub mod metrics;
pub(crate) mod pauses;
pub(crate) mod telemetry;
