//! Nobody gets in, and nothing gets out: what requests, agents and what they
//! leave behind can't do.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod forgery;
mod leftovers;
mod workspaces;
