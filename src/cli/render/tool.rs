//! Tool calls in a line each, and what came of them in a few.

use serde_json::Value;

use super::clean::{clean, fit, one_line};

/// Lines of a tool's output that are shown, the last ones: they show what
/// came out.
const OUTPUT_LINES: usize = 5;

/// A call before it is done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Call {
    /// What kind of call it is: `$` for a command.
    pub sign: String,
    pub what: String,
}

impl Call {
    /// `workspace`: its directory is left out of paths.
    pub(super) fn of(name: &str, input: &Value, workspace: &str) -> Self {
        let text = |field: &str| input[field].as_str().unwrap_or_default();
        let (sign, what) = match name {
            "command_execution" => ("$", unwrapped(text("command"))),
            "file_change" => ("edit", changes(&input["changes"], workspace)),
            "mcp_tool_call" => {
                let arguments = &input["arguments"];
                let tool = format!("{}.{}", text("server"), text("tool"));
                ("tool", format!("{tool} {}", compact(arguments)))
            }
            "web_search" => ("search", text("query").to_owned()),
            "collab_tool_call" => ("agent", format!("{} {}", text("tool"), text("prompt"))),
            other => (other, compact(input)),
        };
        Self {
            sign: clean(sign),
            what,
        }
    }

    /// The call in at most `width` columns.
    pub(super) fn what_within(&self, width: usize) -> String {
        let taken = self.sign.chars().count() + 1;
        one_line(&self.what, width.saturating_sub(taken))
    }
}

/// What came of a call.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Outcome {
    pub failure: Option<String>,
    pub output: Vec<String>,
}

impl Outcome {
    pub(super) fn of(name: &str, is_error: bool, content: &Value, width: usize) -> Self {
        let status = content["status"].as_str().unwrap_or("failed");
        let (failure, output) = match name {
            "command_execution" => {
                let output = content["aggregated_output"].as_str().unwrap_or_default();
                match content["exit_code"].as_i64() {
                    Some(0) | None => (status.to_owned(), output.to_owned()),
                    Some(code) => (format!("exit code {code}"), output.to_owned()),
                }
            }
            "mcp_tool_call" => {
                let message = content["error"]["message"].as_str().unwrap_or(status);
                (message.to_owned(), texts(&content["result"]["content"]))
            }
            _ => (status.to_owned(), String::new()),
        };
        Self {
            failure: is_error.then(|| one_line(&failure, width)),
            output: last_lines(&output, width),
        }
    }
}

/// `cargo test` of `/bin/bash -lc 'cargo test'`.
fn unwrapped(command: &str) -> String {
    match shell_words::split(command).as_deref() {
        Ok([shell, flag, script])
            if shell.ends_with("sh") && matches!(flag.as_str(), "-c" | "-lc") =>
        {
            script.clone()
        }
        _ => command.to_owned(),
    }
}

fn changes(changes: &Value, workspace: &str) -> String {
    let all = changes.as_array().map(Vec::as_slice).unwrap_or_default();
    let shown: Vec<String> = all
        .iter()
        .map(|change| {
            let sign = match change["kind"].as_str() {
                Some("add") => "+",
                Some("delete") => "-",
                _ => "",
            };
            let path = change["path"].as_str().unwrap_or("?");
            format!("{sign}{}", within(path, workspace))
        })
        .collect();
    shown.join(", ")
}

/// The path below the workspace's directory, if it is there.
fn within<'a>(path: &'a str, workspace: &str) -> &'a str {
    let folder = format!("/{workspace}/");
    match path.split_once(&folder) {
        Some((_, below)) if !workspace.is_empty() => below,
        _ => path,
    }
}

fn compact(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::Object(fields) if fields.is_empty() => String::new(),
        value => value.to_string(),
    }
}

fn texts(content: &Value) -> String {
    let blocks = content.as_array().map(Vec::as_slice).unwrap_or_default();
    let texts: Vec<&str> = blocks.iter().filter_map(|b| b["text"].as_str()).collect();
    texts.join("\n")
}

/// A line of a tool's output; of a progress bar, where it got to.
pub(super) fn shown_line(line: &str, width: usize) -> String {
    let line = line.trim_end_matches('\r').rsplit('\r').next();
    let line = clean(line.unwrap_or_default()).replace('\t', "    ");
    fit(line.trim_end(), width, false)
}

/// Only as much as is shown is cleaned: output can be megabytes.
fn last_lines(output: &str, width: usize) -> Vec<String> {
    let output = output.trim_end();
    if output.is_empty() {
        return Vec::new();
    }
    let mut lines: Vec<String> = output
        .rsplit('\n')
        .take(OUTPUT_LINES)
        .map(|line| shown_line(line, width))
        .collect();
    let more = output.split('\n').count().saturating_sub(OUTPUT_LINES);
    if more > 0 {
        let plural = if more == 1 { "" } else { "s" };
        lines.push(format!("… {more} more line{plural}"));
    }
    lines.reverse();
    lines
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_call_is_one_line() {
        for (name, input, line) in [
            (
                "command_execution",
                json!({"command": "/bin/bash -lc 'cargo test \"x y\"'"}),
                "$ cargo test \"x y\"",
            ),
            (
                "command_execution",
                json!({"command": "bash -lc 'unclosed"}),
                "$ bash -lc 'unclosed",
            ),
            (
                "command_execution",
                json!({"command": "cat <<E\nx\nE"}),
                "$ cat <<E …",
            ),
            (
                "file_change",
                json!({"changes": [{"path": "/srv/ws/a/b/src/x.rs", "kind": "add"},
                    {"path": "/srv/ws/a/b/y", "kind": "delete"}, {"path": "/else", "kind": "update"}]}),
                "edit +src/x.rs, -y, /else",
            ),
            (
                "mcp_tool_call",
                json!({"server": "mm", "tool": "echo", "arguments": {"text": "hi"}}),
                "tool mm.echo {\"text\":\"hi\"}",
            ),
            (
                "web_search",
                json!({"query": "rust lapin"}),
                "search rust lapin",
            ),
            ("new\u{1b}[1m_tool", json!({"a": 1}), "new_tool {\"a\":1}"),
            ("command_execution", json!(null), "$ "),
        ] {
            let call = Call::of(name, &input, "a/b");
            assert_eq!(format!("{} {}", call.sign, call.what_within(40)), line);
        }
        let long = Call::of("command_execution", &json!({"command": "x".repeat(99)}), "");
        assert_eq!(long.what_within(10), "xxxxxxx…");
    }

    #[test]
    fn an_outcome_is_why_it_failed_and_its_last_lines() {
        let of = |name, is_error, content| Outcome::of(name, is_error, &content, 12);
        let command = json!({"exit_code": 101, "status": "failed",
            "aggregated_output": "1\n2\n3\n4\n5\r\n\u{1b}[31m6 is a long line\u{1b}[0m\n10 %\r90 %\n\n"});
        let outcome = of("command_execution", true, command);
        assert_eq!(outcome.failure.as_deref(), Some("exit code 1…"));
        assert_eq!(
            outcome.output,
            ["… 2 more lines", "3", "4", "5", "6 is a long…", "90 %"]
        );
        let fine = json!({"exit_code": 0, "aggregated_output": "", "status": "completed"});
        assert_eq!(of("command_execution", false, fine), Outcome::default());
        let unfinished = of("file_change", true, json!({"status": "unfinished"}));
        assert_eq!(unfinished.failure.as_deref(), Some("unfinished"));
        let tool = json!({"error": {"message": "no"}, "result": {"content": [{"text": "a"}]}});
        let tool = of("mcp_tool_call", true, tool);
        assert_eq!(tool.failure.as_deref(), Some("no"));
        assert_eq!(tool.output, ["a"]);
        assert_eq!(
            of("new", true, json!({})).failure.as_deref(),
            Some("failed")
        );
    }
}
