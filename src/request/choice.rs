//! Closed sets that a request chooses from.

use std::str::FromStr;

use serde::Serialize;

/// The first is the default.
macro_rules! choices {
    ($(#[$meta:meta])* $name:ident {
        $(#[$first_meta:meta])* $first:ident = $first_text:literal,
        $($(#[$vmeta:meta])* $variant:ident = $text:literal),+ $(,)?
    }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize)]
        pub enum $name {
            $(#[$first_meta])* #[default] #[serde(rename = $first_text)] $first,
            $($(#[$vmeta])* #[serde(rename = $text)] $variant),+
        }

        impl $name {
            /// All of them; the first is the default.
            pub const ALL: &'static [Self] = &[Self::$first, $(Self::$variant),+];

            /// As it stands on the wire.
            pub const fn as_str(self) -> &'static str {
                match self { Self::$first => $first_text, $(Self::$variant => $text),+ }
            }

            /// For canonical forms, which leave out optional fields.
            pub(crate) fn is_default(&self) -> bool {
                *self == Self::default()
            }
        }

        /// The error says what is allowed.
        impl FromStr for $name {
            type Err = String;

            fn from_str(text: &str) -> Result<Self, String> {
                let named = Self::ALL.iter().find(|choice| choice.as_str() == text);
                named.copied().ok_or_else(|| {
                    let all: Vec<_> = Self::ALL.iter().map(|choice| format!("{:?}", choice.as_str())).collect();
                    format!("one of {}", all.join(", "))
                })
            }
        }
    };
}

choices! {
    /// What becomes of a turn in a workspace with turns that have not ended.
    OnBusy {
        /// It waits for its place.
        Enqueue = "enqueue",
        /// It ends as `workspace.busy` without being run.
        Reject = "reject",
        /// The turns ahead of it end as cancelled, and it runs.
        Interrupt = "interrupt",
    }
}

choices! {
    /// Which conversation a turn goes on with.
    ThreadChoice {
        /// Where the workspace's last turn ended.
        Continue = "continue",
        /// One that starts with this turn, and is the workspace's from then on.
        New = "new",
        /// Where the workspace's last turn ended, or a new one where codex refuses to go on with that.
        ContinueOrNew = "continue_or_new",
    }
}
