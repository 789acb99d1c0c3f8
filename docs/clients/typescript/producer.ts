// Sends prompts to a workspace, each a turn of the same conversation, and prints the answers as they come.
//
//     AMQP_URL=amqp://… node build/producer.js WORKSPACE PROMPT [PROMPT…]
//     AMQP_URL=amqp://… node build/producer.js --tail TURN_ID [WORKSPACE]
//
// The second form comes late: it prints a turn from the event log, if the operator keeps one, and follows it to its end.
//
// Ctrl-C cancels the turn; a second one leaves at once.  Exit status: 0 if every turn came to its end, 124 if one ran
// out of time, 130 if it was cancelled, 2 for wrong arguments, 1 for everything else.
import { type ReadEvent, TurnClient, TurnClientError } from "codex-turn-client";

const EXIT_STATUS: Record<string, number> = { end_turn: 0, timeout: 124, cancelled: 130 };

function say(text: string): void {
  process.stderr.write(`${text}\n`);
}

/** Prints what the agent says, each message on lines of its own. */
class Printer {
  private itemId = "";
  private text = ""; // of the message that came last
  private lineIsOpen = false;

  print(event: ReadEvent): void {
    switch (event.type) {
      case "restarted":
        this.beginMessage("");
        say(`attempt ${event.attempt}: it starts again, forget the text so far`);
        break;
      case "text_delta":
        if (event.item_id !== this.itemId) this.beginMessage(event.item_id);
        this.show(event.text);
        break;
      case "error":
        this.endLine();
        say(`${event.error.code}: ${event.error.message}`);
        break;
      case "message_end":
        if (event.text !== undefined && event.text !== this.text) {
          this.beginMessage(""); // pieces of it were missed
          this.show(event.text);
        }
        this.endLine();
        say(`${event.stop_reason}, tokens: ${JSON.stringify(event.usage ?? null)}`);
        break;
      default: // not shown here
    }
  }

  private beginMessage(itemId: string): void {
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

/** Returns the stop reason. */
async function show(turn: AsyncIterable<ReadEvent>): Promise<string> {
  const printer = new Printer();
  let stopReason = "";
  for await (const event of turn) {
    printer.print(event);
    if (event.type === "message_end") stopReason = event.stop_reason;
  }
  return stopReason;
}

async function run(client: TurnClient, workspace: string, prompts: string[]): Promise<string> {
  let stopReason = "";
  for (const prompt of prompts) {
    const turn = client.stream(prompt, workspace);
    say(`turn ${turn.turnId}`);
    const interrupt = () => void turn.cancel(); // once: the next one ends the program
    process.once("SIGINT", interrupt);
    stopReason = await show(turn);
    process.off("SIGINT", interrupt);
    if (stopReason !== "end_turn") break;
  }
  return stopReason;
}

async function main(): Promise<number> {
  const [workspace, ...prompts] = process.argv.slice(2);
  if (workspace === undefined || prompts[0] === undefined) {
    say("usage: producer.js WORKSPACE PROMPT [PROMPT…]\n       producer.js --tail TURN_ID [WORKSPACE]");
    return 2;
  }
  const url = process.env.AMQP_URL ?? "amqp://guest:guest@127.0.0.1:5672/%2f";
  try {
    const client = await TurnClient.connect(url, { onStatus: say });
    try {
      const [turnId, of] = prompts;
      const options = of === undefined ? {} : { workspace: of };
      const stopReason =
        workspace === "--tail" ? await show(client.tail(turnId, options)) : await run(client, workspace, prompts);
      return EXIT_STATUS[stopReason] ?? 1;
    } finally {
      await client.close();
    }
  } catch (error) {
    if (!(error instanceof TurnClientError)) throw error;
    say(`can't go on: ${error.message}`);
    return 1;
  }
}

process.exit(await main());
