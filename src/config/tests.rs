use secrecy::ExposeSecret;

use super::*;
use crate::config::value;
use crate::event::Reason;
use crate::request::{Effort, ServiceTier};

type Read = Result<(Settings, Vec<Warning>), ConfigError>;

fn read(vars: &[(&str, &str)]) -> Read {
    let vars = vars
        .iter()
        .map(|(name, value)| (format!("TURN_WORKER_{name}"), (*value).to_owned()));
    Settings::from_vars(vars)
}

fn settings(vars: &[(&str, &str)]) -> Settings {
    read(vars).unwrap().0
}

fn wrong(vars: &[(&str, &str)]) -> String {
    read(vars).unwrap_err().to_string()
}

#[test]
fn an_empty_environment_gives_the_documented_defaults() {
    let (settings, warnings) = read(&[]).unwrap();
    assert_eq!(warnings, []);
    assert_eq!(
        settings.broker.url().unwrap().expose_secret(),
        "amqp://guest:guest@127.0.0.1:5672/%2f"
    );
    assert_eq!(settings.workspace_root, Path::new("./workspaces"));
    assert!(settings.slots >= 4 && settings.slots % 4 == 0);
    assert_eq!(settings.codex_bin, Path::new("codex"));
    assert_eq!(settings.codex_home, CodexHome::Default);
    assert_eq!(settings.codex_model, None);
    assert_eq!(settings.codex_models, None);
    assert_eq!(settings.codex_sandbox, Sandbox::Bypass);
    assert_eq!(
        settings.codex_args,
        [
            "--disable",
            "unbounded_connection_retries",
            "--disable",
            "plugins",
            "-c",
            "analytics.enabled=false"
        ]
    );
    assert_eq!(
        settings.codex_env,
        [
            "PATH",
            "HOME",
            "LANG",
            "LC_ALL",
            "TZ",
            "TMPDIR",
            "CODEX_API_KEY",
            "SSL_CERT_FILE"
        ]
    );
    assert_eq!(settings.codex_run_as, None);
    assert_eq!(settings.codex_max_processes, None);
    assert_eq!(settings.codex_max_open_files, None);
    assert!(!settings.require_isolation);
    assert_eq!(settings.turn_timeout, Duration::from_secs(3600));
    assert_eq!(settings.turn_idle_timeout, Duration::from_secs(900));
    assert_eq!(settings.max_attempts, 3);
    assert_eq!(settings.account_faults, [Reason::Auth, Reason::UsageLimit]);
    assert_eq!(settings.account_fault_turns, FaultTurns::End);
    assert_eq!(settings.events, EventSet::Full);
    assert_eq!(settings.max_request_bytes, 256 * 1024);
    assert_eq!(settings.max_line_bytes, 16 * 1024 * 1024);
    assert_eq!(settings.backlog, 10_000);
    assert_eq!(settings.max_waiting, 1000);
    assert_eq!(settings.overtaking, Duration::from_secs(1));
    assert_eq!(settings.event_log, None);
    assert_eq!(settings.dead_letter_limit, 10_000);
    assert_eq!(settings.shutdown_grace, Duration::from_secs(600));
    assert_eq!(settings.http_addr, "127.0.0.1:9464".parse().unwrap());
    assert_eq!(settings.metrics_linger, Duration::from_secs(30));
    assert_eq!(settings.log_format, None);
    assert_eq!(settings.log, "info");
    assert_eq!(settings.prefix, "codex");
    assert_eq!(
        settings.roles,
        Roles {
            sequencer: true,
            worker: true
        }
    );
}

#[test]
fn what_is_set_is_taken() {
    let settings = settings(&[
        ("AMQP_URL", "amqps://u:p@broker/v"),
        ("AMQP_CA_FILE", "/etc/ca.pem"),
        ("AMQP_CLIENT_CERT_FILE", "/etc/cert.pem"),
        ("AMQP_CLIENT_KEY_FILE", "/etc/key.pem"),
        ("WORKSPACE_ROOT", "/srv/ws"),
        ("SLOTS", "1000"),
        ("CODEX_BIN", "/opt/codex"),
        ("CODEX_HOME", "per-workspace"),
        ("CODEX_MODEL", "b"),
        ("CODEX_MODELS", "a, b,"),
        ("CODEX_EFFORTS", "low, high"),
        ("CODEX_SERVICE_TIERS", "flex,default"),
        ("CODEX_SANDBOX", "workspace-write"),
        ("CODEX_ARGS", r#"-c 'model_reasoning_summary="auto"' --x"#),
        ("CODEX_ENV", "PATH, KEY,PATH"),
        ("CODEX_RUN_AS", "4321:1234"),
        ("CODEX_MAX_PROCESSES", "500"),
        ("CODEX_MAX_OPEN_FILES", "1024"),
        ("REQUIRE_ISOLATION", "true"),
        ("TURN_TIMEOUT", "1h30m"),
        ("TURN_IDLE_TIMEOUT", "500ms"),
        ("MAX_ATTEMPTS", "1"),
        ("ACCOUNT_FAULTS", " "),
        ("ACCOUNT_FAULT_TURNS", "wait"),
        ("EVENTS", "minimal"),
        ("MAX_REQUEST_BYTES", "1MiB"),
        ("MAX_LINE_BYTES", "65536"),
        ("BACKLOG", "7"),
        ("MAX_WAITING", "8"),
        ("OVERTAKING", "3s"),
        ("DEAD_LETTER_LIMIT", "9"),
        ("SHUTDOWN_GRACE", "0s"),
        ("HTTP_ADDR", "[::1]:0"),
        ("METRICS_LINGER", "0s"),
        ("LOG_FORMAT", "json"),
        ("LOG", "warn,turn_worker=debug"),
        ("PREFIX", "team-a"),
        ("ROLES", "worker"),
    ]);
    assert_eq!(
        settings.broker.url().unwrap().expose_secret(),
        "amqps://u:p@broker/v"
    );
    assert_eq!(
        settings.amqp_tls,
        TlsFiles {
            ca: Some("/etc/ca.pem".into()),
            client: Some(ClientFiles {
                certificate: "/etc/cert.pem".into(),
                key: "/etc/key.pem".into(),
            }),
        }
    );
    assert_eq!(settings.workspace_root, Path::new("/srv/ws"));
    assert_eq!(settings.slots, 1000);
    assert_eq!(settings.codex_bin, Path::new("/opt/codex"));
    assert_eq!(settings.codex_home, CodexHome::PerWorkspace);
    assert_eq!(settings.codex_model.as_deref(), Some("b"));
    assert_eq!(
        settings.codex_models,
        Some(["a".to_owned(), "b".to_owned()].into())
    );
    assert_eq!(
        settings.codex_efforts,
        Some([Effort::Low, Effort::High].into())
    );
    assert_eq!(
        settings.codex_service_tiers,
        Some([ServiceTier::Standard, ServiceTier::Flex].into())
    );
    assert_eq!(
        settings.request_limits(Vec::new()).service_tiers,
        settings.codex_service_tiers
    );
    assert_eq!(settings.codex_sandbox, Sandbox::WorkspaceWrite);
    assert_eq!(
        settings.codex_args,
        ["-c", "model_reasoning_summary=\"auto\"", "--x"]
    );
    assert_eq!(settings.codex_env, ["PATH", "KEY"]);
    assert_eq!(
        settings.codex_run_as,
        Some(RunAs::Ids {
            uid: 4321,
            gid: 1234
        })
    );
    assert_eq!(settings.codex_max_processes, Some(500));
    assert_eq!(settings.codex_max_open_files, Some(1024));
    assert!(settings.require_isolation);
    assert_eq!(settings.turn_timeout, Duration::from_secs(5400));
    assert_eq!(settings.turn_idle_timeout, Duration::from_millis(500));
    assert_eq!(settings.max_attempts, 1);
    assert_eq!(settings.account_faults, []);
    assert_eq!(settings.account_fault_turns, FaultTurns::Wait);
    assert_eq!(settings.events, EventSet::Minimal);
    assert_eq!(settings.max_request_bytes, 1024 * 1024);
    assert_eq!(settings.max_line_bytes, 65_536);
    assert_eq!(
        (
            settings.backlog,
            settings.max_waiting,
            settings.dead_letter_limit
        ),
        (7, 8, 9)
    );
    assert_eq!(settings.shutdown_grace, Duration::ZERO);
    assert_eq!(settings.http_addr, "[::1]:0".parse().unwrap());
    assert_eq!(settings.log_format, Some(LogFormat::Json));
    assert_eq!(settings.log, "warn,turn_worker=debug");
    assert_eq!(settings.prefix, "team-a");
    assert_eq!(
        settings.roles,
        Roles {
            sequencer: false,
            worker: true
        }
    );
}

#[test]
fn a_wrong_value_is_named_with_its_variable_and_what_is_allowed() {
    let cases = [
        ("AMQP_URL", "http://broker"),
        ("AMQP_URL", "amqp://u:p@[::1]/v"),
        ("AMQP_URL", "amqp://u:p@broker/v?heartbeat=0"),
        ("WORKSPACE_ROOT", " "),
        ("SLOTS", "0"),
        ("SLOTS", "1001"),
        ("SLOTS", "four"),
        ("CODEX_BIN", " "),
        ("CODEX_HOME", " "),
        ("CODEX_MODEL", "-m"),
        ("CODEX_MODELS", ","),
        ("CODEX_MODELS", "a,b c"),
        ("CODEX_SANDBOX", "none"),
        ("CODEX_ARGS", "-c 'open"),
        ("CODEX_ENV", "PATH,A=B"),
        ("CODEX_ENV", "1A"),
        ("CODEX_RUN_AS", "root"),
        ("CODEX_RUN_AS", "0:0"),
        ("CODEX_RUN_AS", "0:1234"),
        ("CODEX_RUN_AS", "1234"),
        ("CODEX_RUN_AS", "1234:"),
        ("CODEX_RUN_AS", "4294967295:1"),
        ("CODEX_RUN_AS", "1:4294967295"),
        ("CODEX_RUN_AS", "-agent"),
        ("CODEX_RUN_AS", "an agent"),
        ("CODEX_MAX_PROCESSES", "0"),
        ("CODEX_MAX_OPEN_FILES", "3"),
        ("REQUIRE_ISOLATION", "yes"),
        ("TURN_TIMEOUT", "90"),
        ("TURN_TIMEOUT", "8d"),
        ("TURN_IDLE_TIMEOUT", "0s"),
        ("MAX_ATTEMPTS", "0"),
        ("ACCOUNT_FAULTS", "auth,network"),
        ("ACCOUNT_FAULT_TURNS", "retry"),
        ("EVENTS", "Full"),
        ("MAX_REQUEST_BYTES", "9MiB"),
        ("MAX_LINE_BYTES", "16MB"),
        ("BACKLOG", "65536"),
        ("MAX_WAITING", "-1"),
        ("OVERTAKING", "61s"),
        ("DEAD_LETTER_LIMIT", "0"),
        ("SHUTDOWN_GRACE", "soon"),
        ("HTTP_ADDR", "9464"),
        ("METRICS_LINGER", "1h"),
        ("LOG_FORMAT", "xml"),
        ("LOG", "turn_worker=loud"),
        ("PREFIX", "amq.x"),
        ("PREFIX", "a b"),
        ("ROLES", ","),
        ("ROLES", "worker,boss"),
    ];
    for (name, value) in cases {
        let error = read(&[(name, value)]).unwrap_err();
        let [problem] = error.problems.as_slice() else {
            panic!("{name}={value}: {error}")
        };
        assert_eq!(problem.variable, format!("TURN_WORKER_{name}"));
        if name != "AMQP_URL" {
            assert_eq!(problem.found, format!("{value:?}"));
        }
        let setting = SETTINGS
            .iter()
            .find(|setting| setting.name == name)
            .unwrap();
        assert_eq!(problem.allowed, setting.allowed.to_string());
    }
}

#[test]
fn all_wrong_values_are_reported_at_once() {
    insta::assert_snapshot!(
        wrong(&[("SLOTS", "0"), ("TURN_TIMEOUT", "90\n"), ("EVENTS", "all")]), @r#"
    3 wrong settings:
      TURN_WORKER_SLOTS is "0", expected 1 to 1000
      TURN_WORKER_TURN_TIMEOUT is "90\n", expected a duration such as 90s or 1h30m, 100ms to 7d
      TURN_WORKER_EVENTS is "all", expected full, minimal
    "#);
}

#[test]
fn the_default_model_must_be_one_that_turns_may_name() {
    let text = wrong(&[("CODEX_MODELS", "a,b"), ("CODEX_MODEL", "c")]);
    assert!(text.contains("TURN_WORKER_CODEX_MODEL is \"c\""), "{text}");
}

#[test]
fn an_empty_value_counts_as_absent() {
    let vars: Vec<(&str, &str)> = SETTINGS.iter().map(|setting| (setting.name, "")).collect();
    let (settings, warnings) = read(&vars).unwrap();
    assert_eq!(warnings, []);
    assert_eq!(
        format!("{settings:?}"),
        format!("{:?}", read(&[]).unwrap().0)
    );
}

#[test]
fn a_blank_gives_codex_no_arguments() {
    assert!(settings(&[("CODEX_ARGS", " ")]).codex_args.is_empty());
}

#[test]
fn an_unknown_variable_is_a_warning_with_the_name_that_is_near() {
    let (_, warnings) = read(&[
        ("SLOT", "1"),
        ("slots", "1"),
        ("TURN_TIMOUT", "1h"),
        ("COLOUR", "red"),
    ])
    .unwrap();
    let texts: Vec<String> = warnings.iter().map(Warning::to_string).collect();
    assert_eq!(
        texts,
        [
            "TURN_WORKER_SLOT is no setting and is ignored; is TURN_WORKER_SLOTS meant?",
            "TURN_WORKER_slots is no setting and is ignored; is TURN_WORKER_SLOTS meant?",
            "TURN_WORKER_TURN_TIMOUT is no setting and is ignored; is TURN_WORKER_TURN_TIMEOUT meant?",
            "TURN_WORKER_COLOUR is no setting and is ignored",
        ]
    );
}

#[test]
fn variables_of_others_and_of_tests_are_left_alone() {
    let vars = [
        ("TURN_WORKER_TEST_BROKER", "x"),
        ("SLOTS", "0"),
        ("PATH", "/bin"),
    ];
    let vars = vars.map(|(name, value)| (name.to_owned(), value.to_owned()));
    assert_eq!(Settings::from_vars(vars).unwrap().1, []);
}

#[test]
fn a_value_that_is_no_text_is_reported_with_the_rest() {
    use std::os::unix::ffi::OsStringExt;
    let vars = [
        ("TURN_WORKER_WORKSPACE_ROOT", b"/srv/\xff".to_vec()),
        ("TURN_WORKER_SLOTS", b"0".to_vec()),
        ("PATH", b"\xff".to_vec()),
    ];
    let vars = vars.map(|(name, value)| (name.into(), OsString::from_vec(value)));
    let error = Settings::from_os_vars(vars).unwrap_err();
    let named: Vec<&str> = error.problems.iter().map(|p| p.variable.as_str()).collect();
    assert_eq!(named, ["TURN_WORKER_WORKSPACE_ROOT", "TURN_WORKER_SLOTS"]);
}

#[test]
fn g8_no_password_is_ever_shown() {
    let secret = "s3cr3t";
    let urls = [
        format!("amqp://user:{secret}@broker/v"),
        format!("amqp://user:{secret}@broker:notaport/v"),
        format!("amqp://user:a@{secret}@broker:x/v"),
        format!("amqp://user:{secret}/"),
        format!("user:{secret}@broker"),
        format!("{secret}://x@broker:x"),
        secret.to_owned(),
    ];
    for url in urls {
        let text = match read(&[("AMQP_URL", &url)]) {
            Ok((settings, _)) => format!("{settings:?} {}", settings.broker.shown()),
            Err(error) => format!("{error:?} {error}"),
        };
        assert!(!text.contains(secret), "{text}");
    }
}

#[test]
fn g8_the_workers_own_variables_can_not_be_passed_on() {
    let text = wrong(&[("CODEX_ENV", "PATH,TURN_WORKER_AMQP_URL")]);
    assert!(
        text.starts_with("wrong setting: TURN_WORKER_CODEX_ENV is"),
        "{text}"
    );
}

#[test]
fn the_url_can_come_from_a_file_that_changes() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("url");
    let file_name = file.to_str().unwrap();
    let broker = settings(&[("AMQP_URL_FILE", file_name)]).broker;

    let missing = broker.url().unwrap_err().to_string();
    assert!(
        missing.contains("TURN_WORKER_AMQP_URL_FILE") && missing.contains(file_name),
        "{missing}"
    );

    for url in ["amqp://u:one@broker/v", "amqp://u:two@broker/v"] {
        std::fs::write(&file, format!("{url}\n")).unwrap();
        assert_eq!(broker.url().unwrap().expose_secret(), url);
    }

    std::fs::write(&file, "u:three@broker\n").unwrap();
    let unusable = broker.url().unwrap_err().to_string();
    assert!(
        unusable.contains(file_name) && !unusable.contains("three"),
        "{unusable}"
    );

    let both = wrong(&[("AMQP_URL_FILE", file_name), ("AMQP_URL", "amqp://h")]);
    assert!(both.contains("not together with AMQP_URL"), "{both}");
}

/// A password must not go out in the clear where it was meant to be protected.
#[test]
fn g8_a_setting_for_tls_allows_no_url_without() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("url");
    let both = |name: &'static str| (name, "/etc/x.pem");
    let key = both("AMQP_CLIENT_KEY_FILE");
    for set in [
        &[both("AMQP_CA_FILE")][..],
        &[both("AMQP_CLIENT_CERT_FILE"), key],
    ] {
        let variable = format!("TURN_WORKER_{}", set[0].0);
        let inline = wrong(&[&[("AMQP_URL", "amqp://u:s3cret@h/v")], set].concat());
        assert!(
            inline.contains(&format!("{variable} is set for an amqp:// URL")),
            "{inline}"
        );
        // Without a URL, the default is one without TLS.
        assert!(wrong(set).contains(&variable));

        let by_file = [&[("AMQP_URL_FILE", file.to_str().unwrap())], set].concat();
        let by_file = settings(&by_file);
        std::fs::write(&file, "AMQP://u:s3cret@h/v\n").unwrap();
        let told = by_file.amqp_url().unwrap_err().to_string();
        assert!(
            told.starts_with(&format!("{variable} is set, but")),
            "{told}"
        );
        assert!(told.contains("TURN_WORKER_AMQP_URL_FILE") && !told.contains("s3cret"));
        std::fs::write(&file, "amqps://u:s3cret@h/v\n").unwrap();
        by_file.amqp_url().unwrap();
    }
}

#[test]
fn a_certificate_and_its_key_are_set_together() {
    for name in ["AMQP_CLIENT_CERT_FILE", "AMQP_CLIENT_KEY_FILE"] {
        let text = wrong(&[("AMQP_URL", "amqps://h"), (name, "/etc/x.pem")]);
        assert!(
            text.starts_with(&format!(
                "wrong setting: TURN_WORKER_{name} is \"/etc/x.pem\""
            )),
            "{text}"
        );
        assert!(text.contains("together with AMQP_CLIENT_"), "{text}");
    }
}

#[test]
fn relative_paths_mean_the_starting_directory() {
    let absolute = settings(&[
        ("CODEX_HOME", "home"),
        ("CODEX_BIN", "./bin/codex"),
        ("AMQP_URL_FILE", "/run/url"),
        ("AMQP_CA_FILE", "ca.pem"),
        ("AMQP_CLIENT_CERT_FILE", "cert.pem"),
        ("AMQP_CLIENT_KEY_FILE", "key.pem"),
    ])
    .relative_to(Path::new("/opt/app"));
    assert_eq!(
        absolute.workspace_root.to_str(),
        Some("/opt/app/workspaces")
    );
    assert_eq!(
        absolute.codex_home,
        CodexHome::Shared("/opt/app/home".into())
    );
    assert_eq!(absolute.codex_bin.to_str(), Some("/opt/app/bin/codex"));
    assert!(matches!(absolute.broker, Broker::File(path) if path == Path::new("/run/url")));
    let tls = format!("{:?}", absolute.amqp_tls);
    for path in [
        "\"/opt/app/ca.pem\"",
        "\"/opt/app/cert.pem\"",
        "\"/opt/app/key.pem\"",
    ] {
        assert!(tls.contains(path), "{tls}");
    }

    let bare = settings(&[]).relative_to(Path::new("/opt/app"));
    assert_eq!(bare.codex_bin, Path::new("codex"));
}

#[test]
fn the_table_and_the_code_agree() {
    for setting in SETTINGS {
        // Each default is a value that may be set, and each setting is read.
        if let Preset::Value(text) = setting.default {
            assert!(read(&[(setting.name, text)]).is_ok(), "{}", setting.name);
        }
        match setting.allowed {
            Allowed::Duration(min, max) => assert!(value::duration(min) < value::duration(max)),
            Allowed::Size(min, max) => assert!(value::size(min) < value::size(max)),
            _ => {}
        }
        assert!(settings_help().contains(&setting.variable()));
        assert!(!setting.help.contains('|') && !setting.allowed.to_string().contains('|'));
    }
}

/// The documentation lists the settings as they are.
#[test]
fn the_documentation_has_the_table_of_settings() {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/settings.md");
    if let Ok(page) = std::fs::read_to_string(page) {
        let table = settings_markdown();
        assert!(
            page.contains(&table),
            "docs/settings.md must contain:\n{table}"
        );
    }
}
