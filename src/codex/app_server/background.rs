//! What a server does besides the turn that it was asked for: sub-agents on
//! threads of their own, and turns that codex starts by itself for a goal.
//!
//! codex reports all of it on the same connection, and does not end it with
//! the turn.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::items;
use super::wire::Fields;
use crate::codex::growth::Growth;
use crate::codex::protocol::{CliEvent, Item, ItemKind};
use crate::codex::tool::{ToolCall, ToolKind};
use crate::event::Tokens;

/// So many threads are followed; a server with more is never at rest.
const MAX_AGENTS: usize = 1_000;

#[derive(Debug, Default)]
pub(super) struct BackgroundWork {
    /// By thread.
    agents: BTreeMap<String, Agent>,
    /// There were more threads than are followed.
    uncounted: bool,
    /// The newest turn of the root's thread that was not asked for.
    unasked: Option<Unasked>,
    /// The thread has a goal that is not reached.
    goal: bool,
    /// Something that the server does not report may go on.
    doubted: bool,
}

#[derive(Debug, Default)]
struct Agent {
    /// As the newer of codex's two protocols reports them at its start.
    path: Option<String>,
    model: Option<String>,
    state: AgentState,
    growth: Growth,
    /// The server has unloaded its thread.
    closed: bool,
}

#[derive(Debug, Default, PartialEq, Eq)]
enum AgentState {
    /// Its first turn is due.
    #[default]
    Spawned,
    Active {
        /// Unknown where only its thread's status was heard of.
        turn: Option<String>,
        interrupted: bool,
    },
    /// Until another agent has it start again.
    Ended { turn: Option<String> },
}

#[derive(Debug)]
struct Unasked {
    turn: String,
    runs: bool,
}

impl BackgroundWork {
    /// All its work has ended, and no more starts by itself.
    pub(super) fn rest(&self) -> bool {
        self.can_be_interrupted() && !self.any_agent_works()
    }

    /// Whether all that keeps it from resting are agents, which can be interrupted.
    pub(super) fn can_be_interrupted(&self) -> bool {
        !self.doubted && !self.uncounted && !self.goal && self.unasked.is_none()
    }

    /// A turn starts, for which agents may go on that earlier ones have spawned.
    pub(super) fn begin(&mut self) {
        self.agents.retain(|_, agent| !agent.closed);
        for agent in self.agents.values_mut() {
            agent.growth.begin();
        }
    }

    /// What the agents have spent since the turn started.
    pub(super) fn spent(&self) -> Option<Tokens> {
        let agents = self.agents.values();
        let spent = agents.filter_map(|agent| agent.growth.spent());
        spent.reduce(Tokens::plus)
    }

    /// The server does not report all that it should.
    pub(super) fn doubt(&mut self) {
        self.doubted = true;
    }

    fn any_agent_works(&self) -> bool {
        let mut agents = self.agents.values();
        agents.any(|agent| !matches!(agent.state, AgentState::Ended { .. }))
    }

    /// The turns that are still to be interrupted, with their threads.
    pub(super) fn interrupt(&mut self) -> Vec<(String, String)> {
        let agents = self.agents.iter_mut();
        let to_interrupt = agents.filter_map(|(thread, agent)| match &mut agent.state {
            AgentState::Active {
                turn: Some(turn),
                interrupted,
            } if !*interrupted => {
                *interrupted = true;
                Some((thread.clone(), turn.clone()))
            }
            _ => None,
        });
        to_interrupt.collect()
    }

    /// A turn of the root's thread started that was not asked for.
    pub(super) fn unasked(&mut self, turn: String) {
        self.unasked = Some(Unasked { turn, runs: true });
    }

    /// Whether that turn was not asked for.
    pub(super) fn is_unasked(&self, turn: &str) -> bool {
        self.unasked.as_ref().is_some_and(|of| of.turn == turn)
    }

    /// The turn that runs on the root's thread without having been asked for.
    pub(super) fn unasked_turn(&self) -> Option<&str> {
        let unasked = self.unasked.as_ref().filter(|unasked| unasked.runs)?;
        Some(&unasked.turn)
    }

    /// A turn of the root's thread ended that was not asked for.
    pub(super) fn unasked_ended(&mut self, turn: &str) {
        if let Some(unasked) = self.unasked.as_mut().filter(|of| of.turn == turn) {
            unasked.runs = false;
        }
    }

    /// Returns whether codex would start turns for it.
    pub(super) fn goal_updated(&mut self, goal: &Fields<'_>) -> bool {
        self.goal = !goal.is("status", "complete");
        goal.is("status", "active")
    }

    pub(super) fn goal_cleared(&mut self) {
        self.goal = false;
    }

    /// An item of any thread, by which agents become known before their turns.
    pub(super) fn item(&mut self, item: &Fields<'_>) {
        let is_end =
            |item: &Fields<'_>| item.is("kind", "completed") || item.is("kind", "interrupted");
        let spawned = match item.text("type").as_str() {
            "subAgentActivity" if is_end(item) => {
                if let Some(agent) = self.agents.get_mut(&item.text("agentThreadId"))
                    && let AgentState::Active { turn, .. } = &mut agent.state
                {
                    let turn = turn.take();
                    agent.state = AgentState::Ended { turn };
                }
                return;
            }
            "subAgentActivity" if item.is("kind", "started") => vec![item.text("agentThreadId")],
            "collabAgentToolCall" if item.is("tool", "spawnAgent") => {
                item.texts("receiverThreadIds")
            }
            _ => return,
        };
        let text = |name: &str| Some(item.text(name)).filter(|text| !text.is_empty());
        for thread in spawned {
            if let Some(agent) = self.agent(thread) {
                agent.path = agent.path.take().or_else(|| text("agentPath"));
                agent.model = agent.model.take().or_else(|| text("model"));
            }
        }
    }

    /// A notification of an agent's thread; some of them are published.
    pub(super) fn notified(
        &mut self,
        thread: &str,
        method: &str,
        params: &Fields<'_>,
    ) -> Option<CliEvent> {
        match method {
            "turn/started" => {
                let turn = params.object("turn").text("id");
                let agent = self.agent(thread.to_owned())?;
                agent.state = active(Some(turn.clone()));
                let mut fields = Map::new();
                fields.insert("thread_id".to_owned(), json!(thread));
                for (name, value) in [("path", &agent.path), ("model", &agent.model)] {
                    if let Some(value) = value {
                        fields.insert(name.to_owned(), json!(value));
                    }
                }
                Some(CliEvent::ItemStarted(item(turn, fields)))
            }
            "turn/completed" => {
                let ended = params.object("turn");
                let turn = ended.text("id");
                let agent = self.agent(thread.to_owned())?;
                agent.state = AgentState::Ended {
                    turn: Some(turn.clone()),
                };
                let error = Some(ended.object("error").text("message"));
                let error = error.filter(|message| !message.is_empty());
                let mut fields = Map::new();
                fields.insert("thread_id".to_owned(), json!(thread));
                fields.insert("status".to_owned(), json!(ended.text("status")));
                fields.insert("error".to_owned(), json!(error));
                Some(CliEvent::ItemCompleted(item(turn, fields)))
            }
            "thread/status/changed" => {
                let is_active = params.object("status").is("type", "active");
                let agent = self.agent(thread.to_owned())?;
                agent.state = match std::mem::take(&mut agent.state) {
                    AgentState::Ended { .. } | AgentState::Spawned if is_active => active(None),
                    AgentState::Active { turn, .. } if !is_active => AgentState::Ended { turn },
                    same => same,
                };
                None
            }
            "thread/tokenUsage/updated" => {
                let (total, last) = items::usage(params)?;
                self.agent(thread.to_owned())?.growth.report(total, last);
                None
            }
            "thread/closed" => {
                if let Some(agent) = self.agents.get_mut(thread) {
                    agent.state = AgentState::Ended { turn: None };
                    agent.closed = true;
                }
                None
            }
            // Also where the beginning of its turn was not understood.
            _ if method.starts_with("item/") && params.has("turnId") => {
                let turn = Some(params.text("turnId"));
                let agent = self.agent(thread.to_owned())?;
                match &agent.state {
                    AgentState::Ended { turn: ended } if *ended == turn => {}
                    AgentState::Active { turn: Some(_), .. } => {}
                    _ => agent.state = active(turn),
                }
                None
            }
            _ => None,
        }
    }

    fn agent(&mut self, thread: String) -> Option<&mut Agent> {
        if self.agents.len() == MAX_AGENTS && !self.agents.contains_key(&thread) {
            self.uncounted = true;
            return None;
        }
        Some(self.agents.entry(thread).or_default())
    }
}

fn active(turn: Option<String>) -> AgentState {
    AgentState::Active {
        turn,
        interrupted: false,
    }
}

fn item(id: String, fields: Map<String, Value>) -> Item {
    let kind = ToolKind::SubAgent;
    Item {
        id,
        kind: ItemKind::Tool(ToolCall { kind, fields }),
    }
}
