// Generates types from docs/contract/ with the generators that producers use, compiles them, and puts every example
// through those of TypeScript; ops/types/round_trip.py does so with Python's.  Run by ops/contract --types.
//
//   node ops/types/generate.mjs FOLDER    FOLDER: where the generators are installed; the types go to FOLDER/made
import { execFileSync } from "node:child_process";
import { mkdirSync, readFileSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import { isDeepStrictEqual } from "node:util";

const tools = resolve(process.argv[2]);
const require = createRequire(join(tools, "package.json"));
const { compile } = require("json-schema-to-typescript");
const { default: Ajv } = require("ajv/dist/2020");
const { default: addFormats } = require("ajv-formats");
const { TypeScriptGenerator } = require("@asyncapi/modelina");

const contract = join(dirname(fileURLToPath(import.meta.url)), "../../docs/contract");
const made = join(tools, "made");
const bin = (name) => join(tools, "node_modules/.bin", name);
const read = (...path) => readFileSync(join(contract, ...path), "utf8");
const schema = (name) => JSON.parse(read(`${name}.schema.json`));

// The root type of each document, and the folder of its examples.
const DOCUMENTS = { "request-types": ["TurnRequest", "requests"], event: ["TurnEvent", "events"], control: ["Control", "control"], description: ["TurnDescription", "descriptions"] };
// They show what is ignored, and no type has that: `null`, blocks and roles of others, a trace that can't be used.
const IGNORED = new Set([
  "a-broken-trace-is-absent",
  "blocks-are-joined",
  "cancel-null-is-absent",
  "images-of-other-messages-are-ignored",
  "null-is-absent",
  "user-messages-without-text-are-skipped",
]);

const ajv = addFormats(new Ajv({ allowUnionTypes: true, strictTypes: false, strictRequired: false }));
let wrong = 0;
function fail(text) {
  wrong += 1;
  console.error(`✗ ${text}`);
}

const validators = Object.fromEntries(Object.keys(DOCUMENTS).map((name) => [name, ajv.compile(schema(name))]));

// Those that the types can hold, by the document; what of the others is not in IGNORED is at fault.
function examples(name, folder) {
  const isValid = validators[name];
  const files = readdirSync(join(contract, "examples/v1", folder)).filter((file) => /^[^.]+\.json$/.test(file));
  const all = files.map((file) => [file.replace(".json", ""), JSON.parse(read("examples/v1", folder, file))]);
  return all.filter(([example, value]) => {
    if (IGNORED.has(example)) return false;
    if (!isValid(value)) fail(`${name}: ${example} has no type: ${ajv.errorsText(isValid.errors)}`);
    return true;
  });
}

function run(what, program, args, options = {}) {
  try {
    execFileSync(program, args, { stdio: ["ignore", "pipe", "pipe"], ...options });
    console.log(`✓ ${what}`);
  } catch (error) {
    fail(`${what}: ${error.message}\n${error.stdout ?? ""}`);
  }
}

const tsc = (what, folder, ...files) =>
  run(what, bin("tsc"), ["--strict", "--skipLibCheck", "--target", "es2022", "--module", "es2022", "--outDir", "out", ...files], { cwd: folder });

function fresh(name) {
  const folder = join(made, name);
  mkdirSync(folder, { recursive: true });
  writeFileSync(join(folder, "package.json"), '{"type":"module"}\n');
  return folder;
}

// What a generator's types have to allow, and what they must not.
const USE = `
import type { TurnRequest } from "./request-types.js";
import type { TurnEvent } from "./event.js";
export const request: TurnRequest = {
  turn_id: "t-01", workspace: "acme/website", timeout_s: 60, on_busy: "reject", metadata: { ticket: "42", tries: [1] },
  output_schema: { type: "object" }, traceparent: "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
  messages: [
    { role: "assistant", content: "Done" },
    { role: "user", content: [{ type: "text", text: "Fix it" }, { type: "image", source: { type: "path", path: "a.png" } }] },
  ],
};
export function describe(event: TurnEvent): string {
  switch (event.type) {
    case "text_delta": return event.item_id + event.text;
    case "tool_use": return typeof event.input === "string" ? event.input : event.name;
    case "error": return event.error.code === "workspace.busy" ? "busy" : event.error.reason;
    case "message_end": return event.stop_reason + String(event.usage?.agents?.input_tokens ?? 0) + (event.structured === null);
    default: return event.type;
  }
}
const messages: TurnRequest["messages"] = [];
// @ts-expect-error
export const misspelled: TurnRequest = { turn_id: "t", workspace: "w", messages, timeout_sec: 60 };
// @ts-expect-error
export const unknown: TurnRequest = { turn_id: "t", workspace: "w", messages, on_busy: "wait" };
// @ts-expect-error
export const textless: TurnRequest = { turn_id: "t", workspace: "w", messages: [{ role: "user", content: [{ type: "text" }] }] };
// @ts-expect-error
export const empty: TurnRequest = { turn_id: "t", workspace: "w" };
`;

// As the literals that a program would have: what is misspelled or of another type does not compile.
function literals(type, module, examples) {
  // An unknown field is what only a value from elsewhere has.
  const lines = examples.map(([name, value]) =>
    name.includes("unknown-fields")
      ? `const u${identifier(name)} = ${JSON.stringify(value)};\nexport const ${identifier(name)}: ${type} = u${identifier(name)} as ${type};`
      : `export const ${identifier(name)}: ${type} = ${JSON.stringify(value)};`,
  );
  return `import type { ${type} } from "./${module}.js";\n${lines.join("\n")}\n`;
}
const identifier = (name) => `_${name.replace(/[^A-Za-z0-9]/g, "_")}`;

async function jsonSchemaToTypescript() {
  const folder = fresh("typescript");
  for (const [name, [type, examplesOf]] of Object.entries(DOCUMENTS)) {
    const text = await compile(schema(name), type, { additionalProperties: false, bannerComment: "" });
    writeFileSync(join(folder, `${name}.ts`), text);
    writeFileSync(join(folder, `${name}-examples.ts`), literals(type, name, examples(name, examplesOf)));
  }
  writeFileSync(join(folder, "use.ts"), USE);
  const files = Object.keys(DOCUMENTS).map((name) => `${name}-examples.ts`);
  tsc("json-schema-to-typescript: types, their use and all examples compile", folder, "use.ts", ...files);
  for (const [name, [, examplesOf]] of Object.entries(DOCUMENTS)) {
    const values = await import(pathToFileURL(join(folder, `out/${name}-examples.js`)));
    for (const [example, value] of examples(name, examplesOf)) {
      if (!isDeepStrictEqual(values[identifier(example)], value)) fail(`${name}: ${example} is not what it was`);
    }
  }
}

function quicktype() {
  const folder = fresh("quicktype");
  for (const [name, [type]] of Object.entries(DOCUMENTS)) {
    const module = name.replace("-", "_");
    for (const [language, file, ...options] of [
      ["typescript", `${module}.ts`],
      ["python", `${module}.py`, "--python-version", "3.7"],
      ["go", `go/${module}/types.go`, "--package", module],
      ["java", `java/${module}/${type}.java`, "--package", module],
    ]) {
      mkdirSync(dirname(join(folder, file)), { recursive: true });
      run(`quicktype: ${name} in ${language}`, bin("quicktype"), [
        "--src-lang", "schema", "--lang", language, "--top-level", type, ...options,
        "--out", join(folder, file), join(contract, `${name}.schema.json`),
      ]);
    }
  }
  compileGo(join(folder, "go"));
  tsc("quicktype: TypeScript compiles", folder, ...Object.keys(DOCUMENTS).map((name) => `${name.replace("-", "_")}.ts`));
}

function compileGo(folder) {
  try {
    execFileSync("go", ["version"], { stdio: "ignore" });
  } catch {
    console.log("NOT CHECKED: Go's types: there is no go");
    return;
  }
  writeFileSync(join(folder, "go.mod"), "module types\n");
  run("quicktype: Go compiles", "go", ["vet", "./..."], { cwd: folder, env: { ...process.env, GOFLAGS: "-mod=mod", GOCACHE: join(folder, "../cache") } });
}

async function modelina() {
  const folder = fresh("modelina");
  const generator = new TypeScriptGenerator({ modelType: "interface", mapType: "record", rawPropertyNames: true });
  const models = await generator.generate(JSON.parse(read("asyncapi.json")));
  // One after the other, as those of one program: they don't import each other.
  writeFileSync(join(folder, "models.ts"), models.map(({ result }) => `export ${result}\n`).join(""));
  tsc(`Modelina: ${models.length} models compile`, folder, "models.ts");
  const names = models.map(({ modelName }) => modelName);
  for (const name of ["TurnRequest", "UserMessage", "MessageEndEvent"]) if (!names.includes(name)) fail(`Modelina makes no ${name}`);
}

rmSync(made, { recursive: true, force: true });
for (const part of [jsonSchemaToTypescript, quicktype, modelina]) {
  try {
    await part();
  } catch (error) {
    fail(`${part.name}: ${error.stack}`);
  }
}
process.exitCode = wrong === 0 ? 0 : 1;
