mod support;

#[path = "it/amqp/mod.rs"]
mod amqp;
#[path = "it/cli.rs"]
mod cli;
#[path = "it/docs.rs"]
mod docs;
#[path = "it/guard.rs"]
mod guard;
#[path = "it/pool/mod.rs"]
mod pool;
#[path = "it/real_codex.rs"]
mod real_codex;
#[path = "it/run.rs"]
mod run;
