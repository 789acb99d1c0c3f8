//! No user gets in, and no data gets out: what requests, agents and what they
//! leave behind can't do, and what the broker's users may not.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod broker_acts;
mod broker_rights;
mod broker_secrets;
mod broker_tls;
mod broker_users;
mod forgery;
mod isolation;
mod leftovers;
mod run_as;
mod secrets;
pub mod tls_node;
mod workspaces;
