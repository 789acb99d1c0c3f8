//! Whether the workspace root's file system keeps what the guarantees rest on.

use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use turn_worker::config::Settings;
use turn_worker::error::with_sources;
use turn_worker::serve::lock_lost_after;
use turn_worker::workspace::{LockProbe, Root, check_root, try_lock_path};

use super::report::Report;
use crate::cli::TRY_LOCK;
use crate::cli::exit;
use crate::cli::stderr::notice;

/// What the second process says of the lock by its exit status.
const FREE: u8 = 0;
const HELD: u8 = 3;

pub(super) fn check(settings: &Settings, report: &mut Report) -> Option<Root> {
    let root = match Root::open(&settings.workspace_root) {
        Ok(root) => root,
        Err(error) => {
            report.fail("workspace root", &with_sources(&error));
            return None;
        }
    };
    report.ok("workspace root", &root.path().display().to_string());
    for line in check_root(&root) {
        match line.outcome {
            Ok(()) => report.ok("file system", line.what),
            Err(found) => report.fail("file system", &format!("{}: {found}", line.what)),
        }
    }
    let place = match root.shared_file_system() {
        Some(name) => format!("{name}, which other hosts may share"),
        None => "local, or not known to be shared".to_owned(),
    };
    let only_here = format!(
        "{place}: this is tested from one host only; that others see locks and writes at once is what `turn-worker check --peer` tests"
    );
    match root.shared_file_system() {
        Some(_) => report.warn("file system", &only_here),
        None => report.ok("file system", &only_here),
    }
    match lock_lost_after(settings, &root) {
        Some(after) => report.ok(
            "file system",
            &format!(
                "turns are killed if their lock is not confirmed for {} s",
                after.as_secs_f64()
            ),
        ),
        None => report.ok(
            "file system",
            "locks are not confirmed while turns run (LOCK_LOST_AFTER)",
        ),
    }
    match locks(&root) {
        Ok(None) => report.ok("locks", "what one process holds, another one can't have"),
        Ok(Some(doubt)) => report.warn("locks", doubt),
        Err(error) => report.fail("locks", &error),
    }
    Some(root)
}

/// `None` if the lock was held while this process held it, and free after.
fn locks(root: &Root) -> Result<Option<&'static str>, String> {
    let Some(probe) = LockProbe::take(root).map_err(|error| with_sources(&error))? else {
        return Ok(Some(
            "another check holds the test's lock just now; try again",
        ));
    };
    let path = probe.path().to_owned();
    if second_process(&path)? != HELD {
        return Err(format!(
            "{}: a second process got a lock that the first one holds; this file system can't hold workspaces",
            path.display()
        ));
    }
    drop(probe);
    if second_process(&path)? != FREE {
        return Ok(Some(
            "a lock was still held after it was let go of; does another check run?",
        ));
    }
    Ok(None)
}

fn second_process(path: &Path) -> Result<u8, String> {
    let status = Command::new("/proc/self/exe")
        .arg(TRY_LOCK)
        .arg(path)
        .stdin(Stdio::null())
        .status()
        .map_err(|error| format!("can't start a second process: {error}"))?;
    match status.code().and_then(|code| u8::try_from(code).ok()) {
        Some(code @ (FREE | HELD)) => Ok(code),
        _ => Err(format!("the second process failed ({status})")),
    }
}

/// The second process.
pub(crate) fn try_lock(path: &Path) -> ExitCode {
    match try_lock_path(path) {
        Ok(true) => ExitCode::from(FREE),
        Ok(false) => ExitCode::from(HELD),
        Err(error) => {
            notice(&format!("can't try the lock {}: {error}", path.display()));
            ExitCode::from(exit::FAILURE)
        }
    }
}
