use lapin::types::FieldTable;
use turn_worker::amqp::consume::{ConsumeError, Consumer, ConsumerHold, Delivery, SettleError};
use turn_worker::amqp::link::Link;

use super::{Vhost, reader_queue};

const MANY: u16 = 1_000;
const MORE: u16 = 100;

async fn publish(link: &Link, queue: &str, count: u16) {
    let channel = link.confirm_channel().await.unwrap();
    for number in 0..count {
        channel
            .basic_publish(
                "".into(),
                queue.into(),
                lapin::options::BasicPublishOptions::default(),
                number.to_string().as_bytes(),
                lapin::BasicProperties::default(),
            )
            .await
            .unwrap();
    }
    channel.wait_for_confirms().await.unwrap();
}

fn number(delivery: &Delivery) -> u16 {
    std::str::from_utf8(&delivery.body)
        .unwrap()
        .parse()
        .unwrap()
}

async fn take(hold: &mut ConsumerHold, count: u16) -> Vec<Delivery> {
    let mut taken = Vec::new();
    for _ in 0..count {
        taken.push(hold.next().await.unwrap());
    }
    taken
}

/// Two sequencers; the first holds as much as it may unacked, more waits behind
/// that, and the first ends by `end`. Returns what the second one gets.
async fn handover<F: Future<Output = ()>>(
    end: impl FnOnce(ConsumerHold, Vec<Delivery>) -> F,
) -> Vec<(u16, bool)> {
    let vhost = Vhost::new().await;
    publish(&vhost.declared().await, "codex.turns", MANY + MORE).await;
    let open = async || {
        let link = vhost.link().await;
        ConsumerHold::open(link, "codex.turns", MANY).await.unwrap()
    };
    let mut first = open().await;
    // As its other consumers have it: that alone must not keep it open.
    let _link = first.link().clone();
    let held = take(&mut first, MANY).await;
    let mut second = open().await;
    end(first, held).await;
    let mut got = Vec::new();
    for _ in 0..MANY + MORE {
        let delivery = second.next().await.unwrap();
        got.push((number(&delivery), delivery.redelivered));
        delivery.ack().await.unwrap();
    }
    got
}

fn all_in_order() -> Vec<(u16, bool)> {
    (0..MANY + MORE)
        .map(|number| (number, number < MANY))
        .collect()
}

#[tokio::test]
async fn g1_a_dropped_sequencer_hands_over_everything_in_order() {
    let got = handover(async |hold, held| {
        drop(hold);
        drop(held);
    })
    .await;
    assert_eq!(got, all_in_order());
}

#[tokio::test]
async fn g1_a_panicking_sequencer_hands_over_everything_in_order() {
    let got = handover(async |hold, held| {
        let task = tokio::spawn(async move {
            let _here = (held, hold);
            panic!("as if by a bug");
        });
        assert!(task.await.unwrap_err().is_panic());
    })
    .await;
    assert_eq!(got, all_in_order());
}

#[tokio::test]
async fn g1_a_closing_sequencer_hands_over_everything_in_order() {
    let got = handover(async |hold, held| {
        hold.close().await;
        drop(held);
    })
    .await;
    assert_eq!(got, all_in_order());
}

#[tokio::test]
async fn what_was_acked_is_not_handed_over() {
    let vhost = Vhost::new().await;
    publish(&vhost.declared().await, "codex.turns", 10).await;
    let mut first = ConsumerHold::open(vhost.link().await, "codex.turns", 10)
        .await
        .unwrap();
    let mut held = take(&mut first, 10).await;
    for delivery in held.drain(3..7) {
        delivery.ack().await.unwrap();
    }
    first.close().await;
    let mut second = ConsumerHold::open(vhost.link().await, "codex.turns", 10)
        .await
        .unwrap();
    let got: Vec<_> = take(&mut second, 6).await.iter().map(number).collect();
    assert_eq!(got, [0, 1, 2, 7, 8, 9]);
}

#[tokio::test]
async fn a_delivery_given_back_comes_again_and_an_acked_one_does_not() {
    let vhost = Vhost::new().await;
    let link = vhost.declared().await;
    publish(&link, "codex.turns.work", 2).await;
    let mut consumer = Consumer::open(&link, "codex.turns.work", 1).await.unwrap();
    let first = consumer.next().await.unwrap();
    assert_eq!((number(&first), first.redelivered), (0, false));
    first.ack().await.unwrap();
    let second = consumer.next().await.unwrap();
    assert_eq!(number(&second), 1);
    second.give_back().await.unwrap();
    let again = consumer.next().await.unwrap();
    assert_eq!((number(&again), again.redelivered), (1, true));
}

#[tokio::test]
async fn a_stopped_consumer_gives_back_the_rest_and_can_still_ack() {
    let vhost = Vhost::new().await;
    let link = vhost.declared().await;
    publish(&link, "codex.turns.work", 5).await;
    let mut consumer = Consumer::open(&link, "codex.turns.work", 10).await.unwrap();
    let running = consumer.next().await.unwrap();
    consumer.stop().await;
    let mut other = Consumer::open(&link, "codex.turns.work", 10).await.unwrap();
    let mut rest = Vec::new();
    for _ in 0..4 {
        let delivery = other.next().await.unwrap();
        rest.push(number(&delivery));
        delivery.ack().await.unwrap();
    }
    rest.sort_unstable();
    assert_eq!(rest, [1, 2, 3, 4]);
    running.ack().await.unwrap();
    other.stop().await;
    link.close().await;
    let link = vhost.link().await;
    assert!(super::take_all(&link, "codex.turns.work").await.is_empty());
}

#[tokio::test]
async fn after_the_connection_is_gone_no_delivery_comes_and_no_ack_hangs() {
    let vhost = Vhost::new().await;
    let link = vhost.declared().await;
    publish(&link, "codex.turns.work", 10).await;
    let mut consumer = Consumer::open(&link, "codex.turns.work", 10).await.unwrap();
    let held = consumer.next().await.unwrap();
    // The other nine are prefetched; they are the broker's again.
    link.close().await;
    assert!(matches!(
        consumer.next().await,
        Err(ConsumeError::Ended { .. })
    ));
    assert!(!held.is_held());
    let error = held.ack().await.unwrap_err();
    assert!(matches!(error, SettleError::Closed(_)), "{error:?}");
}

#[tokio::test]
async fn a_queue_that_is_deleted_ends_its_consumer() {
    let vhost = Vhost::new().await;
    let link = vhost.declared().await;
    let queue = reader_queue(&link, FieldTable::default()).await;
    let mut consumer = Consumer::open(&link, &queue, 10).await.unwrap();
    let channel = link.channel().await.unwrap();
    channel
        .queue_delete(
            queue.as_str().into(),
            lapin::options::QueueDeleteOptions::default(),
        )
        .await
        .unwrap();
    assert!(matches!(
        consumer.next().await,
        Err(ConsumeError::Ended { .. })
    ));
    assert!(link.is_open());
    assert!(matches!(
        Consumer::open(&link, &queue, 10).await,
        Err(ConsumeError::Open { .. })
    ));
    assert!(link.is_open());
}
