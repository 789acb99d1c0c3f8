//! The documents say what the code does, and what was promised stays true.

mod agreement;
mod examples;
mod files;
mod promises;
mod tables;

use serde_json::json;

use super::*;
