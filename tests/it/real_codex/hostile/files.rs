//! What is no plain file where codex looks for one: a turn runs, or ends with
//! an error that names the file.

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, mknodat};

use super::{ENGINES, Lab};

type Place = fn(&Path);

fn fifo(path: &Path) {
    mknodat(CWD, path, FileType::Fifo, Mode::RWXU, 0).unwrap();
}

fn zeros(path: &Path) {
    symlink("/dev/zero", path).unwrap();
}

/// Of no blocks on the disk.
fn huge(path: &Path) {
    File::create(path).unwrap().set_len(16 << 30).unwrap();
}

fn garbage(path: &Path) {
    fs::write(path, b"\xff\xfe = = \0").unwrap();
}

const KINDS: [(&str, Place); 4] = [
    ("a FIFO", fifo),
    ("/dev/zero", zeros),
    ("16 GiB", huge),
    ("garbage", garbage),
];

fn lab_with(engine: &str, file: &str, place: Place) -> Lab {
    let lab = Lab::new(engine, |host| host);
    let path = lab.host.workspace("w").join(file);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    place(&path);
    lab
}

#[test]
fn a_configuration_that_codex_cant_read_ends_the_turn_and_is_named() {
    for engine in ENGINES {
        for (kind, place) in KINDS {
            let lab = lab_with(engine, ".codex/config.toml", place);
            let turn = lab.run("w", "Hello.", false);
            let (_, reason, retryable, message) = turn.error();
            assert_eq!(
                (reason, retryable),
                ("workspace", false),
                "{engine}, {kind}: {turn:#?}"
            );
            assert!(
                message.contains("/w/.codex/config.toml"),
                "{engine}, {kind}: {message}"
            );
        }
    }
}

/// codex would read the whole of it into memory.
#[test]
fn a_huge_git_file_ends_the_turn_before_codex_reads_it() {
    for engine in ENGINES {
        let lab = lab_with(engine, ".git", huge);
        let turn = lab.run("w", "Hello.", false);
        let (code, reason, retryable, message) = turn.error();
        assert_eq!(
            (code, reason, retryable),
            ("codex.start_failed", "workspace", false),
            "{turn:#?}"
        );
        assert!(
            message.contains("/w/.git is a file of 17179869184 bytes"),
            "{message}"
        );
        assert!(lab.model.requests().is_empty());
    }
}

#[test]
fn no_other_finding_keeps_a_turn_from_running() {
    for engine in ENGINES {
        for (kind, place) in KINDS {
            let lab = Lab::new(engine, |host| host);
            let workspace = lab.host.workspace("w");
            for file in [
                ".codex/rules/x.rules",
                ".codex/hooks.json",
                ".codex/agents/x.toml",
                ".codex/skills/s/SKILL.md",
                ".codex/.env",
                ".agents/skills/s/SKILL.md",
                "AGENTS.override.md",
                "AGENTS.md",
                ".env",
                ".mcp.json",
            ] {
                let path = workspace.join(file);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                place(&path);
            }
            // Larger ones are refused, see above.
            if kind != "16 GiB" {
                place(&workspace.join(".git"));
            }
            lab.run("w", "Hello.", false).assert_end_turn();
            lab.assert_nothing_reached(&format!("{engine}, {kind}"));
        }
    }
}
