//! What is pure of the bench, as its own build runs no tests.

#![allow(dead_code, reason = "only their tests are wanted here")]

#[path = "../bench/stats.rs"]
mod stats;
#[path = "../bench/table.rs"]
mod table;
