#[path = "it/amqp/mod.rs"]
mod amqp;
