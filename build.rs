//! The version that the program reports: of release builds with the commit, by
//! git or, where there is none, by the variable SOURCE_COMMIT. Development builds have none,
//! as each commit would build all of it again.

use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=SOURCE_COMMIT");
    let version = env!("CARGO_PKG_VERSION");
    let version = match commit() {
        Some(commit) => format!("{version}+{commit}"),
        None => version.to_owned(),
    };
    println!("cargo::rustc-env=BUILD_VERSION={version}");
}

fn commit() -> Option<String> {
    let named = std::env::var("SOURCE_COMMIT").ok();
    if let Some(commit) = named.filter(|commit| is_commit(commit)) {
        return Some(commit[..commit.len().min(12)].to_owned());
    }
    if std::env::var("PROFILE").as_deref() != Ok("release") {
        return None;
    }
    // It grows with each commit and each checkout.
    let log = git(&["rev-parse", "--git-path", "logs/HEAD"])?;
    println!("cargo::rerun-if-changed={log}");
    git(&["rev-parse", "--short=12", "HEAD"]).filter(|commit| is_commit(commit))
}

fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}

fn is_commit(text: &str) -> bool {
    (7..=40).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}
