// A turn under way, as its reader sees it.
import type { MessageEndEvent, TurnError, TurnEvent } from "./events.js";
import type { Link } from "./link.js";
import { type Answer, envelope, type ReadEvent, TurnReader, type UnknownEvent } from "./reader.js";
import type { RequestFields, TurnRequest } from "./request.js";

const ALWAYS_KEPT: readonly string[] = ["message_start", "restarted", "error", "message_end"];

export interface TurnOptions extends RequestFields {
  /** Aborting it cancels the turn, and throws the signal's reason to those who read it. */
  signal?: AbortSignal;
}

export interface RunOptions extends TurnOptions {
  /**
   * Whether only the end is sent, by `reply_to`: no queue and no binding is needed. A reply is sent once at most, so the
   * request is sent again under its id, which runs no turn twice, after a lost connection and every few minutes.
   */
  byReply?: boolean;
}

export interface StreamOptions extends TurnOptions {
  /** Whether leaving the iteration before the end cancels the turn; true by default. */
  cancelOnExit?: boolean;
}

/** What a turn asks of its client. */
export interface Turns {
  start(turn: TurnStream): Promise<void>;
  cancel(turn: TurnStream): Promise<void>;
  leave(turn: TurnStream, cancel: boolean): Promise<void>;
}

/** A turn under way: an async iterable of its events, each once. Leaving the iteration before the end cancels the turn. */
export class TurnStream implements AsyncIterable<ReadEvent> {
  readonly turnId: string;
  /** Resolves when the broker has accepted the turn. */
  readonly accepted: Promise<void>;
  /**
   * How many events of the turn are known to have been lost, or dropped since they were read too slowly. The answer is
   * complete in any case.
   */
  missed = 0;

  /** @internal What the client keeps of it. */
  readonly sending: { on?: Link | undefined; cancelAt?: number; askAgainAt?: number | undefined; askPause: number } = {
    askPause: 0,
  };
  /** @internal */
  isEnded = false;
  /** @internal */
  isAbandoned = false;
  private readonly reader: TurnReader;
  private readonly inbox: ReadEvent[] = [];
  /** For its reader: ended, failed or aborted. */
  private readonly settled: Promise<void>;
  private settle!: () => void;
  private wake: () => void = () => {};
  private failure: unknown;

  /** @internal */
  constructor(
    private readonly turns: Turns,
    /** @internal */ readonly request: TurnRequest,
    private bufferLimit: number,
    private readonly options: StreamOptions & RunOptions,
  ) {
    this.turnId = request.turnId;
    this.reader = new TurnReader(request.turnId, request.workspace);
    this.settled = new Promise((resolve) => {
      this.settle = () => {
        resolve();
        this.wake();
      };
    });
    this.accepted = this.start();
    this.accepted.catch((error) => this.fail(error));
  }

  /** Waits for the end. Throws a `TurnFailed` unless the turn came to its end. */
  async answer(): Promise<Answer> {
    await this.settled;
    if (this.failure !== undefined || this.reader.end === undefined) throw this.failure;
    return this.reader.answer(this.reader.end);
  }

  /** Asks the workers to cancel the turn, again and again until it has ended. Read on: its end still comes. */
  cancel(): Promise<void> {
    return this.turns.cancel(this);
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<ReadEvent> {
    try {
      for (;;) {
        const event = this.inbox.shift();
        if (event !== undefined) yield event;
        else if (this.failure !== undefined) throw this.failure;
        else if (this.isEnded) return;
        else
          await new Promise<void>((resolve) => {
            this.wake = resolve;
          });
      }
    } finally {
      await this.leave();
    }
  }

  /** @internal */
  deliver(event: TurnEvent | UnknownEvent): void {
    const taken = this.reader.take(event);
    if (taken === undefined) return;
    this.sending.askAgainAt = undefined;
    this.missed += taken.missed;
    if (taken.restarted) this.keep({ ...envelope(event), type: "restarted" });
    this.keep(event);
    if (event.type === "message_end") {
      this.isEnded = true;
      this.settle();
    }
    this.wake();
  }

  /** @internal */
  get isByReply(): boolean {
    return this.options.byReply ?? false;
  }

  /** @internal The end alone. It may come twice. */
  deliverReply(end: MessageEndEvent, error: TurnError | undefined): void {
    if (this.reader.end !== undefined) return;
    this.reader.error = error;
    this.deliver(end);
  }

  /** @internal */
  fail(error: unknown): void {
    if (this.isEnded) return;
    this.isEnded = true;
    this.failure ??= error;
    this.settle();
  }

  private async start(): Promise<void> {
    const { signal } = this.options;
    signal?.throwIfAborted();
    const abort = () => {
      void this.leave();
      this.failure ??= signal?.reason;
      this.settle();
    };
    signal?.addEventListener("abort", abort, { once: true });
    void this.settled.then(() => signal?.removeEventListener("abort", abort));
    await this.turns.start(this);
  }

  /** A slow reader loses pieces, never a start, a restart or the end, and delays no other reader. */
  private keep(event: ReadEvent): void {
    if (this.bufferLimit === 0) return;
    if (this.inbox.length < this.bufferLimit || ALWAYS_KEPT.includes(event.type)) this.inbox.push(event);
    else this.missed += 1;
  }

  private async leave(): Promise<void> {
    if (this.isEnded || this.isAbandoned) return;
    this.isAbandoned = true;
    this.bufferLimit = 0;
    this.inbox.length = 0;
    await this.turns.leave(this, this.options.cancelOnExit ?? true);
  }
}
