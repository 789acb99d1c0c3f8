//! Whether there is a codex that runs, as a turn would run it.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use turn_worker::codex::program::{Launch, Program, ProgramError};
use turn_worker::config::EngineKind;
use turn_worker::guard::Guards;
use turn_worker::guard::confine::{Limits, User};

use crate::support::host::{is_root, write_program};

/// Nobody's.
const AGENT: u32 = 61_009;

fn launch() -> Launch {
    Launch {
        guards: Guards::new(env!("CARGO_BIN_EXE_turn-worker").into()),
        engine: EngineKind::AppServer,
        env: vec![("PATH".to_owned(), std::env::var("PATH").unwrap())],
        user: None,
        limits: Limits::default(),
        kill_timeout: super::KILL_TIMEOUT,
    }
}

fn script(path: &Path, text: &str) {
    write_program(path, &format!("#!/bin/sh\n{text}\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_that_moves_codex_is_followed() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().canonicalize().unwrap();
    let (one, two, link) = (dir.join("1"), dir.join("2"), dir.join("codex"));
    script(&one, "echo codex-cli 1");
    script(&two, "echo codex-cli 2");
    symlink(&one, &link).unwrap();
    let program = Program::find(link.to_str().unwrap(), OsString::new()).unwrap();
    assert_eq!(program.path(), one);
    assert!(!program.is_as_tried());
    for _ in 0..2 {
        assert_eq!(program.version(&launch()).await.unwrap(), "1");
        assert!(program.is_as_tried());
        assert_eq!(program.generation(), 1);
    }

    fs::remove_file(&link).unwrap();
    assert!(!program.is_as_tried());
    let missing = program.version(&launch()).await.unwrap_err();
    assert!(matches!(missing, ProgramError::Missing(_)), "{missing}");
    assert_eq!((program.path(), program.generation()), (one, 1));

    symlink(&two, &link).unwrap();
    assert!(!program.is_as_tried());
    assert_eq!(program.version(&launch()).await.unwrap(), "2");
    assert_eq!((program.path(), program.generation()), (two.clone(), 2));
    assert!(program.is_as_tried());
    // In its place, but no more the same.
    script(&two, "echo codex-cli 2.1");
    assert!(!program.is_as_tried());
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_does_not_run_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("codex");
    for (text, says) in [
        ("echo libfoo.so: not found >&2; exit 127", "libfoo.so"),
        ("kill -9 $$", "signal: 9"),
    ] {
        script(&path, text);
        let program = Program::find(path.to_str().unwrap(), OsString::new()).unwrap();
        let error = program.version(&launch()).await.unwrap_err();
        assert!(matches!(error, ProgramError::Failed { .. }), "{error}");
        assert!(error.to_string().contains(says), "{error}");
        assert!(!program.is_as_tried());
    }
}

/// Its file may be the agents' to write. Guards `tell_version`
/// (src/codex/program.rs).
#[tokio::test(flavor = "multi_thread")]
async fn g8_it_is_never_run_as_the_worker_where_agents_are_another_user() {
    if !is_root("codex's version as another user") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(dir.path(), open).unwrap();
    let path = dir.path().join("codex");
    script(&path, "echo $(id -u):$(id -g):$(id -G)");
    let launch = Launch {
        user: Some(User {
            uid: AGENT,
            gid: AGENT,
            groups: Vec::new(),
        }),
        ..launch()
    };
    let program = Program::find(path.to_str().unwrap(), OsString::new()).unwrap();
    let told = program.version(&launch).await.unwrap();
    assert_eq!(told, format!("{AGENT}:{AGENT}:{AGENT}"));
}
