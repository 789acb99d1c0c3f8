//! The real codex in a pool, from a producer's request to a reader's event.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use serde_json::{Value, json};

use super::scenarios::rows::{OTHER_MODEL, default_model};
use super::{cost, program, write_home};
use crate::support::host::stand_in;
use crate::support::model_server::{ModelServer, Request};
use crate::support::pool::{Pool, Turn, turn};
use crate::support::processes::{of_workspace, watched};

/// A pool of one process with the real codex.
pub(super) async fn pool(settings: &[(&str, &str)]) -> (Pool, ModelServer, tempfile::TempDir) {
    let model = ModelServer::start().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let home = dir.path().join("codex-home");
    write_home(&home, &model, "");
    let program = program();
    let mut all = vec![
        ("CODEX_BIN", program.to_str().unwrap()),
        ("CODEX_HOME", home.to_str().unwrap()),
        ("CODEX_ENV", "PATH,HOME"),
    ];
    all.extend(settings);
    (Pool::start(1, &all).await, model, dir)
}

fn usage(end: &Value) -> Option<[u64; 3]> {
    let usage = end.get("usage")?;
    let count = |name: &str| usage[name].as_u64().unwrap();
    Some([
        count("input_tokens"),
        count("cache_read_tokens"),
        count("output_tokens"),
    ])
}

async fn metrics(pool: &Pool) -> [f64; 3] {
    let metrics = pool.processes().last().unwrap().metrics().await;
    let of = |name: &str| {
        metrics.get(&format!(
            "turn_worker_{name}_total{{model=\"{}\"}}",
            default_model()
        ))
    };
    [
        of("input_tokens"),
        of("cached_input_tokens"),
        of("output_tokens"),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn g1_g7_a_conversation_through_the_pool() {
    let (mut pool, model, _home) = pool(&[]).await;
    let requests = [
        turn("ada", "a", &["I am Ada."]),
        turn("bob", "b", &["I am Bob."]),
        turn("trains", "a", &["run: echo trains"]),
        turn("who", "a", &["Who am I?"]),
    ];
    pool.enqueue(&requests).await;
    let mut total = [0; 3];
    for (id, prompt) in [
        ("ada", "Ada"),
        ("bob", "Bob"),
        ("trains", "trains"),
        ("who", "Who"),
    ] {
        let turn = pool.events.ended(id).await;
        assert_eq!(turn.stop_reason(), "end_turn", "{turn:#?}");
        let spent = usage(turn.end().unwrap());
        assert_eq!(spent, cost(&model.requests(), prompt), "{id}");
        total = std::array::from_fn(|at| total[at] + spent.unwrap()[at]);
    }
    let who = pool.events.turn("who");
    let answer = "You have said 3 things; the first was “ada I am Ada.”, the last “who Who am I?”.";
    assert_eq!(who.said(1), [answer]);
    // What one turn without a model was run with, the next one is expected to be.
    assert_eq!(who.all().next().unwrap()["model"], default_model());
    pool.idle().await;
    assert_eq!(metrics(&pool).await, total.map(|count| count as f64));
    pool.stop().await;
}

/// A turn that names no model is held to the list as well, before anything is
/// asked of it.
#[tokio::test(flavor = "multi_thread")]
async fn only_listed_models_are_asked_also_by_default_and_a_tier_for_its_turn() {
    for engine in ["app-server", "exec"] {
        let settings = [("CODEX_ENGINE", engine), ("CODEX_MODELS", OTHER_MODEL)];
        let (mut pool, model, _home) = pool(&settings).await;
        let mut tiered = turn("tiered", "a", &["say: Tiered."]);
        tiered["model"] = json!(OTHER_MODEL);
        let mut named = turn("named", "a", &["say: Named."]);
        named["model"] = json!(OTHER_MODEL);
        tiered["service_tier"] = json!("flex");
        pool.enqueue(&[tiered, named, turn("unnamed", "a", &["say: Unnamed."])])
            .await;
        let named = pool.events.ended("named").await;
        assert_eq!(named.stop_reason(), "end_turn", "{named:#?}");
        let unnamed = pool.events.ended("unnamed").await;
        assert_eq!(unnamed.stop_reason(), "error", "{unnamed:#?}");
        // A tier is for its turn only, or is not taken.
        let of_exec = engine == "exec";
        let tiered = pool.events.ended("tiered").await;
        let expected = if of_exec { "error" } else { "end_turn" };
        assert_eq!(tiered.stop_reason(), expected, "{tiered:#?}");
        let tiers = model.requests().into_iter().map(|asked| asked.service_tier);
        let tiers: Vec<Option<String>> = tiers.collect();
        let flex = (!of_exec).then(|| Some("flex".to_owned()));
        let expected: Vec<_> = flex.into_iter().chain([None]).collect();
        assert_eq!(tiers, expected, "{engine}");
        let asked = model.requests().into_iter().map(|request| request.model);
        let asked_default = asked.filter(|asked| asked == default_model()).count();
        assert_eq!(asked_default, 0, "{engine}");
        let error = unnamed.all().find(|event| event["type"] == "error");
        let error = &error.unwrap()["error"];
        assert_eq!(error["code"], "turn.failed", "{error}");
        assert_eq!(error["reason"], "config", "{error}");
        let message = error["message"].as_str().unwrap();
        assert!(message.contains(default_model()), "{message}");
        assert!(message.contains(OTHER_MODEL), "{message}");
        assert_eq!(usage(unnamed.end().unwrap()), None);
        pool.stop().await;
    }
}

/// What a server has kept, and another needs to go on from, is on the disk when
/// its turn is over, and its thread is free when it is gone.
#[tokio::test(flavor = "multi_thread")]
async fn g1_a_conversation_goes_on_after_the_end_of_its_server() {
    let (mut pool, _model, _home) = pool(&[("CODEX_ENGINE", "app-server")]).await;
    for n in 1..=6 {
        let id = format!("t{n}");
        pool.enqueue(&[turn(&id, "a", &[])]).await;
        let turn = pool.events.ended(&id).await;
        let said = turn.said(1).concat();
        assert!(
            said.starts_with(&format!("You have said {n} thing")),
            "{said}"
        );
        // Two turns on each.
        if n % 2 == 0 {
            pool.unlocked("a").await;
        }
    }
    assert_eq!(pool.metric("turn_worker_servers_reused_total").await, 3.0);
    pool.stop().await;
}

/// With today's default model, which runs commands from JavaScript, and a profile
/// that takes as long as pyenv's or nvm's. A script that goes on is work of its turn.
#[tokio::test(flavor = "multi_thread")]
async fn g3_a_server_stays_with_code_mode_and_a_slow_profile_and_not_with_a_script() {
    let (mut pool, _model, home) = pool(&[("CODEX_ENGINE", "app-server")]).await;
    // Its own process comes late, as with npx.
    let mcp = format!(
        "sleep 0.2; sh -c '{} mcp; true'; true",
        stand_in().display()
    );
    let config = home.path().join("codex-home/config.toml");
    let mut text = fs::read_to_string(&config).unwrap();
    text += &format!("[mcp_servers.late]\ncommand = \"sh\"\nargs = [\"-c\", \"{mcp}\"]\n");
    fs::write(&config, text).unwrap();
    let profile = pool.codex_home().with_file_name(".profile");
    fs::write(profile, "sleep 0.4\n").unwrap();
    let goes_on = "leave-js: yield_control(); setTimeout(() => tools.exec_command({cmd: \"touch late\"}), 10000); \
                   await new Promise((end) => setTimeout(end, 100000));";
    for (id, script) in [
        ("answers", "say: Hi."),
        ("runs", "run: echo one"),
        ("runs-again", "run: echo two"),
        ("goes-on", goes_on),
        ("next", "say: Next."),
    ] {
        pool.enqueue(&[turn(id, "a", &[script])]).await;
        assert_eq!(
            pool.events.ended(id).await.stop_reason(),
            "end_turn",
            "{id}"
        );
        // What `src/capacity/watchers.rs` and the docs count on; fewer where the user has no more.
        let workspace = pool.root().canonicalize().unwrap().join("a");
        let watched: Vec<_> = of_workspace(&workspace)
            .into_iter()
            .flat_map(watched)
            .collect();
        let watchers = watched.len();
        assert!(watchers <= 2, "{watchers} inotify instances after {id}");
        // What `codex::skill_folders` counts on: all that opens files in there would wake it.
        let user_home = fs::metadata(pool.codex_home().parent().unwrap()).unwrap();
        assert!(!watched.concat().contains(&user_home.ino()), "{id}");
    }
    assert_eq!(pool.metric("turn_worker_servers_reused_total").await, 3.0);
    let dismissed = r#"turn_worker_servers_dismissed_total{reason="script"}"#;
    assert_eq!(pool.metric(dismissed).await, 1.0);
    // At this moment no process of these turns lives that could still write.
    pool.unlocked("a").await;
    assert!(!pool.root().join("a/late").exists());
    pool.stop().await;
}

/// The first attempt had one whole answer, and one that its worker's death cut off.
#[tokio::test(flavor = "multi_thread")]
async fn g4_g7_what_a_killed_worker_has_spent_is_reported_by_the_next() {
    let (mut pool, model, home) = pool(&[]).await;
    pool.enqueue(&[turn("hello", "a", &[])]).await;
    let work = cut_off_once(&mut pool, &model, home.path()).await;
    let hello = pool.events.turn("hello");
    assert_eq!(thread(&work), thread(&hello));
    pool.stop().await;
}

/// The same on a thread that the first attempt had to make, its own being lost.
#[tokio::test(flavor = "multi_thread")]
async fn g7_also_what_it_has_spent_on_a_new_thread() {
    let (mut pool, model, home) = pool(&[("CODEX_WARM", "0")]).await;
    pool.enqueue(&[turn("hello", "a", &[])]).await;
    let hello = pool.events.ended("hello").await;
    fs::remove_dir_all(home.path().join("codex-home/sessions")).unwrap();
    let work = cut_off_once(&mut pool, &model, home.path()).await;
    assert_ne!(thread(&work), thread(&hello));
    let told = |event: &Value| event["code"] == "codex.thread_lost";
    assert!(work.attempts[&1].iter().any(told));
    assert!(!work.attempts[&2].iter().any(told));
    pool.stop().await;
}

/// Of a turn that dies with its worker and is not retried, on both engines.
#[tokio::test(flavor = "multi_thread")]
async fn g7_what_sub_agents_have_spent_outlives_their_worker() {
    for engine in ["exec", "app-server"] {
        let (mut pool, model, home) = pool(&[("CODEX_ENGINE", engine)]).await;
        let mut request = turn("work", "a", &["spawn: kid say: Kid done.", "hold: on"]);
        request["max_attempts"] = json!(1);
        pool.enqueue(&[request]).await;
        // The turn's second request is held; the sub-agent has one.
        let sessions = home.path().join("codex-home/sessions");
        let recorded = async || {
            let requests = model.requests();
            let (own, agents) = requests
                .iter()
                .partition::<Vec<&Request>, _>(|of| of.thread == of.session);
            let answered = [*own.first()?, *agents.first()?].into_iter();
            let cost = cost(&answered.cloned().collect::<Vec<_>>(), "")?;
            (own.len() == 2 && answers(&sessions) == cost[0]).then_some(cost)
        };
        let spent = pool
            .deadline
            .until("both answers' costs are recorded", recorded)
            .await;
        pool.process(0).kill();
        let workspace = pool.root().canonicalize().unwrap().join("a");
        let gone = async || of_workspace(&workspace).is_empty().then_some(());
        pool.deadline.until("the attempt is gone", gone).await;
        pool.spawn(&[]);

        let work = pool.events.ended("work").await;
        assert_eq!(work.stop_reason(), "error", "{work:#?}");
        let end = work.end().unwrap();
        assert_eq!(usage(end), Some(spent), "{engine}");
        assert_eq!(end["usage"]["agents"]["output_tokens"], 21, "{engine}");
        pool.stop().await;
    }
}

/// The input tokens of all answers that were recorded there, so far.
fn answers(sessions: &Path) -> u64 {
    let entries = fs::read_dir(sessions).into_iter().flatten();
    let counts = entries.map(|entry| {
        let path = entry.unwrap().path();
        if path.is_dir() {
            return answers(&path);
        }
        let text = fs::read_to_string(path).unwrap();
        // The last line may be half written.
        let lines = text.lines();
        let lines = lines.filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let answers = lines.filter(|line| line["type"] == "token_usage_record");
        answers
            .filter_map(|line| line["payload"]["usage"]["input_tokens"].as_u64())
            .sum()
    });
    counts.sum()
}

fn thread(turn: &Turn) -> String {
    let thread = turn.end().unwrap()["thread_id"].as_str();
    thread.unwrap().to_owned()
}

/// The input tokens of the one thread that was recorded there, so far.
fn recorded(sessions: &Path) -> u64 {
    let mut most = 0;
    for entry in fs::read_dir(sessions).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            most = most.max(recorded(&path));
            continue;
        }
        let text = fs::read_to_string(path).unwrap();
        // The last line may be half written.
        let lines = text
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok());
        let totals = lines.filter_map(|line: Value| {
            line["payload"]["info"]["total_token_usage"]["input_tokens"].as_u64()
        });
        most = most.max(totals.max().unwrap_or(0));
    }
    most
}

/// A turn with a first attempt that is cut off by its worker's death.
async fn cut_off_once(pool: &mut Pool, model: &ModelServer, home: &Path) -> Turn {
    let request = turn("work", "a", &["run: echo here >> log", "hold: on"]);
    pool.enqueue(&[request]).await;
    let cut_off = model.arrived("work", 2).await.pop().unwrap();
    // codex records what an answer has cost in its own time.
    let requests = model.requests().into_iter();
    let answered: u64 = requests
        .filter(|of| of.thread == cut_off.thread && of.number != cut_off.number)
        .map(|of| of.usage.unwrap()["input_tokens"].as_u64().unwrap())
        .sum();
    let sessions = home.join("codex-home/sessions");
    let recorded = async || (recorded(&sessions) == answered).then_some(());
    pool.deadline
        .until("the first answer's cost is recorded", recorded)
        .await;
    pool.process(0).kill();
    // Or it would get the rest of its answer all the same.
    let workspace = pool.root().canonicalize().unwrap().join("a");
    let gone = async || of_workspace(&workspace).is_empty().then_some(());
    pool.deadline.until("the first attempt is gone", gone).await;
    model.release("on");
    pool.spawn(&[]);

    let work = pool.events.ended("work").await;
    assert_eq!((work.stop_reason(), work.attempt()), ("end_turn", 2));
    assert_eq!(work.said(2), ["Held … and released."]);
    let whole: Vec<Request> = model
        .requests()
        .into_iter()
        .filter(|request| request.number != cut_off.number)
        .collect();
    let spent = cost(&whole, "work");
    assert_eq!(usage(work.end().unwrap()), spent);
    let log = fs::read_to_string(pool.root().join("a/log")).unwrap();
    assert_eq!(log, "here\nhere\n");
    pool.idle().await;
    let counted = metrics(pool).await;
    assert_eq!(counted, spent.unwrap().map(|count| count as f64));
    work
}
