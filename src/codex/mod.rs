//! What we assume of the CLI. Its words never leave this room: they come in
//! as lines and go out as [`crate::event::EventBody`]s.
//!
//! ```text
//! stdout line ─ protocol ────▶ CliEvent ─ translate ─▶ EventBody …, verdict
//!       (or) ── app_server ──▶
//! stderr ────── stderr ──────────────── failure ─▶ reason, retryable
//! CODEX_HOME ── rollout ─▶ tokens, where stdout doesn't report them
//! ```

pub mod app_server;
pub mod binary;
pub mod config_file;
pub mod default_model;
pub mod engine;
pub mod engines;
pub mod exec;
pub mod failure;
mod growth;
pub mod home;
pub mod identity;
pub mod lines;
pub mod obstacle;
pub mod process;
pub mod program;
pub mod protocol;
pub mod rate_limits;
pub mod recorded;
pub mod rollout;
pub mod seal;
pub mod stderr;
pub mod tool;
pub mod translate;
pub mod workspace_config;

#[cfg(test)]
mod transcripts;
