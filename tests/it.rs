mod support;

#[path = "it/amqp/mod.rs"]
mod amqp;
#[path = "it/docs.rs"]
mod docs;
#[path = "it/pool/mod.rs"]
mod pool;
