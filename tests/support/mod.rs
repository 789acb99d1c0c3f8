pub mod broker;
pub mod conversation;
pub mod engine;
pub mod faults;
pub mod host;
pub mod hung;
pub mod limit;
#[allow(
    unused_imports,
    reason = "the example needs more of it than the tests do"
)]
#[path = "../stand_in/model_server.rs"]
pub mod model_server;
pub mod not_tested;
pub mod operator;
pub mod poison;
pub mod pool;
pub mod ports;
pub mod processes;
pub mod proxy;
pub mod raw_amqp;
pub mod reachable;
pub mod shared;
pub mod undeliverable_proxy;
