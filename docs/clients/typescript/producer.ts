// Sends prompts to a workspace, each a turn of the same conversation, and prints the answers as they come.
//
//     AMQP_URL=amqp://… node build/producer.js WORKSPACE PROMPT [PROMPT…]
//     AMQP_URL=amqp://… node build/producer.js --tail TURN_ID [WORKSPACE]
//
// The second form comes late: it prints a turn from the event log, if the operator keeps one, and follows it to its end.
//
// Ctrl-C cancels the turn; a second one leaves at once.  Exit status: 0 if every turn came to its end, 124 if one ran
// out of time, 130 if it was cancelled, 2 for wrong arguments, 1 for everything else.
import { randomUUID } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";
import amqp, { type ChannelModel, type ConfirmChannel, type ConsumeMessage } from "amqplib";

const EXIT_STATUS: Record<string, number> = { end_turn: 0, timeout: 124, cancelled: 130 };
const QUEUE_LIFETIME_MS = 10 * 60 * 1000; // how long events wait for a reader that is gone
const RECONNECT_PAUSE_MS = 1000;
const CANCEL_PAUSE_MS = 5000;

interface TurnRequest {
  turn_id: string;
  workspace: string;
  messages: { role: "user"; content: string }[];
}

/** As far as it is shown here: see docs/EVENTS.md for the others and their fields. */
interface TurnEvent {
  turn_id: string;
  workspace?: string;
  attempt: number;
  seq: number;
  type: string;
  item_id?: string;
  text?: string;
  error?: { code: string; message: string };
  stop_reason?: string;
  usage?: Record<string, number>;
}

/** The broker does not take it, and would not if it were sent again. */
class Refused extends Error {}

let interrupted = false;

function say(text: string): void {
  process.stderr.write(`${text}\n`);
}

/** Resolves when the broker has it, and rejects when it does not. */
async function publish(
  channel: ConfirmChannel,
  exchange: string,
  routingKey: string,
  message: { turn_id: string },
): Promise<void> {
  let returned = false;
  const noteReturn = () => {
    returned = true;
  };
  channel.once("return", noteReturn);
  channel.publish(exchange, routingKey, Buffer.from(JSON.stringify(message)), {
    mandatory: true,
    messageId: message.turn_id, // rejections are published under it, even if the body can't be read
    contentType: "application/json",
    persistent: true, // survives a restart of the broker
    timestamp: Math.floor(Date.now() / 1000),
  });
  await channel.waitForConfirms();
  channel.off("return", noteReturn);
  if (returned) throw new Refused(`no queue is bound to ${exchange}`);
}

function enqueue(channel: ConfirmChannel, request: TurnRequest): Promise<void> {
  return publish(channel, "codex.requests", "turn", request);
}

async function cancel(channel: ConfirmChannel, turnId: string): Promise<void> {
  const message = { action: "cancel", turn_id: turnId };
  try {
    await publish(channel, "codex.control", "", message);
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    say("no worker is connected, so the cancel is repeated until one is");
  }
}

/** A connection, and a queue for events that outlives it: what comes while there is none waits there. */
class Broker {
  readonly queue: string;
  connection!: ChannelModel;
  channel!: ConfirmChannel;
  /** Why the broker has closed the channel, if it has: for a name or a right that is not there. */
  refusal?: Refused;

  constructor(private readonly url: string) {
    this.queue = `${decodeURIComponent(new URL(url).username)}.${randomUUID()}`;
  }

  async connect(): Promise<void> {
    this.connection = await amqp.connect(this.url);
    this.connection.on("error", () => {}); // the channel closes, too, and that is where it is noticed
    this.channel = await this.connection.createConfirmChannel();
    this.channel.on("error", (error) => {
      this.refusal = new Refused(error.message);
    });
    await this.channel.prefetch(100);
    await this.channel.assertQueue(this.queue, { durable: true, expires: QUEUE_LIFETIME_MS });
  }

  async reconnect(): Promise<void> {
    for (;;) {
      try {
        return await this.connect();
      } catch (error) {
        if (this.refusal) throw this.refusal;
        await sleep(RECONNECT_PAUSE_MS);
      }
    }
  }

  async close(): Promise<void> {
    try {
      await this.channel.deleteQueue(this.queue);
      await this.connection.close();
    } catch {
      // Lost, and nobody needs it any more; the queue goes when its time is up.
    }
  }
}

/** Shows the events of one turn, each once. */
class Reader {
  private stopReason?: string;
  private attempt = 0;
  private seq = -1;
  private itemId?: string;
  private text = ""; // of the message that came last
  private lineIsOpen = false;
  private workspace?: string;

  constructor(
    private readonly turnId: string,
    workspace?: string,
  ) {
    // Without one, that of the first event is read; also with a path, which only a worker can tell the id of.
    if (!workspace?.startsWith("/")) this.workspace = workspace;
  }

  /** Returns how the turn ended, once it has. */
  take(event: TurnEvent): string | undefined {
    if (event.turn_id !== this.turnId || !this.isOurs(event.workspace)) return this.stopReason;
    if (event.attempt < this.attempt || (event.attempt === this.attempt && event.seq <= this.seq)) {
      return this.stopReason; // told before
    }
    if (event.attempt > this.attempt && this.seq >= 0) {
      this.beginMessage(undefined);
      say(`attempt ${event.attempt}: it starts again, forget the text so far`);
    }
    this.attempt = event.attempt;
    this.seq = event.seq;

    if (event.type === "text_delta") {
      if (event.item_id !== this.itemId) this.beginMessage(event.item_id);
      this.show(event.text ?? "");
    } else if (event.type === "error") {
      this.endLine();
      say(`${event.error?.code}: ${event.error?.message}`);
    } else if (event.type === "message_end") {
      if (event.text !== undefined && event.text !== this.text) {
        this.beginMessage(undefined); // pieces of it were missed
        this.show(event.text);
      }
      this.endLine();
      say(`${event.stop_reason}, tokens: ${JSON.stringify(event.usage ?? null)}`);
      this.stopReason = event.stop_reason;
    }
    return this.stopReason;
  }

  /** Any producer can send a turn under our id, for a workspace of its own. */
  private isOurs(workspace: string | undefined): boolean {
    if (!workspace) return true; // an older worker's event, or a rejection that could not tell it
    this.workspace ??= workspace;
    return workspace === this.workspace;
  }

  private beginMessage(itemId: string | undefined): void {
    this.endLine();
    this.itemId = itemId;
    this.text = "";
  }

  private show(text: string): void {
    process.stdout.write(text);
    this.text += text;
    this.lineIsOpen = true;
  }

  private endLine(): void {
    if (this.lineIsOpen) process.stdout.write("\n");
    this.lineIsOpen = false;
  }
}

/** Sends the turn and reads to its end.  Safe to call again: a turn runs once, however often it is sent. */
async function follow(broker: Broker, request: TurnRequest, reader: Reader): Promise<string> {
  const { channel, queue } = broker;
  const turnId = request.turn_id;
  // Bind before you publish: what is published while nobody is bound is gone.
  await channel.bindQueue(queue, "codex.events", turnId);
  await enqueue(channel, request);

  let nextCancel = 0;
  let clock: NodeJS.Timeout | undefined;
  try {
    const stopReason = await new Promise<string>((resolve, reject) => {
      channel.once("close", () => reject(new Error("the channel is closed")));
      clock = setInterval(() => {
        if (interrupted && Date.now() >= nextCancel) {
          nextCancel = Date.now() + CANCEL_PAUSE_MS;
          cancel(channel, turnId).catch(reject); // and again, for nobody may have heard it
        }
      }, 200);
      const take = (message: ConsumeMessage | null) => {
        if (message === null) return reject(new Error("the broker has ended the consumer"));
        const stopReason = reader.take(JSON.parse(message.content.toString()));
        channel.ack(message);
        if (stopReason) resolve(stopReason);
      };
      channel.consume(queue, take, { consumerTag: turnId }).catch(reject);
    });
    await channel.cancel(turnId);
    return stopReason;
  } finally {
    clearInterval(clock);
  }
}

/** Returns how it ended, over as many connections as that takes. */
async function runTurn(broker: Broker, workspace: string, prompt: string): Promise<string> {
  const request: TurnRequest = {
    turn_id: randomUUID(),
    workspace,
    messages: [{ role: "user", content: prompt }],
  };
  const reader = new Reader(request.turn_id, workspace);
  say(`turn ${request.turn_id}`);
  for (;;) {
    try {
      return await follow(broker, request, reader);
    } catch (error) {
      if (broker.refusal ?? error instanceof Refused) throw broker.refusal ?? error;
      say(`lost the broker: ${(error as Error).message}`);
      await broker.reconnect();
      say("connected again");
    }
  }
}

/** Prints a turn from the event log.  Returns how it ended, over as many connections as that takes. */
async function tail(url: string, turnId: string, workspace?: string): Promise<string> {
  const reader = new Reader(turnId, workspace);
  let offset: number | undefined;
  let refusal: Refused | undefined;
  for (;;) {
    try {
      const connection = await amqp.connect(url);
      connection.on("error", () => {}); // the channel closes, too, and that is where it is noticed
      const channel = await connection.createChannel();
      channel.on("error", (error) => {
        refusal = new Refused(error.message);
      });
      await channel.prefetch(100); // a stream has no consumer without
      const stopReason = await new Promise<string>((resolve, reject) => {
        channel.once("close", () => reject(new Error("the channel is closed")));
        const take = (message: ConsumeMessage | null) => {
          if (message === null) return reject(new Error("the broker has ended the consumer"));
          offset = Number(message.properties.headers?.["x-stream-offset"]) + 1;
          const stopReason = reader.take(JSON.parse(message.content.toString())); // the filter lets others through, too
          channel.ack(message);
          if (stopReason) resolve(stopReason);
        };
        const options = { arguments: { "x-stream-offset": offset ?? "first", "x-stream-filter": turnId } };
        channel.consume("codex.events.log", take, options).catch(reject);
      });
      await connection.close();
      return stopReason;
    } catch (error) {
      if (refusal ?? offset === undefined) throw refusal ?? error;
      say(`lost the broker: ${(error as Error).message}`);
      await sleep(RECONNECT_PAUSE_MS);
    }
  }
}

async function main(): Promise<number> {
  const [workspace, ...prompts] = process.argv.slice(2);
  if (workspace === undefined || prompts[0] === undefined) {
    say("usage: producer.js WORKSPACE PROMPT [PROMPT…]\n       producer.js --tail TURN_ID [WORKSPACE]");
    return 2;
  }
  const url = process.env.AMQP_URL ?? "amqp://guest:guest@127.0.0.1:5672/%2f";
  try {
    if (workspace === "--tail") return EXIT_STATUS[await tail(url, prompts[0], prompts[1])] ?? 1;
    process.once("SIGINT", () => {
      interrupted = true;
    });
    const broker = new Broker(url);
    await broker.connect();
    let stopReason = "cancelled";
    for (const prompt of prompts) {
      stopReason = await runTurn(broker, workspace, prompt);
      if (stopReason !== "end_turn") break;
    }
    await broker.close();
    return EXIT_STATUS[stopReason] ?? 1;
  } catch (error) {
    say(`can't go on: ${(error as Error).message}`);
    return 1;
  }
}

process.exit(await main());
