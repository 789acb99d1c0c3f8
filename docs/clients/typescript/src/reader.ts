// The rules of reading a turn: what is its own, what is new, what it comes to. Knows no broker.
import { TurnCancelled, TurnFailed, TurnRejected, TurnTimedOut } from "./errors.js";
import { type EventEnvelope, type MessageEndEvent, REQUIRED_FIELDS, type TurnError, type TurnEvent } from "./events.js";

/** An event of a type that this version does not know. */
export interface UnknownEvent extends EventEnvelope {
  type: "unknown";
  /** As it was published. */
  event: Record<string, unknown>;
}

/** Made by the reader when a higher attempt starts, since a worker died: forget the text so far. */
export interface RestartedEvent extends EventEnvelope {
  type: "restarted";
}

/** What a reader of a turn gets. */
export type ReadEvent = TurnEvent | UnknownEvent | RestartedEvent;

/** How a turn ended that came to its end. */
export interface Answer {
  turnId: string;
  /** The agent's last message. */
  text: string;
  /** The answer as a JSON value, where the request has an `output_schema`; `undefined` if it is not there. */
  structured: unknown;
  /** The turn's last event, with `usage`, `thread_id`, `metadata` and more. */
  end: MessageEndEvent;
}

/** How an event follows on what came before. */
export interface Taken {
  /** A higher attempt started: what came so far is void. */
  restarted: boolean;
  /** Events of the attempt that never came. */
  missed: number;
}

/** Decodes an event. Returns `undefined` if it is no event, such as the probes in the event log. */
export function parseEvent(body: Buffer | string): TurnEvent | UnknownEvent | undefined {
  let event: Record<string, unknown>;
  try {
    event = JSON.parse(body.toString());
  } catch {
    return undefined;
  }
  const isEvent =
    typeof event?.turn_id === "string" &&
    typeof event.attempt === "number" &&
    typeof event.seq === "number" &&
    typeof event.type === "string";
  if (!isEvent) return undefined;
  const required = REQUIRED_FIELDS[event.type as string];
  const isKnown = event.type === "message_end" || required?.every((name) => event[name] !== undefined);
  if (isKnown) return event as unknown as TurnEvent;
  return { ...envelope(event as unknown as EventEnvelope), type: "unknown", event };
}

export function envelope({ turn_id, workspace, attempt, seq, time }: EventEnvelope): EventEnvelope {
  return { turn_id, ...(workspace !== undefined && { workspace }), attempt, seq, time };
}

/** Reads the deliveries of one turn, in the order in which they come, with duplicates and forgeries among them. */
export class TurnReader {
  end: MessageEndEvent | undefined;
  error: TurnError | undefined;
  /** Of the last attempt, by item id. */
  readonly texts = new Map<string, string>();
  private newest: { attempt: number; seq: number } | undefined;

  /** `workspace` is as the request names it, by its id or an absolute path; without one, the first event decides. */
  constructor(
    readonly turnId: string,
    private workspace?: string,
  ) {}

  /** Returns `undefined` for what is not this turn's, or not newer than what came before. */
  take(event: TurnEvent | UnknownEvent): Taken | undefined {
    if (this.end !== undefined || event.turn_id !== this.turnId || !this.admits(event.workspace)) return undefined;
    const { newest } = this;
    if (newest && (event.attempt < newest.attempt || (event.attempt === newest.attempt && event.seq <= newest.seq))) {
      return undefined;
    }
    const restarted = newest !== undefined && event.attempt > newest.attempt;
    const expected = newest === undefined || restarted ? 0 : newest.seq + 1;
    this.newest = { attempt: event.attempt, seq: event.seq };
    if (restarted) {
      this.texts.clear();
      this.error = undefined;
    }
    if (event.type === "text_delta") this.texts.set(event.item_id, (this.texts.get(event.item_id) ?? "") + event.text);
    else if (event.type === "error") this.error = event.error;
    else if (event.type === "message_end") this.end = event;
    return { restarted, missed: event.seq - expected };
  }

  /** What the turn came to. Throws a `TurnFailed` unless it came to its end. */
  answer(end: MessageEndEvent): Answer {
    const text = end.text ?? [...this.texts.values()].at(-1) ?? "";
    if (end.stop_reason === "end_turn") return { turnId: this.turnId, text, structured: end.structured, end };
    const error = this.error;
    const Failure =
      end.stop_reason === "timeout"
        ? TurnTimedOut
        : end.stop_reason === "cancelled"
          ? TurnCancelled
          : end.attempt === 0
            ? TurnRejected
            : TurnFailed;
    throw new Failure(
      this.turnId,
      error?.code ?? `turn.${end.stop_reason}`,
      error?.reason ?? "unknown",
      error?.message ?? endedWith(end),
      error?.retryable ?? false,
      text,
      end,
    );
  }

  /** Any producer can send a turn under our id, for a workspace of its own. */
  private admits(theirs: string | undefined): boolean {
    if (!theirs) return true; // an older worker's event, or a rejection that has no workspace to name
    if (this.workspace !== undefined && !this.workspace.startsWith("/")) return this.workspace === theirs;
    if (this.workspace !== undefined && !endsWith(this.workspace, theirs)) return false;
    this.workspace = theirs;
    return true;
  }
}

/** Why a turn did not come to its end, by the headers of a reply: see "Replies" in docs/EVENTS.md. */
export function replyError(headers: Record<string, unknown>): TurnError | undefined {
  const {
    "x-error-code": code,
    "x-error-reason": reason,
    "x-error-message": message,
    "x-error-retryable": retryable,
  } = headers;
  if (typeof code !== "string") return undefined;
  return { code, reason: String(reason ?? "unknown"), message: String(message ?? ""), retryable: retryable === true };
}

function endedWith(end: MessageEndEvent): string {
  if (end.superseded_by !== undefined) return `the turn was interrupted by the turn ${end.superseded_by}`;
  return `the turn ended with the stop reason ${end.stop_reason}`;
}

/** Only a worker knows its root, so more can't be said of a path. */
function endsWith(path: string, workspace: string): boolean {
  const names = path.split("/").filter((name) => name !== "" && name !== ".");
  const segments = workspace.split("/");
  return names.slice(-segments.length).join("/") === workspace;
}
