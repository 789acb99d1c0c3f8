//! RabbitMQ: connections, what is declared on them, and what goes over them.
//!
//! ```text
//! connect → topology → consume → … → outbox → pool → broker
//! ```
//!
//! lapin's automatic recovery stays off: it was seen to deliver again what is
//! in flight without a word. Any of them that ends is closed and rebuilt, by
//! code that knows what it held.

mod alarm;
pub mod connect;
pub(crate) mod connections;
pub mod consume;
pub(crate) mod dead_letter;
pub mod declare_error;
pub mod event_log;
pub mod frames;
pub mod link;
pub mod messages;
pub mod outbox;
pub(crate) mod policy_probe;
pub mod pool;
pub mod publish;
mod redeclare;
pub(crate) mod reply;
pub(crate) mod rights;
pub mod server;
mod tls;
pub mod topology;
