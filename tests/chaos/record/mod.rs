//! What three sources report of a run: the events that a reader saw, the
//! journals on disk, and what the stand-in for codex wrote down itself.

pub mod events;
pub mod journals;
pub mod runs;
