use super::*;
use crate::config::TenantFrom;
use crate::event::{EventBody, NoticeCode, Reason};
use crate::guard::Unkillable;
use crate::labels::{RateLimit, RateLimitWindow};

fn text(metrics: &Metrics) -> String {
    metrics.gather_text().unwrap()
}

/// The value of a series, as it is scraped.
fn value(metrics: &Metrics, series: &str) -> Option<String> {
    let wanted = format!("turn_worker_{series} ");
    let text = text(metrics);
    let line = text.lines().find_map(|line| line.strip_prefix(&wanted));
    line.map(str::to_owned)
}

fn error(code: ErrorCode, reason: Reason) -> TurnError {
    TurnError {
        code,
        message: String::new(),
        reason,
        retryable: false,
    }
}

/// The names are a contract with dashboards and alerts.
#[test]
fn limits_are_absent_until_codex_reports_them() {
    let metrics = Metrics::new(None);
    assert!(!text(&metrics).contains("codex_rate_limit"));
    metrics.rate_limits(&[RateLimit {
        window: RateLimitWindow::Secondary,
        used_percent: 43,
        resets_at: Some(1_800_000_000),
    }]);
    let value = |series| value(&metrics, series);
    let used = value("codex_rate_limit_used_ratio{window=\"secondary\"}");
    assert_eq!(used.as_deref(), Some("0.43"));
    let reset = value("codex_rate_limit_reset_timestamp_seconds{window=\"secondary\"}");
    assert_eq!(reset.as_deref(), Some("1800000000"));
    assert!(!text(&metrics).contains("primary"));
}

#[test]
fn the_names_and_kinds_are_the_documented_ones() {
    let metrics = Metrics::new(None);
    metrics.set_backlog(Some(Backlog::default()));
    metrics.set_workspaces_stuck(Some(0));
    let text = text(&metrics);
    let types: Vec<&str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE turn_worker_"))
        .collect();
    assert_eq!(
        types,
        [
            "amqp_connected gauge",
            "amqp_reconnects_total counter",
            "amqp_repaired_total counter",
            "attempts_outdated_total counter",
            "attempts_total counter",
            "backlog_limit gauge",
            "backlog_turns gauge",
            "backlog_workspaces gauge",
            "build_info gauge",
            "cached_input_tokens_total counter",
            "condition gauge",
            "consumer_active gauge",
            "controls_ignored_total counter",
            "descriptions_total counter",
            "duplicate_turns_total counter",
            "event_confirm_seconds histogram",
            "events_dropped_total counter",
            "events_nacked_total counter",
            "events_published_total counter",
            "first_text_seconds histogram",
            "host_unfit gauge",
            "input_tokens_total counter",
            "leftover_processes_killed_total counter",
            "locks_lost_total counter",
            "offer_answers_total counter",
            "offers_repeated_total counter",
            "offers_total counter",
            "old_reads_total counter",
            "oldest_turn_seconds gauge",
            "oldest_waiting_seconds gauge",
            "output_tokens_total counter",
            "queue_wait_seconds histogram",
            "reasoning_output_tokens_total counter",
            "redeliveries_total counter",
            "replies_total counter",
            "requests_rejected_total counter",
            "sequencer_active gauge",
            "server_starts_total counter",
            "servers_dismissed_total counter",
            "servers_idle gauge",
            "servers_idle_bytes gauge",
            "servers_reused_total counter",
            "slots gauge",
            "slots_busy gauge",
            "telemetry_exports_total counter",
            "turn_duration_seconds histogram",
            "turn_failures_total counter",
            "turn_timeout_seconds gauge",
            "turns_not_started_total counter",
            "turns_total counter",
            "turns_unpublished gauge",
            "turns_unrecorded gauge",
            "turns_without_usage_total counter",
            "undeliverable_turns_total counter",
            "workspaces_held gauge",
            "workspaces_stuck gauge",
        ]
    );
    for name in ["turn_duration", "queue_wait", "first_text"] {
        for bound in ["0.05", "7200"] {
            let bucket = format!("turn_worker_{name}_seconds_bucket{{le=\"{bound}\"}} 0\n");
            assert!(text.contains(&bucket), "{bucket}");
        }
    }
}

#[test]
fn what_alerts_look_at_is_there_before_it_happens() {
    let metrics = Metrics::new(Some(&["gpt-5.5".to_owned()].into()));
    let series = [
        "turns_total{outcome=\"timeout\"}",
        "amqp_repaired_total{what=\"depth\"}",
        "attempts_total{start=\"again\"}",
        "turn_failures_total{code=\"turn.failed\",reason=\"auth\"}",
        "turn_failures_total{code=\"turn.idle_timeout\",reason=\"unknown\"}",
        "turns_not_started_total{reason=\"workspace\"}",
        "turns_not_started_total{reason=\"root\"}",
        "host_unfit{reason=\"resources\"}",
        "requests_rejected_total{code=\"workspace.backlog_full\"}",
        "controls_ignored_total{why=\"unknown_action\"}",
        "descriptions_total{outcome=\"dropped\"}",
        "replies_total{outcome=\"unroutable\"}",
        "events_published_total{type=\"message_end\"}",
        "events_dropped_total{reason=\"refused\",type=\"message_end\"}",
        "amqp_reconnects_total{connection=\"sequencer\"}",
        "input_tokens_total{model=\"gpt-5.5\"}",
        "output_tokens_total{model=\"default\"}",
        "cached_input_tokens_total{model=\"other\"}",
    ];
    for series in series {
        assert_eq!(value(&metrics, series).as_deref(), Some("0"), "{series}");
    }
}

#[test]
fn a_process_that_cannot_be_killed_is_named_as_long_as_it_lives() {
    let metrics = Metrics::new(None);
    let pid = std::process::id().cast_signed();
    let unkillable = Unkillable::of(&[(pid, 0); 20]);
    let held = vec![("acme/website".to_owned(), unkillable.clone())];
    metrics.set_held_workspaces(&held);
    let text = metrics.gather_text().unwrap();
    assert!(text.contains("turn_worker_workspaces_held 1\n"), "{text}");
    let named: Vec<&str> = text
        .lines()
        .filter(|line| line.starts_with("turn_worker_unkillable_process_timestamp_seconds{"))
        .collect();
    // All have the same labels here.
    let [one] = named[..] else {
        panic!("{named:?}")
    };
    for label in [
        "workspace=\"acme/website\"",
        &format!("pid=\"{pid}\""),
        &format!("host=\"{}\"", unkillable.host),
    ] {
        assert!(one.contains(label), "{one}");
    }
    metrics.set_held_workspaces(&[]);
    let text = metrics.gather_text().unwrap();
    assert!(text.contains("turn_worker_workspaces_held 0\n"), "{text}");
    assert!(
        !text.contains("turn_worker_unkillable_process_timestamp_seconds{"),
        "{text}"
    );
}

#[test]
fn each_happening_counts_where_it_should() {
    let metrics = Metrics::new(None);
    let second = Duration::from_secs(1);
    let failed = error(ErrorCode::TurnFailed, Reason::RateLimited);
    metrics.turn_ended(None, StopReason::Error, Some(&failed), second);
    metrics.turn_ended(None, StopReason::EndTurn, None, second);
    metrics.turn_decided(None, StopReason::Cancelled, None);
    metrics.first_text(second);
    metrics.event_confirmed("text_delta", second);
    metrics.event_nacked();
    metrics.event_dropped("a newer worker's", DropReason::Refused);
    metrics.set_turns_unpublished(2);
    metrics.redelivered();
    metrics.duplicate_turn();
    metrics.undeliverable_turn();
    metrics.request_rejected(ErrorCode::WorkspaceRejected);
    metrics.set_slots(8);
    for attempt in [1, 2, 3] {
        metrics.attempt_started(attempt);
    }
    metrics.set_turn_timeout(second * 90);
    metrics.set_backlog_limit(10_000);
    metrics.set_connected(true);
    metrics.reconnected("worker");
    metrics.set_consumer_active(true);
    metrics.set_sequencer_active(true);
    metrics.set_backlog(Some(Backlog {
        turns: 5,
        workspaces: 2,
        oldest: None,
    }));
    metrics.offer_repeated();
    metrics.leftovers_killed(3);
    metrics.turn_not_started(Some(Lack::Disk));
    metrics.turn_not_started(None);
    metrics.set_host_unfit(Lack::Codex, true);
    let _one = metrics.turn_unrecorded();
    drop(metrics.turn_unrecorded());
    let expected = [
        ("turns_total{outcome=\"error\"}", "1"),
        ("turns_total{outcome=\"end_turn\"}", "1"),
        ("turns_total{outcome=\"cancelled\"}", "1"),
        (
            "turn_failures_total{code=\"turn.failed\",reason=\"rate_limited\"}",
            "1",
        ),
        ("turn_duration_seconds_sum", "2"),
        ("turn_duration_seconds_count", "2"),
        ("first_text_seconds_count", "1"),
        ("events_published_total{type=\"text_delta\"}", "1"),
        ("event_confirm_seconds_count", "1"),
        ("events_nacked_total", "1"),
        (
            "events_dropped_total{reason=\"refused\",type=\"other\"}",
            "1",
        ),
        ("turns_unpublished", "2"),
        ("redeliveries_total", "1"),
        ("duplicate_turns_total", "1"),
        ("undeliverable_turns_total", "1"),
        ("requests_rejected_total{code=\"workspace.rejected\"}", "1"),
        ("attempts_total{start=\"first\"}", "1"),
        ("attempts_total{start=\"again\"}", "2"),
        ("turn_timeout_seconds", "90"),
        ("backlog_limit", "10000"),
        ("slots", "8"),
        ("amqp_connected", "1"),
        ("amqp_reconnects_total{connection=\"worker\"}", "1"),
        ("consumer_active", "1"),
        ("sequencer_active", "1"),
        ("backlog_turns", "5"),
        ("backlog_workspaces", "2"),
        ("oldest_waiting_seconds", "0"),
        ("offers_repeated_total", "1"),
        ("leftover_processes_killed_total", "3"),
        ("turns_not_started_total{reason=\"disk\"}", "1"),
        ("turns_not_started_total{reason=\"codex\"}", "0"),
        ("turns_not_started_total{reason=\"workspace\"}", "1"),
        ("host_unfit{reason=\"disk\"}", "0"),
        ("host_unfit{reason=\"codex\"}", "1"),
        ("turns_unrecorded", "1"),
    ];
    for (series, count) in expected {
        assert_eq!(value(&metrics, series).as_deref(), Some(count), "{series}");
    }
}

#[test]
fn g7_each_kind_of_token_is_counted_once_and_the_unknown_as_unknown() {
    let metrics = Metrics::new(Some(&["m".to_owned()].into()));
    let usage = Tokens {
        input_tokens: 1200,
        cache_read_tokens: 800,
        cache_write_tokens: 7,
        output_tokens: 90,
        thinking_tokens: 40,
    };
    metrics.tokens(None, Model::Named("m"), Some(usage));
    metrics.tokens(None, Model::Named("m"), Some(usage));
    metrics.tokens(None, Model::Named("m"), None);
    let expected = [
        ("input_tokens_total{model=\"m\"}", "2400"),
        ("cached_input_tokens_total{model=\"m\"}", "1600"),
        ("output_tokens_total{model=\"m\"}", "180"),
        ("reasoning_output_tokens_total{model=\"m\"}", "80"),
        ("turns_without_usage_total", "1"),
    ];
    for (series, count) in expected {
        assert_eq!(value(&metrics, series).as_deref(), Some(count), "{series}");
    }
}

#[test]
fn a_model_off_the_list_is_other_unless_it_is_codexs_own_default() {
    let metrics = Metrics::new(Some(&["listed".to_owned()].into()));
    let one = Some(Tokens {
        input_tokens: 1,
        ..Tokens::default()
    });
    for model in [
        Model::Named("listed"),
        Model::Default("listed"),
        Model::Named("a"),
        Model::Named("b"),
        Model::Default("codexs-own"),
        Model::Default("no name\n"),
        Model::Unknown,
    ] {
        metrics.tokens(None, model, one);
    }
    for (label, count) in [
        ("listed", "2"),
        ("other", "3"),
        ("codexs-own", "1"),
        ("default", "1"),
    ] {
        let series = format!("input_tokens_total{{model=\"{label}\"}}");
        assert_eq!(value(&metrics, &series).as_deref(), Some(count), "{label}");
    }
}

#[test]
fn g10_producers_cannot_grow_the_number_of_series() {
    let metrics = Metrics::new(None);
    for index in 0..1000 {
        metrics.tokens(
            None,
            Model::Named(&format!("model-{index}")),
            Some(Tokens::default()),
        );
        metrics.tokens(
            None,
            Model::Default(&format!("default-{index}")),
            Some(Tokens::default()),
        );
        metrics.event_confirmed(&format!("kind-{index}"), Duration::ZERO);
        metrics.set_codex_version(&format!("0.{index}"));
    }
    metrics.tokens(
        None,
        Model::Named("model-0"),
        Some(Tokens {
            input_tokens: 1,
            ..Tokens::default()
        }),
    );
    let text = text(&metrics);
    let count = |family: &str| {
        let start = format!("turn_worker_{family}{{");
        text.lines().filter(|line| line.starts_with(&start)).count()
    };
    // Besides eight of codex's own defaults.
    assert_eq!(count("input_tokens_total"), 2 + 8);
    assert_eq!(count("events_published_total"), EVENT_KINDS.len() + 1);
    assert_eq!(count("build_info"), 1);
    assert!(text.contains("input_tokens_total{model=\"other\"} 1\n"));
}

#[test]
fn a_slot_is_free_again_however_the_turn_goes() {
    let metrics = Metrics::new(None);
    let busy = || value(&metrics, "slots_busy").unwrap();
    let (one, two) = (metrics.turn_started(), metrics.turn_started());
    assert_eq!(busy(), "2");
    assert_ne!(value(&metrics, "oldest_turn_seconds").unwrap(), "0");
    drop(one);
    assert_eq!(busy(), "1");
    let panicked = std::thread::spawn(move || {
        let _running = two;
        panic!("on purpose");
    });
    assert!(panicked.join().is_err());
    assert_eq!(busy(), "0");
    assert_eq!(value(&metrics, "oldest_turn_seconds").unwrap(), "0");
}

#[test]
fn waits_are_counted_by_their_length() {
    let metrics = Metrics::new(None);
    metrics.queue_waited(None, Duration::ZERO);
    metrics.queue_waited(None, Duration::from_secs(4));
    metrics.queue_waited(None, Duration::from_secs(30 * 86_400));
    assert_eq!(
        value(&metrics, "queue_wait_seconds_bucket{le=\"0.05\"}").unwrap(),
        "1"
    );
    assert_eq!(
        value(&metrics, "queue_wait_seconds_bucket{le=\"5\"}").unwrap(),
        "2"
    );
    assert_eq!(value(&metrics, "queue_wait_seconds_count").unwrap(), "3");
}

#[test]
fn the_oldest_waiting_turn_has_an_age() {
    let metrics = Metrics::new(None);
    let since = Instant::now();
    metrics.set_backlog(Some(Backlog {
        turns: 1,
        workspaces: 1,
        oldest: Some(since),
    }));
    assert_ne!(value(&metrics, "oldest_waiting_seconds").unwrap(), "0");
    metrics.set_backlog(Some(Backlog::default()));
    assert_eq!(value(&metrics, "oldest_waiting_seconds").unwrap(), "0");
}

#[test]
fn an_unknown_backlog_is_absent_and_not_zero() {
    let metrics = Metrics::new(None);
    let known = || {
        let text = text(&metrics);
        [
            "backlog_turns",
            "backlog_workspaces",
            "oldest_waiting_seconds",
        ]
        .map(|name| text.contains(&format!("\nturn_worker_{name} 0\n")))
    };
    assert_eq!(known(), [false; 3]);
    metrics.set_backlog(Some(Backlog::default()));
    assert_eq!(known(), [true; 3]);
    metrics.set_backlog(None);
    assert_eq!(known(), [false; 3]);
}

#[test]
fn the_list_of_kinds_is_the_events_own() {
    let bodies = [
        EventBody::MessageStart {
            model: None,
            metadata: None,
        },
        EventBody::ThinkingDelta {
            item_id: String::new(),
            text: String::new(),
        },
        EventBody::ToolUse {
            id: String::new(),
            name: String::new(),
            input: ().into(),
        },
        EventBody::ToolOutput {
            tool_use_id: String::new(),
            text: String::new(),
        },
        EventBody::ToolResult {
            tool_use_id: String::new(),
            name: String::new(),
            is_error: false,
            content: ().into(),
        },
        EventBody::Plan { items: Vec::new() },
        EventBody::Usage {
            usage: crate::event::Usage::default(),
        },
        EventBody::Notice {
            code: NoticeCode::Error,
            message: String::new(),
        },
        EventBody::TextDelta {
            item_id: String::new(),
            text: String::new(),
        },
        EventBody::Error {
            error: error(ErrorCode::Exited, Reason::Unknown),
        },
        EventBody::MessageEnd {
            stop_reason: StopReason::EndTurn,
            text: None,
            structured: None,
            thread_id: None,
            superseded_by: None,
            model: None,
            duration_ms: 0,
            metadata: None,
            usage: None,
        },
    ];
    let kinds: Vec<&str> = bodies.iter().map(EventBody::kind).collect();
    assert_eq!(kinds, EVENT_KINDS);
}

#[test]
fn build_info_names_both_versions_and_the_process() {
    let metrics = Metrics::of_process("alpha-1", None, Tenants::default());
    metrics.set_codex_version("0.169.0");
    let series = format!(
        "build_info{{codex_version=\"0.169.0\",version=\"{}\",worker=\"alpha-1\"}}",
        crate::VERSION
    );
    assert_eq!(value(&metrics, &series).as_deref(), Some("1"));
}

#[test]
fn what_is_counted_by_tenant_exists_from_the_start_and_is_bounded() {
    let listed = ["acme".to_owned()].into();
    let tenants = Tenants::new(TenantFrom::Request, listed);
    let metrics = Metrics::of_process("", None, tenants);
    let failure = error(ErrorCode::TurnFailed, Reason::Auth);
    for tenant in [Some("acme"), Some("a stranger"), Some("another"), None] {
        metrics.turn_decided(tenant, StopReason::Error, Some(&failure));
        metrics.queue_waited(tenant, Duration::from_secs(1));
        let spent = Tokens {
            input_tokens: 10,
            ..Tokens::default()
        };
        metrics.tokens(tenant, Model::Unknown, Some(spent));
    }
    let value = |series: &str| value(&metrics, series);
    for (tenant, count) in [("acme", 1), ("other", 2), ("none", 1)] {
        let turns = format!("turns_total{{outcome=\"error\",tenant=\"{tenant}\"}}");
        assert_eq!(value(&turns), Some(count.to_string()));
        let failures = format!(
            "turn_failures_total{{code=\"turn.failed\",reason=\"auth\",tenant=\"{tenant}\"}}"
        );
        assert_eq!(value(&failures), Some(count.to_string()));
        let waits = format!("queue_wait_seconds_count{{tenant=\"{tenant}\"}}");
        assert_eq!(value(&waits), Some(count.to_string()));
        let tokens = format!("input_tokens_total{{model=\"default\",tenant=\"{tenant}\"}}");
        assert_eq!(value(&tokens), Some((10 * count).to_string()));
        let none_yet = format!("turns_total{{outcome=\"timeout\",tenant=\"{tenant}\"}}");
        assert_eq!(value(&none_yet).as_deref(), Some("0"));
    }
    assert!(!text(&Metrics::new(None)).contains("tenant="));
}

/// A process that is not the active sequencer does not know.
#[test]
fn stuck_workspaces_are_absent_while_they_are_unknown() {
    let metrics = Metrics::new(None);
    assert_eq!(value(&metrics, "workspaces_stuck"), None);
    metrics.set_workspaces_stuck(Some(0));
    assert_eq!(value(&metrics, "workspaces_stuck").as_deref(), Some("0"));
    metrics.set_workspaces_stuck(None);
    assert_eq!(value(&metrics, "workspaces_stuck"), None);
}
