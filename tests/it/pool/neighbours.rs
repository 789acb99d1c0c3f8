//! What others on the same broker, and the broker's own limits, can do to a
//! pool, and what the pool reports of it.

use lapin::options::{BasicPublishOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, Connection, ConnectionProperties};
use turn_worker::amqp::connect::Connector;
use turn_worker::amqp::topology::Topology;

use crate::cli::call::Call;
use crate::support::broker::Broker;
use crate::support::operator::Operator;
use crate::support::pool::{Pool, turn};
use crate::support::proxy::Proxy;

async fn channel(url: &str) -> (Connection, Channel) {
    let properties = ConnectionProperties::default();
    let connection = Connection::connect(url, properties).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    (connection, channel)
}

/// A queue for all events that is full: the broker refuses each for it.
async fn full_reader(channel: &Channel) {
    let mut arguments = FieldTable::default();
    arguments.insert("x-max-length".into(), AMQPValue::LongLongInt(1));
    let reject = AMQPValue::LongString("reject-publish".into());
    arguments.insert("x-overflow".into(), reject);
    let options = QueueDeclareOptions::durable();
    let declare = channel.queue_declare("full".into(), options, arguments);
    declare.await.unwrap();
    let (options, none) = (QueueBindOptions::default(), FieldTable::default());
    let bind = channel.queue_bind(
        "full".into(),
        "codex.events".into(),
        "#".into(),
        options,
        none,
    );
    bind.await.unwrap();
    let options = BasicPublishOptions::default();
    let fill = channel.basic_publish("".into(), "full".into(), options, b"", Default::default());
    fill.await.unwrap().await.unwrap();
}

/// Guards that an outbox drops what is refused within a second, and goes on.
#[tokio::test]
async fn g10_a_full_queue_of_one_reader_stops_no_turn_of_a_pool() {
    let url = Broker::vhost();
    let mut pool = Pool::on(&url, 2, &[("SLOTS", "1")]).await;
    let (_connection, channel) = channel(&url).await;
    full_reader(&channel).await;
    let script = ["say one", "say two", "say three", "flood 300", "say four"];
    let ids = ["a1", "b1", "a2", "b2"];
    let turns: Vec<_> = ids.iter().map(|id| turn(id, &id[..1], &script)).collect();
    pool.enqueue(&turns).await;
    pool.events.all_ended(ids).await;
    for id in ids {
        let said = pool.events.turn(id).said(1);
        assert_eq!(said.first().map(String::as_str), Some("one"), "{id}");
        assert_eq!(said.last().map(String::as_str), Some("four"), "{id}");
    }
    // Each is dropped for the reader that refused it, and for no other.
    let ends = r#"turn_worker_events_dropped_total{reason="refused",type="message_end"}"#;
    pool.metric_is(ends, 4.0).await;
    pool.metric_is("turn_worker_turns_unpublished", 0.0).await;
    pool.stop().await;
}

/// Guards that an alarm of the broker is reported by everything that an
/// operator or a producer looks at, with the broker's reason.
#[tokio::test]
async fn g10_an_alarm_of_the_broker_is_named_everywhere_and_loses_no_turn() {
    let broker = Broker::private();
    let url = broker.url();
    let mut pool = Pool::on(&url, 1, &[]).await;
    // What is sent during the alarm is for a pool without workers: it may
    // arrive after the alarm.
    let other = url.clone();
    let connector = Connector::new("test", move || Ok(other.as_str().into()));
    let link = connector.connect().await.unwrap();
    Topology::new("other", 100).declare(&link).await.unwrap();
    let talk = ["say before", "wait go", "say after"];
    pool.enqueue(&[turn("t1", "a", &talk)]).await;
    pool.events.said("t1", "before").await;
    broker.ctl(&["set_vm_memory_high_watermark", "0.000001"]);
    let process = &pool.processes()[0];
    process.unready("low on memory").await;
    let condition = r#"turn_worker_condition{condition="broker_blocked"}"#;
    process.metric_is(condition, 1.0).await;
    process.metric_is("turn_worker_amqp_connected", 1.0).await;
    let (url, root) = (broker.url(), pool.root());
    let says = async |arguments: &[&str]| {
        let call = Call::new(arguments)
            .set("AMQP_URL", &url)
            .set("PREFIX", "other")
            .set("WORKSPACE_ROOT", root.to_str().unwrap())
            .set("HTTP_ADDR", "127.0.0.1:0");
        let done = call.run().await;
        assert_ne!(done.code, Some(0), "{arguments:?}: {done:?}");
        assert!(
            format!("{done:?}").contains("low on memory"),
            "{arguments:?}: {done:?}"
        );
    };
    tokio::join!(
        says(&["status", "--timeout", "3s"]),
        says(&["check", "--json"]),
        says(&["cancel", "t9"]),
        says(&["submit", "--no-wait", "-w", "b", "hi"]),
    );
    broker.ctl(&["set_vm_memory_high_watermark", "0.4"]);
    pool.ready().await;
    pool.processes()[0].metric_is(condition, 0.0).await;
    pool.release("go");
    pool.events.ended("t1").await;
    pool.stop().await;
}

/// Guards that a connection that comes back elsewhere takes the others along.
#[tokio::test]
async fn g4_connections_that_lead_to_two_brokers_are_brought_together() {
    let first = Broker::vhost();
    let vhost = first.rsplit('/').next().unwrap();
    let second = Broker::private();
    second.ctl(&["add_vhost", vhost]);
    second.ctl(&["set_permissions", "-p", vhost, "guest", ".*", ".*", ".*"]);
    let proxy = Proxy::before(&first).await;
    let pool = Pool::on(&first, 1, &[("AMQP_URL", &proxy.url)]).await;
    let process = &pool.processes()[0];
    // The same name leads elsewhere from now on, as a DNS record that changes.
    proxy.redirect(&format!("127.0.0.1:{}", second.port()));
    let operator = Operator::of(&first).await;
    assert_eq!(operator.close_connections("publisher").await, 1);
    process.logged("a condition was found").await;
    let condition = r#"turn_worker_condition{condition="brokers_differ"}"#;
    process.metric_is(condition, 0.0).await;
    process.ready().await;
    let connections = second.ctl(&["--silent", "list_connections", "vhost"]);
    assert_eq!(connections.matches(vhost).count(), 3, "{connections}");
    let found = process
        .log_lines()
        .into_iter()
        .find(|line| line["message"] == "a condition was found");
    assert_eq!(found.unwrap()["condition"], "brokers_differ");
    pool.stop().await;
}

/// Guards that a limit which keeps the process from working is named, and that
/// all goes on once it is raised.
#[tokio::test]
async fn g10_a_users_limit_of_channels_is_named() {
    let url = Broker::vhost();
    let vhost = url.rsplit('/').next().unwrap();
    let user = format!("few-{vhost}");
    let ctl = |words: &[&str]| Broker::shared().ctl(words);
    ctl(&["add_user", &user, "pw"]);
    ctl(&["set_permissions", "-p", vhost, &user, ".*", ".*", ".*"]);
    ctl(&["set_user_limits", &user, r#"{"max-channels": 5}"#]);
    let mut pool = Pool::on(&url, 1, &[]).await;
    let limited = url.replace("guest:guest", &format!("{user}:pw"));
    let limited = pool.spawn(&[("AMQP_URL", &limited)]);
    let process = &pool.processes()[limited];
    process.unready("number of channels opened for user").await;
    process
        .unready("expected at least 24 channels for SLOTS=4")
        .await;
    ctl(&["clear_user_limits", &user, "max-channels"]);
    process.ready().await;
    pool.stop().await;
}

/// Guards that what the broker negotiates is compared with what the slots need.
#[tokio::test]
async fn g10_a_channel_max_below_the_slots_is_named() {
    let broker = Broker::configured("channels", "", |_| "channel_max = 8\n".to_owned());
    let url = broker.url();
    // With few slots, eight are enough.
    let mut pool = Pool::on(&url, 1, &[("SLOTS", "2")]).await;
    let many = pool.spawn(&[("SLOTS", "16")]);
    let found = "found channel_max 8";
    pool.processes()[many].unready(found).await;
    let root = pool.root();
    let check = Call::new(&["check", "--json"])
        .set("AMQP_URL", &url)
        .set("SLOTS", "16")
        .set("WORKSPACE_ROOT", root.to_str().unwrap())
        .set("HTTP_ADDR", "127.0.0.1:0");
    let done = check.run().await.ended(1);
    let mut lines = done.events().into_iter();
    let limits = lines.find(|line| line["check"] == "limits").unwrap();
    assert_eq!(limits["status"], "fail");
    assert!(
        limits["detail"].as_str().unwrap().contains(found),
        "{limits}"
    );
    pool.process(many).terminate();
    pool.process(many).exited().await;
    pool.stop().await;
}
