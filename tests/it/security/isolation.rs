//! What `check` says of how agents are kept apart, and whether a worker runs
//! without it.

use std::fs::{self, File};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::support::host::{Host, is_root, until};

/// Nobody's.
const AGENT: u32 = 61_005;
const WORKER: u32 = 61_006;

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn call(host: &Host, arguments: &[&str]) -> Command {
    let mut command = host.call(arguments);
    command
        .env("TURN_WORKER_HTTP_ADDR", "127.0.0.1:0")
        // There is no answer there.
        .env("TURN_WORKER_AMQP_URL", "amqp://127.0.0.1:1/%2f")
        .stdin(Stdio::null());
    command
}

/// The details of one check with its status.
fn checked(host: &Host, what: &str) -> Vec<(String, String)> {
    let output = call(host, &["check", "--json"]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let lines = text.lines().map(|line| serde_json::from_str(line).unwrap());
    let field = |line: &Value, name: &str| line[name].as_str().unwrap().to_owned();
    lines
        .filter(|line: &Value| line["check"] == what)
        .map(|line| (field(&line, "status"), field(&line, "detail")))
        .collect()
}

#[track_caller]
fn assert_check(host: &Host, what: &str, status: &str, part: &str) {
    let found = checked(host, what);
    let matches = |(of, detail): &(String, String)| of == status && detail.contains(part);
    assert!(found.iter().any(matches), "{what}, {part}: {found:#?}");
}

/// That neither `serve` nor `run` does anything, and both say why.
#[track_caller]
fn assert_refused(host: &Host, part: &str) {
    for arguments in [&["serve"][..], &["run", "-w", "a", "t"]] {
        let log = host.path().join("log");
        let mut worker = call(host, arguments)
            .stdout(Stdio::null())
            .stderr(File::create(&log).unwrap())
            .spawn()
            .unwrap();
        let mut started = false;
        let status = until("it ends, or starts to serve", || {
            if fs::read_to_string(&log).unwrap().contains("starting") && !started {
                started = true;
                worker.kill().unwrap();
            }
            worker.try_wait().unwrap()
        });
        let stderr = fs::read_to_string(&log).unwrap();
        assert_eq!(status.code(), Some(1), "{arguments:?}: {stderr}");
        assert!(stderr.contains(part), "{arguments:?}: {stderr}");
    }
    assert!(host.runs().is_empty());
}

#[track_caller]
fn assert_broken(host: &Host, part: &str) {
    assert_check(host, "isolation", "fail", part);
    assert_refused(host, part);
}

/// Guards `of_one_user` and `enforce` (src/isolation/mod.rs).
#[test]
fn g8_no_turn_runs_without_isolation_where_that_is_required() {
    let part = "TURN_WORKER_CODEX_RUN_AS names no user";
    let required = || Host::new().set("REQUIRE_ISOLATION", "true");
    assert_broken(&required(), part);
    if is_root("isolation that is required of a worker that is not root") {
        assert_broken(&required().by_user(WORKER), part);
        let isolated = required().run_as(AGENT);
        isolated.run("a", "t").assert_end_turn();
        assert_check(&isolated, "isolation", "ok", "as uid 61005, gid 61005");
    }
}

/// How often a worker logs that while it starts.
fn logged_at_start(host: &Host, text: &str) -> usize {
    let log = host.path().join("log");
    let mut worker = call(host, &["serve"])
        .stderr(File::create(&log).unwrap())
        .spawn()
        .unwrap();
    let read = || fs::read_to_string(&log).unwrap();
    until("it looks for its broker", || {
        read().contains("broker").then_some(())
    });
    worker.kill().unwrap();
    worker.wait().unwrap();
    read().matches(text).count()
}

/// Guards `temporary::findings` (src/isolation/temporary.rs).
#[test]
fn g8_a_home_that_sandboxed_commands_may_write_to_is_warned_of() {
    let open = "CODEX_HOME is /var/tmp/none, below /var/tmp:";
    let host = Host::new().set("CODEX_HOME", "/var/tmp/none");
    assert_eq!(logged_at_start(&host, open), 0);
    let host = host.set("CODEX_SANDBOX", "workspace-write");
    assert_eq!(logged_at_start(&host, open), 1);
    assert_check(&host, "isolation", "warn", open);
}

/// Guards the warning in `of_one_user`.
#[test]
fn g8_a_worker_that_runs_agents_as_root_warns_once_when_it_starts() {
    if !is_root("the warning of a worker that runs as root") {
        return;
    }
    const LOUD: &str = "AGENTS RUN AS ROOT";
    let warnings = |host: &Host| logged_at_start(host, LOUD);
    let host = Host::new();
    assert_eq!(warnings(&host), 1);
    assert_check(&host, "isolation", "warn", LOUD);
    let host = Host::new().run_as(AGENT);
    assert_eq!(warnings(&host), 0);
    let host = Host::new().by_user(WORKER);
    assert_eq!(warnings(&host), 0);
    assert_check(
        &host,
        "isolation",
        "ok",
        "none: agents run as the worker's own user",
    );
}

/// Guards `may_switch` and `Account::find`.
#[test]
fn g8_a_user_that_cannot_be_switched_to_is_reported() {
    if !is_root("whom a worker can run agents as") {
        return;
    }
    let host = Host::new().by_user(WORKER);
    let other = host.set("CODEX_RUN_AS", format!("{AGENT}:{AGENT}"));
    assert_broken(
        &other,
        "lacks CAP_SETUID, CAP_SETGID, CAP_KILL, CAP_CHOWN, CAP_DAC_OVERRIDE",
    );
    let itself = other.set("CODEX_RUN_AS", format!("{WORKER}:{WORKER}"));
    assert_broken(&itself, "the worker's own user");
    let nobody = Host::new().set("CODEX_RUN_AS", "no-such-user");
    let part = "TURN_WORKER_CODEX_RUN_AS: there is no user `no-such-user` on this host";
    assert_check(&nobody, "codex", "fail", part);
    assert_refused(&nobody, part);
}

/// Guards `reach`, line by line.
#[test]
fn g8_agents_that_reach_what_they_must_not_are_not_run() {
    if !is_root("what agents of another user can reach") {
        return;
    }
    let host = Host::new().run_as(AGENT);
    host.run("a", "t").assert_end_turn();
    fs::remove_file(host.stand_in_file("log")).unwrap();
    let (root, records) = (host.workspace(""), host.workspace(".turn-worker"));
    let part = "gets into the worker's records";
    for mode in [0o701, 0o704, 0o702] {
        set_mode(&records, mode);
        assert_broken(&host, part);
    }
    set_mode(&records, 0o700);
    chown(&records, Some(AGENT), None).unwrap();
    assert_broken(&host, part);
    chown(&records, Some(0), None).unwrap();

    set_mode(&root, 0o777);
    assert_broken(&host, "may change");
    // As /tmp is: what is in there can't be moved by others.
    set_mode(&root, 0o1777);
    assert_check(&host, "isolation", "ok", "apart from the worker");
    set_mode(&root, 0o755);
    chown(host.path(), Some(AGENT), None).unwrap();
    assert_broken(&host, "may change");
    chown(host.path(), Some(0), None).unwrap();

    set_mode(&root, 0o700);
    assert_broken(&host, "can't enter the workspace root");
    set_mode(&root, 0o755);
    host.run("a", "t").assert_end_turn();
}

/// Guards the last line of `reach`.
#[test]
fn g8_a_file_with_the_brokers_password_that_agents_can_read_is_reported() {
    if !is_root("files with secrets, and agents of another user") {
        return;
    }
    let host = Host::new().run_as(AGENT);
    let file = host.path().join("url");
    fs::write(&file, "amqp://u:wonderland@127.0.0.1:1/v").unwrap();
    let host = host.set("AMQP_URL_FILE", &file).set("AMQP_URL", "");
    let found = |host: &Host| {
        let output = call(host, &["run", "--json", "-w", "a", "t"])
            .env_remove("TURN_WORKER_AMQP_URL")
            .output()
            .unwrap();
        let told = String::from_utf8(output.stderr).unwrap();
        assert!(!told.contains("wonderland"), "{told}");
        (
            output.status.code(),
            told.contains("holds a secret (TURN_WORKER_AMQP_URL_FILE)"),
        )
    };
    assert_eq!(found(&host), (Some(0), true));
    let host = host.set("REQUIRE_ISOLATION", "true");
    assert_eq!(found(&host), (Some(1), true));
    set_mode(&file, 0o600);
    assert_eq!(found(&host), (Some(0), false));
}

/// Guards `loose_home`.
#[test]
fn g8_a_codex_home_that_agents_can_replace_is_warned_of() {
    if !is_root("a CODEX_HOME that agents of another user can replace") {
        return;
    }
    let part = "decides where the prompts and keys of all turns go";
    let host = Host::new().run_as(AGENT);
    let home = host.path().join("codex/home");
    fs::create_dir_all(&home).unwrap();
    chown(&home, Some(AGENT), Some(AGENT)).unwrap();
    // One that no setting names is not sealed.
    let host = host
        .set("CODEX_ENV", "PATH,CODEX_HOME")
        .env("CODEX_HOME", &home);
    assert_check(&host, "isolation", "warn", part);
    let host = host.set("CODEX_HOME", &home);
    assert_check(&host, "isolation", "ok", "apart from the worker");
    chown(home.parent().unwrap(), Some(AGENT), None).unwrap();
    assert_check(&host, "isolation", "warn", part);
    assert_check(&host, "isolation", "warn", "/codex/home/config.toml");
}

/// Guards src/cli/check/{isolation,codex}.rs.
#[test]
fn check_reports_what_agents_of_another_user_lack() {
    if !is_root("what agents of another user lack") {
        return;
    }
    let host = Host::new().run_as(AGENT);
    host.run("mine", "t").assert_end_turn();
    assert_check(&host, "workspaces", "ok", "1, all of them open");
    fs::create_dir(host.workspace("old")).unwrap();
    fs::write(host.workspace("old").join("file"), "").unwrap();
    host.run("old", "t").assert_end_turn();
    let old = host.workspace("old");
    let part = format!(
        "1 of 2 can't be written to by uid 61005, gid 61005, such as {}",
        old.display()
    );
    assert_check(&host, "workspaces", "fail", &part);
    assert_check(&host, "workspaces", "fail", "chown -hR 61005:61005");

    let closed = host.path().join("closed");
    fs::create_dir(&closed).unwrap();
    let host = host
        .set("CODEX_HOME", &closed)
        .set("CODEX_ENV", "PATH,TMPDIR,STAND_IN_DIR")
        .env("TMPDIR", &closed);
    let part = "can't be written to by uid 61005, gid 61005: Permission denied";
    assert_check(&host, "codex home", "fail", part);
    assert_check(
        &host,
        "isolation",
        "fail",
        "for temporary files: Permission denied",
    );
    let codex = host.path().join("stand-in-codex");
    set_mode(&codex, 0o700);
    assert_check(
        &host,
        "codex",
        "fail",
        "Permission denied (os error 13) (as uid 61005, gid 61005)",
    );
}
