//! The model of turns that name no model, as codex has reported it.
//!
//! To ask codex for it takes a process and a third of a second. It changes with
//! the program, its settings and the login; or, rarely, with the list of models
//! that codex loads from its provider.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use super::home::Home;
use super::identity::FileIdentity;
use super::process::Codex;
use super::workspace_config::WorkspaceConfig;

/// The files in codex's folder that it depends on.
const FILES: [&str; 2] = ["config.toml", "auth.json"];

/// With more folders than that, some are asked again.
const MAX_HOMES: usize = 1_000;

/// What the default depends on.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Basis {
    /// Of the program.
    generation: u64,
    files: Vec<FileIdentity>,
}

/// By codex's folder. Cheap to clone; all clones know the same.
#[derive(Debug, Clone, Default)]
pub struct DefaultModels(Arc<Mutex<BTreeMap<PathBuf, (Basis, String)>>>);

impl Basis {
    /// As things are now.
    fn at(home: &Path, generation: u64) -> (PathBuf, Self) {
        let files = FILES.map(|file| FileIdentity::of(&home.join(file)));
        let files = files.into_iter().flatten().collect();
        (home.to_owned(), Self { generation, files })
    }
}

/// The default of one turn: what is known of it, and where to keep what codex
/// reports of it.
#[derive(Debug, Clone)]
pub(crate) struct DefaultModel {
    place: Option<(PathBuf, Basis)>,
    known: Option<String>,
    all: DefaultModels,
}

impl DefaultModel {
    /// As things are now: what is learned later is of now.
    pub(crate) fn of(codex: &Codex, home: &Home) -> Self {
        // Where each workspace may have settings of its own, each has its own default.
        let shared = codex.workspace_config != WorkspaceConfig::Trusted;
        let home = home.path().filter(|_| shared);
        let place = home.map(|home| Basis::at(home, codex.program.generation()));
        Self::at(place, codex.default_models.clone())
    }

    fn at(place: Option<(PathBuf, Basis)>, all: DefaultModels) -> Self {
        let known = place.as_ref().and_then(|(home, basis)| {
            let all = all.0.lock().unwrap_or_else(PoisonError::into_inner);
            let (of, model) = all.get(home)?;
            (of == basis).then(|| model.clone())
        });
        Self { place, known, all }
    }

    /// Returns `None` if codex has not reported it since it may have changed.
    pub(crate) fn known(&self) -> Option<&str> {
        self.known.as_deref()
    }

    pub(crate) fn learn(&self, model: &str) {
        let Some((home, basis)) = self.place.clone() else {
            return;
        };
        let mut all = self.all.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= MAX_HOMES {
            all.clear();
        }
        all.insert(home, (basis, model.to_owned()));
    }
}

/// Why a turn that names no model is not run, in words. Returns `None` if its
/// model is on the list.
pub(super) fn unlisted(model: &str, models: &BTreeSet<String>) -> Option<String> {
    if models.contains(model) {
        return None;
    }
    let listed: Vec<&str> = models.iter().map(String::as_str).collect();
    Some(format!(
        "found {model:?} as the model of a turn without one, expected one of CODEX_MODELS ({}); \
         the operator can set CODEX_MODEL",
        listed.join(", ")
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_default_is_known_until_it_may_have_changed() {
        let dir = tempfile::tempdir().unwrap();
        let config = dir.path().join("config.toml");
        let all = DefaultModels::default();
        let place = |generation| {
            let place = Basis::at(dir.path(), generation);
            DefaultModel::at(Some(place), all.clone())
        };
        let before = place(0);
        assert_eq!(before.known(), None);
        before.learn("gpt-a");
        assert_eq!(place(0).known(), Some("gpt-a"));
        // Another program, or other settings.
        assert_eq!(place(1).known(), None);
        std::fs::write(&config, "model = \"gpt-b\"").unwrap();
        assert_eq!(place(0).known(), None);
        // Of a turn that was started before.
        before.learn("gpt-a");
        assert_eq!(place(0).known(), None);
        place(0).learn("gpt-b");
        assert_eq!(place(0).known(), Some("gpt-b"));
        // If it is not known what it depends on, it is not cached.
        let unknown = DefaultModel::at(None, all.clone());
        unknown.learn("gpt-c");
        assert_eq!(unknown.known(), None);
    }

    #[test]
    fn only_a_listed_default_is_run() {
        let listed = ["gpt-a".to_owned(), "gpt-b".to_owned()].into();
        assert_eq!(unlisted("gpt-a", &listed), None);
        let why = unlisted("gpt-c", &listed).unwrap();
        assert!(why.contains("found \"gpt-c\""), "{why}");
        assert!(why.contains("(gpt-a, gpt-b)"), "{why}");
    }
}
