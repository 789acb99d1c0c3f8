// A chat page on the library: node build/chat.js [PORT], with AMQP_URL and WORKSPACE (chat/demo by default) in the environment.
//
//     POST   /turns             {"prompt": "…"} sends a turn and returns {"turn_id": "…"}
//     GET    /turns/ID/events   its events as server-sent events, from Last-Event-ID on
//     DELETE /turns/ID          cancels it
//
// A turn that no browser reads for half a minute once it is accepted is cancelled. An example: it has no login, so it listens on
// 127.0.0.1 only.
import { readFileSync } from "node:fs";
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import { fileURLToPath } from "node:url";
import { type ReadEvent, TurnClient, TurnClientError, type TurnStream } from "codex-turn-client";

const PAGE = readFileSync(new URL("../chat.html", import.meta.url));
const MAX_BODY_BYTES = 64 * 1024;
const MAX_BEHIND_BYTES = 4 * 1024 * 1024;

export interface ChatOptions {
  workspace: string;
  /** How long a turn goes on that no browser reads, from when the broker has accepted it; 30 seconds by default. */
  abandonAfterMs?: number;
  /** How long an ended turn can be read again. */
  keepMs?: number;
}

/** A turn with its events so far, for the browsers that read it now and those that come back. */
class Chat {
  private readonly events: ReadEvent[] = [];
  private readonly readers = new Set<ServerResponse>();
  private abandon: NodeJS.Timeout | undefined;
  private isEnded = false;

  constructor(
    readonly turn: TurnStream,
    private readonly options: ChatOptions,
  ) {}

  async record(): Promise<void> {
    try {
      for await (const event of this.turn) {
        this.events.push(event);
        for (const reader of this.readers) send(reader, event);
      }
    } finally {
      this.isEnded = true;
      clearTimeout(this.abandon);
      for (const reader of this.readers) reader.end();
    }
  }

  /** Sends what comes after the event that the browser saw last. */
  read(response: ServerResponse, lastEventId: string | undefined): void {
    clearTimeout(this.abandon);
    const [attempt = 0, seq = -1] = lastEventId?.split("/").map(Number) ?? [];
    response.writeHead(200, { "content-type": "text/event-stream", "cache-control": "no-store", "x-accel-buffering": "no" });
    response.write("retry: 1000\n\n");
    for (const event of this.events) {
      if (event.attempt > attempt || (event.attempt === attempt && event.seq > seq)) send(response, event);
    }
    if (this.isEnded) {
      response.end();
      return;
    }
    this.readers.add(response);
    response.on("close", () => {
      this.readers.delete(response);
      if (this.readers.size === 0) this.expectReader();
    });
  }

  /** Cancels the turn unless a browser reads it in time. */
  expectReader(): void {
    if (this.isEnded) return;
    this.abandon = setTimeout(() => void this.turn.cancel(), this.options.abandonAfterMs ?? 30_000);
  }
}

function send(response: ServerResponse, event: ReadEvent): void {
  // A browser that is too slow to take them reconnects later, and goes on where it was.
  if (response.writableLength > MAX_BEHIND_BYTES) response.destroy();
  // A restart has the place of the event that follows it, so the id belongs to that one.
  const id = event.type === "restarted" ? "" : `id: ${event.attempt}/${event.seq}\n`;
  response.write(`${id}data: ${JSON.stringify(event)}\n\n`);
}

export function chatServer(client: TurnClient, options: ChatOptions): Server {
  const chats = new Map<string, Chat>();

  async function start(request: IncomingMessage, response: ServerResponse): Promise<void> {
    // A page of another site can't send this type without being asked for permission first, which is never given here.
    if (request.headers["content-type"] !== "application/json") return answer(response, 415, { error: "expected JSON" });
    const body = await bodyOf(request);
    const prompt = body === undefined ? undefined : promptOf(body);
    if (prompt === undefined) return answer(response, 400, { error: 'expected {"prompt": "…"} of at most 64 KiB' });
    const turn = client.stream(prompt, options.workspace);
    const chat = new Chat(turn, options);
    chats.set(turn.turnId, chat);
    chat
      .record()
      .catch((error) => console.error(`turn ${turn.turnId}: ${error.message}`))
      .finally(() => setTimeout(() => chats.delete(turn.turnId), options.keepMs ?? 600_000).unref());
    await turn.accepted;
    // Before, no browser can read it, however long the broker takes.
    chat.expectReader();
    answer(response, 201, { turn_id: turn.turnId });
  }

  async function route(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const path = new URL(request.url ?? "/", "http://localhost").pathname;
    const [, turns, id, events] = path.split("/");
    if (request.method === "GET" && path === "/") {
      const policy = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; connect-src 'self'";
      response.writeHead(200, { "content-type": "text/html; charset=utf-8", "content-security-policy": policy }).end(PAGE);
      return;
    }
    if (request.method === "POST" && path === "/turns") return start(request, response);
    const chat = turns === "turns" && id !== undefined ? chats.get(id) : undefined;
    // Unlike any other status, 204 stops a browser from connecting again.
    if (request.method === "GET" && events === "events" && chat === undefined) return void response.writeHead(204).end();
    if (chat === undefined) return answer(response, 404, { error: "no such turn" });
    if (request.method === "GET" && events === "events") {
      return chat.read(response, request.headers["last-event-id"] as string | undefined);
    }
    if (request.method !== "DELETE" || events !== undefined) return answer(response, 405, { error: "no such method" });
    await chat.turn.cancel();
    answer(response, 202, {});
  }

  return createServer((request, response) => {
    route(request, response).catch((error) => {
      const isOurs = error instanceof TurnClientError;
      if (!isOurs) console.error(error);
      if (!response.headersSent) answer(response, isOurs ? 503 : 500, { error: isOurs ? error.message : "internal error" });
    });
  });
}

function answer(response: ServerResponse, status: number, body: object): void {
  response.writeHead(status, { "content-type": "application/json" }).end(JSON.stringify(body));
}

/** Returns `undefined` if it is too large. */
async function bodyOf(request: IncomingMessage): Promise<string | undefined> {
  const chunks: Buffer[] = [];
  let bytes = 0;
  for await (const chunk of request) {
    bytes += chunk.length;
    if (bytes <= MAX_BODY_BYTES) chunks.push(chunk);
  }
  return bytes > MAX_BODY_BYTES ? undefined : Buffer.concat(chunks).toString();
}

function promptOf(body: string): string | undefined {
  try {
    const { prompt } = JSON.parse(body);
    return typeof prompt === "string" && prompt.trim() !== "" ? prompt : undefined;
  } catch {
    return undefined;
  }
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const port = Number(process.argv[2] ?? 8080);
  const client = await TurnClient.connect(process.env.AMQP_URL ?? "", { onStatus: console.error });
  const server = chatServer(client, { workspace: process.env.WORKSPACE ?? "chat/demo" });
  server.listen(port, "127.0.0.1", () => console.log(`http://127.0.0.1:${port}`));
}
