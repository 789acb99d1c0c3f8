use axum::body::{Body, Bytes};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::*;
use crate::conditions::{Condition, Conditions};
use crate::config::Roles;
use crate::host::{Finding, Host, Lack, Part, Probe};

struct Server {
    addr: SocketAddr,
    metrics: Metrics,
    health: Health,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

/// Fewer connections, so that a test needs few, and no timeout that a
/// slow machine could meet.
const FEW: ConnectionBounds = ConnectionBounds {
    asking: 4,
    answered: 4,
    head: Duration::from_secs(120),
    answer: Duration::from_secs(120),
    shutdown: Duration::from_secs(120),
};

async fn server(roles: Roles) -> Server {
    server_within(BOUNDS, roles).await
}

async fn server_within(bounds: ConnectionBounds, roles: Roles) -> Server {
    let metrics = Metrics::new(None);
    let health = Health::new(
        roles,
        Host::new([], metrics.clone()),
        Conditions::new(Metrics::new(None)),
    );
    let router = router(metrics.clone(), health.clone());
    let served = server_of(bounds, router).await;
    Server {
        metrics,
        health,
        ..served
    }
}

async fn server_of(bounds: ConnectionBounds, router: Router) -> Server {
    let listener = bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let addr = listener.local_addr().unwrap();
    let metrics = Metrics::new(None);
    let health = Health::new(
        BOTH,
        Host::new([], metrics.clone()),
        Conditions::new(Metrics::new(None)),
    );
    let (stop, stopped) = oneshot::channel();
    let serve = serve_within(bounds, listener, router, async {
        let _ = stopped.await;
    });
    Server {
        addr,
        metrics,
        health,
        stop,
        task: tokio::spawn(serve),
    }
}

const BOTH: Roles = Roles {
    sequencer: true,
    worker: true,
};

/// The status line, the head and the body.
async fn ask(addr: SocketAddr, method: &str, path: &str) -> (String, String, String) {
    let mut stream = TcpStream::connect(addr).await.unwrap();
    let request = format!("{method} {path} HTTP/1.1\r\nHost: x\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let (status, head) = head.split_once("\r\n").unwrap();
    (status.to_owned(), head.to_owned(), body.to_owned())
}

async fn get(addr: SocketAddr, path: &str) -> (String, String) {
    let (status, _, body) = ask(addr, "GET", path).await;
    (status, body)
}

#[tokio::test]
async fn metrics_are_served_as_prometheus_reads_them() {
    let server = server(BOTH).await;
    server.metrics.set_slots(7);
    let (status, head, body) = ask(server.addr, "GET", "/metrics").await;
    assert_eq!(status, "HTTP/1.1 200 OK");
    assert!(
        head.contains("content-type: text/plain; version=0.0.4; charset=utf-8"),
        "{head}"
    );
    assert!(body.contains("\nturn_worker_slots 7\n"), "{body}");
}

#[tokio::test]
async fn alive_is_not_yet_ready() {
    let server = server(BOTH).await;
    assert_eq!(
        get(server.addr, "/healthz").await,
        ("HTTP/1.1 200 OK".into(), "ok\n".into())
    );
    let (status, body) = get(server.addr, "/readyz").await;
    assert_eq!(status, "HTTP/1.1 503 Service Unavailable");
    assert_eq!(
        body,
        "not connected to the broker\nthe worker does not consume offers\nthe sequencer is neither active nor on standby\n"
    );
}

#[tokio::test]
async fn a_standby_is_ready_and_a_draining_process_is_not() {
    let server = server(BOTH).await;
    server.health.set_connected(true);
    server.health.set_consuming(true);
    for state in [SequencerState::Standby, SequencerState::Active] {
        server.health.set_sequencer(state);
        assert_eq!(
            get(server.addr, "/readyz").await,
            ("HTTP/1.1 200 OK".into(), "ready\n".into())
        );
    }
    server.health.set_draining();
    let (status, body) = get(server.addr, "/readyz").await;
    assert_eq!(status, "HTTP/1.1 503 Service Unavailable");
    assert_eq!(body, "draining: no more turns are taken\n");
}

#[test]
fn only_what_the_roles_need_counts() {
    let reasons = |sequencer, worker| {
        let host = Host::new([], Metrics::new(None));
        let health = Health::new(
            Roles { sequencer, worker },
            host,
            Conditions::new(Metrics::new(None)),
        );
        health.set_connected(true);
        health.reasons()
    };
    assert_eq!(reasons(false, true), ["the worker does not consume offers"]);
    assert_eq!(
        reasons(true, false),
        ["the sequencer is neither active nor on standby"]
    );
}

#[tokio::test]
async fn what_the_host_lacks_is_a_reason_in_any_role() {
    let finding = Finding {
        lack: Lack::Disk,
        why: "cannot write /root/x: No space left on device (os error 28)".to_owned(),
    };
    let lacking = finding.clone();
    let probe: Probe = Box::new(move |_| {
        let lacking = lacking.clone();
        Box::pin(async move { Err(lacking) })
    });
    let host = Host::new([(Part::Disk, probe)], Metrics::new(None));
    host.examine(Part::Disk).await;
    let health = Health::new(BOTH, host, Conditions::new(Metrics::new(None)));
    health.set_connected(true);
    health.set_sequencer(SequencerState::Standby);
    let consuming = "the worker does not consume offers".to_owned();
    assert_eq!(health.reasons(), [finding.to_string(), consuming]);
}

#[test]
fn blocking_conditions_are_reasons_and_others_are_warnings() {
    let metrics = Metrics::new(None);
    let conditions = Conditions::new(metrics.clone());
    let health = Health::new(BOTH, Host::new([], metrics), conditions.clone());
    let found = |text: &str| Some(text.to_owned());
    conditions.set(Condition::ClockDiffers, "", found("2 h ahead of host-2"));
    conditions.set(Condition::BrokerBlocked, "publisher", found("low on disk"));
    assert_eq!(health.warnings(), ["clock_differs: 2 h ahead of host-2"]);
    let blocked = "broker_blocked: publisher: low on disk".to_owned();
    assert!(health.reasons().contains(&blocked));
    conditions.set(Condition::BrokerBlocked, "publisher", None);
    assert!(!health.reasons().contains(&blocked));
}

#[tokio::test]
async fn unknown_paths_are_404() {
    let server = server(BOTH).await;
    assert_eq!(get(server.addr, "/").await.0, "HTTP/1.1 404 Not Found");
    assert_eq!(
        get(server.addr, "/metrics/..").await.0,
        "HTTP/1.1 404 Not Found"
    );
    let (status, ..) = ask(server.addr, "POST", "/metrics").await;
    assert_eq!(status, "HTTP/1.1 405 Method Not Allowed");
}

#[tokio::test]
async fn g10_a_head_that_is_too_large_is_refused() {
    let server = server(BOTH).await;
    let path = format!("/{}", "x".repeat(2 * MAX_HEAD_BYTES));
    let mut stream = TcpStream::connect(server.addr).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n");
    // The server may close before it has read everything.
    let _ = stream.write_all(request.as_bytes()).await;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    let answer = String::from_utf8(answer).unwrap();
    assert!(
        !answer.contains("404") && !answer.contains("200"),
        "{answer}"
    );
}

#[tokio::test]
async fn g10_more_headers_than_a_monitor_sends_are_refused() {
    let server = server(BOTH).await;
    let mut request = b"GET /metrics HTTP/1.1\r\n".to_vec();
    for n in 0..1000 {
        request.extend(format!("h{n}: x\r\n").into_bytes());
    }
    request.extend(b"\r\n");
    let answer = send(server.addr, &request).await;
    assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
}

/// What was sent is answered at once, with what comes after the head unread.
#[tokio::test]
async fn g10_no_body_is_read_and_no_second_request_answered() {
    let server = server(BOTH).await;
    for (request, status) in [
        (
            "POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 9999999999\r\n\r\nbody",
            "405",
        ),
        (
            "GET /healthz HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n",
            "200",
        ),
        (
            "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\nGET /healthz HTTP/1.1\r\nHost: x\r\n\r\n",
            "200",
        ),
    ] {
        let answer = send(server.addr, request.as_bytes()).await;
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{answer}");
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{answer}"
        );
    }
}

#[tokio::test]
async fn g8_only_three_pages_exist() {
    let server = server(BOTH).await;
    for path in [
        "/",
        "/metrics/",
        "//metrics",
        "/%6detrics",
        "/metrics/../x",
        "/debug/pprof",
        "/config",
        "*",
    ] {
        let (status, ..) = ask(server.addr, "GET", path).await;
        assert!(status.ends_with("404 Not Found"), "{path}: {status}");
    }
    for method in ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"] {
        for path in ["/metrics", "/healthz", "/readyz"] {
            let (status, ..) = ask(server.addr, method, path).await;
            assert!(
                status.ends_with("405 Method Not Allowed"),
                "{method}: {status}"
            );
        }
    }
}

#[test]
fn g8_by_default_only_this_host_can_ask() {
    let (settings, _) = crate::config::Settings::from_vars([]).unwrap();
    assert!(settings.http_addr.ip().is_loopback());
}

/// All that comes back until the connection is closed.
async fn send(addr: SocketAddr, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(addr).await.unwrap();
    // The server may close before it has read everything.
    let _ = stream.write_all(request).await;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    String::from_utf8(answer).unwrap()
}

/// One byte a second keeps no connection open.
#[tokio::test(start_paused = true)]
async fn g10_who_sends_slowly_is_cut_off() {
    let server = server(BOTH).await;
    let mut stream = TcpStream::connect(server.addr).await.unwrap();
    stream
        .write_all(b"GET /healthz HTTP/1.1\r\nx: ")
        .await
        .unwrap();
    let (mut reading, mut writing) = stream.split();
    let trickle = async {
        while writing.write_all(b"x").await.is_ok() {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    };
    let mut answer = Vec::new();
    let closed = async {
        tokio::select! {
            _ = reading.read_to_end(&mut answer) => {}
            () = trickle => {}
        }
    };
    tokio::time::timeout(2 * BOUNDS.head, closed).await.unwrap();
    assert_eq!(answer, b"");
}

/// A client that sends the beginning of a request, and waits.
async fn silent(addr: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(addr).await.unwrap();
    stream
        .write_all(b"GET /healthz HTTP/1.1\r\n")
        .await
        .unwrap();
    stream
}

/// What comes of the rest of its request. A closed connection returns no bytes, or
/// refuses what is sent.
async fn goes_on(mut stream: TcpStream) -> bool {
    let _ = stream.write_all(b"Host: x\r\n\r\n").await;
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer).await;
    answer.starts_with("HTTP/1.1 200 OK")
}

/// Not by their time running out: those that are left are served.
#[tokio::test]
async fn g10_silent_connections_make_room_the_oldest_first() {
    let server = server_within(FEW, BOTH).await;
    let mut connections = Vec::new();
    for _ in 0..3 * FEW.asking {
        connections.push(silent(server.addr).await);
        // Those that came before it are accepted, too.
        let (status, _) = get(server.addr, "/healthz").await;
        assert_eq!(status, "HTTP/1.1 200 OK");
    }
    let newest = connections.split_off(connections.len() - (FEW.asking - 1));
    for closed in connections {
        assert!(!goes_on(closed).await);
    }
    for open in newest {
        assert!(goes_on(open).await);
    }
}

/// An answer that is larger than what the system holds for a client that does
/// not read it.
fn large() -> Router {
    let body = Bytes::from(vec![b'x'; LARGE]);
    Router::new()
        .route("/large", axum::routing::get(async move || body.clone()))
        .route("/healthz", axum::routing::get("ok\n"))
}

const LARGE: usize = 64 * 1024 * 1024;

#[tokio::test]
async fn g10_clients_that_read_no_answer_make_room_the_oldest_first() {
    let server = server_of(FEW, large()).await;
    let mut deaf = Vec::new();
    for _ in 0..3 * FEW.answered {
        let mut stream = TcpStream::connect(server.addr).await.unwrap();
        let request = b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n";
        stream.write_all(request).await.unwrap();
        // The answer has started, and its end has no room.
        assert_eq!(stream.read_u8().await.unwrap(), b'H');
        deaf.push(stream);
        let (status, _) = get(server.addr, "/healthz").await;
        assert_eq!(status, "HTTP/1.1 200 OK");
    }
    let newest = deaf.split_off(deaf.len() - (FEW.answered - 1));
    for (streams, whole) in [(deaf, false), (newest, true)] {
        for mut stream in streams {
            let mut rest = Vec::new();
            let _ = stream.read_to_end(&mut rest).await;
            assert_eq!(rest.len() > LARGE, whole, "{}", rest.len());
        }
    }
}

#[tokio::test]
async fn g10_no_answer_takes_for_ever() {
    let endless = async || {
        let more = || Ok::<_, std::io::Error>(Bytes::from_static(b"more "));
        Body::from_stream(futures_util::stream::repeat_with(more))
    };
    let bounds = ConnectionBounds {
        answer: Duration::from_millis(100),
        ..FEW
    };
    let router = Router::new().route("/endless", axum::routing::get(endless));
    let server = server_of(bounds, router).await;
    let mut stream = TcpStream::connect(server.addr).await.unwrap();
    let request = b"GET /endless HTTP/1.1\r\nHost: x\r\n\r\n";
    stream.write_all(request).await.unwrap();
    let mut nowhere = tokio::io::sink();
    let closed = tokio::io::copy(&mut stream, &mut nowhere);
    let _ = timeout(Duration::from_secs(120), closed).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_silent_connection_does_not_hold_up_the_end() {
    let server = server(BOTH).await;
    let silent = TcpStream::connect(server.addr).await.unwrap();
    get(server.addr, "/healthz").await;
    server.stop.send(()).unwrap();
    let begun = tokio::time::Instant::now();
    server.task.await.unwrap();
    assert!(begun.elapsed() < BOUNDS.answer / 2);
    drop(silent);
}

#[tokio::test]
async fn the_end_waits_for_requests_that_have_started() {
    let server = server_within(FEW, BOTH).await;
    let mut stream = TcpStream::connect(server.addr).await.unwrap();
    stream
        .write_all(b"GET /healthz HTTP/1.1\r\n")
        .await
        .unwrap();
    // A whole answer on a later connection: the first one is accepted, too.
    get(server.addr, "/healthz").await;
    server.stop.send(()).unwrap();
    stream.write_all(b"Host: x\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
    server.task.await.unwrap();
}

#[tokio::test]
async fn a_taken_address_is_named_with_its_variable() {
    let server = server(BOTH).await;
    let error = bind(server.addr).await.unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains(&server.addr.to_string()) && text.contains("TURN_WORKER_HTTP_ADDR"),
        "{text}"
    );
}
