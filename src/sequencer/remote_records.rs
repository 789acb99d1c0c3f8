//! The records of other hosts' disks, in a pool without shared storage: a sequencer
//! asks the processes of that disk, over a queue that only those consume, and they
//! answer to its own queue. A disk that is away does not answer: what is asked fails
//! after some time, and is asked again by those who need it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use lapin::types::ShortString;
use tokio::sync::oneshot;
use tokio::time::timeout;
use uuid::Uuid;

use super::actions::Actor;
use super::queue::{ClaimAnswer, QueuedTurn, SHARED};
use super::reply::recorded_end;
use super::verdict;
use crate::amqp::consume::Delivery;
use crate::amqp::messages::{RecordsAnswer, RecordsRequest, RecordsTask, Status};
use crate::amqp::publish::{json_properties, transient_properties};
use crate::error::with_sources;
use crate::request::{Limits, Properties, TurnRequest};
use crate::tenants::Tenants;
use crate::workspace::{RecordReader, Root};

/// How long an answer may take: longer than a disk may, and a publication mostly does.
pub(super) const ANSWER_LIMIT: Duration = Duration::from_secs(45);

/// What was asked and is not answered, and where answers go.
#[derive(Debug, Clone, Default)]
pub(super) struct Asking(Arc<Mutex<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    reply_to: Option<Arc<str>>,
    waiting: HashMap<Uuid, oneshot::Sender<RecordsAnswer>>,
}

impl Asking {
    /// Answers come to that queue from now on.
    pub(super) fn answers_to(&self, queue: Arc<str>) {
        self.inner().reply_to = Some(queue);
    }

    pub(super) fn answered(&self, nonce: Uuid, answer: RecordsAnswer) {
        // The asker of a late one no longer waits for it.
        if let Some(waiting) = self.inner().waiting.remove(&nonce) {
            let _ = waiting.send(answer);
        }
    }

    fn expect(&self, nonce: Uuid) -> Option<(Arc<str>, oneshot::Receiver<RecordsAnswer>)> {
        let mut inner = self.inner();
        let reply_to = inner.reply_to.clone()?;
        let (sender, receiver) = oneshot::channel();
        inner.waiting.insert(nonce, sender);
        Some((reply_to, receiver))
    }

    fn forget(&self, nonce: Uuid) {
        self.inner().waiting.remove(&nonce);
    }

    fn inner(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// As the queue needs it.
pub(super) fn queued_turn(request: &TurnRequest, tenants: &Tenants) -> QueuedTurn {
    QueuedTurn {
        workspace: request.workspace.shared(),
        turn_id: request.turn_id.shared(),
        fingerprint: request.fingerprint().into(),
        start_within: request.start_within,
        on_busy: request.on_busy,
        tenant: tenants.of(request).map(Arc::from),
        enqueued_at: request.enqueued_at,
        request: Arc::from(request.to_canonical_json().into_bytes()),
    }
}

impl Actor {
    /// Whether the records of that disk are before this process.
    pub(super) fn is_here(&self, disk: Uuid) -> bool {
        disk == SHARED || disk == self.records.root.id()
    }

    /// Asks the processes of another disk. `Err` with why there is no answer.
    pub(super) async fn ask(
        &self,
        disk: Uuid,
        task: RecordsTask,
        limit: Duration,
    ) -> Result<RecordsAnswer, String> {
        let request = RecordsRequest::new(disk, task);
        let Some((reply_to, answer)) = self.asking.expect(request.nonce) else {
            return Err("there is no queue for answers".to_owned());
        };
        let asked = timeout(limit, async {
            let reply_to = ShortString::try_new(&*reply_to).map_err(|error| error.to_string())?;
            let properties = json_properties()
                .with_reply_to(reply_to)
                .with_expiration(limit.as_millis().to_string().into());
            let (queue, body) = (self.topology.records_of(disk), request.encode());
            let published = self
                .publisher
                .publish_confirmed("", &queue, properties, &body, true);
            published.await.map_err(|error| with_sources(&error))?;
            answer.await.map_err(|error| error.to_string())
        });
        let answer = asked.await;
        self.asking.forget(request.nonce);
        match answer {
            Ok(Ok(RecordsAnswer::Failed(why))) | Ok(Err(why)) => Err(why),
            Ok(answer) => answer,
            Err(_) => Err(format!(
                "disk {disk} has not answered for {} s",
                limit.as_secs()
            )),
        }
    }

    /// What another process of the pool wants to know of this disk's records, off the loop.
    pub(super) fn serve_records(&self, delivery: Delivery, tenants: &Tenants) {
        let (actor, tenants) = (self.clone(), tenants.clone());
        tokio::spawn(async move {
            match RecordsRequest::decode(&delivery.body) {
                Ok(request) => {
                    let (nonce, reply_to) = (request.nonce, delivery.properties.reply_to().clone());
                    let answer = actor.answer(request, &tenants).await;
                    if let Some(queue) = reply_to {
                        actor.send_answer(queue.as_str(), nonce, answer).await;
                    }
                }
                Err(error) => {
                    let error = with_sources(&error);
                    tracing::warn!(error, "ignored a question about this disk's records");
                }
            }
            // Unacked, it would come again when the connection ends, and be answered twice.
            let _ = delivery.ack().await;
        });
    }

    async fn send_answer(&self, queue: &str, nonce: Uuid, answer: RecordsAnswer) {
        if !self.topology.is_own_status(queue) {
            return;
        }
        let body = Status::Recorded { nonce, answer }.encode();
        let sent =
            self.publisher
                .publish_confirmed("", queue, transient_properties(), &body, false);
        if let Err(error) = sent.await {
            tracing::debug!(error = with_sources(&error), "an answer was not sent");
        }
    }

    async fn answer(&self, request: RecordsRequest, tenants: &Tenants) -> RecordsAnswer {
        if request.disk != self.records.root.id() {
            return RecordsAnswer::Failed("it is about another disk".to_owned());
        }
        let root = self.records.root.clone();
        match request.task {
            RecordsTask::Decide {
                request,
                verdict,
                other_ended,
            } => match turn_of(&request, tenants) {
                Some(turn) => match self.has_left(&turn.workspace).await {
                    Ok(false) => RecordsAnswer::Decided(
                        self.decide_here(&Arc::new(turn), verdict, other_ended)
                            .await,
                    ),
                    Ok(true) => RecordsAnswer::Failed("the workspace has moved".to_owned()),
                    Err(why) => RecordsAnswer::Failed(why),
                },
                None => RecordsAnswer::Decided(ClaimAnswer::AlreadyRun),
            },
            RecordsTask::Receive { request } => match turn_of(&request, tenants) {
                Some(turn) => match self.received_here(Arc::new(turn)).await {
                    Some(ago) => {
                        RecordsAnswer::Received(u64::try_from(ago.as_millis()).unwrap_or(u64::MAX))
                    }
                    None => RecordsAnswer::Failed("it can't be kept".to_owned()),
                },
                None => RecordsAnswer::Failed("the request can't be read".to_owned()),
            },
            RecordsTask::HasEnded { workspace, turn_id } => {
                let id = workspace.clone();
                let known = self.records.pool.journal_end(&workspace);
                self.reading(&workspace, move || {
                    verdict::has_ended(&root, &id, &turn_id, known.as_ref())
                        .map_err(|error| with_sources(&error))
                })
                .await
                .map_or_else(RecordsAnswer::Failed, RecordsAnswer::HasEnded)
            }
            RecordsTask::Stage { workspace, turn_id } => {
                let id = workspace.clone();
                self.reading(&workspace, move || stage(&root, &id, &turn_id))
                    .await
                    .map_or_else(RecordsAnswer::Failed, RecordsAnswer::Stage)
            }
            RecordsTask::End { workspace, turn_id } => {
                let id = workspace.clone();
                let end = self.reading(&workspace, move || {
                    recorded_end(&root, &id, &turn_id).map_err(|error| with_sources(&error))
                });
                end.await.map_or_else(RecordsAnswer::Failed, |end| {
                    RecordsAnswer::End(end.unwrap_or_default())
                })
            }
            RecordsTask::Release { workspace, to } => {
                let id = workspace.clone();
                self.reading(&workspace, move || {
                    let workspace = match root.workspace(&id) {
                        // It can't be here, so it has not left, either.
                        Err(_) if to == root.id() => return Ok(true),
                        workspace => workspace.map_err(|error| with_sources(&error))?,
                    };
                    workspace
                        .leave_for(to)
                        .map_err(|error| with_sources(&error))
                })
                .await
                .map_or_else(RecordsAnswer::Failed, RecordsAnswer::Released)
            }
        }
    }

    /// Whether the workspace lives on another disk now.
    async fn has_left(&self, workspace: &str) -> Result<bool, String> {
        let (root, id) = (self.records.root.clone(), workspace.to_owned());
        self.reading(workspace, move || match root.workspace(&id) {
            Ok(workspace) => workspace.has_left().map_err(|error| with_sources(&error)),
            // It can't be here, and what asks finds that out by itself.
            Err(_) => Ok(false),
        })
        .await
    }

    async fn reading<T: Send + 'static>(
        &self,
        workspace: &str,
        read: impl FnOnce() -> Result<T, String> + Send + 'static,
    ) -> Result<T, String> {
        let lane = self.lanes.enter(Some(workspace)).await;
        let lane = lane.map_err(|error| with_sources(&error))?;
        lane.run(read).await.map_err(|error| with_sources(&error))?
    }

    /// Whether the turn has ended by the records of a disk; false without a disk.
    pub(super) async fn has_ended_on(
        &self,
        disk: Option<Uuid>,
        workspace: &str,
        turn_id: &str,
    ) -> Result<bool, String> {
        let Some(disk) = disk else { return Ok(false) };
        let task = RecordsTask::HasEnded {
            workspace: workspace.to_owned(),
            turn_id: turn_id.to_owned(),
        };
        match self.ask(disk, task, ANSWER_LIMIT).await? {
            RecordsAnswer::HasEnded(ended) => Ok(ended),
            other => Err(unexpected(&other)),
        }
    }
}

pub(super) fn unexpected(answer: &RecordsAnswer) -> String {
    format!("an answer to another question: {answer:?}")
}

/// The request is in our own canonical form, which parses.
fn turn_of(request: &str, tenants: &Tenants) -> Option<QueuedTurn> {
    let (limits, none) = (Limits::accepted(), Properties::default());
    let request = TurnRequest::parse(request.as_bytes(), &limits, &none).ok()?;
    Some(queued_turn(&request, tenants))
}

pub(super) fn stage(
    root: &Root,
    workspace: &str,
    turn_id: &str,
) -> Result<Option<crate::workspace::TurnStage>, String> {
    let reader = RecordReader::open(root.path()).map_err(|error| with_sources(&error))?;
    let stage = reader.stage(workspace, turn_id);
    stage.map_err(|error| with_sources(&error))
}
