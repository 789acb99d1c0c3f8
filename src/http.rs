//! What a monitor asks: `/metrics`, `/healthz`, `/readyz`.
//!
//! Any process that reaches the address can connect, agents among them, and a
//! liveness probe that gets no answer has the worker killed. So everything is
//! bounded: the connections, the size of a request, and how long each phase of
//! a connection takes. And a new connection is always served: if there are too
//! many, an older one is closed for it (`connection_limit.rs`).

mod connection_limit;
mod health;

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tokio_util::task::TaskTracker;

pub use health::{Health, SequencerState};

use crate::metrics::Metrics;
use connection_limit::{ConnectionLimit, ConnectionPermit};

/// What a connection may take.
#[derive(Debug, Clone, Copy)]
struct ConnectionBounds {
    /// Connections that have not sent their request yet: so many must be newer than a
    /// probe's before that one is closed.
    asking: usize,
    /// Connections that have not read their answer yet.
    answered: usize,
    /// From accepting a connection to the end of its request's head.
    head: Duration,
    /// From there to the end of the connection, which serves one request.
    answer: Duration,
    /// A silent connection must not hold up the end of the process.
    shutdown: Duration,
}

const BOUNDS: ConnectionBounds = ConnectionBounds {
    asking: 128,
    answered: 32,
    head: Duration::from_secs(1),
    answer: Duration::from_secs(10),
    shutdown: Duration::from_secs(1),
};

/// Connections that have lost their permit and are not closed yet.
const EVICTED_AT_ONCE: usize = 16;

/// Of a request's head; bodies are not read.
const MAX_HEAD_BYTES: usize = 16 * 1024;

/// After the system could not give us a connection (out of descriptors).
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

#[derive(Debug, thiserror::Error)]
#[error("can't listen on {addr}, which TURN_WORKER_HTTP_ADDR names")]
pub struct BindError {
    pub addr: SocketAddr,
    #[source]
    pub source: std::io::Error,
}

pub async fn bind(addr: SocketAddr) -> Result<TcpListener, BindError> {
    let bound = TcpListener::bind(addr).await;
    bound.map_err(|source| BindError { addr, source })
}

/// Answers until `shutdown` is done, then closes the listener and returns
/// when the requests that have started are answered, a second later at most.
pub async fn serve(
    listener: TcpListener,
    metrics: Metrics,
    health: Health,
    shutdown: impl Future<Output = ()>,
) {
    serve_within(BOUNDS, listener, router(metrics, health), shutdown).await;
}

async fn serve_within(
    bounds: ConnectionBounds,
    listener: TcpListener,
    router: Router,
    shutdown: impl Future<Output = ()>,
) {
    let limit = ConnectionLimit::new(bounds.asking, bounds.answered);
    // Never waited for long: what is beyond the limits is being closed.
    let most = bounds.asking + bounds.answered + EVICTED_AT_ONCE;
    let open = Arc::new(Semaphore::new(most));
    let connections = TaskTracker::new();
    tokio::pin!(shutdown);
    loop {
        let accept = async {
            // The semaphore is never closed.
            let permit = Arc::clone(&open).acquire_owned().await.ok()?;
            Some((listener.accept().await, permit))
        };
        let accepted = tokio::select! {
            biased;
            () = &mut shutdown => break,
            accepted = accept => accepted,
        };
        match accepted {
            None => break,
            Some((Ok((stream, peer)), permit)) => {
                let connection = limit.enter(peer.ip());
                let router = router.clone();
                connections.spawn(async move {
                    answer(stream, router, connection, bounds).await;
                    drop(permit);
                });
            }
            Some((Err(error), _)) => {
                tracing::warn!(%error, "can't accept a connection for metrics");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    connections.close();
    let _ = timeout(bounds.shutdown, connections.wait()).await;
}

/// One request, then the connection is closed.
async fn answer(
    stream: TcpStream,
    router: Router,
    permit: ConnectionPermit,
    bounds: ConnectionBounds,
) {
    let router = TowerToHyperService::new(router);
    let service = service_fn(|request| {
        permit.answer();
        router.call(request)
    });
    let connection = http1::Builder::new()
        .keep_alive(false)
        .max_buf_size(MAX_HEAD_BYTES)
        .serve_connection(TokioIo::new(stream), service);
    let out_of_time = async {
        if timeout(bounds.head, permit.asked()).await.is_ok() {
            sleep(bounds.answer).await;
        }
    };
    tokio::select! {
        // The connection last: one that always has something to write leaves no
        // budget to what is polled after it.
        biased;
        () = permit.evicted() => tracing::debug!("a connection for metrics made room for a newer one"),
        () = out_of_time => tracing::debug!("a connection for metrics took too long"),
        ended = connection => if let Err(error) = ended {
            tracing::debug!(%error, "a connection for metrics broke");
        },
    }
}

fn router(metrics: Metrics, health: Health) -> Router {
    Router::new()
        .route("/metrics", get(scrape).with_state(metrics))
        .route("/healthz", get("ok\n"))
        .route("/readyz", get(ready).with_state(health))
}

async fn scrape(State(metrics): State<Metrics>) -> Response {
    match metrics.gather_text() {
        Ok(text) => {
            metrics.scraped();
            let content_type = "text/plain; version=0.0.4; charset=utf-8";
            ([(header::CONTENT_TYPE, content_type)], text).into_response()
        }
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

async fn ready(State(health): State<Health>) -> Response {
    let reasons = health.reasons();
    let warnings = health.warnings().into_iter();
    let warnings: String = warnings.map(|text| format!("warning: {text}\n")).collect();
    if reasons.is_empty() {
        return format!("ready\n{warnings}").into_response();
    }
    let text = reasons.join("\n") + "\n" + &warnings;
    (StatusCode::SERVICE_UNAVAILABLE, text).into_response()
}

#[cfg(test)]
mod tests;
