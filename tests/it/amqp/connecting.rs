use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use turn_worker::amqp::connect::{ConnectError, Connector, State};
use turn_worker::amqp::link::LinkState;

use super::{Vhost, connector, ctl};
use crate::support::proxy::Proxy;

/// A port without a listener.
async fn closed_port() -> u16 {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    listener.local_addr().unwrap().port()
}

#[tokio::test]
async fn a_refused_password_a_missing_vhost_and_a_dead_port_are_distinguished() {
    let url = Vhost::new().await.url;
    let (base, _) = url.rsplit_once('/').unwrap();
    let place = base.split_once('@').unwrap().1;

    let error = connector(&format!("amqp://guest:s3cret@{place}/%2f"))
        .connect()
        .await
        .unwrap_err();
    assert!(
        matches!(error, ConnectError::AuthRefused { .. }),
        "{error:?}"
    );
    assert!(!format!("{error:?} {error}").contains("s3cret"));

    let error = connector(&format!("{base}/nowhere"))
        .connect()
        .await
        .unwrap_err();
    assert!(
        matches!(error, ConnectError::VhostMissing { .. }),
        "{error:?}"
    );
    assert!(
        error.to_string().contains(&format!("{place}/nowhere")),
        "{error}"
    );

    let url = format!("amqp://u:s3cret@127.0.0.1:{}/%2f", closed_port().await);
    let error = connector(&url).connect().await.unwrap_err();
    assert!(matches!(error, ConnectError::Tcp { .. }), "{error:?}");
    assert!(!format!("{error:?} {error}").contains("s3cret"));
}

#[tokio::test]
async fn something_else_on_the_port_is_a_failed_handshake() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("amqp://{}/%2f", listener.local_addr().unwrap());
    tokio::spawn(async move {
        loop {
            drop(listener.accept().await);
        }
    });
    let error = connector(&url).connect().await.unwrap_err();
    assert!(matches!(error, ConnectError::Handshake { .. }), "{error:?}");
}

#[tokio::test]
async fn a_peer_that_never_answers_is_given_up() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("amqp://{}/%2f", listener.local_addr().unwrap());
    let connecting = tokio::spawn(async move { connector(&url).connect().await });
    let (mut peer, _) = listener.accept().await.unwrap();
    let error = connecting.await.unwrap().unwrap_err();
    assert!(
        matches!(
            error,
            ConnectError::TimedOut {
                phase: "the AMQP handshake",
                ..
            }
        ),
        "{error:?}"
    );
    // The socket is not left to a thread that waits for ever.
    let mut said = Vec::new();
    tokio::io::AsyncReadExt::read_to_end(&mut peer, &mut said)
        .await
        .unwrap();
    assert_eq!(said, b"AMQP\0\0\x09\x01");
}

#[tokio::test]
async fn the_url_is_read_again_for_every_attempt() {
    let vhost = Vhost::new().await;
    let wrong = format!("amqp://127.0.0.1:{}/%2f", closed_port().await);
    let calls = Arc::new(AtomicU32::new(0));
    let (right, counted) = (vhost.url.clone(), Arc::clone(&calls));
    let connector = Connector::new("test", move || {
        let call = counted.fetch_add(1, Ordering::SeqCst);
        Ok(if call < 2 { wrong.as_str() } else { &right }.into())
    });
    let link = connector
        .connect_with_backoff(&CancellationToken::new())
        .await
        .unwrap();
    assert!(link.is_open());
    assert_eq!(calls.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn a_limit_of_connections_is_no_missing_permission() {
    let vhost = Vhost::new().await;
    let limit = r#"{"max-connections": 0}"#;
    ctl(&["set_vhost_limits", "-p", &vhost.name, limit]).await;
    let error = vhost.connector().connect().await.unwrap_err();
    assert!(
        matches!(error, ConnectError::LimitReached { .. }),
        "{error}"
    );
    assert!(error.to_string().contains("limit (0)"), "{error}");
}

#[tokio::test]
async fn a_shutdown_ends_the_attempts() {
    let url = format!("amqp://127.0.0.1:{}/%2f", closed_port().await);
    let shutdown = CancellationToken::new();
    let (tried, mut attempts) = mpsc::unbounded_channel();
    let connector = Connector::new("test", move || {
        tried.send(()).unwrap();
        Ok(url.as_str().into())
    });
    let connecting = {
        let shutdown = shutdown.clone();
        tokio::spawn(async move { connector.connect_with_backoff(&shutdown).await })
    };
    attempts.recv().await.unwrap();
    attempts.recv().await.unwrap();
    shutdown.cancel();
    assert!(connecting.await.unwrap().is_none());
}

#[tokio::test]
async fn a_connection_that_the_broker_closes_is_noticed_and_reported() {
    let vhost = Vhost::new().await;
    let states = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&states);
    let connector = vhost
        .connector()
        .on_state(move |state| seen.lock().unwrap().push(state));
    let link = connector.connect().await.unwrap();
    let closed = link.closed();
    vhost.close_all_connections().await;
    let reason = closed.await;
    assert!(reason.contains("CONNECTION_FORCED"), "{reason}");
    assert!(!link.is_open());
    assert!(link.channel().await.is_err());
    drop(link);
    drop(connector);
    // The hook is called after the reason is given.
    while states.lock().unwrap().len() < 2 {
        tokio::task::yield_now().await;
    }
    assert!(matches!(
        states.lock().unwrap()[..],
        [State::Connected(_), State::Disconnected(_)]
    ));
}

#[tokio::test]
async fn a_close_and_a_hang_up_are_noticed_too() {
    let vhost = Vhost::new().await;
    let link = vhost.link().await;
    link.close().await;
    link.closed().await;
    let link = vhost.link().await;
    link.hang_up();
    link.closed().await;
    assert!(matches!(link.state(), LinkState::Closed(_)));
}

/// Takes two heartbeat intervals, as the URL asks for them.
#[tokio::test]
async fn a_broker_that_falls_silent_is_noticed_by_its_heartbeats() {
    let vhost = Vhost::new().await;
    let proxy = Proxy::before(&vhost.url).await;
    let url = format!("{}?heartbeat=1", proxy.url);
    let link = connector(&url).connect().await.unwrap();
    proxy.freeze();
    let reason = link.closed().await;
    assert!(reason.contains("heartbeat"), "{reason}");
}
