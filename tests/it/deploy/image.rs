//! `ops/deploy/docker/Dockerfile`: what compose and Kubernetes rest on. That it builds takes an engine; `ops/validate` lints it.

use std::collections::BTreeMap;

use super::{json, path, read, settings};

const DOCKERFILE: &str = "ops/deploy/docker/Dockerfile";

/// The Dockerfile's instructions, one a line.
fn instructions() -> Vec<String> {
    let text = read(DOCKERFILE).replace("\\\n", " ");
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect()
}

/// The names of its stages, in order.
pub fn stages() -> Vec<String> {
    let lines = instructions();
    let names = lines
        .iter()
        .filter_map(|line| line.strip_prefix("FROM ")?.split_once(" AS "));
    names.map(|(_, name)| name.to_owned()).collect()
}

/// What the image sets, by `ENV`.
pub fn environment() -> BTreeMap<String, String> {
    let lines = instructions();
    let sets = lines.iter().filter_map(|line| line.strip_prefix("ENV "));
    let pairs = sets
        .flat_map(str::split_whitespace)
        .map(|pair| pair.split_once('=').unwrap());
    pairs
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

/// The uid of the agents' user.
pub fn agent() -> u32 {
    let lines = instructions();
    let of = lines
        .iter()
        .find_map(|line| line.split_once("useradd --uid "))
        .unwrap()
        .1;
    let (uid, rest) = of.split_once(' ').unwrap();
    let run_as = &environment()["TURN_WORKER_CODEX_RUN_AS"];
    assert!(rest.contains(&format!("/bin/bash {run_as} ")), "{rest}");
    uid.parse().unwrap()
}

#[test]
fn the_image_runs_a_worker_with_agents_of_another_user() {
    let environment = environment();
    let settings = settings(DOCKERFILE, &environment);
    assert!(settings.require_isolation);
    assert_ne!(agent(), 0);
    let (text, lines) = (read(DOCKERFILE), instructions());
    for folder in ["TURN_WORKER_WORKSPACE_ROOT", "TURN_WORKER_CODEX_HOME"] {
        let made = format!(" {}\n", environment[folder]);
        assert!(text.contains(&made), "{DOCKERFILE} makes no{made}");
    }
    let port = settings.http_addr.port();
    assert!(lines.contains(&format!("EXPOSE {port}")), "{lines:#?}");
    assert!(text.contains(&format!("http://127.0.0.1:{port}/healthz")));
    assert_eq!(
        stages().last().unwrap(),
        "worker",
        "what is built by default"
    );
}

#[test]
fn the_image_is_labelled_with_the_version_and_has_the_tested_codex() {
    let version = format!(
        "org.opencontainers.image.version=\"{}\"",
        env!("CARGO_PKG_VERSION")
    );
    assert!(read(DOCKERFILE).contains(&version), "no {version}");
    let package = json("ops/codex/package.json");
    let lock = json("ops/codex/package-lock.json");
    let (wanted, locked) = (
        &package["dependencies"],
        &lock["packages"][""]["dependencies"],
    );
    assert_eq!(wanted, locked);
    // What is copied from the project is let through, and there.
    let ignored = read("ops/deploy/docker/Dockerfile.dockerignore");
    for kept in ignored.lines().filter_map(|line| line.strip_prefix('!')) {
        assert!(path(kept).exists(), "Dockerfile.dockerignore keeps {kept}");
    }
}
