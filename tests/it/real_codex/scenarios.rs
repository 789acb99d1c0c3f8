//! What agents of today do, played by the stand-in model with the tools that
//! codex offers to its default model, on both engines, in a pool.
//!
//! Of each row of the table: its events are as the contract has them (the pool
//! checks that), it ends once and as expected, alike with both engines but for
//! what the docs list, its usage, and the share of its sub-agents, is what the
//! model has counted, and after its end it does not go on: no request, no
//! process, no write.

pub(super) mod rows;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use std::{env, fs, thread};

use jiff::Timestamp;
use serde_json::{Value, json};
use tempfile::TempDir;

use self::rows::{Ends, OTHER_MODEL, Row, With, default_model};
use super::{program, write_home};
use crate::support::engine;
use crate::support::host::stand_in;
use crate::support::model_server::{ModelServer, NOT_OFFERED, Request};
use crate::support::pool::{Pool, Turn, turn};
use crate::support::processes::{describe, of_workspace};

const ENGINES: [&str; 2] = ["exec", "app-server"];

/// Long enough for what goes on after an end to be noticed.
const QUIET_HEARTBEATS: usize = 3;

/// One that is no model's default.
const EFFORT: &str = "xhigh";

const COMPACTED: &str = "codex.compacted";

/// One transparent pixel.
const PNG: &str = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==";

#[tokio::test(flavor = "multi_thread")]
async fn g3_g5_g7_today_s_agents_end_with_their_turns_alike_on_both_engines() {
    play("default", rows::DEFAULT, &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn g3_a_goal_lasts_no_longer_than_its_turn() {
    let args = "--disable unbounded_connection_retries --disable plugins \
                -c analytics.enabled=false --enable goals";
    play("goals", rows::GOALS, &[("CODEX_ARGS", args)]).await;
}

async fn play(table: &str, rows: &'static [Row], settings: &[(&str, &str)]) {
    let [exec, server] = ENGINES.map(|engine| Stage::play(table, engine, rows, settings));
    let (exec, server) = tokio::join!(exec, server);
    let failed = rows.iter().map(|row| row.name).filter(|name| {
        let both = exec.get(name).zip(server.get(name));
        let alike = both.is_some_and(|(exec, server)| exec == server);
        if let (Some((exec, server)), false) = (both, alike) {
            eprintln!("{name} differs between exec and app-server: {exec:#?}, {server:#?}");
        }
        !alike
    });
    let failed: Vec<&str> = failed.collect();
    assert!(failed.is_empty(), "these rows fail, see above: {failed:?}");
}

/// Of each pool: a conversation's turns are run by either.
const PROCESSES: usize = 2;

/// A pool with one of the engines, and the model that its codex asks.
struct Stage {
    engine: &'static str,
    pool: Pool,
    model: ModelServer,
    home: TempDir,
}

impl Stage {
    /// All rows to their ends. Returns what readers received of each that went
    /// as expected, as far as both engines report it.
    async fn play(
        table: &str,
        engine: &'static str,
        rows: &'static [Row],
        settings: &[(&str, &str)],
    ) -> BTreeMap<&'static str, Vec<Value>> {
        let mut stage = Self::set(engine, settings).await;
        for row in rows {
            stage.begin(row).await;
        }
        for row in rows {
            stage.finish(row).await;
        }
        // Where a goal's turn outlived its end, it goes on now.
        stage.model.release("goals");
        stage.pool.heartbeats(QUIET_HEARTBEATS).await;
        let judged = rows.iter().filter_map(|row| {
            // So that one run shows all rows that fail.
            let judged = catch_unwind(AssertUnwindSafe(|| stage.judge(row)));
            keep(&format!("{table}.{}.{engine}", row.name), &judged);
            Some((row.name, judged.ok()?))
        });
        let told = judged.collect();
        stage.pool.stop().await;
        told
    }

    async fn set(engine: &'static str, settings: &[(&str, &str)]) -> Self {
        let model = ModelServer::start().unwrap();
        let home = tempfile::tempdir().unwrap();
        let codex_home = home.path().join("codex-home");
        let mcp = format!(
            "[mcp_servers.stand-in]\ncommand = {:?}\nargs = [\"mcp\"]\n",
            stand_in()
        );
        write_home(&codex_home, &model, &mcp);
        let config = codex_home.join("config.toml");
        let limit = "model_auto_compact_token_limit = 50000\n";
        let rest = fs::read_to_string(&config).unwrap();
        fs::write(&config, limit.to_owned() + &rest).unwrap();
        let program = program();
        let mut all = vec![
            ("CODEX_BIN", program.to_str().unwrap()),
            ("CODEX_HOME", codex_home.to_str().unwrap()),
            ("CODEX_ENV", "PATH,HOME"),
            ("CODEX_ENGINE", engine),
            ("SLOTS", "2"),
        ];
        all.extend(settings);
        Self {
            engine,
            pool: Pool::start(PROCESSES, &all).await,
            model,
            home,
        }
    }

    /// Enqueues as many of its turns as can be at once.
    async fn begin(&mut self, row: &Row) {
        let last = row.turns.len() - 1;
        for number in 0..=last {
            if number < last || row.with != With::LostThread {
                self.enqueue(row, number).await;
            }
        }
    }

    async fn enqueue(&mut self, row: &Row, number: usize) {
        let script: Vec<&str> = row.turns[number].lines().collect();
        let mut request = turn(&id(row, number), row.name, &script);
        if number == 0 && row.with == With::ModelBefore {
            request["model"] = json!(OTHER_MODEL);
        }
        if number == 0 && row.with == With::EffortBefore {
            request["reasoning_effort"] = json!(EFFORT);
        }
        if number + 1 == row.turns.len() {
            match row.with {
                With::Timeout => request["timeout_s"] = json!(6),
                With::Schema => request["output_schema"] = json!({"type": "object"}),
                With::Image => {
                    let text = request["messages"][0]["content"].take();
                    request["messages"][0]["content"] = json!([
                        {"type": "text", "text": text},
                        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}}]);
                }
                With::Effort => request["reasoning_effort"] = json!(EFFORT),
                With::Model => request["model"] = json!(OTHER_MODEL),
                With::Nothing
                | With::Cancel
                | With::LostThread
                | With::ModelBefore
                | With::EffortBefore => {}
            }
        }
        self.pool.enqueue(&[request]).await;
    }

    /// To the end of its last turn.
    async fn finish(&mut self, row: &Row) {
        let last = row.turns.len() - 1;
        match row.with {
            With::Cancel => {
                let begun = self.pool.root().join(row.name).join("begun");
                let probe = async || begun.exists().then_some(());
                self.pool.deadline.until("the turn has begun", probe).await;
                self.pool.cancel(&id(row, last)).await;
            }
            With::LostThread => {
                let before = self.pool.events.ended(&id(row, last - 1)).await;
                let thread = before.end().unwrap()["thread_id"].as_str().unwrap();
                remove(&self.home.path().join("codex-home/sessions"), thread);
                // Nor may a server still have it.
                self.pool.unlocked(row.name).await;
                self.enqueue(row, last).await;
            }
            _ => {}
        }
        self.pool.events.ended(&id(row, last)).await;
    }

    fn judge(&self, row: &Row) -> Vec<Value> {
        let what = format!("{} with {}", row.name, self.engine);
        let turns: Vec<Turn> = (0..row.turns.len())
            .map(|number| self.pool.events.turn(&id(row, number)))
            .collect();
        let last = turns.last().unwrap();
        self.judge_end(row, last, &what);
        assert_eq!(last.said(1), row.said, "{what}: {last:#?}");
        let is_compacted = last.all().any(|event| event["code"] == COMPACTED);
        if row.is_compacted {
            let is_reported = self.engine == "app-server";
            assert_eq!(is_compacted, is_reported, "{what}: {last:#?}");
        }
        self.judge_usage(row, &turns, &what);
        self.judge_model(row, last, &what);
        self.judge_quiet(row, &turns, &what);
        let mut told = common(last, &self.pool.root().join(row.name));
        if row.in_any_order {
            for event in &mut told {
                for name in ["id", "tool_use_id", "item_id"] {
                    event.as_object_mut().unwrap().remove(name);
                }
            }
            told.sort_by_key(Value::to_string);
        }
        told
    }

    fn judge_end(&self, row: &Row, turn: &Turn, what: &str) {
        let error = turn.all().find(|event| event["type"] == "error");
        let error = error.map_or(&Value::Null, |event| &event["error"]);
        let (reason, fits) = match row.ends {
            Ends::EndTurn => ("end_turn", true),
            Ends::Cancelled => ("cancelled", true),
            Ends::Timeout => ("timeout", error["code"] == "turn.timeout"),
            Ends::Error(code, reason) => {
                ("error", error["code"] == code && error["reason"] == reason)
            }
            Ends::NotOffered => {
                let message = error["message"].as_str().unwrap_or_default();
                ("error", message.contains(NOT_OFFERED))
            }
        };
        assert_eq!(turn.stop_reason(), reason, "{what}: {turn:#?}");
        assert!(fits, "{what}: {turn:#?}");
    }

    fn judge_usage(&self, row: &Row, turns: &[Turn], what: &str) {
        let last = turns.last().unwrap();
        let since = turns.iter().rev().nth(1).map_or(0, ended_at);
        // What codex has hung up on, no one has reported to it.
        let requests: Vec<Request> = self
            .requests(last)
            .filter(|request| millis(request.at) > since && !request.abandoned)
            .collect();
        let usage = &last.end().unwrap()["usage"];
        let told = (counts(usage), counts(&usage["agents"]));
        let costs = |taken: &[&Request]| {
            let of_agents = taken.iter().filter(|of| of.thread != of.session);
            (cost(taken.iter().copied()), cost(of_agents.copied()))
        };
        let mut possible = vec![requests.iter().collect::<Vec<&Request>>()];
        for last in last_of_agents(&requests).filter(|_| row.leaves_agents) {
            // It may have been answered at the moment in which its agent was stopped.
            let without = possible.iter().map(|taken| {
                let rest = taken.iter().filter(|of| of.number != last.number);
                rest.copied().collect()
            });
            let without: Vec<Vec<&Request>> = without.collect();
            possible.extend(without);
        }
        let fits = possible.iter().any(|taken| costs(taken) == told);
        assert!(fits, "{what}: {told:?}, {requests:#?}");
    }

    /// It is the one that was asked for, of the model's API too, and reported.
    fn judge_model(&self, row: &Row, turn: &Turn, what: &str) {
        let named = (row.with == With::Model).then_some(OTHER_MODEL);
        let asked = named.unwrap_or(default_model());
        let (start, end) = (turn.all().next().unwrap(), turn.end().unwrap());
        // If no model is named, it is known once a turn was run without one.
        let started = start["model"].as_str();
        assert!(
            started == Some(asked) || started == named,
            "{what}: {started:?}"
        );
        assert_eq!(end["model"].as_str(), Some(asked), "{what}");
        // The first request of a turn with another model may be for a summary of
        // what the last one was shown.
        let requests = self.requests(turn);
        let request = requests.filter(|of| of.thread == of.session).last();
        let request = request.unwrap();
        assert_eq!(request.model, asked, "{what}");
        let effort = request.effort.as_deref();
        let is_as_asked = (effort == Some(EFFORT)) == (row.with == With::Effort);
        assert!(is_as_asked, "{what}: {effort:?}");
    }

    /// The requests of a turn's conversation, also of its sub-agents.
    fn requests(&self, turn: &Turn) -> impl Iterator<Item = Request> {
        let thread = turn.end().unwrap()["thread_id"].clone();
        let requests = self.model.requests().into_iter();
        requests.filter(move |request| thread == request.session.as_str())
    }

    /// After the end of a turn it does not go on.
    fn judge_quiet(&self, row: &Row, turns: &[Turn], what: &str) {
        for (number, turn) in turns.iter().enumerate() {
            let end = ended_at(turn);
            let next = turns.get(number + 1).map_or(u128::MAX, began_at);
            let early: Vec<String> = self
                .requests(turn)
                .filter(|request| millis(request.at) <= end)
                .map(|request| request.thread)
                .collect();
            // One that was in flight when its agent was stopped may be seen only now.
            let late = self.requests(turn).filter(|of| millis(of.at) > end);
            for request in late.filter(|request| !request.abandoned) {
                let is_agents = request.thread != request.session;
                assert!(
                    millis(request.at) >= next
                        && !request.for_goal
                        && !(is_agents && early.contains(&request.thread)),
                    "{what}, turn {number}: asks the model {} ms after its end: {request:#?}",
                    millis(request.at) - end
                );
            }
        }
        let dir = self.pool.root().join(row.name);
        let end = ended_at(turns.last().unwrap());
        for entry in fs::read_dir(&dir).unwrap() {
            let entry = entry.unwrap();
            let written = millis(entry.metadata().unwrap().modified().unwrap());
            let name = entry.file_name();
            assert!(written <= end, "{what}: writes {name:?} after its end");
        }
        // But for a server that waits for the next turn, with its own MCP server and the host of
        // its scripts, all of which have ended: else the server would not be kept.
        let living = of_workspace(&dir.canonicalize().unwrap());
        let living = living.into_iter().map(describe);
        let left: Vec<String> = living
            .filter(|of| {
                let is_server = of.contains(" app-server ")
                    || self.engine == "app-server" && of.contains("/codex-code-mode-host ");
                !is_server && !of.trim_end().ends_with(" mcp")
            })
            .collect();
        assert!(left.is_empty(), "{what}: live after its end: {left:#?}");
    }
}

/// The last request of each sub-agent.
fn last_of_agents(requests: &[Request]) -> impl Iterator<Item = &Request> {
    let agents = requests.iter().filter(|of| of.thread != of.session);
    let last: BTreeMap<&str, &Request> = agents.map(|of| (&*of.thread, of)).collect();
    last.into_values()
}

/// Writes down what a row reported, where `ops/codex/try` compares versions.
fn keep(name: &str, judged: &thread::Result<Vec<Value>>) {
    let Some(folder) = env::var_os("TURN_WORKER_TEST_REPORTED") else {
        return;
    };
    let text = match judged {
        Ok(events) => events.iter().map(|event| format!("{event}\n")).collect(),
        Err(panic) => {
            let message = panic.downcast_ref::<String>().map_or("", String::as_str);
            format!("failed: {}\n", message.lines().next().unwrap_or_default())
        }
    };
    fs::write(Path::new(&folder).join(name), text).unwrap();
}

fn id(row: &Row, number: usize) -> String {
    format!("{}.{number}", row.name)
}

fn remove(folder: &Path, thread: &str) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            remove(&path, thread);
        } else if path.to_str().unwrap().contains(thread) {
            fs::remove_file(path).unwrap();
        }
    }
}

fn cost<'a>(requests: impl Iterator<Item = &'a Request>) -> Option<[u64; 3]> {
    let costs = requests.filter_map(|request| {
        let usage = request.usage.as_ref()?;
        let cached = &usage["input_tokens_details"]["cached_tokens"];
        let counts = [&usage["input_tokens"], cached, &usage["output_tokens"]];
        Some(counts.map(|count| count.as_u64().unwrap()))
    });
    costs.reduce(|one, other| std::array::from_fn(|at| one[at] + other[at]))
}

/// Returns `None` if they are absent.
fn counts(usage: &Value) -> Option<[u64; 3]> {
    let usage = usage.as_object()?;
    let names = ["input_tokens", "cache_read_tokens", "output_tokens"];
    Some(names.map(|name| usage[name].as_u64().unwrap()))
}

fn millis(time: SystemTime) -> u128 {
    let since = time.duration_since(UNIX_EPOCH);
    since.unwrap_or(Duration::ZERO).as_millis()
}

fn time_of(event: &Value) -> u128 {
    let time: Timestamp = event["time"].as_str().unwrap().parse().unwrap();
    time.as_millisecond() as u128
}

fn began_at(turn: &Turn) -> u128 {
    time_of(turn.all().next().unwrap())
}

fn ended_at(turn: &Turn) -> u128 {
    time_of(turn.end().unwrap())
}

/// A turn's events as both engines have to report them: texts whole, ids by
/// number, without what differs from run to run.
fn common(turn: &Turn, dir: &Path) -> Vec<Value> {
    let here = dir.canonicalize().unwrap();
    let mut ids = Vec::new();
    let events = engine::whole(turn.all()).into_iter();
    let events = events.filter(|event| !is_of_one_engine(event));
    events
        .map(|mut event| {
            let fields = event.as_object_mut().unwrap();
            // The model and the usage are judged apart.
            for name in ["time", "seq", "duration_ms", "usage", "model"] {
                fields.remove(name);
            }
            // What people read may differ, see the code.
            fields.remove("message");
            if let Some(error) = fields.get_mut("error") {
                error["message"] = Value::Null;
            }
            for name in ["id", "item_id", "tool_use_id"] {
                if let Some(id) = fields.get_mut(name) {
                    *id = numbered(&mut ids, id.as_str().unwrap()).into();
                }
            }
            let text = event.to_string().replace(here.to_str().unwrap(), "/here");
            serde_json::from_str(&without_uuids(&text, &mut ids)).unwrap()
        })
        .collect()
}

/// What `codex exec` does not report.
fn is_of_one_engine(event: &Value) -> bool {
    event["name"] == "sub_agent" || event["code"] == COMPACTED
}

fn numbered(known: &mut Vec<String>, id: &str) -> String {
    let at = known.iter().position(|known| known == id);
    let at = at.unwrap_or_else(|| {
        known.push(id.to_owned());
        known.len() - 1
    });
    format!("#{at}")
}

fn without_uuids(text: &str, ids: &mut Vec<String>) -> String {
    const LENGTH: usize = 36;
    let mut out = String::new();
    let mut rest = text;
    while let Some(next) = rest.chars().next() {
        let uuid = rest
            .get(..LENGTH)
            .filter(|of| uuid::Uuid::try_parse(of).is_ok());
        match uuid {
            Some(uuid) => {
                out.push_str(&numbered(ids, uuid));
                rest = &rest[LENGTH..];
            }
            None => {
                out.push(next);
                rest = &rest[next.len_utf8()..];
            }
        }
    }
    out
}
