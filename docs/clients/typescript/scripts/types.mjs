// Writes the types of events to stdout, from the contract's schema: node scripts/types.mjs ../../contract/event.schema.json
import { readFileSync } from "node:fs";

const schema = JSON.parse(readFileSync(process.argv[2], "utf8"));
const isEvent = (definition) => definition.properties?.type?.const !== undefined;
const definitions = Object.entries(schema.$defs);
const events = schema.oneOf.map(({ $ref }) => $ref.split("/").at(-1));
const envelope = ["turn_id", "workspace", "attempt", "seq", "time"];

const pascal = (name) => name.replace(/(^|_)([a-z])/g, (_, __, letter) => letter.toUpperCase());
const typeName = (name) => (isEvent(schema.$defs[name]) ? `${pascal(schema.$defs[name].properties.type.const)}Event` : name);

function typeOf(property) {
  if (property.$ref !== undefined)
    return property.$ref.endsWith("/TurnId") ? "string" : typeName(property.$ref.split("/").at(-1));
  if (property.const !== undefined) return JSON.stringify(property.const);
  switch (property.type) {
    case "string":
      return "string";
    case "integer":
    case "number":
      return "number";
    case "boolean":
      return "boolean";
    case "array":
      return `${typeOf(property.items)}[]`;
    case "object":
      return "Record<string, unknown>";
    default:
      return "unknown";
  }
}

function comment(text, indent = "") {
  return text === undefined ? "" : `${indent}/** ${text.replace(/\n+/g, " ")} */\n`;
}

function fields(definition, without = []) {
  const names = Object.keys(definition.properties).filter((name) => !without.includes(name));
  return names
    .map((name) => {
      const property = definition.properties[name];
      const optional = definition.required.includes(name) ? "" : "?";
      return `${comment(property.description, "  ")}  ${name}${optional}: ${typeOf(property)};\n`;
    })
    .join("");
}

let text =
  "// The events of a turn. Made by scripts/types.mjs from docs/contract/event.schema.json: don't change it by hand.\n\n";
const one = schema.$defs[events[1]];
text += "/** What all events have. */\nexport interface EventEnvelope {\n";
text += fields({
  properties: Object.fromEntries(envelope.map((name) => [name, one.properties[name]])),
  required: one.required,
});
text += "}\n\n";
for (const [name, definition] of definitions) {
  if (name === "TurnId") continue;
  if (definition.oneOf !== undefined) {
    const values = definition.oneOf.map((value) => `  | ${JSON.stringify(value.const)} // ${value.description}\n`);
    text += `${comment(definition.description)}export type ${name} =\n${values.join("").trimEnd()}\n  | (string & {}); // of a newer worker\n\n`;
    continue;
  }
  const extend = isEvent(definition) ? " extends EventEnvelope" : "";
  text += `${comment(definition.description)}export interface ${typeName(name)}${extend} {\n`;
  text += `${fields(definition, isEvent(definition) ? envelope : [])}}\n\n`;
}
text += `/** An event of a known type; a newer worker may publish others. */\nexport type TurnEvent =\n${events
  .map((name) => `  | ${typeName(name)}`)
  .join("\n")};\n\n/** The fields that an event of each type always has, besides those of all events. */\n`;
text += "export const REQUIRED_FIELDS: Readonly<Record<string, readonly string[]>> = {\n";
for (const name of events) {
  const required = schema.$defs[name].required.filter((field) => field !== "type" && !envelope.includes(field));
  text += `  ${schema.$defs[name].properties.type.const}: ${JSON.stringify(required).replaceAll(",", ", ")},\n`;
}
process.stdout.write(`${text}};\n`);
