//! The real codex at a path that every user gets to, that tests run agents as.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

/// A copy of codex's package, and what removes it when this process ends, however that is.
struct Copy {
    codex: PathBuf,
    _remover: Child,
}

/// The program, or the one in a copy of its package where a folder on the way is closed: codex
/// looks for its helpers beside it.
pub fn reachable(program: &Path) -> PathBuf {
    static COPY: OnceLock<Copy> = OnceLock::new();
    let codex = program.canonicalize().unwrap();
    let is_open = |folder: &Path| folder.metadata().unwrap().permissions().mode() & 0o001 != 0;
    if codex.ancestors().all(is_open) {
        return codex;
    }
    COPY.get_or_init(|| copy(&codex)).codex.clone()
}

fn copy(codex: &Path) -> Copy {
    let folder = tempfile::tempdir().unwrap().keep();
    fs::set_permissions(&folder, Permissions::from_mode(0o755)).unwrap();
    let remover = Command::new("sh")
        .args(["-c", "cat; rm -rf \"$0\""])
        .arg(&folder)
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
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
    Copy {
        codex: to.join("bin/codex"),
        _remover: remover,
    }
}
