// Asks and prints the answer.
import { TurnClient } from "codex-turn-client";

const client = await TurnClient.connect(process.env.AMQP_URL ?? "");
const answer = await client.run("Fix the failing test", "acme/website");
console.log(answer.text);
await client.close();
