use prometheus::{
    Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Registry,
};

use crate::amqp::frames::RepairKind;
use crate::amqp::messages::ControlFault;
use crate::amqp::outbox::DropReason;
use crate::amqp::reply::ReplyOutcome;
use crate::event::{ErrorCode, Reason, StopReason, Tokens};
use crate::labels::{Condition, DismissReason, Lack, WhyShared};
use crate::tenants::Tenants;

use super::registrar::{Known, NO_LABELS, Registrar, opts};
use super::{DescriptionOutcome, OfferAnswer, OldRead, ServerStart};

/// Of turns: from the quickest answer to beyond the default timeout.
pub(crate) const TURN_SECONDS: &[f64] = &[
    0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1200.0, 1800.0,
    3600.0, 7200.0,
];

/// Of a broker's confirms: a few milliseconds, until it is overloaded.
const CONFIRM_SECONDS: &[f64] = &[
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
];

/// The types of events, as [`crate::event::EventBody::kind`] has them.
pub(super) const EVENT_KINDS: &[&str] = &[
    "message_start",
    "thinking_delta",
    "tool_use",
    "tool_output",
    "tool_result",
    "plan",
    "usage",
    "notice",
    "text_delta",
    "error",
    "message_end",
];

/// With which a request can be rejected.
const REJECTIONS: &[ErrorCode] = &[
    ErrorCode::RequestInvalid,
    ErrorCode::WorkspaceRejected,
    ErrorCode::BacklogFull,
];

/// A process's connections to the broker.
const CONNECTIONS: &[&str] = &["publisher", "sequencer", "worker"];

/// Which of a turn's starts it is.
pub(super) const FIRST: &str = "first";
pub(super) const AGAIN: &str = "again";

/// In place of what a host lacks, where only the turn's workspace is unusable.
pub(super) const WORKSPACE: &str = "workspace";
/// The same, where the offer is of a sequencer with another workspace root.
pub(super) const OTHER_ROOT: &str = "root";

/// The label of what is counted for each tenant, where the operator lists some.
const TENANT: &str = "tenant";

/// What became of an export.
pub(super) const SENT: &str = "sent";
pub(super) const FAILED: &str = "failed";

/// The queues that turns are offered in.
pub(super) const PRIVATE: &str = "private";
pub(super) const SHARED: &str = "shared";

/// Every series that we have.
pub(super) struct Series {
    pub turn: TurnSeries,
    pub process: ProcessSeries,
    pub broker: BrokerSeries,
    pub sequencer: SequencerSeries,
    pub servers: ServerSeries,
    tenants: Tenants,
}

/// Of turns, as workers run them.
pub(super) struct TurnSeries {
    turns: IntCounterVec,
    pub attempts: IntCounterVec,
    failures: IntCounterVec,
    input_tokens: IntCounterVec,
    cached_input_tokens: IntCounterVec,
    output_tokens: IntCounterVec,
    reasoning_output_tokens: IntCounterVec,
    pub without_usage: IntCounter,
    pub turn_duration: Histogram,
    queue_wait: HistogramVec,
    pub first_text: Histogram,
    pub unrecorded: IntGauge,
    pub not_started: IntCounterVec,
    pub attempts_outdated: IntCounter,
    pub old_reads: IntCounterVec,
    pub leftovers: IntCounter,
    pub locks_lost: IntCounter,
}

/// Of this process and its host.
pub(super) struct ProcessSeries {
    pub slots: IntGauge,
    pub slots_busy: IntGauge,
    pub oldest_turn: Gauge,
    pub turn_timeout: Gauge,
    pub host_unfit: IntGaugeVec,
    pub conditions: IntGaugeVec,
    pub workspaces_held: IntGauge,
    pub unkillable: GaugeVec,
    pub rate_limit_used_ratio: GaugeVec,
    pub rate_limit_reset: GaugeVec,
    pub telemetry_exports: IntCounterVec,
    build_info: IntGaugeVec,
}

/// Of the connections to the broker, and of what is published.
pub(super) struct BrokerSeries {
    pub events: IntCounterVec,
    pub event_confirm: Histogram,
    pub events_nacked: IntCounter,
    pub events_dropped: IntCounterVec,
    pub unpublished: IntGauge,
    pub redeliveries: IntCounter,
    pub undeliverable: IntCounter,
    pub connected: IntGauge,
    pub reconnects: IntCounterVec,
    pub repaired: IntCounterVec,
    pub consumer_active: IntGauge,
}

/// Of requests, and of the queue.
pub(super) struct SequencerSeries {
    pub duplicates: IntCounter,
    pub rejected: IntCounterVec,
    pub controls_ignored: IntCounterVec,
    pub replies: IntCounterVec,
    pub descriptions: IntCounterVec,
    pub active: IntGauge,
    pub backlog_turns: Known<IntGaugeVec>,
    pub backlog_workspaces: Known<IntGaugeVec>,
    pub backlog_limit: IntGauge,
    pub oldest_waiting: Known<GaugeVec>,
    pub offers: IntCounterVec,
    pub offer_answers: IntCounterVec,
    pub offers_repeated: IntCounter,
    pub workspaces_stuck: Known<IntGaugeVec>,
}

/// Of the servers of codex.
pub(super) struct ServerSeries {
    pub idle: IntGauge,
    pub idle_bytes: IntGauge,
    pub reused: IntCounter,
    pub dismissed: IntCounterVec,
    pub starts: IntCounterVec,
}

impl Series {
    /// All series, registered in a registry of their own.
    pub(super) fn registered(tenants: Tenants) -> (Registry, Self) {
        let new = Registrar(Registry::new());
        let by_tenant = ByTenant(tenants.are_labelled().then_some(TENANT));
        let series = Self {
            turn: TurnSeries::registered(&new, &by_tenant),
            process: ProcessSeries::registered(&new),
            broker: BrokerSeries::registered(&new),
            sequencer: SequencerSeries::registered(&new),
            servers: ServerSeries::registered(&new),
            tenants,
        };
        series.begin_at_zero();
        (new.0, series)
    }

    /// Alerts on the rise of a counter miss the rise from absent to one, so
    /// the labels that can occur exist from the start.
    fn begin_at_zero(&self) {
        for tenant in self.tenant_labels() {
            self.begin_tenant_at_zero(&tenant);
        }
        self.turn.begin_at_zero();
        self.process.begin_at_zero();
        self.broker.begin_at_zero();
        self.sequencer.begin_at_zero();
        self.servers.begin_at_zero();
        self.set_build_info("unknown", "");
    }

    fn begin_tenant_at_zero(&self, tenant: &TenantLabel) {
        let _ = self.queue_wait(tenant);
        for stop in StopReason::ALL {
            let _ = self.turns(*stop, tenant);
        }
        for &code in ErrorCode::ALL {
            // Only codex's words have a reason to give.
            let reasons = match code {
                ErrorCode::TurnFailed | ErrorCode::Exited | ErrorCode::StartFailed => Reason::ALL,
                _ => &[Reason::Unknown],
            };
            for &reason in reasons {
                let _ = self.failures(code, reason, tenant);
            }
        }
    }

    /// That of a turn of the tenant.
    pub(super) fn tenant_label(&self, tenant: Option<&str>) -> TenantLabel {
        let is_labelled = self.tenants.are_labelled();
        TenantLabel(is_labelled.then(|| self.tenants.label(tenant).to_owned()))
    }

    pub(super) fn tenant_labels(&self) -> Vec<TenantLabel> {
        match self.tenants.are_labelled() {
            true => (self.tenants.labels())
                .map(|label| TenantLabel(Some(label.to_owned())))
                .collect(),
            false => vec![TenantLabel(None)],
        }
    }

    pub(super) fn turns(&self, stop: StopReason, tenant: &TenantLabel) -> IntCounter {
        self.turn
            .turns
            .with_label_values(&tenant.after(&[stop.as_str()]))
    }

    pub(super) fn failures(
        &self,
        code: ErrorCode,
        reason: Reason,
        tenant: &TenantLabel,
    ) -> IntCounter {
        let labels = [code.as_str(), reason.as_str()];
        self.turn.failures.with_label_values(&tenant.after(&labels))
    }

    pub(super) fn queue_wait(&self, tenant: &TenantLabel) -> Histogram {
        self.turn.queue_wait.with_label_values(&tenant.after(&[]))
    }

    pub(super) fn tokens(&self, model: &str, tenant: &TenantLabel, usage: Tokens) {
        let labels = tenant.after(&[model]);
        let add = |counter: &IntCounterVec, tokens| {
            counter.with_label_values(&labels).inc_by(tokens);
        };
        add(&self.turn.input_tokens, usage.input_tokens);
        add(&self.turn.cached_input_tokens, usage.cache_read_tokens);
        add(&self.turn.output_tokens, usage.output_tokens);
        add(&self.turn.reasoning_output_tokens, usage.thinking_tokens);
    }

    /// There is one such series at a time.
    pub(super) fn set_build_info(&self, codex_version: &str, worker: &str) {
        self.process.build_info.reset();
        let labels = [crate::VERSION, codex_version, worker];
        self.process.build_info.with_label_values(&labels).set(1);
    }
}

impl TurnSeries {
    fn registered(new: &Registrar, by_tenant: &ByTenant) -> Self {
        Self {
            turns: new.counters("turns_total", "Turns that ended, by how.", &by_tenant.labels(&["outcome"])),
            attempts: new.counters(
                "attempts_total",
                "Starts of turns: a turn's first, or one again after a worker's death or shutdown.",
                &["start"],
            ),
            failures: new.counters(
                "turn_failures_total",
                "Turns that ended with an error, by code and reason.",
                &by_tenant.labels(&["code", "reason"]),
            ),
            input_tokens: new.counters(
                "input_tokens_total",
                "Input tokens of ended turns, cached ones included.",
                &by_tenant.labels(&["model"]),
            ),
            cached_input_tokens: new.counters(
                "cached_input_tokens_total",
                "Input tokens of ended turns that were read from a cache.",
                &by_tenant.labels(&["model"]),
            ),
            output_tokens: new.counters(
                "output_tokens_total",
                "Output tokens of ended turns, reasoning included.",
                &by_tenant.labels(&["model"]),
            ),
            reasoning_output_tokens: new.counters(
                "reasoning_output_tokens_total",
                "Output tokens of ended turns that were reasoning.",
                &by_tenant.labels(&["model"]),
            ),
            without_usage: new.counter(
                "turns_without_usage_total",
                "Turns that asked the model and ended without codex reporting their tokens.",
            ),
            turn_duration: new.histogram(
                "turn_duration_seconds",
                "From a turn's start to its end, in its last attempt.",
                TURN_SECONDS,
            ),
            queue_wait: new.register(HistogramVec::new(
                HistogramOpts::from(opts(
                    "queue_wait_seconds",
                    "From when a turn was enqueued, by its producer's clock, to its first start.",
                ))
                .buckets(TURN_SECONDS.to_vec()),
                &by_tenant.labels(&[]),
            )),
            first_text: new.histogram(
                "first_text_seconds",
                "From a turn's start to the first text of its answer.",
                TURN_SECONDS,
            ),
            unrecorded: new.gauge(
                "turns_unrecorded",
                "Turns that are over and hold their workspace, as their end can't be recorded yet.",
            ),
            not_started: new.counters(
                "turns_not_started_total",
                "Offers of turns that could not be started, by what was lacking; they come again.",
                &["reason"],
            ),
            attempts_outdated: new.counter(
                "attempts_outdated_total",
                "Attempts that were stopped after a lost connection, as a newer attempt had started elsewhere.",
            ),
            old_reads: new.counters(
                "old_reads_total",
                "Offers for which the workspace's journal was read without a turn that has ended, by outcome.",
                &["outcome"],
            ),
            leftovers: new.counter(
                "leftover_processes_killed_total",
                "Processes that a turn left behind and that were killed.",
            ),
            locks_lost: new.counter(
                "locks_lost_total",
                "Turns that were killed and returned, as their workspace's lock could not be confirmed.",
            ),
        }
    }

    fn begin_at_zero(&self) {
        for start in [FIRST, AGAIN] {
            self.attempts.with_label_values(&[start]);
        }
        for lack in Lack::ALL {
            self.not_started.with_label_values(&[lack.as_str()]);
        }
        self.not_started.with_label_values(&[WORKSPACE]);
        self.not_started.with_label_values(&[OTHER_ROOT]);
        for outcome in OldRead::ALL {
            self.old_reads.with_label_values(&[outcome.as_str()]);
        }
    }
}

impl ProcessSeries {
    fn registered(new: &Registrar) -> Self {
        Self {
            slots: new.gauge("slots", "Turns that this process can run at once."),
            slots_busy: new.gauge("slots_busy", "Turns that this process runs."),
            oldest_turn: new.seconds(
                "oldest_turn_seconds",
                "How long the oldest running turn has been running; 0 without one.",
            ),
            turn_timeout: new.seconds(
                "turn_timeout_seconds",
                "How long a turn may take on this process; its request can ask for less.",
            ),
            host_unfit: new.register(IntGaugeVec::new(
                opts(
                    "host_unfit",
                    "1 while turns can't run on this host, by what it lacks.",
                ),
                &["reason"],
            )),
            conditions: new.register(IntGaugeVec::new(
                opts(
                    "condition",
                    "1 while the condition holds: something around the process is wrong.",
                ),
                &["condition"],
            )),
            workspaces_held: new.gauge(
                "workspaces_held",
                "Workspaces that stay locked after their turn's end, as processes of it can't be killed.",
            ),
            unkillable: new.register(GaugeVec::new(
                opts(
                    "unkillable_process_timestamp_seconds",
                    "Since when a process that can't be killed holds its workspace, in Unix time; at most 16.",
                ),
                &["workspace", "host", "pid", "user", "command"],
            )),
            rate_limit_used_ratio: new.register(GaugeVec::new(
                opts(
                    "codex_rate_limit_used_ratio",
                    "How much of the account's allowance is used, as codex reported it last; 1 is all.",
                ),
                &["window"],
            )),
            rate_limit_reset: new.register(GaugeVec::new(
                opts(
                    "codex_rate_limit_reset_timestamp_seconds",
                    "When that window of the allowance ends, in Unix time.",
                ),
                &["window"],
            )),
            telemetry_exports: new.counters(
                "telemetry_exports_total",
                "Exports of spans or metrics to OpenTelemetry's collector, by outcome.",
                &["outcome"],
            ),
            build_info: new.register(IntGaugeVec::new(
                opts("build_info", "1, with the versions and the process's name as labels."),
                &["version", "codex_version", "worker"],
            )),
        }
    }

    fn begin_at_zero(&self) {
        for condition in Condition::ALL {
            self.conditions.with_label_values(&[condition.as_str()]);
        }
        for lack in Lack::ALL {
            self.host_unfit.with_label_values(&[lack.as_str()]);
        }
        for outcome in [SENT, FAILED] {
            self.telemetry_exports.with_label_values(&[outcome]);
        }
    }
}

impl BrokerSeries {
    fn registered(new: &Registrar) -> Self {
        Self {
            events: new.counters(
                "events_published_total",
                "Events that the broker confirmed, by type.",
                &["type"],
            ),
            event_confirm: new.histogram(
                "event_confirm_seconds",
                "From an event's publishing to its confirm.",
                CONFIRM_SECONDS,
            ),
            events_nacked: new.counter(
                "events_nacked_total",
                "How often the broker refused an event.",
            ),
            events_dropped: new.counters(
                "events_dropped_total",
                "Events that readers miss, as the broker did not take them, by type and reason.",
                &["type", "reason"],
            ),
            unpublished: new.gauge(
                "turns_unpublished",
                "Turns with events that wait, as the broker does not confirm or take them.",
            ),
            redeliveries: new.counter(
                "redeliveries_total",
                "Deliveries that had been delivered before.",
            ),
            undeliverable: new.counter(
                "undeliverable_turns_total",
                "Messages removed from the queue of turns, as the broker could not deliver them.",
            ),
            connected: new.gauge(
                "amqp_connected",
                "1 while the publishing connection to the broker is open.",
            ),
            reconnects: new.counters(
                "amqp_reconnects_total",
                "How often a lost connection came back, by connection.",
                &["connection"],
            ),
            repaired: new.counters(
                "amqp_repaired_total",
                "Parts of messages that could not be read as they came and were changed, by what was wrong.",
                &["what"],
            ),
            consumer_active: new.gauge("consumer_active", "1 while the worker consumes offers."),
        }
    }

    fn begin_at_zero(&self) {
        for connection in CONNECTIONS {
            self.reconnects.with_label_values(&[connection]);
        }
        for kind in RepairKind::ALL {
            self.repaired.with_label_values(&[kind.as_str()]);
        }
        for kind in EVENT_KINDS {
            self.events.with_label_values(&[*kind]);
            for reason in DropReason::ALL {
                let labels = [*kind, reason.as_str()];
                self.events_dropped.with_label_values(&labels);
            }
        }
    }
}

impl SequencerSeries {
    fn registered(new: &Registrar) -> Self {
        Self {
            duplicates: new.counter(
                "duplicate_turns_total",
                "Requests for a turn that was known already.",
            ),
            rejected: new.counters(
                "requests_rejected_total",
                "Requests that were not accepted, by code.",
                &["code"],
            ),
            controls_ignored: new.counters(
                "controls_ignored_total",
                "Control messages that can't be acted on, by why; each process counts all that it hears.",
                &["why"],
            ),
            replies: new.counters(
                "replies_total",
                "Ends of turns sent to the queue that a request names in reply_to, by outcome.",
                &["outcome"],
            ),
            descriptions: new.counters(
                "descriptions_total",
                "Questions where a turn is, by outcome; counted by the process that answers.",
                &["outcome"],
            ),
            active: new.gauge(
                "sequencer_active",
                "1 while this process's sequencer is the active one.",
            ),
            backlog_turns: new.known(
                "backlog_turns",
                "Turns that the sequencer holds; only of an active sequencer.",
            ),
            backlog_workspaces: new.known(
                "backlog_workspaces",
                "Workspaces of which the sequencer holds turns; only of an active sequencer.",
            ),
            backlog_limit: new.gauge(
                "backlog_limit",
                "Turns that this process's sequencer can hold.",
            ),
            oldest_waiting: Known(new.register(GaugeVec::new(
                opts(
                    "oldest_waiting_seconds",
                    "How long the sequencer has held its oldest waiting turn; 0 without one, and only of an active sequencer.",
                ),
                NO_LABELS,
            ))),
            offers: new.counters(
                "offers_total",
                "Offers of turns: private to one process, which keeps the workspace's server or has the slot that got free, or shared by all, and why.",
                &["to", "why_not_private"],
            ),
            offer_answers: new.counters(
                "offer_answers_total",
                "Workers' answers to offers, and private offers without an answer.",
                &["answer"],
            ),
            offers_repeated: new.counter(
                "offers_repeated_total",
                "Turns that were re-offered because no worker seemed to run them.",
            ),
            workspaces_stuck: new.known(
                "workspaces_stuck",
                "Workspaces where the first turn was offered and has not started for five minutes, though slots are free; only of an active sequencer.",
            ),
        }
    }

    fn begin_at_zero(&self) {
        self.offers.with_label_values(&[PRIVATE, ""]);
        for why in WhyShared::ALL {
            self.offers.with_label_values(&[SHARED, why.as_str()]);
        }
        for answer in OfferAnswer::ALL {
            self.offer_answers.with_label_values(&[answer.as_str()]);
        }
        for code in REJECTIONS {
            self.rejected.with_label_values(&[code.as_str()]);
        }
        for fault in ControlFault::ALL {
            self.controls_ignored.with_label_values(&[fault.as_str()]);
        }
        for outcome in ReplyOutcome::ALL {
            self.replies.with_label_values(&[outcome.as_str()]);
        }
        for outcome in DescriptionOutcome::ALL {
            self.descriptions.with_label_values(&[outcome.as_str()]);
        }
    }
}

impl ServerSeries {
    fn registered(new: &Registrar) -> Self {
        Self {
            idle: new.gauge(
                "servers_idle",
                "Servers of codex that wait for their workspace's next turn.",
            ),
            idle_bytes: new.gauge(
                "servers_idle_bytes",
                "Memory of the servers that wait, without what they share with others.",
            ),
            reused: new.counter(
                "servers_reused_total",
                "Turns that found the server of an earlier turn waiting.",
            ),
            dismissed: new.counters(
                "servers_dismissed_total",
                "Servers that were to serve several turns and ended, by why.",
                &["reason"],
            ),
            starts: new.counters(
                "server_starts_total",
                "Turns on a server of codex, by where that came from.",
                &["kind"],
            ),
        }
    }

    fn begin_at_zero(&self) {
        for why in DismissReason::ALL {
            self.dismissed.with_label_values(&[why.as_str()]);
        }
        for kind in ServerStart::ALL {
            self.starts.with_label_values(&[kind.as_str()]);
        }
    }
}

/// The labels of what is counted for each tenant. Where tenants have no label, queries meet the
/// series that they always met.
struct ByTenant(Option<&'static str>);

impl ByTenant {
    fn labels(&self, labels: &[&'static str]) -> Vec<&'static str> {
        labels.iter().copied().chain(self.0).collect()
    }
}

/// The value of the label `tenant`; `None`: the series have no such label.
pub(super) struct TenantLabel(Option<String>);

impl TenantLabel {
    pub(super) fn into_text(self) -> Option<String> {
        self.0
    }

    fn after<'a>(&'a self, labels: &[&'a str]) -> Vec<&'a str> {
        let tenant = self.0.as_deref();
        labels.iter().copied().chain(tenant).collect()
    }
}
