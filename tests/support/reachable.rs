//! The real codex at a path that every user gets to, that tests run agents as.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::shared::{shared, until_the_run_ends};

/// The program, or the one in a copy of its package where a folder on the way is closed: codex
/// looks for its helpers beside it.
pub fn reachable(program: &Path) -> PathBuf {
    let codex = program.canonicalize().unwrap();
    let is_open = |folder: &Path| folder.metadata().unwrap().permissions().mode() & 0o001 != 0;
    if codex.ancestors().all(is_open) {
        return codex;
    }
    shared("reachable-codex", || copy(&codex))
}

/// Of codex's package; it is removed when the run ends, however that is.
fn copy(codex: &Path) -> PathBuf {
    let folder = tempfile::tempdir().unwrap().keep();
    fs::set_permissions(&folder, Permissions::from_mode(0o755)).unwrap();
    let remover = Command::new("sh")
        .args(["-c", "cat; rm -rf \"$0\""])
        .arg(&folder)
        .stdin(until_the_run_ends())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    // It outlives this process.
    drop(remover.unwrap());
    let package = codex.parent().and_then(Path::parent).unwrap();
    let to = folder.join("package");
    // By links where that can be. In another process: what is open for writing in this one
    // can't be run while another test starts a child.
    let copied = ["-al", "-a"].iter().any(|how| {
        let done = Command::new("cp").arg(how).args([package, &to]).status();
        done.unwrap().success() || {
            let _ = fs::remove_dir_all(&to);
            false
        }
    });
    assert!(copied, "can't copy {package:?} to {to:?}");
    to.join("bin/codex")
}
