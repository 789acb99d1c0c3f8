// Enqueues a turn and leaves.
import { randomUUID } from "node:crypto";
import amqp from "amqplib";

const connection = await amqp.connect(process.env.AMQP_URL ?? "amqp://guest:guest@127.0.0.1:5672/%2f");
const channel = await connection.createConfirmChannel();
let returned = false;
channel.on("return", () => { returned = true; });

const request = {
  turn_id: randomUUID(),
  workspace: "acme/website",
  messages: [{ role: "user", content: "Fix the failing test" }],
};
const options = { mandatory: true, persistent: true, contentType: "application/json", messageId: request.turn_id };
channel.publish("codex.requests", "turn", Buffer.from(JSON.stringify(request)), options);
await channel.waitForConfirms(); // throws when the broker does not take it
if (returned) throw new Error("nobody takes turns here");
console.log(request.turn_id);
await connection.close();
