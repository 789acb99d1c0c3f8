// Judges docs/contract/ from the outside: AsyncAPI's own parser reads the AsyncAPI document, and ajv holds every example
// against the schemas, as a producer's program would.  Run by ops/test.
//
//   node ops/schema/judge.mjs FOLDER    FOLDER: where ops/setup has installed both
import { readFileSync, readdirSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const require = createRequire(join(process.argv[2], "package.json"));
const { Parser } = require("@asyncapi/parser");
const { default: Ajv } = require("ajv/dist/2020");
const { default: addFormats } = require("ajv-formats");

const contract = join(dirname(fileURLToPath(import.meta.url)), "../../docs/contract");
const read = (...path) => readFileSync(join(contract, ...path), "utf8");
const wrong = [];
let judged = 0;

function judge(what, isRight, why) {
  judged += 1;
  if (!isRight) wrong.push(`${what}: ${typeof why === "string" ? why : JSON.stringify(why)}`);
}

// What was written by hand; what stands beside it, made from it, has two endings.
function examples(folder) {
  return readdirSync(join(contract, "examples", folder))
    .filter((file) => /^[^.]+\.(json|jsonl)$/.test(file))
    .map((file) => [`${folder}/${file}`, read("examples", folder, file)]);
}

const { document, diagnostics } = await new Parser().parse(read("asyncapi.json"));
// Errors and warnings; the rest is advice, such as to name a server.
const serious = diagnostics.filter(({ severity }) => severity <= 1);
judge("asyncapi.json", document !== undefined && serious.length === 0, serious);

const ajv = addFormats(new Ajv({ allErrors: true, allowUnionTypes: true, strictTypes: false, strictRequired: false }));
const validator = (name) => ajv.compile(JSON.parse(read(`${name}.schema.json`)));
const [request, event, control, description] = ["request", "event", "control", "description"].map(validator);

function takes(schema, folder) {
  for (const [name, text] of examples(folder)) judge(name, schema(JSON.parse(text)), schema.errors);
}
takes(request, "v1/requests");
takes(control, "v1/control");
takes(description, "v1/descriptions");
takes(event, "v1/events");
takes(request, "rejected/by-worker");

for (const [name, text] of examples("rejected/by-schema")) {
  judge(name, !request(JSON.parse(text)), "the schema takes it");
}
const known = new Set(JSON.parse(read("event.schema.json")).oneOf.map(({ $ref }) => $ref.split("/").pop()));
for (const [name, text] of examples("v1/turns")) {
  for (const line of text.split("\n").filter(Boolean)) {
    const value = JSON.parse(line);
    // As any reader does.
    if (known.has(value.type)) judge(name, event(value), event.errors);
  }
}
// The document's schemas are the schemas, at another place.
for (const message of document?.allMessages() ?? []) {
  const [, text] = examples("v1/events").find(([, text]) => JSON.parse(text).type === message.id()) ?? [];
  if (text !== undefined) {
    const payload = new Ajv({ strict: false, validateFormats: false }).compile(message.payload().json());
    judge(`asyncapi.json, ${message.id()}`, payload(JSON.parse(text)), payload.errors);
  }
}

for (const line of wrong) console.error(`✗ ${line}`);
console.log(`${judged} judged, ${wrong.length} wrong`);
process.exitCode = wrong.length === 0 ? 0 : 1;
