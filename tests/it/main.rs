//! The integration tests. They share one RabbitMQ node, a vhost each; those
//! that stop or kill their broker have one of their own.

#[path = "../support/mod.rs"]
mod support;

mod amqp;
mod bench;
mod cli;
mod clients;
mod deploy;
mod docs;
mod faults;
mod guard;
mod observe;
mod pool;
mod real_codex;
mod run;
mod security;
mod stand_in;
