//! The modules of `src/` depend on each other in one direction, and the contract
//! depends on nothing but itself.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use super::path;

/// What producers and readers share with the worker. A program that only builds requests
/// and reads events needs no runtime and no AMQP library.
const CONTRACT: [&str; 6] = ["codes", "event", "labels", "request", "tenants", "trace"];

/// Modules that the command line is made of: they use the library from outside.
const PROGRAM: [&str; 3] = ["cli", "lib", "main"];

/// By module, the text of its files without comments and unit tests.
fn modules() -> BTreeMap<String, String> {
    let mut modules = BTreeMap::new();
    for entry in fs::read_dir(path("src")).unwrap() {
        let file = entry.unwrap().path();
        let name = file.file_stem().unwrap().to_str().unwrap().to_owned();
        if !PROGRAM.contains(&name.as_str()) {
            add(&file, modules.entry(name).or_default());
        }
    }
    modules
}

fn add(file: &Path, text: &mut String) {
    let name = file.file_stem().unwrap().to_str().unwrap();
    let is_of_tests = ["tests", "testing", "model"].contains(&name) || name.ends_with("_tests");
    if is_of_tests {
        return;
    }
    if file.is_dir() {
        for entry in fs::read_dir(file).unwrap() {
            add(&entry.unwrap().path(), text);
        }
        return;
    }
    let code = fs::read_to_string(file).unwrap();
    let code = code.split("#[cfg(test)]\nmod tests {").next().unwrap();
    assert!(
        !code.contains("crate::{"),
        "{}: one `use` a module",
        file.display()
    );
    for line in code
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"))
    {
        text.push_str(line);
        text.push('\n');
    }
}

/// By module, the other ones that it uses.
fn uses() -> BTreeMap<String, BTreeSet<String>> {
    let modules = modules();
    let used_by = |name: &String, text: &String| {
        let paths = text.split("crate::").skip(1);
        let names = paths.map(|rest| {
            let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_');
            rest[..end.unwrap_or(rest.len())].to_owned()
        });
        names
            .filter(|used| used != name && modules.contains_key(used))
            .collect()
    };
    modules
        .iter()
        .map(|(name, text)| (name.clone(), used_by(name, text)))
        .collect()
}

/// Removes those of which `is_free` says that no circle leads through them.
fn remove_free(
    uses: &mut BTreeMap<String, BTreeSet<String>>,
    is_free: impl Fn(&str, &BTreeMap<String, BTreeSet<String>>) -> bool,
) {
    while let Some(free) = uses.keys().find(|name| is_free(name, uses)).cloned() {
        uses.remove(&free);
    }
}

#[test]
fn modules_depend_on_each_other_in_one_direction() {
    let mut uses = uses();
    assert!(uses["sequencer"].contains("amqp"), "{uses:?}");
    remove_free(&mut uses, |name, all| {
        all[name].iter().all(|used| !all.contains_key(used))
    });
    remove_free(&mut uses, |name, all| {
        all.values().all(|used| !used.contains(name))
    });
    assert!(uses.is_empty(), "modules that use each other: {uses:#?}");
}

#[test]
fn the_contract_needs_no_runtime_and_no_broker() {
    let (modules, uses) = (modules(), uses());
    for name in CONTRACT {
        for library in ["tokio", "lapin", "tracing"] {
            let path = format!("{library}::");
            assert!(!modules[name].contains(&path), "src/{name} uses {library}");
        }
        for used in &uses[name] {
            assert!(CONTRACT.contains(&used.as_str()), "src/{name} uses {used}");
        }
    }
}
