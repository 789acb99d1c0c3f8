//! How much a model is to think before it answers.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use serde::{Serialize, Serializer};

/// In codex's words, from the least to the most. Which of them a model takes is
/// the model's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Effort {
    None,
    Minimal,
    Low,
    Medium,
    High,
    ExtraHigh,
    Max,
    Ultra,
}

impl Effort {
    pub const ALL: &'static [Self] = &[
        Self::None,
        Self::Minimal,
        Self::Low,
        Self::Medium,
        Self::High,
        Self::ExtraHigh,
        Self::Max,
        Self::Ultra,
    ];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Minimal => "minimal",
            Self::Low => "low",
            Self::Medium => "medium",
            Self::High => "high",
            Self::ExtraHigh => "xhigh",
            Self::Max => "max",
            Self::Ultra => "ultra",
        }
    }

    /// The rule that a request keeps to where only these may be asked for.
    pub(crate) fn rule(listed: Option<&BTreeSet<Self>>) -> String {
        let all = Self::ALL.iter();
        let allowed = all.filter(|effort| listed.is_none_or(|listed| listed.contains(effort)));
        let names: Vec<String> = allowed
            .map(|effort| format!("{:?}", effort.as_str()))
            .collect();
        format!("one of {}", names.join(", "))
    }
}

/// The error is the rule.
impl FromStr for Effort {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let named = Self::ALL.iter().find(|effort| effort.as_str() == text);
        named.copied().ok_or_else(|| Self::rule(None))
    }
}

impl fmt::Display for Effort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for Effort {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}
