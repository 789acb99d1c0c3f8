//! What a turn leaves behind, and the next turn of another workspace, in the
//! same slot of the same worker.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::pool::{Pool, is_alive, turn};

/// What a command of a turn sees of its surroundings.
const LOOK: &str = "run ulimit -a; ulimit -Ha; umask; nice; cat /proc/self/oom_score_adj";

/// Guards the guard's end of all below it, and that each turn's guard is the
/// worker's child and no earlier turn's.
#[tokio::test]
async fn g3_what_a_turn_leaves_harms_no_turn_of_another_workspace() {
    let mut pool = Pool::start(1, &[("SLOTS", "1")]).await;
    pool.enqueue(&[turn("before", "good", &[LOOK])]).await;
    let before = pool.events.ended("before").await;
    let file = ".plexum-codex-session";
    let pipes = format!("run rm -f {file}; mkfifo {file} {file}.tmp~ pipe");
    let reader = "run setsid sh -c 'cat pipe' >/dev/null 2>&1 &";
    let messes: [(&str, &[&str], &str); 6] = [
        // Out of the session, deaf to all signals but one.
        ("daemons", &["daemon one", "daemon two"], "end_turn"),
        // As root out of sight, too: in namespaces of their own.
        (
            "namespaces",
            &[
                "run setsid unshare -mpfn --mount-proc sh -c 'mount -t tmpfs none /tmp; sleep 100000' >/dev/null 2>&1 & true",
                "daemon three",
            ],
            "end_turn",
        ),
        ("pipes", &[&pipes, reader, "say laid"], "end_turn"),
        (
            "limits",
            &[
                "limit nofile 16",
                "limit core 0",
                "run umask 777; renice 19 $$; echo 1000 > /proc/$$/oom_score_adj",
            ],
            "end_turn",
        ),
        // More come all the time, until the turn is over.
        (
            "forks",
            &[
                "run for i in 1 2 3 4 5 6 7 8; do setsid sh -c 'while [ -e \"$PWD\" ]; do (sleep 0.1); done' >/dev/null 2>&1 & done",
                "run for i in $(seq 200); do setsid sleep 100000 >/dev/null 2>&1 & done",
            ],
            "end_turn",
        ),
        // It stops its own codex: only the idle limit ends this one.
        ("stopped", &["run kill -STOP $PPID"], "cancelled"),
    ];
    for (mess, script, outcome) in messes {
        let (left, next) = (format!("{mess}-left"), format!("{mess}-next"));
        pool.enqueue(&[turn(&left, mess, script)]).await;
        if outcome == "cancelled" {
            pool.events
                .event(&left, |event| event["type"] == "tool_use")
                .await;
            pool.cancel(&left).await;
        }
        assert_eq!(pool.events.ended(&left).await.stop_reason(), outcome);
        pool.enqueue(&[turn(&next, "good", &[LOOK])]).await;
        let met = pool.events.ended(&next).await;
        assert_eq!(met.stop_reason(), "end_turn", "{mess}");
        assert_eq!(printed(&met), printed(&before), "{mess}");
    }
    for daemon in ["one", "two", "three"] {
        assert!(!is_alive(pool.pid_in(daemon)), "{daemon}");
    }
    // And where the mess was made, the next one starts afresh.
    pool.enqueue(&[turn("after", "pipes", &["say hi"])]).await;
    assert_eq!(pool.events.ended("after").await.stop_reason(), "end_turn");
    pool.stop().await;
}

fn printed(turn: &crate::support::pool::Turn) -> Vec<String> {
    let events = turn.attempts.values().flatten();
    events
        .filter_map(|event| event["content"]["aggregated_output"].as_str())
        .map(ToOwned::to_owned)
        .collect()
}

/// A small file system of its own, gone with the value.
struct Small(PathBuf);

impl Small {
    /// `None` if mounting is forbidden.
    fn at(path: &Path) -> Option<Self> {
        fs::create_dir_all(path).unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=2m", "none"])
            .arg(path)
            .output();
        let mounted = mounted.is_ok_and(|output| output.status.success());
        if !mounted {
            eprintln!("not looked at: nothing can be mounted here");
        }
        mounted.then(|| Self(path.to_owned()))
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

const FILL: &str = "run cat /dev/zero > filler";

/// Guards that a session file which can't be written is no reason to fail a
/// turn. A workspace with room of its own does not fill that of others.
#[tokio::test]
async fn g4_a_turn_that_fills_its_own_disk_harms_no_other() {
    let mut pool = Pool::start(1, &[("SLOTS", "1")]).await;
    let Some(own) = Small::at(&pool.root().join("full")) else {
        return pool.stop().await;
    };
    let script = [FILL, "run df --output=avail . | tail -1"];
    pool.enqueue(&[
        turn("fills", "full", &script),
        turn("other", "other", &["run echo room > file && cat file"]),
        turn("again", "full", &["say hi"]),
    ])
    .await;
    let fills = pool.events.ended("fills").await;
    assert_eq!(fills.stop_reason(), "end_turn");
    assert_eq!(printed(&fills).last().unwrap().trim(), "0");
    let other = pool.events.ended("other").await;
    assert_eq!(printed(&other), ["room\n"]);
    assert_eq!(pool.events.ended("again").await.stop_reason(), "end_turn");
    drop(own);
    pool.stop().await;
}

/// Guards `Attempt::record`, which tries until there is room. Without a disk of
/// its own a workspace can use up everybody's: then all wait, and no turn is lost.
#[tokio::test]
async fn g4_a_turn_that_fills_everybodys_disk_costs_no_turn() {
    let mut pool = Pool::start(0, &[("SLOTS", "1")]).await;
    let Some(all) = Small::at(&pool.root()) else {
        return;
    };
    pool.spawn(&[]);
    pool.ready().await;
    // Its end takes more than the page that its record's file has already.
    pool.enqueue(&[turn("fills", "full", &["long 8000", FILL])])
        .await;
    pool.started("fills", 1).await;
    pool.enqueue(&[turn("other", "other", &["say hi"])]).await;
    let filled = pool.process(0);
    filled
        .logged("can't record the turn's end yet; trying every second")
        .await;
    assert!(pool.events.turn("other").end().is_none());
    fs::remove_file(pool.root().join("full/filler")).unwrap();
    for id in ["fills", "other"] {
        let ended = pool.events.ended(id).await;
        assert_eq!((ended.stop_reason(), ended.attempt()), ("end_turn", 1));
    }
    drop(all);
    pool.stop().await;
}
