//! Connections and channels that the broker closes.

use crate::support::broker::Broker;
use crate::support::operator::Operator;
use crate::support::pool::{Pool, turn};
use crate::support::proxy::Proxy;

const RESTARTS: &str = "the sequencer restarts";
const TAKES_NONE: &str = "taking no offers until the broker is back";

/// Guards that each connection of a process is kept up by itself: the loops
/// of `keep_connected`, `Worker::run` and `Sequencer::run`.
#[tokio::test]
async fn g6_each_connection_of_a_process_may_be_closed_alone() {
    let url = Broker::vhost();
    let mut pool = Pool::on(&url, 2, &[("SLOTS", "2")]).await;
    let operator = Operator::of(&url).await;
    for connection in ["publisher", "worker", "sequencer"] {
        let go = format!("go-{connection}");
        let [first, second] = [1, 2].map(|n| format!("{connection}-{n}"));
        let talk = ["say before", &format!("wait {go}"), "flood 100"];
        let requests = [turn(&first, "a", &talk), turn(&second, "a", &["say hi"])];
        pool.enqueue(&requests).await;
        pool.events.said(&first, "before").await;
        let at = match connection {
            "sequencer" => pool.active_sequencer().await,
            _ => {
                let run = pool.started(&first, 1).await;
                pool.process_of(&run)
            }
        };
        let pid = pool.process(at).pid();
        let pattern = format!("-{pid}-.* {connection}$");
        assert_eq!(operator.close_connections(&pattern).await, 1);
        match connection {
            "publisher" => {
                let reconnects = r#"turn_worker_amqp_reconnects_total{connection="publisher"}"#;
                pool.process(at).metric_is(reconnects, 1.0).await;
            }
            "worker" => pool.process(at).logged(TAKES_NONE).await,
            _ => pool.process(at).logged(RESTARTS).await,
        }
        pool.release(&go);
        pool.events.all_ended([&first, &second]).await;
        assert_eq!(pool.events.turn(&first).said(1).len(), 101);
        for id in [&first, &second] {
            assert_eq!(pool.runs().of_turn(id).count(), 1, "{id}");
        }
        pool.all_slots_take().await;
    }
    let runs = pool.runs();
    let order = &runs.first_starts()["a"];
    assert_eq!(order.len(), 6);
    assert!(order.chunks(2).all(|two| two[0][..3] == two[1][..3]));
    pool.stop().await;
}

/// Guards that the end of one channel ends the connection that it is of
/// (`Worker::consume`, `Sequencer::session`): no part is left half alive.
#[tokio::test]
async fn g4_a_channel_that_the_broker_closes_takes_no_slot_and_no_turn_along() {
    let url = Broker::vhost();
    let mut pool = Pool::on(&url, 0, &[("SLOTS", "2")]).await;
    let workers = Proxy::before_some(&url, " worker").await;
    let worker = pool.spawn(&[("AMQP_URL", &workers.url), ("ROLES", "worker")]);
    let sequencers = Proxy::before_some(&url, " sequencer").await;
    let sequencer = pool.spawn(&[("AMQP_URL", &sequencers.url), ("ROLES", "sequencer")]);
    pool.ready().await;
    for (proxy, process, word) in [
        (&workers, worker, TAKES_NONE),
        (&sequencers, sequencer, RESTARTS),
    ] {
        let go = format!("go-{process}");
        let [first, second] = [1, 2].map(|n| format!("t{process}-{n}"));
        let talk = ["say before", &format!("wait {go}"), "say after"];
        let requests = [turn(&first, "a", &talk), turn(&second, "a", &["say hi"])];
        pool.enqueue(&requests).await;
        pool.events.said(&first, "before").await;
        proxy.ack_what_never_came().await;
        if process == sequencer {
            pool.process(process).logged(word).await;
        }
        pool.release(&go);
        // The slot hears of its channel's end when it wants the next offer.
        pool.events.all_ended([&first, &second]).await;
        pool.process(process).logged(word).await;
        assert_eq!(pool.events.turn(&first).said(1), ["before", "after"]);
        for id in [&first, &second] {
            assert_eq!(pool.runs().of_turn(id).count(), 1, "{id}");
        }
        pool.all_slots_take().await;
    }
    pool.stop().await;
}
