//! What a turn spent.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What all agents of a turn spent, all attempts together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Usage {
    #[serde(flatten)]
    /// Of the turn's agent and its sub-agents together.
    pub tokens: Tokens,
    /// The share of its sub-agents, which the counts beside it include. Absent if they are not known to
    /// have spent any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agents: Option<Tokens>,
}

impl Usage {
    /// Returns `None` if neither the turn's own agent nor its sub-agents are
    /// known to have spent any.
    pub fn of(own: Option<Tokens>, agents: Option<Tokens>) -> Option<Self> {
        let tokens = [own, agents].into_iter().flatten().reduce(Tokens::plus)?;
        Some(Self { tokens, agents })
    }

    /// Both together; counts stop at their largest value.
    pub fn plus(self, other: Self) -> Self {
        let agents = [self.agents, other.agents].into_iter().flatten();
        Self {
            tokens: self.tokens.plus(other.tokens),
            agents: agents.reduce(Tokens::plus),
        }
    }
}

/// Counts of tokens. Cached ones are a subset of input, thinking ones of output.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Tokens {
    /// What the model read, cached or not.
    pub input_tokens: u64,
    /// The part of the input that came from the provider's cache.
    pub cache_read_tokens: u64,
    /// The part of the input that the provider put into its cache.
    pub cache_write_tokens: u64,
    /// What the model wrote, its reasoning included.
    pub output_tokens: u64,
    /// The part of the output that is reasoning.
    pub thinking_tokens: u64,
}

impl Tokens {
    /// `self - base`, or `None` if that would be negative anywhere: then
    /// `base` is not an earlier total of the same thread.
    pub fn since(self, base: Tokens) -> Option<Tokens> {
        Some(Tokens {
            input_tokens: self.input_tokens.checked_sub(base.input_tokens)?,
            cache_read_tokens: self.cache_read_tokens.checked_sub(base.cache_read_tokens)?,
            cache_write_tokens: self
                .cache_write_tokens
                .checked_sub(base.cache_write_tokens)?,
            output_tokens: self.output_tokens.checked_sub(base.output_tokens)?,
            thinking_tokens: self.thinking_tokens.checked_sub(base.thinking_tokens)?,
        })
    }

    /// Both together; counts stop at their largest value.
    pub fn plus(self, other: Tokens) -> Tokens {
        Tokens {
            input_tokens: self.input_tokens.saturating_add(other.input_tokens),
            cache_read_tokens: self
                .cache_read_tokens
                .saturating_add(other.cache_read_tokens),
            cache_write_tokens: self
                .cache_write_tokens
                .saturating_add(other.cache_write_tokens),
            output_tokens: self.output_tokens.saturating_add(other.output_tokens),
            thinking_tokens: self.thinking_tokens.saturating_add(other.thinking_tokens),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn g7_a_total_below_its_baseline_is_no_difference() {
        let total = Tokens {
            input_tokens: 200,
            output_tokens: 40,
            ..Tokens::default()
        };
        let base = Tokens {
            input_tokens: 100,
            output_tokens: 20,
            ..Tokens::default()
        };
        assert_eq!(total.since(base), Some(base));
        assert_eq!(base.since(total), None);
    }
}
