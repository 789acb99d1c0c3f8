//! What a person sees.

use super::submit::producer;
use crate::support::broker::Broker;
use crate::support::pool::Pool;

const SCRIPT: &str =
    "t1\nthink Hm\u{1b}]0;owned\u{7}.\nrun echo one; exit 3\nsay All is \u{1b}[5mwell.";

#[tokio::test]
async fn a_turn_reads_well_on_a_terminal() {
    let url = Broker::vhost();
    let pool = Pool::on(&url, 1, &[]).await;
    let call = producer(&url, &["submit", "-w", "a/b", "--turn-id", "t1", SCRIPT]);
    let done = call.env("NO_COLOR", "1").start_on_terminal();
    let done = done.done().await.ended(0);
    let (text, end) = done.out.rsplit_once("\r\n\r\ndone · ").unwrap();
    assert_eq!(
        text.replace("\r\n", "\n"),
        "turn t1 in a/b\n\nHm.\n\n$ echo one; exit 3\n  one\n  exit code 3\n\nAll is well."
    );
    assert!(
        end.contains("200 tokens in (80 cached) · 40 out (10 thinking)"),
        "{end:?}"
    );
    done.says(&["sent turn t1, waiting for a worker"]);

    let call = producer(&url, &["submit", "-w", "a/b", "--turn-id", "t2", SCRIPT]);
    let coloured = call
        .env("TERM", "xterm")
        .start_on_terminal()
        .done()
        .await
        .ended(0);
    assert!(
        coloured.out.contains("\u{1b}[32mdone\u{1b}[0m"),
        "{coloured:?}"
    );
    assert!(!coloured.out.contains("\u{1b}[5m") && !coloured.out.contains("owned"));

    let call = producer(
        &url,
        &["submit", "-w", "a/b", "--turn-id", "t3", "--json", SCRIPT],
    );
    let json = call.start_on_terminal().done().await.ended(0);
    assert_eq!(json.kinds().last().map(String::as_str), Some("message_end"));
    pool.stop().await;
}

#[tokio::test]
async fn a_new_attempt_is_shown_on_a_terminal() {
    let url = Broker::vhost();
    let mut pool = Pool::on(&url, 1, &[]).await;
    let script = "t1\nsay half\nwait go\nsay whole";
    let call = producer(&url, &["submit", "-w", "a", "--turn-id", "t1", script]);
    let called = call.start_on_terminal();
    called.printed("half").await;
    pool.process(0).kill();
    pool.spawn(&[]);
    pool.started("t1", 2).await;
    pool.release("go");
    let done = called.done().await.ended(0);
    let (before, after) = done.out.split_once("starts over (attempt 2)").unwrap();
    assert!(
        before.contains("half") && !before.contains("whole"),
        "{done:?}"
    );
    assert!(
        after.contains("whole") && after.contains("done"),
        "{done:?}"
    );
    pool.stop().await;
}
