//! Hosts without a codex that works, or without room to start one.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::support::host::{stand_in, write_program};
use crate::support::pool::{Pool, turn};

const WORK: &str = "codex.turns.work";

fn unfit(reason: &str) -> String {
    format!("turn_worker_host_unfit{{reason=\"{reason}\"}}")
}

/// A link as a package manager makes it, which an upgrade points elsewhere.
struct Installed {
    dir: TempDir,
    link: PathBuf,
}

impl Installed {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let link = dir.path().join("codex");
        let installed = Self { dir, link };
        installed.install("1");
        installed
    }

    fn install(&self, version: &str) {
        let program = self.program(version);
        fs::create_dir(program.parent().unwrap()).unwrap();
        // By another process: what this one has open for writing can't be run.
        let copied = Command::new("cp").arg(stand_in()).arg(&program).status();
        assert!(copied.unwrap().success());
        symlink(program, &self.link).unwrap();
    }

    fn remove(&self, version: &str) {
        fs::remove_file(&self.link).unwrap();
        fs::remove_dir_all(self.program(version).parent().unwrap()).unwrap();
    }

    fn program(&self, version: &str) -> PathBuf {
        self.dir.path().join(version).join("codex-native")
    }
}

/// Guards that a codex that can't be run is looked for (`Attempt::run`), that
/// such an attempt is not charged (`Attempt::give_back`), and that codex is
/// found where an upgrade has moved it (`Program::version`).
#[tokio::test]
async fn g4_a_queue_outlives_a_codex_that_is_gone_during_an_upgrade() {
    let codex = Installed::new();
    let settings = [
        ("CODEX_BIN", codex.link.to_str().unwrap()),
        ("SLOTS", "4"),
        ("MAX_ATTEMPTS", "1"),
    ];
    let mut pool = Pool::start(1, &settings).await;
    codex.remove("1");
    let ids: Vec<String> = (0..50).map(|n| format!("t{n}")).collect();
    let workspace = |n: usize| format!("w{}", n % 10);
    let requests: Vec<_> = (ids.iter().enumerate())
        .map(|(n, id)| turn(id, &workspace(n), &[]))
        .collect();
    pool.enqueue(&requests).await;
    let process = &pool.processes()[0];
    process.unready("this host can't run turns (codex): ").await;
    let (_, reasons) = process.get("/readyz").await.unwrap();
    assert!(reasons.contains(codex.link.to_str().unwrap()), "{reasons}");
    process.metric_is(&unfit("codex"), 1.0).await;
    pool.ready_in(WORK, 10).await;
    let met = "turn_worker_turns_not_started_total{reason=\"codex\"}";
    assert!(pool.metric(met).await <= 4.0);
    assert!(
        pool.events
            .turn_ids()
            .iter()
            .all(|id| pool.events.turn(id).end().is_none())
    );

    codex.install("2");
    pool.ready().await;
    pool.events.all_ended(&ids).await;
    for id in &ids {
        assert_eq!(pool.events.turn(id).stop_reason(), "end_turn", "{id}");
    }
    let order = |n: usize| -> Vec<String> { ids.iter().skip(n).step_by(10).cloned().collect() };
    for n in 0..10 {
        assert_eq!(pool.runs().first_starts()[&*workspace(n)], order(n));
    }
    assert_eq!(pool.runs().all.len(), 50);
    assert_eq!(pool.metric(&unfit("codex")).await, 0.0);
    pool.stop().await;
}

/// Guards that what an upgrade has replaced is run again (`Engine::generation`
/// in `Attempt::run`).
#[tokio::test]
async fn g4_an_upgrade_of_codex_between_turns_ends_no_turn() {
    let codex = Installed::new();
    let settings = [
        ("CODEX_BIN", codex.link.to_str().unwrap()),
        ("MAX_ATTEMPTS", "1"),
    ];
    let mut pool = Pool::start(1, &settings).await;
    codex.remove("1");
    codex.install("2");
    let ids = ["t1", "t2", "t3", "t4"];
    pool.enqueue(&ids.map(|id| turn(id, id, &[]))).await;
    for id in ids {
        let ended = pool.events.ended(id).await;
        assert_eq!((ended.stop_reason(), ended.attempt()), ("end_turn", 1));
    }
    assert_eq!(pool.metric(&unfit("codex")).await, 0.0);
    pool.stop().await;
}

/// Guards `may_be_the_hosts_fault`, in all the ways in which a codex can fail
/// to run; the turn goes from host to host until there is one.
#[tokio::test]
async fn g4_a_turn_waits_for_a_host_with_a_working_codex() {
    let dir = tempfile::tempdir().unwrap();
    let mut pool = Pool::start(0, &[("SLOTS", "1"), ("MAX_ATTEMPTS", "1")]).await;
    let programs: Vec<PathBuf> = (0..3)
        .map(|n| {
            let program = dir.path().join(format!("codex-{n}"));
            working(&program);
            pool.spawn(&[("CODEX_BIN", program.to_str().unwrap())]);
            program
        })
        .collect();
    pool.ready().await;
    fs::set_permissions(&programs[0], PermissionsExt::from_mode(0o644)).unwrap();
    write_program(&programs[1], "#!/nonexistent/interpreter\n");
    // As the dynamic linker ends what lacks a library.
    write_program(
        &programs[2],
        "#!/bin/sh\necho libx.so: none >&2\nexit 127\n",
    );
    pool.enqueue(&[turn("t1", "a", &[])]).await;
    for (process, why) in pool.processes().iter().zip([
        "is no executable file",
        "No such file or directory (os error 2)",
        "libx.so: none",
    ]) {
        process.unready(why).await;
        process.metric_is(&unfit("codex"), 1.0).await;
    }
    pool.ready_in(WORK, 1).await;
    assert!(pool.events.turn("t1").end().is_none());
    // Any of them will do.
    programs.iter().for_each(|program| working(program));
    let t1 = pool.events.ended("t1").await;
    assert_eq!((t1.stop_reason(), t1.attempt()), ("end_turn", 4));
    pool.ready().await;
    pool.stop().await;
}

fn working(program: &Path) {
    let text = format!("#!/bin/sh\nexec {} \"$@\"\n", stand_in().display());
    write_program(program, &text);
}

/// Guards that codex is tried before the host is blamed (`Host::examine`).
#[tokio::test]
async fn a_turn_that_codex_does_not_take_ends_and_the_host_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let program = dir.path().join("codex");
    let text = format!(
        "#!/bin/sh\n[ \"$1\" = --version ] || [ ! -e $STAND_IN_DIR/broken ] || exit 127\nexec {} \"$@\"\n",
        stand_in().display()
    );
    write_program(&program, &text);
    let mut pool = Pool::start(1, &[("CODEX_BIN", program.to_str().unwrap())]).await;
    pool.release("broken");
    pool.enqueue(&[turn("t1", "a", &[])]).await;
    let t1 = pool.events.ended("t1").await;
    assert_eq!(t1.error_code(), Some("codex.exited"));
    assert_eq!(pool.metric(&unfit("codex")).await, 0.0);
    fs::remove_file(pool.stand_in_file("broken")).unwrap();
    pool.enqueue(&[turn("t2", "a", &[])]).await;
    assert_eq!(pool.events.ended("t2").await.stop_reason(), "end_turn");
    pool.stop().await;
}

/// Guards that the codex is run once before the first turn (`serve::tried_engine`).
#[tokio::test]
async fn a_codex_that_does_not_run_when_the_process_starts_ends_it() {
    let dir = tempfile::tempdir().unwrap();
    let program = dir.path().join("codex");
    write_program(&program, "#!/bin/sh\necho libx.so: none >&2\nexit 127\n");
    let mut pool = Pool::start(0, &[]).await;
    let refused = pool.spawn(&[("CODEX_BIN", program.to_str().unwrap())]);
    let process = pool.process(refused);
    assert_eq!(process.exited().await, Some(1));
    let said = process.log_text();
    for part in [
        "TURN_WORKER_CODEX_BIN",
        program.to_str().unwrap(),
        "libx.so: none",
    ] {
        assert!(said.contains(part), "{said}");
    }
}

/// Guards that a guard that can't be started is the host's want, too.
#[tokio::test]
async fn g4_a_host_that_can_start_no_process_gives_its_turns_back_uncharged() {
    let dir = tempfile::tempdir().unwrap();
    let full = dir.path().join("full");
    let faults = format!("process.start=return(none-while:{})", full.display());
    let settings = [
        ("FAILPOINTS", &*faults),
        ("MAX_ATTEMPTS", "1"),
        ("SLOTS", "1"),
    ];
    let mut pool = Pool::start(1, &settings).await;
    fs::write(&full, "").unwrap();
    pool.enqueue(&[turn("t1", "a", &[])]).await;
    let process = &pool.processes()[0];
    process
        .unready("this host can't run turns (resources): ")
        .await;
    process.unready("(os error 11)").await;
    process.metric_is(&unfit("resources"), 1.0).await;
    pool.ready_in(WORK, 1).await;
    fs::remove_file(&full).unwrap();
    let t1 = pool.events.ended("t1").await;
    assert_eq!((t1.stop_reason(), t1.attempt()), ("end_turn", 2));
    assert_eq!(pool.metric("turn_worker_redeliveries_total").await, 1.0);
    pool.stop().await;
}

/// Guards that such a turn is given back also where the next try works
/// (`SpawnError::is_out_of_resources`), and then waits for its repeat.
#[tokio::test]
async fn g4_a_moment_without_processes_ends_no_turn() {
    // The first one reports codex's version, the second is the guard.
    let faults = "process.start=1*off->1*return(none)->off";
    let settings = [("FAILPOINTS", faults), ("MAX_ATTEMPTS", "1")];
    let mut pool = Pool::start(1, &settings).await;
    pool.enqueue(&[turn("t1", "a", &[])]).await;
    let met = "turn_worker_turns_not_started_total{reason=\"resources\"}";
    pool.metric_is(met, 1.0).await;
    assert_eq!(pool.metric(&unfit("resources")).await, 0.0);
    let t1 = pool.events.ended("t1").await;
    assert_eq!((t1.stop_reason(), t1.attempt()), ("end_turn", 2));
    assert_eq!(pool.metric("turn_worker_offers_repeated_total").await, 1.0);
    pool.stop().await;
}
