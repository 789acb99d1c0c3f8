// Sends turns and reads their answers: many at a time over one connection and one queue.
import { randomUUID } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";
import type { ConsumeMessage } from "amqplib";
import { BrokerRefused, ClientClosed, NoAnswer, NoWorker } from "./errors.js";
import { atMost, Link, LinkLost, type Names, namesOf } from "./link.js";
import { type TailOptions, TurnTail } from "./log.js";
import { parsePosition, type TurnPosition } from "./position.js";
import { type Answer, parseEvent, replyError, TurnReader } from "./reader.js";
import { encodeRequest, type Prompt, type RequestFields } from "./request.js";
import { type RunOptions, type StreamOptions, TurnStream, type Turns } from "./turn.js";

const REQUEST_KEY = "turn";
const CANCEL_PAUSE_MS = 5_000;
const UNHEARD_PAUSE_MS = 2_000;
const ASK_AGAIN_MS = 5_000;
const ASK_AGAIN_AT_MOST_MS = 300_000;
const REPLY_AGAIN_MS = 30_000;
const DESCRIBE_AGAIN_MS = 3_000;
const DESCRIBE_TIMEOUT_MS = 15_000;
const RECONNECT_PAUSE_MS = 200;
const RECONNECT_PAUSE_AT_MOST_MS = 10_000;
const REFUSALS_AT_MOST = 5;
const LEAVE_AFTER_MS = 5_000;
const TICK_MS = 500;

export interface ClientOptions {
  /** The workers' setting `TURN_WORKER_PREFIX`; `codex` by default. */
  prefix?: string;
  /** The names of the workers' exchanges, if they do not follow from the prefix. */
  names?: Names;
  /**
   * The name of the queue for events. By default it is the user's name, a dot and a UUID, and the queue is deleted when the
   * client is closed. A queue with a name of yours is kept: events wait in it while the process is down.
   */
  queue?: string;
  /** How long the broker keeps a queue that is not read; 10 minutes by default. */
  queueLifetimeMs?: number;
  /** How many events may be on their way to this client; 200 by default. */
  prefetch?: number;
  /**
   * How many events of a turn are kept for a reader that is slower than they come; 10,000 by default. Past it, pieces are
   * dropped and counted in `TurnStream.missed`, never the end.
   */
  bufferLimit?: number;
  /** Gets a line of text when the connection is lost and back, and when no worker hears a cancel. */
  onStatus?: (status: string) => void;
}

export interface DescribeOptions {
  /** How long an answer may take; 15 seconds by default. */
  timeoutMs?: number;
}

/**
 * A connection to the broker, for any number of turns at a time.
 *
 * It reconnects by itself, and sends again what may not have arrived: a turn runs once, however often it is sent.
 */
export class TurnClient {
  private readonly names: Names;
  private readonly onStatus: (status: string) => void;
  private readonly turns = new Map<string, TurnStream>();
  private readonly questions = new Map<string, (position: TurnPosition) => void>();
  private readonly ticker: NodeJS.Timeout;
  private readonly closed: Promise<never>;
  private rejectClosed!: (error: ClientClosed) => void;
  private isClosed = false;
  private readonly leaving = new Set<Promise<unknown>>();
  private queue: string;
  private link: Promise<Link>;
  private wantsToRead = false;
  private reading: Promise<unknown> = Promise.resolve();
  private readsOn: Link | undefined;
  private endConsumer: (() => Promise<void>) | undefined;
  /** What a turn asks of its client. */
  private readonly own: Turns;

  private constructor(
    private readonly url: string,
    private readonly options: ClientOptions,
    link: Link,
  ) {
    this.names = options.names ?? namesOf(options.prefix ?? "codex");
    this.onStatus = options.onStatus ?? (() => {});
    this.queue = this.newQueue();
    this.link = Promise.resolve(link);
    this.closed = new Promise((_, reject) => {
      this.rejectClosed = reject;
    });
    this.closed.catch(() => {});
    this.own = {
      start: (turn) => this.start(turn),
      cancel: (turn) => this.cancelTurn(turn),
      leave: (turn, cancel) => this.leave(turn, cancel),
    };
    this.ticker = setInterval(() => void this.tick(), TICK_MS);
    void this.supervise(link);
  }

  /**
   * Connects; later connections come by themselves. Throws `BrokerUnavailable`.
   *
   * `url` is `amqp://user:password@host:5672/vhost`, or `amqps://…`; `%2f` is the virtual host `/`.
   */
  static async connect(url: string, options: ClientOptions = {}): Promise<TurnClient> {
    return new TurnClient(url, options, await Link.open(url, "codex-turn-client"));
  }

  /** Leaves. Turns that have not ended go on, and `ClientClosed` is thrown to those who read them. */
  async close(): Promise<void> {
    if (this.isClosed) return;
    await Promise.all(this.leaving);
    this.isClosed = true;
    clearInterval(this.ticker);
    for (const turn of this.turns.values())
      turn.fail(new ClientClosed(`the client was closed before turn ${turn.turnId} ended`));
    this.turns.clear();
    this.rejectClosed(new ClientClosed("the client is closed"));
    const link = await atMost(0, this.link); // undefined while it is lost
    if (link === undefined) return;
    if (this.endConsumer !== undefined && this.options.queue === undefined) {
      await atMost(
        LEAVE_AFTER_MS,
        this.endConsumer().then(() => link.delete(this.queue)),
      ).catch(() => {});
    }
    await link.close();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  /** Sends a turn without reading its events. Returns its id once the broker has accepted it. */
  async submit(prompt: Prompt, workspace: string, options: RequestFields = {}): Promise<string> {
    const request = encodeRequest(prompt, workspace, options);
    await this.untilDone((link) => link.publish(this.names.requests, REQUEST_KEY, request.body, request.turnId));
    return request.turnId;
  }

  /** Sends a turn and waits for its answer. Throws a `TurnFailed` unless the turn came to its end. */
  async run(prompt: Prompt, workspace: string, options: RunOptions = {}): Promise<Answer> {
    return new TurnStream(this.own, encodeRequest(prompt, workspace, options), 0, options).answer();
  }

  /** Sends a turn and reads its events. */
  stream(prompt: Prompt, workspace: string, options: StreamOptions = {}): TurnStream {
    const request = encodeRequest(prompt, workspace, options);
    return new TurnStream(this.own, request, this.options.bufferLimit ?? 10_000, options);
  }

  /**
   * Cancels a turn that anyone sent; without a workspace, in all of them. Throws `NoWorker` if no worker hears it.
   *
   * A worker that is not connected at the moment misses it. `TurnStream.cancel` repeats it until the end.
   */
  cancel(turnId: string, workspace?: string): Promise<void> {
    return this.untilDone((link) => this.publishCancel(link, turnId, workspace));
  }

  /**
   * Asks where a turn is that anyone sent; `state` of the answer is `waiting`, `running`, `ended` or `unknown`.
   *
   * The request is not needed, and no turn is run. A turn of another workspace is as unknown as one that never was. Throws
   * `NoWorker` if no worker is connected, and `NoAnswer` if there is no answer in time.
   */
  async describe(turnId: string, workspace: string, options: DescribeOptions = {}): Promise<TurnPosition> {
    const { timeoutMs = DESCRIBE_TIMEOUT_MS } = options;
    const body = Buffer.from(JSON.stringify({ action: "describe", turn_id: turnId, workspace }));
    const call = { id: randomUUID(), onReply: this.onReply };
    const answer = new Promise<TurnPosition>((resolve) => this.questions.set(call.id, resolve));
    const until = Date.now() + timeoutMs;
    const ask = async (): Promise<TurnPosition | undefined> => {
      for (;;) {
        // Workers drop what is too much, and don't answer while they start.
        await this.untilDone((link) => link.publish(this.names.control, "", body, undefined, call));
        const link = await this.connected();
        const pause = Math.min(DESCRIBE_AGAIN_MS, Math.max(until - Date.now(), 0));
        const position = await atMost(pause, Promise.race([answer, link.lost.then(() => undefined)]));
        if (position !== undefined || Date.now() >= until) return position;
      }
    };
    try {
      const position = await atMost(timeoutMs, ask());
      if (position !== undefined) return position;
    } finally {
      this.questions.delete(call.id);
    }
    throw new NoAnswer(
      `no worker has answered within ${timeoutMs / 1000} s where turn ${turnId} is: none is ready, there are too many ` +
        "questions, or the workers are of an older version",
    );
  }

  /** Reads a turn from the event log, from its beginning, and follows it to its end, on a connection of its own. */
  tail(turnId: string, options: TailOptions = {}): TurnTail {
    const reader = new TurnReader(turnId, options.workspace);
    return new TurnTail(this.url, this.names.log, reader, options, this.onStatus);
  }

  // --- turns

  private async start(turn: TurnStream): Promise<void> {
    const other = this.turns.get(turn.turnId);
    if (other !== undefined && !other.isAbandoned) throw new Error(`turn ${turn.turnId} is being read already`);
    this.turns.set(turn.turnId, turn);
    try {
      await this.untilDone(async () => {
        const link = await (turn.isByReply ? this.connected() : this.linkForReading());
        // After a lost link, all turns are sent on the next one.
        if (turn.sending.on === link) return;
        if (turn.request.mayBeKnown || turn.isByReply) this.askAgainLater(turn);
        await this.send(link, turn);
      });
    } catch (error) {
      this.forget(turn);
      throw error;
    }
  }

  /** Binds before it publishes: events that no queue is bound for are gone. */
  private async send(link: Link, turn: TurnStream): Promise<void> {
    turn.sending.on = link;
    if (!turn.isByReply) await link.bind(this.queue, this.names.events, turn.turnId);
    await this.publish(link, turn);
  }

  private publish(link: Link, turn: TurnStream): Promise<void> {
    const call = turn.isByReply ? { id: turn.turnId, onReply: this.onReply } : undefined;
    return link.publish(this.names.requests, REQUEST_KEY, turn.request.body, turn.turnId, call);
  }

  private async cancelTurn(turn: TurnStream): Promise<void> {
    const { sending } = turn;
    sending.cancelAt = Date.now() + CANCEL_PAUSE_MS;
    if (turn.isEnded || sending.on === undefined) return; // it is not sent yet, and the cancel follows it
    const { workspace } = turn.request;
    try {
      // A path means something to a worker only.
      await this.publishCancel(sending.on, turn.turnId, workspace.startsWith("/") ? undefined : workspace);
    } catch (error) {
      if (error instanceof NoWorker) {
        sending.cancelAt = Date.now() + UNHEARD_PAUSE_MS;
        this.onStatus("no worker is connected, so the cancel is repeated until one is");
      } else if (error instanceof LinkLost) {
        sending.cancelAt = 0;
      } else {
        this.onStatus((error as Error).message);
      }
    }
  }

  private publishCancel(link: Link, turnId: string, workspace: string | undefined): Promise<void> {
    const message = { action: "cancel", turn_id: turnId, ...(workspace !== undefined && { workspace }) };
    return link.publish(this.names.control, "", Buffer.from(JSON.stringify(message)));
  }

  /** Cancels a turn that has no reader any more, and goes on with it in the background until it has ended. */
  private async leave(turn: TurnStream, cancel: boolean): Promise<void> {
    if (!cancel || this.isClosed || turn.sending.on === undefined) {
      this.forget(turn);
      return;
    }
    const cancelled = atMost(LEAVE_AFTER_MS, this.cancelTurn(turn));
    this.leaving.add(cancelled);
    await cancelled;
    this.leaving.delete(cancelled);
  }

  private forget(turn: TurnStream): void {
    if (this.turns.get(turn.turnId) !== turn) return;
    this.turns.delete(turn.turnId);
    const link = turn.sending.on;
    if (link === undefined || link.isLost || turn.isByReply) return;
    link.unbind(this.queue, this.names.events, turn.turnId).catch(() => {});
  }

  private fail(turn: TurnStream, error: unknown): void {
    turn.fail(error);
    this.forget(turn);
  }

  private readonly onMessage = (message: ConsumeMessage, ack: () => void): void => {
    const event = parseEvent(message.content);
    const turn = event && this.turns.get(event.turn_id);
    if (event !== undefined && turn !== undefined) {
      turn.deliver(event);
      if (turn.isEnded) this.forget(turn);
    }
    ack();
  };

  private readonly onReply = (message: ConsumeMessage): void => {
    const { correlationId, headers } = message.properties;
    const answered = this.questions.get(correlationId);
    if (answered !== undefined) {
      const position = parsePosition(message.content);
      if (position !== undefined) answered(position);
      return;
    }
    const end = parseEvent(message.content);
    const turn = this.turns.get(correlationId);
    if (end?.type !== "message_end" || !turn?.isByReply) return;
    turn.deliverReply(end, replyError(headers ?? {}));
    if (turn.isEnded) this.forget(turn);
  };

  // --- connections

  /** Over as many connections as that takes. */
  private async untilDone(work: (link: Link) => Promise<void>): Promise<void> {
    for (;;) {
      const link = await this.connected();
      try {
        return await work(link);
      } catch (error) {
        if (!(error instanceof LinkLost)) throw error;
      }
    }
  }

  private async connected(): Promise<Link> {
    for (;;) {
      const link = await Promise.race([this.closed, this.link]);
      if (!link.isLost) return link;
      await new Promise((resolve) => setImmediate(resolve)); // until it is noticed
    }
  }

  private linkForReading(): Promise<Link> {
    const opened = this.reading.then(async () => {
      const link = await this.connected();
      if (this.readsOn !== link) {
        this.wantsToRead = true;
        await link.declare(this.queue, this.options.queueLifetimeMs ?? 600_000);
        await this.readOn(link);
      }
      return link;
    });
    this.reading = opened.catch(() => {});
    return opened;
  }

  private async readOn(link: Link): Promise<void> {
    this.endConsumer = await link.consume(this.queue, this.options.prefetch ?? 200, this.onMessage);
    this.readsOn = link;
  }

  private async supervise(first: Link): Promise<void> {
    let link = first;
    while (!this.isClosed) {
      const reason = await link.lost;
      if (this.isClosed) return;
      let resolve!: (link: Link) => void;
      this.link = new Promise((done) => {
        resolve = done;
      });
      this.onStatus(`lost the broker: ${reason}`);
      await link.close();
      const next = await this.reconnect();
      if (next === undefined) return;
      link = next;
      resolve(link);
      this.onStatus("connected again");
    }
  }

  /** Returns `undefined` if the client is closed meanwhile. */
  private async reconnect(): Promise<Link | undefined> {
    let pause = RECONNECT_PAUSE_MS;
    let refusals = 0;
    for (;;) {
      await sleep(pause * (0.5 + Math.random() / 2));
      pause = Math.min(2 * pause, RECONNECT_PAUSE_AT_MOST_MS);
      if (this.isClosed) return undefined;
      let link: Link | undefined;
      try {
        link = await Link.open(this.url, "codex-turn-client");
        await this.resume(link);
        if (!this.isClosed) return link;
      } catch (error) {
        if (error instanceof BrokerRefused) {
          // The queue may be on a node that is down.
          this.queue = this.newQueue();
          refusals += 1;
          if (refusals % REFUSALS_AT_MOST === 0) for (const turn of [...this.turns.values()]) this.fail(turn, error);
        }
      }
      await link?.close();
    }
  }

  /** Sends all turns again before it reads on: their ends may have been missed, and come once more then. */
  private async resume(link: Link): Promise<void> {
    if (this.wantsToRead) await link.declare(this.queue, this.options.queueLifetimeMs ?? 600_000);
    await Promise.all([...this.turns.values()].map((turn) => this.resend(link, turn)));
    if (this.wantsToRead) await this.readOn(link);
  }

  private async resend(link: Link, turn: TurnStream): Promise<void> {
    try {
      await this.send(link, turn);
    } catch (error) {
      if (!(error instanceof BrokerRefused)) throw error;
      this.fail(turn, error);
      return;
    }
    this.askAgainLater(turn);
    if (turn.sending.cancelAt !== undefined) turn.sending.cancelAt = 0;
  }

  /** Unless an event comes before that. */
  private askAgainLater({ sending, isByReply }: TurnStream): void {
    sending.askPause = isByReply ? REPLY_AGAIN_MS : ASK_AGAIN_MS;
    sending.askAgainAt = Date.now() + sending.askPause;
  }

  private isTicking = false;

  /**
   * Repeats cancels, and requests that were not the first of their turn and got no event: they are dropped as duplicates
   * while the workers have not yet noted the turn's end, which may have been published already.
   */
  private async tick(): Promise<void> {
    if (this.isTicking) return;
    this.isTicking = true;
    for (const turn of [...this.turns.values()]) {
      await this.remind(turn).catch((error) => {
        if (!(error instanceof LinkLost)) this.fail(turn, error);
      });
    }
    this.isTicking = false;
  }

  private async remind(turn: TurnStream): Promise<void> {
    const { sending } = turn;
    if (sending.on === undefined || sending.on.isLost) return;
    const now = Date.now();
    if (sending.cancelAt !== undefined && now >= sending.cancelAt) await this.cancelTurn(turn);
    if (sending.askAgainAt !== undefined && now >= sending.askAgainAt) {
      sending.askPause = Math.min(2 * sending.askPause, ASK_AGAIN_AT_MOST_MS);
      sending.askAgainAt = now + sending.askPause;
      await this.publish(sending.on, turn);
    }
  }

  private newQueue(): string {
    return this.options.queue ?? `${decodeURIComponent(new URL(this.url).username) || "guest"}.${randomUUID()}`;
  }
}
