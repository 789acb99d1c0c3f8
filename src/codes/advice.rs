//! What a producer does about a code, a reason, a notice or a stop reason.

/// For the docs and the schemas; workers don't act on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Advice {
    /// Whether sending it again may help.
    pub again: Again,
    /// In Markdown, on one line.
    pub then: &'static str,
}

/// Whether the same turn, sent again under a new id, may succeed without
/// a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Again {
    /// Not before somebody has changed something.
    No,
    /// It may, later.
    Yes,
    /// It depends, see `error.retryable`.
    SeeRetryable,
}

impl Again {
    /// As the docs print it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::No => "no",
            Self::Yes => "yes",
            Self::SeeRetryable => "see `retryable`",
        }
    }
}

pub(super) const fn no(then: &'static str) -> Advice {
    Advice {
        again: Again::No,
        then,
    }
}

pub(super) const fn yes(then: &'static str) -> Advice {
    Advice {
        again: Again::Yes,
        then,
    }
}

pub(super) const fn see_retryable(then: &'static str) -> Advice {
    Advice {
        again: Again::SeeRetryable,
        then,
    }
}
