//! What a monitor asks: `/metrics`, `/healthz`, `/readyz`.
//!
//! Whoever can reach the address can ask, so everything is bounded: the
//! connections, the size of a request, and how long a connection lives.

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
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;

pub use health::{Health, SequencerState};

use crate::metrics::Metrics;

/// A few monitors and a person; more wait in the kernel.
const MAX_CONNECTIONS: usize = 32;

/// From accepting a connection to its end. It serves one request, so this
/// bounds a client that sends or reads slowly, too.
const CONNECTION_LIFE: Duration = Duration::from_secs(10);

/// A silent connection must not hold up the end of the process.
const SHUTDOWN_WAIT: Duration = Duration::from_secs(1);

/// Of a request's head; nothing in here reads a body.
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
/// when the requests that have begun are answered, a second later at most.
pub async fn serve(
    listener: TcpListener,
    metrics: Metrics,
    health: Health,
    shutdown: impl Future<Output = ()>,
) {
    let router = router(metrics, health);
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let connections = TaskTracker::new();
    tokio::pin!(shutdown);
    loop {
        let accept = async {
            // The semaphore is never closed.
            let place = Arc::clone(&places).acquire_owned().await.ok()?;
            Some((listener.accept().await, place))
        };
        let accepted = tokio::select! {
            biased;
            () = &mut shutdown => break,
            accepted = accept => accepted,
        };
        match accepted {
            None => break,
            Some((Ok((stream, _)), place)) => {
                let router = router.clone();
                connections.spawn(async move {
                    answer(stream, router).await;
                    drop(place);
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
    let _ = tokio::time::timeout(SHUTDOWN_WAIT, connections.wait()).await;
}

/// One request, then the connection is closed.
async fn answer(stream: TcpStream, router: Router) {
    let connection = http1::Builder::new()
        .keep_alive(false)
        .max_buf_size(MAX_HEAD_BYTES)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    match tokio::time::timeout(CONNECTION_LIFE, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "a connection for metrics broke"),
        Err(_) => tracing::debug!("a connection for metrics took too long"),
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
            let content_type = "text/plain; version=0.0.4; charset=utf-8";
            ([(header::CONTENT_TYPE, content_type)], text).into_response()
        }
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

async fn ready(State(health): State<Health>) -> Response {
    let reasons = health.reasons();
    if reasons.is_empty() {
        return "ready\n".into_response();
    }
    let text = reasons.join("\n") + "\n";
    (StatusCode::SERVICE_UNAVAILABLE, text).into_response()
}

#[cfg(test)]
mod tests;
