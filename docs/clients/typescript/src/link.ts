// One connection to the broker. It is never repaired: when it is lost, another takes its place.
import { randomUUID } from "node:crypto";
import amqp, { type Channel, type ChannelModel, type ConfirmChannel, type ConsumeMessage } from "amqplib";
import { BrokerRefused, BrokerUnavailable, NoWorker } from "./errors.js";

const CONNECT_TIMEOUT_MS = 30_000;
const CLOSE_TIMEOUT_MS = 5_000;
const DIRECT_REPLY = "amq.rabbitmq.reply-to";

/** The names of the workers' objects on the broker. */
export interface Names {
  requests: string;
  events: string;
  control: string;
  log: string;
}

/** `prefix` is the workers' setting `TURN_WORKER_PREFIX`. */
export function namesOf(prefix: string): Names {
  return {
    requests: `${prefix}.requests`,
    events: `${prefix}.events`,
    control: `${prefix}.control`,
    log: `${prefix}.events.log`,
  };
}

/** The connection is gone. What was under way on it may have happened or not. */
export class LinkLost extends Error {}

/** The broker has no queue or exchange of that name. */
export class NotFound extends BrokerRefused {}

export type OnMessage = (message: ConsumeMessage, ack: () => void) => void;

/** A message that is answered, by its correlation id. */
export interface Call {
  id: string;
  onReply: (message: ConsumeMessage) => void;
}

/** A channel, and why the broker has closed it, if it has: for a name or a right that is not there. */
interface Opened<C extends Channel> {
  channel: C;
  refusal?: Error & { code?: number };
  isClosed: boolean;
}

export class Link {
  /** Resolves with the reason when it is lost; from then on everything on it throws `LinkLost`. */
  readonly lost: Promise<string>;
  reason: string | undefined;
  private resolveLost!: (reason: string) => void;
  private publishing: Promise<Opened<ConfirmChannel>> | undefined;
  private calling: Promise<Opened<ConfirmChannel>> | undefined;
  private settingUp: Opened<Channel> | undefined;
  private setup: Promise<unknown> = Promise.resolve();
  private readonly returned = new Set<string>();

  private constructor(private readonly connection: ChannelModel) {
    this.lost = new Promise((resolve) => {
      this.resolveLost = resolve;
    });
    connection.on("error", (error) => this.lose(error.message));
    connection.on("close", () => this.lose("the connection is closed"));
  }

  /** Throws `BrokerUnavailable`. */
  static async open(url: string, name: string): Promise<Link> {
    try {
      const options = { clientProperties: { connection_name: name }, timeout: CONNECT_TIMEOUT_MS };
      return new Link(await amqp.connect(url, options));
    } catch (error) {
      throw new BrokerUnavailable(`the broker can't be reached: ${(error as Error).message}`, { cause: error });
    }
  }

  /** Never throws: what is closed is needed no more. */
  async close(): Promise<void> {
    this.lose("closed");
    await atMost(CLOSE_TIMEOUT_MS, this.connection.close()).catch(() => {});
  }

  get isLost(): boolean {
    return this.reason !== undefined;
  }

  /**
   * Returns when the broker has it. Throws `NoWorker` if no queue takes it, `BrokerRefused` if the broker does not.
   *
   * With a `call`, the answer is sent back by the broker's direct reply, for as long as the link lasts.
   */
  publish(exchange: string, routingKey: string, body: Buffer, messageId: string = randomUUID(), call?: Call): Promise<void> {
    return this.call(`publish to ${exchange}`, async () => {
      const opened = await (call === undefined ? this.channelForPublishing() : this.channelForCalls(call.onReply));
      const error = await new Promise<Error | null>((resolve) => {
        const options = {
          mandatory: true,
          persistent: true,
          contentType: "application/json",
          messageId,
          timestamp: now(),
          ...(call !== undefined && { correlationId: call.id, replyTo: DIRECT_REPLY }),
        };
        opened.channel.publish(exchange, routingKey, body, options, resolve);
      });
      if (this.returned.delete(messageId)) throw new NoWorker(`can't publish to ${exchange}: no queue is bound to it`);
      if (error === null) return;
      await nextTurn(); // the refusal is reported after the confirms are
      if (opened.refusal) throw opened.refusal;
      if (opened.isClosed) throw new LinkLost(error.message);
      throw new BrokerRefused(`can't publish to ${exchange}: the broker has refused it`, { cause: error });
    });
  }

  /** Declares a queue for events. It outlives the connection: events that come meanwhile wait in it. */
  declare(queue: string, lifetimeMs: number): Promise<void> {
    return this.setUp(async (channel) => {
      await channel.assertQueue(queue, { durable: true, expires: lifetimeMs });
    });
  }

  delete(queue: string): Promise<void> {
    return this.setUp(async (channel) => {
      await channel.deleteQueue(queue);
    });
  }

  bind(queue: string, exchange: string, routingKey: string): Promise<void> {
    return this.setUp(async (channel) => {
      await channel.bindQueue(queue, exchange, routingKey);
    });
  }

  unbind(queue: string, exchange: string, routingKey: string): Promise<void> {
    return this.setUp(async (channel) => {
      await channel.unbindQueue(queue, exchange, routingKey);
    });
  }

  /**
   * Reads a queue, with acks; the end of the consumer is the end of the link, unless it is ended with what is returned.
   * Never rejects what was delivered: streams do not take that.
   */
  consume(queue: string, prefetch: number, onMessage: OnMessage, args?: object): Promise<() => Promise<void>> {
    return this.call(`consume ${queue}`, async () => {
      const opened = await this.opened(() => this.connection.createChannel());
      const { channel } = opened;
      let wanted = true;
      await channel.prefetch(prefetch);
      const take = (message: ConsumeMessage | null) => {
        if (message === null) this.lose("the broker has ended the consumer");
        else if (wanted) onMessage(message, () => void (opened.isClosed || channel.ack(message)));
      };
      await channel.consume(queue, take, args === undefined ? {} : { arguments: args });
      // A connection reports why it closes after its channels have closed.
      channel.on("close", () => wanted && setImmediate(() => this.lose(opened.refusal?.message ?? "the channel is closed")));
      return () => {
        wanted = false;
        return this.call("close a channel", () => channel.close()).catch(() => {});
      };
    });
  }

  /** One at a time, so that a refusal, which closes the channel, is of the operation that caused it. */
  private setUp(operation: (channel: Channel) => Promise<void>): Promise<void> {
    const done = this.setup.then(() =>
      this.call("set up the queue", async () => {
        if (this.settingUp === undefined || this.settingUp.isClosed) {
          this.settingUp = await this.opened(() => this.connection.createChannel());
        }
        await operation(this.settingUp.channel);
      }),
    );
    this.setup = done.catch(() => {});
    return done;
  }

  private async channelForPublishing(): Promise<Opened<ConfirmChannel>> {
    if (this.publishing === undefined || (await this.publishing).isClosed) this.publishing = this.confirming();
    return this.publishing;
  }

  /** The broker sends direct replies to the channel on which the call was published. */
  private async channelForCalls(onReply: (message: ConsumeMessage) => void): Promise<Opened<ConfirmChannel>> {
    const listening = async () => {
      const opened = await this.confirming();
      await opened.channel.consume(DIRECT_REPLY, (message) => message && onReply(message), { noAck: true });
      return opened;
    };
    if (this.calling === undefined || (await this.calling).isClosed) this.calling = listening();
    return this.calling;
  }

  private async confirming(): Promise<Opened<ConfirmChannel>> {
    const opened = await this.opened(() => this.connection.createConfirmChannel());
    // A returned message comes before its confirm.
    opened.channel.on("return", (message) => this.returned.add(message.properties.messageId as string));
    return opened;
  }

  private async opened<C extends Channel>(open: () => Promise<C>): Promise<Opened<C>> {
    const opened: Opened<C> = { channel: await open(), isClosed: false };
    opened.channel.on("error", (error) => {
      opened.refusal = error;
    });
    opened.channel.on("close", () => {
      opened.isClosed = true;
    });
    return opened;
  }

  /** Waits for the operation or the loss of the link, the first of the two. */
  private async call<T>(what: string, operation: () => Promise<T>): Promise<T> {
    if (this.reason !== undefined) throw new LinkLost(this.reason);
    const lost = this.lost.then((reason) => Promise.reject(new LinkLost(reason)));
    try {
      return await Promise.race([operation(), lost]);
    } catch (error) {
      if (error instanceof BrokerRefused) throw error;
      const { code, message } = error as Error & { code?: unknown };
      if (code === 404) throw new NotFound(`can't ${what}: ${message}`, { cause: error });
      if (typeof code === "number" && code < 500) throw new BrokerRefused(`can't ${what}: ${message}`, { cause: error });
      this.lose(message);
      throw error instanceof LinkLost ? error : new LinkLost(message, { cause: error });
    }
  }

  private lose(reason: string): void {
    this.reason ??= reason;
    this.resolveLost(this.reason);
  }
}

function now(): number {
  return Math.floor(Date.now() / 1000);
}

function nextTurn(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}

export async function atMost<T>(ms: number, work: Promise<T>): Promise<T | undefined> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<undefined>((resolve) => {
    timer = setTimeout(() => resolve(undefined), ms);
  });
  return Promise.race([work, late]).finally(() => clearTimeout(timer));
}
