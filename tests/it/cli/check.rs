//! `turn-worker check` on what is as it should be, and on what is not.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::Path;

use turn_worker::amqp::connect::Connector;
use turn_worker::amqp::topology::Topology;
use turn_worker::versions;

use super::call::{Call, Done};
use crate::support::broker::Broker;
use crate::support::host::{stand_in, write_program};
use crate::support::operator::Operator;
use crate::support::pool::Pool;

fn check(dir: &Path, url: &str, arguments: &[&str]) -> Call {
    call("check", dir, url, arguments)
}

fn call(command: &str, dir: &Path, url: &str, arguments: &[&str]) -> Call {
    let path = |name: &str| dir.join(name).to_str().unwrap().to_owned();
    Call::new(&[&[command], arguments].concat())
        .set("AMQP_URL", url)
        .set("WORKSPACE_ROOT", &path("workspaces"))
        .set("CODEX_BIN", stand_in().to_str().unwrap())
        .set("CODEX_ENV", "PATH,HOME,CODEX_API_KEY")
        .set("HTTP_ADDR", "127.0.0.1:0")
        // What warm servers need depends on the host.
        .set("CODEX_WARM", "0")
        .set("SLOTS", "4")
        .env("HOME", &path("home"))
        .env("CODEX_API_KEY", "k-s3cret")
}

/// Each check's worst status and its details.
fn lines(done: &Done) -> BTreeMap<String, (String, String)> {
    let mut lines: BTreeMap<String, (String, String)> = BTreeMap::new();
    for line in done.events() {
        let field = |name: &str| line[name].as_str().unwrap().to_owned();
        let entry = lines.entry(field("check")).or_default();
        if entry.0 != "fail" {
            entry.0 = field("status");
        }
        entry.1.push_str(&field("detail"));
    }
    lines
}

#[tokio::test]
async fn a_good_set_up_passes_everything() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(dir.path().join("home/.codex")).unwrap();
    let url = Broker::vhost();
    for _twice in 0..2 {
        let done = check(dir.path(), &url, &["--json"]).run().await.ended(0);
        let lines = lines(&done);
        let all: Vec<&str> = lines.keys().map(String::as_str).collect();
        assert_eq!(
            all,
            [
                "broker",
                "codex",
                "codex home",
                "file system",
                "guard",
                "http",
                "isolation",
                "limits",
                "locks",
                "login",
                "policies",
                "pool",
                "rights",
                "settings",
                "topology",
                "workspace root",
                "workspace trust"
            ]
        );
        for (what, (status, detail)) in &lines {
            // Of agents that would run as root it warns.
            let root = rustix::process::geteuid().is_root();
            let expected = if what == "isolation" && root {
                "warn"
            } else {
                "ok"
            };
            assert_eq!(status, expected, "{what}: {detail}");
        }
        assert!(lines["broker"].1.contains("RabbitMQ "), "{lines:?}");
        assert!(lines["codex"].1.contains(versions::CODEX), "{lines:?}");
        assert!(!done.out.contains("s3cret") && !done.out.contains("guest"));
        assert_eq!(done.err, "");
    }
    let text = check(dir.path(), &url, &[]).run().await.ended(0);
    assert!(
        text.out.lines().next().unwrap().starts_with("ok "),
        "{text:?}"
    );
    assert!(text.out.contains("\nall 20 passed"), "{text:?}");
    assert!(!text.out.contains('\u{1b}'));
}

#[tokio::test]
async fn a_host_on_which_codex_watches_all_of_etc_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let call = check(dir.path(), &Broker::vhost(), &["--json"]).set("CODEX_WARM", "1");
    let (status, detail) = lines(&call.run().await).remove("skills").unwrap();
    let expected = match Path::new("/etc/codex").is_dir() {
        true => ("ok", "watch no folder that other programs use"),
        false => ("warn", "mkdir -p /etc/codex/skills"),
    };
    assert_eq!(status, expected.0, "{detail}");
    assert!(detail.contains(expected.1), "{detail}");
}

/// That there is a file is no login; whether the model's API takes it only a turn shows.
#[tokio::test]
async fn a_login_that_codex_cannot_read_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let home = dir.path().join("home/.codex");
    std::fs::create_dir_all(&home).unwrap();
    let checked = async |auth: &str| {
        std::fs::write(home.join("auth.json"), auth).unwrap();
        let call = check(dir.path(), &Broker::vhost(), &["--json"]);
        let call = call.env("CODEX_API_KEY", "");
        lines(&call.set("CODEX_ENV", "PATH,HOME").run().await)
            .remove("login")
            .unwrap()
    };
    let (status, detail) = checked(r#"{"OPENAI_API_KEY": "k"}"#).await;
    assert_eq!(status, "ok", "{detail}");
    assert!(detail.contains("API key configured - ***"), "{detail}");
    let (status, detail) = checked("{broken").await;
    assert_eq!(status, "fail", "{detail}");
    assert!(detail.contains("failed to deserialize"), "{detail}");
}

/// What is wrong between hosts and mounts shows before a process is started there.
#[tokio::test]
async fn a_root_settings_and_locks_that_do_not_fit_the_pool_are_found() {
    let url = Broker::vhost();
    let pool = Pool::on(&url, 1, &[("MAX_WAITING", "7")]).await;
    let dir = tempfile::tempdir().unwrap();
    let copy = dir.path().join("copy");
    let mut copying = std::process::Command::new("cp");
    let copied = copying.arg("-a").arg(pool.root()).arg(&copy).status();
    assert!(copied.unwrap().success());
    let checked = async |root: &Path, max_waiting: &str| {
        let call = check(dir.path(), &url, &["--json"])
            .set("WORKSPACE_ROOT", root.to_str().unwrap())
            .set("MAX_WAITING", max_waiting);
        lines(&call.run().await).remove("pool").unwrap()
    };
    let (status, detail) = checked(&pool.root(), "7").await;
    assert_eq!(status, "ok", "{detail}");
    assert!(detail.contains("agree with 1 processes"), "{detail}");
    let (status, detail) = checked(&pool.root(), "8").await;
    assert_eq!(status, "warn", "{detail}");
    assert!(detail.contains("MAX_WAITING is 8 here, 7 at"), "{detail}");
    let (status, detail) = checked(&copy, "7").await;
    assert_eq!(status, "fail", "{detail}");
    assert!(detail.contains("can be taken here"), "{detail}");
    let (status, detail) = checked(&dir.path().join("other"), "7").await;
    assert_eq!(status, "fail", "{detail}");
    let id = std::fs::read_to_string(pool.root().join(".turn-worker/root-id")).unwrap();
    assert!(detail.contains(id.trim()), "{detail}");
    let inside = pool.root().join("team");
    let call = check(dir.path(), &url, &["--json"]);
    let call = call.set("WORKSPACE_ROOT", inside.to_str().unwrap());
    let lines = lines(&call.run().await.ended(1));
    let (status, detail) = &lines["workspace root"];
    assert_eq!(status, "fail");
    assert!(detail.contains("inside root"), "{detail}");
    pool.stop().await;
}

/// Guards that a consumer of turns which no sequencer reports is a warning.
#[tokio::test]
async fn a_consumer_that_is_no_sequencer_is_a_warning() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(dir.path().join("home/.codex")).unwrap();
    let url = Broker::vhost();
    let check = || check(dir.path(), &url, &["--json"]);
    assert!(!lines(&check().run().await.ended(0)).contains_key("consumers"));
    let stranger = Operator::of(&url).await.consume("codex.turns").await;
    let lines = lines(&check().run().await.ended(0));
    let (status, detail) = &lines["consumers"];
    assert_eq!(status, "warn");
    let found = "found 1 consumers on codex.turns, expected 0";
    assert!(detail.starts_with(found), "{detail}");
    stranger.end().await;
}

/// With any content, `workspace-write` opens the agents' folder for temporary files.
#[tokio::test]
async fn what_a_sandboxed_command_may_write_to_is_a_warning() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(dir.path().join("home/.codex")).unwrap();
    let dir = dir.path().canonicalize().unwrap();
    let call = check(&dir, &Broker::vhost(), &["--json"])
        .set("CODEX_SANDBOX", "workspace-write")
        .set("CODEX_ENV", "PATH,HOME,CODEX_API_KEY,TMPDIR")
        .env("TMPDIR", dir.to_str().unwrap());
    let done = call.run().await.ended(0);
    let (status, detail) = &lines(&done)["isolation"];
    assert_eq!(status, "warn");
    for (what, path) in [
        ("the workspace root", "workspaces"),
        ("CODEX_HOME", "home/.codex"),
    ] {
        let named = format!("{what} is {}, below /", dir.join(path).display());
        assert!(detail.contains(&named), "{detail}");
    }
}

#[tokio::test]
async fn trusted_workspaces_and_visible_keys_are_warned_of() {
    let dir = tempfile::tempdir().unwrap();
    let codex = dir.path().join("home/.codex");
    std::fs::create_dir_all(&codex).unwrap();
    std::fs::create_dir_all(dir.path().join("workspaces")).unwrap();
    let root = dir.path().join("workspaces").canonicalize().unwrap();
    let config = format!(
        "[projects.\"{}/acme\"]\ntrust_level = \"trusted\"\n[model_providers.a]\nenv_key = \"A_KEY\"\n",
        root.display()
    );
    std::fs::write(codex.join("config.toml"), config).unwrap();
    let url = Broker::vhost();
    let check = || {
        check(dir.path(), &url, &["--json"])
            .set("CODEX_ENV", "PATH,HOME,A_KEY")
            .env("A_KEY", "k")
    };
    let warned = lines(&check().run().await.ended(0));
    let (status, detail) = &warned["workspace trust"];
    assert_eq!(status, "warn");
    for part in ["config.toml trusts 1 of", "/workspaces/acme", "delete"] {
        assert!(detail.contains(part), "{detail}");
    }
    assert!(
        warned["login"].1.contains("A_KEY, from which"),
        "{warned:?}"
    );
    assert!(warned["login"].1.contains("TURN_WORKER_CODEX_HIDDEN_ENV"));

    let hidden = check()
        .set("CODEX_HIDDEN_ENV", "A_KEY")
        .set("CODEX_TRUST_WORKSPACES", "true");
    let warned = lines(&hidden.run().await.ended(0));
    assert!(!warned["login"].1.contains("A_KEY"), "{warned:?}");
    assert!(
        warned["workspace trust"].1.contains("outside the sandbox"),
        "{warned:?}"
    );

    std::fs::remove_file(codex.join("config.toml")).unwrap();
    std::os::unix::fs::symlink("/dev/zero", codex.join("config.toml")).unwrap();
    let warned = lines(&check().run().await.ended(0));
    assert!(
        warned["codex home"].1.contains("it is not a file"),
        "{warned:?}"
    );
}

#[tokio::test]
async fn everything_that_is_wrong_is_reported_at_once() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("workspaces"), "").unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = taken.local_addr().unwrap().to_string();
    let call = check(dir.path(), "amqp://u:s3cret@127.0.0.1:1/v", &["--json"])
        .set("CODEX_BIN", "no-such-codex")
        .set("HTTP_ADDR", &addr)
        .set("SLOTZ", "1");
    let done = call.run().await.ended(1);
    let lines = lines(&done);
    for (what, status, part) in [
        ("settings", "warn", "TURN_WORKER_SLOTS"),
        ("broker", "fail", "127.0.0.1:1/v"),
        ("workspace root", "fail", "TURN_WORKER_WORKSPACE_ROOT"),
        ("codex", "fail", "TURN_WORKER_CODEX_BIN"),
        ("http", "fail", "TURN_WORKER_HTTP_ADDR"),
    ] {
        assert_eq!(lines[what].0, status, "{lines:#?}");
        assert!(lines[what].1.contains(part), "{lines:#?}");
    }
    assert_eq!(lines.len(), 5, "{lines:#?}");
    assert!(!done.out.contains("s3cret"));
    drop(taken);

    let text = check(dir.path(), "amqp://127.0.0.1:1/v", &[]).run().await;
    assert!(text.ended(1).out.contains("\nFAIL  broker"));
}

#[tokio::test]
async fn wrong_settings_are_all_named() {
    let dir = tempfile::tempdir().unwrap();
    let call = check(dir.path(), "amqp://127.0.0.1:1/v", &["--json"])
        .set("SLOTS", "0")
        .set("EVENTS", "some");
    let lines = lines(&call.run().await.ended(1));
    let (status, detail) = &lines["settings"];
    assert_eq!(status, "fail");
    for part in [
        "TURN_WORKER_SLOTS is \"0\", expected 1 to 1000",
        "TURN_WORKER_EVENTS",
    ] {
        assert!(detail.contains(part), "{detail}");
    }
}

#[tokio::test]
async fn a_queue_that_is_declared_otherwise_is_reported_with_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let url = Broker::vhost();
    let declared = url.clone();
    let connector = Connector::new("test", move || Ok(declared.as_str().into()));
    let link = connector.connect().await.unwrap();
    Topology::new("codex", 7).declare(&link).await.unwrap();
    link.close().await;
    let done = check(dir.path(), &url, &["--json"]).run().await.ended(1);
    let (status, detail) = &lines(&done)["topology"];
    assert_eq!(status, "fail");
    for part in [
        "codex.turns.dead",
        "x-max-length",
        "it has 7",
        "delete the queue",
    ] {
        assert!(detail.contains(part), "{detail}");
    }
}

#[tokio::test]
async fn a_codex_that_is_doubtful_is_a_warning_and_one_that_does_not_run_a_failure() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let url = Broker::vhost();
    let codex = dir.path().join("codex");
    let script = |text: &str| {
        std::fs::write(&codex, text).unwrap();
        std::fs::set_permissions(&codex, PermissionsExt::from_mode(0o755)).unwrap();
    };
    let run = async || {
        check(dir.path(), &url, &["--json"])
            .set("CODEX_BIN", codex.to_str().unwrap())
            .set("CODEX_HOME", dir.path().join("gone").to_str().unwrap())
            .run()
            .await
            .ended(1)
    };
    script("#!/bin/sh\necho 'codex-cli 9.9.9'\n");
    let found = lines(&run().await);
    assert_eq!(found["codex"].0, "warn", "{found:#?}");
    assert!(found["codex"].1.contains(versions::CODEX), "{found:#?}");
    // A `serve` without a check before reports it, too.
    let serve = call("serve", dir.path(), &url, &[]).set("CODEX_BIN", codex.to_str().unwrap());
    serve.start().said("codex 9.9.9 is not a version").await;
    assert_eq!(found["guard"].0, "ok", "{found:#?}");
    assert_eq!(found["codex home"].0, "fail", "{found:#?}");
    let warned = call("run", dir.path(), &url, &["-w", "a", "x"]);
    let warned = warned.set("CODEX_BIN", codex.to_str().unwrap()).run().await;
    assert!(warned.err.contains("codex 9.9.9 is not"), "{warned:#?}");
    script("#!/bin/sh\nexit 3\n");
    let found = lines(&run().await);
    assert_eq!(found["codex"].0, "fail", "{found:#?}");
    assert!(found["codex"].1.contains("exit status: 3"), "{found:#?}");
}

/// Its turns would fail, if not the first one: `codex app-server` 0.150.0 fails
/// every second turn of a workspace.
#[tokio::test(flavor = "multi_thread")]
async fn no_turn_is_run_with_a_codex_that_is_known_to_fail_turns() {
    let dir = tempfile::tempdir().unwrap();
    let url = Broker::vhost();
    let codex = dir.path().join("codex");
    write_program(&codex, "#!/bin/sh\necho 'codex-cli 0.150.0'\n");
    let with = |command: &'static str, args: &[&str], engine: &str| {
        let call = call(command, dir.path(), &url, args);
        let call = call.set("CODEX_BIN", codex.to_str().unwrap());
        call.set("CODEX_ENGINE", engine)
    };
    let why = "found codex 0.150.0, expected 0.151.0 or newer";
    let found = lines(
        &with("check", &["--json"], "app-server")
            .run()
            .await
            .ended(1),
    );
    assert_eq!(found["codex"].0, "fail", "{found:#?}");
    assert!(found["codex"].1.contains(why), "{found:#?}");
    for (command, args) in [("serve", &[][..]), ("run", &["-w", "a", "x"])] {
        let refused = with(command, args, "app-server").run().await.ended(1);
        assert!(refused.err.contains(why), "{command}: {}", refused.err);
    }
    let found = lines(&with("check", &["--json"], "exec").run().await);
    assert_eq!(found["codex"].0, "warn", "{found:#?}");
}

#[tokio::test]
async fn the_version_comes_with_what_it_was_tested_with() {
    let own = env!("CARGO_PKG_VERSION");
    let short = Call::new(&["-V"]).run().await.ended(0).out;
    assert_eq!(short, format!("turn-worker {own}\n"));
    let long = Call::new(&["--version"]).run().await.ended(0).out;
    assert_eq!(
        long,
        format!("turn-worker {own}\n{}\n", versions::in_words())
    );
}

/// Guards that what loses turns without a sign is found, and that the shipped policy keeps it off.
#[tokio::test]
async fn g4_a_policy_that_loses_turns_is_found_and_kept_off() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(dir.path().join("home/.codex")).unwrap();
    let url = Broker::vhost();
    let vhost = url.rsplit('/').next().unwrap();
    let set = |name: &str, pattern: &str, definition: &str, priority: &str| {
        let options = ["--priority", priority, "--apply-to", "queues"];
        let policy = ["set_policy", "-p", vhost, name, pattern, definition];
        Broker::shared().ctl(&[&policy[..], &options].concat());
    };
    let policies = async || {
        let done = check(dir.path(), &url, &["--json"]).run().await;
        lines(&done)["policies"].clone()
    };
    for (definition, found) in [
        (r#"{"delivery-limit": 20}"#, "requeued 21 times"),
        (r#"{"message-ttl": 1500}"#, "was dropped (message-ttl)"),
        (r#"{"max-length": 2}"#, "of 3 messages 2 were kept"),
        (
            r#"{"max-length": 1, "overflow": "reject-publish"}"#,
            "was refused",
        ),
    ] {
        set("all", ".*", definition, "7");
        let (status, detail) = policies().await;
        assert_eq!(status, "fail", "{definition}: {detail}");
        assert!(detail.contains(found), "{definition}: {detail}");
    }
    let shipped = std::fs::read_to_string("ops/deploy/rabbitmq/definitions.json").unwrap();
    let shipped: serde_json::Value = serde_json::from_str(&shipped).unwrap();
    let policy = &shipped["policies"][0];
    set(
        policy["name"].as_str().unwrap(),
        policy["pattern"].as_str().unwrap(),
        &policy["definition"].to_string(),
        &policy["priority"].to_string(),
    );
    let (status, detail) = policies().await;
    assert_eq!(status, "ok", "{detail}");
}
