// Uses the chat page as browsers do, for tests/it/clients, which have a worker answer and look at what is printed.
//
//     AMQP_URL=amqp://… node build/tests/chat.js http      over HTTP
//     AMQP_URL=amqp://… node build/tests/chat.js browser   in Chromium, through chromedriver; SCREENSHOT=FILE keeps a picture
import { spawn } from "node:child_process";
import { writeFileSync } from "node:fs";
import type { AddressInfo } from "node:net";
import { createInterface } from "node:readline";
import { setTimeout as sleep } from "node:timers/promises";
import { TurnClient } from "codex-turn-client";
import { type ChatOptions, chatServer } from "../chat.js";

interface Message {
  id: string;
  event: { type: string; text?: string; stop_reason?: string };
}

/** Reads server-sent events until one is wanted, and then hangs up. */
async function read(url: string, lastEventId: string, isWanted: (message: Message) => boolean): Promise<Message[]> {
  const headers = lastEventId === "" ? {} : { "last-event-id": lastEventId };
  const response = await fetch(url, { headers });
  const messages: Message[] = [];
  let rest = "";
  for await (const chunk of response.body ?? []) {
    const blocks = (rest + Buffer.from(chunk).toString()).split("\n\n");
    rest = blocks.pop() ?? "";
    for (const block of blocks) {
      const data = block.match(/^data: (.*)$/m)?.[1];
      if (data === undefined) continue;
      messages.push({ id: block.match(/^id: (.*)$/m)?.[1] ?? "", event: JSON.parse(data) });
      if (isWanted(messages.at(-1) as Message)) return messages; // which hangs up
    }
  }
  return messages;
}

async function send(url: string, prompt: string): Promise<string> {
  const headers = { "content-type": "application/json" };
  const response = await fetch(`${url}/turns`, { method: "POST", headers, body: JSON.stringify({ prompt }) });
  return ((await response.json()) as { turn_id: string }).turn_id;
}

const isEnd = ({ event }: Message) => event.type === "message_end";
const typesOf = (messages: Message[]) => messages.map(({ event }) => event.type).join(" ");

// Long, since a turn must not be cancelled only because the machine is slow.
const options: ChatOptions = { workspace: "chat/demo", abandonAfterMs: 600_000 };

async function http(url: string): Promise<void> {
  const events = (id: string) => `${url}/turns/${id}/events`;
  const first = await send(url, "t1\nsay before\nwait go\nsay after");
  const seen = await read(events(first), "", ({ event }) => event.type === "text_delta");
  console.log("seen", typesOf(seen));
  const rest = await read(events(first), seen.at(-1)?.id ?? "", isEnd);
  console.log("resumed", typesOf(rest), rest.at(-1)?.event.stop_reason);
  console.log("again", typesOf(await read(events(first), "", isEnd)));
  const stopped = await send(url, "t2\nsay hi\nwait never");
  await read(events(stopped), "", ({ event }) => event.type === "text_delta");
  await fetch(`${url}/turns/${stopped}`, { method: "DELETE" });
  console.log("stopped", (await read(events(stopped), "", isEnd)).at(-1)?.event.stop_reason);
  const left = await send(url, "t3\nsay hi\nwait never");
  const leaves = ({ event }: Message) => {
    if (event.type !== "text_delta") return false;
    options.abandonAfterMs = 0; // from when it has hung up
    return true;
  };
  console.log("left", typesOf(await read(events(left), "", leaves)));
  const form = await fetch(`${url}/turns`, { method: "POST", body: '{"prompt":"say forged"}' });
  console.log("refused", form.status, (await fetch(events("unknown"))).status, (await fetch(`${url}/turns/unknown`)).status);
}

/** A browser, through the WebDriver protocol. */
class Browser {
  private constructor(
    private readonly session: string,
    private readonly end: () => void,
  ) {}

  static async open(): Promise<Browser> {
    // Ends with this process, however that ends.
    const command = ["--pdeathsig", "KILL", "chromedriver", "--port=0"];
    const driver = spawn("setpriv", command, { stdio: ["ignore", "pipe", "inherit"] });
    let port = "";
    for await (const line of createInterface(driver.stdout)) {
      port = line.match(/on port (\d+)\.$/)?.[1] ?? "";
      if (port !== "") break;
    }
    const args = [
      "--headless",
      "--no-sandbox",
      "--disable-gpu",
      "--disable-background-networking",
      "--disable-component-update",
      "--remote-debugging-pipe", // so that it ends with the driver
      "--window-size=800,700",
    ];
    const url = `http://127.0.0.1:${port}/session`;
    const capabilities = { alwaysMatch: { "goog:chromeOptions": { args } } };
    const { sessionId } = (await call(url, "POST", { capabilities })) as { sessionId: string };
    return new Browser(`${url}/${sessionId}`, () => driver.kill());
  }

  go(url: string): Promise<unknown> {
    return call(`${this.session}/url`, "POST", { url });
  }

  /** Returns what the script returns. */
  run(script: string): Promise<unknown> {
    return call(`${this.session}/execute/sync`, "POST", { script, args: [] });
  }

  async element(selector: string): Promise<string> {
    const found = await call(`${this.session}/element`, "POST", { using: "css selector", value: selector });
    return `${this.session}/element/${Object.values(found as object)[0]}`;
  }

  async type(selector: string, text: string): Promise<void> {
    await call(`${await this.element(selector)}/value`, "POST", { text });
  }

  async click(selector: string): Promise<void> {
    await call(`${await this.element(selector)}/click`, "POST", {});
  }

  async shows(selector: string, text: string): Promise<void> {
    for (;;) {
      const all = await this.run(
        `return [...document.querySelectorAll(${JSON.stringify(selector)})].map((e) => e.textContent)`,
      );
      if ((all as string[]).some((each) => each.includes(text))) return;
      await sleep(50);
    }
  }

  async screenshot(): Promise<Buffer> {
    return Buffer.from((await call(`${this.session}/screenshot`, "GET")) as string, "base64");
  }

  async close(): Promise<void> {
    await call(this.session, "DELETE");
    this.end();
  }
}

async function call(url: string, method: string, body?: object): Promise<unknown> {
  const response = await fetch(url, { method, ...(body !== undefined && { body: JSON.stringify(body) }) });
  const { value } = (await response.json()) as { value: unknown };
  if (!response.ok) throw new Error(`${method} ${url}: ${JSON.stringify(value)}`);
  return value;
}

async function browser(url: string): Promise<void> {
  const page = await Browser.open();
  try {
    await page.go(url);
    // Shift+Enter is a new line, Enter sends.
    await page.type("#prompt", "t1\uE008\uE007\uE000say before\uE008\uE007\uE000wait go\uE008\uE007\uE000say after");
    await page.click("#send");
    await page.shows(".answer .text", "before");
    console.log("grows");
    await page.shows(".answer .text", "after");
    await page.shows(".answer .status", "end_turn");
    await page.type("#prompt", "t2\uE008\uE007\uE000say hi\uE008\uE007\uE000wait never\uE007");
    await page.shows(".answer:last-of-type .text", "hi");
    await page.click("#stop");
    await page.shows(".answer:last-of-type .status", "cancelled");
    console.log(
      "answers",
      await page.run("return [...document.querySelectorAll('.answer')].map((e) => e.innerText).join('|')"),
    );
    if (process.env.SCREENSHOT !== undefined) writeFileSync(process.env.SCREENSHOT, await page.screenshot());
  } finally {
    await page.close();
  }
}

const client = await TurnClient.connect(process.env.AMQP_URL ?? "");
const server = chatServer(client, options);
server.listen(0, "127.0.0.1", async () => {
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  await (process.argv[2] === "browser" ? browser(url) : http(url));
  if (process.argv[2] === "browser") process.exit(0);
  // Until the test has seen that the turn is cancelled that was left.
});
