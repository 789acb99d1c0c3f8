//! What a prompt asks the stand-in to do: its notation, and how far the
//! conversation in a request has got with it. Pure.

use std::time::Duration;

use serde_json::Value;

pub const NOTATION: &str = "\
What it answers is told by the last user message. Lines of these forms are done one after
another; other lines are prose. A message that asks for nothing to be said or done is answered
by one sentence that tells how many things the user has said in this conversation, and the
first and last of them.

  say: TEXT        a message
  think: TEXT      a reasoning summary
  run: COMMAND     a shell command; waits for its end
  leave: COMMAND   a shell command that is left running
  together: A | B  shell commands A and B at the same time; waits for their ends
  js: CODE         JavaScript for code mode, as it is; waits for its end
  leave-js: CODE   JavaScript that is left running
  patch: FILE      a patch that adds FILE to the workspace
  plan: a, +b      a plan of the steps a, b; + marks those that are done
                   (codex needs -c tools.update_plan.enabled=true and a model that it knows)
  search: QUERY    a web search
  mcp: SERVER TOOL JSON
                   a call of an MCP server's tool
  spawn: NAME SCRIPT
                   a sub-agent that does SCRIPT, in which `;;` stands for a line's end
  await            waits until a sub-agent has something to report
  goal: TEXT       sets a goal. Lines that begin with @ are for the turns that codex then
                   starts by itself
  nap: SECONDS     pauses the turn
  ask: QUESTION    a question to the user
  cost: N          nothing, but the response reports N more input tokens
  slow: N          a message of N words, 50 ms apart
  big: N           a message of N bytes
  wait: SECONDS    nothing for so long
  hold: NAME       a message that stops after its first words until POST /release/NAME
  hang             no answer, not even headers
  cut: N           the stream breaks off in the middle of a message; after N times, goes on
  fail: KIND [N]   fails; with N, only N times, and then goes on.  KIND is an HTTP status (400,
                   401, 403, 404, 429, 500, 503) or usage (limit reached), html (a captive
                   portal), context, quota, policy, invalid, rate, overloaded (the response
                   begins and then fails), incomplete, empty, garbage

A message that does something but says nothing ends with one that tells of the last command.
It calls only tools that the request offers, directly or in code mode. Where there is no such
tool, the response is an error that names it (status 400).
Each response reports input_tokens = 100 + 10 for each item of the request's input,
40 of them cached, and output_tokens = 20 + one for each item it sends, 5 of them reasoning.

GET /requests tells what was asked so far. POST /release/NAME lets the held messages go on.";

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    Say(String),
    Think(String),
    Run(String),
    Leave(String),
    Together(Vec<String>),
    JavaScript(String),
    LeaveJavaScript(String),
    Patch(String),
    Plan(Vec<(String, bool)>),
    Search(String),
    Mcp {
        server: String,
        tool: String,
        arguments: Value,
    },
    Spawn {
        name: String,
        script: String,
    },
    Await,
    Goal(String),
    Nap(Duration),
    Ask(String),
    Cost(u64),
    Slow(usize),
    Big(usize),
    Wait(Duration),
    Hold(String),
    Hang,
    Cut(usize),
    Fail {
        kind: String,
        times: usize,
    },
}

impl Step {
    /// Whether the model needs the outcome before it goes on, so that the response ends here.
    pub fn is_call(&self) -> bool {
        matches!(
            self,
            Self::Run(_)
                | Self::Leave(_)
                | Self::Together(_)
                | Self::JavaScript(_)
                | Self::LeaveJavaScript(_)
                | Self::Patch(_)
                | Self::Plan(_)
                | Self::Mcp { .. }
                | Self::Spawn { .. }
                | Self::Await
                | Self::Goal(_)
                | Self::Nap(_)
                | Self::Ask(_)
        )
    }

    fn parse(line: &str) -> Option<Self> {
        let line = line.trim();
        match line {
            "hang" => return Some(Self::Hang),
            "await" => return Some(Self::Await),
            _ => {}
        }
        let (name, rest) = line.split_once(':')?;
        let rest = rest.trim();
        Some(match name {
            "say" => Self::Say(rest.to_owned()),
            "think" => Self::Think(rest.to_owned()),
            "run" => Self::Run(rest.to_owned()),
            "leave" => Self::Leave(rest.to_owned()),
            "together" => Self::Together(rest.split(" | ").map(str::to_owned).collect()),
            "js" => Self::JavaScript(rest.to_owned()),
            "leave-js" => Self::LeaveJavaScript(rest.to_owned()),
            "patch" => Self::Patch(rest.to_owned()),
            "plan" => Self::Plan(rest.split(',').map(plan_item).collect()),
            "search" => Self::Search(rest.to_owned()),
            "mcp" => {
                let (server, rest) = rest.split_once(' ')?;
                let (tool, arguments) = rest.split_once(' ')?;
                Self::Mcp {
                    server: server.to_owned(),
                    tool: tool.to_owned(),
                    arguments: serde_json::from_str(arguments).ok()?,
                }
            }
            "spawn" => {
                let (name, script) = rest.split_once(' ')?;
                Self::Spawn {
                    name: name.to_owned(),
                    script: script.replace(";;", "\n"),
                }
            }
            "goal" => Self::Goal(rest.to_owned()),
            "nap" => Self::Nap(seconds(rest)?),
            "ask" => Self::Ask(rest.to_owned()),
            "cost" => Self::Cost(rest.parse().ok()?),
            "slow" => Self::Slow(rest.parse().ok()?),
            "big" => Self::Big(rest.parse().ok()?),
            "wait" => Self::Wait(seconds(rest)?),
            "hold" => Self::Hold(rest.to_owned()),
            "cut" => Self::Cut(rest.parse().ok()?),
            "fail" => match rest.split_once(' ') {
                Some((kind, times)) => Self::Fail {
                    kind: kind.to_owned(),
                    times: times.trim().parse().ok()?,
                },
                None => Self::Fail {
                    kind: rest.to_owned(),
                    times: usize::MAX,
                },
            },
            _ => return None,
        })
    }
}

fn seconds(text: &str) -> Option<Duration> {
    Duration::try_from_secs_f64(text.parse().ok()?).ok()
}

fn plan_item(text: &str) -> (String, bool) {
    let text = text.trim();
    match text.strip_prefix('+') {
        Some(done) => (done.trim().to_owned(), true),
        None => (text.to_owned(), false),
    }
}

/// A request's conversation, seen from its last user message.
#[derive(Debug, Default, PartialEq)]
pub struct Conversation {
    /// What the user said, oldest first; what codex says in the user's name left out.
    pub said: Vec<String>,
    /// The images with the last of that, as URLs.
    pub images: Vec<String>,
    /// The outputs of the calls since then.
    pub outputs: Vec<String>,
    /// codex has started this turn by itself, for a goal.
    pub for_goal: bool,
    pub items: usize,
}

impl Conversation {
    pub fn read(request: &Value) -> Self {
        let input = request["input"].as_array().map_or(&[][..], Vec::as_slice);
        let mut conversation = Self {
            items: input.len(),
            ..Self::default()
        };
        for item in input {
            let kind = item["type"].as_str().unwrap_or_default();
            // codex also puts in some that answer no call.
            if kind.ends_with("_output") && item.get("call_id").is_some() {
                conversation.outputs.push(text_of(&item["output"]));
            } else if kind == "message" && item["role"] == "user" {
                let text = text_of(&item["content"]);
                if text.trim_start().starts_with("<codex_internal_context") {
                    conversation.for_goal = true;
                    conversation.outputs.clear();
                } else if !is_codex_speaking(&text) {
                    conversation.asked(&text);
                    conversation.images = images_of(&item["content"]);
                }
            } else if kind == "agent_message"
                && let Some(task) = task_of(&item["content"])
            {
                conversation.asked(&task);
            }
        }
        conversation
    }

    fn asked(&mut self, text: &str) {
        self.said.push(text.trim().to_owned());
        self.outputs.clear();
        self.for_goal = false;
    }

    pub fn prompt(&self) -> &str {
        self.said.last().map_or("", String::as_str)
    }

    /// What is to be done in the response to this request.
    pub fn next(&self) -> Next {
        let lines = self.prompt().lines();
        let steps: Vec<Step> = lines
            .filter_map(|line| match line.trim_start().strip_prefix('@') {
                Some(line) => self.for_goal.then(|| Step::parse(line))?,
                None if self.for_goal => None,
                None => Step::parse(line),
            })
            .collect();
        let mut calls = steps
            .iter()
            .enumerate()
            .filter(|(_, step)| step.is_call())
            .peekable();
        let mut begin = 0;
        let mut poll = None;
        for output in &self.outputs {
            let Some((index, step)) = calls.peek() else {
                break;
            };
            poll = match step {
                Step::Run(_) | Step::Together(_) | Step::JavaScript(_) => Poll::read(output),
                _ => None,
            };
            if poll.is_none() {
                begin = index + 1;
                calls.next();
            }
        }
        let end = calls.next().map_or(steps.len(), |(index, _)| index + 1);
        Next {
            steps: steps[begin..end].to_vec(),
            poll,
        }
    }

    /// The agents that were spawned for the prompt, where they are known by an id.
    pub fn agents(&self) -> Vec<String> {
        let id = |output: &String| {
            let output: Value = serde_json::from_str(output).ok()?;
            Some(output["agent_id"].as_str()?.to_owned())
        };
        self.outputs.iter().filter_map(id).collect()
    }

    /// One sentence that shows that the conversation is remembered.
    pub fn answer(&self) -> String {
        let (Some(first), Some(last)) = (self.said.first(), self.said.last()) else {
            return "You have said nothing.".to_owned();
        };
        match self.said.len() {
            1 => format!("You have said 1 thing: “{}”.", short(first)),
            n => format!(
                "You have said {n} things; the first was “{}”, the last “{}”.",
                short(first),
                short(last)
            ),
        }
    }

    /// What the last command printed, as the closing words of a turn without a message of its own.
    pub fn closing(&self) -> String {
        let printed = self
            .outputs
            .last()
            .and_then(|output| output.split_once("Output:\n"))
            .map(|(_, printed)| printed.trim())
            .filter(|printed| !printed.is_empty());
        match printed {
            Some(printed) => format!("Done. The command printed: {}", short(printed)),
            None => "Done.".to_owned(),
        }
    }
}

/// The part of a script that one response performs.
#[derive(Debug, PartialEq)]
pub struct Next {
    pub steps: Vec<Step>,
    /// What still runs: to be asked again, before anything else.
    pub poll: Option<Poll>,
}

/// What a call has left running, by the number that codex gave it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Poll {
    /// A command.
    Session(u64),
    /// A script of code mode.
    Cell(String),
}

impl Poll {
    fn read(output: &str) -> Option<Self> {
        let number = |after: &str| {
            let (_, rest) = output.split_once(after)?;
            rest.split(|c: char| !c.is_ascii_digit()).next()
        };
        if let Some(cell) = number("Script running with cell ID ") {
            return Some(Self::Cell(cell.to_owned()));
        }
        let session = number("Process running with session ID ")?;
        Some(Self::Session(session.parse().ok()?))
    }
}

impl Next {
    /// Whether this response ends the turn without having said anything.
    pub fn ends_silently(&self) -> bool {
        !self.steps.last().is_some_and(Step::is_call) && !self.steps.iter().any(is_message)
    }
}

fn is_message(step: &Step) -> bool {
    matches!(
        step,
        Step::Say(_) | Step::Slow(_) | Step::Big(_) | Step::Hold(_)
    )
}

/// codex puts its context before the prompt as messages of the user's.
fn is_codex_speaking(text: &str) -> bool {
    let text = text.trim_start();
    text.starts_with("<environment_context>")
        || text.starts_with("<user_instructions>")
        || text.starts_with("<skill")
        || text.starts_with("<turn_aborted>")
        || text.starts_with("<subagent_notification>")
        || text.starts_with("Another language model started to solve this problem")
        || text.starts_with("# AGENTS.md")
}

/// What a parent asks of its sub-agent. The model reads it, though codex calls
/// it encrypted.
fn task_of(content: &Value) -> Option<String> {
    let blocks = content.as_array()?;
    let first = blocks.first()?["text"].as_str()?;
    first.starts_with("Message Type: NEW_TASK").then_some(())?;
    let task = blocks.get(1)?["encrypted_content"].as_str()?;
    Some(task.to_owned())
}

fn text_of(content: &Value) -> String {
    match content {
        Value::String(text) => text.clone(),
        Value::Array(blocks) => blocks
            .iter()
            .filter_map(|block| block["text"].as_str())
            .collect::<Vec<_>>()
            .join("\n"),
        _ => String::new(),
    }
}

fn images_of(content: &Value) -> Vec<String> {
    let blocks = content.as_array().map_or(&[][..], Vec::as_slice);
    let urls = blocks
        .iter()
        .filter_map(|block| block["image_url"].as_str());
    urls.map(str::to_owned).collect()
}

/// In one line, and without what is not prose unless that is all.
fn short(text: &str) -> String {
    const MOST: usize = 80;
    let prose: Vec<&str> = text
        .lines()
        .filter(|line| Step::parse(line).is_none())
        .flat_map(str::split_whitespace)
        .collect();
    let line = match prose.is_empty() {
        true => text.trim().to_owned(),
        false => prose.join(" "),
    };
    match line.char_indices().nth(MOST) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn conversation(said: &[&str], outputs: &[&str]) -> Conversation {
        let own = |text: &str| text.to_owned();
        Conversation {
            said: said.iter().map(|text| own(text)).collect(),
            outputs: outputs.iter().map(|text| own(text)).collect(),
            items: 0,
            ..Conversation::default()
        }
    }

    #[test]
    fn reads_what_the_user_said_and_not_what_codex_says_for_it() {
        let message = |role: &str, text: &str| json!({"type": "message", "role": role, "content": [{"type": "input_text", "text": text}]});
        let request = json!({"input": [
            message("developer", "Rules"),
            message("user", "<environment_context>\n<cwd>/w</cwd></environment_context>"),
            message("user", "run: ls\n"),
            {"type": "function_call_output", "call_id": "c", "output": "of the first"},
            message("assistant", "Done."),
            message("user", "again"),
            {"type": "function_call_output", "name": "goal_objective", "output": "of none"},
            {"type": "custom_tool_call_output", "call_id": "c", "output": [{"type": "input_text", "text": "of the second"}]},
        ]});
        let read = Conversation::read(&request);
        assert_eq!(read.said, ["run: ls", "again"]);
        assert_eq!(read.outputs, ["of the second"]);
        assert_eq!(read.items, 8);
    }

    #[test]
    fn a_script_goes_on_where_its_last_call_ended() {
        let script = "say: a\nrun: one\nprose\nsay: b\npatch: f\nsay: c";
        let steps = |outputs: &[&str]| conversation(&[script], outputs).next().steps;
        let (a, b, c) = (
            Step::Say("a".into()),
            Step::Say("b".into()),
            Step::Say("c".into()),
        );
        assert_eq!(steps(&[]), [a, Step::Run("one".into())]);
        assert_eq!(steps(&["exited"]), [b, Step::Patch("f".into())]);
        assert_eq!(steps(&["exited", "patched"]), [c]);
    }

    #[test]
    fn a_running_command_is_asked_again_until_it_has_ended() {
        let running = "Process running with session ID 7\nOutput:\n";
        let next = |outputs: &[&str]| conversation(&["run: sleep 60"], outputs).next();
        assert_eq!(next(&[running]).poll, Some(Poll::Session(7)));
        assert_eq!(next(&[running, running]).poll, Some(Poll::Session(7)));
        let script = "Script running with cell ID 3\nOutput:\n";
        assert_eq!(next(&[script]).poll, Some(Poll::Cell("3".to_owned())));
        let end = next(&[running, "Process exited with code 0\nOutput:\n"]);
        assert!(end.poll.is_none() && end.steps.is_empty() && end.ends_silently());
    }

    #[test]
    fn a_sub_agent_does_its_task_and_a_goals_turn_its_own_lines() {
        let task = |kind: &str, text: &str| {
            json!({"type": "agent_message", "content": [
                {"type": "input_text", "text": format!("Message Type: {kind}\nPayload:\n")},
                {"type": "encrypted_content", "encrypted_content": text}]})
        };
        let said = |text: &str| json!({"type": "message", "role": "user", "content": [{"type": "input_text", "text": text}]});
        let steps = |input: Value| Conversation::read(&json!({"input": input})).next().steps;
        let prompt = said("spawn: kid say: a;;say: b\n@say: of the goal");
        let spawn = Step::Spawn {
            name: "kid".into(),
            script: "say: a\nsay: b".into(),
        };
        assert_eq!(steps(json!([prompt])), [spawn]);
        let kid = json!([prompt, task("NEW_TASK", "say: a")]);
        assert_eq!(steps(kid), [Step::Say("a".into())]);
        let spawned = json!({"type": "function_call_output", "call_id": "c", "output": "{}"});
        let parent = json!([prompt, spawned, task("FINAL_ANSWER", "say: a")]);
        assert_eq!(steps(parent), []);
        let goal = json!([prompt, spawned, said("<codex_internal_context>go on")]);
        assert_eq!(steps(goal), [Step::Say("of the goal".into())]);
    }

    #[test]
    fn an_answer_shows_what_is_remembered() {
        let answer = |said: &[&str]| conversation(said, &[]).answer();
        assert_eq!(answer(&["Hi"]), "You have said 1 thing: “Hi”.");
        assert_eq!(
            answer(&["I am Ada\nwait: 0.5", "Hm", "Who am I?"]),
            "You have said 3 things; the first was “I am Ada”, the last “Who am I?”."
        );
    }
}
