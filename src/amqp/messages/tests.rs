use super::control::MAX_CONTROL_BYTES;
use super::offer::MAX_OFFER_BYTES;
use super::status::MAX_STATUS_BYTES;
use super::*;
use crate::error::with_sources;
use crate::event::Tokens;
use crate::labels::ConditionReport;
use crate::workspace::JournalEnd;
use jiff::Timestamp;
use proptest::prelude::*;
use serde_json::value::RawValue;
use uuid::Uuid;

fn time() -> Timestamp {
    "2026-01-02T03:04:05Z".parse().unwrap()
}

fn done() -> Status {
    Status::Done {
        workspace: "acme/website".into(),
        turn_id: "t-01".into(),
        worker: "host-1".into(),
        warm: true,
        journal: Some(journal_end()),
    }
}

fn journal_end() -> JournalEnd {
    JournalEnd {
        journal: Uuid::from_u128(9),
        segment: 2,
        len: 14_201,
        crc: u32::MAX,
    }
}

fn answers() -> [Status; 2] {
    let (workspace, turn_id, worker) = ("acme/website", "t-01", "host-1");
    [
        Status::Taken {
            workspace: workspace.into(),
            turn_id: turn_id.into(),
            worker: worker.into(),
        },
        Status::Declined {
            workspace: workspace.into(),
            turn_id: turn_id.into(),
            worker: worker.into(),
            why: DeclineReason::Full.as_str().into(),
        },
    ]
}

fn heartbeat() -> Status {
    Status::Heartbeat {
        worker: "host-1".into(),
        version: "0.1.0".into(),
        slots: 4,
        running: vec![Running {
            workspace: "acme/website".into(),
            turn_id: "t-01".into(),
            attempt: 2,
            started_at: time(),
            spent: Some(Tokens::default()),
        }],
        about: About {
            host: "host".into(),
            codex: Some("0.169.0".into()),
            draining: true,
            lacks: vec!["disk: full".into()],
            held: vec![HeldReport {
                workspace: "acme/api".into(),
                host: "host".into(),
                pid: 4711,
                user: "root".into(),
                command: "sleep 1000".into(),
                since: time(),
                more: 1,
            }],
            blocked: vec![BlockedReport {
                workspace: "acme/api".into(),
                turn_id: "t-02".into(),
                why: Hindrance::Locked,
                detail: "locked by process 912".into(),
                since: time(),
            }],
            conditions: vec![condition()],
            pool: Some(Box::new(agreement())),
            offers_to: Some("codex.turns.work.0".into()),
            answers_offers: true,
            idle: vec!["acme/api".into()],
        },
    }
}

fn agreement() -> Agreement {
    Agreement {
        root: Uuid::from_u128(7),
        disk: None,
        uptime_ms: 90_000,
        clock: time(),
        in_service: true,
        stands_back: true,
        holds_lock: true,
        probe: None,
        settings: [("MAX_WAITING".to_owned(), "1000".to_owned())].into(),
        broker: Some("rabbit@one".to_owned()),
    }
}

fn condition() -> ConditionReport {
    ConditionReport {
        condition: "clock_differs".into(),
        found: "2 h ahead".into(),
        blocking: true,
    }
}

fn sequencer(lines: usize) -> Status {
    let oldest = Some(WaitReport {
        held_ms: 1,
        enqueued_at: Some(time()),
    });
    let line = LineReport {
        workspace: vec!["w".repeat(64); 4].join("/"),
        turns: 65_535,
        running: true,
        paused: true,
        oldest,
        next: vec!["t".repeat(128); MAX_NEXT],
        home: None,
        home_away_ms: None,
    };
    let stuck = StuckReport {
        workspace: "acme/api".into(),
        turn_id: "t-02".into(),
        for_ms: 300_000,
    };
    Status::Sequencer {
        conditions: vec![condition()],
        process: "host-1".into(),
        version: "0.1.0".into(),
        active: true,
        backlog: Some(BacklogReport {
            limit: 65_535,
            turns: 65_535,
            waiting: 65_534,
            beyond: 0,
            workspaces: 1,
            oldest,
            stuck: vec![stuck; MAX_STUCK],
            top: vec![line; lines],
        }),
        pool: Some(Box::new(agreement())),
        describes: true,
        homes: None,
    }
}

/// What an older version reports, and one that is on standby.
#[test]
fn optional_fields_have_defaults() {
    let old = br#"{"v":1,"type":"heartbeat","worker":"w","running":[]}"#;
    let Decoded::Known(Status::Heartbeat { about, .. }) = Status::decode(old).unwrap() else {
        panic!("a heartbeat of this version is known");
    };
    assert_eq!(about, About::default());
    let done = br#"{"v":1,"type":"done","workspace":"a","turn_id":"t","worker":"w"}"#;
    let decoded = Status::decode(done).unwrap();
    assert!(matches!(
        decoded,
        Decoded::Known(Status::Done {
            warm: false,
            journal: None,
            ..
        })
    ));
    let standby = br#"{"v":1,"type":"sequencer","process":"p","active":false}"#;
    let Decoded::Known(decoded) = Status::decode(standby).unwrap() else {
        panic!("a sequencer of this version is known");
    };
    assert!(matches!(
        decoded,
        Status::Sequencer {
            active: false,
            backlog: None,
            describes: false,
            ..
        }
    ));
}

#[test]
fn g10_what_a_sequencer_reports_is_small() {
    let bytes = sequencer(MAX_LINES).encode().len();
    assert!(bytes < 128 << 10, "{bytes}");
}

#[test]
fn an_offer_comes_back_with_the_same_request_bytes() {
    // Order, numbers and spaces stay: a worker compares and records them.
    let request = r#"{"turn_id":"t-01", "z":1.0e3,"a":["\u00e9"]}"#;
    let offer = Offer {
        repeat: true,
        enqueued_at: Some(time()),
        root: Some(Uuid::from_u128(7)),
        next_waits: true,
        journal: Some(journal_end()),
        request: RawValue::from_string(request.to_owned()).unwrap(),
    };
    let Decoded::Known(back) = Offer::decode(&offer.encode()).unwrap() else {
        panic!("an offer of this version is known");
    };
    assert_eq!(back.request.get(), request);
    assert!(back.repeat && back.next_waits);
    assert_eq!(back.enqueued_at, Some(time()));
    assert_eq!(back.journal, Some(journal_end()));
    assert_eq!(back.root, Some(Uuid::from_u128(7)));
}

#[test]
fn status_comes_back() {
    let pool = Status::Pool {
        process: "host-1".into(),
        pool: agreement(),
    };
    let [taken, declined] = answers();
    for status in [done(), taken, declined, heartbeat(), sequencer(2), pool] {
        assert_eq!(
            Status::decode(&status.encode()).unwrap(),
            Decoded::Known(status)
        );
    }
}

#[test]
fn control_reads_as_the_contract_shows_it() {
    let plain = Control::Cancel {
        turn_id: "t-01".into(),
        workspace: None,
        superseded_by: None,
    };
    let body = br#"{"action":"cancel","turn_id":"t-01"}"#;
    assert_eq!(plain.encode(), body);
    assert_eq!(Control::decode(body).unwrap(), Decoded::Known(plain));

    // Any spelling of a workspace: what it means, only the root's owner knows.
    let absolute = br#"{"action":"cancel","turn_id":"t-01","workspace":"/srv/w/acme"}"#;
    assert_eq!(
        Control::decode(absolute).unwrap(),
        Decoded::Known(Control::Cancel {
            turn_id: "t-01".into(),
            workspace: Some("/srv/w/acme".into()),
            superseded_by: None,
        })
    );

    // Among workers; who doesn't know the field takes it for a plain cancel.
    let superseded = Control::Cancel {
        turn_id: "t-01".into(),
        workspace: Some("acme".into()),
        superseded_by: Some("t-02".into()),
    };
    let body = br#"{"action":"cancel","turn_id":"t-01","workspace":"acme","superseded_by":"t-02"}"#;
    assert_eq!(superseded.encode(), body);
    assert_eq!(Control::decode(body).unwrap(), Decoded::Known(superseded));
    let odd = br#"{"action":"cancel","turn_id":"t-01","superseded_by":"../t"}"#;
    assert!(Control::decode(odd).is_err());

    let question = Control::Describe {
        turn_id: "t-01".into(),
        workspace: "acme".into(),
    };
    let body = br#"{"action":"describe","turn_id":"t-01","workspace":"acme"}"#;
    assert_eq!(question.encode(), body);
    assert_eq!(Control::decode(body).unwrap(), Decoded::Known(question));
    assert!(Control::decode(br#"{"action":"describe","turn_id":"t-01"}"#).is_err());
}

#[test]
fn unknown_fields_are_ignored() {
    let body = br#"{"v":1,"type":"done","workspace":"acme/website","turn_id":"t-01","worker":"host-1","warm":true,"journal":{"journal":"00000000-0000-0000-0000-000000000009","segment":2,"len":14201,"crc":4294967295,"mood":"good"},"mood":"good"}"#;
    assert_eq!(Status::decode(body).unwrap(), Decoded::Known(done()));
}

#[test]
fn another_version_or_type_is_a_value() {
    for (body, text) in [
        (r#"{"v":2,"kind":17}"#, "version 2"),
        (r#"{"v":1,"type":"farewell"}"#, r#"type "farewell""#),
    ] {
        assert_eq!(
            Status::decode(body.as_bytes()).unwrap(),
            Decoded::Unknown(text.to_owned())
        );
        match Offer::decode(body.as_bytes()).unwrap() {
            Decoded::Unknown(found) => assert_eq!(found, text),
            Decoded::Known(offer) => panic!("{body} became {offer:?}"),
        }
    }
    assert_eq!(
        Control::decode(br#"{"action":"pause"}"#).unwrap(),
        Decoded::Unknown(r#"action "pause""#.to_owned())
    );
}

#[test]
fn what_is_malformed_is_named() {
    for (body, named) in [
        ("", "no JSON at line 1 column 0"),
        ("[]", "a value of another type at line 1"),
        (r#"{"type":"done"}"#, "missing field `v`"),
        (r#"{"v":1}"#, "missing field `type`"),
        (
            r#"{"v":1,"type":"done","workspace":"a","worker":"w"}"#,
            "missing field `turn_id`",
        ),
        (
            r#"{"v":1,"type":"done","workspace":"a","turn_id":"a b","worker":"w"}"#,
            r#"turn_id "a b"; expected [A-Za-z0-9._-]{1,128}"#,
        ),
        (
            r#"{"v":1,"type":"done","workspace":"a/../b","turn_id":"t","worker":"w"}"#,
            r#"workspace "a/../b"; expected 1 to 4 segments"#,
        ),
        (
            r#"{"v":1,"type":"heartbeat","worker":"w","running":[{"workspace":"","turn_id":"t","attempt":1,"started_at":"2026-01-02T03:04:05Z"}]}"#,
            r#"workspace "";"#,
        ),
    ] {
        let error = with_sources(&Status::decode(body.as_bytes()).unwrap_err());
        assert!(error.contains(named), "{body}: {error}");
    }
}

#[test]
fn an_error_shows_a_bounded_piece_of_what_was_found() {
    let body = format!(r#"{{"action":"cancel","turn_id":"{}"}}"#, "é".repeat(5_000));
    let error = Control::decode(body.as_bytes()).unwrap_err().to_string();
    assert!(error.len() < 400, "{} bytes", error.len());
}

#[test]
fn g8_an_error_quotes_no_values() {
    let text = "a prompt\\n that went to the wrong exchange";
    for body in [
        format!(r#"{{"action":"cancel","turn_id":["{text}"]}}"#),
        format!(r#"{{"action":"cancel","turn_id":"t","workspace":{{"{text}":1}}}}"#),
        format!(r#"{{"v":"{text}"}}"#),
        format!(r#"{{"v":1,"type":"heartbeat","worker":"w","slots":"{text}","running":[]}}"#),
        format!(r#""{text}""#),
    ] {
        let told = [
            Control::decode(body.as_bytes()).err(),
            Status::decode(body.as_bytes()).err(),
            Offer::decode(body.as_bytes()).err(),
        ];
        let told: Vec<String> = told
            .iter()
            .flatten()
            .map(|error| with_sources(error))
            .collect();
        assert!(!told.is_empty(), "{body}");
        for told in told {
            assert!(!told.contains("prompt"), "{told}");
        }
    }
}

#[test]
fn g10_what_is_too_long_is_not_read() {
    let padded = |max: usize| vec![b' '; max + 1];
    for (told, allowed) in [
        (
            Control::decode(&padded(MAX_CONTROL_BYTES)).unwrap_err(),
            MAX_CONTROL_BYTES,
        ),
        (
            Status::decode(&padded(MAX_STATUS_BYTES)).unwrap_err(),
            MAX_STATUS_BYTES,
        ),
        (
            Offer::decode(&padded(MAX_OFFER_BYTES)).unwrap_err(),
            MAX_OFFER_BYTES,
        ),
    ] {
        let told = told.to_string();
        assert!(
            told.contains(&format!("expected at most {allowed}")),
            "{told}"
        );
    }
}

/// What is allowed has room: the longest names in every slot there may be.
#[test]
fn the_longest_heartbeat_and_the_longest_offer_are_not_too_long() {
    let running = Running {
        workspace: [
            "w".repeat(64),
            "x".repeat(64),
            "y".repeat(64),
            "z".repeat(64),
        ]
        .join("/"),
        turn_id: "t".repeat(128),
        attempt: u32::MAX,
        started_at: time(),
        spent: Some(Tokens {
            input_tokens: u64::MAX,
            ..Tokens::default()
        }),
    };
    let heartbeat = Status::Heartbeat {
        worker: "w".repeat(200),
        version: "0.1.0".into(),
        slots: 1000,
        running: vec![running; 1000],
        about: About::default(),
    };
    let body = heartbeat.encode();
    assert_eq!(Status::decode(&body).unwrap(), Decoded::Known(heartbeat));

    let prompt = "\u{1}".repeat(crate::request::MAX_PROMPT_CHARS);
    let request = serde_json::json!({"turn_id": "t", "workspace": "a",
        "messages": [{"role": "user", "content": prompt}]});
    let offer = Offer {
        repeat: false,
        enqueued_at: None,
        root: Some(Uuid::from_u128(7)),
        next_waits: false,
        journal: None,
        request: serde_json::value::to_raw_value(&request).unwrap(),
    };
    assert!(matches!(
        Offer::decode(&offer.encode()).unwrap(),
        Decoded::Known(_)
    ));
}

/// Objects with the fields of all messages, and anything in them.
fn messages() -> impl Strategy<Value = Vec<u8>> {
    let names = [
        "v",
        "type",
        "action",
        "turn_id",
        "workspace",
        "worker",
        "version",
        "slots",
        "running",
        "about",
        "process",
        "active",
        "backlog",
        "repeat",
        "enqueued_at",
        "request",
    ];
    let words = [
        "offer",
        "done",
        "heartbeat",
        "sequencer",
        "cancel",
        "t",
        "a/b",
        "2026-01-02T03:04:05Z",
    ];
    let value = prop_oneof![
        prop::sample::select(words.to_vec()).prop_map(|word| serde_json::json!(word)),
        ".{0,300}".prop_map(|text| serde_json::json!(text)),
        any::<u32>().prop_map(|number| serde_json::json!(number)),
        Just(serde_json::json!(VERSION)),
        Just(serde_json::json!([{"workspace": "a", "turn_id": "\n"}])),
    ];
    let name = prop::sample::select(names.to_vec());
    let object = prop::collection::btree_map(name, value, 0..8);
    prop_oneof![
        object.prop_map(|object| serde_json::to_vec(&object).unwrap()),
        prop::collection::vec(any::<u8>(), 0..200),
    ]
}

fn told<T>(decoded: Result<Decoded<T>, DecodeError>) -> String {
    match decoded {
        Ok(Decoded::Known(_)) => String::new(),
        Ok(Decoded::Unknown(what)) => what,
        Err(error) => with_sources(&error),
    }
}

proptest! {
    #[test]
    fn g8_no_message_makes_it_panic_or_reports_more_than_a_line(body in messages()) {
        for told in [
            told(Offer::decode(&body)),
            told(Status::decode(&body)),
            told(Control::decode(&body)),
        ] {
            prop_assert!(told.len() < 4096);
            prop_assert!(!told.contains(|c: char| c.is_control()), "{:?}", told);
        }
    }
}
