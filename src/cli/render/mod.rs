//! A turn as a person reads it: what was said as it comes, what was done in a
//! line each, and at the end what became of it. Events in, text out.

pub(super) mod clean;
pub(super) mod end;
pub(super) mod human;
pub(super) mod layout;
mod live;
pub(super) mod style;
pub(super) mod table;
mod tool;

use std::collections::HashMap;

use turn_worker::client::{Arrival, TurnMessage};
use turn_worker::event::{EventBody, PlanItem};

use clean::clean;
use live::Live;
use style::Style;
use tool::{Call, Outcome};

/// What was printed last; other things are set off by a blank line.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Block {
    Nothing,
    Line,
    Text(String),
    Thinking(String),
    Tools,
    Plan,
}

/// How far a turn is on the screen.
#[derive(Debug)]
pub(super) struct Screen {
    style: Style,
    block: Block,
    /// The cursor is behind a text without a line break.
    open: bool,
    workspace: String,
    /// Calls that are under way.
    calls: HashMap<String, Call>,
    /// What calls that are under way have printed.
    live: HashMap<String, Live>,
    /// The call that stands last on the screen.
    last_call: Option<String>,
    /// The agent's latest message, as far as it came, and its item.
    text: String,
    text_item: Option<String>,
    missed: bool,
    out: String,
}

impl Screen {
    pub(super) fn new(style: Style) -> Self {
        Self {
            style,
            block: Block::Nothing,
            open: false,
            workspace: String::new(),
            calls: HashMap::new(),
            live: HashMap::new(),
            last_call: None,
            text: String::new(),
            text_item: None,
            missed: false,
            out: String::new(),
        }
    }

    /// What to print for this event, on a terminal of `width` columns.
    pub(super) fn event(
        &mut self,
        message: &TurnMessage,
        arrival: Arrival,
        width: usize,
    ) -> String {
        if arrival.restarted {
            self.start_over(message.attempt);
        }
        if arrival.missed > 0 {
            self.missed = true;
            let events = match arrival.missed {
                1 => "an event was".to_owned(),
                missed => format!("{missed} events were"),
            };
            self.notice(&format!("{events} missed"));
        }
        match &message.body {
            Some(body) => self.body(message, body, width),
            None if message.is_end() => {
                self.notice("the turn ended in a way that this version does not know");
            }
            None => {}
        }
        std::mem::take(&mut self.out)
    }

    /// Sets off output that follows from another source.
    pub(super) fn interrupt(&mut self) -> String {
        self.begin(Block::Line);
        std::mem::take(&mut self.out)
    }

    fn body(&mut self, message: &TurnMessage, body: &EventBody, width: usize) {
        match body {
            EventBody::MessageStart { .. } => {
                self.workspace = message.workspace.clone().unwrap_or_default();
                self.head(message);
            }
            EventBody::ThinkingDelta { item_id, text } => {
                self.begin(Block::Thinking(item_id.clone()));
                self.text(text, Style::dim);
            }
            EventBody::TextDelta { item_id, text } => {
                if self.text_item.as_ref() != Some(item_id) {
                    self.text.clear();
                    self.text_item = Some(item_id.clone());
                }
                self.begin(Block::Text(item_id.clone()));
                self.text.push_str(text);
                self.text(text, |_, text| text.to_owned());
            }
            EventBody::ToolUse { id, name, input } => {
                let call = Call::of(name, input, &self.workspace);
                self.call(id, &call, width);
                self.calls.insert(id.clone(), call);
            }
            EventBody::ToolOutput { tool_use_id, text } => self.output(tool_use_id, text, width),
            EventBody::ToolResult {
                tool_use_id,
                name,
                is_error,
                content,
            } => {
                let width_below = width.saturating_sub(2);
                let mut outcome = Outcome::of(name, *is_error, content, width_below);
                if let Some(live) = self.live.remove(tool_use_id) {
                    let whole = content["aggregated_output"].as_str().unwrap_or_default();
                    let visible = self.is_last(tool_use_id);
                    let rest = live.end(whole, visible, width_below);
                    outcome.output = rest.unwrap_or(outcome.output);
                }
                self.outcome(tool_use_id, name, &outcome, width);
            }
            EventBody::Plan { items } => self.plan(items),
            // The end has all of it.
            EventBody::Usage { .. } => {}
            EventBody::Notice { message, .. } => self.notice(message),
            EventBody::Error { error } => {
                self.begin(Block::Line);
                self.out.push_str(&end::error(self.style, error));
            }
            EventBody::MessageEnd {
                stop_reason,
                text,
                structured,
                superseded_by,
                duration_ms,
                usage,
                ..
            } => {
                if let Some(text) = text
                    .as_ref()
                    .filter(|text| self.missed && **text != self.text)
                {
                    self.begin(Block::Text("the whole".to_owned()));
                    self.text(text, |_, text| text.to_owned());
                }
                if let Some(value) = structured {
                    self.begin(Block::Line);
                    self.out.push_str(&end::structured(self.style, value));
                }
                if let Some(by) = superseded_by {
                    self.begin(Block::Line);
                    self.out.push_str(&end::superseded(self.style, by));
                }
                self.begin(Block::Line);
                let line = end::line(self.style, *stop_reason, *duration_ms, usage.as_ref());
                self.out.push_str(&line);
            }
        }
    }

    fn head(&mut self, message: &TurnMessage) {
        self.begin(Block::Line);
        let workspace = clean(&self.workspace);
        let mut line = format!("turn {}", clean(&message.turn_id));
        if !workspace.is_empty() {
            line.push_str(&format!(" in {workspace}"));
        }
        if message.attempt > 1 {
            line.push_str(&format!(", attempt {}", message.attempt));
        }
        self.line(self.style.dim(&line));
    }

    fn start_over(&mut self, attempt: u32) {
        self.calls.clear();
        self.live.clear();
        self.last_call = None;
        self.text.clear();
        self.text_item = None;
        self.missed = false;
        self.notice(&format!(
            "the worker was lost, and the turn starts over (attempt {attempt}); what stands above is void"
        ));
    }

    fn call(&mut self, id: &str, call: &Call, width: usize) {
        self.begin(Block::Tools);
        let sign = self.style.cyan(&call.sign);
        self.line(format!("{sign} {}", call.what_within(width)));
        self.last_call = Some(id.to_owned());
    }

    /// Below its call, as long as no other output has come between.
    fn output(&mut self, id: &str, text: &str, width: usize) {
        let visible = self.is_last(id);
        let live = self.live.entry(id.to_owned()).or_default();
        for line in live.push(text, visible, width.saturating_sub(2)) {
            self.line(format!("  {}", self.style.dim(&line)));
        }
    }

    fn is_last(&self, call: &str) -> bool {
        self.block == Block::Tools && self.last_call.as_deref() == Some(call)
    }

    fn outcome(&mut self, id: &str, name: &str, outcome: &Outcome, width: usize) {
        let call = self.calls.remove(id);
        if outcome == &Outcome::default() {
            return;
        }
        // Where calls overlap, what came of one stands below it all the same.
        if !self.is_last(id) {
            let unknown = || Call::of(name, &serde_json::Value::Null, "");
            self.call(id, &call.unwrap_or_else(unknown), width);
        }
        let output = outcome.output.iter().map(|line| self.style.dim(line));
        let failure = outcome.failure.iter().map(|line| self.style.red(line));
        for line in output.chain(failure).collect::<Vec<_>>() {
            self.line(format!("  {line}"));
        }
    }

    fn plan(&mut self, items: &[PlanItem]) {
        self.begin(Block::Plan);
        for item in items {
            let text = clean(&item.text).replace('\n', " ");
            let line = if item.completed {
                self.style.dim(&format!("[x] {text}"))
            } else {
                format!("[ ] {text}")
            };
            self.line(line);
        }
    }

    fn notice(&mut self, message: &str) {
        self.begin(Block::Line);
        let line = self.style.yellow(&format!("! {}", clean(message.trim())));
        self.line(line);
    }

    fn text(&mut self, text: &str, paint: impl Fn(Style, &str) -> String) {
        let text = clean(text);
        if let Some(last) = text.chars().next_back() {
            self.open = last != '\n';
        }
        self.out.push_str(&paint(self.style, &text));
    }

    fn line(&mut self, line: String) {
        self.out.push_str(&line);
        self.out.push('\n');
    }

    fn begin(&mut self, block: Block) {
        // Each plan is a whole one.
        if self.block == block && block != Block::Plan {
            return;
        }
        if self.open {
            self.out.push('\n');
            self.open = false;
        }
        if self.block != Block::Nothing {
            self.out.push('\n');
        }
        self.block = block;
    }
}

#[cfg(test)]
mod tests;
