use super::summary::summary;
use super::*;
use turn_worker::amqp::messages::{About, BacklogReport, HeldReport, LineReport, Running};
use turn_worker::conditions::ConditionReport;
use turn_worker::operator::SequencerStatus;
use turn_worker::operator::WorkerStatus;
use turn_worker::pool::Agreement;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn turn(id: &str, started_at: i64) -> Running {
    Running {
        workspace: "acme/website".to_owned(),
        turn_id: id.to_owned(),
        attempt: u32::from(started_at > 0),
        started_at: at(started_at),
        spent: None,
    }
}

fn pool() -> PoolStatus {
    let wait = |held_ms, enqueued| {
        Some(WaitReport {
            held_ms,
            enqueued_at: Some(at(enqueued)),
        })
    };
    let line = |workspace: &str, turns, oldest| LineReport {
        workspace: workspace.to_owned(),
        turns,
        running: oldest != wait(7_000, 10_000),
        oldest,
        ..LineReport::default()
    };
    let worker = |name: &str, about, running: Vec<Running>| WorkerStatus {
        name: name.to_owned(),
        version: "0.1.0".to_owned(),
        slots: 4,
        busy: running.len(),
        about,
        running,
    };
    let unfit = About {
        codex: Some("0.171.0".to_owned()),
        lacks: vec!["disk: /srv/\u{1b}[2Jw: full".to_owned()],
        ..About::default()
    };
    let sequencer = |name: &str, active| SequencerStatus {
        conditions: Vec::new(),
        pool: None,
        name: name.to_owned(),
        version: "0.1.0".to_owned(),
        active,
    };
    PoolStatus {
        homes: None,
        workers: vec![
            worker("alpha-1", unfit, vec![turn("t2", 9_000)]),
            worker(
                "beta\u{1b}]0;x\u{7}-2",
                About::default(),
                vec![turn("t1", 0)],
            ),
        ],
        sequencers: vec![sequencer("alpha-1", false), sequencer("beta-2", true)],
        backlog: Some(BacklogReport {
            limit: 10_000,
            turns: 42,
            waiting: 40,
            beyond: 0,
            workspaces: 5,
            oldest: wait(1_000, 9_000),
            stuck: Vec::new(),
            top: vec![
                line("acme/website", 30, wait(1_000, 9_000)),
                line("b", 12, wait(7_000, 10_000)),
            ],
        }),
        turns_not_held: Some(7),
        turns_consumers: Some(2),
        offers_untaken: Some(3),
        dead_letters: Some(1),
        not_kept: 0,
    }
}

#[test]
fn what_the_broker_does_not_show_this_user_is_unknown() {
    let status = PoolStatus {
        turns_not_held: None,
        turns_consumers: None,
        offers_untaken: None,
        dead_letters: None,
        ..pool()
    };
    let shown: Vec<_> = summary(&status, at(10_000))
        .into_iter()
        .map(|(name, text)| format!("{name}: {text}"))
        .collect();
    assert!(
        shown.contains(&"offers: unknown untaken".to_owned()),
        "{shown:?}"
    );
    assert!(
        shown.contains(&"rejected: unknown (turn-worker dead list)".to_owned()),
        "{shown:?}"
    );
    assert!(!shown.iter().any(|line| line.starts_with("beyond")));
}

#[test]
fn a_long_reason_takes_no_room_from_workspaces() {
    let mut pool = pool();
    let id = "01a22d4a-333f-746f-b932-01e90c0563a6";
    pool.workers[0].running[0].turn_id = id.to_owned();
    let text = overview(&pool, 1, at(10_000), Style::default(), 60);
    let expected = format!(
        "
WORKSPACE     TURNS  OLDEST WAITS  WHY
acme/website     30  16 min        runs
  {id} runs on alpha-1
"
    );
    assert!(text.contains(&expected), "{text}");
}

#[test]
fn a_time_out_of_any_sense_is_no_wait() {
    let now: Timestamp = "2026-11-30T00:00:00Z".parse().unwrap();
    let waited = |enqueued_at: &str| {
        let wait = WaitReport {
            held_ms: 7_000,
            enqueued_at: enqueued_at.parse().ok(),
        };
        super::waited(&wait, now).as_secs()
    };
    assert_eq!(waited("2026-11-29T23:59:00Z"), 60);
    assert_eq!(waited("1970-01-01T00:00:00Z"), 7);
    assert_eq!(waited("0001-01-01T00:00:00Z"), 7);
}

#[test]
fn what_helps_against_a_condition_is_shown_whole_on_a_narrow_terminal() {
    let mut pool = pool();
    pool.turns_consumers = Some(3);
    for worker in &mut pool.workers {
        worker.about.conditions.push(ConditionReport {
            condition: "root_differs".to_owned(),
            blocking: true,
            found: "found root A here, expected root B, which process gamma-3 has: mount the \
                    pool's root at TURN_WORKER_WORKSPACE_ROOT"
                .to_owned(),
        });
    }
    let text = overview(&pool, 2, at(10_000), Style::default(), 60);
    for expected in [
        "
CONDITION     FOUND BY
root_differs  alpha-1 (and 1 more)
  found root A here, expected root B, which process gamma-3
  has: mount the pool's root at TURN_WORKER_WORKSPACE_ROOT
",
        "
consumers   3 on the queue of turns, expected 2: another
            program takes turns (rabbitmqctl
            list_consumers), or a sequencer is too old to
            report
",
    ] {
        assert!(text.contains(expected), "{text}");
    }
}

#[test]
fn g8_what_cannot_be_killed_is_named_once() {
    let held = HeldReport {
        workspace: "acme/website".to_owned(),
        host: "alpha".to_owned(),
        pid: 4711,
        user: "root".to_owned(),
        command: "sleep\u{1b}[2J 1000".to_owned(),
        since: at(9_000),
        more: 2,
    };
    let mut pool = pool();
    for worker in &mut pool.workers {
        worker.about.held.push(held.clone());
    }
    let told = overview(&pool, 2, at(10_000), Style::default(), 100);
    assert!(
        told.contains(
            "
LOCKED WORKSPACE  HOST    PID  USER  FOR     PROCESS THAT CAN'T BE KILLED
acme/website      alpha  4711  root  16 min  sleep 1000 (and 2 more)
"
        ),
        "{told}"
    );
}

#[test]
fn a_process_that_stands_back_is_not_shown_as_taking_turns() {
    let mut pool = pool();
    for (in_service, state) in [(true, "takes turns"), (false, "stands back")] {
        pool.workers[1].about.pool = Some(Box::new(Agreement {
            root: "00000000-0000-4000-8000-000000000001".parse().unwrap(),
            disk: None,
            uptime_ms: 0,
            clock: at(0),
            in_service,
            stands_back: !in_service,
            holds_lock: true,
            probe: None,
            settings: Default::default(),
            broker: None,
        }));
        let told = overview(
            &PoolStatus {
                workers: vec![pool.workers[1].clone()],
                ..PoolStatus::default()
            },
            2,
            at(10_000),
            Style::default(),
            80,
        );
        let line = told.lines().find(|line| line.starts_with("beta-2"));
        assert!(line.unwrap().ends_with(state), "{told}");
    }
}

#[test]
fn g8_a_pool_reads_well_and_moves_no_cursor() {
    let told = overview(&pool(), 2, at(10_000), Style::default(), 80);
    assert_eq!(
        told,
        "\
workers     2, 2 of 8 slots busy, 1 unfit
sequencer   beta-2 is active, 1 on standby
turns       42 of 5 workspaces (at most 10000); 40 wait, the oldest for 16 min
beyond      7 in the queue that no sequencer holds
offers      3 untaken
rejected    1 (turn-worker dead list)

WORKER   VERSION  CODEX    BUSY  STATE
alpha-1  0.1.0    0.171.0   1/4  unfit
  disk: /srv/w: full
beta-2   0.1.0    –         1/4  takes turns

RUNNING TURN  WORKSPACE     FOR         ATTEMPT  WORKER
t1            acme/website  2 h 46 min        –  beta-2
t2            acme/website  16 min            1  alpha-1

WORKSPACE     TURNS  OLDEST WAITS  WHY
acme/website     30  16 min        t2 runs on alpha-1
b                12  7 s           is offered, and about to start
… and 3 more
"
    );
}

#[test]
fn what_is_missing_is_reported_with_what_that_means() {
    let nobody = PoolStatus::default();
    let told = overview(&nobody, 2, at(0), Style::default(), 80);
    assert!(told.contains("workers     no reports"), "{told}");
    assert!(
        told.contains("sequencer   no reports: no turn is offered"),
        "{told}"
    );
    let mut pool = pool();
    pool.sequencers[1].active = false;
    let told = overview(&pool, 2, at(0), Style::default(), 80);
    assert!(
        told.contains("2 on standby; which is active shows"),
        "{told}"
    );
    for sequencer in &mut pool.sequencers {
        sequencer.active = true;
    }
    let told = overview(&pool, 2, at(0), Style::default(), 120);
    assert!(
        told.contains("alpha-1 and beta-2 take themselves for"),
        "{told}"
    );
}
