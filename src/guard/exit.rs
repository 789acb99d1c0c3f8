//! How what a guard was to run has ended.

/// How the program, or the attempt to start it, ended. An exit is data: nothing
/// here is an error of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Exit {
    /// It ended by itself with this code.
    Code(i32),
    /// A signal ended it.
    Signal(i32),
    /// It could not be started.
    NotStarted {
        message: String,
        /// The system's number for what was wrong.
        errno: Option<i32>,
    },
    /// Its guard died before it could report how it ended.
    GuardLost,
}
