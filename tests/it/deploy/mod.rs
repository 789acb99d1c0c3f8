//! What a pool is deployed with fits the worker and each other. Much of it can't be started here, so it is read as those
//! would read it, and what can be started is.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod rabbitmq;

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn read(name: &str) -> String {
    fs::read_to_string(path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn json(name: &str) -> Value {
    serde_json::from_str(&read(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}
