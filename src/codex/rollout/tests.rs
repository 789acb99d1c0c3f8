use std::{io::Write, os::unix::fs::symlink};

use tempfile::TempDir;

use super::*;

/// Made on 2026-11-22, 17:10 UTC.
const THREAD: &str = "01a2043c-8f7f-7831-835a-75c51a3b4210";

struct Home(TempDir);

impl Home {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, below: &str) -> PathBuf {
        self.0.path().join(below)
    }

    fn write(&self, below: &str, bytes: &[u8]) -> PathBuf {
        let path = self.path(below);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, bytes).unwrap();
        path
    }

    fn find(&self, thread_id: &str) -> Option<Rollout> {
        Rollout::find(self.0.path(), thread_id).unwrap()
    }
}

/// One answer, or `n` of those that the captures are made of.
fn answers(n: u64) -> Tokens {
    Tokens {
        input_tokens: 100 * n,
        cache_read_tokens: 40 * n,
        cache_write_tokens: 0,
        output_tokens: 20 * n,
        thinking_tokens: 5 * n,
    }
}

fn captured(name: &str) -> Vec<u8> {
    let folder =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/codex/0.169.0/rollouts");
    fs::read(folder.join(name)).unwrap()
}

/// A rollout of these bytes, of any thread.
fn rollout(bytes: &[u8]) -> (Home, Rollout) {
    let first = bytes.split(|byte| *byte == b'\n').next().unwrap();
    let thread_id = serde_json::from_slice::<Value>(first)
        .ok()
        .and_then(|meta| Some(meta.get("payload")?.get("id")?.as_str()?.to_owned()))
        .unwrap_or(THREAD.to_owned());
    let home = Home::new();
    let path = home.write("rollout.jsonl", bytes);
    (home, Rollout { path, thread_id })
}

/// Where the second turn of a capture starts.
fn second_turn(bytes: &[u8]) -> u64 {
    let text = std::str::from_utf8(bytes).unwrap();
    let (at, _) = text.match_indices(r#""task_started""#).nth(1).unwrap();
    text[..at].rfind('\n').unwrap() as u64 + 1
}

#[test]
fn g7_totals_and_spending_of_captured_threads() {
    for (name, total, spent, second) in [
        ("plain.jsonl", Some(2), 2, None),
        ("resumed.jsonl", Some(2), 2, Some(1)),
        // SIGINT: codex itself counts what the turn had spent.
        ("interrupted-then-resumed.jsonl", Some(2), 2, Some(1)),
        // SIGKILL: only the answer's own line shows it.
        ("killed.jsonl", None, 1, None),
        ("killed-then-resumed.jsonl", Some(1), 2, Some(1)),
    ] {
        let bytes = captured(name);
        let (_home, rollout) = rollout(&bytes);
        assert_eq!(rollout.len().unwrap(), bytes.len() as u64);
        assert_eq!(rollout.last_total().unwrap(), total.map(answers), "{name}");
        let all = rollout.since(0).unwrap().spent;
        assert_eq!(all, Some(answers(spent)), "{name}");
        if let Some(second) = second {
            let since = rollout.since(second_turn(&bytes)).unwrap().spent;
            assert_eq!(since, Some(answers(second)), "{name}");
        }
        let end = rollout.since(bytes.len() as u64).unwrap().spent;
        assert_eq!(end, None, "{name}");
        let beyond = rollout.since(bytes.len() as u64 + 9).unwrap().spent;
        assert_eq!(beyond, None, "{name}");
    }
}

#[test]
fn g7_answer_written_twice_counts_once_but_a_common_id_does_not_hide_answers() {
    let text = String::from_utf8(captured("plain.jsonl")).unwrap();
    let (_home, twice) = rollout(format!("{text}{text}").as_bytes());
    assert_eq!(twice.since(0).unwrap().spent, Some(answers(2)));

    let same_id = text.replace("resp_8", "resp_7");
    let (_home, same_id) = rollout(same_id.as_bytes());
    assert_eq!(same_id.since(0).unwrap().spent, Some(answers(2)));
}

#[test]
fn g7_answers_of_another_thread_are_not_counted() {
    let bytes = captured("plain.jsonl");
    let (_home, mut rollout) = rollout(&bytes);
    rollout.thread_id = THREAD.to_owned();
    assert_eq!(rollout.since(0).unwrap().spent, None);
}

#[test]
fn g7_torn_and_foreign_lines_are_passed_over() {
    let whole = captured("plain.jsonl");
    for cut in 0..400 {
        let torn = &whole[..whole.len() - cut];
        let (_home, rollout) = rollout(torn);
        assert!(rollout.since(0).unwrap().spent.is_some(), "{cut}");
        assert!(rollout.last_total().unwrap().is_some(), "{cut}");
    }
    let mut noisy = whole;
    noisy.extend_from_slice(b"\n\xff\xfe token_count token_usage_record\n[\"token_count\"]\n");
    // What the agent prints may quote such a line.
    noisy.extend_from_slice(
        br#"{"type":"response_item","payload":{"type":"token_count","info":{"total_token_usage":{"input_tokens":7,"output_tokens":7}}}}"#,
    );
    // Only rate limits.
    noisy.extend_from_slice(b"\n{\"type\":\"event_msg\",\"payload\":{\"type\":\"token_count\",\"info\":null,\"rate_limits\":{}}}\n{\"type\":");
    let (_home, rollout) = rollout(&noisy);
    assert_eq!(rollout.since(0).unwrap().spent, Some(answers(2)));
    assert_eq!(rollout.last_total().unwrap(), Some(answers(2)));
}

#[test]
fn g10_record_with_lines_beyond_the_limit_is_read() {
    let mut bytes = captured("plain.jsonl");
    bytes.extend_from_slice(b"\n{\"type\":\"token_count\",\"x\":\"");
    bytes.resize(bytes.len() + 3 * MAX_LINE, b'x');
    bytes.extend_from_slice(b"\"}\n");
    let (_home, rollout) = rollout(&bytes);
    assert_eq!(rollout.last_total().unwrap(), Some(answers(2)));
    assert_eq!(rollout.since(0).unwrap().spent, Some(answers(2)));
}

#[test]
fn g7_counts_in_an_unknown_form_are_an_error_not_an_older_number() {
    let mut bytes = captured("plain.jsonl");
    bytes.extend_from_slice(
        br#"
{"type":"event_msg","payload":{"type":"token_count","info":{"total":{"in":5}}}}
{"type":"token_usage_record","payload":{"response_id":"resp_99","usage":{"in":5}}}
"#,
    );
    let (_home, rollout) = rollout(&bytes);
    let why = rollout.last_total().unwrap_err();
    assert_eq!(why.kind(), io::ErrorKind::InvalidData);
    let why = rollout.since(0).map(|_| ()).unwrap_err();
    assert_eq!(why.kind(), io::ErrorKind::InvalidData);
}

#[test]
fn empty_record_has_no_total() {
    let (_home, rollout) = rollout(b"");
    assert_eq!(rollout.len().unwrap(), 0);
    assert_eq!(rollout.last_total().unwrap(), None);
    assert_eq!(rollout.since(0).unwrap().spent, None);
}

#[test]
fn thread_is_found_under_its_day_in_any_time_zone_and_elsewhere() {
    for (thread, day) in [
        (THREAD, "2026/11/22"),
        (THREAD, "2026/11/21"),
        (THREAD, "2026/11/23"),
        (THREAD, "2019/01/05"),
        ("6f4d9ad4-1f0a-4f0a-9d5c-0d5f3a6a1b2c", "2025/02/03"),
    ] {
        let home = Home::new();
        assert_eq!(home.find(thread), None);
        home.write("sessions/2026/11/22/rollout-x-other.jsonl", b"");
        home.write("sessions/README", b"");
        assert_eq!(home.find(thread), None);
        let file = format!("sessions/{day}/rollout-2026-11-22T17-10-07-{thread}.jsonl");
        let path = home.write(&file, b"");
        let found = home.find(&thread.to_uppercase()).unwrap();
        assert_eq!(found.path, path);
        assert_eq!(found.thread_id, thread);
    }
}

#[test]
fn day_of_a_thread_is_looked_at_before_all_others() {
    let looked_at: Vec<_> = days(THREAD.parse().unwrap())
        .iter()
        .map(Date::to_string)
        .collect();
    assert_eq!(looked_at, ["2026-11-22", "2026-11-21", "2026-11-23"]);
    assert_eq!(days(Uuid::new_v4()), []);
}

#[test]
fn g10_search_for_a_thread_is_bounded() {
    let home = Home::new();
    home.write(
        &format!("sessions/2026/11/22/rollout-x-{THREAD}.jsonl"),
        b"",
    );
    let suffix = format!("-{THREAD}.jsonl");
    // Year, month, day, file.
    for (mut left, found) in [(3, false), (4, true)] {
        let path = search_below(&home.path("sessions"), 3, &suffix, &mut left).unwrap();
        assert_eq!((path.is_some(), left), (found, 0));
    }
}

/// An agent can put as many files as it likes into the day's folder.
#[test]
fn g10_search_in_a_threads_day_is_bounded() {
    let home = Home::new();
    for n in 0..100 {
        home.write(&format!("sessions/2026/11/22/{n}.jsonl"), b"");
    }
    let looked_at = |entries| {
        let mut left = entries;
        let day = Date::constant(2026, 11, 22);
        let found = search_day(&home.path("sessions"), day, "-x.jsonl", &mut left);
        assert_eq!(found.unwrap(), None);
        entries - left
    };
    assert_eq!(looked_at(10), 10);
    assert_eq!(looked_at(1000), 100);
    home.write(
        &format!("sessions/2026/11/22/rollout-t-{THREAD}.jsonl"),
        b"",
    );
    let find = |mut entries| Rollout::find_among(home.0.path(), THREAD, &mut entries).unwrap();
    assert_eq!(find(0), None);
    assert!(find(101).is_some());
}

#[test]
fn what_is_no_uuid_is_not_looked_for() {
    let home = Home::new();
    home.write("sessions/2026/11/22/rollout-x-last.jsonl", b"");
    for id in ["last", "", "../x", "*"] {
        assert_eq!(home.find(id), None);
    }
}

#[test]
fn g8_links_and_pipes_are_not_records() {
    let name = format!("rollout-x-{THREAD}.jsonl");
    let outside = Home::new();
    let secret = outside.write(&format!("22/{name}"), &captured("killed.jsonl"));

    // The file is a link.
    let home = Home::new();
    let day = home.path("sessions/2026/11/22");
    fs::create_dir_all(&day).unwrap();
    symlink(&secret, day.join(&name)).unwrap();
    assert_eq!(home.find(THREAD), None);

    // It has become one since.
    let rollout = Rollout {
        path: day.join(&name),
        thread_id: THREAD.into(),
    };
    assert!(rollout.len().is_err() && rollout.since(0).is_err());

    // A pipe would block the process that opens it.
    fs::remove_file(day.join(&name)).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        day.join(&name),
        rustix::fs::FileType::Fifo,
        Mode::RUSR,
        0,
    )
    .unwrap();
    assert_eq!(home.find(THREAD), None);
    assert!(rollout.last_total().is_err());

    // A folder on the way is a link.
    let home = Home::new();
    fs::create_dir_all(home.path("sessions/2026/11")).unwrap();
    symlink(outside.path("22"), home.path("sessions/2026/11/22")).unwrap();
    assert_eq!(home.find(THREAD), None);
}

#[test]
fn sessions_may_be_a_link_to_another_disk() {
    let disk = Home::new();
    disk.write(&format!("2026/11/22/rollout-x-{THREAD}.jsonl"), b"");
    let home = Home::new();
    symlink(disk.0.path(), home.path("sessions")).unwrap();
    assert!(home.find(THREAD).is_some());
}

#[test]
fn record_is_read_as_it_grows() {
    let bytes = captured("killed-then-resumed.jsonl");
    let (first, second) = bytes.split_at(usize::try_from(second_turn(&bytes)).unwrap());
    let (_home, rollout) = rollout(first);
    let offset = rollout.len().unwrap();
    assert_eq!(rollout.since(offset).unwrap().spent, None);

    let mut file = File::options().append(true).open(&rollout.path).unwrap();
    file.write_all(second).unwrap();
    assert_eq!(rollout.since(offset).unwrap().spent, Some(answers(1)));
}

const ROOT: &str = "01a229d2-a0f5-7842-8d6d-e19fcad57d04";
const ROOTS_TURN: &str = "01a229d2-a107-7613-8094-51e1beb3c5d1";

/// A turn with a sub-agent that had one itself.
fn home_with_agents(change: impl Fn(&str, String) -> String) -> Home {
    let home = Home::new();
    let folder =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/codex/0.169.0/rollouts/agents");
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        let text = change(name, fs::read_to_string(&path).unwrap());
        home.write(&format!("sessions/2026/11/30/{name}"), text.as_bytes());
    }
    home
}

/// Input tokens of the turn's own thread, and of its sub-agents.
fn spent_with_agents(home: &Home, offset: u64) -> (Option<u64>, Option<u64>) {
    let root = home.find(ROOT).unwrap();
    let recorded = of_turn(home.0.path(), &root, offset).unwrap();
    let input = |tokens: Option<Tokens>| tokens.map(|tokens| tokens.input_tokens);
    (input(recorded.own), input(recorded.agents))
}

#[test]
fn g7_what_sub_agents_and_theirs_spend_for_a_turn_is_found() {
    let home = home_with_agents(|_, text| text);
    assert_eq!(
        spent_with_agents(&home, 0),
        (Some(170 + 190 + 220), Some(240 + 260 + 290 + 290))
    );
    let root = home.find(ROOT).unwrap();
    assert_eq!(root.since(0).unwrap().model.as_deref(), Some("gpt-6.1-sol"));
    // The next turn is not charged for it.
    let len = root.len().unwrap();
    assert_eq!(spent_with_agents(&home, len), (None, None));
}

#[test]
fn g7_what_a_sub_agent_spent_for_an_earlier_turn_is_that_ones() {
    let this = format!("\"root_turn_id\":\"{ROOTS_TURN}\"");
    let home = home_with_agents(|name, text| match name.contains("c2aebc") {
        true => text.replace(&this, "\"root_turn_id\":\"earlier\""),
        false => text,
    });
    assert_eq!(spent_with_agents(&home, 0), (Some(580), Some(290)));
}

#[test]
fn g7_sub_agents_with_missing_or_torn_records_do_not_hide_the_rest() {
    let home = home_with_agents(|name, text| match name.contains("c2aebc") {
        true => text[..text.len() - 100].to_owned(),
        false => text,
    });
    assert_eq!(spent_with_agents(&home, 0), (Some(580), Some(1080)));
    let grandkid = home.find("01a229d2-a186-7273-af81-4d51044545d9").unwrap();
    fs::remove_file(grandkid.path).unwrap();
    assert_eq!(spent_with_agents(&home, 0), (Some(580), Some(790)));
}
