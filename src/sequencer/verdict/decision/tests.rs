use std::time::Duration;

use super::*;
use crate::request::OnBusy;

fn claim(
    root: &Root,
    turn: &QueuedTurn,
    wanted: Wanted,
    by: String,
    other_ended: Option<bool>,
) -> Result<Decided, NotStarted> {
    super::claim(root, turn, wanted, by, other_ended, |_| None)
}

fn turn(workspace: &str) -> QueuedTurn {
    let request = format!(
        r#"{{"turn_id":"t","workspace":"{workspace}","messages":[{{"role":"user","content":"hi"}}]}}"#
    );
    QueuedTurn {
        workspace: workspace.into(),
        turn_id: "t".into(),
        fingerprint: 0,
        start_within: Some(Duration::from_secs(7)),
        on_busy: OnBusy::Enqueue,
        request: request.into_bytes().into(),
        enqueued_at: None,
        tenant: None,
    }
}

#[test]
fn g5_a_cancelled_turn_whose_workspace_can_not_be_is_left_to_a_worker() {
    let dir = tempfile::tempdir().unwrap();
    let root = Root::open(dir.path()).unwrap();
    root.workspace("a").unwrap();
    for wanted in [Wanted::Cancelled, Wanted::BacklogFull, Wanted::Expired] {
        let decided = claim(&root, &turn("a/inside"), wanted.clone(), "me".into(), None).unwrap();
        assert!(matches!(decided, Decided::Runs), "{wanted:?}");
        let decided = claim(&root, &turn("b"), wanted.clone(), "me".into(), None).unwrap();
        assert!(!matches!(decided, Decided::Runs), "{wanted:?}");
    }
}

fn run_claim() -> Claim {
    Claim {
        verdict: Verdict::Run,
        fingerprint: 0,
        made_at: Timestamp::now(),
        by: "w".into(),
    }
}

#[test]
fn g5_who_is_busy_is_decided_by_the_records_of_those_ahead() {
    let dir = tempfile::tempdir().unwrap();
    let root = Root::open(dir.path()).unwrap();
    let workspace = root.workspace("a").unwrap();
    let decide = |ahead: &[&str]| {
        let ahead = ahead.iter().map(|id| Arc::from(*id)).collect();
        claim(&root, &turn("a"), Wanted::Busy { ahead }, "me".into(), None).unwrap()
    };
    let unrun = Claim {
        verdict: Verdict::Unrun { ending: Vec::new() },
        ..run_claim()
    };
    workspace.claims().claim("unrun", &unrun).unwrap();
    workspace.claims().claim("runs", &run_claim()).unwrap();
    assert!(matches!(decide(&["unrun"]), Decided::AllEnded));
    assert!(workspace.claims().find("t").unwrap().is_none());
    for ahead in ["runs", "waits"] {
        let decided = decide(&["unrun", ahead]);
        let Decided::Ended {
            refused: None,
            silent: false,
            ..
        } = decided
        else {
            panic!("{ahead}: it is let in, or dead-lettered");
        };
    }
    // For good, even if others have ended since.
    workspace.claims().claim("waits", &unrun).unwrap();
    let decided = decide(&["runs"]);
    assert!(matches!(decided, Decided::Ended { now: None, .. }));
    // One that runs was let in.
    let claims = root.workspace("b").unwrap().claims().clone();
    claims.claim("t", &run_claim()).unwrap();
    let ahead = vec!["waits".into()];
    let decided = claim(&root, &turn("b"), Wanted::Busy { ahead }, "me".into(), None);
    assert!(matches!(decided.unwrap(), Decided::Runs));
}

/// A network file system may show the records as they were before that turn has ended.
#[test]
fn g4_no_turn_is_refused_by_records_that_are_older_than_known() {
    let dir = tempfile::tempdir().unwrap();
    let root = Root::open(dir.path()).unwrap();
    let workspace = root.workspace("a").unwrap();
    workspace.claims().claim("ahead", &run_claim()).unwrap();
    let lock = workspace.try_lock().unwrap().unwrap();
    let journal = lock.open_journal(None).unwrap();
    let seen = journal.end().unwrap();
    drop(journal);
    let later = JournalEnd {
        len: seen.len + 1,
        ..seen
    };
    let busy = || Wanted::Busy {
        ahead: vec!["ahead".into()],
    };
    let id_taken = || Wanted::IdTaken {
        workspace: "a".into(),
    };
    for wanted in [busy as fn() -> Wanted, id_taken] {
        let decide = |known| {
            let known = |workspace: &str| (workspace == "a").then_some(known);
            let (turn, by) = (turn("a"), "me".to_owned());
            super::claim(&root, &turn, wanted(), by, None, known)
        };
        let error = decide(later).err().expect("it is refused by old records");
        assert!(error.is_old_read(), "{error}");
        assert!(workspace.claims().find("t").unwrap().is_none());
        assert!(matches!(decide(seen), Ok(Decided::Ended { .. })));
        std::fs::remove_file(workspace.state_dir().join("claims/t.claim")).unwrap();
    }
}

#[test]
fn g5_a_turn_is_superseded_durably_and_only_by_one_that_is_not_decided() {
    let dir = tempfile::tempdir().unwrap();
    let root = Root::open(dir.path()).unwrap();
    let claims = root.workspace("a").unwrap().claims().clone();
    let supersede = |by: &str| {
        let by = by.into();
        claim(
            &root,
            &turn("a"),
            Wanted::Superseded { by },
            "me".into(),
            None,
        )
        .unwrap()
    };
    let unrun = Claim {
        verdict: Verdict::Unrun { ending: Vec::new() },
        ..run_claim()
    };
    claims.claim("ran", &run_claim()).unwrap();
    claims.claim("cancelled", &unrun).unwrap();
    for by in ["ran", "cancelled"] {
        assert!(matches!(supersede(by), Decided::Spent), "{by}");
        assert_eq!(claims.cancel_mark("t").unwrap(), None, "{by}");
    }
    let Decided::Ended { events, .. } = supersede("u") else {
        panic!("it goes on");
    };
    assert!(events[1].json.contains(r#""superseded_by":"u""#));
    // Later claims say the same.
    let Decided::Ended { events: again, .. } = supersede("v") else {
        panic!("it goes on");
    };
    assert_eq!(again, events);
    // One that runs has the mark, for its next attempt.
    let claims = root.workspace("b").unwrap().claims().clone();
    claims.claim("t", &run_claim()).unwrap();
    let by = "u".into();
    let decided = claim(
        &root,
        &turn("b"),
        Wanted::Superseded { by },
        "me".into(),
        None,
    );
    assert!(matches!(decided.unwrap(), Decided::Runs));
    let mark = claims.cancel_mark("t").unwrap().unwrap();
    assert_eq!(mark.superseded_by.as_deref(), Some("u"));
}

#[test]
fn g5_a_turn_id_that_another_workspaces_turn_has_is_refused_in_silence() {
    let dir = tempfile::tempdir().unwrap();
    let root = Root::open(dir.path()).unwrap();
    let other = root.workspace("other").unwrap();
    let refuse = |workspace: &str| {
        let wanted = Wanted::IdTaken {
            workspace: "other".into(),
        };
        claim(&root, &turn(workspace), wanted, "me".into(), None).unwrap()
    };
    let is_refused = |decided: &Decided, first: bool| {
        let Decided::Ended {
            events,
            refused: Some(error),
            now,
            silent: true,
        } = decided
        else {
            return false;
        };
        let says_why = events[1].json.contains("a turn of another workspace has");
        error.code == ErrorCode::RequestInvalid && now.is_some() == first && says_why
    };
    // Waiting or running; also where a worker would reject it, and publish that.
    for workspace in ["waits", "other/inside"] {
        assert!(is_refused(&refuse(workspace), true), "{workspace}");
        assert!(is_refused(&refuse(workspace), false), "{workspace}");
    }
    other.claims().claim("t", &run_claim()).unwrap();
    assert!(is_refused(&refuse("runs"), true));
    // A predecessor let it in, and it may run.
    let claims = root.workspace("let-in").unwrap().claims().clone();
    claims.claim("t", &run_claim()).unwrap();
    assert!(matches!(refuse("let-in"), Decided::Runs));
    // One that had ended before has an ending of its own.
    let ended = Claim {
        verdict: Verdict::Unrun { ending: Vec::new() },
        ..run_claim()
    };
    let claims = root.workspace("ended").unwrap().claims().clone();
    claims.claim("t", &ended).unwrap();
    let Decided::Ended {
        refused: None,
        now: None,
        silent: false,
        ..
    } = refuse("ended")
    else {
        panic!("its own ending is lost");
    };
}

#[test]
fn g5_a_turn_id_is_free_once_the_turn_that_had_it_is_recorded_to_have_ended() {
    let dir = tempfile::tempdir().unwrap();
    let root = Root::open(dir.path()).unwrap();
    let ended = Claim {
        verdict: Verdict::Unrun { ending: Vec::new() },
        ..run_claim()
    };
    let other = root.workspace("other").unwrap();
    other.claims().claim("t", &ended).unwrap();
    let wanted = Wanted::IdTaken {
        workspace: "other".into(),
    };
    let decided = claim(&root, &turn("a"), wanted, "me".into(), None).unwrap();
    assert!(matches!(decided, Decided::AllEnded));
    let claims = root.workspace("a").unwrap().claims().clone();
    assert!(claims.find("t").unwrap().is_none());
}

#[test]
fn g5_a_refusal_tried_again_is_the_same_counted_once_and_still_buried() {
    let dir = tempfile::tempdir().unwrap();
    let root = Root::open(dir.path()).unwrap();
    let decide = |wanted| match claim(&root, &turn("a"), wanted, "me".into(), None).unwrap() {
        Decided::Ended {
            events,
            refused,
            now,
            ..
        } => {
            let stop_reason = now.map(|now| now.stop_reason);
            (events, refused.map(|error| error.code), stop_reason)
        }
        _ => panic!("it runs"),
    };
    let full = Some(ErrorCode::BacklogFull);
    let (events, refused, now) = decide(Wanted::BacklogFull);
    assert_eq!((refused, now), (full, Some(StopReason::Error)));
    assert_eq!(decide(Wanted::BacklogFull), (events.clone(), full, None));
    // A cancel that comes later has no effect, and is no refusal.
    assert_eq!(decide(Wanted::Cancelled), (events, None, None));
}

#[test]
fn g5_a_turn_that_runs_never_expires_and_one_that_expired_is_not_buried() {
    let dir = tempfile::tempdir().unwrap();
    let root = Root::open(dir.path()).unwrap();
    let expire = || claim(&root, &turn("a"), Wanted::Expired, "me".into(), None).unwrap();
    let Decided::Ended {
        events,
        refused: None,
        now: Some(decision),
        silent: false,
    } = expire()
    else {
        panic!("it does not expire");
    };
    assert_eq!(decision.stop_reason, StopReason::Error);
    assert_eq!(decision.error.unwrap().code, ErrorCode::Expired);
    assert!(events[1].json.contains("within the 7 s"), "{events:?}");
    let Decided::Ended {
        events: again,
        refused: None,
        now: None,
        silent: false,
    } = expire()
    else {
        panic!("it ends otherwise");
    };
    assert_eq!(again, events);
    let claims = root.workspace("b").unwrap().claims().clone();
    assert_eq!(claims.claim("t", &run_claim()).unwrap(), ClaimOutcome::Won);
    let decided = claim(&root, &turn("b"), Wanted::Expired, "me".into(), None).unwrap();
    assert!(matches!(decided, Decided::Runs));
}
