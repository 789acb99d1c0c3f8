// Where a turn is, as the workers answer: see "Where is my turn?" in docs/EVENTS.md.
import type { MessageEndEvent, TurnError } from "./events.js";
import { type Answer, parseEvent, TurnReader } from "./reader.js";

interface Position {
  turn_id: string;
  /** The id of its workspace, never a path. */
  workspace: string;
}

/** No turn of that id in that workspace is known: it never came, or was forgotten. */
export interface TurnUnknown extends Position {
  state: "unknown";
  /** Turns that the broker has and no worker has read yet; this one may be among them. Absent if there are 0. */
  unread?: number;
}

/** The turn waits. */
export interface TurnWaiting extends Position {
  state: "waiting";
  /** In its workspace's line, from 1; so many turns less one are ahead of it, one that runs included. */
  place: number;
  /** An operator has paused the workspace. Absent if not. */
  paused?: boolean;
}

/** A worker runs the turn. */
export interface TurnRunning extends Position {
  state: "running";
  attempt: number;
  /** When this attempt started: RFC 3339, UTC, milliseconds. */
  since: string;
}

/** The turn has ended. */
export interface TurnEnded extends Position {
  state: "ended";
  /** Its last event, as it was published. */
  end: MessageEndEvent;
  /** Why it did not come to its end, if there was an event `error`. */
  error?: TurnError;
}

/** A state that only newer workers know. */
export interface UnknownState extends Position {
  state: "other";
  /** The answer as it came. */
  position: Record<string, unknown>;
}

export type TurnPosition = TurnUnknown | TurnWaiting | TurnRunning | TurnEnded | UnknownState;

/** Decodes an answer. Returns `undefined` if it is no answer. */
export function parsePosition(body: Buffer | string): TurnPosition | undefined {
  let position: Record<string, unknown>;
  try {
    position = JSON.parse(body.toString());
  } catch {
    return undefined;
  }
  const { turn_id, workspace, state } = position ?? {};
  if (typeof turn_id !== "string" || typeof workspace !== "string" || typeof state !== "string") return undefined;
  switch (state) {
    case "unknown":
      break;
    case "waiting":
      if (typeof position.place !== "number") return undefined;
      break;
    case "running":
      if (typeof position.attempt !== "number" || typeof position.since !== "string") return undefined;
      break;
    case "ended":
      if (parseEvent(JSON.stringify(position.end))?.type !== "message_end") return undefined;
      break;
    default:
      return { turn_id, workspace, state: "other", position };
  }
  return position as unknown as TurnPosition;
}

/** What a turn came to that has ended. Throws a `TurnFailed` unless it came to its end. */
export function answerOf(position: TurnEnded): Answer {
  const reader = new TurnReader(position.turn_id, position.workspace);
  reader.error = position.error;
  return reader.answer(position.end);
}
