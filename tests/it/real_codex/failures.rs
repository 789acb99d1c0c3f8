//! What the model's failures become.

use super::{Codex, cost};

/// So that failing takes a moment and not half a minute.
const IMPATIENT: &str = "request_max_retries = 0\nstream_max_retries = 0\n";

fn fails(kind: &str, reason: &str, retryable: bool) {
    let codex = Codex::configured(IMPATIENT);
    let turn = codex.run("a", &format!("Try.\nfail: {kind}"));
    let (code, told, again, message) = turn.error();
    assert_eq!(
        (code, told, again),
        ("turn.failed", reason, retryable),
        "{kind}: {message}"
    );
    assert_eq!(turn.usage(), None, "{kind}");
    let before = codex.model.requests().len();
    // The conversation is not spoilt by it.
    let next = codex.run("a", "And now?");
    next.assert_end_turn();
    // One that was too long is summed up first, which the model does too.
    let cost = cost(&codex.model.requests()[before..], "");
    assert_eq!(next.usage(), cost, "{kind}");
}

#[test]
fn a_wrong_key_is_auth() {
    fails("401", "auth", false);
}

#[test]
fn a_forbidden_request_is_auth() {
    fails("403", "auth", false);
}

#[test]
fn an_unknown_model_is_config() {
    fails("404", "config", false);
}

#[test]
fn a_bad_request_is_invalid_prompt() {
    fails("400", "invalid_prompt", false);
}

#[test]
fn too_many_requests_is_rate_limited() {
    fails("429", "rate_limited", true);
}

#[test]
fn a_used_up_plan_is_usage_limit() {
    fails("usage", "usage_limit", true);
}

#[test]
fn a_quota_that_is_used_up_is_usage_limit_for_a_person_to_mend() {
    fails("quota", "usage_limit", false);
}

#[test]
fn a_failing_server_is_overloaded() {
    fails("500", "overloaded", true);
}

#[test]
fn an_unavailable_server_is_overloaded() {
    fails("503", "overloaded", true);
}

#[test]
fn a_model_at_capacity_is_overloaded() {
    fails("overloaded", "overloaded", true);
}

#[test]
fn a_conversation_that_is_too_long_is_context_window() {
    fails("context", "context_window", false);
}

/// `codex exec` prints only the message, which is not specific here.
#[test]
fn what_only_a_code_says_is_known_to_both_engines() {
    for engine in ["exec", "app-server"] {
        let codex = Codex::configured(IMPATIENT).map(|host| host.set("CODEX_ENGINE", engine));
        for (kind, reason) in [("policy", "policy"), ("bio", "policy"), ("model", "config")] {
            let turn = codex.run("a", &format!("Try.\nfail: {kind}"));
            let (code, found, again, message) = turn.error();
            let expected = ("turn.failed", reason, false);
            assert_eq!((code, found, again), expected, "{engine} {kind}: {message}");
        }
    }
}

#[test]
fn a_prompt_that_is_flagged_is_policy() {
    fails("policy", "policy", false);
}

#[test]
fn a_portal_that_answers_for_the_model_is_network() {
    fails("html", "network", true);
}

#[test]
fn a_missing_key_is_auth() {
    let codex = Codex::new().map(|host| host.set("CODEX_ENV", "PATH,HOME"));
    let turn = codex.run("a", "Try.");
    let (code, reason, retryable, message) = turn.error();
    assert_eq!((code, reason, retryable), ("turn.failed", "auth", false));
    assert!(message.contains("STAND_IN_KEY"), "{message}");
    assert_eq!(codex.model.requests().len(), 0);
}

#[test]
fn a_broken_setting_is_reported_with_codexs_own_words() {
    let codex = Codex::configured("this is no toml");
    let turn = codex.run("a", "Try.");
    let (code, reason, retryable, message) = turn.error();
    assert_eq!((code, reason, retryable), ("codex.exited", "config", false));
    assert!(message.contains("config.toml"), "{message}");
}

#[test]
fn connections_that_break_are_notices_until_codex_gives_up_or_not() {
    let codex = Codex::configured("stream_max_retries = 3\n");
    let turn = codex.run("a", "Try.\ncut: 2\nsay: There.");
    turn.assert_end_turn();
    assert_eq!(turn.notices(), ["codex.reconnecting"; 2]);
    assert_eq!(turn.end()["text"], "There.");
    assert_eq!(turn.usage(), codex.cost("Try."));

    let turn = codex.run("a", "Again.\ncut: 9");
    let (code, reason, retryable, _) = turn.error();
    assert_eq!((code, reason, retryable), ("turn.failed", "network", true));
    assert_eq!(turn.notices(), ["codex.reconnecting"; 3]);
}
