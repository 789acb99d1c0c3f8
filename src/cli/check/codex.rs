//! Whether codex is there, is the one that was tried, has a home and a login,
//! and runs under a guard.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::Duration;

use rustix::fs::{Access, AtFlags, CWD, accessat};
use turn_worker::codex::Exit;
use turn_worker::codex::exec::{Exec, TESTED_VERSION};
use turn_worker::codex::home::Homes;
use turn_worker::config::Settings;
use turn_worker::error::with_sources;
use turn_worker::guard::{self, GuardSpec};
use turn_worker::workspace::Root;

use super::report::Report;

/// Far more than starting a process takes.
const GUARD_LIMIT: Duration = Duration::from_secs(20);
const API_KEY: &str = "CODEX_API_KEY";

pub async fn check(settings: &Settings, root: Option<&Root>, report: &mut Report) {
    let engine = match turn_worker::serve::engine(settings) {
        Ok(engine) => engine,
        Err(error) => {
            report.fail(
                "codex",
                &format!("TURN_WORKER_CODEX_BIN: {}", with_sources(&error)),
            );
            return;
        }
    };
    let path = engine.program.path();
    let program = path.display();
    match engine.program.version(&engine.env).await.as_deref() {
        Ok(TESTED_VERSION) => report.ok("codex", &format!("{program}, version {TESTED_VERSION}")),
        Ok(other) => report.warn(
            "codex",
            &format!("{program}, version {other}; tried was {TESTED_VERSION}"),
        ),
        Err(error) => report.fail("codex", &with_sources(error)),
    }
    let Some(root) = root else { return };
    home(settings, root, &engine, report);
    match under_guard(&engine, root).await {
        Ok(()) => report.ok("guard", "codex started and ended under a guard of its own"),
        Err(error) => report.fail("guard", &error),
    }
}

fn home(settings: &Settings, root: &Root, engine: &Exec, report: &mut Report) {
    let what = "codex home";
    let has = |name: &str| engine.env.iter().any(|(set, _)| set == name);
    let home = match turn_worker::serve::homes(settings, root, &engine.env) {
        Homes::PerWorkspace { template } => match template {
            Some(template) => {
                let detail = format!("one for each workspace, made from {}", template.display());
                report.ok(what, &detail);
                template
            }
            None => {
                let template = root.codex_home_template();
                let detail = format!(
                    "one for each workspace; empty, since there is no {}",
                    template.display()
                );
                report.ok(what, &detail);
                template
            }
        },
        Homes::Shared { set, known } => {
            let Some(home) = known else {
                let detail = "unknown: neither HOME nor CODEX_HOME is among the variables that TURN_WORKER_CODEX_ENV passes on, and TURN_WORKER_CODEX_HOME is not set";
                report.warn(what, detail);
                return;
            };
            let named = set.is_some() || has("CODEX_HOME");
            if !writable(&home, named, report) {
                return;
            }
            home
        }
    };
    login(&home, has(API_KEY), report);
}

/// codex makes its default home itself, and no other.
fn writable(home: &Path, named: bool, report: &mut Report) -> bool {
    let what = "codex home";
    let shown = home.display();
    if !home.is_dir() {
        if named {
            report.fail(
                what,
                &format!("{shown} is no directory, and codex does not make it"),
            );
        } else {
            report.warn(
                what,
                &format!("{shown} is not there; codex makes it at its first turn"),
            );
        }
        return !named;
    }
    match accessat(
        CWD,
        home,
        Access::WRITE_OK | Access::EXEC_OK,
        AtFlags::EACCESS,
    ) {
        Ok(()) => {
            report.ok(what, &shown.to_string());
            true
        }
        Err(error) => {
            report.fail(what, &format!("{shown} can't be written to: {error}"));
            false
        }
    }
}

/// Only whether there is something to log in with: trying it would cost.
fn login(home: &Path, has_key: bool, report: &mut Report) {
    let auth = home.join("auth.json");
    let config = home.join("config.toml");
    if has_key {
        report.ok("login", &format!("{API_KEY} is set and passed on"));
    } else if auth.exists() {
        report.ok("login", &auth.display().to_string());
    } else if config.exists() {
        let detail = format!(
            "neither {API_KEY} nor {}; up to the provider in {}",
            auth.display(),
            config.display()
        );
        report.ok("login", &detail);
    } else {
        let detail = format!(
            "codex has nothing to log in with: set {API_KEY} and pass it on (TURN_WORKER_CODEX_ENV), or make {} (codex login)",
            auth.display()
        );
        report.warn("login", &detail);
    }
}

async fn under_guard(engine: &Exec, root: &Root) -> Result<(), String> {
    guard::prepare_worker()
        .map_err(|error| format!("can't look after child processes: {error}"))?;
    // In place of a workspace's lock.
    let lock =
        File::open(root.path()).map_err(|error| format!("{}: {error}", root.path().display()))?;
    let nothing = File::open("/dev/null").map_err(|error| format!("/dev/null: {error}"))?;
    let (mut guard, _pipes) = guard::spawn(GuardSpec {
        guard_program: engine.guard_program.clone(),
        program: engine.program.path(),
        args: vec!["--version".to_owned()],
        env: engine.env.clone(),
        dir: root.path().to_owned(),
        stdin: nothing.into(),
        lock: lock.as_fd(),
    })
    .map_err(|error| with_sources(&error))?;
    let closed = tokio::time::timeout(GUARD_LIMIT, guard.closed())
        .await
        .map_err(|_| format!("it did not end within {} s", GUARD_LIMIT.as_secs()))?;
    match closed.exit {
        Exit::Code(0) => Ok(()),
        Exit::Code(code) => Err(format!("codex exited with code {code}")),
        Exit::Signal(signal) => Err(format!("codex was ended by signal {signal}")),
        Exit::NotStarted { message } => Err(format!("codex was not started: {message}")),
        Exit::GuardLost => Err("the guard died".to_owned()),
    }
}
