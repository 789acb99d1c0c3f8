//! The places in the code where a test lets something go wrong.

#![allow(
    dead_code,
    clippy::unwrap_used,
    reason = "not every test needs all of it, and a test fails by panicking"
)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

/// The variable by which a process gets its faults.
pub const FAULTS: &str = "FAILPOINTS";

/// All places that the code has.
pub fn places() -> &'static BTreeSet<String> {
    static PLACES: LazyLock<BTreeSet<String>> = LazyLock::new(search);
    &PLACES
}

fn search() -> BTreeSet<String> {
    let mut places = BTreeSet::new();
    for text in texts(&["src"]) {
        // For every call there, its first argument names the place.
        for call in text.split("fault::").skip(1) {
            let argument = call.split_once('(').map(|(_, rest)| rest.trim_start());
            let named = argument.and_then(|rest| rest.strip_prefix('"')?.split('"').next());
            places.extend(named.map(str::to_owned));
        }
    }
    places
}

/// A fault at a place that is not there would let a test prove too little.
pub fn must_exist(faults: &str) {
    let places = places();
    for fault in faults.split(';').filter(|fault| !fault.is_empty()) {
        let place = fault.split('=').next().unwrap();
        assert!(places.contains(place), "no place {place:?}: {places:#?}");
    }
}

/// Every file below these folders of the project that is text.
pub fn texts(folders: &[&str]) -> Vec<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut ahead: Vec<PathBuf> = folders.iter().map(|folder| root.join(folder)).collect();
    let mut texts = Vec::new();
    while let Some(path) = ahead.pop() {
        if path.is_dir() {
            ahead.extend(
                fs::read_dir(path)
                    .unwrap()
                    .map(|entry| entry.unwrap().path()),
            );
        } else {
            texts.extend(fs::read_to_string(path));
        }
    }
    texts
}
