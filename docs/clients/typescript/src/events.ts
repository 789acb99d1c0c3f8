// The events of a turn. Made by scripts/types.mjs from docs/contract/event.schema.json: don't change it by hand.

/** What all events have. */
export interface EventEnvelope {
  /** The id of the turn, which is also the routing key. */
  turn_id: string;
  /** The id of the turn's workspace; readers drop events of any other. Empty if a rejected request's workspace is missing or invalid. Workers older than this field set it on `message_start` only. */
  workspace?: string;
  /** How often the turn was started. 0: it never was. */
  attempt: number;
  /** 0, 1, 2 … within an attempt, without a gap. */
  seq: number;
  /** RFC 3339, UTC, milliseconds. */
  time: string;
}

/** What went wrong. */
export type ErrorCode =
  | "request.invalid" // The request breaks a rule; the message names field, value and rule.
  | "workspace.rejected" // The workspace is outside the root, inside another workspace, or not a directory.
  | "workspace.backlog_full" // The workspace has `MAX_WAITING` turns in line.
  | "workspace.busy" // The workspace has a turn that has not ended, and this one asked with `on_busy` `reject` not to wait; it was not run.
  | "workspace.lost" // The disk that the workspace lived on is gone for good, by an operator's word.
  | "codex.start_failed" // codex could not be started for this turn, though it runs on that host (if it does not, the turn waits for one where it does).
  | "codex.exited" // codex ended without saying how the turn ended; the message holds its last words.
  | "turn.failed" // codex says that the turn failed.
  | "turn.image_unusable" // An image that the request names by its path is not there, or can't be used; codex was not started.
  | "turn.timeout" // The turn ran longer than `timeout_s` or `TURN_TIMEOUT`.
  | "turn.idle_timeout" // codex was silent for `TURN_IDLE_TIMEOUT`.
  | "turn.expired" // The turn could not start within its `start_within_s`; it was not run.
  | "turn.attempts_exhausted" // Workers died running this turn as often as it may be tried.
  | "worker.internal" // The worker itself failed, for example could not send the turn's guard what to start.
  | (string & {}); // of a newer worker

/** What a reader may want to know though the turn goes on. */
export type NoticeCode =
  | "codex.reconnecting" // codex lost its connection to the model and retries.
  | "codex.error" // Another error that codex reported and recovered from.
  | "codex.warning" // A warning of codex.
  | "codex.line_too_long" // codex wrote a line longer than `MAX_LINE_BYTES`; it was left out.
  | "codex.thread_lost" // The conversation can't be resumed; the turn starts a new one.
  | "codex.compacted" // The conversation was compacted: codex has replaced it with a summary, and the agent has forgotten details. With `app-server` only.
  | "codex.model_rerouted" // codex asks another model than the one that was chosen; the message names both. With `app-server` only.
  | "codex.usage_unknown" // What the conversation had used before is unknown, so this turn's tokens are not counted.
  | "codex.not_structured" // The request has an `output_schema`, but the agent's last message is no JSON; the message says why.
  | "workspace.session_ignored" // `.plexum-codex-session` can't be used (no UUID, another workspace's thread, no plain file); the turn starts a new conversation.
  | "workspace.session_not_kept" // `.plexum-codex-session` can't be written, so it does not name this turn's conversation; the next turn goes on with it all the same.
  | "request.content_ignored" // Parts of the request's `messages` are not used, such as a system message, a block of an unknown type or a message of the assistant after the prompt; the message names them.
  | "request.expiration_set" // The request's message has the property `expiration`; the broker drops such a turn, without an event, if it waits for longer.
  | "event.too_large" // It stands for an event that is larger than the broker takes; also with `minimal`.
  | (string & {}); // of a newer worker

/** One entry of the agent's to-do list. */
export interface PlanItem {
  /** Whether the agent has ticked it off. */
  completed: boolean;
  /** What there is to do. */
  text: string;
}

/** Why it went wrong, as far as the CLI's words show. */
export type Reason =
  | "auth" // No key, a wrong key or no login.
  | "rate_limited" // Too many requests.
  | "usage_limit" // The account's allowance is used up.
  | "overloaded" // The model's servers can't cope.
  | "context_window" // The conversation is too long for the model.
  | "network" // The connection to the model failed, also after codex's own retries.
  | "invalid_prompt" // The model's API refuses the request.
  | "policy" // Refused as against the provider's rules.
  | "config" // Unknown model, wrong settings, codex not found.
  | "workspace" // A file in the workspace keeps codex from starting; the message names it.
  | "thread" // codex refuses to resume the workspace's conversation: its provider was changed or removed, or it is archived; the message says which.
  | "unknown" // The words do not show it.
  | (string & {}); // of a newer worker

/** How a turn ended. Any of them is final. */
export type StopReason =
  | "end_turn" // It came to its end.
  | "error" // It failed, or was not accepted: the `error` event before it says why.
  | "cancelled" // It was cancelled; by another turn, if `superseded_by` names one.
  | "timeout" // It ran longer than its limit, or codex was silent for longer than the idle limit: the `error` event before it says which.
  | (string & {}); // of a newer worker

/** Counts of tokens. Cached ones are a subset of input, thinking ones of output. */
export interface Tokens {
  /** The part of the input that came from the provider's cache. */
  cache_read_tokens: number;
  /** The part of the input that the provider put into its cache. */
  cache_write_tokens: number;
  /** What the model read, cached or not. */
  input_tokens: number;
  /** What the model wrote, its reasoning included. */
  output_tokens: number;
  /** The part of the output that is reasoning. */
  thinking_tokens: number;
}

/** Why a turn did not come to its end. */
export interface TurnError {
  /** What failed. */
  code: ErrorCode;
  /** For people; its words may change. */
  message: string;
  /** Why it failed, as far as codex's words show that. */
  reason: Reason;
  /** Whether the same turn, sent again under a new id, may succeed later. */
  retryable: boolean;
}

/** What all agents of a turn spent, all attempts together. */
export interface Usage {
  /** The share of its sub-agents, which the counts beside it include. Absent if they are not known to have spent any. */
  agents?: Tokens;
  /** The part of the input that came from the provider's cache. */
  cache_read_tokens: number;
  /** The part of the input that the provider put into its cache. */
  cache_write_tokens: number;
  /** What the model read, cached or not. */
  input_tokens: number;
  /** What the model wrote, its reasoning included. */
  output_tokens: number;
  /** The part of the output that is reasoning. */
  thinking_tokens: number;
}

/** Why the turn did not come to its end: at most once, right before `message_end`. */
export interface ErrorEvent extends EventEnvelope {
  /** What failed, and why. */
  error: TurnError;
  type: "error";
}

/** Always last. */
export interface MessageEndEvent extends EventEnvelope {
  /** Of the last attempt. */
  duration_ms: number;
  /** The request's own. */
  metadata?: Record<string, unknown>;
  /** The model that the turn's agent asked; its sub-agents may ask others. Absent if codex was not started, or has not reported it and the request sets no model. */
  model?: string;
  /** How the turn ended. */
  stop_reason: StopReason;
  /** The text as a JSON value, if the request has a schema for it. Absent if it is no JSON. */
  structured?: unknown;
  /** The turn that interrupted this one, if that is why it was cancelled. */
  superseded_by?: string;
  /** The last agent message whole. */
  text?: string;
  /** codex's own, of the conversation. */
  thread_id?: string;
  type: "message_end";
  /** Absent when codex never reported it. */
  usage?: Usage;
}

/** Always first. */
export interface MessageStartEvent extends EventEnvelope {
  /** The request's own. */
  metadata?: Record<string, unknown>;
  /** The model that the request or the worker's settings name, or else codex's own default; the turn's agent is asked with it unless `message_end` names another. Absent if neither names one and codex has not reported its default yet. */
  model?: string;
  type: "message_start";
}

/** Something worth knowing though the turn goes on. */
export interface NoticeEvent extends EventEnvelope {
  /** Which kind it is. */
  code: NoticeCode;
  /** For people; its words may change. */
  message: string;
  type: "notice";
}

/** The agent's to-do list, whole, each time it changes. */
export interface PlanEvent extends EventEnvelope {
  /** In the agent's order. */
  items: PlanItem[];
  type: "plan";
}

/** A message of the agent, or a part of one: join those of one `item_id`. */
export interface TextDeltaEvent extends EventEnvelope {
  /** The pieces of one id, joined, are the text. */
  item_id: string;
  /** What is added. */
  text: string;
  type: "text_delta";
}

/** The agent's reasoning, if codex reports it, or a part of it. */
export interface ThinkingDeltaEvent extends EventEnvelope {
  /** The pieces of one id, joined, are the text. */
  item_id: string;
  /** What is added. */
  text: string;
  type: "thinking_delta";
}

/** A part of what a call prints while it runs; the result has all of it. */
export interface ToolOutputEvent extends EventEnvelope {
  /** What is added. */
  text: string;
  /** The call's `id`. */
  tool_use_id: string;
  type: "tool_output";
}

/** A tool call's result. One that never finished gets `is_error: true` and `content.status` `unfinished`. */
export interface ToolResultEvent extends EventEnvelope {
  /** What the tool returned. */
  content: unknown;
  /** Whether the call failed, or did not finish. */
  is_error: boolean;
  /** The tool's, as in the call. */
  name: string;
  /** The call's `id`. */
  tool_use_id: string;
  type: "tool_result";
}

/** A tool call starts. */
export interface ToolUseEvent extends EventEnvelope {
  /** The call's own; the events of its output and result name it. */
  id: string;
  /** What the tool is called with. */
  input: unknown;
  /** See Tools. */
  name: string;
  type: "tool_use";
}

/** What the attempt's agents have spent so far: every few seconds, where it has grown. With `app-server` only. */
export interface UsageEvent extends EventEnvelope {
  type: "usage";
  /** All attempts together. */
  usage: Usage;
}

/** An event of a known type; a newer worker may publish others. */
export type TurnEvent =
  | MessageStartEvent
  | ThinkingDeltaEvent
  | ToolUseEvent
  | ToolOutputEvent
  | ToolResultEvent
  | PlanEvent
  | UsageEvent
  | NoticeEvent
  | TextDeltaEvent
  | ErrorEvent
  | MessageEndEvent;

/** The fields that an event of each type always has, besides those of all events. */
export const REQUIRED_FIELDS: Readonly<Record<string, readonly string[]>> = {
  message_start: [],
  thinking_delta: ["item_id", "text"],
  tool_use: ["id", "name", "input"],
  tool_output: ["tool_use_id", "text"],
  tool_result: ["tool_use_id", "name", "is_error", "content"],
  plan: ["items"],
  usage: ["usage"],
  notice: ["code", "message"],
  text_delta: ["item_id", "text"],
  error: ["error"],
  message_end: ["stop_reason", "duration_ms"],
};
