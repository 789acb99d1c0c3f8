//! Agents of another user (CODEX_RUN_AS).

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::Path;
use std::process::Command;

use crate::support::host::{Host, Turn, is_root, write_program};

/// Nobody's. Processes are counted by user, so a test that limits them has
/// one of its own.
const AGENT: u32 = 61_002;
const CROWDED_AGENT: u32 = 61_003;
const WORKER: u32 = 61_004;
const STORMY_AGENT: u32 = 61_009;

fn ids(path: &Path) -> (u32, u32) {
    let meta = fs::symlink_metadata(path).unwrap();
    (meta.uid(), meta.gid())
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// `turn-worker run` as another program is to start it.
fn under(host: &Host, wrapper: &[&str], worker: &Path, workspace: &str) -> Command {
    let inner = host.command(workspace);
    let set = inner.get_envs();
    let mut outer = Command::new(wrapper[0]);
    outer
        .args(&wrapper[1..])
        .arg(worker)
        .args(inner.get_args())
        .env_clear()
        .envs(set.filter_map(|(name, value)| Some((name, value?))))
        .current_dir(host.path());
    outer
}

fn program() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_turn-worker"))
}

fn lines(text: &str) -> Vec<&str> {
    text.lines().collect()
}

/// Guards `Switch::become_for_good` and the no-new-privileges of
/// `Confinement::enter` (src/guard/confine.rs).
const WHO: &str = "grep -E '^(Uid|Gid|Groups|Cap(Inh|Prm|Eff|Amb)|NoNewPrivs)' /proc/self/status \
                   | tr -d ' ' | tr '\\t' ' '";

fn who(agent: u32) -> String {
    let nothing = "0".repeat(16);
    format!(
        "Uid: {agent} {agent} {agent} {agent}\nGid: {agent} {agent} {agent} {agent}\nGroups: \n\
         CapInh: {nothing}\nCapPrm: {nothing}\nCapEff: {nothing}\nCapAmb: {nothing}\nNoNewPrivs: 1\n"
    )
}

#[test]
fn g8_an_agent_of_another_user_is_only_that_user_and_stays_so() {
    if !is_root("who agents of another user are") {
        return;
    }
    let host = Host::new().run_as(AGENT);
    let guard = "$(sed 's/.*) . //; s/ .*//' /proc/$PPID/stat)";
    let prompt = format!(
        "t\nrun {WHO}\nrun setpriv --reuid 0 true\nrun setpriv --regid 0 true\nrun kill -9 {guard}"
    );
    // A worker with groups of its own.
    let wrapper = ["setpriv", "--groups", "0,42"];
    let outer = under(&host, &wrapper, program(), "a");
    let turn = host.start_command(outer, "a", &prompt).ended();
    turn.assert_end_turn();
    assert_eq!(turn.printed()[0], who(AGENT));
    let failed = turn.events.iter().filter(|event| event["is_error"] == true);
    assert_eq!(failed.count(), 3, "{turn:#?}");
}

/// What codex is to read lies in memory, where its user can open it.
#[test]
fn an_agent_of_another_user_is_shown_images() {
    if !is_root("images for agents of another user") {
        return;
    }
    let host = Host::new().run_as(AGENT);
    let image = host.path().join("a.png");
    fs::write(&image, b"\x89PNG\r\n\x1a\n").unwrap();
    set_mode(&image, 0o600);
    let mut command = host.call(&["run", "--json", "--workspace", "a"]);
    command.arg("--image").arg(&image).arg("-");
    let turn = host.start_command(command, "a", "t\nimages").ended();
    turn.assert_end_turn();
    assert_eq!(turn.said(), ["8"]);
}

/// Where the worker is not root, the system drops no capability by itself when the
/// user changes: guards `set_capabilities` in `Switch::become_for_good`.
#[test]
fn g8_what_lets_a_worker_switch_users_is_not_handed_on() {
    if !is_root("capabilities of a worker that is not root") {
        return;
    }
    let host = Host::new().run_as(AGENT);
    let worker = host.path().join("turn-worker");
    let copied = Command::new("cp").args([program(), &worker]).status();
    assert!(copied.unwrap().success());
    for folder in [".", "workspaces"] {
        chown(host.path().join(folder), Some(WORKER), Some(WORKER)).unwrap();
    }
    let id = WORKER.to_string();
    let privileges = "+setuid,+setgid,+kill,+chown,+dac_override,+sys_ptrace";
    let wrapper = [
        &["setpriv", "--reuid", &id, "--regid", &id, "--clear-groups"][..],
        &["--inh-caps", privileges, "--ambient-caps", privileges],
    ];
    let outer = under(&host, &wrapper.concat(), &worker, "a");
    let turn = host
        .start_command(outer, "a", &format!("t\ndaemon left\nrun {WHO}"))
        .ended();
    turn.assert_end_turn();
    assert_eq!(turn.printed()[0], who(AGENT));
    assert_eq!(ids(&host.session_file("a")), (AGENT, AGENT));
}

/// Guards `Root::agent_dir`, `Dir::give_if_new`, `Dir::make_passage`
/// (src/workspace) and the session file's owner.
#[test]
fn g8_the_workspace_is_the_agents_and_what_is_above_it_is_not() {
    if !is_root("whose the workspaces of agents of another user are") {
        return;
    }
    let host = Host::new().run_as(AGENT);
    // A worker with files that are closed by default.
    let wrapper = ["sh", "-c", "umask 077; exec \"$0\" \"$@\""];
    let outer = under(&host, &wrapper, program(), "acme/site");
    let prompt = "t\nrun mkdir made && cd ../../acme/site/made && pwd -P\n\
                  run ls ../../.turn-worker\n\
                  run cat ../../.turn-worker/registry.lock\n\
                  run mv ../site ../other\n\
                  run mv ../../.turn-worker ../../other\n\
                  run touch ../x ../../x";
    let turn = host.start_command(outer, "acme/site", prompt).ended();
    turn.assert_end_turn();
    let made = host.workspace("acme/site/made");
    assert_eq!(lines(turn.printed()[0]), [made.to_str().unwrap()]);
    let failed = turn.events.iter().filter(|event| event["is_error"] == true);
    assert_eq!(failed.count(), 5, "{turn:#?}");

    assert_eq!(ids(&made), (AGENT, AGENT));
    assert_eq!(ids(&host.workspace("acme/site")), (AGENT, AGENT));
    assert_eq!(ids(&host.session_file("acme/site")), (AGENT, AGENT));
    assert_eq!(ids(&host.workspace("acme")), (0, 0));
    let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o7777;
    assert_eq!(mode(&host.workspace("acme")), 0o755);
    assert_eq!(mode(&host.workspace(".turn-worker")), 0o700);
}

/// Guards the conditions of `Dir::give_if_new` (src/workspace/dir.rs).
#[test]
fn g8_only_an_empty_directory_is_given_to_the_agents_unasked() {
    if !is_root("which directories are given to agents") {
        return;
    }
    let host = Host::new().run_as(AGENT);
    for name in ["empty", "full", "another"] {
        fs::create_dir(host.workspace(name)).unwrap();
    }
    fs::write(host.workspace("full").join("file"), "").unwrap();
    chown(host.workspace("another"), Some(WORKER), Some(WORKER)).unwrap();
    for name in ["empty", "full", "another"] {
        host.run(name, "t").assert_end_turn();
    }
    assert_eq!(ids(&host.workspace("empty")), (AGENT, AGENT));
    assert_eq!(ids(&host.workspace("full")), (0, 0));
    assert_eq!(ids(&host.workspace("full").join("file")), (0, 0));
    assert_eq!(ids(&host.workspace("another")), (WORKER, WORKER));
}

/// What an agent puts in the place of the session file, or of the file that
/// becomes it, and whether the next turn says so. Guards `session::read` and
/// `Dir::write_atomic_over` (src/workspace), by a worker that the system
/// stops nowhere.
#[test]
fn g8_a_root_worker_never_writes_through_what_an_agent_has_put_there() {
    if !is_root("the session file of agents of another user") {
        return;
    }
    let host = Host::new().run_as(AGENT);
    let precious = host.path().join("precious");
    let thread = "01a201f5-61c9-7403-9850-cc317d92e3b1";
    fs::write(&precious, thread).unwrap();
    set_mode(&precious, 0o666);
    let (session, temp) = (".plexum-codex-session", ".plexum-codex-session.tmp~");
    let path = precious.to_str().unwrap();
    for (name, plant, told) in [
        (
            "link",
            format!("rm {session}; ln -s {path} {session}"),
            true,
        ),
        ("fifo", format!("rm {session}; mkfifo {session}"), true),
        (
            "huge",
            format!("truncate -s 8E {session} || truncate -s 1T {session}"),
            true,
        ),
        ("other", format!("echo --help > {session}"), true),
        ("folder", format!("rm {session}; mkdir {session}"), true),
        ("hard", format!("rm {session}; ln {path} {session}"), false),
        (
            "temp-link",
            format!("rm {session}; ln -s {path} {temp}"),
            false,
        ),
        (
            "temp-hard",
            format!("rm {session}; ln {path} {temp}"),
            false,
        ),
    ] {
        // After the worker has written there in this turn.
        let written = format!("until [ -e {session} ]; do sleep 0.01; done");
        host.run(name, &format!("t\nrun {written}; {plant}"))
            .assert_end_turn();
        let turn = host.run(name, "u\nsay hi");
        turn.assert_end_turn();
        let ignored = turn.notices().contains(&"workspace.session_ignored");
        assert_eq!(ignored, told, "{name}: {turn:#?}");
        assert_eq!(fs::read_to_string(&precious).unwrap(), thread, "{name}");
        assert_eq!(ids(&precious), (0, 0), "{name}");
        if name != "folder" {
            let kept = fs::read_to_string(host.session_file(name)).unwrap();
            assert_eq!(kept.trim(), turn.thread(), "{name}");
            assert_eq!(ids(&host.session_file(name)), (AGENT, AGENT), "{name}");
        }
    }
}

/// The agent may swap its directory where the operator has given it the
/// folder above.
#[test]
fn g8_a_workspace_that_an_agent_has_swapped_for_a_symlink_is_rejected() {
    if !is_root("workspaces that agents of another user swap") {
        return;
    }
    let host = Host::new().run_as(AGENT);
    host.run("a/b", "t").assert_end_turn();
    chown(host.workspace("a"), Some(AGENT), Some(AGENT)).unwrap();
    host.run("a/b", "t\nrun mv ../b ../c && ln -s /etc ../b")
        .assert_end_turn();
    assert!(host.workspace("a/b").is_symlink());
    let turn = host.run("a/b", "t\nrun pwd -P");
    assert_eq!(turn.error().0, "workspace.rejected");
    fs::remove_file(host.workspace("a/b")).unwrap();
    symlink("c", host.workspace("a/b")).unwrap();
    assert_eq!(host.run("a/b", "u").error().0, "workspace.rejected");
}

const MEASURE: &str =
    "run ulimit -c; ulimit -Hc; ulimit -n; ulimit -Hn; ulimit -Hn 70 && ulimit -n 71";

/// Guards `Limits::set` (src/guard/confine.rs).
#[test]
fn g8_a_turn_has_the_open_files_that_it_is_given_and_leaves_no_core() {
    let hosts = match is_root("limits of agents of another user") {
        true => vec![Host::new(), Host::new().run_as(AGENT)],
        false => vec![Host::new()],
    };
    for host in hosts {
        let host = host.set("CODEX_MAX_OPEN_FILES", "70");
        let turn = host.run("a", &format!("t\n{MEASURE}"));
        turn.assert_end_turn();
        assert_eq!(lines(turn.printed()[0]), ["0", "0", "70", "70"]);
        let result = turn.events.iter().find(|event| event["is_error"] == true);
        assert!(result.is_some(), "it raised its limit: {turn:#?}");
    }
}

/// As above; and the next turn has room again.
#[test]
fn g8_a_turn_has_as_many_processes_as_it_is_given() {
    if !is_root("how many processes agents may have") {
        return;
    }
    let host = Host::new()
        .run_as(CROWDED_AGENT)
        .set("CODEX_MAX_PROCESSES", "24");
    let crowd = "for i in $(seq 40); do sleep 100000 >/dev/null 2>&1 & echo $i; done";
    for workspace in ["a", "b"] {
        let turn = host.run(workspace, &format!("t\nrun exec 2>&1; {crowd}"));
        turn.assert_end_turn();
        let printed = turn.printed()[0];
        assert!(printed.contains("fork"), "{printed}");
        let started = lines(printed)
            .iter()
            .filter(|line| line.parse::<u32>().is_ok())
            .count();
        assert!((8..24).contains(&started), "{printed}");
    }
}

/// Guards `Account::variable` (src/isolation/account.rs).
#[test]
fn g8_a_named_user_has_its_own_home_and_name_and_not_the_workers() {
    if !is_root("the home of a named user") {
        return;
    }
    let nobody = Command::new("id").args(["-u", "nobody"]).output().unwrap();
    let nobody: u32 = String::from_utf8(nobody.stdout)
        .unwrap()
        .trim()
        .parse()
        .unwrap();
    let host = Host::new()
        .run_as(nobody)
        .set("CODEX_RUN_AS", "nobody")
        .set("CODEX_ENV", "PATH,HOME,USER,STAND_IN_DIR")
        .env("USER", "wonderland");
    let turn = host.run("a", "t\nrun echo $HOME $USER; id -un");
    turn.assert_end_turn();
    let passwd = fs::read_to_string("/etc/passwd").unwrap();
    let entry = passwd
        .lines()
        .find(|line| line.starts_with("nobody:"))
        .unwrap();
    let home = entry.split(':').nth(5).unwrap();
    assert_eq!(turn.printed()[0], format!("{home} nobody\nnobody\n"));

    // And who has no account has no home.
    let host = Host::new().run_as(AGENT);
    let turn = host.run("a", "t\nrun echo ${HOME-none}");
    assert_eq!(turn.printed()[0], "none\n");
}

/// Guards `Homes::of` and `make` (src/codex/home.rs), and `seal` (src/codex/seal.rs).
#[test]
fn g8_each_workspaces_own_home_is_the_agents_but_for_its_configuration() {
    if !is_root("homes of agents of another user") {
        return;
    }
    let host = Host::new().run_as(AGENT).set("CODEX_HOME", "per-workspace");
    let template = host.workspace(".turn-worker/codex-home-template");
    fs::create_dir_all(template.join("rules")).unwrap();
    set_mode(&host.workspace(".turn-worker"), 0o700);
    fs::write(template.join("auth.json"), "a login").unwrap();
    set_mode(&template.join("auth.json"), 0o600);
    fs::write(template.join("rules/one"), "a rule").unwrap();
    let prompt = format!(
        "t\nrun cd $CODEX_HOME && pwd -P && cat auth.json rules/one && touch mine\n\
         run touch $CODEX_HOME/rules/mine\nrun ls $CODEX_HOME/..\nrun touch $CODEX_HOME/../x\nrun mv $CODEX_HOME $CODEX_HOME-x\nrun cat {}",
        template.join("auth.json").display()
    );
    for _twice in 0..2 {
        let turn = host.run("acme/site", &prompt);
        turn.assert_end_turn();
        let home = host.workspace(".codex-homes/acme/site");
        let expected = format!("{}\na logina rule", home.display());
        assert_eq!(turn.printed()[0], expected, "{turn:#?}");
        let failed = turn.events.iter().filter(|event| event["is_error"] == true);
        assert_eq!(failed.count(), 5, "{turn:#?}");
        assert_eq!(mode_of(&home), 0o1770);
        assert_eq!(ids(&home.join("config.toml")), (0, AGENT));
        assert_eq!(ids(&home.join("auth.json")), (AGENT, AGENT));
    }
}

/// An agent that makes its own way for the worker to go: into folders that it
/// can change while the worker, as root, gives away what it has put there.
/// Guards `Root::way_to_home` and `Dir::make_corridor` (src/workspace).
#[test]
fn g8_no_home_is_made_where_an_agent_could_swap_it() {
    if !is_root("the folders above homes of agents of another user") {
        return;
    }
    let host = Host::new().run_as(AGENT).set("CODEX_HOME", "per-workspace");
    // As /tmp is: everybody may make something there.
    set_mode(&host.workspace(""), 0o1777);
    let outside = host.path().join("outside");
    fs::create_dir(&outside).unwrap();
    chown(&outside, Some(AGENT), Some(AGENT)).unwrap();
    let homes = host.workspace(".codex-homes");
    let refused = |workspace: &str, found: &str| {
        let turn = host.run(workspace, "t");
        let (code, _, _, message) = turn.error();
        assert_eq!(code, "workspace.rejected", "{turn:#?}");
        assert!(message.contains(found), "{message}");
        assert!(message.contains(".codex-homes"), "{message}");
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
    };
    symlink(&outside, &homes).unwrap();
    refused("linked", "a symbolic link");
    fs::remove_file(&homes).unwrap();
    fs::create_dir(&homes).unwrap();
    chown(&homes, Some(AGENT), Some(AGENT)).unwrap();
    refused("theirs", "another user's folder");
    chown(&homes, Some(0), Some(0)).unwrap();
    set_mode(&homes, 0o777);
    refused("open", "another user's folder");
    assert_eq!(fs::read_dir(&homes).unwrap().count(), 0);
    set_mode(&homes, 0o711);
    host.run("a", "t").assert_end_turn();
    // A workspace that is gone leaves its home, which agents may write to.
    fs::remove_dir_all(host.workspace("a")).unwrap();
    fs::remove_dir_all(host.workspace(".turn-worker/workspaces/a")).unwrap();
    refused("a/below", "another user's folder");
    assert_eq!(mode_of(&homes), 0o711);
    assert_eq!(ids(&homes.join("a")), (0, AGENT));
}

fn mode_of(path: &Path) -> u32 {
    fs::metadata(path).unwrap().mode() & 0o7777
}

/// A key in the worker's session keyring, as a login or an init system may
/// have put there. Guards `leave_keyring` (src/guard/confine.rs).
#[test]
fn g8_the_workers_keys_are_not_handed_on() {
    if !is_root("keys of a worker that runs agents of another user")
        || !Path::new("/proc/keys").exists()
    {
        return;
    }
    const WITH_A_KEY: &str = "\
import ctypes, os, platform, sys
add_key, keyctl = (248, 250) if platform.machine() == 'x86_64' else (217, 219)
call = ctypes.CDLL(None).syscall
held = call(keyctl, 1, b'worker') != -1 and call(add_key, b'user', b'wonderland', b'key', 3, -3) != -1
os.environ['HELD'] = str(held)
os.execv(sys.argv[1], sys.argv[1:])";
    let wrapper = ["python3", "-c", WITH_A_KEY];
    let script = "t\nrun echo $HELD; grep -c wonderland /proc/keys; true";
    let host = Host::new().set("CODEX_ENV", "PATH,HOME,STAND_IN_DIR,HELD");
    let printed = |host: &Host| {
        let outer = under(host, &wrapper, program(), "a");
        let turn = host.start_command(outer, "a", script).ended();
        turn.assert_end_turn();
        turn.printed()[0].to_owned()
    };
    // One user for both: what is the worker's is the agent's.
    let shared = printed(&host);
    if shared.starts_with("False") {
        return eprintln!("not looked at: keys can't be made here");
    }
    assert_eq!(shared, "True\n1\n");
    let host = Host::new()
        .set("CODEX_ENV", "PATH,HOME,STAND_IN_DIR,HELD")
        .run_as(AGENT);
    assert_eq!(printed(&host), "True\n0\n");
}

/// Guards `kill_all_below_me` (src/guard/tree.rs), by a storm that fills all
/// room there is, as soon as there is any, and a turn with processes that have to
/// be ended meanwhile.
#[test]
fn g3_a_turn_that_forks_without_end_within_its_limits_ends_with_all_of_it() {
    if !is_root("a storm of processes within limits") {
        return;
    }
    let host = Host::new()
        .run_as(STORMY_AGENT)
        .set("CODEX_MAX_PROCESSES", "48");
    let bomb = "storm() { storm | storm & }";
    let storm = format!(
        "run (setsid sh -c '{bomb}; while :; do storm; : > storms; done' >/dev/null 2>&1 &); \
         until [ -e storms ]; do :; done"
    );
    for (stormy, next) in [("a", "b"), ("c", "d")] {
        // That all are gone when the end is published, every turn of a host's is looked at for.
        host.run(stormy, &format!("t\n{storm}")).assert_end_turn();
        let met = host.run(
            next,
            "t\nrun for i in 1 2 3 4 5 6 7 8; do sleep 0 & done; wait; echo room",
        );
        met.assert_end_turn();
        assert_eq!(met.printed()[0], "room\n");
        let left = Command::new("ps")
            .args(["-o", "pid=", "-U", &STORMY_AGENT.to_string()])
            .output()
            .unwrap();
        assert_eq!(String::from_utf8_lossy(&left.stdout), "");
    }
}

/// What can't be started as the agents' user names its user.
#[test]
fn what_is_closed_to_the_agents_user_is_an_exit_that_says_so() {
    if !is_root("what is closed to agents of another user") {
        return;
    }
    let host = Host::new().run_as(AGENT);
    let codex = host.path().join("closed-codex");
    write_program(&codex, "#!/bin/sh\n");
    set_mode(&codex, 0o700);
    let host = host.set("CODEX_BIN", &codex);
    let error = |turn: &Turn| {
        let (code, _, _, message) = turn.error();
        assert_eq!(code, "codex.start_failed");
        message.to_owned()
    };
    let message = error(&host.run("a", "t"));
    assert!(message.contains("Permission denied"), "{message}");
    assert!(message.contains("as uid 61002, gid 61002"), "{message}");

    fs::create_dir(host.workspace("closed")).unwrap();
    fs::write(host.workspace("closed").join("file"), "").unwrap();
    set_mode(&host.workspace("closed"), 0o700);
    let message = error(&host.run("closed", "t"));
    let told = "can't enter the workspace's directory: Permission denied";
    assert!(message.contains(told), "{message}");
}
