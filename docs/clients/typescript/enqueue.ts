// Enqueues a turn and leaves.
import { TurnClient } from "codex-turn-client";

const client = await TurnClient.connect(process.env.AMQP_URL ?? "amqp://guest:guest@127.0.0.1:5672/%2f");
console.log(await client.submit("Fix the failing test", "acme/website"));
await client.close();
