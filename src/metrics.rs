//! What operators see. Call sites name what happened; which series that
//! touches, and with which labels, is decided in here.
//!
//! No label comes from outside: they are members of closed sets, or models
//! and tenants that the operator's settings name. Only a process that can't be killed is
//! named as it is, since an alert has to say which it is.

mod models;
mod outcomes;
mod registrar;
mod scrapes;
mod series;
mod turns;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use prometheus::{Registry, TextEncoder};
use tokio::sync::watch;
use tokio::time;

use crate::amqp::frames::{RepairKind, Repairs};
use crate::amqp::messages::ControlFault;
use crate::amqp::outbox::DropReason;
use crate::amqp::reply::ReplyOutcome;
use crate::event::{ErrorCode, StopReason, Tokens, TurnError};
use crate::guard::Unkillable;
use crate::labels::{Condition, DismissReason, Lack, RateLimit, WhyShared};
use crate::tenants::Tenants;
pub use models::Model;
use models::ModelLabels;
pub use outcomes::{DescriptionOutcome, OfferAnswer, OldRead, ServerStart};
use scrapes::Scrapes;
pub(crate) use series::TURN_SECONDS;
use series::{
    AGAIN, EVENT_KINDS, FAILED, FIRST, OTHER_ROOT, PRIVATE, SENT, SHARED, Series, WORKSPACE,
};
use turns::RunningTurns;
pub use turns::{RunningTurn, Unrecorded};

/// Cheap to clone; all clones count into the same series.
#[derive(Clone)]
pub struct Metrics {
    inner: Arc<Inner>,
}

struct Inner {
    registry: Registry,
    series: Series,
    models: ModelLabels,
    running: RunningTurns,
    backlog: Mutex<Option<Backlog>>,
    scrapes: watch::Sender<Scrapes>,
    codex_version: Mutex<Option<String>>,
    /// The process's name in logs and reports.
    worker: String,
}

/// What the sequencer holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Backlog {
    /// Turns held, offered ones too.
    pub turns: usize,
    /// Workspaces with at least one of them.
    pub workspaces: usize,
    /// Since when the one that has waited longest has been held.
    pub oldest: Option<Instant>,
}

impl Metrics {
    /// `models` are those that the operator's settings name, if any.
    pub fn new(models: Option<&BTreeSet<String>>) -> Self {
        Self::of_process("", models, Tenants::default())
    }

    /// `worker` names the process, so that its series can be joined with log
    /// lines and reports.
    pub fn of_process(worker: &str, models: Option<&BTreeSet<String>>, tenants: Tenants) -> Self {
        let (registry, series) = Series::registered(tenants);
        series.set_build_info("unknown", worker);
        let models = ModelLabels::new(models.cloned().unwrap_or_default());
        for tenant in series.tenant_labels() {
            for model in models.known() {
                series.tokens(model, &tenant, Tokens::default());
            }
        }
        Self {
            inner: Arc::new(Inner {
                registry,
                series,
                models,
                running: RunningTurns::default(),
                backlog: Mutex::default(),
                scrapes: watch::Sender::default(),
                codex_version: Mutex::default(),
                worker: worker.to_owned(),
            }),
        }
    }

    fn series(&self) -> &Series {
        &self.inner.series
    }

    /// A slot is busy with a turn until the value that this returns is
    /// dropped, however that comes about.
    pub fn turn_started(&self) -> RunningTurn {
        self.inner.running.start()
    }

    /// A turn's end can't be recorded until the value that this returns is dropped.
    pub fn turn_unrecorded(&self) -> Unrecorded {
        Unrecorded::new(self.series().turn.unrecorded.clone())
    }

    /// An attempt of that number, from 1 on, has started.
    pub fn attempt_started(&self, number: u32) {
        let start = if number > 1 { AGAIN } else { FIRST };
        self.series()
            .turn
            .attempts
            .with_label_values(&[start])
            .inc();
    }

    /// An offered turn could not be started: for what the host lacks, or else
    /// for its workspace's own state.
    pub fn turn_not_started(&self, lack: Option<Lack>) {
        let reason = lack.map_or(WORKSPACE, Lack::as_str);
        self.series()
            .turn
            .not_started
            .with_label_values(&[reason])
            .inc();
    }

    /// A turn's lock could not be confirmed, so its processes were killed.
    pub fn lock_lost(&self) {
        self.series().turn.locks_lost.inc();
    }

    /// An offer came from a sequencer that has another workspace root.
    pub fn offer_of_another_root(&self) {
        let reasons = &self.series().turn.not_started;
        reasons.with_label_values(&[OTHER_ROOT]).inc();
    }

    /// Whether turns can't run on this host for lack of that.
    pub fn set_host_unfit(&self, lack: Lack, unfit: bool) {
        let series = &self.series().process.host_unfit;
        series.with_label_values(&[lack.as_str()]).set(unfit.into());
    }

    /// Whether a condition holds in this process.
    pub fn set_condition(&self, condition: Condition, holds: bool) {
        let series = &self.series().process.conditions;
        let labels = [condition.as_str()];
        series.with_label_values(&labels).set(holds.into());
    }

    /// codex said its first words of a turn that started so long ago.
    pub fn first_text(&self, after: Duration) {
        self.series().turn.first_text.observe(after.as_secs_f64());
    }

    /// A turn of that tenant that ran has ended for good, after so long.
    pub fn turn_ended(
        &self,
        tenant: Option<&str>,
        stop: StopReason,
        error: Option<&TurnError>,
        took: Duration,
    ) {
        self.series().turn.turn_duration.observe(took.as_secs_f64());
        self.turn_decided(tenant, stop, error);
    }

    /// A turn has ended for good without having run here: cancelled while it
    /// waited, or out of attempts.
    pub fn turn_decided(&self, tenant: Option<&str>, stop: StopReason, error: Option<&TurnError>) {
        self.counted();
        let series = self.series();
        let tenant = series.tenant_label(tenant);
        series.turns(stop, &tenant).inc();
        if let Some(TurnError { code, reason, .. }) = error {
            series.failures(*code, *reason, &tenant).inc();
        }
    }

    /// What an ended turn used; `None`: codex did not say.
    pub fn tokens(&self, tenant: Option<&str>, model: Model<'_>, spent: Option<Tokens>) {
        self.counted();
        let series = self.series();
        let model = self.inner.models.label(model);
        match spent {
            Some(spent) => series.tokens(model, &series.tenant_label(tenant), spent),
            None => series.turn.without_usage.inc(),
        }
    }

    /// A turn is started for the first time, so long after it was enqueued.
    pub fn queue_waited(&self, tenant: Option<&str>, waited: Duration) {
        let series = self.series();
        let tenant = series.tenant_label(tenant);
        series.queue_wait(&tenant).observe(waited.as_secs_f64());
    }

    /// The broker has confirmed an event, so long after it was published.
    pub fn event_confirmed(&self, kind: &str, after: Duration) {
        let labels = [known_kind(kind)];
        self.series().broker.events.with_label_values(&labels).inc();
        self.series()
            .broker
            .event_confirm
            .observe(after.as_secs_f64());
    }

    /// The broker has refused an event.
    pub fn event_nacked(&self) {
        self.series().broker.events_nacked.inc();
    }

    /// Readers miss an event, as the broker did not take it.
    pub fn event_dropped(&self, kind: &str, reason: DropReason) {
        let labels = [known_kind(kind), reason.as_str()];
        self.series()
            .broker
            .events_dropped
            .with_label_values(&labels)
            .inc();
    }

    /// How many turns have events that wait for the broker.
    pub fn set_turns_unpublished(&self, turns: usize) {
        self.series().broker.unpublished.set(gauge(turns));
    }

    /// A delivery came that had been delivered before.
    /// An attempt's events were dropped, as a newer one had started.
    pub fn attempt_outdated(&self) {
        self.series().turn.attempts_outdated.inc();
    }

    pub fn old_read(&self, outcome: OldRead) {
        let series = self.series();
        series
            .turn
            .old_reads
            .with_label_values(&[outcome.as_str()])
            .inc();
    }

    pub fn redelivered(&self) {
        self.series().broker.redeliveries.inc();
    }

    /// A turn came that is held, runs or has ended already.
    pub fn duplicate_turn(&self) {
        self.series().sequencer.duplicates.inc();
    }

    /// A message that the broker could not deliver was removed.
    pub fn undeliverable_turn(&self) {
        self.series().broker.undeliverable.inc();
    }

    pub fn request_rejected(&self, code: ErrorCode) {
        self.series()
            .sequencer
            .rejected
            .with_label_values(&[code.as_str()])
            .inc();
    }

    /// A control message can't be acted on.
    pub fn control_ignored(&self, fault: ControlFault) {
        let series = &self.series().sequencer.controls_ignored;
        series.with_label_values(&[fault.as_str()]).inc();
    }

    /// The end of a turn was to be sent to its caller's queue.
    pub fn reply(&self, outcome: ReplyOutcome) {
        let series = &self.series().sequencer.replies;
        series.with_label_values(&[outcome.as_str()]).inc();
    }

    /// A producer has asked where a turn is.
    pub fn description(&self, outcome: DescriptionOutcome) {
        let series = &self.series().sequencer.descriptions;
        series.with_label_values(&[outcome.as_str()]).inc();
    }

    pub fn set_slots(&self, slots: usize) {
        self.series().process.slots.set(gauge(slots));
    }

    /// How long a turn may take.
    pub fn set_turn_timeout(&self, timeout: Duration) {
        self.series()
            .process
            .turn_timeout
            .set(timeout.as_secs_f64());
    }

    /// How many turns the sequencer can hold.
    pub fn set_backlog_limit(&self, turns: usize) {
        self.series().sequencer.backlog_limit.set(gauge(turns));
    }

    pub fn set_connected(&self, connected: bool) {
        self.series().broker.connected.set(connected.into());
    }

    /// The connection of that name was lost and is there again.
    pub fn reconnected(&self, connection: &str) {
        let labels = [connection];
        self.series()
            .broker
            .reconnects
            .with_label_values(&labels)
            .inc();
    }

    /// The broker delivered what could not be read as it came.
    pub fn amqp_repaired(&self, repairs: &Repairs) {
        for kind in RepairKind::ALL {
            let series = &self.series().broker.repaired;
            series
                .with_label_values(&[kind.as_str()])
                .inc_by(repairs.of(kind));
        }
    }

    /// Whether the worker consumes offers.
    pub fn set_consumer_active(&self, active: bool) {
        self.series().broker.consumer_active.set(active.into());
    }

    /// Whether this process's sequencer is the one that offers.
    pub fn set_sequencer_active(&self, active: bool) {
        self.series().sequencer.active.set(active.into());
    }

    /// `None`: this process's sequencer is not the active one, so it does not know.
    pub fn set_backlog(&self, backlog: Option<Backlog>) {
        *lock(&self.inner.backlog) = backlog;
    }

    /// Workspaces where the first turn does not start though slots are free. `None`: this
    /// process's sequencer is not the active one, so it does not know.
    pub fn set_workspaces_stuck(&self, workspaces: Option<usize>) {
        self.series()
            .sequencer
            .workspaces_stuck
            .set(workspaces.map(gauge));
    }

    /// A turn is offered: to all, for that reason, or to one process.
    pub fn offer_made(&self, shared: Option<WhyShared>) {
        let labels = match shared {
            None => [PRIVATE, ""],
            Some(why) => [SHARED, why.as_str()],
        };
        self.series()
            .sequencer
            .offers
            .with_label_values(&labels)
            .inc();
        if shared == Some(WhyShared::NoWord) {
            self.offer_answered(OfferAnswer::NoWord);
        }
    }

    pub fn offer_answered(&self, answer: OfferAnswer) {
        let series = &self.series().sequencer.offer_answers;
        series.with_label_values(&[answer.as_str()]).inc();
    }

    pub fn offer_repeated(&self) {
        self.series().sequencer.offers_repeated.inc();
    }

    /// Processes that a turn had left behind were killed.
    pub fn leftovers_killed(&self, processes: u64) {
        self.series().turn.leftovers.inc_by(processes);
    }

    /// The workspaces that are locked by what can't be killed. The only labels from
    /// outside: so few, and only while they are true.
    pub fn set_held_workspaces(&self, held: &[(String, Unkillable)]) {
        const MOST: usize = 16;
        let series = self.series();
        series.process.workspaces_held.set(gauge(held.len()));
        series.process.unkillable.reset();
        let processes = held.iter().flat_map(|(workspace, held)| {
            let processes = held.processes.iter();
            processes.map(move |process| (workspace, held, process))
        });
        for (workspace, held, process) in processes.take(MOST) {
            let labels = [
                workspace.as_str(),
                &held.host,
                &process.pid.to_string(),
                &process.user,
                &process.command,
            ];
            let since = held.since.as_millisecond() as f64 / 1000.0;
            series
                .process
                .unkillable
                .with_label_values(&labels)
                .set(since);
        }
    }

    /// What codex has reported of the account's allowance; before it has
    /// reported any there is no series.
    pub fn rate_limits(&self, limits: &[RateLimit]) {
        let series = self.series();
        for limit in limits {
            let labels = [limit.window.as_str()];
            let used = limit.used_percent as f64 / 100.0;
            let used_ratio = &series.process.rate_limit_used_ratio;
            used_ratio.with_label_values(&labels).set(used);
            if let Some(at) = limit.resets_at {
                let reset = &series.process.rate_limit_reset;
                reset.with_label_values(&labels).set(at as f64);
            }
        }
    }

    /// `memory` is theirs, in bytes.
    pub fn set_idle_servers(&self, servers: usize, memory: u64) {
        let series = self.series();
        series.servers.idle.set(gauge(servers));
        series.servers.idle_bytes.set(memory.cast_signed());
    }

    /// A server that was to serve several turns ends.
    pub fn server_dismissed(&self, why: DismissReason) {
        let series = &self.series().servers.dismissed;
        series.with_label_values(&[why.as_str()]).inc();
    }

    /// A turn found its workspace's server waiting.
    pub fn server_reused(&self) {
        self.series().servers.reused.inc();
    }

    /// A turn runs on a server of codex.
    pub fn server_started(&self, start: ServerStart) {
        let series = &self.series().servers.starts;
        series.with_label_values(&[start.as_str()]).inc();
    }

    /// The version that codex reports.
    pub fn set_codex_version(&self, version: &str) {
        self.series().set_build_info(version, &self.inner.worker);
        *lock(&self.inner.codex_version) = Some(version.to_owned());
    }

    /// As codex reported last.
    pub fn codex_version(&self) -> Option<String> {
        lock(&self.inner.codex_version).clone()
    }

    /// An export of spans or metrics to OpenTelemetry's collector was tried.
    pub fn telemetry_exported(&self, succeeded: bool) {
        let outcome = if succeeded { SENT } else { FAILED };
        let series = &self.series().process.telemetry_exports;
        series.with_label_values(&[outcome]).inc();
    }

    /// The label of a model: one of a closed set.
    pub fn model_label<'a>(&'a self, model: Model<'a>) -> &'a str {
        self.inner.models.label(model)
    }

    /// The label of a tenant; `None`: tenants have no label.
    pub fn tenant_label(&self, tenant: Option<&str>) -> Option<String> {
        self.series().tenant_label(tenant).into_text()
    }

    fn counted(&self) {
        let now = time::Instant::now();
        self.inner
            .scrapes
            .send_modify(|scrapes| scrapes.counted(now));
    }

    /// A monitor has read all series.
    pub fn scraped(&self) {
        let now = time::Instant::now();
        self.inner
            .scrapes
            .send_modify(|scrapes| scrapes.scraped(now));
    }

    /// Completes when turns and tokens have been scraped since the last were
    /// counted, but after `limit` or two of the monitor's intervals at most; at once
    /// if no monitor scrapes.
    pub async fn last_counts_scraped(&self, limit: Duration) {
        let mut scrapes = self.inner.scrapes.subscribe();
        let Some(pause) = scrapes.borrow().pause(limit) else {
            return;
        };
        tracing::info!(
            limit_s = pause.as_secs_f64(),
            "waiting until the last counts are scraped"
        );
        let scraped = scrapes.wait_for(|scrapes| scrapes.pause(limit).is_none());
        if time::timeout(pause, scraped).await.is_err() {
            tracing::warn!("the last counts were not scraped");
        }
    }

    /// All series in Prometheus' text format, as they are now.
    pub fn gather_text(&self) -> prometheus::Result<String> {
        let now = Instant::now();
        let age = |since: Option<Instant>| {
            since.map_or(0.0, |since| {
                now.saturating_duration_since(since).as_secs_f64()
            })
        };
        let series = self.series();
        let (busy, oldest) = self.inner.running.now();
        series.process.slots_busy.set(gauge(busy));
        series.process.oldest_turn.set(age(oldest));
        let backlog = *lock(&self.inner.backlog);
        let turns = backlog.map(|backlog| gauge(backlog.turns));
        series.sequencer.backlog_turns.set(turns);
        let workspaces = backlog.map(|backlog| gauge(backlog.workspaces));
        series.sequencer.backlog_workspaces.set(workspaces);
        let oldest = backlog.map(|backlog| age(backlog.oldest));
        series.sequencer.oldest_waiting.set(oldest);
        TextEncoder::new().encode_to_string(&self.inner.registry.gather())
    }
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

/// A newer worker's journal may hold kinds that this version does not know.
fn known_kind(kind: &str) -> &'static str {
    let known = EVENT_KINDS.iter().find(|known| **known == kind);
    known.copied().unwrap_or("other")
}

fn gauge(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// What is behind these locks is whole at any time, so a panic elsewhere does
/// not spoil it.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
