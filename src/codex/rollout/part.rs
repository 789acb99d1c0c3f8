//! Lines of a thread's record, and what is read from them.

use std::collections::{BTreeSet, HashSet};
use std::hash::{BuildHasher, RandomState};
use std::io;

use serde_json::{Map, Value};

use super::{protocol, record, unknown_form};
use crate::event::Tokens;

const ANSWER: &str = "token_usage_record";
const TURN: &str = "turn_context";
const ITEM: &str = "item_completed";
/// By which an item names the threads of sub-agents; the second is of the older
/// of codex's two protocols.
const AGENT: &str = "agent_thread_id";
const AGENTS: &str = "receiver_thread_ids";

/// So many turns, and so many sub-agents, are read of.
const MOST_NAMES: usize = 1_000;

/// A part of a record.
#[derive(Debug, Default)]
pub(crate) struct Part {
    thread_id: String,
    /// What the model's answers have cost; `None` if there is no answer.
    pub spent: Option<Tokens>,
    /// The model that the last turn asked for.
    pub model: Option<String>,
    /// The turns that the answers are of.
    pub turns: BTreeSet<String>,
    /// The threads of sub-agents that it names.
    pub agents: BTreeSet<String>,
    /// Only answers for these turns count, of any agent.
    roots: Option<BTreeSet<String>>,
    /// Not the keys themselves: there may be millions, as long as lines.
    counted: HashSet<u64>,
    hasher: RandomState,
    is_unreadable: bool,
}

impl Part {
    pub(super) fn of_thread(thread_id: &str) -> Self {
        Self {
            thread_id: thread_id.to_owned(),
            ..Self::default()
        }
    }

    /// Of a sub-agent's thread, with answers that count if they are for the turns.
    pub(super) fn of_agent(thread_id: &str, turns: &BTreeSet<String>) -> Self {
        Self {
            roots: Some(turns.clone()),
            ..Self::of_thread(thread_id)
        }
    }

    /// # Errors
    /// One of the answers is recorded in a form that this version doesn't know.
    pub(super) fn whole(self) -> io::Result<Self> {
        match self.is_unreadable {
            true => Err(unknown_form(ANSWER)),
            false => Ok(self),
        }
    }

    pub(super) fn visit(&mut self, line: &[u8]) {
        let Some((kind, payload)) = record(line, &[ANSWER, TURN, AGENT, AGENTS]) else {
            return;
        };
        match kind.as_str() {
            ANSWER => self.answer(&payload),
            TURN => self.model = text(&payload, "model").map(str::to_owned),
            "event_msg" if text(&payload, "type") == Some(ITEM) => {
                if let Some(Value::Object(item)) = payload.get("item") {
                    self.item(item);
                }
            }
            _ => {}
        }
    }

    fn answer(&mut self, payload: &Map<String, Value>) {
        // A forked thread's record starts with a copy of the other's.
        if text(payload, "thread_id").is_some_and(|of| of != self.thread_id) {
            return;
        }
        if let Some(roots) = &self.roots
            && !text(payload, "root_turn_id").is_some_and(|root| roots.contains(root))
        {
            return;
        }
        if let Some(turn) = text(payload, "turn_id") {
            keep(&mut self.turns, turn);
        }
        if let Some(key) = key(payload)
            && !self.counted.insert(self.hasher.hash_one(key))
        {
            return;
        }
        let usage = payload.get("usage").and_then(Value::as_object);
        match usage.and_then(protocol::usage) {
            Some(usage) => self.spent = Some(usage.plus(self.spent.unwrap_or_default())),
            None => self.is_unreadable = true,
        }
    }

    fn item(&mut self, item: &Map<String, Value>) {
        let one = text(item, AGENT).into_iter();
        let many = item.get(AGENTS).and_then(Value::as_array);
        let many = many.into_iter().flatten().filter_map(Value::as_str);
        for agent in one.chain(many) {
            keep(&mut self.agents, agent);
        }
    }
}

/// What a line written twice has in common, and no other line. The id alone
/// won't do: not every provider gives each answer one of its own.
fn key(payload: &Map<String, Value>) -> Option<String> {
    let response = text(payload, "response_id")?;
    let turn = text(payload, "turn_id").unwrap_or_default();
    let so_far = payload.get("turn_token_usage").unwrap_or(&Value::Null);
    Some(format!("{turn} {response} {so_far}"))
}

fn text<'a>(fields: &'a Map<String, Value>, name: &str) -> Option<&'a str> {
    fields.get(name).and_then(Value::as_str)
}

fn keep(names: &mut BTreeSet<String>, name: &str) {
    if names.len() < MOST_NAMES {
        names.insert(name.to_owned());
    }
}
