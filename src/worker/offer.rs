//! One offer from its delivery to its settlement.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use jiff::Timestamp;
use tokio::task::block_in_place;
use tokio::time::{sleep, timeout};
use tracing::Instrument;

use super::error_log::logged_message;
use super::newest_attempt::NewestAttempt;
use super::reply::Reply;
use super::running::Entry;
use super::sink::OutboxSink;
use super::{Shutdown, Worker};
use crate::amqp::connect::backoff;
use crate::amqp::consume::Delivery;
use crate::amqp::dead_letter::{Refusal, bury};
use crate::amqp::messages::{DeclineReason, Decoded, Hindrance, Offer, Status};
use crate::amqp::outbox::Outbox;
use crate::amqp::publish::{PublishError, json_properties};
use crate::codex::engine::Engine;
use crate::error::with_sources;
use crate::event::StopReason;
use crate::fault;
use crate::request::{Limits, Properties, TurnRequest, plausible_wait};
use crate::settlement::Settlement;
use crate::telemetry::TurnSpan;
use crate::turn::{Hints, NotStarted, Outcome, Stop, Summary, Takeover};
use crate::workspace::JournalEnd;

/// How long a sequencer may take to be informed that an offer is requeued.
const ANNOUNCE_LIMIT: Duration = Duration::from_secs(1);

impl<E: Engine> Worker<E> {
    /// Until the turn's end is reported. The delivery is still to be settled.
    pub(super) async fn serve_offer(
        &self,
        delivery: &Delivery,
        way: Way,
        shutdown: &Shutdown,
    ) -> Served {
        let mut trace = self.telemetry.received();
        if delivery.redelivered {
            self.metrics.redelivered();
        }
        let Some((offer, request)) = self.read(&delivery.body) else {
            // Of another version, or broken: the sequencer keeps the turn and
            // will offer it again, maybe to a worker that understands it.
            let settlement = match way {
                Way::Shared => Settlement::Drop,
                Way::Private => Settlement::GiveBack,
            };
            return Served {
                settlement,
                takeover: None,
                next_waits: false,
                trace,
            };
        };
        let span = tracing::info_span!(
            "turn",
            turn_id = %request.turn_id,
            workspace = %request.workspace,
            worker = self.id,
            tenant = self.tenants.of(&request),
            trace_id = request.trace_id()
        );
        let arrived = Arrived {
            way,
            again: delivery.redelivered,
            reply: self.reply_to(delivery, &request),
        };
        let served = async {
            let mut takeover = None;
            let served = self.serve_turn(
                &offer,
                &request,
                arrived,
                &mut trace,
                &mut takeover,
                shutdown,
            );
            (served.await, takeover)
        };
        let served = AssertUnwindSafe(served).catch_unwind().instrument(span);
        let (settlement, takeover) = served.await.unwrap_or_else(|_| {
            tracing::error!(turn_id = %request.turn_id, workspace = %request.workspace,
                "serving the turn panicked; its attempt is charged");
            // Left unsettled, the offer would come again at once, and panic again.
            (Settlement::Drop, None)
        });
        Served {
            settlement,
            takeover,
            next_waits: offer.next_waits && settlement == Settlement::Done,
            trace,
        }
    }

    pub(super) async fn settle_served(&self, delivery: Delivery, way: Way, served: &mut Served) {
        self.settle(delivery, way, served.settlement).await;
        served.trace.settled(served.settlement);
    }

    pub(super) async fn settle(&self, delivery: Delivery, way: Way, settlement: Settlement) {
        if (settlement, way) == (Settlement::GiveBack, Way::Shared) {
            self.announce_return(&delivery).await;
        }
        let settled = match (settlement, way) {
            (Settlement::Done | Settlement::Drop, _) => delivery.ack().await,
            (Settlement::GiveBack, Way::Shared) => delivery.give_back().await,
            (Settlement::GiveBack, Way::Private) => delivery.decline().await,
        };
        fault::at("turn.settled");
        if let Err(error) = settled {
            // The broker delivers it again, and the journal answers it.
            tracing::debug!(
                error = with_sources(&error),
                "an offer could not be settled"
            );
        }
    }

    /// Before the offer is requeued: its sequencer counts it as taken, and would let private offers
    /// overtake it for as long as they come.
    async fn announce_return(&self, delivery: &Delivery) {
        let reply =
            (self.read(&delivery.body)).and_then(|(_, request)| self.reply_to(delivery, &request));
        if let Some(reply) = reply {
            let _ = timeout(ANNOUNCE_LIMIT, reply.returned()).await;
        }
    }

    /// Has the broker move a private offer to the shared queue, and reports that.
    pub(super) async fn decline(&self, delivery: Delivery, why: DeclineReason) {
        if let Some((_, request)) = self.read(&delivery.body)
            && let Some(reply) = self.reply_to(&delivery, &request)
        {
            reply.declined(why);
        }
        self.settle(delivery, Way::Private, Settlement::GiveBack)
            .await;
    }

    /// `None` if its sequencer is of a version that expects no answer.
    fn reply_to(&self, delivery: &Delivery, request: &TurnRequest) -> Option<Reply> {
        let queue = delivery.properties.reply_to().as_ref()?.as_str();
        self.topology.is_own_status(queue).then(|| Reply {
            publisher: self.publisher.clone(),
            queue: queue.to_owned(),
            workspace: request.workspace.as_str().to_owned(),
            turn_id: request.turn_id.as_str().to_owned(),
            worker: self.id.clone(),
        })
    }

    fn read(&self, body: &[u8]) -> Option<(Offer, TurnRequest)> {
        let offer = match Offer::decode(body) {
            Ok(Decoded::Known(offer)) => offer,
            Ok(Decoded::Unknown(what)) => {
                tracing::warn!(what, "left an offer to newer workers");
                return None;
            }
            Err(error) => {
                tracing::error!(error = with_sources(&error), "dropped a broken offer");
                return None;
            }
        };
        // Its sequencer keeps other records. The one of this root makes offers of its own.
        if offer
            .root
            .is_some_and(|root| root != self.pool.records_root())
        {
            self.metrics.offer_of_another_root();
            self.pool.refused_offer(offer.root);
            return None;
        }
        // Parsed again, by the same rules: who may publish here is the broker's
        // word, what is run here is ours. So are the models: a restriction holds
        // as soon as a worker has it, with any sequencer active.
        let limits = Limits {
            models: self.limits.models.clone(),
            ..Limits::accepted()
        };
        let request = offer.request.get().as_bytes();
        match TurnRequest::parse(request, &limits, &Properties::default()) {
            Ok(request) => Some((offer, request)),
            Err(rejection) => {
                let rules = rejection.rules();
                tracing::error!(
                    rules,
                    "dropped an offer of a request that is not valid here"
                );
                None
            }
        }
    }

    async fn serve_turn(
        &self,
        offer: &Offer,
        request: &TurnRequest,
        arrived: Arrived,
        trace: &mut TurnSpan,
        takeover: &mut Option<Box<Takeover>>,
        shutdown: &Shutdown,
    ) -> Settlement {
        if self.runner.host.is_barred() {
            // Delivered just before: others may take it.
            return Settlement::GiveBack;
        }
        // The sequencer offers it again when it is resumed.
        let tenant = self.tenants.of(request);
        if let Some(pause) = self.pauses.of(request.workspace.as_str(), tenant) {
            tracing::debug!(%pause, "dropped an offer");
            return Settlement::Drop;
        }
        if let Some(reply) = arrived.reply {
            reply.taken();
        }
        // Re-offered while it is here: the run goes on, its `done` will come.
        let Some(entry) = self.running.enter(request) else {
            return Settlement::Drop;
        };
        trace.taken(request, tenant);
        fault::at("turn.taken");
        let tracker = self.metrics.turn_started();
        let enqueued_at = offer.enqueued_at.or(request.enqueued_at);
        let waited = enqueued_at.and_then(|at| plausible_wait(at, Timestamp::now()));
        tracing::debug!(
            repeat = offer.repeat,
            private = arrived.way == Way::Private,
            "taking the turn"
        );
        let stop = entry.stop_handle();
        let check = Arc::new(NewestAttempt {
            root: self.runner.root.clone(),
            workspace: request.workspace.clone(),
            turn_id: request.turn_id.clone(),
            stop: stop.clone(),
            metrics: self.metrics.clone(),
        });
        let (publisher, settings) = (self.publisher.clone(), self.outbox.clone());
        let outbox = Outbox::of_attempt(publisher, settings, check, &shutdown.cut);
        let sink = OutboxSink {
            worker: self,
            offer,
            shutdown,
            outbox: &outbox,
            entry: &entry,
            tenant,
            waited,
        };
        if shutdown.cut.is_cancelled() {
            // Too late to be among those that were cut.
            stop.stop(Stop::Shutdown);
        }
        let workspace = request.workspace.as_str();
        let hints = Hints {
            patient: !offer.repeat,
            journal: JournalEnd::furthest(offer.journal, self.pool.journal_end(workspace)),
        };
        let outcome = self.runner.take(request, &hints, &sink, stop).await;
        fault::at("turn.released");
        let settlement = Settlement::of(&outcome, arrived.again);
        self.note_hindrance(request, &outcome);
        let journal = match &outcome {
            Outcome::Ended(summary) => summary.journal,
            Outcome::AlreadyEnded(ended) => ended.journal,
            _ => None,
        };
        if let Some(end) = journal {
            self.pool.note_journal_end(workspace, end);
        }
        match outcome {
            Outcome::Ended(summary) => {
                self.report_end(tenant, &summary, waited);
                let error = summary.error.as_ref();
                let words = error.and_then(|error| logged_message(error, self.log_errors));
                trace.ended(&summary, words.as_deref());
                if matches!(summary.stop_reason, StopReason::Error | StopReason::Timeout) {
                    self.keep_failed(offer, request);
                }
            }
            Outcome::AlreadyEnded(ended) => {
                if ended.other_body {
                    self.metrics.duplicate_turn();
                    tracing::warn!("the turn has ended before, with another request under its id");
                }
                if let Some(stop_reason) = ended.decided_now {
                    self.metrics.turn_decided(tenant, stop_reason, None);
                    tracing::info!(outcome = stop_reason.as_str(), "ended a waiting turn");
                }
                outbox.push_final(ended.events);
            }
            Outcome::Rejected { error, events } => {
                self.metrics.request_rejected(error.code);
                let code = error.code.as_str();
                tracing::warn!(code, error = error.message, "rejected a request");
                outbox.push_final(events);
            }
            // Reported by heartbeats, and by the sequencer if it lasts.
            Outcome::Busy => tracing::debug!("another process has the workspace"),
            Outcome::Held(unkillable) => tracing::warn!(
                %unkillable,
                "the turn waits: processes of an earlier turn can't be killed"
            ),
            Outcome::Takeover(waits) => *takeover = Some(waits),
            Outcome::Returned => tracing::info!("gave the turn back"),
            // Logged where it was found.
            Outcome::LockLost => {}
            Outcome::Unfit(finding) => {
                self.metrics.turn_not_started(Some(finding.lack));
                tracing::info!(lack = finding.lack.as_str(), "gave the turn back");
            }
            // Counted and logged when it was noticed.
            Outcome::NotStarted(error) if error.is_old_read() => tracing::warn!(
                error = with_sources(&error),
                requeued = settlement == Settlement::GiveBack,
                "did not start the turn on an old journal"
            ),
            Outcome::NotStarted(error) => {
                self.metrics.turn_not_started(error.lack());
                tracing::error!(error = with_sources(&error), "could not start the turn");
            }
        }
        drop(tracker);
        if settlement == Settlement::Done
            && !self
                .report_done(request, journal, &outbox, shutdown, &entry)
                .await
        {
            // The next worker that gets the offer reads the record: at once if this
            // process ends, later if publishing has panicked and might do so again.
            return match outbox.has_failed() {
                true => Settlement::Drop,
                false => Settlement::GiveBack,
            };
        }
        settlement
    }

    /// For an operator who sends it again.
    fn keep_failed(&self, offer: &Offer, request: &TurnRequest) {
        let kept = block_in_place(|| {
            let workspace = self.runner.root.workspace(request.workspace.as_str())?;
            let (turn_id, body) = (request.turn_id.as_str(), offer.request.get().as_bytes());
            workspace.keep_failed(turn_id, body, self.failed_requests)?;
            Ok::<_, NotStarted>(())
        });
        if let Err(error) = kept {
            let error = with_sources(&error);
            tracing::warn!(error, "the failed turn's request is not kept for a retry");
        }
    }

    /// For operators: what keeps an offered turn from starting.
    fn note_hindrance(&self, request: &TurnRequest, outcome: &Outcome) {
        match outcome {
            Outcome::Busy => {
                let held_by = block_in_place(|| {
                    let workspace = self.runner.root.workspace(request.workspace.as_str());
                    workspace.ok()?.lock_holder()
                });
                // It may be free again by now.
                if let Some(holder) = held_by {
                    let detail = holder.to_string();
                    self.blocked.note(request, Hindrance::Locked, &detail);
                }
            }
            Outcome::NotStarted(error) => {
                let why = match error {
                    NotStarted::Workspace(_) | NotStarted::State(_) => Hindrance::Records,
                    NotStarted::Home(_) | NotStarted::Spawn(_) => Hindrance::Other,
                };
                self.blocked.note(request, why, &with_sources(error));
            }
            Outcome::Takeover(takeover) => {
                let detail = takeover.to_string();
                self.blocked.note(request, Hindrance::Locked, &detail);
            }
            // Reported in other ways.
            Outcome::Held(_) | Outcome::Returned | Outcome::LockLost | Outcome::Unfit(_) => {}
            Outcome::Ended(_) | Outcome::AlreadyEnded(_) | Outcome::Rejected { .. } => {
                self.blocked.clear(request.workspace.as_str());
            }
        }
    }

    /// Once every event has arrived, reports the end to the sequencer. False if disconnected.
    async fn report_done(
        &self,
        request: &TurnRequest,
        journal: Option<JournalEnd>,
        outbox: &Outbox,
        shutdown: &Shutdown,
        _still_here: &Entry,
    ) -> bool {
        if outbox.drained().await.is_err() {
            return false;
        }
        fault::at("turn.confirmed");
        let done = Status::Done {
            workspace: request.workspace.as_str().to_owned(),
            turn_id: request.turn_id.as_str().to_owned(),
            worker: self.id.clone(),
            warm: (self.runner.engine.idle())
                .is_some_and(|idle| idle.waits_in(request.workspace.as_str())),
            journal,
        }
        .encode();
        let tell = || {
            self.publisher.publish_confirmed(
                &self.topology.status,
                "",
                json_properties(),
                &done,
                false,
            )
        };
        let told = until_confirmed(tell, "can't report the turn as done yet", shutdown).await;
        fault::at("turn.done");
        told
    }

    /// What only a worker finds out, since it is the one to look at the disk.
    /// False if cut off.
    pub(super) async fn keep_rejected(&self, refusal: Refusal<'_>, shutdown: &Shutdown) -> bool {
        let keep = || bury(&self.publisher, &self.topology, refusal);
        until_confirmed(keep, "can't keep a rejected request yet", shutdown).await
    }

    fn count_end(&self, tenant: Option<&str>, summary: &Summary) {
        let error = summary.error.as_ref();
        let tokens = summary.usage.map(|usage| usage.tokens);
        let model = summary.counted_model();
        if !summary.ran {
            self.metrics
                .turn_decided(tenant, summary.stop_reason, error);
            if summary.usage.is_some() {
                // Spent by attempts that died, and not counted so far.
                self.metrics.tokens(tenant, model, tokens);
            }
            return;
        }
        self.metrics
            .turn_ended(tenant, summary.stop_reason, error, summary.duration);
        if tokens.is_some() || summary.reached_model {
            self.metrics.tokens(tenant, model, tokens);
        }
        if let Some(first) = summary.first_text {
            self.metrics.first_text(first);
        }
        self.metrics.leftovers_killed(summary.leftovers);
    }

    fn report_end(&self, tenant: Option<&str>, summary: &Summary, waited: Option<Duration>) {
        self.count_end(tenant, summary);
        let usage = summary.usage.unwrap_or_default().tokens;
        let agents = summary.usage.and_then(|usage| usage.agents);
        if let Some(error) = &summary.error {
            // Its words may quote the prompt, files, codex's settings.
            tracing::debug!(error = error.message, "how the turn failed, in full");
        }
        let error = summary.error.as_ref();
        let words = error.and_then(|error| logged_message(error, self.log_errors));
        // A line's level is fixed, so there are two of it.
        macro_rules! log_end {
            ($level:expr) => {
                tracing::event!(
                    $level,
                    attempt = summary.attempt,
                    outcome = summary.stop_reason.as_str(),
                    code = summary.error.as_ref().map(|error| error.code.as_str()),
                    reason = summary.error.as_ref().map(|error| error.reason.as_str()),
                    error = words.as_deref(),
                    duration_s = summary.duration.as_secs_f64(),
                    queue_wait_s = waited.map(|waited| waited.as_secs_f64()),
                    first_text_s = summary.first_text.map(|first| first.as_secs_f64()),
                    thread_id = summary.thread_id,
                    model = summary.model,
                    usage_known = summary.usage.is_some(),
                    input_tokens = usage.input_tokens,
                    cached_input_tokens = usage.cache_read_tokens,
                    output_tokens = usage.output_tokens,
                    reasoning_output_tokens = usage.thinking_tokens,
                    agents_input_tokens = agents.map(|agents| agents.input_tokens),
                    agents_output_tokens = agents.map(|agents| agents.output_tokens),
                    leftovers = summary.leftovers,
                    "turn ended"
                )
            };
        }
        match summary.stop_reason {
            StopReason::EndTurn | StopReason::Cancelled => log_end!(tracing::Level::INFO),
            StopReason::Error | StopReason::Timeout => log_end!(tracing::Level::WARN),
        }
    }
}

/// By which queue an offer came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    Shared,
    /// Declined, it goes to the shared one.
    Private,
}

/// How an offer came.
struct Arrived {
    way: Way,
    /// It was delivered before.
    again: bool,
    /// Of sequencers that expect an answer.
    reply: Option<Reply>,
}

/// What became of an offer.
pub(super) struct Served {
    pub settlement: Settlement,
    /// Only after this is it settled.
    pub takeover: Option<Box<Takeover>>,
    /// The workspace's next turn is about to be offered.
    pub next_waits: bool,
    pub trace: TurnSpan,
}

/// Publishes, over and over, until the broker has it; false if cut off.
async fn until_confirmed<F: Future<Output = Result<(), PublishError>>>(
    publish: impl Fn() -> F,
    not_yet: &str,
    shutdown: &Shutdown,
) -> bool {
    let mut delays = backoff();
    loop {
        let published = tokio::select! {
            published = publish() => published,
            // Each step of it has a limit, but together they are minutes.
            () = shutdown.cut.cancelled() => return false,
        };
        match published {
            Ok(()) => return true,
            Err(error) => tracing::warn!(error = with_sources(&error), "{not_yet}"),
        }
        tokio::select! {
            () = sleep(delays.next().unwrap_or_default()) => {}
            () = shutdown.cut.cancelled() => return false,
        }
    }
}
