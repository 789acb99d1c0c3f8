//! A turn is offered first to the process that keeps its workspace's server.

use lapin::options::QueueDeleteOptions;

use turn_worker::amqp::connect::Connector;

use crate::support::broker::Broker;
use crate::support::pool::{Pool, Run, turn};

const PRIVATE: &str = "turn_worker_offers_total{to=\"private\",why_not_private=\"\"}";
const FULL: &str = "turn_worker_offers_total{to=\"shared\",why_not_private=\"full\"}";
const BACKLOG: &str = "turn_worker_backlog_turns";
const NO_WORD: &str = "turn_worker_offer_answers_total{answer=\"no_word\"}";
const REPEATED: &str = "turn_worker_offers_repeated_total";
const TOOK_OVER: &str = "turn_worker_server_starts_total{kind=\"took_over\"}";

/// Of [`pool`].
const SEQUENCER: usize = 0;

/// A sequencer, another one that stands by, and two workers of a slot each.
async fn pool(url: &str, worker_url: &str) -> Pool {
    let settings = [
        ("CODEX_ENGINE", "app-server"),
        ("SLOTS", "1"),
        ("CODEX_WARM", "8"),
        ("AMQP_URL", worker_url),
    ];
    let mut pool = Pool::on(url, 0, &settings).await;
    for (number, roles) in ["sequencer", "sequencer", "worker", "worker"]
        .iter()
        .enumerate()
    {
        pool.spawn(&[("ROLES", roles)]);
        if number == SEQUENCER {
            pool.ready().await;
        }
    }
    pool.ready().await;
    pool
}

async fn ran(pool: &mut Pool, id: &str, workspace: &str, script: &[&str]) -> Run {
    pool.enqueue(&[turn(id, workspace, script)]).await;
    assert_eq!(
        pool.events.ended(id).await.stop_reason(),
        "end_turn",
        "{id}"
    );
    pool.started(id, 1).await
}

/// Turns of workspace `a`, until one of them was offered to the process of its
/// server: the sequencer has heard that process then. Returns the last run.
async fn settled(pool: &mut Pool, sequencer: usize, name: &str) -> Run {
    let mut before = None;
    for n in 0.. {
        let id = format!("{name}-{n}");
        let offers = pool.process(sequencer).metrics().await.get(PRIVATE);
        let run = ran(pool, &id, "a", &["say hi"]).await;
        if pool.process(sequencer).metrics().await.get(PRIVATE) > offers {
            assert!(before.is_none_or(|pid| pid == run.pid), "on another server");
            return run;
        }
        before = Some(run.pid);
    }
    unreachable!("the pool's deadline ends this")
}

/// Guards `Queue::offer`, `Worker::take_private_offers`, and what heartbeats report.
#[tokio::test]
async fn g2_a_turn_goes_to_its_server_where_that_has_a_free_slot() {
    let url = Broker::vhost();
    let mut pool = pool(&url, &url).await;
    let run = settled(&mut pool, SEQUENCER, "first").await;
    let kept_by = pool.process_of(&run);

    // Its process is busy, so another one runs it.
    pool.enqueue(&[turn("b", "b", &["wait b"]), turn("c", "c", &["wait c"])])
        .await;
    let (b, c) = (pool.started("b", 1).await, pool.started("c", 1).await);
    let (there, elsewhere) = match pool.process_of(&b) == kept_by {
        true => ("b", "c"),
        false => ("c", "b"),
    };
    assert_ne!(pool.process_of(&b), pool.process_of(&c));
    // It waits for the first slot that gets free, in the sequencer.
    pool.enqueue(&[turn("full", "a", &["say hi"])]).await;
    pool.process(SEQUENCER).metric_is(BACKLOG, 3.0).await;
    let metrics = pool.process(SEQUENCER).metrics().await;
    assert_eq!(metrics.get(FULL), 0.0);
    pool.release(elsewhere);
    assert_eq!(pool.events.ended("full").await.stop_reason(), "end_turn");
    let run = pool.started("full", 1).await;
    assert_eq!(pool.process_of(&run), 5 - kept_by);
    assert_eq!(pool.metric(TOOK_OVER).await, 1.0);
    pool.release(there);
    pool.idle().await;

    // The sequencer that takes over has heard where the server is, and that its
    // process has room: two reports of each worker.
    pool.heartbeats(4).await;
    pool.process(SEQUENCER).kill();
    let next = ran(&mut pool, "taken-over", "a", &["say hi"]).await;
    assert_eq!(next.pid, run.pid);
    assert_eq!(pool.process(1).metrics().await.get(PRIVATE), 1.0);

    // A queue that is deleted comes again, and turns run meanwhile.
    let kept_by = pool.process_of(&next);
    let log = pool.process(kept_by).log_lines();
    let mut opened = log
        .iter()
        .filter(|line| line["message"] == "taking private offers");
    let queue = opened.next().unwrap()["queue"].as_str().unwrap().to_owned();
    let connector = Connector::new("test", move || Ok(url.as_str().into()));
    let link = connector.connect().await.unwrap();
    let channel = link.channel().await.unwrap();
    let deleted = channel.queue_delete(queue.as_str().into(), QueueDeleteOptions::default());
    deleted.await.unwrap();
    settled(&mut pool, 1, "again").await;

    // Drained with a private offer, it takes no more, and ends what it has.
    let offers = pool.metric(PRIVATE).await;
    pool.enqueue(&[turn("last", "a", &["wait last"])]).await;
    let run = pool.started("last", 1).await;
    assert_eq!(pool.metric(PRIVATE).await, offers + 1.0);
    let kept_by = pool.process_of(&run);
    pool.process(kept_by).terminate();
    pool.process(kept_by).draining().await;
    pool.enqueue(&[turn("behind", "a", &["say hi"])]).await;
    pool.release("last");
    assert_eq!(pool.events.ended("behind").await.stop_reason(), "end_turn");
    assert_eq!(pool.process(kept_by).exited().await, Some(0));
    pool.stop().await;
}

/// Guards `NO_WORD`, and the dead-lettering of the private queue: the repeat
/// after 10 s would repair both.
#[tokio::test]
async fn g4_a_private_offer_of_a_frozen_or_killed_process_is_taken_by_another() {
    let url = Broker::vhost();
    // A frozen process is given up after two seconds, and with it what it was offered.
    let brisk = format!("{url}?heartbeat=1");
    let mut pool = pool(&url, &brisk).await;
    let run = settled(&mut pool, SEQUENCER, "first").await;
    pool.idle().await;
    let frozen = pool.process_of(&run);
    pool.process(frozen).freeze();
    let run = ran(&mut pool, "frozen", "a", &["say hi"]).await;
    assert_eq!(pool.process_of(&run), 5 - frozen);
    let metrics = pool.process(SEQUENCER).metrics().await;
    assert_eq!(metrics.get(NO_WORD), 1.0);
    pool.process(frozen).thaw();
    pool.ready().await;

    settled(&mut pool, SEQUENCER, "again").await;
    let offers = pool.process(SEQUENCER).metrics().await;
    pool.enqueue(&[turn("killed", "a", &["wait go"])]).await;
    let run = pool.started("killed", 1).await;
    let killed = pool.process_of(&run);
    pool.process(killed).kill();
    let run = pool.started("killed", 2).await;
    assert_eq!(pool.process_of(&run), 5 - killed);
    pool.release("go");
    assert_eq!(pool.events.ended("killed").await.attempt(), 2);
    let metrics = pool.process(SEQUENCER).metrics().await;
    assert_eq!(metrics.get(PRIVATE), offers.get(PRIVATE) + 1.0);
    assert_eq!(metrics.get(REPEATED), offers.get(REPEATED));
    pool.stop().await;
}

/// Guards the warning in `Worker::consume_private`.
#[tokio::test]
async fn workers_with_the_rights_of_an_older_version_do_without() {
    let url = Broker::vhost();
    let vhost = url.rsplit('/').next().unwrap().to_owned();
    let user = format!("older-{vhost}");
    let older = url.replacen("guest:guest", &format!("{user}:pw"), 1);
    tokio::task::spawn_blocking(move || {
        let own = r"codex\.(control|status|turns\.probe)\.[0-9a-f]{32}";
        let rights = [
            format!(
                r"^(codex\.(requests|events|control|status|turns|turns\.work|turns\.dead)|{own})$"
            ),
            format!(r"^(amq\.default|codex\.(events|control|status|turns)|{own})$"),
            format!(r"^(codex\.(requests|control|status|turns|turns\.work)|{own})$"),
        ];
        let broker = Broker::shared();
        broker.ctl(&["add_user", &user, "pw"]);
        let [configure, write, read] = &rights;
        broker.ctl(&[
            "set_permissions",
            "-p",
            &vhost,
            &user,
            configure,
            write,
            read,
        ]);
    })
    .await
    .unwrap();
    let mut pool = pool(&url, &older).await;
    for n in 0..3 {
        ran(&mut pool, &format!("t{n}"), "a", &["say hi"]).await;
    }
    for worker in [2, 3] {
        let log = pool.process(worker).log_lines();
        let warnings = log.iter().filter(|line| {
            let message = line["message"].as_str().unwrap_or_default();
            message.starts_with("no private queue for offers")
        });
        assert_eq!(warnings.count(), 1);
    }
    assert_eq!(pool.metric(PRIVATE).await, 0.0);
    pool.stop().await;
}
