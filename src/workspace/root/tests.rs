use super::registration::{OWNER, REGISTRY_LOCK};
use super::*;
use crate::workspace::Workspace;
use crate::workspace::dir::kept;
use crate::workspace::testing::{root, run_claim};
use std::os::unix::fs::{PermissionsExt, symlink};

fn rejection(root: &Root, id: &str) -> Rejection {
    let unusable = |workspace: Workspace| workspace.unusable();
    match root.workspace(id).map(unusable) {
        Err(WorkspaceError::Rejected { why, .. })
        | Ok(Some(WorkspaceError::Rejected { why, .. })) => why,
        other => panic!("{id}: {other:?}"),
    }
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn a_new_workspace_has_a_directory_and_private_state() {
    let (_tmp, root) = root();
    let workspace = root.workspace("acme/website").unwrap();
    assert_eq!(workspace.dir(), root.path().join("acme/website"));
    assert!(workspace.dir().is_dir());
    let state = root
        .path()
        .join(".turn-worker/workspaces/acme/website/.state");
    assert_eq!(workspace.state_dir(), state);
    assert_eq!(mode(&root.path().join(OURS)), 0o700);
    assert_eq!(mode(&state), 0o700);
    assert_eq!(mode(&state.join("claims")), 0o700);
    assert_eq!(mode(&state.join("lock")), 0o600);
}

#[test]
fn opening_a_known_workspace_waits_for_no_disk_and_no_registry() {
    let (_tmp, root) = root();
    root.workspace("a/b").unwrap();
    let registry = root.ours.make_file(REGISTRY_LOCK).unwrap();
    registry.lock().unwrap();
    crate::workspace::durable::syncs::take();
    root.workspace("a/b").unwrap();
    assert_eq!(crate::workspace::durable::syncs::take(), 0);
}

/// One file for each conversation that there ever was.
#[test]
fn g10_opening_a_root_keeps_no_threads_in_memory() {
    let (tmp, root) = root();
    for _ in 0..2_000 {
        let thread = Uuid::new_v4().to_string();
        std::fs::write(root.ours.path().join(THREADS).join(thread), "a").unwrap();
    }
    kept::take();
    assert_eq!(root.threads.names().unwrap().len(), 2_000);
    assert_eq!(kept::take(), 2_000, "nothing is counted");
    Root::open(&tmp.path().join("root")).unwrap();
    assert_eq!(kept::take(), 0);
}

#[test]
fn g3_a_root_inside_a_root_is_refused() {
    let (_tmp, outer) = root();
    for inner in ["a", "a/b/c"] {
        let inner = outer.path().join(inner);
        let error = Root::open(&inner).unwrap_err();
        assert!(matches!(error, RootError::Nested { .. }), "{error}");
        let text = error.to_string();
        for path in [&inner, outer.path()] {
            assert!(text.contains(path.to_str().unwrap()), "{text}");
        }
        assert!(!inner.exists(), "nothing was made");
    }
    // Also over a link, and where the directory is there.
    outer.workspace("w").unwrap();
    let link = outer.path().with_file_name("link");
    symlink(outer.path().join("w"), &link).unwrap();
    Root::open(&link).unwrap_err();
    // The same root again is no other.
    Root::open(outer.path()).unwrap();
}

#[test]
fn g3_a_root_around_a_root_leaves_it_alone() {
    let tmp = tempfile::tempdir().unwrap();
    let around = tmp.path().join("root");
    let inner = Root::open(&around.join("team")).unwrap();
    inner.workspace("w").unwrap();
    inner.probe().unwrap();
    let outer = Root::open(&around).unwrap();
    let path = PathBuf::from("team");
    for id in ["team", "team/w", "team/new/w"] {
        let why = rejection(&outer, id);
        assert_eq!(why, Rejection::OtherRoot { path: path.clone() }, "{id}");
    }
    // What an agent makes in its own workspace is no root.
    let known = outer.workspace("other/w").unwrap();
    std::fs::create_dir_all(known.dir().join(OURS).join(WORKSPACES)).unwrap();
    assert!(outer.workspace("other/w").unwrap().unusable().is_none());
    // The inner one finds out, too.
    let found = crate::error::with_sources(&inner.probe().unwrap_err());
    assert!(found.contains("inside root"), "{found}");
    Root::open(inner.path()).unwrap_err();
}

#[test]
fn g4_no_workspace_is_opened_where_another_file_system_was_mounted() {
    let (_tmp, root) = root();
    root.workspace("a").unwrap();
    // As if: a test can't mount.
    let hidden = root.path().with_file_name("hidden");
    std::fs::rename(root.path(), &hidden).unwrap();
    for covered in [false, true] {
        if covered {
            std::fs::create_dir_all(root.workspaces.path()).unwrap();
        }
        for id in ["a", "new"] {
            let opened = root.workspace(id);
            assert!(matches!(opened, Err(WorkspaceError::Io(_))), "{opened:?}");
        }
    }
    assert!(!hidden.join("new").exists());
}

#[test]
fn g3_no_workspace_lies_inside_another() {
    let (_tmp, root) = root();
    root.workspace("a/b").unwrap();
    for id in ["a/b/c", "a/b/c/d"] {
        let other = "a/b".to_owned();
        assert_eq!(rejection(&root, id), Rejection::Inside { other });
    }
    let other = "a/b".to_owned();
    assert_eq!(rejection(&root, "a"), Rejection::Holds { other });
    assert!(!root.path().join("a/b/c").exists());
    for id in ["a/c", "a/bb", "b"] {
        root.workspace(id).unwrap();
    }
}

#[test]
fn g3_of_nesting_workspaces_registered_at_once_one_comes_to_be() {
    for _ in 0..20 {
        let (_tmp, root) = root();
        let made: usize = std::thread::scope(|scope| {
            let racers = ["a", "a/b", "a/b/c"].map(|id| {
                let root = &root;
                scope.spawn(move || usize::from(root.workspace(id).is_ok()))
            });
            racers.into_iter().map(|r| r.join().unwrap()).sum()
        });
        assert_eq!(made, 1);
    }
}

#[test]
fn a_registration_that_died_is_completed_and_blocks_no_other() {
    let (_tmp, root) = root();
    std::fs::create_dir_all(root.workspaces.path().join("a/b/c")).unwrap();
    root.workspace("a").unwrap();
    std::fs::create_dir_all(root.workspaces.path().join("x/y/.state")).unwrap();
    let other = "x/y".to_owned();
    assert_eq!(rejection(&root, "x"), Rejection::Holds { other });
    let workspace = root.workspace("x/y").unwrap();
    assert!(workspace.try_lock().is_ok());
}

/// As a file system shows it that does not distinguish the cases.
#[test]
fn g3_two_spellings_of_one_directory_are_not_two_workspaces() {
    let (_tmp, root) = root();
    root.workspace("acme/site").unwrap();
    let rename = |from: &str, to: &str| {
        let ours = root.workspaces.path();
        std::fs::rename(ours.join(from), ours.join(to)).unwrap();
    };
    rename("acme", "Acme");
    let other = "acme/site".to_owned();
    assert_eq!(rejection(&root, "Acme/site"), Rejection::Spelling { other });
    rename("Acme", "acme");
    root.workspace("acme/site").unwrap();
}

#[test]
fn a_workspace_registered_before_ids_were_kept_is_known_still() {
    let (_tmp, root) = root();
    let state = root.workspace("a").unwrap().state_dir().to_owned();
    std::fs::remove_file(state.join(OWNER)).unwrap();
    root.workspace("a").unwrap();
}

#[test]
fn a_removed_directory_is_made_again() {
    let (_tmp, root) = root();
    let workspace = root.workspace("a/b").unwrap();
    std::fs::remove_dir_all(root.path().join("a")).unwrap();
    root.workspace("a/b").unwrap();
    assert!(workspace.dir().is_dir());
}

#[test]
fn g8_no_id_leads_out_of_the_root() {
    let (_tmp, root) = root();
    for id in [
        "",
        "/etc",
        "..",
        "a/../..",
        "../x",
        ".turn-worker",
        "a/.state",
    ] {
        rejection(&root, id);
    }
}

#[test]
fn g8_no_segment_may_be_a_symlink_or_a_file() {
    let (tmp, root) = root();
    let outside = tmp.path().join("outside");
    std::fs::create_dir_all(outside.join("b/c")).unwrap();
    for known in [false, true] {
        for (at, id) in [
            ("s", "s"),
            ("t", "t/b/c"),
            ("u/b", "u/b/c"),
            ("v/w/c", "v/w/c"),
        ] {
            if known {
                let _ = std::fs::remove_file(root.path().join(at));
                root.workspace(id).unwrap();
                std::fs::remove_dir_all(root.path().join(at)).unwrap();
            }
            let at = root.path().join(at);
            std::fs::create_dir_all(at.parent().unwrap()).unwrap();
            let _ = std::fs::remove_file(&at);
            symlink(&outside, &at).unwrap();
            let why = rejection(&root, id);
            assert!(
                matches!(why, Rejection::NotADirectory { found, .. } if found == "a symbolic link"),
                "{id}: {why}"
            );
            std::fs::remove_file(&at).unwrap();
            std::fs::write(&at, "").unwrap();
            let why = rejection(&root, id);
            assert!(
                matches!(why, Rejection::NotADirectory { found, .. } if found == "a file"),
                "{id}: {why}"
            );
        }
    }
    assert!(!outside.join("b/c/d").exists());
    assert_eq!(std::fs::read_dir(outside.join("b/c")).unwrap().count(), 0);
}

#[test]
fn g5_verdicts_on_workspaces_that_can_not_be_are_kept_apart() {
    let (_tmp, root) = root();
    root.workspace("a").unwrap();
    for id in ["a/b", "a/c", "a"] {
        let claims = root.rejected_in(id).unwrap();
        assert_eq!(claims.find("t").unwrap(), None, "{id}");
        claims.claim("t", &run_claim()).unwrap();
        assert!(root.rejected_in(id).unwrap().find("t").unwrap().is_some());
    }
    assert_eq!(root.rejected().find("t").unwrap(), None);
    assert_eq!(
        root.workspace("a").unwrap().claims().find("t").unwrap(),
        None
    );
    // Nor does it count as a workspace.
    root.rejected_in("x/y").unwrap();
    root.workspace("x").unwrap();
}

#[test]
fn g8_our_own_folders_are_not_reached_over_symlinks_either() {
    let (tmp, root) = root();
    let outside = tmp.path().join("outside");
    std::fs::create_dir_all(&outside).unwrap();
    symlink(&outside, root.workspaces.path().join("a")).unwrap();
    // Not the request's fault, and so no verdict on it.
    for id in ["a", "a/b"] {
        assert!(matches!(root.workspace(id), Err(WorkspaceError::Io(_))));
    }
    assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0);

    let other = tmp.path().join("other");
    std::fs::create_dir(&other).unwrap();
    symlink(&outside, other.join(OURS)).unwrap();
    assert!(Root::open(&other).is_err());
    assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0);
}

#[test]
fn the_root_itself_may_be_reached_over_a_symlink() {
    let (tmp, root) = root();
    let link = tmp.path().join("link");
    symlink(root.path(), &link).unwrap();
    assert_eq!(Root::open(&link).unwrap().path(), root.path());
}

#[test]
fn g4_a_root_that_can_be_written_to_passes_and_keeps_no_trace() {
    let (_tmp, root) = root();
    root.probe().unwrap();
    assert!(root.workspaces.names().unwrap().is_empty());
}

#[test]
fn g4_a_root_with_replaced_folders_fails_until_they_are_back() {
    let (tmp, root) = root();
    let (ours, aside) = (root.ours.path().to_owned(), tmp.path().join("aside"));
    std::fs::rename(&ours, &aside).unwrap();
    let replaced: [&dyn Fn(); 4] = [
        &|| {},
        &|| std::fs::write(&ours, "").unwrap(),
        &|| symlink("/nowhere", &ours).unwrap(),
        &|| std::fs::create_dir_all(ours.join(WORKSPACES)).unwrap(),
    ];
    for replace in replaced {
        replace();
        let error = root.probe().unwrap_err();
        assert!(error.path.starts_with(&ours), "{error}");
        let _ = std::fs::remove_file(&ours);
        let _ = std::fs::remove_dir_all(&ours);
    }
    std::fs::rename(&aside, &ours).unwrap();
    root.probe().unwrap();
}

#[test]
fn a_root_that_is_no_directory_names_path_and_variable() {
    let (tmp, _) = root();
    let file = tmp.path().join("file");
    std::fs::write(&file, "").unwrap();
    let error = Root::open(&file).unwrap_err().to_string();
    assert!(error.contains(VARIABLE), "{error}");
    assert!(error.contains(&file.display().to_string()), "{error}");
}

/// As the mount point of a file system that does not answer, a link to itself exists, and can't be looked at.
#[test]
fn a_root_that_can_not_be_looked_at_is_reported_with_the_reason() {
    let tmp = tempfile::tempdir().unwrap();
    let path = tmp.path().join("root");
    std::os::unix::fs::symlink(&path, &path).unwrap();
    let error = crate::error::with_sources(&Root::open(&path).unwrap_err());
    assert!(error.contains("os error 40"), "{error}");
}
