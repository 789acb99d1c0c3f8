//! What a host can lack.

/// What a host lacks. A closed set: it labels metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lack {
    Disk,
    Codex,
    /// Memory, processes or file descriptors.
    Resources,
    /// A login or key that the model's API accepts.
    Auth,
    /// Allowance of the account.
    UsageLimit,
    /// A configuration of codex with which turns run.
    Config,
}

impl Lack {
    pub const ALL: &'static [Self] = &[
        Self::Disk,
        Self::Codex,
        Self::Resources,
        Self::Auth,
        Self::UsageLimit,
        Self::Config,
    ];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Disk => "disk",
            Self::Codex => "codex",
            Self::Resources => "resources",
            Self::Auth => "auth",
            Self::UsageLimit => "usage_limit",
            Self::Config => "config",
        }
    }

    /// Whether turns show that it is lacking, and not the host itself.
    pub const fn is_of_account(self) -> bool {
        matches!(self, Self::Auth | Self::UsageLimit | Self::Config)
    }
}

impl std::fmt::Display for Lack {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}
