//! What three sources report of a run: the events that a reader saw, the
//! journals on disk, and what the stand-in for codex wrote down itself. The
//! workers' own logs only explain, they decide nothing.

pub mod events;
pub mod journals;
pub mod logs;
pub mod runs;
