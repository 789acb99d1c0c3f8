//! What the server's answers and notifications do to a conversation.

use serde_json::json;

use super::items::{self, Translated};
use super::notice;
use super::wire::Fields;
use super::{Awaited, Conversation, Defaults, Heard, Interrupt, Outcome, Thread, Turn};
use crate::codex::failure::{cannot_resume, not_resumed};
use crate::codex::growth::Growth;
use crate::codex::protocol::CliEvent;

/// codex's own, if it is not configured.
const DEFAULT_PROVIDER: &str = "openai";

impl Conversation {
    pub(super) fn answered(&mut self, id: u64, result: Result<Fields<'_>, String>) -> Vec<Heard> {
        let Some(at) = self.awaited.iter().position(|(due, _)| *due == id) else {
            return Vec::new();
        };
        let (_, awaited) = self.awaited.remove(at);
        if awaited == Awaited::End {
            return result.map_or_else(|_| Vec::new(), |turns| self.end_answered(&turns));
        }
        self.answered_to(awaited, result).into_iter().collect()
    }

    fn answered_to(
        &mut self,
        awaited: Awaited,
        result: Result<Fields<'_>, String>,
    ) -> Option<Heard> {
        match (awaited, result) {
            (Awaited::End, _) => None,
            (Awaited::Initialize, Ok(_)) => {
                self.initialized = true;
                self.out.notification("initialized");
                match self.settings_of.take() {
                    Some(cwd) => self.ask_for_settings(&cwd),
                    None => self.clear_goal(),
                }
                None
            }
            (Awaited::PauseGoal, _) => None,
            (Awaited::ClearGoal, _) => {
                if let Some(load) = &self.loading {
                    let cwd = load.cwd.clone();
                    self.ask_for_settings(&cwd);
                }
                None
            }
            (Awaited::Settings, answer) => {
                let settings = answer.map(|settings| settings.object("config")).ok();
                self.defaults = settings.map(defaults).unwrap_or_default();
                let named = self
                    .loading
                    .as_ref()
                    .is_some_and(|load| load.model.is_some());
                if named || self.defaults.model.is_some() {
                    self.load_with_defaults();
                } else {
                    self.request(Awaited::Models, "model/list", &json!({}));
                }
                None
            }
            (Awaited::Models, answer) => {
                let models = answer.map_or_else(|_| Vec::new(), |list| list.array("data"));
                let mut models = models.into_iter();
                let default = models.find(|model| model.raw("isDefault") == "true");
                let default = default.map(|model| model.text("model"));
                self.defaults.model = default.filter(|model| !model.is_empty());
                self.load_with_defaults();
                None
            }
            (Awaited::Load, Ok(result)) => {
                let thread_id = result.object("thread").text("id");
                let how = self.loading.take()?;
                let model = Some(result.text("model")).filter(|model| !model.is_empty());
                self.thread = Some(Thread {
                    id: thread_id.clone(),
                    model,
                    rerouted: None,
                    growth: match how.resume {
                        Some(_) => Growth::default(),
                        None => Growth::of_new_thread(),
                    },
                    how,
                });
                Some(Heard::Loaded { thread_id })
            }
            (Awaited::Load, Err(message)) => {
                let load = self.loading.take();
                let resumed = load.is_some_and(|load| load.resume.is_some());
                let not_resumed = not_resumed(&message);
                Some(match resumed {
                    true if cannot_resume(&message) => Heard::Lost { message },
                    true => Heard::NotResumed {
                        message: not_resumed,
                    },
                    false => Heard::Refused { message },
                })
            }
            (Awaited::Turn, Ok(result)) => self.turn_answered(result.object("turn").text("id")),
            (Awaited::Turn, Err(message)) => {
                self.turn = None;
                Some(Heard::Refused { message })
            }
            (Awaited::Initialize, Err(message)) => Some(Heard::Refused { message }),
            (Awaited::Interrupt, Ok(_)) => None,
            (Awaited::Interrupt, Err(_)) => {
                // Where the turn has not just ended by itself, it is asked for again
                // with the next thing that is heard of it.
                if let Some(turn) = &mut self.turn
                    && turn.interrupt == Interrupt::Sent
                {
                    turn.interrupt = Interrupt::Wanted;
                }
                None
            }
        }
    }

    /// How the turn has ended, if it has.
    fn end_answered(&mut self, turns: &Fields<'_>) -> Vec<Heard> {
        let newest = turns.array("data").into_iter().next();
        let ended = newest.filter(|turn| self.is_of_turn(turn, "id"));
        let Some(ended) = ended.filter(|turn| !turn.is("status", "inProgress")) else {
            return Vec::new();
        };
        let message = self.lost_message(&ended);
        self.turn = None;
        self.background.doubt();
        let end = Heard::Event(notice::end(&ended));
        message.into_iter().chain([end]).collect()
    }

    /// The last message of the turn, where its own line was not understood.
    pub(super) fn lost_message(&self, ended: &Fields<'_>) -> Option<Heard> {
        let turn = self.turn.as_ref()?;
        if !ended.is("status", "completed") || !self.is_of_turn(ended, "id") {
            return None;
        }
        let mut items = ended.array("items").into_iter();
        let message = items.rfind(|item| item.is("type", "agentMessage"))?;
        let id = message.text("id");
        if turn.last_message.as_ref() == Some(&id) {
            return None;
        }
        match items::item(&message) {
            Translated::Item(item) => Some(Heard::Event(CliEvent::ItemCompleted(item))),
            Translated::Notice(..) | Translated::Nothing | Translated::Unknown(_) => None,
        }
    }

    fn turn_answered(&mut self, id: String) -> Option<Heard> {
        if self.background.is_unasked(&id) {
            self.turn = None;
            let message = "codex put the prompt into a turn that it had started by itself";
            return Some(Heard::Refused {
                message: message.to_owned(),
            });
        }
        let turn = self.turn.as_mut()?;
        if let Some(other) = turn.id.take_if(|known| *known != id) {
            // What was taken for the turn was another one.
            let interrupt = turn.interrupt;
            *turn = Turn {
                interrupt,
                ..Turn::default()
            };
            self.background.unasked(other);
        }
        turn.id = Some(id);
        None
    }

    pub(super) fn notified(&mut self, method: &str, params: &Fields<'_>) -> Option<CliEvent> {
        if method == "model/rerouted" && self.is_of_thread(params) {
            let model = Some(params.text("toModel")).filter(|model| !model.is_empty());
            if let (Some(thread), Some(model)) = (&mut self.thread, model) {
                thread.rerouted = Some(model);
            }
        }
        if notice::is_noise(method) {
            return None;
        }
        if method == "item/started" || method == "item/completed" {
            self.background.item(&params.object("item"));
        }
        let of_thread = self.is_of_thread(params);
        if let Some(warning) = notice::warning(method, params) {
            // While a thread is being loaded its id is not known yet.
            let ours = of_thread || !params.has("threadId") || self.loading.is_some();
            return ours.then_some(warning);
        }
        if params.has("threadId") && !of_thread {
            // Before its own thread is known, other threads can't be distinguished from it.
            self.thread.as_ref()?;
            let told = self
                .background
                .notified(&params.text("threadId"), method, params)?;
            // After the turn there is no reader.
            return self.turn.is_some().then_some(told);
        }
        if params.has("turnId")
            && self.is_of_turn(params, "turnId")
            && let Some(turn) = &mut self.turn
        {
            turn.started = true;
            let item = params.object("item");
            if method == "item/completed" && item.is("type", "agentMessage") {
                turn.last_message = Some(item.text("id"));
            }
        }
        match method {
            "thread/closed" => {
                self.thread = None;
                None
            }
            "turn/started" => self.turn_started(&params.object("turn")),
            "thread/goal/updated" => {
                if self.background.goal_updated(&params.object("goal")) {
                    self.pause_goal();
                }
                None
            }
            "thread/goal/cleared" => {
                self.background.goal_cleared();
                None
            }
            "thread/status/changed" => {
                if let Some(turn) = self.turn.as_mut().filter(|turn| turn.started) {
                    let status = params.object("status").text("type");
                    turn.outcome = match status.as_str() {
                        "active" => None,
                        "systemError" => Some(Outcome::Failed),
                        _ => Some(Outcome::Ended),
                    };
                }
                None
            }
            "turn/completed" => {
                let turn = params.object("turn");
                if !self.is_of_turn(&turn, "id") {
                    self.unasked_ended(&turn.text("id"));
                    return None;
                }
                self.turn = None;
                Some(notice::end(&turn))
            }
            "thread/tokenUsage/updated" => {
                let (total, last) = items::usage(params)?;
                let ours = self.is_of_turn(params, "turnId");
                // A turn that codex starts for a goal is spent on the turn that has set it.
                let for_goal = self.background.is_unasked(&params.text("turnId"));
                let growth = &mut self.thread.as_mut()?.growth;
                if !ours && !for_goal {
                    growth.observe(total);
                    return None;
                }
                let spent = growth.report(total, last)?;
                ours.then_some(CliEvent::UsageUpdated { spent })
            }
            _ if params.has("turnId") && !self.is_of_turn(params, "turnId") => None,
            _ => notice::of_turn(method, params, &mut self.thinking),
        }
    }

    fn turn_started(&mut self, started: &Fields<'_>) -> Option<CliEvent> {
        self.thread.as_ref()?;
        let Some(turn) = &mut self.turn else {
            self.background.unasked(started.text("id"));
            return None;
        };
        let id = turn.id.get_or_insert_with(|| started.text("id"));
        if !started.is("id", id) {
            self.background.unasked(started.text("id"));
            return None;
        }
        turn.started = true;
        Some(CliEvent::TurnStarted)
    }

    fn unasked_ended(&mut self, turn: &str) {
        self.background.unasked_ended(turn);
        if self.background.unasked_turn().is_none()
            && let Some(ask) = self.waiting.take()
        {
            self.go(ask);
        }
    }

    pub(super) fn is_of_thread(&self, params: &Fields<'_>) -> bool {
        self.thread
            .as_ref()
            .is_some_and(|thread| params.is("threadId", &thread.id))
    }

    fn is_of_turn(&self, params: &Fields<'_>, name: &str) -> bool {
        let id = self.turn.as_ref().and_then(|turn| turn.id.as_deref());
        id.is_some_and(|id| params.is(name, id))
    }
}

fn defaults(config: Fields<'_>) -> Defaults {
    Defaults {
        model: Some(config.text("model")).filter(|model| !model.is_empty()),
        provider: Some(match config.has("model_provider") {
            true => config.text("model_provider"),
            false => DEFAULT_PROVIDER.to_owned(),
        }),
    }
}
