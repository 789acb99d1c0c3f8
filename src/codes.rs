//! The closed sets of codes in what is published: how a turn ended, what went wrong and why.
//!
//! Their values label metrics and stand in the docs: a new CLI version must be
//! bridged in `codex/`, never by passing its words through.

mod advice;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use advice::{Advice, Again};
use advice::{no, see_retryable, yes};

/// A closed set of names, as they stand on the wire and in metric labels.
/// What is said of each is what the schemas and the docs say: its comment
/// has the meaning, the advice what to do about it.
macro_rules! names {
    ($(#[$meta:meta])* $name:ident {
        $($(#[doc = $about:literal])+ $variant:ident = $text:literal => $advice:expr),+ $(,)?
    }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
        pub enum $name { $($(#[doc = $about])+ #[serde(rename = $text)] $variant),+ }

        impl $name {
            /// All of them, in the order of the docs.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// As it stands on the wire.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text),+ }
            }

            /// What it means, in Markdown, on one line.
            pub const fn about(self) -> &'static str {
                match self { $(Self::$variant => concat!($($about),+).trim_ascii()),+ }
            }

            /// What a producer does about it.
            pub const fn advice(self) -> Advice {
                match self { $(Self::$variant => $advice),+ }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

names! {
    /// How a turn ended. Any of them is final.
    StopReason {
        /// It came to its end.
        EndTurn = "end_turn" => no("nothing"),
        /// It failed, or was not accepted: the `error` event before it says why.
        Error = "error" => see_retryable("see the error's code"),
        /// It was cancelled; by another turn, if `superseded_by` names one.
        Cancelled = "cancelled" => no("send it again if you still want it"),
        /// It ran longer than its limit, or codex was silent for longer than the idle limit: the `error` event
        /// before it says which.
        Timeout = "timeout" => see_retryable("see the error's code"),
    }
}

names! {
    /// What went wrong.
    ErrorCode {
        /// The request breaks a rule; the message names field, value and rule.
        RequestInvalid = "request.invalid" => no("fix the producer; `turn-worker validate` reports the same before it is sent"),
        /// The workspace is outside the root, inside another workspace, or not a directory.
        WorkspaceRejected = "workspace.rejected" => no("use another name"),
        /// The workspace has `MAX_WAITING` turns in line.
        BacklogFull = "workspace.backlog_full" => yes("send fewer, or later"),
        /// The workspace has a turn that has not ended, and this one asked with `on_busy` `reject` not to wait; it was not run.
        Busy = "workspace.busy" => yes("send it again later, or let it wait"),
        /// The disk that the workspace lived on is gone for good, by an operator's word, and the turn may have been started
        /// there. Only in pools without shared storage.
        WorkspaceLost = "workspace.lost" => no("it may have run in part: send it with a new `turn_id` if you want it to run, in a new and empty workspace"),
        /// codex could not be started for this turn, though it runs on that host (if it does not, the turn waits for
        /// one where it does).
        StartFailed = "codex.start_failed" => see_retryable("operator: the message says what was in the way; try `turn-worker check`"),
        /// codex ended without saying how the turn ended; the message holds its last words.
        Exited = "codex.exited" => see_retryable("see `reason`"),
        /// codex says that the turn failed.
        TurnFailed = "turn.failed" => see_retryable("see `reason`"),
        /// An image that the request names by its path is not there, or can't be used; codex was not started.
        ImageUnusable = "turn.image_unusable" => no("see [Images](#images); the message says what was found"),
        /// The turn ran longer than `timeout_s` or `TURN_TIMEOUT`.
        TurnTimeout = "turn.timeout" => yes("ask for less at once, or raise the limit"),
        /// codex was silent for `TURN_IDLE_TIMEOUT`.
        IdleTimeout = "turn.idle_timeout" => yes("raise the limit if the agent's commands are that quiet"),
        /// The turn could not start within its `start_within_s`; it was not run.
        Expired = "turn.expired" => yes("allow more time, or add workers"),
        /// Workers died running this turn as often as it may be tried.
        AttemptsExhausted = "turn.attempts_exhausted" => no("find out what kills them (memory?) before you send it again"),
        /// The worker itself failed, for example could not send the turn's guard what to start.
        WorkerInternal = "worker.internal" => yes("operator: read the worker's log"),
    }
}

names! {
    /// Why it went wrong, as far as the CLI's words show.
    Reason {
        /// No key, a wrong key or no login.
        Auth = "auth" => no("operator: fix it"),
        /// Too many requests.
        RateLimited = "rate_limited" => yes("wait"),
        /// The account's allowance is used up.
        UsageLimit = "usage_limit" => see_retryable("wait until it is renewed; no if the account needs a payment"),
        /// The model's servers can't cope.
        Overloaded = "overloaded" => yes("wait"),
        /// The conversation is too long for the model.
        ContextWindow = "context_window" => no("start a new one, see [Requests](#requests)"),
        /// The connection to the model failed, also after codex's own retries.
        Network = "network" => yes("wait"),
        /// The model's API refuses the request.
        InvalidPrompt = "invalid_prompt" => no("change the prompt"),
        /// Refused as against the provider's rules.
        Policy = "policy" => no("change the prompt"),
        /// Unknown model, wrong settings, codex not found.
        Config = "config" => no("operator: fix it"),
        /// A file in the workspace keeps codex from starting; the message names it.
        Workspace = "workspace" => no("repair or remove the file"),
        /// codex refuses to resume the workspace's conversation: its provider was changed or removed, or it is archived; the
        /// message says which.
        Thread = "thread" => no("start a new conversation, see [Requests](#requests); operator: see `TurnWorkerThreadsRefused` in the runbook"),
        /// The words do not show it.
        Unknown = "unknown" => see_retryable("yes where something else ended codex (a signal, a full disk), no where codex failed by itself"),
    }
}

names! {
    /// What a reader may want to know though the turn goes on.
    NoticeCode {
        /// codex lost its connection to the model and retries.
        Reconnecting = "codex.reconnecting" => no("wait"),
        /// Another error that codex reported and recovered from.
        Error = "codex.error" => no("only if the turn fails"),
        /// A warning of codex.
        Warning = "codex.warning" => no("operator: read it"),
        /// codex wrote a line longer than `MAX_LINE_BYTES`; it was left out.
        LineTooLong = "codex.line_too_long" => no("operator: raise the limit if what was left out is missed"),
        /// The conversation can't be resumed; the turn starts a new one.
        ThreadLost = "codex.thread_lost" => no("repeat what the agent has to know"),
        /// The conversation was compacted: codex has replaced it with a summary, and the agent has forgotten details. With
        /// `app-server` only.
        Compacted = "codex.compacted" => no("repeat what the agent must know exactly; start a new conversation where it matters"),
        /// codex asks another model than the one that was chosen; the message names both. With `app-server` only.
        ModelRerouted = "codex.model_rerouted" => no("operator: see whether the account may use the model"),
        /// What the conversation had used before is unknown, so this turn's tokens are not counted.
        UsageUnknown = "codex.usage_unknown" => no("not necessary; the next turn's are counted"),
        /// The request has an `output_schema`, but the agent's last message is no JSON; the message says why.
        NotStructured = "codex.not_structured" => no("read `text`; ask in the prompt, too, or take a model that keeps to schemas"),
        /// `.plexum-codex-session` can't be used (no UUID, another workspace's thread, no plain file); the turn starts
        /// a new conversation.
        SessionIgnored = "workspace.session_ignored" => no("look at who writes that file"),
        /// `.plexum-codex-session` can't be written, so it does not name this turn's conversation; the next turn goes on
        /// with it all the same.
        SessionNotKept = "workspace.session_not_kept" => no("look at what stands in that file's place, or whether the disk is full"),
        /// Parts of the request's `messages` are not used, such as a system message, a block of an unknown type or a message
        /// of the assistant after the prompt; the message names them.
        ContentIgnored = "request.content_ignored" => no("put what matters into the prompt, or into files of the workspace"),
        /// The request's message has the property `expiration`; the broker drops such a turn, without an event, if it waits
        /// for longer.
        ExpirationSet = "request.expiration_set" => no("don't set it; see `start_within_s`"),
        /// It stands for an event that is larger than the broker takes; also with `minimal`.
        EventTooLarge = "event.too_large" => no("let the agent write less at once"),
    }
}
