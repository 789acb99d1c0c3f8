//! `ops/deploy/systemd`, as systemd reads it (where its `systemd-analyze` is there) and as the worker does.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::process::Command;
use std::time::Duration;

use super::{SETTLING, needed_privileges, read, settings, sorted};
use crate::support::not_tested::not_tested;

const UNIT: &str = "ops/deploy/systemd/turn-worker.service";
const ENVIRONMENT: &str = "ops/deploy/systemd/turn-worker.env";
/// Of 10: what systemd calls "OK" starts below 5, and a unit without settings has 9.6.
const MOST_EXPOSURE: f64 = 4.0;

/// A unit's settings; the last one counts, as each is given once here.
fn unit() -> BTreeMap<String, String> {
    let text = read(UNIT);
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let pairs = lines.filter_map(|line| line.split_once('='));
    let pairs: Vec<_> = pairs
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    let unit: BTreeMap<_, _> = pairs.iter().cloned().collect();
    assert_eq!(unit.len(), pairs.len(), "{UNIT} has something twice");
    unit
}

fn environment() -> BTreeMap<String, String> {
    let text = read(ENVIRONMENT);
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let pairs = lines.map(|line| line.split_once('=').unwrap());
    pairs
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

/// The capabilities that the worker has, without `CAP_`.
pub fn privileges() -> Vec<String> {
    let unit = unit();
    let words = unit["AmbientCapabilities"].split(' ');
    words
        .map(|word| word.trim_start_matches("CAP_").to_owned())
        .collect()
}

/// `None` without such a program, which is reported.
fn systemd_analyze(arguments: &[&str]) -> Option<(bool, String)> {
    match Command::new("systemd-analyze").args(arguments).output() {
        Ok(done) => {
            let said = [done.stdout, done.stderr].concat();
            Some((done.status.success(), String::from_utf8(said).unwrap()))
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {
            not_tested(&format!("{UNIT}: there is no systemd-analyze"));
            None
        }
        Err(error) => panic!("systemd-analyze: {error}"),
    }
}

#[test]
fn systemd_understands_the_unit_and_calls_it_well_protected() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("turn-worker.service");
    // One that is installed here: systemd looks for it.
    let text = read(UNIT).replace(
        "=/usr/local/bin/turn-worker ",
        concat!("=", env!("CARGO_BIN_EXE_turn-worker"), " "),
    );
    fs::write(&file, text).unwrap();
    let file = file.to_str().unwrap();
    let Some((well, said)) = systemd_analyze(&["verify", file]) else {
        return;
    };
    // It only warns of unknown settings.
    assert!(well && said.is_empty(), "{said}");
    let threshold = format!("--threshold={:.0}", MOST_EXPOSURE * 10.0);
    let security = ["security", "--offline=true", "--no-pager", &threshold, file];
    let (well, said) = systemd_analyze(&security).unwrap();
    assert!(well, "{said}");
}

#[test]
fn the_unit_fits_its_environment_and_the_worker() {
    let (unit, environment) = (unit(), environment());
    let settings = settings(ENVIRONMENT, &environment);
    let stop = unit["TimeoutStopSec"]
        .trim_end_matches('s')
        .parse()
        .unwrap();
    assert_eq!(
        Duration::from_secs(stop),
        settings.shutdown_grace + SETTLING
    );
    // SIGTERM for all would end the agents that are to come to their end.
    assert_eq!(unit["KillMode"], "mixed");
    // Or one agent that takes too much memory ends all turns.
    assert_eq!(unit["OOMPolicy"], "continue");
    assert!(unit["EnvironmentFile"].ends_with("/turn-worker.env"));
    assert!(unit["ExecStart"].ends_with("/turn-worker serve"));

    assert!(settings.require_isolation);
    assert_ne!(unit["User"], environment["TURN_WORKER_CODEX_RUN_AS"]);
    let mut needed = needed_privileges();
    // For what a worker left that was killed together with its guard.
    needed.push("SYS_PTRACE");
    let has = privileges();
    assert_eq!(
        sorted(has.iter().map(String::as_str).collect()),
        sorted(needed)
    );
    assert_eq!(unit["AmbientCapabilities"], unit["CapabilityBoundingSet"]);

    let writable: Vec<&str> = unit["ReadWritePaths"].split(' ').collect();
    for folder in ["TURN_WORKER_WORKSPACE_ROOT", "TURN_WORKER_CODEX_HOME"] {
        assert!(writable.contains(&environment[folder].as_str()), "{folder}");
    }
    // What the unit's own instructions make.
    for folder in writable {
        assert!(
            read(UNIT).matches(folder).count() > 1,
            "nobody makes {folder}"
        );
    }
}
