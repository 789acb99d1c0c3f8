//! What the queue wants done and takes time: each in a task of its own, which
//! answers the session.

use std::sync::Arc;
use std::time::Duration;

use lapin::types::ShortString;
use serde_json::value::RawValue;
use tokio::sync::{Semaphore, SemaphorePermit, mpsc};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::describe::Asked;
use super::homes_log::{LogAnswer, LostEnds};
use super::lanes::Lanes;
use super::queue::{Action, ClaimAnswer, Destination, QueuedTurn, SHARED, Ticket};
use super::remote_records::Asking;
use crate::amqp::messages::{Control, Offer};
use crate::amqp::outbox::{Outbox, OutboxSettings};
use crate::amqp::pool::PublisherLink;
use crate::amqp::publish::{PublishError, json_properties};
use crate::amqp::topology::{PRIVATE_OFFER_MS, Topology};
use crate::error::with_sources;
use crate::event::SealedEvent;
use crate::fault;
use crate::host::Host;
use crate::metrics::{Metrics, OfferAnswer};
use crate::pool::Pool;
use crate::turn::NotStarted;
use crate::workspace::Root;

/// What publishes at the same time, of offers and of endings each: more only
/// queue up at the broker, and each takes a channel of the pool.
pub(crate) const AT_ONCE: usize = 16;

/// Fewer, as each takes a channel of the pool, too.
const REPLIES_AT_ONCE: usize = 4;
const DESCRIPTIONS_AT_ONCE: usize = 2;
/// Reads of the records for producers that ask.
const READS_AT_ONCE: usize = 8;

/// The answer to an [`Action`].
#[derive(Debug)]
pub(super) enum Answer {
    OfferConfirmed(Ticket),
    OfferFailed(Ticket),
    Claim(Ticket, ClaimAnswer),
    Received {
        ticket: Ticket,
        ago: Duration,
    },
    /// An invalid request is dealt with: its delivery can be acked.
    Rejected {
        tag: u64,
    },
    /// A workspace's home was not written to the log.
    HomeFailed {
        workspace: Arc<str>,
    },
    /// Of the log of homes.
    Log(LogAnswer),
    /// A turn that is asked for was found nowhere: to be looked for again.
    SecondLook(Asked),
}

/// Brings a task's answer to the session: if the task ends without any, also by
/// a panic, that it has failed. Else the turn's line would wait for ever.
struct Reply {
    answers: mpsc::UnboundedSender<Answer>,
    failed: Option<Answer>,
}

impl Reply {
    fn send(mut self, answer: Answer) {
        self.failed = None;
        // A session that is over has no use for the answer.
        let _ = self.answers.send(answer);
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        if let Some(failed) = self.failed.take() {
            tracing::error!(answer = ?failed, "a task of the sequencer ended without an answer");
            let _ = self.answers.send(failed);
        }
    }
}

/// Where verdicts are recorded.
#[derive(Debug, Clone)]
pub struct Records {
    pub root: Root,
    /// Notified when that can't be written to.
    pub host: Host,
    /// Names this process in them.
    pub by: String,
    /// Knows by how much other hosts' clocks differ.
    pub pool: Pool,
}

/// Carries out actions; cheap to clone.
#[derive(Clone)]
pub struct Actor {
    pub(super) publisher: PublisherLink,
    pub(super) topology: Topology,
    pub(super) outbox: OutboxSettings,
    pub(super) records: Records,
    pub(super) metrics: Metrics,
    pub(super) cut: CancellationToken,
    offers: Arc<Semaphore>,
    /// Apart: an ending is published for as long as it takes, and a reader
    /// with a queue that refuses it must not hold up other workspaces' offers (G2).
    endings: Arc<Semaphore>,
    /// Apart: these wait for the disk only.
    pub(super) receipts: Arc<Semaphore>,
    /// Apart: no turn waits for them.
    pub(super) replies: Arc<Semaphore>,
    /// Apart: as many as strangers like.
    pub(super) descriptions: Arc<Semaphore>,
    pub(super) reads: Arc<Semaphore>,
    pub(super) lanes: Lanes,
    /// Apart: no verdict waits for a stranger's question.
    pub(super) reading: Lanes,
    /// For reports to operators: one at a time.
    pub(super) telling: Arc<Semaphore>,
    pub(super) asking: Asking,
    pub(super) lost_ends: LostEnds,
}

impl Actor {
    pub fn new(
        publisher: PublisherLink,
        topology: Topology,
        outbox: OutboxSettings,
        records: Records,
        metrics: Metrics,
        cut: CancellationToken,
    ) -> Self {
        Self {
            publisher,
            topology,
            outbox,
            records,
            metrics,
            cut,
            offers: Arc::new(Semaphore::new(AT_ONCE)),
            endings: Arc::new(Semaphore::new(AT_ONCE)),
            receipts: Arc::new(Semaphore::new(AT_ONCE)),
            replies: Arc::new(Semaphore::new(REPLIES_AT_ONCE)),
            descriptions: Arc::new(Semaphore::new(DESCRIPTIONS_AT_ONCE)),
            reads: Arc::new(Semaphore::new(READS_AT_ONCE)),
            lanes: Lanes::default(),
            reading: Lanes::default(),
            telling: Arc::new(Semaphore::new(1)),
            asking: Asking::default(),
            lost_ends: LostEnds::default(),
        }
    }

    /// `reply_to`: the queue for workers' answers to offers.
    pub(super) fn act(
        &self,
        action: Action,
        reply_to: &Arc<str>,
        answers: &mpsc::UnboundedSender<Answer>,
    ) {
        let (actor, answers) = (self.clone(), answers.clone());
        let or = |failed| Reply {
            answers: answers.clone(),
            failed: Some(failed),
        };
        match action {
            Action::Ack { .. } => {}
            Action::Offer {
                ticket,
                turn,
                repeat,
                to,
                disk,
                next_waits,
            } => {
                let reply_to = Arc::clone(reply_to);
                let reply = or(Answer::OfferFailed(ticket));
                drop(tokio::spawn(async move {
                    let _place = actor.offers.acquire().await;
                    reply.send(
                        match actor
                            .offer(&turn, repeat, &to, disk, next_waits, &reply_to)
                            .await
                        {
                            Ok(()) => Answer::OfferConfirmed(ticket),
                            // Its process is gone, or declares its queue again.
                            Err(error) if matches!(to, Destination::Private { .. }) => {
                                let error = with_sources(&*error);
                                tracing::debug!(
                                    error,
                                    turn_id = &*turn.turn_id,
                                    "a private offer did not arrive"
                                );
                                actor.metrics.offer_answered(OfferAnswer::Returned);
                                Answer::OfferFailed(ticket)
                            }
                            Err(error) => {
                                let error = with_sources(&*error);
                                tracing::warn!(error, turn_id = &*turn.turn_id, "an offer failed");
                                Answer::OfferFailed(ticket)
                            }
                        },
                    );
                }));
            }
            Action::Claim {
                ticket,
                turn,
                verdict,
                disk,
                other,
            } => {
                let reply = or(Answer::Claim(ticket, ClaimAnswer::Failed));
                drop(tokio::spawn(async move {
                    let answer = actor.decide(&turn, verdict, disk, other).await;
                    reply.send(Answer::Claim(ticket, answer));
                }));
            }
            Action::RepeatCancel {
                turn,
                superseded_by,
            } => drop(tokio::spawn(async move {
                let _place = actor.offers.acquire().await;
                actor.repeat_cancel(&turn, superseded_by.as_deref()).await;
            })),
            // Unanswered, it costs only the time that a predecessor has counted.
            Action::SetHome { record } => self.set_home(record, &answers),
            Action::Receive { ticket, turn, disk } => drop(tokio::spawn(async move {
                if let Some(ago) = actor.received(turn, disk).await {
                    let _ = answers.send(Answer::Received { ticket, ago });
                }
            })),
        }
    }

    /// Held while an ending is recorded and published, never while waiting to
    /// try that again.
    pub(super) async fn place_for_ending(&self) -> Option<SemaphorePermit<'_>> {
        // The semaphore is never closed.
        self.endings.acquire().await.ok()
    }

    async fn offer(
        &self,
        turn: &QueuedTurn,
        repeat: bool,
        to: &Destination,
        disk: Uuid,
        next_waits: bool,
        reply_to: &str,
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        if repeat {
            self.metrics.offer_repeated();
        }
        self.metrics.offer_made(to.why_shared());
        let request = std::str::from_utf8(&turn.request)?.to_owned();
        let offer = Offer {
            repeat,
            enqueued_at: turn.enqueued_at,
            root: Some(match disk {
                SHARED => self.records.root.id(),
                disk => disk,
            }),
            next_waits,
            journal: self.records.pool.journal_end(&turn.workspace),
            request: RawValue::from_string(request)?,
        };
        let mut properties = json_properties().with_reply_to(ShortString::try_new(reply_to)?);
        let work = self.topology.work_of(disk);
        let queue = match to {
            Destination::Shared(_) => &*work,
            Destination::Private { queue, .. } => {
                properties = properties.with_expiration(PRIVATE_OFFER_MS.into());
                queue
            }
        };
        // Over the default exchange, to the queue of this name: only workers
        // may publish there.
        let body = offer.encode();
        let published = self
            .publisher
            .publish_confirmed("", queue, properties, &body, true);
        published.await?;
        fault::at("sequencer.offered");
        Ok(())
    }

    async fn repeat_cancel(&self, turn: &QueuedTurn, superseded_by: Option<&str>) {
        let cancel = Control::Cancel {
            turn_id: turn.turn_id.to_string(),
            workspace: Some(turn.workspace.to_string()),
            superseded_by: superseded_by.map(str::to_owned),
        };
        let control = &self.topology.control;
        let published: Result<(), PublishError> = self
            .publisher
            .publish_confirmed(control, "", json_properties(), &cancel.encode(), false)
            .await;
        if let Err(error) = published {
            // The next heartbeat brings it up again.
            tracing::debug!(error = with_sources(&error), "could not repeat a cancel");
        }
    }

    /// What the records did not take is tried again; a host that can't write
    /// them at all says so meanwhile.
    pub(super) async fn not_recorded(&self, error: &NotStarted) {
        if let Some(part) = error.suspect() {
            self.records.host.examine(part).await;
        }
    }

    /// Publishes a turn's ending; false if the process was cut off before it arrived.
    pub(super) async fn publish_events(&self, events: Vec<SealedEvent>) -> bool {
        let outbox = Outbox::start(self.publisher.clone(), self.outbox.clone(), &self.cut);
        outbox.push_final(events);
        outbox.drained().await.is_ok()
    }
}
