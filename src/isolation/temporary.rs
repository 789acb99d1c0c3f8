//! What lies where a sandboxed command may write.
//!
//! codex's `workspace-write` sandbox lets commands write to the workspace, and
//! to the folders for temporary files, which all workspaces share.

use std::path::{Path, PathBuf};

use super::{Agents, Finding};
use crate::config::{Sandbox, Settings};
use crate::workspace::Root;

/// Everywhere, regardless of the agents' environment.
const TEMPORARY: [&str; 2] = ["/tmp", "/var/tmp"];

pub(super) fn findings(settings: &Settings, agents: &Agents<'_>, root: &Root) -> Vec<Finding> {
    if settings.codex_sandbox != Sandbox::WorkspaceWrite {
        return Vec::new();
    }
    let tmpdir = agents.tmpdir.filter(|folder| folder.starts_with('/'));
    let temporary: Vec<&Path> = (TEMPORARY.into_iter().chain(tmpdir))
        .map(Path::new)
        .collect();
    below(&temporary, root.path(), agents.home.as_deref())
}

fn below(temporary: &[&Path], root: &Path, home: Option<&Path>) -> Vec<Finding> {
    let root = ("the workspace root", root);
    let home = home.map(|home| ("CODEX_HOME", home));
    let places = [root].into_iter().chain(home);
    places
        .filter_map(|(name, path)| {
            let folder = first_above(path, temporary)?;
            Some(Finding::Doubtful(format!(
                "{name} is {}, below {}: a folder for temporary files, in which commands of every workspace may \
                 write with TURN_WORKER_CODEX_SANDBOX=workspace-write",
                path.display(),
                folder.display()
            )))
        })
        .collect()
}

/// The first of the folders that a path is in, after links are followed.
fn first_above<'a>(path: &Path, folders: &[&'a Path]) -> Option<&'a Path> {
    let path = resolved(path);
    let mut folders = folders.iter().copied();
    folders.find(|folder| path.starts_with(resolved(folder)))
}

/// Also of what is not there yet: by the nearest folder above it that is.
fn resolved(path: &Path) -> PathBuf {
    for above in path.ancestors() {
        if let (Ok(real), Ok(below)) = (above.canonicalize(), path.strip_prefix(above)) {
            return real.join(below);
        }
    }
    path.to_owned()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn g8_a_path_is_below_a_folder_also_by_links_and_before_it_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for name in ["temporary/inside", "elsewhere", "temporary-not"] {
            std::fs::create_dir_all(at(name)).unwrap();
        }
        symlink(at("temporary/inside"), at("link-in")).unwrap();
        symlink(at("elsewhere"), at("temporary/link-out")).unwrap();
        symlink(at("temporary"), at("tmp-link")).unwrap();
        let temporary = at("temporary");
        for folder in [at("temporary"), at("tmp-link")] {
            for (path, is_below) in [
                ("temporary", true),
                ("temporary/inside", true),
                ("temporary/not/there/yet", true),
                ("link-in", true),
                ("link-in/not-yet", true),
                ("temporary/link-out", false),
                ("temporary/link-out/not-yet", false),
                ("elsewhere", false),
                ("temporary-not", false),
                ("not-there", false),
            ] {
                let found = first_above(&at(path), &[Path::new("/nowhere"), &folder]);
                assert_eq!(found, is_below.then_some(&*folder), "{path}");
            }
        }
        assert_eq!(first_above(dir.path(), &[&temporary]), None);
    }

    fn texts(findings: Vec<Finding>) -> Vec<String> {
        let text = |finding| match finding {
            Finding::Doubtful(what) => what,
            Finding::Broken(what) => panic!("{what}"),
        };
        findings.into_iter().map(text).collect()
    }

    #[test]
    fn g8_root_and_home_are_named_where_they_are_below_such_a_folder() {
        let (temporary, root) = (Path::new("/x/temporary"), Path::new("/x/temporary/root"));
        let home = Path::new("/x/home");
        let [found] = &texts(below(&[temporary], root, Some(home)))[..] else {
            panic!("not only the root is below it");
        };
        let begin = "the workspace root is /x/temporary/root, below /x/temporary: ";
        assert!(found.starts_with(begin), "{found}");
        let [found] = &texts(below(&[temporary], home, Some(root)))[..] else {
            panic!("not only the home is below it");
        };
        let begin = "CODEX_HOME is /x/temporary/root, below /x/temporary: ";
        assert!(found.starts_with(begin), "{found}");
        assert!(below(&[temporary], home, None).is_empty());
    }

    #[test]
    fn g8_only_the_sandbox_that_lets_commands_write_there_is_warned_of() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::open(dir.path()).unwrap();
        let agents = |home: &str, tmpdir| Agents {
            user: None,
            home: Some(home.into()),
            tmpdir,
        };
        for (sandbox, home, tmpdir, named) in [
            ("bypass", "/tmp/home", None, false),
            ("read-only", "/tmp/home", None, false),
            ("workspace-write", "/tmp/home", None, true),
            ("workspace-write", "/var/tmp/home", None, true),
            ("workspace-write", "/nowhere/home", None, false),
            ("workspace-write", "/nowhere/home", Some("/nowhere"), true),
            ("workspace-write", "/nowhere/home", Some("nowhere"), false),
        ] {
            let set = ("TURN_WORKER_CODEX_SANDBOX", sandbox);
            let set = [(set.0.to_owned(), set.1.to_owned())];
            let (settings, _) = Settings::from_vars(set).unwrap();
            let found = texts(findings(&settings, &agents(home, tmpdir), &root));
            let is_named = found.iter().any(|what| what.starts_with("CODEX_HOME is "));
            assert_eq!(is_named, named, "{sandbox} {home} {tmpdir:?}");
        }
    }
}
