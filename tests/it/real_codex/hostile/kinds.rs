//! Other folders than the workspace, other paths to it, and workspaces that
//! the operator does trust.

use std::fs;
use std::os::unix::fs::symlink;
use std::process::Command;

use super::{ENGINES, Lab, create};

/// Without this, the other tests could not fail.
#[test]
fn where_workspaces_are_trusted_their_traps_close() {
    for engine in ENGINES {
        let lab = Lab::new(engine, |host| {
            host.set("CODEX_SANDBOX", "workspace-write")
                .set("CODEX_TRUST_WORKSPACES", "true")
        });
        lab.traps().lay(&lab.host.workspace("w"));
        let turn = lab.run("w", "run: echo \"[$EVIL]\"", false);
        turn.assert_end_turn();
        let said = turn.said().join("\n");
        assert!(said.contains("[set]"), "{engine}: {said}");
        let reached = lab.reached().join("\n");
        for trap in [
            "POST /mcp",
            "ran-mcp-server",
            "ran-git-filter",
            "ran-bash-env",
            "evil-model",
        ] {
            assert!(reached.contains(trap), "{engine}, {trap}: {reached}");
        }
        let config = fs::read_to_string(lab.home().join("config.toml")).unwrap();
        assert_eq!(config, lab.config, "codex itself trusts nothing");
    }
}

#[test]
fn g8_a_folder_above_has_no_effect_and_is_not_trusted() {
    for engine in ENGINES {
        let mut lab = Lab::new(engine, |host| host);
        let (outer, workspace) = (lab.host.workspace("acme"), lab.host.workspace("acme/site"));
        lab.traps().lay(&outer);
        fs::create_dir_all(&workspace).unwrap();
        lab.run("acme/site", "Hello.", false).assert_end_turn();
        lab.assert_nothing_reached(engine);
        lab.trust(&[outer, lab.host.workspace("")]);
        lab.run("acme/site", "Hello.", true).assert_end_turn();
        lab.assert_nothing_reached(engine);
    }
}

/// As `git worktree` lays it out: codex takes the trust of the repository.
#[test]
fn g8_a_git_file_borrows_no_trust_of_another_workspace() {
    for engine in ENGINES {
        let mut lab = Lab::new(engine, |host| host);
        let (victim, workspace) = (lab.host.workspace("victim"), lab.host.workspace("w"));
        fs::create_dir_all(&victim).unwrap();
        let made = Command::new("git")
            .args(["init", "--quiet"])
            .arg(&victim)
            .status();
        assert!(made.unwrap().success());
        let tree = victim.join(".git/worktrees/x");
        create(&tree.join("commondir"), "../..\n");
        create(
            &tree.join("gitdir"),
            &format!("{}/.git\n", workspace.display()),
        );
        create(&tree.join("HEAD"), "ref: refs/heads/x\n");
        lab.traps().configure(&workspace);
        create(
            &workspace.join(".git"),
            &format!("gitdir: {}\n", tree.display()),
        );
        lab.run("w", "Hello.", false).assert_end_turn();
        lab.assert_nothing_reached(engine);
        lab.trust(&[victim]);
        lab.run("w", "Hello.", true).assert_end_turn();
        lab.assert_nothing_reached(engine);
    }
}

#[test]
fn g8_no_path_to_the_root_makes_a_workspace_trusted() {
    for engine in ENGINES {
        for name in ["link", "a \"b\" \\ # = [c].d 'e' é\n\tf"] {
            let mut lab = Lab::new(engine, |host| host);
            let odd = lab.host.path().join(name);
            if name == "link" {
                symlink(lab.host.path().join("workspaces"), &odd).unwrap();
            } else {
                fs::rename(lab.host.path().join("workspaces"), &odd).unwrap();
                // Where the tests look for processes of the workspace.
                symlink(&odd, lab.host.path().join("workspaces")).unwrap();
            }
            lab = lab.map(|host| host.set("WORKSPACE_ROOT", odd.clone()));
            lab.traps().configure(&odd.join("w"));
            let mut spellings = vec![odd.join("w"), odd.canonicalize().unwrap().join("w")];
            spellings.dedup();
            lab.trust(&spellings);
            lab.run("w", "Hello.", false).assert_end_turn();
            lab.assert_nothing_reached(&format!("{engine}, {name}"));
        }
    }
}
