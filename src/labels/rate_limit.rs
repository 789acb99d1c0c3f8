//! How much of the account's allowance is used, as codex passes it on from the
//! model's API.

/// One of the spans of time that an account's allowance is counted in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RateLimitWindow {
    /// The shorter one: hours.
    Primary,
    /// The longer one: days.
    Secondary,
}

impl RateLimitWindow {
    pub const ALL: [Self; 2] = [Self::Primary, Self::Secondary];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Primary => "primary",
            Self::Secondary => "secondary",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RateLimit {
    pub window: RateLimitWindow,
    pub used_percent: u64,
    /// When the window ends, in Unix time.
    pub resets_at: Option<u64>,
}
