//! Whether codex is there, is the one that was tried, has a home and a login,
//! and runs under a guard.

use std::io;
use std::path::Path;

use rustix::fs::Access;
use turn_worker::capacity::{WATCHERS_PER_SERVER, max_watchers};
use turn_worker::codex::config_file::ConfigFile;
use turn_worker::codex::home::Homes;
use turn_worker::codex::process::Codex;
use turn_worker::codex::program::ProgramError;
use turn_worker::codex::skill_folders;
use turn_worker::config::{EngineKind, Settings};
use turn_worker::error::with_sources;
use turn_worker::guard;
use turn_worker::guard::confine::as_user;
use turn_worker::isolation::access;
use turn_worker::serve::WARM_PER_SLOT;
use turn_worker::versions;
use turn_worker::workspace::Root;

use super::isolation;
use super::report::Report;

const API_KEY: &str = "CODEX_API_KEY";

pub(super) async fn check(settings: &Settings, root: Option<&Root>, report: &mut Report) {
    let engine = match turn_worker::serve::engine(settings) {
        Ok(engine) => engine,
        Err(error) => {
            report.fail("codex", &with_sources(&error));
            return;
        }
    };
    let codex = engine.codex();
    if let Some(root) = root {
        isolation::check(settings, root, codex, report);
    }
    version(codex, report).await;
    if settings.codex_engine == EngineKind::AppServer {
        let warm = settings
            .codex_warm
            .unwrap_or(settings.slots * WARM_PER_SLOT);
        let lack = max_watchers().and_then(|limit| lack_of_watchers(settings.slots + warm, limit));
        if let Some(lack) = lack {
            report.warn("warm servers", &lack);
        }
        if warm > 0 {
            skills(report);
        }
    }
    if let Some(root) = root {
        home(settings, root, codex, report).await;
    }
}

fn skills(report: &mut Report) {
    match skill_folders::missing_system_folder() {
        None => report.ok(
            "skills",
            "warm servers watch no folder that other programs use",
        ),
        Some(folder) => {
            let detail = format!(
                "{} is missing, so codex watches all of /etc: each program that starts on this host wakes each \
                 warm server; make it, empty: mkdir -p {0}",
                folder.display()
            );
            report.warn("skills", &detail);
        }
    }
}

/// Why so many app-servers are too many for a user with so many inotify instances.
fn lack_of_watchers(servers: usize, limit: usize) -> Option<String> {
    let needed = servers * WATCHERS_PER_SERVER;
    (needed > limit).then(|| {
        format!(
            "{servers} app-servers, running or warm, take {needed} inotify instances of the {limit} that a user may have; \
             agents' tools that watch files may fail: raise fs.inotify.max_user_instances, \
             or lower SLOTS or CODEX_WARM"
        )
    })
}

async fn version(codex: &Codex, report: &mut Report) {
    if let Err(error) = guard::prepare_worker() {
        let detail = format!("can't look after child processes: {error}");
        return report.fail("guard", &detail);
    }
    let told = codex.program.version(&codex.launch).await;
    let path = codex.program.path();
    let program = path.display();
    match told.as_deref() {
        Ok(version) => match versions::doubt_of_codex(version, codex.launch.engine) {
            None => report.ok("codex", &format!("{program}, version {version}")),
            Some(doubt) => report.warn("codex", &format!("{program}: {doubt}")),
        },
        Err(error @ (ProgramError::Guard { .. } | ProgramError::GuardLost { .. })) => {
            return report.fail("guard", &with_sources(error));
        }
        Err(error) => report.fail("codex", &with_sources(error)),
    }
    if let Ok(_) | Err(ProgramError::Failed { .. } | ProgramError::TooOld { .. }) = told {
        report.ok("guard", "codex started and ended under a guard of its own");
    }
}

async fn home(settings: &Settings, root: &Root, codex: &Codex, report: &mut Report) {
    let what = "codex home";
    let has = |name: &str| codex.launch.env.iter().any(|(set, _)| set == name);
    let home = match turn_worker::serve::homes(settings, root, &codex.launch.env) {
        Homes::PerWorkspace { template, .. } => match template {
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
                let detail = "unknown: codex gets neither HOME nor CODEX_HOME (HOME must be among TURN_WORKER_CODEX_ENV, and TURN_WORKER_CODEX_RUN_AS, if set, an account of this host), and TURN_WORKER_CODEX_HOME is not set";
                report.warn(what, detail);
                return;
            };
            let named = set.is_some() || has("CODEX_HOME");
            if !writable(&home, named, codex, report) {
                return;
            }
            home
        }
    };
    match ConfigFile::read(&home) {
        Ok(file) => {
            trust(settings, root, file.as_ref(), report);
            keys(file.as_ref(), codex, report);
        }
        Err(error) => {
            let detail = format!("can't read {}: {error}", home.join("config.toml").display());
            report.warn(what, &detail);
        }
    }
    login(&home, has(API_KEY), codex, report).await;
}

fn trust(settings: &Settings, root: &Root, file: Option<&ConfigFile>, report: &mut Report) {
    let what = "workspace trust";
    if settings.codex_trust_workspaces {
        let detail = "trusted (TURN_WORKER_CODEX_TRUST_WORKSPACES): anyone who can write into a workspace's .codex \
                      folder chooses programs that run outside the sandbox and can read the API key";
        report.warn(what, detail);
    }
    match file.and_then(|file| file.advice(root.path())) {
        Some(advice) => report.warn(what, &advice),
        None if settings.codex_trust_workspaces => {}
        None => report.ok(what, "none: what workspaces configure is ignored"),
    }
}

/// A provider's key that commands can see.
fn keys(file: Option<&ConfigFile>, codex: &Codex, report: &mut Report) {
    let Some(file) = file else { return };
    for name in file.key_variables() {
        let is_set = codex.launch.env.iter().any(|(set, _)| set == name);
        if is_set && !codex.hidden_env.iter().any(|hidden| hidden == name) {
            let detail = format!(
                "{name}, from which {} takes a provider's key, is in the environment of the agent's commands: \
                 add it to TURN_WORKER_CODEX_HIDDEN_ENV",
                file.path().display()
            );
            report.warn("login", &detail);
        }
    }
}

/// codex makes its default home itself, and no other.
fn writable(home: &Path, named: bool, codex: &Codex, report: &mut Report) -> bool {
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
    let try_it = || access(home, Access::WRITE_OK | Access::EXEC_OK).map_err(io::Error::from);
    let tried = match &codex.launch.user {
        Some(user) => as_user(user, try_it).flatten(),
        None => try_it(),
    };
    match tried {
        Ok(()) => {
            report.ok(what, &shown.to_string());
            true
        }
        Err(error) => {
            let whom = match &codex.launch.user {
                Some(user) => format!(" by {user}"),
                None => String::new(),
            };
            let detail = format!("{shown} can't be written to{whom}: {error}");
            report.fail(what, &detail);
            false
        }
    }
}

/// Whether codex has something to log in with, and can read it. Whether the
/// model's API takes it only a turn shows.
async fn login(home: &Path, has_key: bool, codex: &Codex, report: &mut Report) {
    let auth = home.join("auth.json");
    let config = home.join("config.toml");
    if has_key {
        report.ok("login", &format!("{API_KEY} is set and passed on"));
    } else if auth.exists() {
        let shown = auth.display();
        match codex.program.login_status(&codex.launch, home).await {
            Ok(words) => report.ok("login", &format!("{shown}: {words}")),
            // A provider of its own may need no login.
            Err(why) if config.exists() => report.warn("login", &format!("{shown}: {why}")),
            Err(why) => report.fail("login", &format!("{shown}: {why}")),
        }
    } else if config.exists() {
        let detail = format!(
            "neither {API_KEY} nor {}; up to the provider in {}",
            auth.display(),
            config.display()
        );
        report.ok("login", &detail);
    } else {
        let detail = format!(
            "codex has no credentials: set {API_KEY} and pass it on (TURN_WORKER_CODEX_ENV), or make {} (codex login)",
            auth.display()
        );
        report.warn("login", &detail);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_on_inotify_instances_is_compared_with_what_app_servers_take() {
        assert_eq!(lack_of_watchers(64, 128), None);
        let lack = lack_of_watchers(65, 128).unwrap();
        assert!(
            lack.starts_with(
                "65 app-servers, running or warm, take 130 inotify instances of the 128"
            )
        );
    }
}
