//! How a model is to be asked: closed sets of codex's words, of which an
//! operator may allow only some.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use serde::{Serialize, Serializer};

/// A closed set of words for one setting of a model.
pub(crate) trait ModelChoice: Copy + Ord + FromStr + 'static {
    const ALL: &'static [Self];

    fn as_str(self) -> &'static str;

    /// The rule that a request keeps to where only these may be asked for.
    fn rule(listed: Option<&BTreeSet<Self>>) -> String {
        let all = Self::ALL.iter();
        let allowed = all.filter(|choice| listed.is_none_or(|listed| listed.contains(choice)));
        let names: Vec<String> = allowed
            .map(|choice| format!("{:?}", choice.as_str()))
            .collect();
        match names.is_empty() {
            true => "none, by the worker's settings".to_owned(),
            false => format!("one of {}", names.join(", ")),
        }
    }
}

macro_rules! model_choices {
    ($(#[$meta:meta])* $name:ident { $($(#[$vmeta:meta])* $variant:ident = $text:literal),+ $(,)? }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name { $($(#[$vmeta])* #[doc = concat!("`", $text, "`")] $variant),+ }

        impl ModelChoice for $name {
            const ALL: &'static [Self] = &[$(Self::$variant),+];

            fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text),+ }
            }
        }

        /// The error is the rule.
        impl FromStr for $name {
            type Err = String;

            fn from_str(text: &str) -> Result<Self, String> {
                let named = Self::ALL.iter().find(|choice| choice.as_str() == text);
                named.copied().ok_or_else(|| Self::rule(None))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.as_str())
            }
        }
    };
}

model_choices! {
    /// How much a model is to think before it answers, from the least to the
    /// most. Which of them a model takes is the model's.
    Effort {
        None = "none",
        Minimal = "minimal",
        Low = "low",
        Medium = "medium",
        High = "high",
        ExtraHigh = "xhigh",
        Max = "max",
        Ultra = "ultra",
    }
}

model_choices! {
    /// How fast, and for which price, the provider serves a model. codex 0.171.0
    /// leaves out `priority` where its list of models does not have it for the model.
    ServiceTier {
        /// No model, even if the operator has configured one.
        Standard = "default",
        Flex = "flex",
        Priority = "priority",
    }
}
