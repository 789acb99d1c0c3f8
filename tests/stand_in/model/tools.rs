//! The tools that a request offers, and how a model calls one of them. Pure.
//!
//! Which tools there are, and under which names, depends on the model that
//! codex asks for: some are called directly, some only from JavaScript ("code
//! mode"), and a tool that is not offered must not be called.

use serde_json::{Value, json};

/// How long a call waits for a sub-agent, in milliseconds; codex accepts up to an hour.
const LONGEST_AGENT_WAIT: u64 = 600_000;

/// As long as codex lets a call wait for a command, in milliseconds.
pub const LONGEST_WAIT: u64 = 30_000;

/// Starts as every refusal does, so that a test can look for it.
pub const NOT_OFFERED: &str = "stand-in-model: not offered";

const SPAWN: &str = "spawn_agent";

#[derive(Debug, Default, Clone, PartialEq)]
pub struct Offered {
    /// Namespace, if it has one, and name.
    direct: Vec<(Option<String>, String)>,
    /// Those that code mode's JavaScript can call.
    nested: Vec<String>,
}

/// An item of a response that calls a tool, without its ids.
pub type Call = Value;

/// The tool that would have to be called is not offered.
#[derive(Debug, PartialEq)]
pub struct NotOffered(pub String);

impl Offered {
    pub fn read(request: &Value) -> Self {
        let mut offered = Self::default();
        offered.add(None, &request["tools"]);
        let input = request["input"].as_array().map_or(&[][..], Vec::as_slice);
        for item in input {
            if item["type"] == "additional_tools" {
                offered.add(None, &item["tools"]);
            }
            if item["role"] == "developer" {
                offered.withdraw(item["content"][0]["text"].as_str().unwrap_or_default());
            }
        }
        offered
    }

    fn add(&mut self, namespace: Option<&str>, tools: &Value) {
        for tool in tools.as_array().into_iter().flatten() {
            let name = tool["name"].as_str().unwrap_or_default();
            if tool["type"] == "namespace" {
                self.add(Some(name), &tool["tools"]);
                continue;
            }
            if name == "exec" {
                let description = tool["description"].as_str().unwrap_or_default();
                let headings = description.lines().filter_map(|line| {
                    let name = line.strip_prefix("### `")?.strip_suffix('`')?;
                    Some(name.to_owned())
                });
                self.nested.extend(headings);
            }
            let namespace = namespace.map(str::to_owned);
            self.direct.push((namespace, name.to_owned()));
        }
    }

    fn withdraw(&mut self, text: &str) {
        if !text.starts_with("The following tools are no longer available") {
            return;
        }
        for line in text.lines().filter_map(|line| line.strip_prefix("- ")) {
            self.direct.retain(|(namespace, name)| {
                let full = namespace.as_ref().map(|of| format!("{of}.{name}"));
                full.as_deref().unwrap_or(name) != line
            });
        }
    }

    pub fn names(&self) -> String {
        let direct = self.direct.iter().map(|(namespace, name)| match namespace {
            Some(namespace) => format!("{namespace}.{name}"),
            None => name.clone(),
        });
        let nested = self.nested.iter().map(|name| format!("tools.{name}"));
        direct.chain(nested).collect::<Vec<_>>().join(", ")
    }

    fn direct(&self, name: &str) -> Option<Option<&str>> {
        let found = self.direct.iter().find(|(_, of)| of == name);
        found.map(|(namespace, _)| namespace.as_deref())
    }

    fn is_nested(&self, name: &str) -> bool {
        self.direct("exec").is_some() && self.nested.iter().any(|of| of == name)
    }

    /// A call of a tool that takes an object; in code mode its result is the
    /// script's output.
    pub fn call(&self, name: &str, arguments: Value) -> Result<Call, NotOffered> {
        if let Some(namespace) = self.direct(name) {
            return Ok(of_namespace(
                json!({"type": "function_call", "name": name, "arguments": arguments.to_string()}),
                namespace,
            ));
        }
        self.nested(name, &format!("text(await tools.{name}({arguments}));"))
    }

    /// A call of a tool that takes a text.
    pub fn call_with_text(&self, name: &str, text: &str) -> Result<Call, NotOffered> {
        if let Some(namespace) = self.direct(name) {
            return Ok(of_namespace(
                json!({"type": "custom_tool_call", "name": name, "input": text}),
                namespace,
            ));
        }
        self.nested(name, &format!("text(await tools.{name}({}));", json!(text)))
    }

    /// Shell commands at the same time, each of which is waited for so long;
    /// in code mode, where they are waited for at all, to their ends.
    pub fn run(&self, commands: &[&str], wait_ms: u64) -> Result<Vec<Call>, NotOffered> {
        const TOOL: &str = "exec_command";
        let arguments = |command: &str| json!({"cmd": command, "yield_time_ms": wait_ms});
        if self.direct(TOOL).is_some() {
            let calls = commands.iter();
            return calls
                .map(|command| self.call(TOOL, arguments(command)))
                .collect();
        }
        let poll = match wait_ms {
            LONGEST_WAIT => format!(
                "while (r.session_id !== undefined) {{ r = await tools.write_stdin({{session_id: r.session_id, \
                 chars: \"\", yield_time_ms: {wait_ms}}}); out += r.output; }} "
            ),
            _ => String::new(),
        };
        let all: Vec<Value> = commands.iter().map(|command| arguments(command)).collect();
        let script = format!(
            "const run = async (ask) => {{ let r = await tools.{TOOL}(ask); let out = r.output; {poll}return out; }};\n\
             const all = await Promise.all({}.map(run));\ntext(all.join(\"\"));",
            json!(all)
        );
        Ok(vec![self.nested(TOOL, &script)?])
    }

    /// The next output of a command that runs.
    pub fn poll_session(&self, session: u64) -> Result<Call, NotOffered> {
        self.call(
            "write_stdin",
            json!({"session_id": session, "chars": "", "yield_time_ms": LONGEST_WAIT}),
        )
    }

    /// The next output of a script that runs.
    pub fn poll_cell(&self, cell: &str) -> Result<Call, NotOffered> {
        self.call(
            "wait",
            json!({"cell_id": cell, "yield_time_ms": LONGEST_WAIT}),
        )
    }

    /// A sub-agent; only the newer protocol has it named.
    pub fn spawn(&self, name: &str, task: &str) -> Result<Call, NotOffered> {
        let mut arguments = json!({"message": task});
        if self.direct(SPAWN) == Some(Some("collaboration")) {
            arguments["task_name"] = json!(name);
        }
        self.call(SPAWN, arguments)
    }

    /// Until one of the agents reports; the older protocol wants their ids.
    pub fn await_agents(&self, ids: &[String]) -> Result<Call, NotOffered> {
        let mut arguments = match self.direct(SPAWN) {
            Some(Some("collaboration")) => json!({}),
            _ => json!({"targets": ids}),
        };
        // By default codex stops waiting after 30 s, which a busy machine exceeds.
        arguments["timeout_ms"] = json!(LONGEST_AGENT_WAIT);
        self.call("wait_agent", arguments)
    }

    /// The tool of an MCP server.
    pub fn mcp(&self, server: &str, tool: &str, arguments: Value) -> Result<Call, NotOffered> {
        let namespace = format!("mcp__{server}");
        let mut direct = self.direct.iter();
        if direct.any(|(of, name)| of.as_deref() == Some(&namespace) && name == tool) {
            return Ok(of_namespace(
                json!({"type": "function_call", "name": tool, "arguments": arguments.to_string()}),
                Some(&namespace),
            ));
        }
        // Code mode may leave such a tool out of its description: only the
        // script itself can find out.
        let name = format!("{namespace}__{tool}");
        self.javascript(&format!(
            "text(tools.{name} ? await tools.{name}({arguments}) : \"{NOT_OFFERED}: {name}\");"
        ))
    }

    /// A script for code mode.
    pub fn javascript(&self, code: &str) -> Result<Call, NotOffered> {
        const TOOL: &str = "exec";
        let namespace = self.direct(TOOL);
        let namespace = namespace.ok_or_else(|| NotOffered(TOOL.to_owned()))?;
        Ok(of_namespace(
            json!({"type": "custom_tool_call", "name": TOOL, "input": code}),
            namespace,
        ))
    }

    fn nested(&self, name: &str, code: &str) -> Result<Call, NotOffered> {
        match self.is_nested(name) {
            true => self.javascript(code),
            false => Err(NotOffered(name.to_owned())),
        }
    }
}

fn of_namespace(mut call: Call, namespace: Option<&str>) -> Call {
    if let Some(namespace) = namespace {
        call["namespace"] = json!(namespace);
    }
    call
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code_mode() -> Offered {
        let description = "Run JavaScript\n### `exec_command`\nRuns it.\n### `apply_patch`\nEdits.";
        let functions = json!({"type": "namespace", "name": "functions", "tools": [
            {"type": "custom", "name": "exec", "description": description},
            {"type": "function", "name": "ask"}]});
        let gone =
            "The following tools are no longer available. Do not call them:\n- functions.ask";
        Offered::read(&json!({"input": [
            {"type": "additional_tools", "tools": [functions]},
            {"type": "message", "role": "developer", "content": [{"type": "input_text", "text": gone}]}]}))
    }

    #[test]
    fn a_tool_is_called_as_it_is_offered() {
        let direct = Offered::read(&json!({"tools": [
            {"type": "function", "name": "exec_command"},
            {"type": "namespace", "name": "clock", "tools": [{"type": "function", "name": "sleep"}]}]}));
        let calls = direct.run(&["ls", "pwd"], 250).unwrap();
        assert_eq!(calls.len(), 2);
        assert_eq!(calls[0]["name"], "exec_command");
        assert!(calls[0].get("namespace").is_none());
        let sleep = direct.call("sleep", json!({})).unwrap();
        assert_eq!(sleep["namespace"], "clock");

        let calls = code_mode().run(&["ls", "pwd"], 250).unwrap();
        assert_eq!(calls.len(), 1);
        assert_eq!(
            [&calls[0]["namespace"], &calls[0]["name"]],
            ["functions", "exec"]
        );
        let patch = code_mode().call_with_text("apply_patch", "*** \"a\"\n");
        let code = r#"text(await tools.apply_patch("*** \"a\"\n"));"#;
        assert_eq!(patch.unwrap()["input"], code);
    }

    #[test]
    fn what_is_not_offered_is_not_called() {
        let refused = |name: &str| Err(NotOffered(name.to_owned()));
        assert_eq!(
            code_mode().call("create_goal", json!({})),
            refused("create_goal")
        );
        assert_eq!(code_mode().call("ask", json!({})), refused("ask"));
        assert_eq!(Offered::default().javascript("1"), refused("exec"));
        assert_eq!(
            code_mode().names(),
            "functions.exec, tools.exec_command, tools.apply_patch"
        );
    }
}
