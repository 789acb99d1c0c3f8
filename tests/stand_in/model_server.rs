//! The stand-in for the OpenAI Responses API as a server: for `stand-in-model`
//! and, in-process, for tests, which can wait for a request to arrive and
//! decide when a held answer goes on.

#![allow(dead_code, reason = "the example needs less of it than the tests do")]

#[path = "model/reply.rs"]
mod reply;
#[path = "model/script.rs"]
mod script;
#[path = "model/tools.rs"]
mod tools;

use std::collections::{HashMap, HashSet};
use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};
use std::{io, thread};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{DefaultBodyLimit, Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde::Serialize;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot, watch};

use reply::{Frame, Reply};
use script::Conversation;
pub use script::NOTATION;
#[allow(
    unused_imports,
    reason = "the example needs less of it than the tests do"
)]
pub use tools::NOT_OFFERED;
use tools::Offered;

/// What the API was asked, once.
#[derive(Debug, Clone, Serialize)]
pub struct Request {
    /// 1 for the first.
    pub number: usize,
    /// How often the same was asked: more than 1 when codex retries.
    pub attempt: usize,
    pub thread: String,
    /// The thread of the turn that it is for: of a sub-agent's request not its own.
    pub session: String,
    pub model: String,
    /// How much it is to think, if the request says so.
    pub effort: Option<String>,
    /// At which price it is to be served, if the request says so.
    pub service_tier: Option<String>,
    /// The last thing that the user said.
    pub prompt: String,
    /// How many things the user has said in this conversation.
    pub said: usize,
    /// The images with the last thing that the user said, as URLs.
    pub images: Vec<String>,
    /// The schema that the answer is to follow.
    pub output_schema: Option<Value>,
    /// How many calls have been made for the prompt.
    pub calls: usize,
    /// The `authorization` header.
    pub authorization: Option<String>,
    /// codex has started the turn by itself, for a goal.
    pub for_goal: bool,
    /// When it came.
    #[serde(skip)]
    pub at: SystemTime,
    /// What the answer reports, if it comes to its end.
    pub usage: Option<Value>,
    /// codex has hung up before it had all of the answer.
    pub abandoned: bool,
    /// When the first piece of a text was handed out.
    #[serde(skip)]
    pub first_delta: Option<Instant>,
}

/// Thread, things said and calls made: the same for a request and its repetitions.
type Place = (String, usize, usize);

/// What was asked so far, and which holds are released.
#[derive(Debug, Clone)]
pub struct Shared {
    requests: Arc<watch::Sender<Vec<Request>>>,
    released: Arc<watch::Sender<HashSet<String>>>,
    attempts: Arc<Mutex<HashMap<Place, usize>>>,
}

impl Default for Shared {
    fn default() -> Self {
        Self {
            requests: Arc::new(watch::Sender::new(Vec::new())),
            released: Arc::new(watch::Sender::new(HashSet::new())),
            attempts: Arc::default(),
        }
    }
}

impl Shared {
    pub fn requests(&self) -> Vec<Request> {
        self.requests.borrow().clone()
    }

    /// Lets every message that is or will be held under that name go on.
    pub fn release(&self, name: &str) {
        self.released.send_modify(|released| {
            released.insert(name.to_owned());
        });
    }

    /// Waits until `count` requests have arrived with `text` in the prompt, and returns them.
    pub async fn arrived(&self, text: &str, count: usize) -> Vec<Request> {
        let asks = |request: &&Request| request.prompt.contains(text);
        let mut requests = self.requests.subscribe();
        // The sender lives as long as `self`.
        let _ = requests
            .wait_for(|all| all.iter().filter(asks).count() >= count)
            .await;
        let all = requests.borrow();
        all.iter().filter(asks).cloned().collect()
    }

    async fn hold(&self, name: &str) {
        let mut released = self.released.subscribe();
        let _ = released.wait_for(|names| names.contains(name)).await;
    }

    fn first_delta(&self, number: usize) {
        self.requests.send_modify(|requests| {
            if let Some(request) = requests.get_mut(number - 1) {
                request.first_delta.get_or_insert_with(Instant::now);
            }
        });
    }

    fn abandoned(&self, number: usize) {
        self.requests.send_modify(|requests| {
            if let Some(request) = requests.get_mut(number - 1) {
                request.abandoned = true;
            }
        });
    }

    /// With the request's number.
    fn take(&self, headers: &HeaderMap, body: &Value) -> (usize, Reply) {
        let text = |name: &str| {
            let value = headers.get(name).and_then(|value| value.to_str().ok());
            value.map(str::to_owned)
        };
        let thread = text("thread-id")
            .or_else(|| body["prompt_cache_key"].as_str().map(str::to_owned))
            .unwrap_or_default();
        let conversation = Conversation::read(body);
        let next = conversation.next();
        let offered = Offered::read(body);
        let attempt = {
            let mut attempts = self.attempts.lock().unwrap_or_else(PoisonError::into_inner);
            let place = (
                thread.clone(),
                conversation.said.len(),
                conversation.outputs.len(),
            );
            let count = attempts.entry(place).or_default();
            *count += 1;
            *count
        };
        let (mut number, mut answer) = (0, None);
        self.requests.send_modify(|requests| {
            number = requests.len() + 1;
            let (reply, usage) = reply::reply(number, attempt, &conversation, &next, &offered);
            answer = Some(reply);
            requests.push(Request {
                number,
                attempt,
                session: body["client_metadata"]["session_id"]
                    .as_str()
                    .unwrap_or(&thread)
                    .to_owned(),
                thread,
                model: body["model"].as_str().unwrap_or_default().to_owned(),
                effort: body["reasoning"]["effort"].as_str().map(str::to_owned),
                service_tier: body["service_tier"].as_str().map(str::to_owned),
                prompt: conversation.prompt().to_owned(),
                said: conversation.said.len(),
                images: conversation.images.clone(),
                output_schema: body["text"]["format"].get("schema").cloned(),
                calls: conversation.outputs.len(),
                authorization: text("authorization"),
                for_goal: conversation.for_goal,
                at: SystemTime::now(),
                usage,
                abandoned: false,
                first_delta: None,
            });
        });
        (number, answer.unwrap_or(Reply::Hang))
    }
}

/// Serves until the process or the task ends.
pub async fn serve(listener: TcpListener, shared: Shared) -> io::Result<()> {
    let routes = Router::new()
        .route("/v1/responses", post(responses))
        .route("/requests", get(requests))
        .route("/release/{name}", post(release))
        .layer(DefaultBodyLimit::disable())
        .with_state(shared);
    axum::serve(listener, routes).await
}

/// A server of this process, on a port of its own; it ends when this is dropped.
#[derive(Debug)]
pub struct ModelServer {
    address: SocketAddr,
    shared: Shared,
    _running: oneshot::Sender<Infallible>,
}

impl ModelServer {
    /// It runs on a thread and runtime of its own, so that any test, async or not, may use it.
    pub fn start() -> io::Result<Self> {
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let shared = Shared::default();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let (running, dropped) = oneshot::channel::<Infallible>();
        let served = shared.clone();
        thread::Builder::new()
            .name("stand-in-model".to_owned())
            .spawn(move || {
                runtime.block_on(async move {
                    let Ok(listener) = TcpListener::from_std(listener) else {
                        return;
                    };
                    tokio::select! {
                        _ = serve(listener, served) => {}
                        _ = dropped => {}
                    }
                });
            })?;
        Ok(Self {
            address,
            shared,
            _running: running,
        })
    }

    pub fn base_url(&self) -> String {
        format!("http://{}/v1", self.address)
    }

    /// A `config.toml` for a CODEX_HOME that makes codex ask this server.
    pub fn codex_config(&self) -> String {
        format!(
            "model_provider = \"stand-in\"\n[model_providers.stand-in]\nname = \"stand-in\"\nbase_url = \"{}\"\nwire_api = \"responses\"\n",
            self.base_url()
        )
    }
}

impl std::ops::Deref for ModelServer {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.shared
    }
}

async fn requests(State(shared): State<Shared>) -> Response {
    match serde_json::to_string(&shared.requests()) {
        Ok(json) => ([(header::CONTENT_TYPE, "application/json")], json).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

async fn release(State(shared): State<Shared>, Path(name): Path<String>) -> StatusCode {
    shared.release(&name);
    StatusCode::NO_CONTENT
}

async fn responses(State(shared): State<Shared>, headers: HeaderMap, body: Bytes) -> Response {
    let body: Value = match serde_json::from_slice(&body) {
        Ok(body) => body,
        Err(error) => return (StatusCode::BAD_REQUEST, error.to_string()).into_response(),
    };
    let (number, reply) = shared.take(&headers, &body);
    match reply {
        Reply::Hang => std::future::pending().await,
        Reply::Http { status, html, body } => {
            let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            let kind = if html {
                "text/html"
            } else {
                "application/json"
            };
            (status, [(header::CONTENT_TYPE, kind)], body).into_response()
        }
        Reply::Stream(frames) => {
            let body = Body::from_stream(stream(number, frames, shared));
            ([(header::CONTENT_TYPE, "text/event-stream")], body).into_response()
        }
    }
}

/// The frames' bytes as they become due. An error in it breaks the connection off.
fn stream(
    number: usize,
    frames: Vec<Frame>,
    shared: Shared,
) -> impl futures_util::Stream<Item = io::Result<Bytes>> {
    let (sender, mut receiver) = mpsc::channel(16);
    tokio::spawn(async move {
        for frame in frames {
            let chunk = match frame {
                Frame::Event(event) => {
                    let name = event["type"].as_str().unwrap_or_default();
                    if name == "response.output_text.delta" {
                        shared.first_delta(number);
                    }
                    Ok(Bytes::from(format!("event: {name}\ndata: {event}\n\n")))
                }
                Frame::Raw(text) => Ok(Bytes::from_static(text.as_bytes())),
                Frame::Pause(time) => {
                    tokio::time::sleep(time).await;
                    continue;
                }
                Frame::Hold(name) => {
                    tokio::select! {
                        () = shared.hold(&name) => continue,
                        () = sender.closed() => {
                            shared.abandoned(number);
                            return;
                        }
                    }
                }
                Frame::Cut => {
                    // What was sent shall have arrived before.
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    Err(io::Error::from(io::ErrorKind::ConnectionAborted))
                }
            };
            if sender.send(chunk).await.is_err() {
                shared.abandoned(number);
                return;
            }
        }
    });
    futures_util::stream::poll_fn(move |context| receiver.poll_recv(context))
}
