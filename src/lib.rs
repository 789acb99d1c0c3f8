//! Turns from RabbitMQ, run by the `codex` CLI, published as canonical events.
//!
//! The modules stand in the order in which a turn flows through them:
//!
//! ```text
//! delivery → request → lock → journal → codex → translate → publish → settle
//! ```

pub mod config;
pub mod error;
pub mod fault;
pub mod heartbeat;
pub mod parts;
pub mod tested;
pub mod throttle;

/// Of this program, with the commit if it is a release build.
pub const VERSION: &str = env!("BUILD_VERSION");

#[warn(missing_docs)]
pub mod event;
#[warn(missing_docs)]
pub mod request;
#[warn(missing_docs)]
pub mod tenants;
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

pub mod settlement;
pub mod turn;
pub mod worker;

pub mod serve;

pub mod client;
#[warn(missing_docs)]
pub mod contract;
pub mod operator;

pub mod conditions;
pub mod http;
pub mod metrics;
pub mod pauses;
pub mod telemetry;
