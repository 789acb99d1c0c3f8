//! A network that passes words in one direction, or in neither, without an error.

use crate::support::broker::Broker;
use crate::support::pool::{Pool, turn};
use crate::support::proxy::Proxy;

/// The broker's words don't come; the client's don't; neither do.
const FAULTS: [fn(&Proxy); 3] = [Proxy::freeze, Proxy::freeze_client, |proxy| {
    proxy.freeze();
    proxy.freeze_client();
}];

/// Either side gives up after two seconds without a frame.
fn brisk(url: &str) -> String {
    format!("{url}?heartbeat=1")
}

/// Guards that a turn's end is recorded with what is unconfirmed before the
/// lock is released (`Attempt::record`): another worker publishes it.
#[tokio::test]
async fn g4_g6_what_a_disconnected_worker_has_run_is_published_by_another() {
    let url = Broker::vhost();
    let mut pool = Pool::on(&url, 0, &[("SLOTS", "1")]).await;
    let brisk_url = brisk(&url);
    pool.spawn(&[("AMQP_URL", &brisk_url), ("ROLES", "sequencer")]);
    let mut proxies = Vec::new();
    for _ in FAULTS {
        let proxy = Proxy::before(&url).await;
        pool.spawn(&[("AMQP_URL", &brisk(&proxy.url)), ("ROLES", "worker")]);
        proxies.push(proxy);
    }
    pool.spawn(&[("AMQP_URL", &brisk_url), ("ROLES", "worker")]);
    pool.ready().await;

    let ids = ["t0", "t1", "t2", "t3"];
    let mut requests = Vec::new();
    for id in ids {
        // Fewer than what may be unconfirmed: the turn can end without the broker.
        let talk = ["say before", "wait go", "flood 20"];
        requests.push(turn(id, id, &talk));
        requests.push(turn(&format!("{id}-next"), id, &["say hi"]));
    }
    pool.enqueue(&requests).await;
    for id in ids {
        pool.events.said(id, "before").await;
    }
    for (proxy, fault) in proxies.iter().zip(FAULTS) {
        fault(proxy);
    }
    pool.release("go");
    // All of it, by the one that is left.
    for id in ids {
        pool.events.all_ended([id, &format!("{id}-next")]).await;
        assert_eq!(pool.events.turn(id).said(1).len(), 21);
    }
    proxies.iter().for_each(Proxy::thaw);
    pool.all_slots_take().await;
    let runs = pool.runs();
    for id in ids {
        assert_eq!(runs.of_turn(id).count(), 1, "{id}");
        assert_eq!(runs.first_starts()[id].len(), 2);
    }
    pool.stop().await;
}

/// Guards that a sequencer holds its turns no longer than its connection is
/// heard of by both sides: the heartbeats in `Connector::connect`.
#[tokio::test]
async fn g1_g4_a_cut_off_sequencer_is_followed_by_another() {
    let url = Broker::vhost();
    let mut pool = Pool::on(&url, 0, &[("AMQP_URL", &brisk(&url)), ("SLOTS", "2")]).await;
    let mut proxies = Vec::new();
    // Cut off in both, and deceived on top, see the next test.
    let faults = &FAULTS[..2];
    for _ in faults {
        let proxy = Proxy::before(&url).await;
        let number = pool.spawn(&[("AMQP_URL", &brisk(&proxy.url)), ("ROLES", "sequencer")]);
        // One after the other: so they follow one another.
        pool.process(number).ready().await;
        proxies.push(proxy);
    }
    pool.spawn(&[("ROLES", "sequencer")]);
    pool.spawn(&[("ROLES", "worker")]);
    pool.ready().await;

    let mut order = Vec::new();
    for (number, fault) in faults.iter().enumerate() {
        let [first, second, third] = [1, 2, 3].map(|n| format!("t{number}-{n}"));
        let wait = format!("wait {first}");
        let requests = [turn(&first, "a", &[&wait]), turn(&second, "a", &["say hi"])];
        pool.enqueue(&requests).await;
        pool.started(&first, 1).await;
        let active = "turn_worker_sequencer_active";
        pool.process(number).metric_is(active, 1.0).await;
        fault(&proxies[number]);
        pool.release(&first);
        pool.enqueue(&[turn(&third, "a", &["say hi"])]).await;
        pool.events.all_ended([&first, &second, &third]).await;
        order.extend([first, second, third]);
    }
    proxies.iter().for_each(Proxy::thaw);
    pool.all_slots_take().await;
    let runs = pool.runs();
    assert_eq!(runs.first_starts()["a"], order);
    for id in &order {
        assert_eq!(runs.of_turn(id).count(), 1, "{id}");
    }
    pool.stop().await;
}

/// Guards that an offer is no permission (`RunningTurns::enter`, `look_up`): a
/// sequencer that was deposed without knowing hears of a turn's end when its
/// successor has long gone on, and offers what is running already.
#[tokio::test]
async fn g1_g4_two_that_believe_to_be_the_sequencer_do_no_harm() {
    let url = Broker::vhost();
    let mut pool = Pool::on(&url, 0, &[("AMQP_URL", &brisk(&url)), ("SLOTS", "2")]).await;
    // Only what it hears is cut off: it can publish all the time.
    let proxy = Proxy::before_some(&url, " sequencer").await;
    let deposed = pool.spawn(&[("AMQP_URL", &brisk(&proxy.url)), ("ROLES", "sequencer")]);
    pool.ready().await;
    let successor = pool.spawn(&[("ROLES", "sequencer")]);
    pool.spawn(&[("ROLES", "worker")]);
    pool.ready().await;
    pool.enqueue(&[
        turn("t1", "a", &["wait one"]),
        turn("t2", "a", &["wait two"]),
        turn("t3", "a", &["say hi"]),
    ])
    .await;
    pool.started("t1", 1).await;
    proxy.deceive();
    pool.release("one");
    pool.events.ended("t1").await;
    // The report that t1 is done was sent, but is not received.
    proxy.has_kept(1).await;
    let active = "turn_worker_sequencer_active";
    pool.process(successor).metric_is(active, 1.0).await;
    pool.started("t2", 1).await;
    assert_eq!(pool.process(deposed).metrics().await.get(active), 1.0);
    pool.enqueue(&[turn("t4", "b", &["say hi"])]).await;
    pool.events.ended("t4").await;
    proxy.thaw();
    pool.process(deposed).logged("the sequencer restarts").await;
    pool.release("two");
    pool.events.all_ended(["t2", "t3"]).await;
    assert_eq!(pool.runs().first_starts()["a"], ["t1", "t2", "t3"]);
    for id in ["t1", "t2", "t3", "t4"] {
        assert_eq!(pool.runs().of_turn(id).count(), 1, "{id}");
    }
    pool.all_slots_take().await;
    pool.stop().await;
}
