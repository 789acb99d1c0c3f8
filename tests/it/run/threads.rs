//! Which conversation a turn goes on with.

use std::fs;
use std::os::unix::fs::symlink;

use crate::support::host::{Host, Turn};

const FOREIGN: &str = "01a201f5-61c9-7403-9850-cc317d92e3b1";

/// Which thread the stand-in was asked to resume last.
fn resumed(host: &Host) -> Option<String> {
    let thread = fs::read_to_string(host.stand_in_file("resumed")).unwrap();
    (!thread.is_empty()).then_some(thread)
}

/// A thread of the stand-in's that another program made.
fn foreign_thread(host: &Host, total: &str) {
    let threads = host.stand_in_file("threads");
    fs::create_dir_all(&threads).unwrap();
    fs::write(threads.join(FOREIGN), total).unwrap();
}

fn assert_ignored(turn: &Turn, why: &str) {
    turn.assert_end_turn();
    assert_eq!(turn.notices(), ["workspace.session_ignored"], "{turn:#?}");
    let message = turn.events[1]["message"].as_str().unwrap();
    assert!(message.contains(why), "{message}");
}

#[test]
fn a_turn_goes_on_with_the_workspaces_thread_and_no_other() {
    let host = Host::new();
    let first = host.run("a", "t\nsay hi");
    assert_eq!(resumed(&host), None);
    let session = fs::read_to_string(host.session_file("a")).unwrap();
    assert_eq!(session.trim(), first.thread());
    let other = host.run("b", "u\nsay hi");
    assert_eq!(resumed(&host), None);
    assert_ne!(other.thread(), first.thread());
    let second = host.run("a", "v\nsay hi");
    assert_eq!(resumed(&host).as_deref(), Some(first.thread()));
    assert_eq!(second.thread(), first.thread());
}

#[test]
fn a_thread_that_is_lost_is_reported_and_a_new_one_starts() {
    let host = Host::new();
    let first = host.run("a", "t\nsay hi");
    fs::remove_file(host.stand_in_file("threads").join(first.thread())).unwrap();
    let second = host.run("a", "u\nsay again");
    second.assert_end_turn();
    assert_eq!(second.notices(), ["codex.thread_lost"]);
    assert_ne!(second.thread(), first.thread());
    assert_eq!(second.usage(), Some([200, 80, 40]));
    let third = host.run("a", "v\nsay on");
    assert_eq!(third.thread(), second.thread());
    assert_eq!(third.notices(), [""; 0]);
    assert_eq!(third.usage(), Some([200, 80, 40]));
}

/// A folder where the session file's successor is to be written, as an agent may make one.
#[test]
fn a_conversation_goes_on_though_the_session_file_can_not_be_written() {
    let host = Host::new();
    let old = host.run("a", "t\nsay hi");
    let temp = host.workspace("a").join(".plexum-codex-session.tmp~");
    fs::create_dir(&temp).unwrap();
    let run_new = |prompt: &str| {
        let mut command = host.call(&["run", "--json", "--workspace", "a", "--new-thread", "-"]);
        command.env("RUST_BACKTRACE", "0");
        host.start_command(command, "a", prompt).ended()
    };
    let new = run_new("u\nsay anew");
    new.assert_end_turn();
    assert_eq!(new.notices(), ["workspace.session_not_kept"]);
    assert_ne!(new.thread(), old.thread());
    // Each of these tries to write it once more.
    for id in ["v", "w"] {
        let next = host.run("a", &format!("{id}\nsay on"));
        assert_eq!(next.thread(), new.thread());
        assert_eq!(next.notices(), ["workspace.session_not_kept"]);
        assert_eq!(next.usage(), Some([200, 80, 40]));
    }
    fs::remove_dir(&temp).unwrap();
    let kept = host.run("a", "x\nsay on");
    assert_eq!(kept.thread(), new.thread());
    assert_eq!(kept.notices(), [""; 0]);
    let session = fs::read_to_string(host.session_file("a")).unwrap();
    assert_eq!(session.trim(), new.thread());

    // What others write since then counts.
    fs::create_dir(&temp).unwrap();
    foreign_thread(&host, "[0,0,0,0,0]");
    run_new("y\nsay anew");
    fs::write(host.session_file("a"), FOREIGN).unwrap();
    assert_eq!(host.run("a", "z\nsay on").thread(), FOREIGN);
}

#[test]
fn g8_what_stands_in_the_session_files_place_is_neither_followed_nor_waited_for() {
    let host = Host::new();
    foreign_thread(&host, "[0,0,0,0,0]");
    let secret = host.path().join("secret");
    fs::write(&secret, FOREIGN).unwrap();
    let session = |workspace: &str| {
        fs::create_dir_all(host.workspace(workspace)).unwrap();
        host.session_file(workspace)
    };

    symlink(&secret, session("link")).unwrap();
    assert_ignored(&host.run("link", "t\nsay hi"), "symbolic link");
    let fifo = session("fifo");
    let made = std::process::Command::new("mkfifo").arg(&fifo).status();
    assert!(made.unwrap().success());
    assert_ignored(&host.run("fifo", "u\nsay hi"), "named pipe");
    fs::write(session("garbage"), "--last").unwrap();
    assert_ignored(&host.run("garbage", "v\nsay hi"), "no thread id");

    // Each has a file of its own there now, and no write went through.
    for workspace in ["link", "fifo", "garbage"] {
        assert!(
            fs::symlink_metadata(host.session_file(workspace))
                .unwrap()
                .is_file()
        );
        let next = host.run(workspace, "w\nsay hi");
        assert_eq!(next.notices(), [""; 0]);
        assert_ne!(resumed(&host).as_deref(), Some(FOREIGN));
        assert_eq!(resumed(&host).as_deref(), Some(next.thread()));
    }
    assert_eq!(fs::read_to_string(&secret).unwrap(), FOREIGN);
}

#[test]
fn g8_another_workspaces_thread_is_not_resumed() {
    let host = Host::new();
    let theirs = host.run("theirs", "t\nsay secret");
    fs::create_dir_all(host.workspace("mine")).unwrap();
    fs::write(host.session_file("mine"), theirs.thread()).unwrap();
    let mine = host.run("mine", "u\nsay hi");
    assert_ignored(&mine, "belongs to another workspace");
    assert_eq!(resumed(&host), None);
    assert_ne!(mine.thread(), theirs.thread());
    // An agent may also put it there while its turn runs.
    let steal = format!(
        "v\nsay kept\nwait go\nrun echo {} > .plexum-codex-session",
        theirs.thread()
    );
    let mut running = host.start("mine", &steal);
    // By then the worker has written the turn's own thread there.
    running.said("kept");
    fs::write(host.stand_in_file("go"), "").unwrap();
    running.ended().assert_end_turn();
    assert_ignored(
        &host.run("mine", "w\nsay hi"),
        "belongs to another workspace",
    );
    let again = host.run("theirs", "x\nsay on");
    assert_eq!(again.thread(), theirs.thread());
    assert_eq!(again.notices(), [""; 0]);
}

#[test]
fn a_thread_without_an_owner_is_adopted_once() {
    let host = Host::new();
    foreign_thread(&host, "[0,0,0,0,0]");
    for workspace in ["first", "second"] {
        fs::create_dir_all(host.workspace(workspace)).unwrap();
        fs::write(host.session_file(workspace), FOREIGN).unwrap();
    }
    let first = host.run("first", "t\nsay hi");
    assert_eq!(first.thread(), FOREIGN);
    let second = host.run("second", "u\nsay hi");
    assert_ignored(&second, "belongs to another workspace");
    assert_ne!(second.thread(), FOREIGN);
}

#[test]
fn a_thread_survives_the_death_of_its_worker() {
    let host = Host::new();
    let mut running = host.start("a", "t\nsay ready\nhang");
    running.said("ready");
    running.kill();
    let session = fs::read_to_string(host.session_file("a")).unwrap();
    let next = host.run("a", "u\nsay hi");
    next.assert_end_turn();
    assert_eq!(next.thread(), session.trim());
    assert_eq!(resumed(&host).as_deref(), Some(session.trim()));
}
