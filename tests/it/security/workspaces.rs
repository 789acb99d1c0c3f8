//! Traps that one turn lays in its workspace, and the next one meets.

use std::fs;

use crate::support::host::{Host, Turn, until};

/// What no turn may read, write or run.
struct Outside {
    host: Host,
}

impl Outside {
    fn new() -> Self {
        let host = Host::new();
        fs::create_dir_all(host.path().join("outside/below")).unwrap();
        fs::write(host.path().join("outside/secret"), "SECRET").unwrap();
        Self { host }
    }

    /// A turn that runs this once its thread is kept. `$OUT` is outside.
    fn lay(&self, workspace: &str, trap: &str) {
        let out = self.host.path().join("outside");
        let go = format!("go-{}", workspace.replace('/', "-"));
        let script = format!(
            "lay\nsay kept\nwait {go}\nrun OUT={}; {trap}",
            out.display()
        );
        let mut running = self.host.start(workspace, &script);
        running.said("kept");
        let session = self.host.session_file(workspace);
        until("the thread is kept", || session.exists().then_some(()));
        fs::write(self.host.stand_in_file(&go), "").unwrap();
        let laid = running.ended();
        laid.assert_end_turn();
        let results = laid
            .events
            .iter()
            .filter(|event| event["type"] == "tool_result");
        for result in results {
            assert_eq!(result["content"]["exit_code"], 0, "{laid:#?}");
        }
    }

    fn meet(&self, workspace: &str) -> Turn {
        let met = self.host.run(workspace, "meet\nrun pwd; ls -A");
        assert!(!format!("{met:?}").contains("SECRET"), "{met:#?}");
        met
    }

    fn assert_untouched(&self) {
        let mut found = Vec::new();
        for folder in ["outside", "outside/below"] {
            for entry in fs::read_dir(self.host.path().join(folder)).unwrap() {
                found.push(entry.unwrap().file_name().into_string().unwrap());
            }
        }
        found.sort();
        assert_eq!(found, ["below", "secret"]);
        let secret = fs::read_to_string(self.host.path().join("outside/secret"));
        assert_eq!(secret.unwrap(), "SECRET");
    }

    fn resumed(&self) -> bool {
        let thread = fs::read_to_string(self.host.stand_in_file("resumed")).unwrap();
        !thread.is_empty()
    }
}

/// Guards `session::read`: its flags, the look at the type, the limit, and the
/// form of a UUID.
#[test]
fn g8_what_a_turn_puts_in_the_session_files_place_is_ignored_with_a_notice() {
    let outside = Outside::new();
    let file = ".plexum-codex-session";
    let traps = [
        (
            "link",
            format!("ln -sf $OUT/secret {file}"),
            "symbolic link",
        ),
        (
            "dangling",
            format!("ln -sf $OUT/new {file}"),
            "symbolic link",
        ),
        ("zeros", format!("ln -sf /dev/zero {file}"), "symbolic link"),
        ("hard", format!("ln -f $OUT/secret {file}"), "no thread id"),
        ("pipe", format!("rm {file} && mkfifo {file}"), "named pipe"),
        (
            "folder",
            format!("rm {file} && mkdir {file}"),
            "a directory",
        ),
        ("huge", format!("truncate -s 1T {file}"), "longer than"),
        ("words", format!("echo --last > {file}"), "no thread id"),
        (
            "two",
            format!("cat {file} {file} > x && mv x {file}"),
            "no thread id",
        ),
    ];
    for (workspace, trap, why) in traps {
        outside.lay(workspace, &trap);
        let met = outside.meet(workspace);
        met.assert_end_turn();
        // A folder can't be replaced by a file.
        let is_folder = workspace == "folder";
        let not_kept = is_folder.then_some("workspace.session_not_kept");
        let notices = ["workspace.session_ignored"].into_iter().chain(not_kept);
        assert_eq!(met.notices(), notices.collect::<Vec<_>>(), "{trap}");
        let told = met.events[1]["message"].as_str().unwrap();
        assert!(told.contains(why), "{trap}: {told}");
        assert!(!outside.resumed(), "{trap}");
        outside.assert_untouched();
        if is_folder {
            let next = outside.meet(workspace);
            assert_eq!(next.thread(), met.thread(), "{trap}");
        } else {
            // And it is a file again, with the thread that started instead.
            let kept = fs::read_to_string(outside.host.session_file(workspace)).unwrap();
            assert_eq!(kept.trim(), met.thread(), "{trap}");
        }
    }
}

/// A lease lets its holder delay a process that opens the file. Guards what
/// `session::read` makes of the refusal.
#[test]
fn g8_a_session_file_that_a_neighbour_holds_is_ignored_with_a_notice() {
    const HOLD: &str = "run printf '%s\\n' 'import fcntl, os, signal, sys' \
         'signal.signal(signal.SIGIO, signal.SIG_IGN)' 'held = os.open(sys.argv[1], os.O_RDWR)' \
         'fcntl.fcntl(held, fcntl.F_SETLEASE, fcntl.F_WRLCK)' 'open(\"held\", \"w\")' 'signal.pause()' > hold.py; \
         (python3 hold.py ../theirs/.plexum-codex-session >/dev/null 2>&1 &); until [ -e held ]; do :; done";
    let outside = Outside::new();
    outside.meet("theirs").assert_end_turn();
    let holder = format!("t\n{HOLD}\nsay held\nwait end");
    let mut holding = outside.host.start("holds", &holder);
    holding.said("held");
    let met = outside.meet("theirs");
    met.assert_end_turn();
    assert_eq!(met.notices(), ["workspace.session_ignored"]);
    assert!(!outside.resumed());
    fs::write(outside.host.stand_in_file("end"), "").unwrap();
    holding.ended().assert_end_turn();
    outside.meet("theirs").assert_end_turn();
    assert!(outside.resumed());
}

/// Guards `write_atomic_over`: that it removes what stands in the temporary
/// file's place and opens no file that is there already.
#[test]
fn g8_what_a_turn_puts_in_the_temporary_files_place_is_not_written_to() {
    let outside = Outside::new();
    let file = ".plexum-codex-session";
    for (workspace, trap) in [
        ("link", "ln -s $OUT/secret"),
        ("dangling", "ln -s $OUT/new"),
        ("hard", "ln $OUT/secret"),
        ("pipe", "mkfifo"),
        ("folder", "mkdir"),
    ] {
        // Without a session file the next thread is new, and has to be kept.
        outside.lay(workspace, &format!("rm {file} && {trap} {file}.tmp~"));
        let met = outside.meet(workspace);
        met.assert_end_turn();
        assert!(!outside.resumed(), "{trap}");
        outside.assert_untouched();
        if workspace != "folder" {
            let kept = fs::read_to_string(outside.host.session_file(workspace)).unwrap();
            assert_eq!(kept.trim(), met.thread(), "{trap}");
        }
        outside.host.run("other", "other\nsay hi").assert_end_turn();
    }
}

/// Guards `Dir::dir` and `Root::agent_dir`: each segment is opened from the one
/// before, and no link is followed.
#[test]
fn g8_a_turn_that_moves_its_workspace_away_does_not_move_the_next_one() {
    let outside = Outside::new();
    for (workspace, trap, found) in [
        ("a", "cd .. && rm -r a && ln -s $OUT a", "a symbolic link"),
        ("b", "cd .. && mv b c && ln -s c b", "a symbolic link"),
        (
            "d",
            "cd .. && rm -r d && ln -s /nowhere d",
            "a symbolic link",
        ),
        ("e", "cd .. && rm -r e && mkfifo e", "a named pipe"),
        ("f", "cd .. && rm -r f && : > f", "a file"),
        (
            "g/below",
            "cd ../.. && rm -r g && ln -s $OUT g",
            "a symbolic link",
        ),
        (
            "h/i/j/k",
            "cd ../.. && rm -r j && ln -s $OUT/below j",
            "a symbolic link",
        ),
    ] {
        outside.lay(workspace, trap);
        let met = outside.meet(workspace);
        let (code, _, retryable, message) = met.error();
        assert_eq!((code, retryable), ("workspace.rejected", false), "{trap}");
        assert!(message.contains(found), "{message}");
        outside.assert_untouched();
    }
    // A neighbour below the link is not reached over it either, nor one that
    // was never used before.
    for neighbour in ["g/other", "h/i/j/other"] {
        let met = outside.meet(neighbour);
        assert_eq!(met.error().0, "workspace.rejected", "{neighbour}");
    }
    outside.lay("l", "ln -s $OUT ../new");
    assert_eq!(outside.meet("new").error().0, "workspace.rejected");
    outside.assert_untouched();
    outside.meet("other").assert_end_turn();
}

/// Guards `id::segments` and that our own folder lies beside the workspaces:
/// no file that a turn makes in its own is taken for a record of ours.
#[test]
fn g8_names_of_ours_have_no_meaning_inside_a_workspace() {
    let outside = Outside::new();
    outside.lay(
        "a",
        "mkdir -p .turn-worker/workspaces/b/.state .state/claims b/.state \
         && : > .state/lock && echo x > .state/journal && : > b/.state/lock",
    );
    outside.meet("a").assert_end_turn();
    assert!(outside.resumed());
    for workspace in [".turn-worker", "a/.state", "a/.turn-worker/workspaces/b"] {
        let mut command = outside.host.command(workspace);
        let refused = command.stdin(std::process::Stdio::null()).output().unwrap();
        assert!(!refused.status.success(), "{workspace}");
    }
    let met = outside.meet("a/b");
    assert!(met.error().3.contains("inside workspace `a`"), "{met:#?}");
    // Names that only look alike are workspaces of their own.
    for workspace in ["a.b", "a-b", "aa", "A", "Turn-Worker", "state"] {
        let met = outside.meet(workspace);
        met.assert_end_turn();
        assert!(!outside.resumed(), "{workspace}");
        let here = outside.host.workspace(workspace);
        assert!(met.printed()[0].starts_with(here.to_str().unwrap()));
    }
}

/// Guards `Threads::adopt` and that a thread is the workspace's before any process
/// can have read of it.
#[test]
fn g8_a_thread_that_a_turn_steals_from_a_running_neighbour_is_not_resumed() {
    let outside = Outside::new();
    let mut theirs = outside.host.start("theirs", "t\nsay kept\nwait end");
    theirs.said("kept");
    let session = outside.host.session_file("theirs");
    until("the thread is kept", || session.exists().then_some(()));
    for (workspace, steal) in [("copy", "cp"), ("link", "ln -sf"), ("hard", "ln -f")] {
        let file = ".plexum-codex-session";
        outside.lay(workspace, &format!("{steal} $PWD/../theirs/{file} {file}"));
        let met = outside.meet(workspace);
        assert_eq!(met.notices(), ["workspace.session_ignored"], "{steal}");
        assert!(!outside.resumed(), "{steal}");
    }
    fs::write(outside.host.stand_in_file("end"), "").unwrap();
    theirs.ended().assert_end_turn();
    assert!(fs::symlink_metadata(session).unwrap().is_file());
    outside.meet("theirs").assert_end_turn();
    assert!(outside.resumed());
}
