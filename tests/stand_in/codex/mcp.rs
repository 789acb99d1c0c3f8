//! `stand-in-codex mcp`: an MCP server on stdio, for the real codex to call.
//!
//! Its one tool, `work`, reports its progress so many times (`steps`, each
//! after `pause_ms`) and then says that it is done.

use std::io::BufRead;
use std::thread::sleep;
use std::time::Duration;

use serde_json::{Value, json};

use super::files::write_line;

pub fn run() {
    for line in std::io::stdin().lock().lines() {
        let Ok(line) = line else { return };
        let Ok(message) = serde_json::from_str::<Value>(&line) else {
            continue;
        };
        let params = &message["params"];
        let result = match message["method"].as_str() {
            Some("initialize") => json!({"protocolVersion": params["protocolVersion"],
                "capabilities": {"tools": {}}, "serverInfo": {"name": "stand-in", "version": "1"}}),
            Some("tools/list") => json!({"tools": [{"name": "work", "description": "Works.",
                "inputSchema": {"type": "object", "properties": {
                    "steps": {"type": "integer"}, "pause_ms": {"type": "integer"}}}}]}),
            Some("tools/call") => work(params),
            _ => json!({}),
        };
        if message.get("id").is_some() {
            write_line(&json!({"jsonrpc": "2.0", "id": message["id"], "result": result}));
        }
    }
}

fn work(params: &Value) -> Value {
    let asked = |name: &str| params["arguments"][name].as_u64().unwrap_or(0);
    let steps = asked("steps");
    for step in 1..=steps {
        sleep(Duration::from_millis(asked("pause_ms")));
        let progress = json!({"progressToken": params["_meta"]["progressToken"],
            "progress": step, "total": steps, "message": format!("step {step}")});
        write_line(
            &json!({"jsonrpc": "2.0", "method": "notifications/progress", "params": progress}),
        );
    }
    json!({"content": [{"type": "text", "text": "worked"}]})
}
