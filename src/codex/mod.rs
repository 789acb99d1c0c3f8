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
pub(crate) mod binary;
pub mod config_file;
pub(crate) mod default_model;
pub(crate) mod engine;
pub(crate) mod engines;
pub(crate) mod exec;
pub(crate) mod failure;
mod growth;
pub mod home;
pub(crate) mod identity;
pub mod lines;
pub(crate) mod obstacle;
pub mod process;
pub mod program;
pub mod protocol;
pub(crate) mod recorded_cause;
pub(crate) mod rollout;
pub(crate) mod seal;
pub mod skill_folders;
pub(crate) mod stderr;
pub mod tool;
pub mod translate;
pub(crate) mod workspace_config;

#[cfg(test)]
mod transcripts;
