//! The contract's examples of turns, `docs/contract/examples/v1/turns`.

use std::fs;
use std::path::Path;

use serde_json::Value;

const TURNS: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/docs/contract/examples/v1/turns"
);

pub struct Turn {
    pub name: String,
    /// Its deliveries, in order.
    pub told: Vec<Value>,
    /// What a reader makes of them.
    read: Value,
}

impl Turn {
    pub fn all() -> Vec<Self> {
        let files = fs::read_dir(TURNS).unwrap();
        let paths = files.map(|file| file.unwrap().path());
        let told = paths.filter(|path| path.extension().is_some_and(|e| e == "jsonl"));
        let mut turns: Vec<_> = told.map(|path| Self::read(&path)).collect();
        turns.sort_by(|a, b| a.name.cmp(&b.name));
        turns
    }

    fn read(path: &Path) -> Self {
        let lines = fs::read_to_string(path).unwrap();
        let read = fs::read(path.with_extension("read.json")).unwrap();
        Self {
            name: path.file_stem().unwrap().to_str().unwrap().to_owned(),
            told: lines
                .lines()
                .map(|line| serde_json::from_str(line).unwrap())
                .collect(),
            read: serde_json::from_slice(&read).unwrap(),
        }
    }

    pub fn stop_reason(&self) -> &str {
        self.read["stop_reason"].as_str().unwrap()
    }

    pub fn restarts(&self) -> usize {
        self.read["restarts"].as_array().unwrap().len()
    }

    /// What a reader shows that can't take back what it has shown: each message on lines of its own, and the last one
    /// whole, if that is not what its pieces were.
    pub fn shown(&self) -> String {
        let numbers = |name: &str| -> Vec<usize> {
            let numbers = self.read[name].as_array().unwrap().iter();
            numbers
                .map(|number| number.as_u64().unwrap() as usize)
                .collect()
        };
        let restarts = numbers("restarts");
        let mut messages: Vec<(Option<&str>, String)> = Vec::new();
        let mut open = false;
        for at in numbers("taken") {
            let event = &self.told[at];
            let text = event["text"].as_str().unwrap_or_default();
            open &= !restarts.contains(&at);
            let last = messages.last_mut().filter(|_| open);
            match event["type"].as_str().unwrap() {
                "text_delta" => {
                    let item = event["item_id"].as_str();
                    match last {
                        Some((of, joined)) if *of == item => joined.push_str(text),
                        _ => messages.push((item, text.to_owned())),
                    }
                    open = true;
                }
                "message_end"
                    if event["text"].is_string()
                        && last.is_none_or(|(_, joined)| joined != text) =>
                {
                    messages.push((None, text.to_owned()));
                }
                _ => {}
            }
        }
        messages
            .iter()
            .map(|(_, text)| format!("{text}\n"))
            .collect()
    }
}
