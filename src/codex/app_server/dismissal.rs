//! Why a server is not kept for the next turn of its workspace.

use crate::guard::{Leave, Unrest};
pub use crate::labels::DismissReason;

impl From<Unrest> for DismissReason {
    fn from(why: Unrest) -> Self {
        match why {
            Unrest::Processes => Self::Processes,
            Unrest::Script => Self::Script,
            Unrest::Bell => Self::Record,
        }
    }
}

impl From<Leave> for DismissReason {
    fn from(why: Leave) -> Self {
        match why {
            Leave::Wanted => Self::Wanted,
            Leave::Helper => Self::Helper,
        }
    }
}
