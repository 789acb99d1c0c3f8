//! The documentation is true: what it lists is what the code has, and
//! its examples are files that run.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod modules;

use std::collections::BTreeSet;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use turn_worker::amqp::topology::{REQUEST_KEY, Topology};
use turn_worker::codex::tool::ToolKind;
use turn_worker::config::{SETTINGS, Settings, settings_markdown};
use turn_worker::event::{ErrorCode, EventBody, NoticeCode, Reason, StopReason, TurnEvent};
use turn_worker::guard::Unkillable;
use turn_worker::labels::{RateLimit, RateLimitWindow};
use turn_worker::metrics::{Backlog, Metrics};
use turn_worker::request::{Properties, TurnRequest};
use turn_worker::versions;

const README: &str = "README.md";
const EVENTS: &str = "docs/EVENTS.md";
const OPERATIONS: &str = "docs/OPERATIONS.md";
const OBSERVABILITY: &str = "docs/observability.md";
const ARCHITECTURE: &str = "docs/ARCHITECTURE.md";
const CHANGELOG: &str = "CHANGELOG.md";
const ALL: [&str; 18] = [
    README,
    COMMANDS,
    "docs/CONTRIBUTING.md",
    "docs/guarantees.md",
    "docs/hosts.md",
    "docs/performance.md",
    "SECURITY.md",
    "docs/security.md",
    SETTINGS_PAGE,
    CHANGELOG,
    EVENTS,
    OPERATIONS,
    OBSERVABILITY,
    ARCHITECTURE,
    PRODUCERS,
    AMQP,
    RUNBOOK,
    CONTRACT,
];
const COMMANDS: &str = "docs/commands.md";
const SETTINGS_PAGE: &str = "docs/settings.md";
const PRODUCERS: &str = "docs/producers.md";
const AMQP: &str = "docs/amqp.md";
const PYTHON: &str = "docs/clients/python/README.md";
const TYPESCRIPT: &str = "docs/clients/typescript/README.md";
const GO: &str = "docs/clients/go/README.md";
const JAVA: &str = "docs/clients/java/README.md";
const CLIENTS: &str = "docs/clients";
const RUNBOOK: &str = "docs/runbook.md";
const CONTRACT: &str = "docs/contract/README.md";

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn read(name: &str) -> String {
    fs::read_to_string(path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn assert_holds(document: &str, text: &str) {
    assert!(
        read(document).contains(text),
        "{document} does not hold this, word for word:\n\n{text}"
    );
}

/// What stands under a heading, down to the next one of any level.
fn section<'a>(document: &'a str, heading: &str) -> &'a str {
    let (_, rest) = document
        .split_once(&format!("\n{heading}\n"))
        .unwrap_or_else(|| panic!("no heading {heading:?}"));
    let end = rest.find("\n#").unwrap_or(rest.len());
    &rest[..end]
}

/// The first cells of the rows of a section's table, in which names stand as code.
fn listed(document: &str, heading: &str) -> Vec<String> {
    section(&read(document), heading)
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once('`'))
        .map(|(name, _)| name.to_owned())
        .collect()
}

/// What stands in the fenced blocks of a language.
fn blocks(document: &str, language: &str) -> Vec<String> {
    let text = read(document);
    text.split(&format!("```{language}\n"))
        .skip(1)
        .map(|rest| rest.split_once("```").unwrap().0.to_owned())
        .collect()
}

#[test]
fn the_settings_are_listed_as_they_are() {
    assert_holds(SETTINGS_PAGE, &settings_markdown());
}

#[test]
fn the_examples_are_the_files_that_the_tests_run() {
    for (block, file, documents) in [
        ("python", "python/ask.py", &[README, PRODUCERS][..]),
        ("typescript", "typescript/ask.ts", &[PRODUCERS]),
        ("go", "go/ask/main.go", &[PRODUCERS, GO]),
        ("java", "java/examples/Ask.java", &[PRODUCERS, JAVA]),
    ] {
        let program = format!("```{block}\n{}```\n", read(&format!("{CLIENTS}/{file}")));
        for document in documents {
            assert_holds(document, &program);
        }
    }
}

/// A raised version comes with what has changed, and with a test run of it.
#[test]
fn the_versions_are_documented_as_they_are() {
    let own = env!("CARGO_PKG_VERSION");
    assert_holds(CHANGELOG, &format!("\n## {own}\n"));
    let (codex, (a, b), (c, d)) = (
        versions::CODEX,
        versions::OLDEST_RABBITMQ,
        versions::NEWEST_RABBITMQ,
    );
    assert_holds(
        CHANGELOG,
        &format!("codex {codex}, and with RabbitMQ {a}.{b} to {c}.{d} "),
    );
    assert_holds(OPERATIONS, &format!("`codex` CLI (tested: {codex})"));
    assert_holds(
        OPERATIONS,
        &format!("### RabbitMQ versions\n\n{a}.{b} (Debian 12) to {c}.{d}, "),
    );
}

#[test]
fn settings_that_are_mentioned_exist() {
    let known: BTreeSet<String> = SETTINGS.iter().map(|setting| setting.variable()).collect();
    for document in ALL {
        let text = read(document);
        let names = text
            .split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
            .filter(|word| word.starts_with("TURN_WORKER_") && !word.ends_with('_'))
            // Not the operator's: what configures tests, and what each process of a turn carries.
            .filter(|word| !word.starts_with("TURN_WORKER_TEST_"))
            .filter(|word| !turn_worker::guard::tag::VARIABLES.contains(word));
        for name in names {
            assert!(known.contains(name), "{document} mentions {name}");
        }
        // Without the prefix, as code.
        for word in code_words(&text) {
            let name = word.split('=').next().unwrap();
            let is_name = name.len() > 3
                && name.bytes().all(|b| b.is_ascii_uppercase() || b == b'_')
                && !name.starts_with("TURN_WORKER_")
                // The privileges of the system, and OpenTelemetry's variables.
                && !name.starts_with("CAP_")
                && !name.starts_with("OTEL_")
                && !NO_SETTINGS.contains(&name);
            if is_name {
                let variable = format!("TURN_WORKER_{name}");
                assert!(known.contains(&variable), "{document} mentions {name}");
            }
        }
    }
}

/// Words in capitals that the documents use for something else.
const NO_SETTINGS: &[&str] = &[
    "ACCESS_REFUSED",
    "CODEX_API_KEY",
    "COMMAND",
    "FILE",
    "FILTER",
    "FROZEN",
    "MODEL",
    "NAME",
    "NOT_FOUND",
    "PRECONDITION_FAILED",
    "PROMPT",
    "SCM_RIGHTS",
    "SESSION_SUSTAIN_TIME",
    "SOURCE_COMMIT",
    "SECRETS",
    "TMPDIR",
    "TRACEPARENT",
    "TRACESTATE",
    "TURN_ID",
    "VHOST",
];

#[test]
fn exactly_the_closed_sets_are_listed_whole() {
    let names = |all: &[&str]| all.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
    let of = |all: Vec<&'static str>| names(&all);
    assert_eq!(
        listed(EVENTS, "### Error codes"),
        of(ErrorCode::ALL.iter().map(|code| code.as_str()).collect())
    );
    assert_eq!(
        listed(EVENTS, "### Reasons"),
        of(Reason::ALL.iter().map(|reason| reason.as_str()).collect())
    );
    assert_eq!(
        listed(EVENTS, "### Notices"),
        of(NoticeCode::ALL.iter().map(|code| code.as_str()).collect())
    );
    assert_eq!(
        listed(EVENTS, "### Stop reasons"),
        of(StopReason::ALL.iter().map(|stop| stop.as_str()).collect())
    );
    assert_eq!(
        listed(EVENTS, "### Tools"),
        of(ToolKind::ALL.iter().map(|kind| kind.as_str()).collect())
    );
}

/// Of every type one, as one turn publishes them.
pub fn example_events() -> Vec<Value> {
    let [examples] = &blocks(EVENTS, "jsonl")[..] else {
        panic!("{EVENTS} has not one block of events");
    };
    let lines = examples.lines();
    lines
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[test]
fn the_example_events_are_events_and_show_every_type() {
    let [examples] = &blocks(EVENTS, "jsonl")[..] else {
        panic!("{EVENTS} has not one block of events");
    };
    let mut shown = Vec::new();
    for (seq, line) in examples.lines().enumerate() {
        let event: TurnEvent = serde_json::from_str(line).unwrap_or_else(|e| panic!("{line}: {e}"));
        assert_eq!(serde_json::to_string(&event).unwrap(), line);
        assert_eq!(event.seq, seq as u64);
        shown.push(event.body);
    }
    let kinds: Vec<&str> = shown.iter().map(EventBody::kind).collect();
    assert_eq!(listed(EVENTS, "### Event types"), kinds);

    let text = read(EVENTS);
    let table = section(&text, "### Event types");
    for body in shown {
        let set = if body.is_minimal() { "minimal" } else { "full" };
        let row = format!("| `{}` | {set} |", body.kind());
        assert!(table.contains(&row), "{EVENTS} has no row {row}");
    }
    // Every type that is counted, also one that an example could be missing for.
    let metrics = Metrics::new(None).gather_text().unwrap();
    let counted = metrics
        .lines()
        .filter(|line| line.starts_with("turn_worker_events_published_total{"))
        .count();
    assert_eq!(kinds.len(), counted);
}

#[test]
fn the_example_request_is_valid_and_has_every_field() {
    let requests = blocks(EVENTS, "json");
    let (settings, _) = Settings::from_vars([]).unwrap();
    let limits = settings.request_limits(Vec::new());
    let request = TurnRequest::parse(requests[0].as_bytes(), &limits, &Properties::default());
    let request = request.unwrap_or_else(|rejection| panic!("{rejection}"));

    let sent: Value = serde_json::from_str(&requests[0]).unwrap();
    let understood: Value = serde_json::from_str(&request.to_canonical_json()).unwrap();
    let fields = |value: &Value| -> Vec<String> {
        let names = value.as_object().unwrap().keys();
        names.map(ToOwned::to_owned).collect()
    };
    let mut documented = listed(EVENTS, "## Requests");
    documented.sort();
    assert_eq!(fields(&sent), documented);
    assert_eq!(fields(&understood), documented);
}

#[test]
fn the_limits_of_a_request_are_the_documented_ones() {
    use turn_worker::request::{
        MAX_IMAGE_BYTES, MAX_IMAGES, MAX_METADATA_BYTES, MAX_OUTPUT_SCHEMA_BYTES, MAX_PROMPT_CHARS,
        MediaType,
    };
    let text = read(EVENTS);
    let section = section(&text, "## Requests");
    assert!(section.contains(&format!("at most {MAX_METADATA_BYTES} bytes of JSON")));
    let plain = section.replace(',', "");
    for limit in [
        format!("t most {MAX_PROMPT_CHARS} characters"),
        format!("at most {MAX_OUTPUT_SCHEMA_BYTES} bytes (without white space)"),
    ] {
        assert!(plain.contains(&limit), "{limit}");
    }
    let images = self::section(&text, "### Images").replace(',', "");
    let limit =
        format!("at most {MAX_IMAGES} images with a prompt of {MAX_IMAGE_BYTES} bytes together");
    assert!(images.contains(&limit), "{limit}");
    for kind in MediaType::ALL {
        assert!(images.contains(&format!("`{kind}`")), "{kind}");
    }
}

#[test]
fn the_objects_on_the_broker_are_the_documented_ones() {
    let topology = Topology::new("codex", 1);
    let mut names = vec![
        topology.requests,
        topology.events,
        topology.log,
        topology.control,
        topology.turns,
        topology.work,
        topology.dead,
        topology.status,
    ];
    names.sort();
    let mut documented = listed(EVENTS, "## Where things go");
    documented.sort();
    assert_eq!(documented, names);
    assert!(read(EVENTS).contains(&format!("routing key `{REQUEST_KEY}`")));
}

#[test]
fn the_metrics_are_listed_as_they_are() {
    assert_holds(OBSERVABILITY, &metrics_markdown());
}

fn metrics_markdown() -> String {
    let metrics = Metrics::new(None);
    // Only then has that metric series.
    let unkillable = Unkillable::of(&[(1, 0)]);
    metrics.set_held_workspaces(&[("a".to_owned(), unkillable)]);
    metrics.set_backlog(Some(Backlog::default()));
    metrics.set_workspaces_stuck(Some(0));
    metrics.rate_limits(&[RateLimit {
        window: RateLimitWindow::Primary,
        used_percent: 50,
        resets_at: Some(1_800_000_000),
    }]);
    let text = metrics.gather_text().unwrap();
    let mut table = String::from("| metric | kind | labels | |\n|---|---|---|---|\n");
    let after = |prefix: &str| {
        let rest = text.lines().find_map(|line| line.strip_prefix(prefix));
        rest.unwrap_or_else(|| panic!("no {prefix}"))
    };
    for line in text.lines() {
        let Some((name, help)) = line
            .strip_prefix("# HELP ")
            .and_then(|line| line.split_once(' '))
        else {
            continue;
        };
        let kind = after(&format!("# TYPE {name} "));
        let labels = text
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix('{')?.split_once('}'))
            .map(|(labels, _)| {
                labels
                    .split(',')
                    .map(|label| label.split_once('=').unwrap().0)
            })
            .into_iter()
            .flatten()
            .map(|label| format!("`{label}`"))
            .collect::<Vec<_>>()
            .join(", ");
        writeln!(table, "| `{name}` | {kind} | {labels} | {help} |").unwrap();
    }
    table
}

/// `turn-worker --help` of the commands, without clap's own.
#[test]
fn the_commands_are_the_documented_ones() {
    let help = Command::new(env!("CARGO_BIN_EXE_turn-worker"))
        .arg("-h")
        .output()
        .unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    let (_, commands) = help.split_once("\nCommands:\n").unwrap();
    let commands: Vec<&str> = commands
        .lines()
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.strip_prefix("  ")?.split_whitespace().next())
        .filter(|command| *command != "help")
        .collect();
    assert_eq!(listed(COMMANDS, "## Overview"), commands);
}

#[test]
fn files_and_tests_that_are_mentioned_exist() {
    let mut code = String::new();
    for folder in ["src", "tests"] {
        collect(&path(folder), &mut code);
    }
    for document in ALL {
        let text = read(document);
        assert_links(document, &text);
        for word in code_words(&text) {
            let word = word.trim_end_matches('/');
            let is_path = ["src/", "tests/", "ops/", "docs/"]
                .iter()
                .any(|folder| word.starts_with(folder));
            if is_path {
                assert!(path(word).exists(), "{document} mentions {word}");
            }
            if is_test_name(word) {
                assert!(
                    code.contains(&format!("fn {word}(")),
                    "{document} mentions the test {word}"
                );
            }
        }
    }
}

/// To files and their headings; pages of the web are not fetched.
fn assert_links(document: &str, text: &str) {
    let folder = path(document).parent().unwrap().to_owned();
    for target in text
        .split("](")
        .skip(1)
        .filter_map(|rest| rest.split_once(')'))
    {
        let (file, anchor) = target.0.split_once('#').unwrap_or((target.0, ""));
        if file.contains("://") {
            continue;
        }
        let linked = if file.is_empty() {
            path(document)
        } else {
            folder.join(file)
        };
        assert!(linked.exists(), "{document} links to {file}");
        assert!(
            anchor.is_empty() || anchors(&fs::read_to_string(&linked).unwrap()).contains(anchor),
            "{document} links to {file}#{anchor}"
        );
    }
}

#[test]
fn links_in_the_pages_of_the_clients_lead_somewhere() {
    for document in [PYTHON, TYPESCRIPT, GO, JAVA] {
        assert_links(document, &read(document));
    }
}

/// `g4_…`, of which the dots can't be looked up.
fn is_test_name(word: &str) -> bool {
    let Some((guarantee, name)) = word.split_once('_') else {
        return false;
    };
    let number = guarantee
        .strip_prefix('g')
        .and_then(|digits| digits.parse::<u8>().ok());
    number.is_some() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// What stands between backticks on one line.
fn code_words(text: &str) -> impl Iterator<Item = &str> {
    text.lines()
        .flat_map(|line| line.split('`').skip(1).step_by(2))
        .flat_map(str::split_whitespace)
}

fn anchors(text: &str) -> BTreeSet<String> {
    text.lines()
        .filter(|line| line.starts_with('#'))
        .map(|line| {
            let heading = line.trim_start_matches('#').trim().to_lowercase();
            let kept = heading
                .chars()
                .filter(|c| c.is_alphanumeric() || " -_".contains(*c));
            kept.collect::<String>().replace(' ', "-")
        })
        .collect()
}

pub fn collect(folder: &Path, code: &mut String) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, code);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            code.push_str(&fs::read_to_string(&path).unwrap());
        }
    }
}

/// The guide to the code must not leave out a part of it.
#[test]
fn the_architecture_names_every_module() {
    let text = read(ARCHITECTURE);
    for entry in fs::read_dir(path("src")).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        let name = name.strip_suffix(".rs").unwrap_or(&name);
        let file = format!("`src/{name}.rs`");
        let folder = format!("`src/{name}/`");
        assert!(
            text.contains(&file) || text.contains(&folder),
            "{ARCHITECTURE} names neither {file} nor {folder}"
        );
    }
}
