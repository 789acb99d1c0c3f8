//! Why an offer goes to all processes.

/// Why an offer goes to the shared queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhyShared {
    /// No process is known to keep a server for the workspace.
    NoServer,
    /// The process has no free slot.
    Full,
    /// The process has not been heard lately, or takes no offers now.
    Stale,
    /// Other turns have waited for too long.
    Guard,
    /// The private offer got no answer.
    NoWord,
    /// It was offered before.
    Repeat,
}

impl WhyShared {
    pub const ALL: [Self; 6] = [
        Self::NoServer,
        Self::Full,
        Self::Stale,
        Self::Guard,
        Self::NoWord,
        Self::Repeat,
    ];

    /// As metrics name it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NoServer => "none",
            Self::Full => "full",
            Self::Stale => "stale",
            Self::Guard => "guard",
            Self::NoWord => "no_word",
            Self::Repeat => "repeat",
        }
    }
}
