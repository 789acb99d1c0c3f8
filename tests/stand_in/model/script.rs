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
  patch: FILE      a patch that adds FILE to the workspace
  plan: a, +b      a plan of the steps a, b; + marks those that are done
                   (codex needs -c tools.update_plan.enabled=true and a model that it knows)
  search: QUERY    a web search
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
Each response reports input_tokens = 100 + 10 for each item of the request's input,
40 of them cached, and output_tokens = 20 + one for each item it sends, 5 of them reasoning.

GET /requests tells what was asked so far. POST /release/NAME lets the held messages go on.";

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    Say(String),
    Think(String),
    Run(String),
    Leave(String),
    Patch(String),
    Plan(Vec<(String, bool)>),
    Search(String),
    Slow(usize),
    Big(usize),
    Wait(Duration),
    Hold(String),
    Hang,
    Cut(usize),
    Fail { kind: String, times: usize },
}

impl Step {
    /// Whether the model needs the outcome before it goes on, so that the response ends here.
    pub fn is_call(&self) -> bool {
        matches!(
            self,
            Self::Run(_) | Self::Leave(_) | Self::Patch(_) | Self::Plan(_)
        )
    }

    fn parse(line: &str) -> Option<Self> {
        let line = line.trim();
        if line == "hang" {
            return Some(Self::Hang);
        }
        let (name, rest) = line.split_once(':')?;
        let rest = rest.trim();
        Some(match name {
            "say" => Self::Say(rest.to_owned()),
            "think" => Self::Think(rest.to_owned()),
            "run" => Self::Run(rest.to_owned()),
            "leave" => Self::Leave(rest.to_owned()),
            "patch" => Self::Patch(rest.to_owned()),
            "plan" => Self::Plan(rest.split(',').map(plan_item).collect()),
            "search" => Self::Search(rest.to_owned()),
            "slow" => Self::Slow(rest.parse().ok()?),
            "big" => Self::Big(rest.parse().ok()?),
            "wait" => Self::Wait(Duration::try_from_secs_f64(rest.parse().ok()?).ok()?),
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
            if kind.ends_with("_output") {
                conversation.outputs.push(text_of(&item["output"]));
            } else if kind == "message" && item["role"] == "user" {
                let text = text_of(&item["content"]);
                if !is_codex_speaking(&text) {
                    conversation.said.push(text.trim().to_owned());
                    conversation.outputs.clear();
                    conversation.images = images_of(&item["content"]);
                }
            }
        }
        conversation
    }

    pub fn prompt(&self) -> &str {
        self.said.last().map_or("", String::as_str)
    }

    /// What is to be done in the response to this request.
    pub fn next(&self) -> Next {
        let steps: Vec<Step> = self.prompt().lines().filter_map(Step::parse).collect();
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
                Step::Run(_) => running_session(output),
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

    /// What the last command printed, as the closing words of a turn that says nothing itself.
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
    /// The session of a command that still runs: to be asked again, before anything else.
    pub poll: Option<u64>,
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
        || text.starts_with("# AGENTS.md")
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

fn running_session(output: &str) -> Option<u64> {
    let (_, rest) = output.split_once("Process running with session ID ")?;
    let digits = rest.split(|c: char| !c.is_ascii_digit()).next()?;
    digits.parse().ok()
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
            {"type": "function_call_output", "output": "of the first"},
            message("assistant", "Done."),
            message("user", "again"),
            {"type": "custom_tool_call_output", "output": [{"type": "input_text", "text": "of the second"}]},
        ]});
        let read = Conversation::read(&request);
        assert_eq!(read.said, ["run: ls", "again"]);
        assert_eq!(read.outputs, ["of the second"]);
        assert_eq!(read.items, 7);
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
        assert_eq!(next(&[running]).poll, Some(7));
        assert_eq!(next(&[running, running]).poll, Some(7));
        let end = next(&[running, "Process exited with code 0\nOutput:\n"]);
        assert!(end.poll.is_none() && end.steps.is_empty() && end.ends_silently());
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
