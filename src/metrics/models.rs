use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use crate::request::is_model_name;

/// For a turn of which no model is known.
const DEFAULT: &str = "default";
/// For a model that the operator doesn't list: names come from producers, who
/// could make up a new one for each turn.
const OTHER: &str = "other";
/// So many models get a label because turns without a model are run with them:
/// codex and its operator choose those, and rarely.
const MOST_DEFAULTS: usize = 8;

/// The model that a turn was run with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Model<'a> {
    /// By its request or the worker's settings.
    Named(&'a str),
    /// By codex's own default.
    Default(&'a str),
    Unknown,
}

/// Models to labels.
pub(super) struct ModelLabels {
    listed: BTreeSet<String>,
    defaults: Mutex<BTreeSet<String>>,
}

impl ModelLabels {
    pub(super) fn new(listed: BTreeSet<String>) -> Self {
        Self {
            listed,
            defaults: Mutex::default(),
        }
    }

    /// All labels that there are from the start on.
    pub(super) fn known(&self) -> impl Iterator<Item = &str> {
        let listed = self.listed.iter().map(String::as_str);
        listed.chain([DEFAULT, OTHER])
    }

    pub(super) fn label<'a>(&'a self, model: Model<'a>) -> &'a str {
        match model {
            Model::Unknown => DEFAULT,
            Model::Named(model) | Model::Default(model) if self.listed.contains(model) => model,
            Model::Named(_) => OTHER,
            Model::Default(model) if self.is_default(model) => model,
            Model::Default(_) => OTHER,
        }
    }

    fn is_default(&self, model: &str) -> bool {
        let defaults = self.defaults.lock();
        let mut defaults = defaults.unwrap_or_else(PoisonError::into_inner);
        if defaults.len() < MOST_DEFAULTS && is_model_name(model) {
            defaults.insert(model.to_owned());
        }
        defaults.contains(model)
    }
}
