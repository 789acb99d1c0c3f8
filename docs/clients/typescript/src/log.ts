// Reads a turn from the event log, a stream: what it kept, and then what comes.
import { setTimeout as sleep } from "node:timers/promises";
import type { ConsumeMessage } from "amqplib";
import { BrokerRefused, BrokerUnavailable, NoEventLog, TurnNotInLog } from "./errors.js";
import { atMost, Link, LinkLost, NotFound } from "./link.js";
import { type Answer, envelope, parseEvent, type ReadEvent, type TurnReader } from "./reader.js";

const PREFETCH = 200;
/** A chunk of a stream, which is delivered whole, has no more messages. */
const MAX_CHUNK = 65_535;
/** After the newest message: what stands in one chunk with it comes at once. */
const QUIET_MS = 1_000;
/** No message comes: the log is empty, or older than what is asked for. */
const SILENT_MS = 10_000;
const RECONNECT_PAUSE_MS = 1_000;

export interface TailOptions {
  /** The turn's workspace; by default that of the first event. */
  workspace?: string;
  /** Read only what is younger, which is faster. */
  sinceMs?: number;
  /** Wait for a turn that is not in the log yet, in place of throwing `TurnNotInLog`. */
  wait?: boolean;
  signal?: AbortSignal;
}

interface Delivered {
  message: ConsumeMessage;
  ack: () => void;
}

/** Deliveries that were not read yet: bounded by the prefetch, since each is acked when it is read. */
class Deliveries {
  private readonly waiting: Delivered[] = [];
  private wake: () => void = () => {};

  readonly put = (message: ConsumeMessage, ack: () => void): void => {
    this.waiting.push({ message, ack });
    this.wake();
  };

  /** Returns `undefined` if no message has come for that long. */
  async next(link: Link, patienceMs: number | undefined, signal?: AbortSignal): Promise<Delivered | undefined> {
    if (this.waiting.length === 0) {
      const come = new Promise<void>((resolve, reject) => {
        this.wake = resolve;
        signal?.addEventListener("abort", () => reject(signal.reason), { once: true });
      });
      const either = Promise.race([come, link.lost]);
      await (patienceMs === undefined ? either : atMost(patienceMs, either));
    }
    signal?.throwIfAborted();
    if (this.waiting.length === 0 && link.reason !== undefined) throw new LinkLost(link.reason);
    return this.waiting.shift();
  }
}

/** A turn in the event log: an async iterable of its events, each once. */
export class TurnTail implements AsyncIterable<ReadEvent> {
  readonly turnId: string;
  /** How many events of the turn are known to be missing in the log. */
  missed = 0;
  private next: number | undefined; // the first message that was not read
  private found = false;
  private caughtUp = false;

  constructor(
    private readonly url: string,
    private readonly queue: string,
    private readonly reader: TurnReader,
    private readonly options: TailOptions,
    private readonly onStatus: (status: string) => void,
  ) {
    this.turnId = reader.turnId;
  }

  /** Reads to the end. Throws a `TurnFailed` unless the turn came to its end. */
  async answer(): Promise<Answer> {
    for await (const _ of this);
    if (this.reader.end === undefined) throw new TurnNotInLog(`the end of turn ${this.turnId} was not read`);
    return this.reader.answer(this.reader.end);
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<ReadEvent> {
    let lost = false;
    while (this.reader.end === undefined) {
      let link: Link | undefined;
      try {
        this.options.signal?.throwIfAborted();
        link = await Link.open(this.url, "codex-turn-client tail");
        for await (const event of this.readOn(link)) {
          lost = false;
          yield event;
        }
      } catch (error) {
        if (!(error instanceof LinkLost || error instanceof BrokerUnavailable)) throw error;
        if (this.next === undefined) throw new BrokerUnavailable(error.message, { cause: error });
        if (!lost) this.onStatus(`lost the broker: ${error.message}`);
        lost = true;
        await sleep(RECONNECT_PAUSE_MS);
      } finally {
        // Without rejecting what was delivered, and ignoring errors: see "The event log" in docs/EVENTS.md.
        await link?.close();
      }
    }
  }

  private async *readOn(link: Link): AsyncGenerator<ReadEvent> {
    const newest = await this.newest(link);
    const deliveries = new Deliveries();
    const offset = this.next ?? this.from();
    const filter = newest?.filterValue === undefined ? [this.turnId] : [this.turnId, newest.filterValue];
    try {
      // Those without a value are of workers that set no value yet.
      const filtered = { "x-stream-offset": offset, "x-stream-filter": filter, "x-stream-match-unfiltered": true };
      await this.consume(link, deliveries, filtered);
    } catch (error) {
      if (!(error instanceof BrokerRefused) || error instanceof NoEventLog) throw error;
      // A broker that could filter, with filters not enabled.
      await this.consume(link, deliveries, { "x-stream-offset": offset });
    }
    let patience = newest === undefined ? QUIET_MS : SILENT_MS;
    while (this.reader.end === undefined) {
      const delivered = await deliveries.next(link, this.caughtUp ? undefined : patience, this.options.signal);
      if (delivered === undefined) {
        this.catchUp();
        continue;
      }
      const at = offsetOf(delivered.message);
      patience = patienceAfter(at, newest?.offset);
      delivered.ack();
      // The first messages of a connection may be older than what was asked for.
      if (this.next !== undefined && at < this.next) continue;
      this.next = at + 1;
      const event = parseEvent(delivered.message.content);
      const taken = event && this.reader.take(event);
      if (event === undefined || taken === undefined) continue;
      this.found = true;
      this.missed += taken.missed;
      if (taken.restarted) yield { ...envelope(event), type: "restarted" };
      yield event;
    }
  }

  private catchUp(): void {
    this.caughtUp = true;
    if (!this.found && !this.options.wait) {
      throw new TurnNotInLog(
        `the event log has nothing of turn ${this.turnId}: it has not started, is older than the log, or never was`,
      );
    }
  }

  private from(): unknown {
    if (this.options.sinceMs === undefined) return "first";
    return { "!": "timestamp", value: Math.floor((Date.now() - this.options.sinceMs) / 1000) };
  }

  /** A filtered stream is silent without a match. Once its newest message has come by, everything has. */
  private async newest(link: Link): Promise<{ offset: number; filterValue: string | undefined } | undefined> {
    const deliveries = new Deliveries();
    const end = await this.consume(link, deliveries, { "x-stream-offset": "last" });
    const delivered = await deliveries.next(link, SILENT_MS, this.options.signal);
    await end();
    if (delivered === undefined) return undefined;
    const value = delivered.message.properties.headers?.["x-stream-filter-value"];
    return { offset: offsetOf(delivered.message), filterValue: typeof value === "string" ? value : undefined };
  }

  private async consume(link: Link, deliveries: Deliveries, args: object): Promise<() => Promise<void>> {
    try {
      return await link.consume(this.queue, PREFETCH, deliveries.put, args);
    } catch (error) {
      if (error instanceof NotFound) throw new NoEventLog(`there is no event log: ${error.message}`, { cause: error });
      throw error;
    }
  }
}

function offsetOf(message: ConsumeMessage): number {
  return Number(message.properties.headers?.["x-stream-offset"] ?? 0);
}

function patienceAfter(offset: number, newest: number | undefined): number {
  if (newest === undefined || offset < newest) return SILENT_MS;
  return offset > newest + MAX_CHUNK ? 0 : QUIET_MS;
}
