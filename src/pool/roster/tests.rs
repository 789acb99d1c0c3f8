use super::*;

const PERIOD: Duration = HEARTBEAT;

fn root(number: u128) -> Uuid {
    Uuid::from_u128(number)
}

/// Processes that hear each other, on one clock.
struct World {
    now: Instant,
    clock: Timestamp,
    processes: Vec<(Roster, Standing)>,
}

impl World {
    fn new() -> Self {
        Self {
            now: Instant::now() + Duration::from_secs(100_000),
            clock: Timestamp::from_second(1_800_000_000).unwrap(),
            processes: Vec::new(),
        }
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        self.clock += SignedDuration::try_from(time).unwrap();
    }

    fn start(&mut self, id: &str, root: Uuid) -> usize {
        let own = Own {
            id: id.to_owned(),
            disk: None,
            root,
            settings: BTreeMap::new(),
            started: self.now,
        };
        self.processes.push((Roster::new(own), Standing::Starting));
        self.processes.len() - 1
    }

    fn report(&self, number: usize) -> (String, Agreement) {
        let (roster, standing) = &self.processes[number];
        let uptime = self.now.duration_since(roster.own.started);
        let agreement = Agreement {
            root: roster.own.root,
            disk: None,
            uptime_ms: uptime.as_millis() as u64,
            clock: self.clock,
            in_service: *standing == Standing::InService,
            stands_back: *standing == Standing::StandsBack,
            holds_lock: true,
            probe: None,
            settings: roster.own.settings.clone(),
            broker: None,
        };
        (roster.own.id.clone(), agreement)
    }

    /// One heartbeat of each of these, heard by all of them; then all decide.
    fn round(&mut self, alive: &[usize]) {
        self.pass(PERIOD);
        let reports: Vec<_> = alive.iter().map(|number| self.report(*number)).collect();
        for number in alive {
            let (roster, _) = &mut self.processes[*number];
            roster.listened(PERIOD);
            for (id, agreement) in &reports {
                roster.heard(self.now, self.clock, id, agreement);
            }
        }
        for number in alive {
            let findings = self.findings(*number);
            self.processes[*number].1 = match findings.yields_to {
                Some(_) => Standing::StandsBack,
                None => Standing::InService,
            };
        }
    }

    fn findings(&self, number: usize) -> Findings {
        let (roster, standing) = &self.processes[number];
        roster.findings(self.now, *standing)
    }

    fn in_service(&self) -> Vec<usize> {
        let all = self.processes.iter().enumerate();
        let serving = all.filter(|(_, (_, standing))| *standing == Standing::InService);
        serving.map(|(number, _)| number).collect()
    }
}

#[test]
fn a_newcomer_with_another_root_stands_back_and_names_both() {
    let mut world = World::new();
    let first = world.start("a-1-x", root(9));
    world.round(&[first]);
    assert_eq!(world.in_service(), [first]);
    // Its root's id is the smaller one, and yet.
    let second = world.start("b-1-x", root(1));
    let third = world.start("c-1-x", root(9));
    for _ in 0..3 {
        world.round(&[first, second, third]);
        assert_eq!(world.in_service(), [first, third]);
    }
    let found = world.findings(second).root.unwrap();
    for part in [root(1).to_string(), root(9).to_string()] {
        assert!(found.contains(&part), "{found}");
    }
    assert!(
        found.contains("a-1-x") || found.contains("c-1-x"),
        "{found}"
    );
    assert_eq!(world.findings(first), Findings::default());
}

#[test]
fn one_that_stood_back_serves_when_the_other_root_is_gone() {
    let mut world = World::new();
    let first = world.start("a-1-x", root(9));
    world.round(&[first]);
    let second = world.start("b-1-x", root(1));
    world.round(&[first, second]);
    // Restarted, and found before it is in service; its id is the larger one.
    let restarted = world.start("a-2-x", root(9));
    world.round(&[second, restarted]);
    assert_eq!(world.processes[second].1, Standing::StandsBack);
    assert_eq!(world.processes[restarted].1, Standing::InService);
    for _ in 0..4 {
        world.round(&[second]);
    }
    assert_eq!(world.findings(second), Findings::default());
    assert!(!world.processes[second].0.is_there("a-2-x"));
}

#[test]
fn of_processes_that_start_at_once_those_of_one_root_serve() {
    let mut world = World::new();
    let all = [
        world.start("a-1-x", root(2)),
        world.start("b-1-x", root(1)),
        world.start("c-1-x", root(3)),
        world.start("d-1-x", root(1)),
    ];
    world.round(&all);
    assert_eq!(world.in_service(), [all[1], all[3]]);
}

/// Both could not hear each other, as when the network was split at the broker.
#[test]
fn of_two_in_service_the_one_that_has_run_for_longer_stays() {
    for apart in [
        Duration::ZERO,
        SAME_AGE - Duration::from_millis(1),
        SAME_AGE,
        SAME_AGE + Duration::from_millis(1),
        SAME_AGE * 2,
    ] {
        for roots in [[1, 2], [2, 1]] {
            let mut world = World::new();
            let elder = world.start("a-1-x", root(roots[0]));
            world.pass(apart);
            let younger = world.start("b-1-x", root(roots[1]));
            for number in [elder, younger] {
                world.processes[number].1 = Standing::InService;
            }
            for _ in 0..3 {
                world.round(&[elder, younger]);
            }
            let serving = world.in_service();
            assert_eq!(serving.len(), 1, "{apart:?} {roots:?}");
            if apart > SAME_AGE + AGE_ERROR {
                assert_eq!(serving, [elder]);
            }
        }
    }
}

#[test]
fn old_processes_report_no_agreement_and_are_not_compared() {
    let mut world = World::new();
    let only = world.start("a-1-x", root(1));
    world.round(&[only]);
    assert_eq!(world.findings(only), Findings::default());
    assert!(!world.processes[only].0.own_root_is_in_service());
}

#[test]
fn settings_that_differ_are_named_with_both_values() {
    let mut world = World::new();
    let ids = ["a-1-x", "b-1-x", "c-1-x"].map(|id| world.start(id, root(1)));
    for (number, models) in ids.into_iter().zip(["o9", "gpt", "gpt"]) {
        let settings = &mut world.processes[number].0.own.settings;
        settings.insert("CODEX_MODELS".to_owned(), models.to_owned());
    }
    // What the others do not report is not compared.
    let settings = &mut world.processes[ids[0]].0.own.settings;
    settings.insert("MAX_WAITING".to_owned(), "1".to_owned());
    world.round(&ids);
    let found = world.findings(ids[0]);
    assert_eq!(found.yields_to, None);
    assert_eq!(
        found.settings.unwrap(),
        "CODEX_MODELS is o9 here, gpt at process b-1-x and differs at 1 more; expected equal settings"
    );
}

#[test]
fn a_clock_that_is_ahead_is_known_by_host() {
    let mut world = World::new();
    let ours = world.start("a-1-x", root(1));
    let theirs = world.start("far-away-1-x", root(1));
    let (id, mut report) = world.report(theirs);
    report.clock += SignedDuration::from_hours(2);
    let (now, clock) = (world.now, world.clock);
    let roster = &mut world.processes[ours].0;
    roster.heard(now, clock, &id, &report);
    let ahead = |process: &str| roster.clock_ahead(process).map(|ahead| ahead.as_hours());
    assert_eq!(ahead("far-away-1-x"), Some(2));
    // An earlier process there had the same clock.
    assert_eq!(ahead("far-away-7-y"), Some(2));
    assert_eq!(ahead("other-7-y"), None);
    assert_eq!(ahead("a-7-y"), None);
    assert_eq!(ahead(""), None);
    let found = world.findings(ours).clock.unwrap();
    assert!(found.contains("7200.0 s ahead of"), "{found}");
}

#[test]
fn g3_a_lock_that_can_be_taken_while_its_process_lives_is_found() {
    let mut world = World::new();
    let first = world.start("a-1-x", root(1));
    world.round(&[first]);
    world.pass(SAME_AGE * 3);
    let second = world.start("b-1-x", root(1));
    world.round(&[first, second]);
    let due = |world: &World| world.processes[second].0.locks_to_try(world.now, 10);
    for miss in 1..=LOCK_MISSES {
        assert_eq!(due(&world), ["a-1-x"], "before miss {miss}");
        let now = world.now;
        world.processes[second].0.lock_tried(now, "a-1-x", false);
        assert!(due(&world).is_empty());
        assert!(world.processes[second].0.is_in_doubt());
        assert_eq!(world.findings(second).locks, None);
        world.round(&[first, second]);
    }
    let found = world.findings(second);
    assert_eq!(found.yields_to.as_deref(), Some("a-1-x"));
    assert!(found.locks.unwrap().contains("a-1-x"));
    assert!(!world.processes[second].0.is_in_doubt());
    // The other side, which has run for longer, stays in service.
    for _ in 0..LOCK_MISSES {
        let now = world.now;
        world.processes[first].0.lock_tried(now, "b-1-x", false);
        world.round(&[first, second]);
    }
    let found = world.findings(first);
    assert!(found.yields_to.is_none() && found.locks.is_some());
    // Repaired.
    let now = world.now;
    world.processes[second].0.lock_tried(now, "a-1-x", true);
    assert_eq!(world.findings(second).locks, None);
}

/// Else the older of two hosts, without its storage, would keep the other from all work.
#[test]
fn g2_a_process_that_reports_its_lock_lost_is_in_no_others_way() {
    let mut world = World::new();
    let first = world.start("a-1-x", root(1));
    world.round(&[first]);
    world.pass(SAME_AGE * 3);
    let second = world.start("b-1-x", root(1));
    world.round(&[first, second]);
    for _ in 1..=LOCK_MISSES {
        let now = world.now;
        world.processes[second].0.lock_tried(now, "a-1-x", false);
        world.round(&[first, second]);
    }
    assert!(world.findings(second).locks.is_some());
    let (id, mut report) = world.report(first);
    report.holds_lock = false;
    let (now, clock) = (world.now, world.clock);
    let roster = &mut world.processes[second].0;
    roster.heard(now, clock, &id, &report);
    assert!(roster.locks_to_try(now, 10).is_empty());
    assert_eq!(world.findings(second), Findings::default());
}

#[test]
fn a_lock_that_is_free_because_its_process_has_ended_is_no_finding() {
    let mut world = World::new();
    let ids = [world.start("a-1-x", root(1)), world.start("b-1-x", root(1))];
    world.round(&ids);
    let last_words = world.report(ids[0]);
    let (now, clock) = (world.now, world.clock);
    let roster = &mut world.processes[ids[1]].0;
    roster.lock_tried(now, "a-1-x", false);
    // Under way when it ended.
    roster.heard(now + PERIOD / 2, clock, &last_words.0, &last_words.1);
    assert!(roster.locks_to_try(now + PERIOD / 2, 10).is_empty());
    for _ in 0..4 {
        world.round(&ids[1..]);
    }
    assert_eq!(world.findings(ids[1]), Findings::default());
    assert!(!world.processes[ids[1]].0.is_in_doubt());
}

#[test]
fn g10_the_number_of_processes_that_are_kept_is_bounded() {
    let mut world = World::new();
    let ours = world.start("a-1-x", root(1));
    let theirs = world.start("b-1-x", root(1));
    let (_, report) = world.report(theirs);
    let (now, clock) = (world.now, world.clock);
    let roster = &mut world.processes[ours].0;
    for number in 0..3 * MAX_PEERS {
        roster.heard(now, clock, &format!("{number}-1-x"), &report);
    }
    assert_eq!(roster.peers.len(), MAX_PEERS);
    // Those that are gone make room.
    roster.listened(GONE * 2);
    roster.heard(now, clock, "new-1-x", &report);
    assert!(roster.peers.contains_key("new-1-x"));
    // As far off as can be said.
    let absurd = Agreement {
        uptime_ms: u64::MAX,
        clock: Timestamp::MAX,
        ..report
    };
    roster.heard(now, clock, "new-1-x", &absurd);
    let _ = world.findings(ours);
}

#[test]
fn g4_what_a_living_process_wrote_and_is_not_seen_makes_the_newcomer_yield_for_good() {
    let now = Instant::now() + Duration::from_secs(100_000);
    let clock = Timestamp::from_second(1_800_000_000).unwrap();
    let own = Own {
        id: "new-1-x".to_owned(),
        disk: None,
        root: root(1),
        settings: BTreeMap::new(),
        started: now,
    };
    let report = Agreement {
        root: root(1),
        disk: None,
        uptime_ms: 60_000,
        clock,
        in_service: true,
        stands_back: false,
        holds_lock: true,
        probe: Some(ProbeRound {
            number: 7,
            length: 16,
        }),
        settings: BTreeMap::new(),
        broker: None,
    };
    let mut roster = Roster::new(own).reading(2);
    let hear = |roster: &mut Roster, after: Duration| {
        roster.heard(now + after, clock, "old-1-x", &report);
        roster.round_to_read(now + after, "old-1-x")
    };
    let second = Duration::from_secs(1);
    assert_eq!(hear(&mut roster, Duration::ZERO), report.probe);
    assert!(roster.is_in_doubt(), "too few were read");
    roster.round_read(now, "old-1-x", None);
    assert_eq!(hear(&mut roster, second / 2), None, "the same once more");
    assert_eq!(hear(&mut roster, second), report.probe);
    roster.round_read(now + second, "old-1-x", Some(Property::Rename));
    // It may have ended, and removed its files.
    assert_eq!(hear(&mut roster, second), None);
    assert!(roster.is_in_doubt());
    assert!(roster.findings(now + second, Standing::Starting).is_empty());
    assert_eq!(hear(&mut roster, second + LOCK_SETTLE), None);
    assert!(!roster.is_in_doubt());
    let found = roster.findings(now + second + LOCK_SETTLE, Standing::Starting);
    assert_eq!(found.yields_to.as_deref(), Some("old-1-x"));
    assert!(found.reads.unwrap().contains("(rename)"));
}

#[test]
fn a_process_that_reports_no_rounds_is_not_waited_for() {
    let mut world = World::new();
    let old = world.start("old-1-x", root(1));
    let new = world.start("new-1-x", root(1));
    let (id, mut report) = world.report(old);
    report.probe = None;
    let own = world.processes[new].0.own.clone();
    let mut roster = Roster::new(own).reading(3);
    roster.heard(world.now, world.clock, &id, &report);
    assert!(!roster.is_in_doubt());
    assert_eq!(roster.peer_checks()[0].rounds, None);
}
