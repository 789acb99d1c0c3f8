use std::collections::BTreeSet;
use std::sync::Mutex;

use super::lock;

/// Without an allow-list so many models get a label of their own: names come
/// from producers, who could make up a new one for each turn.
const MAX_SEEN: usize = 32;

/// For a turn that named no model.
const DEFAULT: &str = "default";
/// For a model without a label of its own.
const OTHER: &str = "other";

/// Models to labels.
pub(super) enum ModelLabels {
    Listed(BTreeSet<String>),
    Seen(Mutex<BTreeSet<String>>),
}

impl ModelLabels {
    pub(super) fn new(list: Option<&BTreeSet<String>>) -> Self {
        match list {
            Some(list) => Self::Listed(list.clone()),
            None => Self::Seen(Mutex::default()),
        }
    }

    /// The labels that are known beforehand.
    pub(super) fn known(&self) -> Vec<String> {
        let list = match self {
            Self::Listed(list) => list.clone(),
            Self::Seen(_) => BTreeSet::new(),
        };
        list.into_iter()
            .chain([DEFAULT.to_owned(), OTHER.to_owned()])
            .collect()
    }

    pub(super) fn label<'a>(&self, model: Option<&'a str>) -> &'a str {
        let Some(model) = model else {
            return DEFAULT;
        };
        let has_label = match self {
            Self::Listed(list) => list.contains(model),
            Self::Seen(seen) => {
                let mut seen = lock(seen);
                if seen.len() < MAX_SEEN {
                    seen.insert(model.to_owned());
                }
                seen.contains(model)
            }
        };
        if has_label { model } else { OTHER }
    }
}
