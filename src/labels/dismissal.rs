//! Why a server of codex is not kept for the next turn of its workspace.

/// A closed set, as the metric's label has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DismissReason {
    /// Its turn failed, was interrupted or was aborted.
    Turn,
    /// A sub-agent did not stop, a goal is not reached, or an answer is due.
    Agents,
    /// A process that the turn has started lives on.
    Processes,
    /// A script of the agent's runs on.
    Script,
    /// That it waits could not be noted beside the workspace.
    Record,
    /// A helper of codex's did not end in time.
    Helper,
    /// It started to work while it waited.
    Unasked,
    /// It, or its guard, ended by itself.
    Died,
    /// Another worker needed the workspace.
    Wanted,
    /// The next turn needs another program, thread, model or configuration.
    Changed,
    /// It has waited for as long as it may.
    Idle,
    /// So many wait already.
    Count,
    /// Those that wait take too much memory, or the host has little left.
    Memory,
    /// The host has few processes and threads left.
    Tasks,
    /// The host has few inotify instances, or the worker few open files left.
    Watchers,
    /// The worker is stopped.
    Shutdown,
}

impl DismissReason {
    pub const ALL: [Self; 16] = [
        Self::Turn,
        Self::Agents,
        Self::Processes,
        Self::Script,
        Self::Record,
        Self::Helper,
        Self::Unasked,
        Self::Died,
        Self::Wanted,
        Self::Changed,
        Self::Idle,
        Self::Count,
        Self::Memory,
        Self::Tasks,
        Self::Watchers,
        Self::Shutdown,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Turn => "turn",
            Self::Agents => "agents",
            Self::Processes => "processes",
            Self::Script => "script",
            Self::Record => "record",
            Self::Helper => "helper",
            Self::Unasked => "unasked",
            Self::Died => "died",
            Self::Wanted => "wanted",
            Self::Changed => "changed",
            Self::Idle => "idle",
            Self::Count => "count",
            Self::Memory => "memory",
            Self::Tasks => "tasks",
            Self::Watchers => "watchers",
            Self::Shutdown => "shutdown",
        }
    }
}
