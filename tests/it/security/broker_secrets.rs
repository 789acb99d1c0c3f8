//! The broker's password: never shown, and changed while the pool runs.

use std::fs;

use proptest::prelude::*;
use rustix::process::Signal;
use turn_worker::config::Settings;
use turn_worker::error::with_sources;

use crate::cli::call::Call;
use crate::support::broker::Broker;
use crate::support::pool::{Pool, turn};

/// No word of ours has it, so it marks a password wherever it stands.
const MARK: &str = "zQ7";

fn connector(url: &str) -> Result<(Settings, String), String> {
    let vars = [("TURN_WORKER_AMQP_URL".to_owned(), url.to_owned())];
    let (settings, warnings) =
        Settings::from_vars(vars).map_err(|error| format!("{error} {error:?}"))?;
    let connector = turn_worker::serve::connector(&settings, "test");
    let target = connector.target();
    let told = match target {
        Ok(target) => format!("{target} {target:?}"),
        Err(error) => format!("{error:?} {}", with_sources(&error)),
    };
    let shown = settings.broker.shown();
    let told = format!("{settings:?} {warnings:?} {connector:?} {shown} {told}");
    Ok((settings, told))
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Encoded as it should be, and as people forget to. Guards
    /// `config::broker::redacted` and `amqp::target::parse`.
    #[test]
    fn g8_no_password_is_shown_with_any_characters_in_it(before in "[ -~]{0,6}", after in "[ -~ü]{0,6}") {
        let password = format!("{before}{MARK}{after}");
        let encoded: String = password
            .bytes()
            .map(|byte| match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => char::from(byte).to_string(),
                _ => format!("%{byte:02X}"),
            })
            .collect();
        let told = connector(&format!("amqp://user:{encoded}@broker/v"));
        let (_, told) = told.map_err(TestCaseError::fail)?;
        prop_assert!(!told.contains(MARK), "{told}");
        prop_assert!(told.contains("user: \"user\""), "the user is named: {told}");

        for url in [
            format!("amqp://user:{password}@broker/v"),
            format!("amqps://user:{password}@broker:port/v"),
            format!("http://user:{password}@broker/v"),
            format!("user:{password}@broker/v"),
            format!("amqp//user:{password}@broker/v"),
        ] {
            let told = match connector(&url) {
                Ok((_, told)) => told,
                Err(told) => told,
            };
            prop_assert!(!told.contains(MARK), "{url}: {told}");
        }
    }
}

/// The client library logs the login as it goes over the wire, also of a user
/// that is refused. Guards the filter in `src/cli/logs.rs`.
#[tokio::test]
async fn g8_no_log_level_shows_the_password() {
    let url = Broker::vhost().replacen("guest:guest", "guest:zQ7%40x", 1);
    let folder = tempfile::tempdir().unwrap();
    let serve = Call::new(&["serve"])
        .set("AMQP_URL", &url)
        .set("WORKSPACE_ROOT", folder.path().to_str().unwrap())
        .set("ROLES", "sequencer")
        .set("HTTP_ADDR", "127.0.0.1:0")
        .set(
            "LOG",
            "trace,lapin=trace,lapin::io_loop=trace,lapin::internal_rpc=trace",
        )
        .start();
    serve.said("Login was refused").await;
    serve.signal(Signal::TERM);
    let done = serve.done().await.ended(0);
    // As text, and as the bytes in decimal numbers.
    let numbers: Vec<String> = MARK.bytes().map(|byte| byte.to_string()).collect();
    for shown in [MARK, &numbers.join(", ")] {
        assert!(!done.err.contains(shown), "{}", done.err);
    }
}

/// Guards `Broker::url`, which reads the file at every call, and
/// `Connector::connect`, which calls it at every attempt.
#[tokio::test]
async fn a_pool_comes_back_by_itself_with_a_rotated_password() {
    let url = Broker::vhost();
    let (place, vhost) = url.rsplit_once('/').unwrap();
    let user = format!("rotated-{vhost}");
    let ctl = async |arguments: &[&str]| {
        let arguments: Vec<String> = arguments.iter().map(|&word| word.to_owned()).collect();
        let call = move || {
            let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
            Broker::shared().ctl(&words)
        };
        tokio::task::spawn_blocking(call).await.unwrap();
    };
    ctl(&["add_user", &user, "zQ7-first"]).await;
    ctl(&["set_permissions", "-p", vhost, &user, ".*", ".*", ".*"]).await;

    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("url");
    let write = |password: &str| {
        let (_, host) = place.split_once('@').unwrap();
        let new = folder.path().join("new");
        fs::write(&new, format!("amqp://{user}:{password}@{host}/{vhost}\n")).unwrap();
        fs::rename(new, &file).unwrap();
    };
    write("zQ7-first");
    let settings = [("AMQP_URL", ""), ("AMQP_URL_FILE", file.to_str().unwrap())];
    let mut pool = Pool::on(&url, 1, &settings).await;
    pool.enqueue(&[turn("running", "a", &["wait go", "say Done."])])
        .await;
    pool.started("running", 1).await;

    ctl(&["change_password", &user, "zQ7-second"]).await;
    ctl(&["close_all_connections", "-p", vhost, "rotation"]).await;
    let waiting = "not connected to the broker, trying again";
    pool.process(0).logged(waiting).await;
    write("zQ7-second");
    pool.ready().await;

    pool.release("go");
    assert_eq!(pool.events.ended("running").await.stop_reason(), "end_turn");
    assert_eq!(pool.runs().of_turn("running").count(), 1);
    pool.enqueue(&[turn("later", "a", &["say Done."])]).await;
    assert_eq!(pool.events.ended("later").await.stop_reason(), "end_turn");
    let log = pool.process(0).log_text();
    assert!(log.contains(&user) && !log.contains(MARK), "{log}");
    pool.stop().await;
}
