//! Servers that wait for the next turn of their workspace.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::process::{Pid, Signal, kill_process};

use crate::support::broker::Broker;
use crate::support::host::until;
use crate::support::limit::GROWING;
use crate::support::pool::{Pool, Run, turn};
use crate::support::processes::{lives, parent, watched};

const IDLE: &str = "turn_worker_servers_idle";
const REUSED: &str = "turn_worker_servers_reused_total";
const LEFTOVERS: &str = "turn_worker_leftover_processes_killed_total";

async fn pool(processes: usize, settings: &[(&str, &str)]) -> Pool {
    let mut all = vec![
        ("CODEX_ENGINE", "app-server"),
        ("SLOTS", "1"),
        ("CODEX_WARM", "8"),
    ];
    all.extend(settings);
    Pool::start(processes, &all).await
}

/// Its run, once it has ended like this.
async fn ran(pool: &mut Pool, id: &str, workspace: &str, script: &[&str], how: &str) -> Run {
    pool.enqueue(&[turn(id, workspace, script)]).await;
    assert_eq!(pool.events.ended(id).await.stop_reason(), how, "{id}");
    pool.started(id, 1).await
}

/// The run of a turn that ends when its time is up.
async fn ran_out_of_time(pool: &mut Pool, id: &str, workspace: &str, script: &[&str]) -> Run {
    for seconds in GROWING {
        let id = format!("{id}-{seconds}");
        let mut late = turn(&id, workspace, script);
        late["timeout_s"] = seconds.into();
        pool.enqueue(&[late]).await;
        assert_eq!(pool.events.ended(&id).await.stop_reason(), "timeout");
        if let Some(run) = pool.runs().of_turn(&id).next() {
            return run.clone();
        }
    }
    panic!("no time was enough for {id}");
}

fn kill(pid: i32) {
    kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
}

fn gone(pid: i32) {
    until("it is gone", || (!lives(pid)).then_some(()));
}

fn thread(pool: &Pool, id: &str) -> String {
    let turn = pool.events.turn(id);
    let thread = turn.end().unwrap()["thread_id"].as_str();
    thread.unwrap().to_owned()
}

/// Guards `IdleServers::take`, and what a turn is counted from (`codex::growth`).
#[tokio::test]
async fn g7_a_conversation_goes_on_on_its_server() {
    let mut pool = pool(1, &[]).await;
    let first = ran(&mut pool, "t0", "a", &["say hi"], "end_turn").await;
    for n in 1..4 {
        let id = format!("t{n}");
        let next = ran(&mut pool, &id, "a", &["say on", "say and on"], "end_turn").await;
        assert_eq!(next.pid, first.pid);
        assert_eq!(pool.events.turn(&id).input_tokens(), Some(300));
        assert_eq!(thread(&pool, &id), thread(&pool, "t0"));
    }
    assert_eq!(pool.metric(REUSED).await, 3.0);
    pool.metric_is(IDLE, 1.0).await;
    // Another conversation has another.
    let other = ran(&mut pool, "u", "b", &["say hi"], "end_turn").await;
    assert_ne!(other.pid, first.pid);
    pool.metric_is(IDLE, 2.0).await;
    pool.unlocked("a").await;
    assert!(!lives(first.pid) && lives(other.pid));
    pool.metric_is(IDLE, 1.0).await;
    pool.stop().await;
    assert!(!lives(other.pid));
}

/// Guards that only what ended well, alone and as it was asked for is used again.
#[tokio::test]
async fn g3_what_is_not_as_it_should_be_is_used_no_more() {
    let mut pool = pool(1, &[]).await;
    let mut last = ran(&mut pool, "t", "a", &["say hi"], "end_turn").await.pid;
    for (id, script, how) in [
        ("failed", &["fail it is overloaded"][..], "error"),
        ("late", &["hang"], "timeout"),
        ("died", &["die"], "error"),
        ("left", &["daemon left", "say hi"], "end_turn"),
        ("good", &["say hi"], "end_turn"),
    ] {
        let run = match how {
            "timeout" => ran_out_of_time(&mut pool, id, "a", script).await,
            _ => ran(&mut pool, id, "a", script, how).await,
        };
        assert_eq!(run.pid == last, id == "failed", "{id}");
        last = run.pid;
    }
    assert!(!lives(pool.pid_in("left")));
    assert_eq!(pool.metric(LEFTOVERS).await, 1.0);
    pool.metric_is(IDLE, 1.0).await;

    let mut other = turn("model", "a", &["say hi"]);
    other["model"] = "another".into();
    pool.enqueue(&[other]).await;
    pool.events.ended("model").await;
    let run = pool.started("model", 1).await;
    assert_ne!(run.pid, last);
    assert!(!lives(last));
    pool.stop().await;
}

/// Guards that codex's own helpers cost no server (`guard::helpers`), and that a script
/// of the agent's that goes on does.
#[tokio::test]
async fn g3_helpers_of_codex_cost_no_server_and_scripts_that_run_on_do() {
    let mut pool = pool(1, &[]).await;
    fs::write(pool.stand_in_file("app-server"), "snapshot mcp").unwrap();
    let first = ran(&mut pool, "t", "a", &["script end", "say hi"], "end_turn").await;
    pool.metric_is(IDLE, 1.0).await;
    assert!(lives(pool.pid_in("snapshot")));
    let next = ran(&mut pool, "u", "a", &["script end", "say on"], "end_turn").await;
    assert_eq!(next.pid, first.pid);
    pool.release("done");
    gone(pool.pid_in("snapshot"));
    let script = ["script end", "script goes on", "say on"];
    let next = ran(&mut pool, "v", "a", &script, "end_turn").await;
    assert_eq!(next.pid, first.pid);
    assert!(!lives(first.pid));
    let dismissed = r#"turn_worker_servers_dismissed_total{reason="script"}"#;
    assert_eq!(pool.metric(dismissed).await, 1.0);
    assert_eq!(pool.metric(LEFTOVERS).await, 0.0);
    pool.stop().await;
}

/// Guards that what a server reports besides its turn counts (`app_server::others`).
#[tokio::test]
async fn g3_a_server_that_does_more_than_its_turn_is_used_no_more() {
    let mut pool = pool(1, &[]).await;
    let mut last = ran(&mut pool, "t", "a", &["say hi"], "end_turn").await.pid;
    for (id, step, is_kept) in [
        ("t-agent", "agent", true),
        ("t-deaf", "agent deaf", false),
        ("t-goal", "goal", false),
    ] {
        ran(&mut pool, id, "a", &[step, "say hi"], "end_turn").await;
        let next = ran(
            &mut pool,
            &format!("{id}-next"),
            "a",
            &["say on"],
            "end_turn",
        )
        .await;
        assert_eq!(next.pid == last, is_kept, "{id}");
        last = next.pid;
    }
    let agent = pool.events.turn("t-agent");
    let calls: Vec<_> = agent
        .all()
        .filter(|event| event["name"] == "sub_agent")
        .collect();
    assert_eq!(calls.len(), 2, "{calls:#?}");
    assert_eq!(calls[0]["input"]["path"], "/root/agent");
    assert_eq!(calls[1]["content"]["status"], "unfinished");
    // It starts to work while it waits.
    ran(
        &mut pool,
        "stirs",
        "a",
        &["unasked go", "say hi"],
        "end_turn",
    )
    .await;
    pool.metric_is(IDLE, 1.0).await;
    assert!(lives(last));
    pool.release("go");
    gone(last);
    pool.metric_is(IDLE, 0.0).await;
    pool.stop().await;
}

/// Guards that a server is not used any more if settings, login or instructions have changed since it read them
/// (`Place`).
#[tokio::test]
async fn changed_settings_reach_the_next_turn() {
    let mut pool = pool(1, &[]).await;
    let mut last = ran(&mut pool, "t", "a", &["say hi"], "end_turn").await.pid;
    let (home, workspace) = (pool.codex_home(), pool.root().join("a"));
    fs::create_dir_all(&home).unwrap();
    fs::create_dir(workspace.join(".codex")).unwrap();
    for (n, file) in [
        home.join("config.toml"),
        home.join("auth.json"),
        home.join("AGENTS.md"),
        workspace.join("AGENTS.md"),
        workspace.join(".codex/config.toml"),
    ]
    .into_iter()
    .enumerate()
    {
        // It is there now, it says something else, it is gone.
        for (what, text) in [("made", Some("a")), ("changed", Some("ab")), ("gone", None)] {
            match text {
                Some(text) => fs::write(&file, text).unwrap(),
                None => fs::remove_file(&file).unwrap(),
            }
            let id = format!("{what}-{n}");
            let run = ran(&mut pool, &id, "a", &["say hi"], "end_turn").await;
            assert_ne!(run.pid, last, "{} {what}", file.display());
            last = run.pid;
        }
    }
    fs::write(workspace.join("README.md"), "anything else").unwrap();
    let run = ran(&mut pool, "u", "a", &["say hi"], "end_turn").await;
    assert_eq!(run.pid, last);
    pool.stop().await;
}

/// Guards the task that waits with a server (`IdleServers::attend`), and who goes first.
#[tokio::test]
async fn servers_wait_so_long_and_so_many() {
    let mut pool = pool(0, &[]).await;
    let brief = pool.spawn(&[("CODEX_IDLE_TTL", "10ms")]);
    pool.ready().await;
    let run = ran(&mut pool, "t", "a", &["say hi"], "end_turn").await;
    gone(run.pid);
    pool.metric_is(IDLE, 0.0).await;
    pool.process(brief).terminate();
    pool.process(brief).exited().await;

    let small = pool.spawn(&[("CODEX_WARM_MEMORY", "1KiB")]);
    pool.ready().await;
    gone(ran(&mut pool, "s", "a", &["say hi"], "end_turn").await.pid);
    let dismissed = r#"turn_worker_servers_dismissed_total{reason="memory"}"#;
    pool.metric_is(dismissed, 1.0).await;
    pool.process(small).terminate();
    pool.process(small).exited().await;

    pool.spawn(&[("CODEX_WARM", "2")]);
    pool.ready().await;
    let mut pids = Vec::new();
    for (n, workspace) in ["a", "b", "a", "c"].into_iter().enumerate() {
        let id = format!("u{n}");
        pids.push(
            ran(&mut pool, &id, workspace, &["say hi"], "end_turn")
                .await
                .pid,
        );
    }
    assert_eq!(pids[0], pids[2]);
    gone(pids[1]);
    assert!(lives(pids[0]) && lives(pids[3]));
    pool.metric_is(IDLE, 2.0).await;
    // Another one, though this waits for it no more.
    assert_ne!(
        ran(&mut pool, "u4", "b", &["say hi"], "end_turn").await.pid,
        pids[1]
    );
    pool.stop().await;
}

/// Guards that the number of servers follows the host's room (`IdleServers::make_room`).
#[tokio::test]
async fn more_servers_wait_while_the_host_has_room() {
    let mut pool = pool(0, &[]).await;
    let scarce = pool.stand_in_file("scarce");
    let faults = format!(
        "capacity.ample=return;capacity.tasks=return(none-while:{})",
        scarce.display()
    );
    // A blank setting is the default.
    pool.spawn(&[("CODEX_WARM", ""), ("FAILPOINTS", &faults)]);
    pool.ready().await;
    for (n, workspace) in ["a", "b", "c", "d", "a"].into_iter().enumerate() {
        ran(
            &mut pool,
            &format!("t{n}"),
            workspace,
            &["say hi"],
            "end_turn",
        )
        .await;
    }
    pool.metric_is(IDLE, 4.0).await;
    assert_eq!(pool.metric(REUSED).await, 1.0);

    fs::write(&scarce, "").unwrap();
    pool.metric_is(IDLE, 2.0).await;
    let dismissed = r#"turn_worker_servers_dismissed_total{reason="tasks"}"#;
    pool.metric_is(dismissed, 2.0).await;
    pool.stop().await;
}

/// Guards `codex::skill_folders`: else each file that is opened in the home wakes each server.
#[tokio::test]
async fn a_waiting_server_does_not_watch_the_whole_home() {
    let mut pool = pool(1, &[]).await;
    let run = ran(&mut pool, "t", "a", &["say hi"], "end_turn").await;
    let watched = watched(run.pid).concat();
    let home = pool.codex_home().with_file_name("");
    let inode = |path: &Path| fs::metadata(path).unwrap().ino();
    assert!(watched.contains(&inode(&home.join(".agents/skills"))));
    assert!(!watched.contains(&inode(&home)));
    pool.stop().await;
}

/// Guards that a server's end is seen while it waits, with either of the two dead.
#[tokio::test]
async fn g3_a_server_that_dies_while_it_waits_does_no_harm() {
    let mut pool = pool(1, &[]).await;
    fs::write(pool.stand_in_file("app-server"), "child").unwrap();
    let mut last = ran(&mut pool, "t", "a", &["say hi"], "end_turn").await.pid;
    for (id, guard) in [("codex", false), ("guard", true)] {
        let child = pool.pid_in("child");
        kill(if guard { parent(last) } else { last });
        pool.metric_is(IDLE, 0.0).await;
        gone(child);
        fs::remove_file(pool.stand_in_file("child")).unwrap();
        let run = ran(&mut pool, id, "a", &["say hi"], "end_turn").await;
        assert_ne!(run.pid, last);
        assert_eq!(thread(&pool, id), thread(&pool, "t"));
        last = run.pid;
    }
    assert_eq!(pool.metric(LEFTOVERS).await, 0.0);
    pool.stop().await;
}

/// Guards the bell (`workspace::ring`, `guard::warm`): it makes way although its worker can't.
#[tokio::test]
async fn g2_a_server_that_waits_holds_no_other_worker_up() {
    let url = Broker::vhost();
    // A frozen worker is given up after two seconds, and with it what it was offered.
    let brisk = format!("{url}?heartbeat=1");
    let settings = [
        ("CODEX_ENGINE", "app-server"),
        ("SLOTS", "1"),
        ("AMQP_URL", &brisk),
    ];
    let mut pool = Pool::on(&url, 2, &settings).await;
    let mut last = ran(&mut pool, "t0", "a", &["say hi"], "end_turn").await;
    let frozen = pool.process_of(&last);
    // Before, the workspace is still its turn's.
    pool.process(frozen).metric_is(IDLE, 1.0).await;
    pool.process(frozen).freeze();
    let next = ran(&mut pool, "t1", "a", &["say hi"], "end_turn").await;
    assert_eq!(pool.process_of(&next), 1 - frozen);
    assert!(!lives(last.pid));
    pool.process(frozen).thaw();
    pool.process(frozen).metric_is(IDLE, 0.0).await;
    // To and fro, as the broker has it.
    for n in 2..12 {
        last = ran(&mut pool, &format!("t{n}"), "a", &["say hi"], "end_turn").await;
        assert_eq!(thread(&pool, &format!("t{n}")), thread(&pool, "t0"));
    }
    assert!(lives(last.pid));
    pool.stop().await;
}

/// Guards the mark on the bell: the next holder of the workspace finds what was
/// left, though no attempt was under way.
#[tokio::test]
async fn g3_what_a_lost_server_leaves_is_ended_before_the_next_turn() {
    let mut pool = pool(1, &[]).await;
    fs::write(pool.stand_in_file("app-server"), "child").unwrap();
    let run = ran(&mut pool, "t", "a", &["say hi"], "end_turn").await;
    pool.metric_is(IDLE, 1.0).await;
    let (child, guard) = (pool.pid_in("child"), parent(run.pid));
    // Before the worker can do anything about it.
    pool.process(0).freeze();
    kill(guard);
    pool.process(0).kill();
    gone(run.pid);
    assert!(lives(child));
    fs::remove_file(pool.stand_in_file("app-server")).unwrap();
    pool.spawn(&[]);
    ran(&mut pool, "u", "a", &["say hi"], "end_turn").await;
    assert!(!lives(child));
    pool.stop().await;
}

/// Guards that a worker's death and a drain end its servers.
#[tokio::test]
async fn g3_servers_end_with_their_worker() {
    let mut pool = pool(1, &[]).await;
    let run = ran(&mut pool, "t", "a", &["say hi"], "end_turn").await;
    pool.process(0).kill();
    pool.unlocked("a").await;
    assert!(!lives(run.pid));

    pool.spawn(&[]);
    let run = ran(&mut pool, "u", "a", &["say hi"], "end_turn").await;
    pool.enqueue(&[turn("v", "b", &["wait go"])]).await;
    pool.started("v", 1).await;
    pool.process(1).terminate();
    gone(run.pid);
    pool.release("go");
    assert_eq!(pool.events.ended("v").await.stop_reason(), "end_turn");
    assert_eq!(pool.process(1).exited().await, Some(0));
    assert!(!lives(pool.started("v", 1).await.pid));
}

/// A turn that is never run leaves the server to the next one.
#[tokio::test]
async fn a_cancelled_turn_costs_no_server() {
    let mut pool = pool(1, &[]).await;
    let first = ran(&mut pool, "t", "a", &["say hi"], "end_turn").await;
    pool.enqueue(&[turn("busy", "b", &["wait go"])]).await;
    pool.started("busy", 1).await;
    pool.enqueue(&[turn("waiting", "a", &["say hi"])]).await;
    pool.cancel("waiting").await;
    pool.release("go");
    assert_eq!(
        pool.events.ended("waiting").await.stop_reason(),
        "cancelled"
    );
    let next = ran(&mut pool, "u", "a", &["say hi"], "end_turn").await;
    assert_eq!(next.pid, first.pid);
    pool.stop().await;
}
