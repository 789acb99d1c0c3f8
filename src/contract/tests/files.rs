//! The files that are made from the code, compared or, for `ops/contract`,
//! written.

use std::fs;
use std::path::{Path, PathBuf};

use super::examples::{self, BY_SCHEMA, BY_WORKER, FROZEN, path};
use super::*;

/// Set by `ops/contract`.
const WRITE: &str = "TURN_WORKER_TEST_WRITE";
pub(crate) const EVENTS: &str = "docs/EVENTS.md";

#[test]
fn the_files_are_as_the_code_makes_them() {
    let write = std::env::var_os(WRITE).is_some();
    let mut stale = Vec::new();
    for (file, text) in made() {
        if fs::read_to_string(&file).is_ok_and(|there| there == text) {
            continue;
        }
        if write {
            fs::write(&file, text).unwrap();
        }
        stale.push(file.strip_prefix(path("")).unwrap().display().to_string());
    }
    for file in left_over() {
        if write {
            fs::remove_file(path("").join(&file)).unwrap();
        }
        stale.push(file);
    }
    if write {
        // After what is frozen is there.
        write_frozen();
        println!("{} files written", stale.len());
    } else {
        assert!(stale.is_empty(), "stale, run ops/contract: {stale:#?}");
    }
}

/// What belongs into the files. What was made for a frozen example once is as
/// frozen as that: it is only made where it is missing, and compared in
/// `promises`.
fn made() -> Vec<(PathBuf, String)> {
    let topology = Topology::new("codex", 1);
    let mut files: Vec<(PathBuf, String)> = Document::ALL
        .iter()
        .map(|document| {
            (
                path("docs/contract").join(document.file_name()),
                document.text(&topology),
            )
        })
        .collect();
    for request in examples::requests() {
        let Ok(accepted) = request.parse() else {
            continue;
        };
        frozen(
            &mut files,
            request.beside("understood"),
            examples::understood(&accepted),
        );
    }
    for turn in examples::turns() {
        frozen(&mut files, turn.beside("read"), examples::read(&turn));
    }
    for request in examples::of(BY_SCHEMA)
        .iter()
        .chain(&examples::of(BY_WORKER))
    {
        let Err(rejection) = request.parse() else {
            continue;
        };
        files.push((
            request.beside("error"),
            pretty(&examples::error(&rejection)),
        ));
    }
    let events = fs::read_to_string(path(EVENTS)).unwrap();
    files.push((path(EVENTS), tables::inserted(&events)));
    files
}

fn frozen(files: &mut Vec<(PathBuf, String)>, file: PathBuf, value: Value) {
    if !file.exists() {
        files.push((file, pretty(&value)));
    }
}

fn pretty(value: &Value) -> String {
    format!("{value:#}\n")
}

/// Errors without their request.
fn left_over() -> Vec<String> {
    let mut gone = Vec::new();
    for folder in [BY_SCHEMA, BY_WORKER] {
        let examples = examples::of(folder);
        for entry in fs::read_dir(path(folder)).unwrap() {
            let file = entry.unwrap().file_name().into_string().unwrap();
            let of = file.strip_suffix(".error.json");
            if of.is_some_and(|name| !examples.iter().any(|example| example.name == name)) {
                gone.push(format!("{folder}/{file}"));
            }
        }
    }
    gone
}

/// A line for each frozen file, in the order of their names.
pub(crate) fn checksums() -> Vec<String> {
    let root = path(FROZEN);
    let mut files = Vec::new();
    collect(&root, &mut files);
    let mut lines: Vec<(PathBuf, String)> = files
        .into_iter()
        .filter(|file| file.file_name().is_some_and(|name| name != "FROZEN"))
        .map(|file| {
            let sum = crc32fast::hash(&fs::read(&file).unwrap());
            let name = file.strip_prefix(&root).unwrap().to_owned();
            let line = format!("{sum:08x}  {}", name.display());
            (name, line)
        })
        .collect();
    lines.sort();
    lines.into_iter().map(|(_, line)| line).collect()
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, files);
        } else {
            files.push(path);
        }
    }
}

/// Adds what is new, and leaves what is listed: a frozen file that was changed
/// still fails its test.
fn write_frozen() {
    let list = path(FROZEN).join("FROZEN");
    let listed = fs::read_to_string(&list).unwrap_or_default();
    let name = |line: &str| line.split_once("  ").map(|(_, name)| name.to_owned());
    let mut lines: Vec<String> = listed.lines().map(ToOwned::to_owned).collect();
    let known: Vec<_> = lines.iter().filter_map(|line| name(line)).collect();
    lines.extend(
        checksums()
            .into_iter()
            .filter(|line| name(line).is_some_and(|name| !known.contains(&name))),
    );
    lines.sort_by_key(|line| name(line));
    fs::write(list, lines.join("\n") + "\n").unwrap();
}
