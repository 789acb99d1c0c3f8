//! All that a turn starts is gone when the turn is over.

use std::fs::File;
use std::process::Command;

use turn_worker::guard::Exit;

use super::Script;
use crate::support::host::{awkward, write_program};
use crate::support::processes;

/// Each leaves something behind that lives on; what sheds its environment
/// writes its pid into `pids`.
const MESSES: &[(&str, &str)] = &[
    ("a background job", "sleep 100000 &"),
    (
        "one that holds nothing open",
        "sleep 100000 >/dev/null 2>&1 </dev/null &",
    ),
    ("nohup", "nohup sleep 100000 >/dev/null 2>&1 &"),
    ("a daemon", "setsid sleep 100000 &"),
    (
        "forked twice",
        "(setsid sh -c 'sleep 100000 & echo $! >> pids' &)",
    ),
    (
        "deaf to signals",
        "setsid sh -c 'trap \"\" TERM INT HUP QUIT; while :; do sleep 1; done' &",
    ),
    (
        "a stopped one with children of its own group",
        "setsid sh -c 'setsid sleep 100000 & kill -STOP $$' &",
    ),
    (
        "without its environment",
        "env -i setsid sh -c 'echo $$ >> pids; exec sleep 100000' &",
    ),
    (
        "a deep tree",
        "sh -c 'sh -c \"sh -c \\\"sleep 100000 & wait\\\" & wait\" & wait' &",
    ),
];

/// How the turn comes to its end.
const ENDINGS: [&str; 3] = ["exit", "kill", "drop"];

#[tokio::test(flavor = "multi_thread")]
async fn g3_no_process_of_a_turn_is_left_when_its_lock_is_free() {
    for (what, mess) in MESSES {
        for ending in ENDINGS {
            eprintln!("{what}, {ending}");
            let mut script = Script::start(&format!("{mess}\n echo ready; read go"));
            script.line().await;
            // The script itself is one of them.
            script.until_live(2);
            assert!(!script.lock_is_free());
            end(&mut script, ending).await;
            script.unlocked();
            if ending != "drop" {
                let closed = script.closed().await;
                assert!(closed.leftovers >= 1, "{closed:?}");
                let code = match ending {
                    "exit" => Exit::Code(0),
                    _ => Exit::Signal(9),
                };
                assert_eq!(closed.exit, code);
            }
        }
    }
}

/// States in which a process is easily overlooked, or withstands a signal. Guards
/// `proc::stat`, by which a process with its first thread exited is alive.
#[tokio::test(flavor = "multi_thread")]
async fn g3_no_process_is_overlooked_for_the_state_that_it_is_in() {
    for kind in ["zombie-leader", "vfork", "traced", "undumpable"] {
        for ending in ENDINGS {
            eprintln!("{kind}, {ending}");
            let mut script = Script::start(&format!(
                "{} {kind} \"$PWD/of\" >/dev/null 2>&1 &
                 until [ -e of ]; do :; done; cat of > pids; echo ready; read go",
                awkward().display()
            ));
            script.line().await;
            let [pid] = script.pids()[..] else {
                panic!("no pid")
            };
            assert!(processes::lives(pid), "the test shows nothing");
            end(&mut script, ending).await;
            script.unlocked();
            if ending != "drop" {
                let leftovers = script.closed().await.leftovers;
                assert!(leftovers >= 1, "{leftovers}");
            }
            // What the system does at a process's very end, regardless of /proc.
            if let Ok(lives) = File::open(script.dir.path().join("of.lives")) {
                assert!(lives.try_lock().is_ok(), "{kind} lives on, {ending}");
            }
        }
    }
}

/// Guards `process_gone` in ops/lib.sh.
#[tokio::test(flavor = "multi_thread")]
async fn the_scripts_know_too_that_such_a_process_lives() {
    let start = format!(
        "{} zombie-leader \"$PWD/of\" >/dev/null 2>&1 &
         until [ -e of ]; do :; done; echo $(cat of); read go",
        awkward().display()
    );
    let mut script = Script::start(&start);
    let pid = script.line().await;
    let gone = || {
        let ask = "source ops/lib.sh; process_gone \"$1\"";
        let mut bash = Command::new("bash");
        bash.args(["-c", ask, "bash", &pid])
            .current_dir(env!("CARGO_MANIFEST_DIR"));
        bash.status().unwrap().success()
    };
    assert!(!gone());
    script.go().await;
    script.closed().await;
    assert!(gone());
}

async fn end(script: &mut Script, ending: &str) {
    match ending {
        "exit" => script.go().await,
        "kill" => script.guard().kill().await,
        _ => drop(script.guard.take()),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn g3_no_process_lives_when_closed_completes_though_the_lock_is_held_elsewhere() {
    let mut script = Script::start("setsid sleep 100000 & echo ready; read go");
    script.line().await;
    script.go().await;
    let closed = script.closed().await;
    assert_eq!(script.live(), 0);
    assert_eq!((closed.exit, closed.leftovers), (Exit::Code(0), 1));
    // And it can be asked again.
    assert_eq!(script.closed().await.leftovers, 1);
}

/// A hundred that fork without end, far faster than they could be listed.
#[tokio::test(flavor = "multi_thread")]
async fn g3_a_fork_storm_is_ended() {
    let mut script = Script::start(
        "i=0; while [ $i -lt 100 ]; do
           setsid sh -c 'while [ -e \"$PWD\" ]; do (sleep 0.05); done' &
           i=$((i+1))
         done
         echo ready; read go",
    );
    script.line().await;
    script.go().await;
    script.unlocked();
    let closed = script.closed().await;
    assert!(closed.leftovers >= 100, "{closed:?}");
}

/// Guards that all are stopped before any is killed (`Hunt::round`): a parent
/// that is still awake when its child dies would start another.
#[tokio::test(flavor = "multi_thread")]
async fn g3_supervisors_get_no_time_to_restart_what_is_killed() {
    const SUPERVISORS: usize = 50;
    let mut script = Script::start(&format!(
        "i=0; while [ $i -lt {SUPERVISORS} ]; do
           setsid sh -c 'while [ -e \"$PWD\" ]; do sleep 100000; echo again >> restarted; done' &
           i=$((i+1))
         done
         echo ready; read go"
    ));
    script.line().await;
    script.until_live(2 * SUPERVISORS + 1);
    script.go().await;
    script.unlocked();
    assert_eq!(script.closed().await.leftovers, 2 * SUPERVISORS as u64);
    assert!(!script.dir.path().join("restarted").exists());
}

/// Each lives just long enough to start the next, which is nobody's child then.
#[tokio::test(flavor = "multi_thread")]
async fn g3_one_that_hops_from_process_to_process_is_caught() {
    let dir = tempfile::tempdir().unwrap();
    let hop = dir.path().join("hop");
    // It ends by itself with the folder, should it not be caught.
    write_program(
        &hop,
        "#!/bin/sh\necho >> hops; [ -e \"$0\" ] && setsid \"$0\" &\n",
    );
    let workspace = dir.path().to_owned();
    let start = "./hop; ./hop; ./hop; ./hop
        until [ $(wc -l < hops) -ge 20 ]; do :; done; echo ready; read go";
    let mut script = Script::start_in(workspace, dir, "/bin/sh", &["-c", start]);
    script.line().await;
    script.go().await;
    script.unlocked();
    assert_eq!(script.closed().await.exit, Exit::Code(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quiet_turn_leaves_no_process_to_kill() {
    let mut script = Script::start("sleep 0 & wait; exit 3");
    let closed = script.closed().await;
    assert_eq!((closed.exit, closed.leftovers), (Exit::Code(3), 0));
    script.unlocked();
}

/// The pids of this turn's processes in a look from outside: for the tests above.
#[tokio::test(flavor = "multi_thread")]
async fn the_looking_glass_works() {
    let mut script = Script::start("echo $$; read go");
    let pid: i32 = script.line().await.parse().unwrap();
    assert_eq!(processes::of_workspace(script.dir.path()), [pid]);
    script.go().await;
    script.closed().await;
    assert!(!processes::lives(pid));
}
