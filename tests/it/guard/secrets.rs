//! What an agent can find out about its worker (G8).

use std::fs::{self, File};
use std::io::Write;
use std::process::Command;

use turn_worker::guard::Exit;

use super::Script;
use crate::support::host::Host;

/// Nobody's; any that is not root would do.
const UNPRIVILEGED: u32 = 65534;

/// A host with a secret in the worker's environment.
fn host() -> Host {
    Host::new()
        .set("AMQP_URL", "amqp://user:wonderland@127.0.0.1:1/%2f")
        .env("SECRET", "wonderland")
}

#[test]
fn g8_the_agents_environment_is_the_allow_list_and_the_tag() {
    let host = host();
    let turn = host.run("a", "t\nenv");
    turn.assert_end_turn();
    let environment = turn.said().remove(0);
    let mut names: Vec<_> = environment
        .lines()
        .map(|line| line.split_once('=').unwrap().0)
        .collect();
    names.sort_unstable();
    assert_eq!(
        names,
        [
            // See `without_git_status` (src/codex/workspace_config.rs).
            "GIT_CONFIG_COUNT",
            "GIT_CONFIG_KEY_0",
            "GIT_CONFIG_VALUE_0",
            "HOME",
            "PATH",
            "STAND_IN_DIR",
            "TURN_WORKER_TAG",
            "TURN_WORKER_WORKSPACE"
        ]
    );
    let tag = format!(
        "TURN_WORKER_WORKSPACE={}",
        host.workspace("a").to_str().unwrap()
    );
    assert!(turn.said()[0].lines().any(|line| line == tag));
}

#[test]
fn g8_codex_inherits_no_descriptor() {
    let host = host();
    let mut secret = tempfile::NamedTempFile::new().unwrap();
    secret.write_all(b"wonderland").unwrap();
    // The worker itself gets one too many, as from a careless init script.
    let inner = host.command("a");
    let mut outer = Command::new("sh");
    outer
        .args(["-c", "exec 7< \"$0\"; exec \"$@\""])
        .arg(secret.path())
        .arg(inner.get_program())
        .args(inner.get_args())
        .env_clear()
        .envs(
            inner
                .get_envs()
                .filter_map(|(name, value)| Some((name, value?))),
        )
        .current_dir(host.path());
    let prompt = "t\nrun ls /proc/self/fd\nrun cat <&7";
    let turn = host.start_command(outer, "a", prompt).ended();
    let printed = turn.printed();
    // Two more: what the stand-in holds itself, and the folder that is being listed.
    assert_eq!(printed[0].lines().count(), 3 + 2, "{printed:?}");
    assert_eq!(printed[1], "");
}

/// The path was checked when it was opened; it may lead elsewhere by now.
/// Guards `fchdir` in `Confinement::enter` (src/guard/confine.rs).
#[tokio::test(flavor = "multi_thread")]
async fn g8_codex_starts_in_the_directory_that_was_opened_wherever_its_path_leads() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().canonicalize().unwrap();
    let (workspace, moved) = (root.join("workspace"), root.join("moved"));
    fs::create_dir(&workspace).unwrap();
    let opened = File::open(&workspace).unwrap();
    fs::rename(&workspace, &moved).unwrap();
    std::os::unix::fs::symlink("/etc", &workspace).unwrap();
    let args = ["-c", "pwd -P"];
    let mut script = Script::start_opened(opened, &workspace, dir, "/bin/sh", &args);
    assert_eq!(script.line().await, moved.to_str().unwrap());
    assert_eq!(script.closed().await.exit, Exit::Code(0));
}

/// The agent looks at its ancestors: the guard, then the worker.
#[test]
fn g8_the_worker_and_the_guard_cannot_be_looked_into() {
    let host = host();
    let host = if rustix::process::geteuid().is_root() {
        host.by_user(UNPRIVILEGED)
    } else {
        host
    };
    let script = "pid=$PPID; for who in codex guard worker; do \
                  for what in environ mem fd maps; do \
                  ls /proc/$pid/$what/ >/dev/null 2>&1 && echo $who $what can be listed; \
                  head -c 1 /proc/$pid/$what >/dev/null 2>&1 && echo $who $what can be read; done; \
                  grep -c wonderland /proc/$pid/cmdline; \
                  pid=$(sed 's/.*) . //; s/ .*//' /proc/$pid/stat); done; id -u";
    let turn = host.run("a", &format!("t\nrun {script}"));
    turn.assert_end_turn();
    let printed = turn.printed()[0];
    let expected = format!(
        "codex environ can be read\ncodex fd can be listed\ncodex maps can be read\n0\n0\n0\n{}\n",
        if rustix::process::geteuid().is_root() {
            UNPRIVILEGED
        } else {
            rustix::process::getuid().as_raw()
        }
    );
    assert_eq!(printed, expected);
}
