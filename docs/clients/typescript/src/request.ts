import { randomUUID } from "node:crypto";

/** No worker takes more; by default it takes 256 KiB (`TURN_WORKER_MAX_REQUEST_BYTES`). */
export const MAX_BODY_BYTES = 8 * 1024 * 1024;

/** The text, or content blocks: see "Images" in docs/EVENTS.md. */
export type Prompt = string | ContentBlock[];

export type ContentBlock =
  | { type: "text"; text: string }
  | { type: "image"; source: { type: "base64"; media_type: string; data: string } | { type: "path"; path: string } };

/** The optional fields of a request: see "Requests" in docs/EVENTS.md. */
export interface RequestFields {
  /**
   * A new UUID where it is absent. Choose it yourself, and keep it, to be able to send the turn again after a crash of your
   * own: a turn runs once, however often it is sent.
   */
  turn_id?: string;
  model?: string;
  reasoning_effort?: "none" | "minimal" | "low" | "medium" | "high" | "xhigh" | "max" | "ultra";
  service_tier?: "default" | "flex" | "priority";
  /** The tenant that the turn runs for, for the operator's metrics and pauses. */
  tenant?: string;
  /** Whole seconds, at least 1. */
  timeout_s?: number;
  max_attempts?: number;
  /** Whole seconds, at least 1. */
  start_within_s?: number;
  on_busy?: "enqueue" | "reject" | "interrupt";
  thread?: "continue" | "new" | "continue_or_new";
  metadata?: Record<string, unknown>;
  output_schema?: Record<string, unknown>;
  enqueued_at?: string;
  traceparent?: string;
  tracestate?: string;
}

export const REQUEST_FIELDS = [
  "turn_id",
  "model",
  "reasoning_effort",
  "service_tier",
  "tenant",
  "timeout_s",
  "max_attempts",
  "start_within_s",
  "on_busy",
  "thread",
  "metadata",
  "output_schema",
  "enqueued_at",
  "traceparent",
  "tracestate",
] as const satisfies (keyof RequestFields)[];

export interface TurnRequest {
  turnId: string;
  workspace: string;
  body: Buffer;
  /** The caller chose the id, so the turn may have been sent before. */
  mayBeKnown: boolean;
}

/** Encodes a request. Throws a `RangeError` for a lone surrogate and for what is larger than any worker takes. */
export function encodeRequest(prompt: Prompt, workspace: string, options: RequestFields): TurnRequest {
  const turnId = options.turn_id ?? randomUUID();
  const request: Record<string, unknown> = { turn_id: turnId, workspace, messages: [{ role: "user", content: prompt }] };
  for (const name of REQUEST_FIELDS) {
    if (name !== "turn_id" && options[name] !== undefined) request[name] = options[name];
  }
  const json = JSON.stringify(request);
  // JSON.stringify writes a half of a surrogate pair as an escape, which no worker reads.
  if (/(?<!\\)(\\\\)*\\ud[89a-f]/.test(json))
    throw new RangeError("the request has a lone surrogate: a character was cut in two");
  const body = Buffer.from(json);
  if (body.length > MAX_BODY_BYTES) {
    throw new RangeError(`the request has ${body.length} bytes, expected at most ${MAX_BODY_BYTES}`);
  }
  return { turnId, workspace, body, mayBeKnown: options.turn_id !== undefined };
}
