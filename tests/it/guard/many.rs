//! A guard that dies beside others, in a worker of a pool.

use rustix::process::{Pid, Signal, kill_process};

use crate::support::pool::{Pool, turn};
use crate::support::processes::{lives, parent};

/// What a dead guard leaves falls to the worker, where living guards are too,
/// and where others are being started.
#[tokio::test(flavor = "multi_thread")]
async fn g3_a_guards_death_harms_no_other_turn_of_its_worker() {
    const VICTIMS: usize = 10;
    const OTHERS: usize = 100;
    let mut pool = Pool::start(1, &[("SLOTS", "20"), ("CODEX_WARM", "0")]).await;
    let mut turns = vec![turn("steady", "steady", &["daemon steady", "wait go"])];
    for n in 0..VICTIMS {
        let daemon = format!("daemon victim-{n}");
        turns.push(turn(
            &format!("victim-{n}"),
            &format!("v{n}"),
            &[&daemon, "hang"],
        ));
    }
    pool.enqueue(&turns).await;
    let pid_in = async |name: &str| {
        let file = pool.stand_in_file(name);
        let reading = async || {
            std::fs::read_to_string(&file)
                .ok()?
                .trim()
                .parse::<i32>()
                .ok()
        };
        pool.deadline.until(name, reading).await
    };
    let steady = pid_in("steady").await;
    let mut victims = Vec::new();
    for n in 0..VICTIMS {
        let name = format!("victim-{n}");
        let daemon = pid_in(&name).await;
        let codex = pool.started(&name, 1).await.pid;
        victims.push((name, parent(codex), daemon));
    }

    let others: Vec<_> = (0..OTHERS).map(|n| format!("other-{n}")).collect();
    let requests: Vec<_> = others
        .iter()
        .enumerate()
        .map(|(n, id)| turn(id, &format!("o{}", n % 8), &["run true"]))
        .collect();
    pool.enqueue(&requests).await;
    for (n, (_, guard, _)) in victims.iter().enumerate() {
        // Spread over the time in which the others come and go.
        pool.events.count_ended(n * OTHERS / VICTIMS / 2).await;
        kill_process(Pid::from_raw(*guard).unwrap(), Signal::KILL).unwrap();
    }
    for (name, _, daemon) in &victims {
        let victim = pool.events.ended(name).await;
        assert_eq!(victim.error_code(), Some("codex.exited"));
        assert!(!lives(*daemon), "{name}'s daemon outlived it");
    }
    for id in &others {
        assert_eq!(
            pool.events.ended(id).await.stop_reason(),
            "end_turn",
            "{id}"
        );
    }
    assert!(lives(steady));
    pool.release("go");
    assert_eq!(pool.events.ended("steady").await.stop_reason(), "end_turn");
    assert!(!lives(steady));
    let worker = pool.processes()[0].pid();
    let left: Vec<_> = children(worker)
        .into_iter()
        .filter(|child| !is_waiting_guard(*child))
        .collect();
    assert_eq!(left, [0; 0], "the worker has children left");
    pool.stop().await;
}

/// One that lives and has no children.
fn is_waiting_guard(pid: i32) -> bool {
    let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    command.split(|byte| *byte == 0).nth(1) == Some(b"__guard") && children(pid).is_empty()
}

/// Also those that are not reaped.
fn children(of: i32) -> Vec<i32> {
    let pids = std::fs::read_dir("/proc").unwrap().filter_map(|entry| {
        let pid: i32 = entry.ok()?.file_name().to_str()?.parse().ok()?;
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let parent = stat.rsplit(')').next()?.split_whitespace().nth(1)?;
        (parent.parse() == Ok(of)).then_some(pid)
    });
    pids.collect()
}
