//! Each user of the broker can do its part, and no more. What is allowed is
//! decided in `ops/deploy/rabbitmq/users`; each pattern there is guarded here.

use std::collections::BTreeSet;
use std::time::Duration;

use turn_worker::amqp::declare_error::DeclareError;
use turn_worker::amqp::event_log::LogState;
use turn_worker::amqp::topology::Topology;
use turn_worker::config::EventLog;

use super::broker_acts::{Act, assert_only};
use super::broker_rights::{Users, as_user, link, vhost};
use crate::cli::call::Call;
use crate::clients::program::Language;
use crate::support::broker::Broker;
use crate::support::pool::{Pool, turn};

/// For users that only send or listen.
const NOT_FOR_CLIENTS: &[Act<'static>] = &[
    // Requests, offers, dead letters of others.
    Act::Get {
        queue: "codex.turns",
    },
    Act::Get {
        queue: "codex.turns.work",
    },
    Act::Get {
        queue: "codex.turns.dead",
    },
    Act::Purge {
        queue: "codex.turns",
    },
    Act::Delete {
        queue: "codex.turns",
    },
    Act::Delete {
        queue: "codex.turns.dead",
    },
    Act::Delete {
        queue: "codex.events.log",
    },
    Act::Declare {
        queue: "codex.events.log",
    },
    Act::Bind {
        queue: "codex.events.log",
        exchange: "codex.events",
        key: "#",
    },
    Act::Publish {
        exchange: "",
        key: "codex.events.log",
    },
    Act::Bind {
        queue: "",
        exchange: "codex.requests",
        key: "turn",
    },
    Act::Bind {
        queue: "",
        exchange: "codex.control",
        key: "",
    },
    Act::Bind {
        queue: "",
        exchange: "codex.status",
        key: "",
    },
    // Events, offers, status.
    Act::Publish {
        exchange: "codex.events",
        key: "t1",
    },
    Act::Publish {
        exchange: "",
        key: "codex.turns.work",
    },
    // Of one process.
    Act::Publish {
        exchange: "",
        key: "codex.turns.work.0123456789abcdef0123456789abcdef",
    },
    Act::Get {
        queue: "codex.turns.work.0123456789abcdef0123456789abcdef",
    },
    Act::Declare {
        queue: "codex.turns.work.0123456789abcdef0123456789abcdef",
    },
    Act::Publish {
        exchange: "",
        key: "codex.turns",
    },
    Act::Publish {
        exchange: "codex.status",
        key: "",
    },
    Act::Publish {
        exchange: "amq.fanout",
        key: "",
    },
    // The same by way of others.
    Act::DeclareToDeadLetter {
        exchange: "",
        to: "codex.turns.work",
    },
    Act::DeclareToDeadLetter {
        exchange: "codex.events",
        to: "t1",
    },
    Act::DeclareToDeadLetter {
        exchange: "codex.status",
        to: "",
    },
    Act::BindExchange {
        from: "codex.requests",
        to: "codex.events",
    },
    Act::BindExchange {
        from: "codex.events",
        to: "codex.status",
    },
    Act::BindExchange {
        from: "codex.requests",
        to: "codex.control",
    },
    Act::Bind {
        queue: "codex.turns.work",
        exchange: "codex.events",
        key: "#",
    },
    Act::Bind {
        queue: "codex.turns",
        exchange: "codex.events",
        key: "#",
    },
    Act::Bind {
        queue: "codex.turns.dead",
        exchange: "codex.events",
        key: "#",
    },
    // Objects under the names of others.
    Act::Declare {
        queue: "codex.turns.mine",
    },
    Act::Declare {
        queue: "codex.status.0123456789abcdef0123456789abcdef",
    },
    Act::Declare {
        queue: "codex.events.mine",
    },
    Act::Declare {
        queue: "somebody.else",
    },
    Act::DeclareExchange {
        exchange: "codex.events",
    },
    Act::DeclareExchange { exchange: "mine" },
];

#[tokio::test]
async fn g8_a_producer_can_only_send_and_listen() {
    let users = Users::get().await;
    let own = format!("producer-{}.answers", vhost(&users.admin));
    let allowed = [
        Act::Bind {
            queue: "",
            exchange: "codex.events",
            key: "#",
        },
        Act::Declare { queue: &own },
        Act::Bind {
            queue: &own,
            exchange: "codex.events",
            key: "t1",
        },
        Act::Get { queue: &own },
        Act::Declare {
            queue: "codex.events.0123456789abcdef0123456789abcdef",
        },
        // As aio-pika names its queues.
        Act::Declare {
            queue: "amq_0123456789abcdef0123456789abcdef",
        },
        Act::Publish {
            exchange: "codex.requests",
            key: "nowhere",
        },
        Act::Publish {
            exchange: "codex.control",
            key: "",
        },
    ];
    assert_only(&users.producer, NOT_FOR_CLIENTS, &allowed).await;
}

#[tokio::test]
async fn g8_a_reader_can_only_bind_its_own_queues_to_the_events() {
    let users = Users::get().await;
    let own = format!("reader-{}.all", vhost(&users.admin));
    let refused = [
        NOT_FOR_CLIENTS,
        &[
            Act::Publish {
                exchange: "codex.requests",
                key: "turn",
            },
            Act::Publish {
                exchange: "codex.control",
                key: "",
            },
            Act::DeclareToDeadLetter {
                exchange: "codex.requests",
                to: "turn",
            },
            Act::BindExchange {
                from: "codex.events",
                to: "codex.requests",
            },
            Act::BindExchange {
                from: "codex.events",
                to: "codex.control",
            },
        ],
    ];
    let allowed = [
        Act::Bind {
            queue: "",
            exchange: "codex.events",
            key: "#",
        },
        Act::Declare { queue: &own },
        Act::Bind {
            queue: &own,
            exchange: "codex.events",
            key: "#",
        },
        Act::Get { queue: &own },
    ];
    assert_only(&users.reader, &refused.concat(), &allowed).await;
}

#[tokio::test]
async fn g8_a_worker_can_configure_its_own_objects_and_no_others() {
    let users = Users::get().await;
    let refused = [
        Act::Get {
            queue: "codex.turns.dead",
        },
        Act::Bind {
            queue: "codex.turns.dead",
            exchange: "codex.requests",
            key: "turn",
        },
        Act::Bind {
            queue: "",
            exchange: "codex.events",
            key: "#",
        },
        Act::Publish {
            exchange: "codex.requests",
            key: "turn",
        },
        Act::Publish {
            exchange: "amq.fanout",
            key: "",
        },
        Act::Declare {
            queue: "codex.turns.mine",
        },
        Act::Declare {
            queue: "somebody.else",
        },
        Act::Declare {
            queue: "codex.turns.work.mine",
        },
        Act::Delete {
            queue: "codex.events.0123456789abcdef0123456789abcdef",
        },
        Act::DeclareExchange { exchange: "mine" },
    ];
    let own = Act::Declare {
        queue: "codex.turns.work.0123456789abcdef0123456789abcdef",
    };
    assert_only(&users.worker, &refused, &[own]).await;
}

#[tokio::test]
async fn g8_a_producer_can_be_kept_from_the_turns_of_others() {
    let users = Users::get().await;
    let key = |key: &str| format!("{}.{key}", users.own_name);
    let [own, pattern, words] = [key("t1"), key("#"), key("*.x")];
    let bind = |key| Act::Bind {
        queue: "",
        exchange: "codex.events",
        key,
    };
    let refused = [
        bind("#"),
        bind("t1"),
        bind("*.t1"),
        bind(&users.own_name),
        bind(&pattern),
        bind(&words),
    ];
    assert_only(&users.own, &refused, &[bind(&own)]).await;
}

/// What an operator reads it could also take away: the broker knows no
/// difference. All else that the others can do it can't.
#[tokio::test]
async fn g8_an_operator_can_only_look() {
    let users = Users::get().await;
    let allowed = [
        Act::Get {
            queue: "codex.turns.dead",
        },
        Act::Declare {
            queue: "codex.status.0123456789abcdef0123456789abcdef",
        },
        Act::Bind {
            queue: "codex.status.0123456789abcdef0123456789abcdef",
            exchange: "codex.status",
            key: "",
        },
        Act::Get {
            queue: "codex.status.0123456789abcdef0123456789abcdef",
        },
    ];
    let refused: Vec<Act<'_>> = NOT_FOR_CLIENTS
        .iter()
        .copied()
        .filter(|act| !allowed.contains(act))
        .chain([
            Act::Publish {
                exchange: "codex.requests",
                key: "turn",
            },
            Act::Publish {
                exchange: "codex.control",
                key: "",
            },
            Act::Bind {
                queue: "codex.status.0123456789abcdef0123456789abcdef",
                exchange: "codex.events",
                key: "#",
            },
            Act::Bind {
                queue: "codex.status.0123456789abcdef0123456789abcdef",
                exchange: "codex.control",
                key: "",
            },
            Act::BindExchange {
                from: "codex.status",
                to: "codex.events",
            },
            Act::Declare {
                queue: "codex.control.0123456789abcdef0123456789abcdef",
            },
        ])
        .collect();
    assert_only(&users.operator, &refused, &allowed).await;
}

/// A pool with the worker's user, and what the producer's user calls.
#[tokio::test]
async fn everybody_can_do_their_part_with_their_user() {
    let users = Users::get().await;
    let mut pool = Pool::on(&users.admin, 2, &[("AMQP_URL", &users.worker)]).await;

    let submit = Call::new(&["submit", "-w", "a", "--json", "t\nsay Done."]);
    let done = submit.set("AMQP_URL", &users.producer).run().await.ended(0);
    assert_eq!(done.events().last().unwrap()["text"], "Done.");

    let producer = Language::Python.producer("a", &["tag\nsay Done."], &users.producer);
    producer.run().await.ended(0);

    // What is cancelled, published by the sequencer, and what is rejected and dead-lettered.
    pool.enqueue(&[turn("t1", "b", &["wait never"])]).await;
    pool.started("t1", 1).await;
    let cancel = Call::new(&["cancel", "t1"]).set("AMQP_URL", &users.producer);
    cancel.run().await.ended(0);
    assert_eq!(pool.events.ended("t1").await.stop_reason(), "cancelled");
    let refused = Language::Python.producer("../b", &["t"], &users.producer);
    refused.run().await.ended(1);
    assert_eq!(
        pool.producer.dead_letters(1).await[0].code,
        "workspace.rejected"
    );

    let list = |url| Call::new(&["dead", "list"]).set("AMQP_URL", url).run();
    let refused = list(&users.producer).await.ended(1);
    refused.says(&["codex.turns.dead", "users set operator NAME"]);
    list(&users.operator).await.ended(0);
    let status = |url| Call::new(&["status"]).set("AMQP_URL", url).run();
    let refused = status(&users.producer).await.ended(1);
    refused.says(&["codex.status", "users set operator NAME"]);
    let told = status(&users.operator).await.ended(0);
    assert_eq!(told.events()[0]["workers"].as_array().unwrap().len(), 2);

    let submit = Call::new(&["submit", "-w", "a", "t"]).set("AMQP_URL", &users.reader);
    submit
        .run()
        .await
        .ended(1)
        .says_at_last(&["codex.requests", "ACCESS_REFUSED"]);
    pool.stop().await;
}

/// Guards what `--event-log` gives, and that it is missing without.
#[tokio::test]
async fn g8_the_event_log_is_kept_and_read_by_those_who_may_and_no_others() {
    let users = Users::get().await;
    let log = EventLog {
        max_age: Duration::from_secs(3600),
        max_bytes: 16 << 20,
    };
    let keep = async |url: &str| {
        Topology::new("codex", 10_000)
            .keep_log(&link(url).await, &log)
            .await
    };
    let refused = keep(&users.worker).await;
    assert!(
        matches!(refused, LogState::Refused(DeclareError::Forbidden { .. })),
        "{refused:?}"
    );
    let kept = keep(&users.keeper).await;
    assert!(matches!(kept, LogState::Kept), "{kept:?}");
    let tail = async |url: &str| {
        // Of an id that no other test has on this vhost.
        let call = Call::new(&["tail", "nobodys"]).set("AMQP_URL", url);
        call.run().await.ended(1)
    };
    tail(&users.late)
        .await
        .says_at_last(&["the event log has nothing of turn nobodys"]);
    for url in [&users.reader, &users.producer, &users.worker, &users.keeper] {
        tail(url)
            .await
            .says_at_last(&["codex.events.log", "ACCESS_REFUSED"]);
    }
    assert_only(&users.late, NOT_FOR_CLIENTS, &[]).await;
}

/// Guards `Topology::missing_rights`.
#[tokio::test]
async fn check_reports_what_each_user_lacks() {
    let users = Users::get().await;
    let vhost = vhost(&users.admin);
    let half = format!("half-{vhost}");
    let own = "codex\\.(control|status)\\.[0-9a-f]{32}";
    let write = format!("^(codex\\.(turns|control)|{own})$");
    let read = format!("^(codex\\.(requests|control|status|turns)|{own})$");
    let ctl = [
        vec!["add_user", &half, "pw"],
        vec![
            "set_permissions",
            "-p",
            vhost,
            &half,
            "^codex\\.",
            &write,
            &read,
        ],
    ];
    let ctl: Vec<Vec<String>> = ctl
        .iter()
        .map(|words| words.iter().map(|&word| word.to_owned()).collect())
        .collect();
    tokio::task::spawn_blocking(move || {
        for words in &ctl {
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            Broker::shared().ctl(&words);
        }
    })
    .await
    .unwrap();

    let folder = tempfile::tempdir().unwrap();
    let check = async |url: &str| {
        let call = Call::new(&["check", "--json"])
            .set("AMQP_URL", url)
            .set("WORKSPACE_ROOT", folder.path().to_str().unwrap())
            .set("HTTP_ADDR", "127.0.0.1:0");
        let done = call.run().await;
        let lines = done.events();
        let failed = lines.iter().filter(|line| line["status"] == "fail");
        let of_broker = ["broker", "topology", "rights"];
        failed
            .filter(|line| of_broker.contains(&line["check"].as_str().unwrap()))
            .map(|line| line["detail"].as_str().unwrap().to_owned())
            .collect::<BTreeSet<_>>()
    };
    assert_eq!(check(&users.worker).await, BTreeSet::new());
    let told = check(&as_user(&users.admin, &half, "pw")).await;
    assert_eq!(
        told,
        BTreeSet::from([format!(
            "user {half:?} has no read permission for queue codex.turns.work, no write permission for the default \
             exchange, amq.default, no write permission for exchange codex.events, no write permission for exchange \
             codex.status; the script ops/deploy/rabbitmq/users gives the broker's user all that a worker needs: users set \
             worker NAME"
        )])
    );
    for (url, name) in [(&users.producer, "producer"), (&users.reader, "reader")] {
        let told = check(url).await;
        let told: Vec<&str> = told.iter().map(String::as_str).collect();
        let all = told.join("\n");
        for part in [
            &format!("user \"{name}-{vhost}\" has no configure permission for"),
            "codex.requests",
            "users set worker NAME",
        ] {
            assert!(all.contains(part), "no {part:?} in {all}");
        }
    }
}
