import type { MessageEndEvent } from "./events.js";

/** All errors of this package. */
export class TurnClientError extends Error {
  override get name(): string {
    return this.constructor.name;
  }
}

/** The broker can't be reached. Thrown by the first connection only; later ones are retried. */
export class BrokerUnavailable extends TurnClientError {}

/** The broker refuses an operation: a missing right, exchange or virtual host, or a message that it does not take. */
export class BrokerRefused extends TurnClientError {}

/** No queue takes turns: no worker has ever run with this prefix on this virtual host. */
export class NoWorker extends BrokerRefused {}

/** There is no event log: no worker has ever run with `TURN_WORKER_EVENT_LOG=on`. */
export class NoEventLog extends BrokerRefused {}

/** The turn is not in the event log: it has not started, is older than the log, or never was. */
export class TurnNotInLog extends TurnClientError {}

/** No worker has answered where the turn is. It implies nothing about the turn. */
export class NoAnswer extends TurnClientError {}

/** The client was closed before the turn ended. The turn goes on. */
export class ClientClosed extends TurnClientError {}

/** The turn ended with the stop reason `error`; the base class of every other bad end. */
export class TurnFailed extends TurnClientError {
  constructor(
    readonly turnId: string,
    /** What happened, such as `turn.failed`: see "Error codes" in docs/EVENTS.md. */
    readonly code: string,
    /** Why, such as `rate_limited`: see "Reasons" there. */
    readonly reason: string,
    message: string,
    /** Whether the same turn, sent again under a *new* id, may succeed without any other change. */
    readonly retryable: boolean,
    /** The agent's last message before that, maybe empty. */
    readonly text: string,
    /** The turn's last event. */
    readonly end: MessageEndEvent,
  ) {
    super(message);
  }
}

/** The request was not accepted, or the turn was not started in time; it was not run. */
export class TurnRejected extends TurnFailed {}

/** The turn ran longer than its limit, or codex was silent for too long. */
export class TurnTimedOut extends TurnFailed {}

/** The turn was cancelled. `end.superseded_by` names the turn that interrupted it, if one did. */
export class TurnCancelled extends TurnFailed {}
