use std::collections::BTreeSet;

/// For a turn that named no model.
const DEFAULT: &str = "default";
/// For a model that the operator doesn't list: names come from producers, who
/// could make up a new one for each turn.
const OTHER: &str = "other";

/// Models to labels.
pub(super) struct ModelLabels {
    listed: BTreeSet<String>,
}

impl ModelLabels {
    pub(super) fn new(listed: BTreeSet<String>) -> Self {
        Self { listed }
    }

    /// All labels that there are.
    pub(super) fn known(&self) -> impl Iterator<Item = &str> {
        let listed = self.listed.iter().map(String::as_str);
        listed.chain([DEFAULT, OTHER])
    }

    pub(super) fn label<'a>(&self, model: Option<&'a str>) -> &'a str {
        match model {
            None => DEFAULT,
            Some(model) if self.listed.contains(model) => model,
            Some(_) => OTHER,
        }
    }
}
