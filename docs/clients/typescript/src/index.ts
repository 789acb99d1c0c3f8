export { type ClientOptions, type DescribeOptions, TurnClient } from "./client.js";
export * from "./errors.js";
export type * from "./events.js";
export type { Names } from "./link.js";
export { type TailOptions, TurnTail } from "./log.js";
export {
  answerOf,
  parsePosition,
  type TurnEnded,
  type TurnPosition,
  type TurnRunning,
  type TurnUnknown,
  type TurnWaiting,
  type UnknownState,
} from "./position.js";
export {
  type Answer,
  parseEvent,
  type ReadEvent,
  type RestartedEvent,
  type Taken,
  TurnReader,
  type UnknownEvent,
} from "./reader.js";
export {
  type ContentBlock,
  encodeRequest,
  MAX_BODY_BYTES,
  type Prompt,
  REQUEST_FIELDS,
  type RequestFields,
  type TurnRequest,
} from "./request.js";
export { type RunOptions, type StreamOptions, type TurnOptions, TurnStream } from "./turn.js";
