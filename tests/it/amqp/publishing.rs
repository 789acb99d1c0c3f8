use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use lapin::types::{AMQPValue, FieldTable};
use turn_worker::amqp::link::LinkState;
use turn_worker::amqp::outbox::{Cut, DropReason, HoldUp, Outbox, REFUSAL_LIMIT, WINDOW_EVENTS};
use turn_worker::amqp::publish::{PublishError, json_properties};
use turn_worker::event::SealedEvent;

use super::{
    Counts, Publishing, Vhost, ctl, events, first_seen, message_ids, publishing, publishing_with,
    reader_queue, take_all, topology,
};
use crate::support::proxy::Proxy;

fn ids(events: &[SealedEvent]) -> Vec<String> {
    events.iter().map(SealedEvent::message_id).collect()
}

/// A classic queue that refuses what goes beyond `length`.
fn rejecting(length: i64) -> FieldTable {
    let mut arguments = FieldTable::default();
    arguments.insert("x-max-length".into(), AMQPValue::LongLongInt(length));
    arguments.insert(
        "x-overflow".into(),
        AMQPValue::LongString("reject-publish".into()),
    );
    arguments
}

/// Lets the time run out that the broker has for a confirm (30 s).
async fn skip_past_the_confirm_limit() {
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(31)).await;
    tokio::time::resume();
    // Every 61 turns of its loop, the runtime looks at its timers.
    for _ in 0..200 {
        tokio::task::yield_now().await;
    }
}

/// Pushes until it has to wait; returns what was taken.
async fn push_until_full(outbox: &Outbox, from: usize) -> Vec<SealedEvent> {
    let mut taken = Vec::new();
    for event in events("t-01").skip(from).take(10 * WINDOW_EVENTS) {
        // A full window stays full here, so one poll shows it.
        if futures_util::poll!(std::pin::pin!(outbox.push(&event))).is_pending() {
            break;
        }
        taken.push(event);
    }
    taken
}

#[tokio::test]
async fn g6_events_arrive_in_order_with_their_properties() {
    let vhost = Vhost::new().await;
    let link = vhost.declared().await;
    let queue = reader_queue(&link, FieldTable::default()).await;
    let Publishing { outbox, counts, .. } = publishing(&vhost.url);
    let sent: Vec<_> = events("t-01").take(1_000).collect();
    for event in &sent {
        outbox.push(event).await.unwrap();
    }
    outbox.drained().await.unwrap();
    assert!(outbox.unconfirmed().is_empty());
    let got = take_all(&link, &queue).await;
    assert_eq!(message_ids(&got), ids(&sent));
    assert_eq!(counts.confirmed.lock().unwrap().len(), 1_000);
    let properties = &got[7].properties;
    assert_eq!(got[7].routing_key.as_str(), "t-01");
    assert_eq!(got[7].data, sent[7].json.as_bytes());
    assert_eq!(
        properties.correlation_id().as_ref().unwrap().as_str(),
        "t-01"
    );
    assert_eq!(properties.kind().as_ref().unwrap().as_str(), "text_delta");
    assert_eq!(
        properties.content_type().as_ref().unwrap().as_str(),
        "application/json"
    );
    assert_eq!(*properties.delivery_mode(), Some(2));
}

#[tokio::test]
async fn g6_lost_connections_leave_no_gap_and_keep_the_order() {
    let vhost = Vhost::new().await;
    let queue = reader_queue(&vhost.declared().await, FieldTable::default()).await;
    let Publishing { outbox, .. } = publishing(&vhost.url);
    let cutting = async {
        for _ in 0..3 {
            vhost.close_all_connections().await;
        }
    };
    let mut cutting = std::pin::pin!(cutting);
    let mut sent = Vec::new();
    // Events flow all the time while the connections are cut.
    let mut source = events("t-01");
    loop {
        let event = source.next().unwrap();
        sent.push(event.clone());
        let mut push = std::pin::pin!(outbox.push(&event));
        let done = tokio::select! {
            biased;
            () = &mut cutting => true,
            result = push.as_mut() => { result.unwrap(); false }
        };
        if done {
            push.await.unwrap();
            break;
        }
    }
    outbox.push_final(source.take(2).inspect(|event| sent.push(event.clone())));
    outbox.drained().await.unwrap();
    let got = take_all(&vhost.link().await, &queue).await;
    assert_eq!(first_seen(message_ids(&got)), ids(&sent));
    // A duplicate is identical.
    let originals: HashMap<_, _> = ids(&sent).into_iter().zip(&sent).collect();
    for (id, delivery) in message_ids(&got).iter().zip(&got) {
        assert_eq!(delivery.data, originals[id].json.as_bytes());
    }
}

#[tokio::test]
async fn g6_what_a_dying_connection_swallowed_is_published_again() {
    let vhost = Vhost::new().await;
    let link = vhost.declared().await;
    let queue = reader_queue(&link, FieldTable::default()).await;
    let proxy = Proxy::before(&vhost.url).await;
    let Publishing {
        outbox, publisher, ..
    } = publishing(&proxy.url);
    let sent: Vec<_> = events("t-01").take(40).collect();
    let (arrived, swallowed) = sent.split_at(10);
    for event in arrived {
        outbox.push(event).await.unwrap();
    }
    outbox.drained().await.unwrap();
    proxy.swallow();
    for event in swallowed {
        outbox.push(event).await.unwrap();
    }
    proxy.has_lost(swallowed[29].json.len() * 30).await;
    assert_eq!(outbox.unconfirmed(), swallowed);
    let connection = publisher.ready().await.unwrap();
    proxy.cut();
    connection.closed().await;
    outbox.drained().await.unwrap();
    assert_eq!(message_ids(&take_all(&link, &queue).await), ids(&sent));
}

#[tokio::test]
async fn g6_events_wait_for_their_exchange_in_order() {
    let vhost = Vhost::new().await;
    let link = vhost.declared().await;
    let proxy = Proxy::before(&vhost.url).await;
    let Publishing { outbox, .. } = publishing(&proxy.url);
    let sent: Vec<_> = events("t-01").take(40).collect();
    outbox.push(&sent[0]).await.unwrap();
    outbox.drained().await.unwrap();
    let channel = link.channel().await.unwrap();
    let options = lapin::options::ExchangeDeleteOptions::default();
    channel
        .exchange_delete("codex.events".into(), options)
        .await
        .unwrap();
    proxy.freeze();
    for event in &sent[1..] {
        outbox.push(event).await.unwrap();
    }
    // The broker has closed the channel over them, and said so at length.
    proxy.has_kept(60).await;
    topology().declare(&link).await.unwrap();
    let queue = reader_queue(&link, FieldTable::default()).await;
    proxy.thaw();
    outbox.drained().await.unwrap();
    let got = message_ids(&take_all(&link, &queue).await);
    assert_eq!(got, ids(&sent[1..]));
}

#[tokio::test]
async fn a_confirm_that_never_comes_is_given_up() {
    let vhost = Vhost::new().await;
    let link = vhost.declared().await;
    let queue = reader_queue(&link, FieldTable::default()).await;
    let proxy = Proxy::before(&vhost.url).await;
    let Publishing {
        outbox, publisher, ..
    } = publishing(&proxy.url);
    let connection = publisher.ready().await.unwrap();
    let sent: Vec<_> = events("t-01").take(2).collect();
    outbox.push(&sent[0]).await.unwrap();
    outbox.drained().await.unwrap();
    proxy.lose_confirms();
    outbox.push(&sent[1]).await.unwrap();
    // The confirm's frame; a heartbeat's has 8 bytes.
    proxy.has_lost(21).await;
    proxy.thaw();
    skip_past_the_confirm_limit().await;
    outbox.drained().await.unwrap();
    let got = message_ids(&take_all(&link, &queue).await);
    assert_eq!(got, ids(&[&sent[..], &sent[1..]].concat()));
    // On another channel of the same connection: that one was well.
    assert!(connection.is_open());
}

#[tokio::test]
async fn g10_without_a_connection_push_waits_at_the_window() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("amqp://{}/%2f", listener.local_addr().unwrap());
    drop(listener);
    let Publishing { outbox, cut, .. } = publishing(&url);
    let mut taken = push_until_full(&outbox, 0).await;
    assert_eq!(taken.len(), WINDOW_EVENTS);
    assert_eq!(outbox.unconfirmed(), taken);
    // An ending doesn't wait, and stands in the snapshot for the journal.
    let ending: Vec<_> = events("t-01").skip(taken.len()).take(2).collect();
    outbox.push_final(ending.clone());
    taken.extend(ending);
    cut.cancel();
    assert_eq!(outbox.drained().await, Err(Cut));
    assert_eq!(outbox.push(&taken[0]).await, Err(Cut));
    assert_eq!(outbox.unconfirmed(), taken);
}

#[tokio::test]
async fn g10_without_confirms_push_waits_at_the_window() {
    let vhost = Vhost::new().await;
    let link = vhost.declared().await;
    let queue = reader_queue(&link, FieldTable::default()).await;
    let proxy = Proxy::before(&vhost.url).await;
    let Publishing { outbox, .. } = publishing(&proxy.url);
    let mut sent: Vec<_> = events("t-01").take(1).collect();
    outbox.push(&sent[0]).await.unwrap();
    outbox.drained().await.unwrap();
    proxy.freeze();
    let taken = push_until_full(&outbox, 0).await;
    assert_eq!(taken.len(), WINDOW_EVENTS);
    assert_eq!(outbox.unconfirmed(), taken);
    proxy.thaw();
    outbox.drained().await.unwrap();
    sent.extend(taken);
    let got = first_seen(message_ids(&take_all(&link, &queue).await));
    assert_eq!(got, first_seen(ids(&sent)));
}

#[tokio::test]
async fn g10_a_blocked_connection_holds_events_back_without_duplicates() {
    let vhost = Vhost::new().await;
    let link = vhost.declared().await;
    let queue = reader_queue(&link, FieldTable::default()).await;
    let proxy = Proxy::before(&vhost.url).await;
    let Publishing {
        outbox, publisher, ..
    } = publishing(&proxy.url);
    let connection = publisher.ready().await.unwrap();
    let mut sent: Vec<_> = events("t-01").take(4).collect();
    outbox.push(&sent[0]).await.unwrap();
    outbox.drained().await.unwrap();
    // Out, and not confirmed yet, when the broker blocks.
    proxy.freeze();
    for event in &sent[1..] {
        outbox.push(event).await.unwrap();
    }
    proxy.has_kept(21).await;
    proxy.block().await;
    while connection.state() != LinkState::Blocked("mem".into()) {
        tokio::task::yield_now().await;
    }
    // However long it lasts, with and without events to publish.
    skip_past_the_confirm_limit().await;
    sent.extend(push_until_full(&outbox, sent.len()).await);
    assert_eq!(sent.len(), 1 + WINDOW_EVENTS);
    assert_eq!(outbox.unconfirmed(), sent[1..]);
    for _ in 0..3 {
        skip_past_the_confirm_limit().await;
    }
    proxy.unblock().await;
    proxy.thaw();
    outbox.drained().await.unwrap();
    assert!(connection.is_open());
    assert_eq!(message_ids(&take_all(&link, &queue).await), ids(&sent));
}

#[tokio::test]
async fn a_nacked_event_is_published_again_until_it_is_taken() {
    let vhost = Vhost::new().await;
    let link = vhost.declared().await;
    let queue = reader_queue(&link, rejecting(1)).await;
    let Publishing { outbox, counts, .. } = publishing_with(&vhost.url, u32::MAX);
    let sent: Vec<_> = events("t-01").take(5).collect();
    for event in &sent {
        outbox.push(event).await.unwrap();
    }
    // A slow reader: it makes room only when it was seen to be full.
    let mut got = Vec::new();
    while got.len() < sent.len() {
        let nacked = counts.nacked.load(Ordering::SeqCst);
        if got.len() + 1 < sent.len() {
            while counts.nacked.load(Ordering::SeqCst) == nacked {
                tokio::task::yield_now().await;
            }
        } else {
            outbox.drained().await.unwrap();
        }
        got.extend(message_ids(&take_all(&link, &queue).await));
        got = first_seen(got);
    }
    assert_eq!(got, ids(&sent));
    outbox.drained().await.unwrap();
    assert!(counts.dropped.lock().unwrap().is_empty());
}

/// One queue is full from the second event on, another has room for all.
async fn a_full_queue(sent: &[SealedEvent]) -> Arc<Counts> {
    let vhost = Vhost::new().await;
    let link = vhost.declared().await;
    let full = reader_queue(&link, rejecting(1)).await;
    let healthy = reader_queue(&link, FieldTable::default()).await;
    let Publishing { outbox, counts, .. } = publishing(&vhost.url);
    for event in sent {
        outbox.push(event).await.unwrap();
    }
    outbox.drained().await.unwrap();
    assert_eq!(message_ids(&take_all(&link, &full).await), ids(&sent[..1]));
    let got = take_all(&link, &healthy).await;
    assert_eq!(first_seen(message_ids(&got)), ids(sent));
    counts
}

#[tokio::test]
async fn g10_a_full_queue_of_one_reader_holds_up_one_event_of_a_turn() {
    let sent: Vec<_> = events("t-01").take(3 * WINDOW_EVENTS).collect();
    let counts = a_full_queue(&sent).await;
    let dropped = counts.dropped.lock().unwrap().clone();
    assert_eq!(
        dropped,
        vec![("text_delta".to_owned(), DropReason::Refused); sent.len() - 1]
    );
    // The second is retried, the others are not: they don't wait.
    let nacked = counts.nacked.load(Ordering::SeqCst) as usize;
    assert_eq!(nacked, REFUSAL_LIMIT as usize + sent.len() - 2);
}

#[tokio::test]
async fn g5_the_end_of_a_turn_is_tried_again_when_others_were_not() {
    let mut sent: Vec<_> = events("t-01").take(5).collect();
    sent[4].kind = "message_end".into();
    let counts = a_full_queue(&sent).await;
    assert_eq!(counts.dropped.lock().unwrap().len(), 4);
    let nacked = counts.nacked.load(Ordering::SeqCst);
    assert_eq!(nacked, REFUSAL_LIMIT + 2 + REFUSAL_LIMIT);
}

#[tokio::test]
async fn g10_events_that_are_refused_for_good_are_reported_until_they_are_taken() {
    let vhost = Vhost::new().await;
    let link = vhost.declared().await;
    let queue = reader_queue(&link, FieldTable::default()).await;
    let rights = |write: &'static str| {
        let name = vhost.name.clone();
        async move { ctl(&["set_permissions", "-p", &name, "guest", ".*", write, ".*"]).await }
    };
    rights("^$").await;
    let Publishing { outbox, counts, .. } = publishing(&vhost.url);
    let sent: Vec<_> = events("t-01").take(2).collect();
    for event in &sent {
        outbox.push(event).await.unwrap();
    }
    loop {
        let held_up = counts.held_up.lock().unwrap().clone();
        if let Some(HoldUp::Forbidden(reason)) = held_up {
            assert!(reason.contains("codex.events"), "{reason}");
            break;
        }
        tokio::task::yield_now().await;
    }
    assert_eq!(outbox.unconfirmed(), sent);
    rights(".*").await;
    outbox.drained().await.unwrap();
    assert_eq!(message_ids(&take_all(&link, &queue).await), ids(&sent));
    while counts.held_up.lock().unwrap().is_some() {
        tokio::task::yield_now().await;
    }
    assert!(counts.dropped.lock().unwrap().is_empty());
}

#[tokio::test]
async fn g6_an_event_larger_than_the_broker_takes_is_published_short() {
    // RabbitMQ 4 takes 16 MiB; this brings an older one, which takes 128, near.
    ctl(&[
        "eval",
        "application:set_env(rabbit, max_message_size, 16777216).",
    ])
    .await;
    let vhost = Vhost::new().await;
    let link = vhost.declared().await;
    let queue = reader_queue(&link, FieldTable::default()).await;
    let Publishing { outbox, counts, .. } = publishing(&vhost.url);
    let mut sent: Vec<_> = events("t-01").take(5).collect();
    let long = "x".repeat(17 * 1024 * 1024);
    sent[2].json = sent[2].json.replacen("xxx", &long, 1).into();
    for event in &sent {
        outbox.push(event).await.unwrap();
    }
    outbox.drained().await.unwrap();
    assert!(counts.dropped.lock().unwrap().is_empty());
    let got = take_all(&link, &queue).await;
    assert_eq!(first_seen(message_ids(&got)), ids(&sent));
    let third = message_ids(&got)
        .iter()
        .position(|id| *id == sent[2].message_id());
    let notice = String::from_utf8_lossy(&got[third.unwrap()].data).into_owned();
    assert!(notice.contains(r#""code":"event.too_large""#), "{notice}");
}

#[tokio::test]
async fn a_confirmed_publish_distinguishes_returned_nacked_and_taken() {
    let vhost = Vhost::new().await;
    let link = vhost.declared().await;
    reader_queue(&link, rejecting(1)).await;
    let Publishing { publisher, cut, .. } = publishing(&vhost.url);
    let publish = async |exchange: &str, key: &str, mandatory| {
        publisher
            .publish_confirmed(exchange, key, json_properties(), b"{}", mandatory)
            .await
    };
    publish("", "codex.turns.work", true).await.unwrap();
    assert!(matches!(
        publish("", "nowhere", true).await,
        Err(PublishError::Returned { .. })
    ));
    publish("", "nowhere", false).await.unwrap();
    publish("codex.events", "t-01", false).await.unwrap();
    assert!(matches!(
        publish("codex.events", "t-01", false).await,
        Err(PublishError::Nacked)
    ));
    // The broker closes the channel over this one; the next has another.
    assert!(matches!(
        publish("no.such.exchange", "t-01", false).await,
        Err(PublishError::Refused { .. })
    ));
    publish("", "codex.turns.work", true).await.unwrap();
    assert!(matches!(
        publish("", &"x".repeat(256), true).await,
        Err(PublishError::TooLong { .. })
    ));
    assert_eq!(take_all(&link, "codex.turns.work").await.len(), 2);
    cut.cancel();
    while publisher.is_connected() {
        tokio::task::yield_now().await;
    }
    assert!(matches!(
        publish("", "codex.turns.work", true).await,
        Err(PublishError::Lost(_))
    ));
}

#[tokio::test]
async fn a_returned_message_is_reported_to_its_publisher() {
    let vhost = Vhost::new().await;
    vhost.declared().await;
    let Publishing { publisher, .. } = publishing(&vhost.url);
    let one = async |number: u32| {
        let key = if number.is_multiple_of(3) {
            "nowhere"
        } else {
            "codex.turns.work"
        };
        let result = publisher
            .publish_confirmed("", key, json_properties(), b"{}", true)
            .await;
        assert_eq!(
            result.is_err(),
            number.is_multiple_of(3),
            "{number}: {result:?}"
        );
    };
    futures_util::future::join_all((0..60).map(one)).await;
}
