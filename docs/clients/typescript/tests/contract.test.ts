// The library against the contract's files, in the folder that the variable CONTRACT names. Needs no broker.
import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { test } from "node:test";
import {
  answerOf,
  encodeRequest,
  MAX_BODY_BYTES,
  parseEvent,
  parsePosition,
  REQUEST_FIELDS,
  TurnFailed,
  TurnReader,
} from "codex-turn-client";

const CONTRACT = process.env.CONTRACT ?? "../../contract";
const EXAMPLES = `${CONTRACT}/examples/v1`;

function files(folder: string, suffix: string): string[] {
  return readdirSync(`${EXAMPLES}/${folder}`)
    .filter((name) => name.endsWith(suffix))
    .map((name) => `${EXAMPLES}/${folder}/${name}`);
}

function readJson(path: string) {
  return JSON.parse(readFileSync(path, "utf8"));
}

test("options are the optional fields of a request", () => {
  const fields = Object.keys(readJson(`${CONTRACT}/request.schema.json`).properties);
  const optional = fields.filter((name) => name !== "workspace" && name !== "messages");
  assert.deepEqual(new Set<string>(REQUEST_FIELDS), new Set(optional));
});

test("every example of an event is decoded", () => {
  for (const path of files("events", ".json")) {
    const event = parseEvent(readFileSync(path));
    assert.equal(event?.type, readJson(path).type, path);
  }
});

test("every example of a position is decoded", () => {
  for (const path of files("descriptions", ".json")) {
    assert.deepEqual(parsePosition(readFileSync(path)), readJson(path), path);
  }
});

test("an end that is described is an answer", () => {
  const ended = (name: string) => {
    const [path] = files("descriptions", `${name}.json`);
    const position = parsePosition(readFileSync(path ?? ""));
    assert.ok(position?.state === "ended");
    return answerOf(position);
  };
  assert.equal(ended("ended").text, "Fixed.");
  assert.throws(() => ended("ended-with-an-error"), { code: "turn.failed", reason: "rate_limited", retryable: true });
});

test("what is no position is undefined, and what is newer is kept", () => {
  for (const body of ["{}", "[]", "null", "\xff", '{"turn_id":"t","workspace":"a","state":"running"}']) {
    assert.equal(parsePosition(body), undefined);
  }
  const newer = parsePosition('{"turn_id":"t","workspace":"a","state":"parked","where":"x"}');
  assert.ok(newer?.state === "other");
  assert.equal(newer.position.where, "x");
});

test("turns are read as they are to be read", () => {
  for (const path of files("turns", ".jsonl")) {
    assert.deepEqual(asRead(readFileSync(path, "utf8")), readJson(path.replace(/jsonl$/, "read.json")), path);
  }
});

test("what is no event is undefined, and what is newer is kept", () => {
  for (const body of ["{}", "[]", "null", "\xff", '{"turn_id":"t"}', '{"turn_id":"t","attempt":"1","seq":0,"type":"plan"}']) {
    assert.equal(parseEvent(body), undefined);
  }
  const newer = parseEvent('{"turn_id":"t","attempt":1,"seq":2,"type":"text_delta","pieces":["a"]}');
  assert.ok(newer?.type === "unknown");
  assert.deepEqual(newer.event.pieces, ["a"]);
});

test("a path names the workspace that it ends with", () => {
  const reader = new TurnReader("t", "/srv/workspaces/./acme/website/");
  const taken = (workspace: string) => {
    const event = parseEvent(JSON.stringify({ turn_id: "t", workspace, attempt: 1, seq: 0, type: "message_start" }));
    return event !== undefined && reader.take(event) !== undefined;
  };
  assert.deepEqual([taken("mallorys"), taken("acme/website"), taken("website")], [false, true, false]);
});

test("a request has what was given", () => {
  const request = encodeRequest("Grüße \\ud800", "acme/website", { turn_id: "t-1", timeout_s: 60, metadata: { a: null } });
  assert.deepEqual(JSON.parse(request.body.toString()), {
    turn_id: "t-1",
    workspace: "acme/website",
    messages: [{ role: "user", content: "Grüße \\ud800" }],
    timeout_s: 60,
    metadata: { a: null },
  });
  assert.notEqual(encodeRequest("a", "w", {}).turnId, encodeRequest("a", "w", {}).turnId);
});

test("what no worker can read is refused at once", () => {
  for (const prompt of ["\ud83d", "\\\ud83d", "a".repeat(MAX_BODY_BYTES)]) {
    assert.throws(() => encodeRequest(prompt, "w", {}), RangeError);
  }
});

function asRead(lines: string): object {
  const reader = new TurnReader("t-01", "acme/website");
  const taken: number[] = [];
  const restarts: number[] = [];
  for (const [number, line] of lines.trimEnd().split("\n").entries()) {
    const event = parseEvent(line);
    const how = event && reader.take(event);
    if (how) taken.push(number);
    if (how?.restarted) restarts.push(number);
  }
  const { end } = reader;
  assert.ok(end);
  const texts = [...reader.texts].map(([item_id, text]) => ({ item_id, text }));
  const { stop_reason, text = null, usage = null } = end;
  return { taken, restarts, texts, error: errorOf(reader), stop_reason, text, usage };
}

/** As it is thrown, where there is one. */
function errorOf(reader: TurnReader): object | null {
  try {
    if (reader.end) reader.answer(reader.end);
  } catch (error) {
    assert.ok(error instanceof TurnFailed);
    const { code, message, reason, retryable } = error;
    if (reader.error) return { code, message, reason, retryable };
  }
  return null;
}
