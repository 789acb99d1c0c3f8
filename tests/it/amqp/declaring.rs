use lapin::BasicProperties;
use lapin::options::BasicPublishOptions;
use turn_worker::amqp::consume::Consumer;
use turn_worker::amqp::declare_error::{DeclareError, Mismatch, Operation};
use turn_worker::amqp::topology::{Fanout, Topology};

use super::{Vhost, connector, ctl, topology};

fn told(mismatch: &Mismatch) -> (&str, &str, &str) {
    (&mismatch.argument, &mismatch.found, &mismatch.wanted)
}

#[tokio::test]
async fn the_topology_is_declared_twice_with_the_arguments_that_matter() {
    let vhost = Vhost::new().await;
    let link = vhost.declared().await;
    topology().declare(&link).await.unwrap();
    let queues = ctl(&[
        "-q",
        "list_queues",
        "-p",
        &vhost.name,
        "name",
        "type",
        "arguments",
    ])
    .await;
    let line = |name: &str| {
        let found = queues
            .lines()
            .find(|line| line.starts_with(&format!("{name}\t")));
        found
            .unwrap_or_else(|| panic!("{name} in {queues}"))
            .to_owned()
    };
    for (queue, arguments) in [
        (
            "codex.turns",
            &[
                "quorum",
                "{\"x-single-active-consumer\",true}",
                "{\"x-delivery-limit\",1000000}",
                "{\"x-consumer-timeout\",2592000000}",
            ][..],
        ),
        (
            "codex.turns.work",
            &[
                "quorum",
                "{\"x-delivery-limit\",1000000}",
                "{\"x-consumer-timeout\",2592000000}",
            ],
        ),
        (
            "codex.turns.dead",
            &[
                "quorum",
                "{\"x-max-length\",100}",
                "{\"x-overflow\",\"drop-head\"}",
            ],
        ),
    ] {
        for argument in arguments {
            assert!(
                line(queue).contains(argument),
                "{argument} in {}",
                line(queue)
            );
        }
    }
    let bindings = ctl(&[
        "-q",
        "list_bindings",
        "-p",
        &vhost.name,
        "source_name",
        "destination_name",
        "routing_key",
    ])
    .await;
    assert!(
        bindings.contains("codex.requests\tcodex.turns\tturn"),
        "{bindings}"
    );
}

#[tokio::test]
async fn a_mismatch_names_object_argument_and_both_values_and_spares_the_connection() {
    let vhost = Vhost::new().await;
    let link = vhost.declared().await;
    let error = Topology::new("codex", 7).declare(&link).await.unwrap_err();
    let DeclareError::Mismatch {
        operation,
        mismatch,
        ..
    } = &error
    else {
        panic!("{error:?}");
    };
    assert_eq!(
        *operation,
        Operation::Queue {
            name: "codex.turns.dead".into()
        }
    );
    assert_eq!(told(mismatch), ("x-max-length", "100", "7"));
    assert!(error.to_string().contains("delete the queue"), "{error}");
    topology().declare(&link).await.unwrap();
}

#[tokio::test]
async fn an_exchange_of_another_kind_is_a_mismatch() {
    let vhost = Vhost::new().await;
    let link = vhost.link().await;
    let channel = link.channel().await.unwrap();
    channel
        .exchange_declare(
            "codex.events".into(),
            lapin::ExchangeKind::Fanout,
            lapin::options::ExchangeDeclareOptions {
                durable: true,
                ..Default::default()
            },
            lapin::types::FieldTable::default(),
        )
        .await
        .unwrap();
    let error = topology().declare(&link).await.unwrap_err();
    let DeclareError::Mismatch { mismatch, .. } = &error else {
        panic!("{error:?}");
    };
    assert_eq!(told(mismatch), ("type", "fanout", "topic"));
}

#[tokio::test]
async fn a_missing_permission_is_named() {
    let vhost = Vhost::new().await;
    let user = format!("user-{}", vhost.name);
    let url = vhost.url.replacen("guest:guest", &format!("{user}:pw"), 1);
    ctl(&["add_user", &user, "pw"]).await;
    for (configure, write, read, permission, object) in [
        ("", ".*", ".*", "configure", "exchange codex.requests"),
        (
            "codex\\.(?!turns).*",
            ".*",
            ".*",
            "configure",
            "queue codex.turns",
        ),
        ("codex\\..*", ".*", "", "read", "exchange codex.requests"),
        ("codex\\..*", "", ".*", "write", "queue codex.turns"),
    ] {
        ctl(&[
            "set_permissions",
            "-p",
            &vhost.name,
            &user,
            configure,
            write,
            read,
        ])
        .await;
        let link = connector(&url).connect().await.unwrap();
        let error = topology().declare(&link).await.unwrap_err();
        let DeclareError::Forbidden {
            permission: found,
            object: of,
            ..
        } = &error
        else {
            panic!("{error:?}");
        };
        assert_eq!((*found, of.as_str()), (permission, object), "{error}");
        assert!(error.to_string().contains(&user), "{error}");
        assert!(link.is_open());
    }
}

#[tokio::test]
async fn each_process_has_its_own_queue_of_a_fanout() {
    let vhost = Vhost::new().await;
    let first = vhost.declared().await;
    let second = vhost.link().await;
    for (fanout, exchange) in [
        (Fanout::Status, "codex.status"),
        (Fanout::Control, "codex.control"),
    ] {
        let mut consumers = Vec::new();
        for link in [&first, &second] {
            let queue = topology().declare_exclusive(link, fanout).await.unwrap();
            assert!(queue.starts_with(exchange), "{queue}");
            consumers.push(Consumer::open(link, &queue, 100).await.unwrap());
        }
        let channel = first.channel().await.unwrap();
        channel
            .basic_publish(
                exchange.into(),
                "".into(),
                BasicPublishOptions::default(),
                b"hello",
                BasicProperties::default(),
            )
            .await
            .unwrap();
        for consumer in &mut consumers {
            assert_eq!(consumer.next().await.unwrap().body, b"hello");
        }
    }
    first.close().await;
    second.close().await;
    // Gone with their connections: the next declaration finds only its own.
    let queues = ctl(&["-q", "list_queues", "-p", &vhost.name, "name"]).await;
    assert!(!queues.contains("codex.status."), "{queues}");
}
