//! The CLI's words for a failure → why it failed and whether to retry.
//!
//! codex prints prose where a code would do, so the words are matched; each
//! was seen coming from version 0.169.0 or 0.171.0 or stands in its binary;
//! the tests below hold the messages as they were seen. What an answer of the
//! API says as a code is believed before any prose. Where codex itself has a
//! code, that decides, see `app_server/error_info.rs`.

use serde_json::Value;

use super::stderr;
use crate::event::Reason::{self, *};
use crate::guard::Exit;
use crate::request::json;

/// Why a turn failed, as far as the message shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cause {
    pub reason: Reason,
    /// Whether the same turn may succeed later without a change of
    /// anything (a key, a bill, a setting, the prompt).
    pub retryable: bool,
}

impl Cause {
    /// The operator's settings.
    pub const CONFIG: Self = Self {
        reason: Config,
        retryable: false,
    };
}

/// Words in lower case, each of which identifies the cause. The first row that
/// matches decides, so the narrower ones stand first.
struct Row(&'static [&'static str], Reason, bool);

#[rustfmt::skip]
const TABLE: &[Row] = &[
    // First: the path in it may hold any word.
    Row(&["project config file"], Workspace, false),

    // Before the words for settings, which these messages hold, too.
    Row(&["thread's model provider from", "this chat uses model provider", "is archived. run `codex unarchive", "thread not found", "thread/resume.excludeturns requires"], Thread, false),

    // Another process holds the thread for as long as its turn takes.
    Row(&["already has an active writer"], Unknown, true),
    Row(&["too many open files", "resource temporarily unavailable", "cannot allocate memory", "no space left on device"], Unknown, true),

    Row(&["usage limit", "usage_limit"], UsageLimit, true),
    // These wait for a person who pays.
    Row(&["quota", "billing", "usage_not_included", "to use codex with your chatgpt plan"], UsageLimit, false),

    Row(&["context window", "context_length", "maximum context length"], ContextWindow, false),

    Row(&["missing environment variable", "api key", "api_key", "refresh token", "refresh_token", "not logged in", "log in again", "sign in again", "status 401", "status 403", "unauthorized"], Auth, false),

    Row(&["rate limit", "rate_limit", "too many requests", "status 429"], RateLimited, true),

    Row(&["usage policy", "usage policies", "content policy", "content_policy", "cyber policy", "cyber_policy", "policy violation", "content_filter", "flagged"], Policy, false),

    Row(&["at capacity", "restricted capacity is unavailable", "high demand", "overloaded", "server_error", "internal server error", "bad gateway", "service unavailable", "gateway timeout", "status 5"], Overloaded, true),

    Row(&["status 404", "model_not_found", "model does not exist", "does not exist or you do not have access", "model is not supported", "unknown model", "error loading config", "failed to load configuration", "required mcp servers", "model provider `", "codex home", "codex_home", "for more information, try '--help'"], Config, false),

    Row(&["input_too_large", "exceeds the maximum length", "no prompt provided", "failed to read prompt", "invalid_prompt", "invalid prompt", "invalid_request", "invalid value", "status 400"], InvalidPrompt, false),

    Row(&["stream disconnected", "connection failed", "connection refused", "connection reset", "connection closed", "error sending request", "timed out", "timeout", "dns error", "network"], Network, true),

    // Last: any other reason that a thread can't be resumed is the thread's own.
    Row(&["thread/resume failed: "], Thread, false),
];

/// An unknown failure is not retried automatically: it may
/// have done half of its work, and costs the same again.
const NO_WORDS: Cause = Cause {
    reason: Unknown,
    retryable: false,
};

/// The cause in a message of `turn.failed` or `error`.
pub(crate) fn classify(message: &str) -> Cause {
    find(message).unwrap_or(NO_WORDS)
}

/// The cause where codex ended without a word on stdout about how.
pub(crate) fn classify_exit(exit: &Exit, stderr: &str) -> Cause {
    let words = match exit {
        Exit::NotStarted { message, .. } => find(message),
        Exit::Code(_) => find(&stderr::spoken(&stderr::clean_tail(stderr))),
        // What ended it came from outside; its words are of what it did before.
        Exit::Signal(_) | Exit::GuardLost => None,
    };
    words.unwrap_or(match exit {
        // Another process ended it (the kernel for memory, an operator).
        Exit::Signal(_) | Exit::GuardLost => Cause {
            reason: Unknown,
            retryable: true,
        },
        // Not there, not executable, not for this machine.
        Exit::NotStarted { .. } => Cause {
            reason: Config,
            retryable: false,
        },
        Exit::Code(_) => NO_WORDS,
    })
}

fn find(message: &str) -> Option<Cause> {
    let (code, prose) = api_error(message);
    code.as_deref()
        .and_then(look_up)
        .or_else(|| look_up(&prose))
}

fn look_up(words: &str) -> Option<Cause> {
    let words = normal(words);
    TABLE
        .iter()
        .find(|Row(any, ..)| any.iter().any(|word| words.contains(word)))
        .map(|Row(_, reason, retryable)| Cause {
            reason: *reason,
            retryable: *retryable,
        })
}

/// codex passes some of the API's answers on as they came: the JSON body's
/// `error.code`, and the prose around and in it. A type stands at its end,
/// since `invalid_request_error` also comes with a wrong key.
fn api_error(message: &str) -> (Option<String>, String) {
    let body = message
        .find('{')
        .and_then(|at| Some((at, json::from_slice(message[at..].trim().as_bytes()).ok()?)));
    let Some((at, body)) = body else {
        return (None, message.to_owned());
    };
    let error = body.get("error").unwrap_or(&body);
    let text = |name: &str| error.get(name).and_then(Value::as_str);
    let Some(prose) = text("message").or(text("detail")) else {
        return (text("code").map(str::to_owned), message.to_owned());
    };
    let kind = text("type").unwrap_or_default();
    (
        text("code").map(str::to_owned),
        format!("{} {prose} {kind}", &message[..at]),
    )
}

fn normal(words: &str) -> String {
    let words = words.to_lowercase().replace('’', "'");
    let words = words.replace("status: ", "status ");
    // The address asked is no part of the answer; its host may hold any word.
    match words.find(", url: ") {
        Some(at) => words[..at].to_owned(),
        None => words,
    }
}

/// What codex says where it does not resume a thread, without its reason.
const NOT_RESUMED: &str = "thread/resume failed: ";

/// The message of a `thread/resume` that was refused, as both engines have it.
pub(crate) fn not_resumed(why: &str) -> String {
    format!("{NOT_RESUMED}{why}")
}

/// Whether codex refuses the thread itself: the turn could only run in a new
/// one. It is not refused for a moment, nor for what would stop any turn.
pub(crate) fn thread_refused(message: &str) -> bool {
    classify(message).reason == Thread
}

/// Whether codex could not resume because the thread is gone or unreadable,
/// so that only a new thread helps. A thread that is merely busy, or with a
/// file that the system would not let codex read, is not lost: starting afresh
/// would throw its memory away.
///
/// `saw_event`: whether stdout held any event; a lost thread prints no event.
pub(crate) fn thread_lost(exit: &Exit, saw_event: bool, stderr: &str) -> bool {
    if saw_event || !matches!(exit, Exit::Code(code) if *code != 0) {
        return false;
    }
    stderr.lines().any(|line| {
        line.contains("no rollout found for thread id")
            || line
                .split_once(NOT_RESUMED)
                .is_some_and(|(_, why)| cannot_resume(why))
    })
}

/// The same of what codex answers to a `thread/resume`.
pub(crate) fn cannot_resume(why: &str) -> bool {
    let unreadable =
        why.contains("failed to read thread") && why.contains("failed to read session metadata");
    why.contains("no rollout found for thread id")
        || (unreadable && (!why.contains("(os error ") || why.contains("(os error 2)")))
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFLICT: &str = "Error: thread/resume: thread/resume failed: thread 01a201f5-61c9-7403-9850-cc317d92e3b1 already has an active writer (code -32600)";

    #[rustfmt::skip]
    const SEEN: &[(&str, Reason, bool)] = &[
        (r#"{"error": {"message": "Invalid value: 'foo'.", "type": "invalid_request_error", "code": "invalid_value"}}"#, InvalidPrompt, false),
        (r#"{"error": {"message": "Invalid schema for response_format 'codex_output_schema': In context=(), 'additionalProperties' is required to be supplied and to be false.", "type": "invalid_request_error", "param": "text.format.schema", "code": "invalid_json_schema"}}"#, InvalidPrompt, false),
        (r#"{"error": {"message": "Unsupported.", "type": "invalid_request_error", "code": null}}"#, InvalidPrompt, false),
        (r#"{"error": {"message": "The model `x` does not exist, see rate limits.", "type": "invalid_request_error", "code": "model_not_found"}}"#, Config, false),
        ("The model does not exist.", Config, false),
        ("The model `gpt-x` does not exist or you do not have access to it.", Config, false),
        (r#"{"detail":"The 'x' model is not supported when using Codex with a ChatGPT account."}"#, Config, false),
        (r#"unexpected status 401 Unauthorized: {"error": {"message": "no", "type": "invalid_request_error"}}"#, Auth, false),
        ("unexpected status 401 Unauthorized: Incorrect API key provided: sk-xxx., url: http://127.0.0.1:8080/v1/responses", Auth, false),
        ("unexpected status 403 Forbidden: x, url: http://127.0.0.1:18777/v1/responses", Auth, false),
        ("Failed to refresh token: expired", Auth, false),
        ("Your access token could not be refreshed because your refresh token was already used. Please log out and sign in again.", Auth, false),
        ("Missing environment variable: `MOCK_KEY`.", Auth, false),
        ("unexpected status 404 Not Found: x, url: http://quota.example/v1/responses", Config, false),
        ("exceeded retry limit, last status: 429 Too Many Requests", RateLimited, true),
        ("rate limit exceeded: mock failure for rate_limit_exceeded. Please try again in 1.5s.", RateLimited, true),
        ("You’ve hit your usage limit. Upgrade to Pro (https://chatgpt.com/explore/pro), visit https://chatgpt.com/settings/usage to purchase more credits or try again at 7:30 AM.", UsageLimit, true),
        ("Quota exceeded. Check your plan and billing details.", UsageLimit, false),
        ("To use Codex with your ChatGPT plan, upgrade to Plus: https://chatgpt.com/explore/plus.", UsageLimit, false),
        ("We’re currently experiencing high demand, which may cause temporary errors.", Overloaded, true),
        ("exceeded retry limit, last status: 500 Internal Server Error", Overloaded, true),
        ("unexpected status 502 Bad Gateway: <html>, url: http://x/", Overloaded, true),
        ("Selected model is at capacity. Please try a different model.", Overloaded, true),
        ("Codex ran out of room in the model's context window. Start a new thread or clear earlier history before retrying.", ContextWindow, false),
        ("Invalid prompt: your prompt was flagged as potentially violating our usage policy.", Policy, false),
        ("Incomplete response returned, reason: content_filter", Policy, false),
        ("Incomplete response returned, reason: max_output_tokens", Unknown, false),
        ("stream disconnected before completion: stream closed before response.completed", Network, true),
        ("stream disconnected before completion: idle timeout waiting for SSE", Network, true),
        ("stream disconnected before completion: rate limit reached", RateLimited, true),
        ("Connection failed: error sending request", Network, true),
        ("failed to load configuration: Failed to read project config file /root/quota/w/.codex/config.toml: path `/root/quota/w/.codex/config.toml` is not a file", Workspace, false),
        ("failed to load configuration: /h/config.toml:1:9: invalid type: integer `3`, expected a string", Config, false),
        ("thread/resume failed: thread/resume.excludeTurns requires experimentalApi capability", Thread, false),
        ("thread/resume failed: thread not found: 01a229e6-ee41-7522-a532-4b24d70a9e7b", Thread, false),
        ("Policy-restricted capacity is unavailable. Please try again later.", Overloaded, true),
        ("", Unknown, false),
        ("mock failure for something new", Unknown, false),
        ("{\"error\":", Unknown, false),
    ];

    #[test]
    fn every_seen_failure_has_its_cause() {
        for (message, reason, retryable) in SEEN {
            let cause = Cause {
                reason: *reason,
                retryable: *retryable,
            };
            assert_eq!(classify(message), cause, "{message}");
        }
        for reason in Reason::ALL {
            assert!(SEEN.iter().any(|(_, seen, _)| seen == reason), "{reason}");
        }
    }

    #[rustfmt::skip]
    const AT_START: &[(&str, Reason, bool)] = &[
        ("Error loading config.toml:\n/h/config.toml:1:9: extra `=`, expected nothing", Config, false),
        ("Error loading config.toml: Failed to read project config file /w/.codex/config.toml: invalid utf-8 sequence of 1 bytes from index 0", Workspace, false),
        ("Error: Model provider `nope` not found", Config, false),
        ("Error finding codex home: CODEX_HOME points to \"/nonexistent\", but that path does not exist", Config, false),
        ("error: unexpected argument '--nonsense' found\n\nUsage: codex exec [OPTIONS] [PROMPT]\n\nFor more information, try '--help'.", Config, false),
        ("2026-11-22T17:11:39.502960Z ERROR codex_core::session: rate limit\nError: thread/start: thread/start failed: error creating thread: Fatal error: Failed to initialize session: required MCP servers failed to initialize: bad: No such file or directory (os error 2) (code -32603)", Config, false),
        ("Error: turn/start: turn/start failed: Input exceeds the maximum length of 1048576 characters. (code -32602), data: {\"input_error_code\":\"input_too_large\",\"max_chars\":1048576,\"actual_chars\":1536015}", InvalidPrompt, false),
        ("No prompt provided via stdin.", InvalidPrompt, false),
        (CONFLICT, Unknown, true),
        ("WARNING: proceeding, even though we could not create PATH aliases: Refusing to create helper binaries under temporary dir \"/tmp\" (codex_home: AbsolutePathBuf(\"/tmp/h\"))\nsomething new", Unknown, false),
        ("Error: thread/resume: thread/resume failed: This chat uses model provider “old”, which is no longer configured. Restore this provider’s configuration to continue. (code -32600), data: {\"type\":\"modelProviderNotConfigured\",\"modelProvider\":\"old\"}", Thread, false),
        ("Error: thread/resume: thread/resume failed: failed to load configuration: Cannot change this thread's model provider from `old` to `new` on resume. (code -32600)", Thread, false),
        ("Error: thread/resume: thread/resume failed: session 01a229e6-ee41-7522-a532-4b24d70a9e7b is archived. Run `codex unarchive 01a229e6-ee41-7522-a532-4b24d70a9e7b` to unarchive it first. (code -32600)", Thread, false),
        ("Error: thread/resume: thread/resume failed: a reason that is new (code -32600)", Thread, false),
        ("Error: thread/resume: thread/resume failed: failed to load configuration: /h/config.toml:1:9: invalid type (code -32600)", Config, false),
        ("Reading additional input from stdin...", Unknown, false),
        ("\u{1b}[31mthread 'main' panicked at src/main.rs:1:1\u{1b}[0m", Unknown, false),
    ];

    #[test]
    fn start_up_errors_have_their_cause() {
        for (stderr, reason, retryable) in AT_START {
            let cause = Cause {
                reason: *reason,
                retryable: *retryable,
            };
            assert_eq!(classify_exit(&Exit::Code(1), stderr), cause, "{stderr}");
        }
        // An out-of-memory kill is no fault of the settings.
        let (warning, ..) = AT_START
            .iter()
            .find(|(words, ..)| words.contains("codex_home"))
            .unwrap();
        let killed = Cause {
            reason: Unknown,
            retryable: true,
        };
        assert_eq!(classify_exit(&Exit::Signal(9), warning), killed);
        assert_eq!(
            classify_exit(&Exit::Signal(9), "Error: Model provider `nope` not found"),
            killed
        );
        for (exit, reason, retryable) in [
            (Exit::Signal(9), Unknown, true),
            (Exit::GuardLost, Unknown, true),
            (not_started("No such file or directory"), Config, false),
            (not_started("Cannot allocate memory"), Unknown, true),
        ] {
            let cause = Cause { reason, retryable };
            assert_eq!(classify_exit(&exit, ""), cause, "{exit:?}");
        }
    }

    fn not_started(message: &str) -> Exit {
        Exit::NotStarted {
            message: message.into(),
            errno: None,
        }
    }

    #[test]
    fn table_is_written_as_it_is_matched() {
        for Row(words, ..) in TABLE {
            for word in *words {
                assert_eq!(normal(word), *word, "would never match");
            }
        }
    }

    #[test]
    fn only_a_gone_or_unreadable_thread_is_lost() {
        let gone = "Error: thread/resume: thread/resume failed: no rollout found for thread id 01a201f0-dead-7750-a64c-17c79c2eb47b (code -32600)";
        let unreadable = |why: &str| {
            format!(
                "WARNING: something\nError: thread/resume: thread/resume failed: failed to read thread: thread-store internal error: failed to read session metadata /h/rollout-x.jsonl: {why} (code -32603)"
            )
        };
        let failed = Exit::Code(1);
        assert!(thread_lost(&failed, false, gone));
        for why in [
            "stream did not contain valid UTF-8",
            "rollout at /h/rollout-x.jsonl is empty",
            "rollout at /h/rollout-x.jsonl does not start with session metadata",
            "No such file or directory (os error 2)",
        ] {
            assert!(thread_lost(&failed, false, &unreadable(why)), "{why}");
        }
        for why in [
            "Permission denied (os error 13)",
            "Too many open files (os error 24)",
        ] {
            assert!(!thread_lost(&failed, false, &unreadable(why)), "{why}");
        }
        assert!(!thread_lost(&failed, false, CONFLICT));
        assert!(!thread_lost(&failed, false, ""));
        assert!(!thread_lost(&failed, true, gone));
        assert!(!thread_lost(&Exit::Code(0), false, gone));
        assert!(!thread_lost(&Exit::Signal(9), false, gone));
    }
}
