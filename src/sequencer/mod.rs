//! The sequencer: one process at a time holds the waiting turns and offers
//! each workspace's first one to the pool.

pub mod queue;
