// Uses the library as services do, for tests/it/clients, which have a worker answer and look at what is printed.
//
//     AMQP_URL=amqp://… node build/tests/probe.js scripted     with a worker that repeats each prompt
//     AMQP_URL=amqp://… node build/tests/probe.js pool         with a real one
//     AMQP_URL=amqp://… node build/tests/probe.js restart      the same turn in each process
//     AMQP_URL=amqp://… node build/tests/probe.js asking       with a real one, which it asks where its turns are
import { answerOf, NoAnswer, type ReadEvent, TurnClient, TurnFailed, TurnRejected } from "codex-turn-client";

const URL = process.env.AMQP_URL ?? "";

async function typesOf(turn: AsyncIterable<ReadEvent>): Promise<string[]> {
  const types: string[] = [];
  for await (const event of turn) types.push(event.type);
  return types;
}

async function scripted(): Promise<void> {
  const client = await TurnClient.connect(URL);
  const all = Array.from({ length: 500 }, (_, n) => client.run(`turn ${n}`, `w${n}`));
  const answers = await Promise.all(all);
  console.log("many", answers.filter((answer, n) => answer.text === `turn ${n}`).length);
  try {
    await client.run("fail", "a");
  } catch (error) {
    if (error instanceof TurnFailed) console.log("failed", error.code, error.reason, error.retryable);
  }
  await client.close();

  const small = await TurnClient.connect(URL, { bufferLimit: 10 });
  const slow = small.stream("flood 50", "a");
  const answer = await slow.answer();
  const other = await small.run("other", "b");
  const kept = await typesOf(slow);
  console.log("slow", answer.text.length, kept.length, kept.at(-1), slow.missed, other.text);
  await small.close();
}

async function pool(): Promise<void> {
  const client = await TurnClient.connect(URL);
  try {
    await client.run("say no", "../a");
  } catch (error) {
    if (error instanceof TurnRejected) console.log("rejected", error.code, error.retryable);
  }
  const turn = client.stream("t1\nsay hi", "a");
  console.log("stream", ...(await typesOf(turn)));
  const again = await client.run("t1\nsay hi", "a", { turn_id: turn.turnId });
  console.log("again", again.text, again.turnId === turn.turnId);
  const left = client.stream("t2\nsay left\nwait never", "a");
  for await (const event of left) if (event.type === "text_delta") break;
  console.log("left", left.turnId);
  const abandon = new AbortController();
  const waiting = client.run("t3\nsay no\nwait never", "b", { turn_id: "abandoned", signal: abandon.signal });
  const outcome = waiting.catch((error: Error) => error.name);
  // Another turn, of another workspace, has ended: then the one before has been sent.
  await client.run("t4\nsay yes", "c");
  abandon.abort();
  console.log("abandoned", await outcome);
  await client.close();
}

async function restart(): Promise<void> {
  const client = await TurnClient.connect(URL, { queue: "guest.restart" });
  const turn = client.stream("t1\nsay before\nwait go\nsay after", "a", { turn_id: "restart" });
  for await (const event of turn) if (event.type === "text_delta") console.log(event.text);
  console.log("answer", (await turn.answer()).text);
  await client.close();
}

async function asking(): Promise<void> {
  const client = await TurnClient.connect(URL);
  const answer = await client.run("t1\nsay hi", "a", { byReply: true });
  const again = await client.run("t1\nsay hi", "a", { byReply: true, turn_id: answer.turnId });
  console.log("reply", answer.text, again.text);
  for (const [prompt, workspace] of [
    ["say no", "../a"],
    ["t2\nfail no luck", "a"],
  ] as const) {
    try {
      await client.run(prompt, workspace, { byReply: true });
    } catch (error) {
      if (error instanceof TurnFailed) console.log(error.name, error.code, error.reason, error.retryable);
    }
  }
  const turn = client.stream("t3\nsay on\nwait never", "a");
  for await (const event of turn) {
    if (event.type !== "text_delta") continue;
    const last = await client.submit("t4\nsay last", "a");
    for (const [id, workspace] of [
      [turn.turnId, "a"],
      [last, "a"],
      [turn.turnId, "b"],
    ] as const) {
      const position = await client.describe(id, workspace);
      if (position.state === "running") console.log("running", position.attempt);
      else if (position.state === "waiting") console.log("waiting", position.place);
      else console.log(position.state);
    }
    break;
  }
  const ended = await client.describe(answer.turnId, "a");
  if (ended.state === "ended") console.log("ended", answerOf(ended).text);
  try {
    await client.describe("never-sent", "a", { timeoutMs: 500 }); // that it is unknown takes longer
  } catch (error) {
    if (error instanceof NoAnswer) console.log("no answer");
  }
  await client.close();
}

const modes: Record<string, () => Promise<void>> = { scripted, pool, restart, asking };
await modes[process.argv[2] ?? ""]?.();
