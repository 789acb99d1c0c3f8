pub mod broker;
pub mod pool;
