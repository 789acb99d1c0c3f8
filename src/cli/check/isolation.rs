//! Whether agents are kept apart from the worker, and can work all the same.

use std::path::{Path, PathBuf};

use rustix::fs::Access;
use turn_worker::codex::process::Codex;
use turn_worker::config::Settings;
use turn_worker::error::with_sources;
use turn_worker::guard::confine::{User, as_user};
use turn_worker::isolation::{Finding, access, findings};
use turn_worker::workspace::Root;

use super::report::Report;

const WHAT: &str = "isolation";

pub(super) fn check(settings: &Settings, root: &Root, codex: &Codex, report: &mut Report) {
    let agents = turn_worker::serve::agents(settings, &codex.launch);
    let found = findings(settings, &agents, root);
    for finding in &found {
        match finding {
            Finding::Broken(what) => report.fail(WHAT, what),
            Finding::Doubtful(what) => report.warn(WHAT, what),
        }
    }
    let me = rustix::process::geteuid().as_raw();
    let Some(user) = &codex.launch.user else {
        if found.is_empty() {
            let detail = format!("none: agents run as the worker's own user (uid {me})");
            report.ok(WHAT, &detail);
        }
        return;
    };
    if found.iter().any(|one| matches!(one, Finding::Broken(_))) {
        return;
    }
    let detail = format!("agents run as {user}, apart from the worker (uid {me})");
    report.ok(WHAT, &detail);
    temporary_files(user, codex, report);
    workspaces(user, root, report);
}

fn temporary_files(user: &User, codex: &Codex, report: &mut Report) {
    let set = codex.launch.env.iter().find(|(name, _)| name == "TMPDIR");
    let folder = set.map_or("/tmp", |(_, folder)| folder);
    if let Some(error) = closed_to(user, vec![folder.into()]).first() {
        let detail = format!("{user} can't use {folder} for temporary files: {}", error.1);
        report.fail(WHAT, &detail);
    }
}

/// Those that were there before agents got a user of their own.
fn workspaces(user: &User, root: &Root, report: &mut Report) {
    let ids = match root.ids() {
        Ok(ids) => ids,
        Err(error) => return report.fail("workspaces", &with_sources(&error)),
    };
    let count = ids.len();
    let dirs = ids.iter().map(|id| root.path().join(id));
    // A removed one is recreated for its next turn.
    let dirs: Vec<PathBuf> = dirs.filter(|dir| dir.exists()).collect();
    let closed = closed_to(user, dirs);
    let Some((first, error)) = closed.first() else {
        let detail = format!("{count}, all of them open to the agents");
        return report.ok("workspaces", &detail);
    };
    let detail = format!(
        "{} of {count} can't be written to by {user}, such as {}: {error}; give them over with `chown -hR {}:{}`",
        closed.len(),
        first.display(),
        user.uid,
        user.gid
    );
    report.fail("workspaces", &detail);
}

fn closed_to(user: &User, dirs: Vec<PathBuf>) -> Vec<(PathBuf, String)> {
    let way = Access::READ_OK | Access::WRITE_OK | Access::EXEC_OK;
    let look = |dir: &Path| access(dir, way).err().map(|error| error.to_string());
    let looked = as_user(user, || {
        let closed = dirs
            .iter()
            .filter_map(|dir| Some((dir.clone(), look(dir)?)));
        closed.collect()
    });
    looked.unwrap_or_else(|error| vec![(PathBuf::from("/"), error.to_string())])
}
