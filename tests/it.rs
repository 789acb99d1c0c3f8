#[path = "support/broker.rs"]
mod broker;

#[path = "it/amqp/mod.rs"]
mod amqp;
#[path = "it/docs.rs"]
mod docs;
