//! The same as `codex app-server --stdio`: any number of turns, each answered
//! at once by one message.

use std::io::{BufRead, Write, stdin, stdout};

use serde_json::{Value, json};

/// Until stdin ends.
pub fn serve(text: &str, new_id: impl Fn() -> String) -> std::io::Result<()> {
    let mut turns = 0;
    for line in stdin().lock().lines() {
        let Ok(message) = serde_json::from_str::<Value>(&line?) else {
            continue;
        };
        let (id, params) = (&message["id"], &message["params"]);
        if id.is_null() {
            continue;
        }
        match message["method"].as_str().unwrap_or_default() {
            "thread/start" | "thread/resume" => {
                let known = params["threadId"].as_str().map(str::to_owned);
                let thread = json!({"id": known.unwrap_or_else(&new_id), "turns": []});
                answer(
                    id,
                    &json!({"thread": thread, "cwd": params["cwd"], "model": "free"}),
                )?;
            }
            "turn/start" => {
                turns += 1;
                let turn = new_id();
                answer(id, &json!({"turn": {"id": turn, "status": "inProgress"}}))?;
                stdout().write_all(of_turn(&params["threadId"], &turn, turns, text).as_bytes())?;
            }
            _ => answer(id, &json!({}))?,
        }
        stdout().flush()?;
    }
    Ok(())
}

fn answer(id: &Value, result: &Value) -> std::io::Result<()> {
    writeln!(stdout(), "{}", json!({"id": id, "result": result}))
}

/// All that it notifies of, where this is the server's turn number `turns`.
fn of_turn(thread: &Value, turn: &str, turns: u64, text: &str) -> String {
    let item = format!("item_{turns}");
    let tokens = |turns: u64| {
        json!({"totalTokens": 120 * turns, "inputTokens": 100 * turns, "cachedInputTokens": 40 * turns,
            "outputTokens": 20 * turns, "reasoningOutputTokens": 5 * turns})
    };
    let message = |text: &str| json!({"type": "agentMessage", "id": item, "text": text});
    let notes = [
        (
            "turn/started",
            json!({"turn": {"id": turn, "status": "inProgress"}}),
        ),
        ("item/started", json!({"turnId": turn, "item": message("")})),
        (
            "item/agentMessage/delta",
            json!({"turnId": turn, "itemId": item, "delta": text}),
        ),
        (
            "item/completed",
            json!({"turnId": turn, "item": message(text)}),
        ),
        (
            "thread/tokenUsage/updated",
            json!({"turnId": turn, "tokenUsage": {"total": tokens(turns), "last": tokens(1)}}),
        ),
        (
            "turn/completed",
            json!({"turn": {"id": turn, "status": "completed", "items": [message(text)]}}),
        ),
    ];
    let lines = notes.map(|(method, mut params)| {
        params["threadId"] = thread.clone();
        format!("{}\n", json!({"method": method, "params": params}))
    });
    lines.concat()
}
