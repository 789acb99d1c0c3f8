//! Spans and metrics of turns for OpenTelemetry, if its environment variables ask for
//! them: over OTLP, as `http/protobuf`.
//!
//! No turn waits for an export: the SDK takes spans into a bounded queue, drops what
//! does not fit, and sends from threads of its own.

mod attributes;
mod client;
mod signals;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use opentelemetry::metrics::{Histogram, MeterProvider};
use opentelemetry::trace::{Span, SpanBuilder, SpanKind, Status, TraceContextExt, TracerProvider};
use opentelemetry::{Context, KeyValue};
use opentelemetry_otlp::{ExporterBuildError, MetricExporter, SpanExporter, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::metrics::SdkMeterProvider;
use opentelemetry_sdk::trace::{SdkTracer, SdkTracerProvider};
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::error::with_sources;
use crate::metrics::{Metrics, TURN_SECONDS};
use crate::request::TurnRequest;
use crate::settlement::Settlement;
use crate::turn::Summary;
use client::Client;
use signals::Signals;

/// The scope of all spans and metrics.
const SCOPE: &str = "turn-worker";
/// Unless `OTEL_EXPORTER_OTLP_TIMEOUT` says otherwise.
const EXPORT_LIMIT: Duration = Duration::from_secs(10);
/// How long the last export may take when the process ends.
pub(crate) const FLUSH_LIMIT: Duration = Duration::from_secs(5);
/// As the conventions recommend, in powers of four.
const TOKEN_BOUNDS: [f64; 14] = [
    1.0, 4.0, 16.0, 64.0, 256.0, 1024.0, 4096.0, 16384.0, 65536.0, 262144.0, 1048576.0, 4194304.0,
    16777216.0, 67108864.0,
];

/// Why exporting is impossible.
#[derive(Debug, thiserror::Error)]
enum SetUpError {
    #[error(transparent)]
    Exporter(#[from] ExporterBuildError),
    #[error(transparent)]
    Tls(#[from] client::TlsError),
}

/// Exports, or is disabled. Clones export to the same place.
#[derive(Clone, Default)]
pub(crate) struct Telemetry(Option<Arc<Exporting>>);

struct Exporting {
    traces: Option<(SdkTracerProvider, SdkTracer)>,
    meters: Option<(SdkMeterProvider, Histograms)>,
    /// Has the labels that models and tenants may have.
    metrics: Metrics,
    /// What producers send to, and what is consumed.
    destination: String,
}

struct Histograms {
    tokens: Histogram<u64>,
    operations: Histogram<f64>,
    processing: Histogram<f64>,
}

impl Telemetry {
    /// As the environment asks for. `worker` names the process. What can't be exported is
    /// logged and is no reason not to run turns. Reads files blocking; needs a runtime.
    pub(crate) fn from_env(worker: &str, destination: String, metrics: &Metrics) -> Self {
        let signals = Signals::of(|name| std::env::var(name).ok());
        for warning in &signals.warnings {
            tracing::warn!(warning, "some telemetry is not exported");
        }
        if !signals.traces && !signals.metrics {
            return Self::default();
        }
        match Exporting::new(&signals, worker, destination, metrics) {
            Ok(exporting) => {
                let Signals {
                    traces, metrics, ..
                } = signals;
                tracing::info!(traces, metrics, "exporting telemetry");
                Self(Some(Arc::new(exporting)))
            }
            Err(error) => {
                let error = with_sources(&error);
                tracing::warn!(error, "no telemetry is exported");
                Self::default()
            }
        }
    }

    /// An offer has been received; whether its turn is taken is not known yet.
    pub(crate) fn received(&self) -> TurnSpan {
        TurnSpan {
            exporting: self.0.clone(),
            received: (SystemTime::now(), Instant::now()),
            taken: None,
        }
    }

    /// Sends what is left, within `limit`.
    pub(crate) async fn flush(&self, limit: Duration) {
        let Some(exporting) = self.0.clone() else {
            return;
        };
        let (done, is_done) = oneshot::channel();
        // No thread of the runtime, which would wait for it at its end.
        let flushing = std::thread::Builder::new().name("flush telemetry".to_owned());
        let flushing = flushing.spawn(move || {
            exporting.shut_down();
            let _ = done.send(());
        });
        if flushing.is_err() || timeout(limit, is_done).await.is_err() {
            tracing::warn!("the last telemetry was not exported");
        }
    }
}

impl Exporting {
    fn new(
        signals: &Signals,
        worker: &str,
        destination: String,
        metrics: &Metrics,
    ) -> Result<Self, SetUpError> {
        let client = http_client(metrics)?;
        let resource = resource(worker);
        let traces = signals.traces.then(|| {
            let exporter = SpanExporter::builder().with_http();
            let exporter = exporter.with_http_client(client.clone()).build()?;
            let provider = SdkTracerProvider::builder()
                .with_batch_exporter(exporter)
                .with_resource(resource.clone())
                .build();
            let tracer = provider.tracer(SCOPE);
            Ok::<_, SetUpError>((provider, tracer))
        });
        let meters = signals.metrics.then(|| {
            let exporter = MetricExporter::builder().with_http();
            let exporter = exporter.with_http_client(client).build()?;
            let provider = SdkMeterProvider::builder()
                .with_periodic_exporter(exporter)
                .with_resource(resource)
                .build();
            let histograms = Histograms::of(&provider);
            Ok::<_, SetUpError>((provider, histograms))
        });
        Ok(Self {
            traces: traces.transpose()?,
            meters: meters.transpose()?,
            metrics: metrics.clone(),
            destination,
        })
    }

    fn shut_down(&self) {
        if let Some((provider, _)) = &self.traces {
            let _ = provider.shutdown();
        }
        if let Some((provider, _)) = &self.meters {
            let _ = provider.shutdown();
        }
    }
}

impl Histograms {
    fn of(provider: &SdkMeterProvider) -> Self {
        let meter = provider.meter(SCOPE);
        let seconds = |name: &'static str, description: &'static str| {
            // Those of the conventions end long before most turns do.
            let histogram = meter.f64_histogram(name).with_unit("s");
            let histogram = histogram.with_boundaries(TURN_SECONDS.to_vec());
            histogram.with_description(description).build()
        };
        Self {
            tokens: meter
                .u64_histogram("gen_ai.client.token.usage")
                .with_unit("{token}")
                .with_description("Tokens that a turn used.")
                .with_boundaries(TOKEN_BOUNDS.to_vec())
                .build(),
            operations: seconds(
                "gen_ai.client.operation.duration",
                "How long codex ran for a turn.",
            ),
            processing: seconds(
                "messaging.process.duration",
                "From the receipt of a turn's offer to its settlement.",
            ),
        }
    }
}

/// From the receipt of an offer to its settlement. Exported only if its turn was taken, also
/// where it is dropped on the way.
pub(crate) struct TurnSpan {
    exporting: Option<Arc<Exporting>>,
    received: (SystemTime, Instant),
    taken: Option<Taken>,
}

struct Taken {
    /// With the span, or without one where traces are not exported.
    context: Context,
    error_type: Option<&'static str>,
    tenant: Option<String>,
}

impl TurnSpan {
    pub(crate) fn taken(&mut self, request: &TurnRequest, tenant: Option<&str>) {
        let Some(exporting) = &self.exporting else {
            return;
        };
        let mut context = attributes::parent(request.trace.as_deref());
        if let Some((_, tracer)) = &exporting.traces {
            let destination = &exporting.destination;
            let mut all = attributes::of_queue(destination);
            all.extend(attributes::of_request(request, tenant));
            let span = SpanBuilder::from_name(format!("process {destination}"))
                .with_kind(SpanKind::Consumer)
                .with_start_time(self.received.0)
                .with_attributes(all)
                .start_with_context(tracer, &context);
            context = context.with_span(span);
        }
        self.taken = Some(Taken {
            context,
            error_type: None,
            tenant: tenant.map(str::to_owned),
        });
    }

    /// The turn has ended here. `words` are those of its error that may be seen.
    pub(crate) fn ended(&mut self, summary: &Summary, words: Option<&str>) {
        let (Some(exporting), Some(taken)) = (&self.exporting, &mut self.taken) else {
            return;
        };
        taken.error_type = attributes::error_type(summary.stop_reason, summary.error.as_ref());
        let span = taken.context.span();
        span.set_attributes(attributes::of_end(summary));
        if let Some(error_type) = taken.error_type {
            span.set_attribute(KeyValue::new(attributes::ERROR_TYPE, error_type));
            span.set_status(Status::error(words.unwrap_or_default().to_owned()));
        }
        if summary.ran {
            exporting.ran(summary, taken);
        }
    }

    /// The offer is settled.
    pub(crate) fn settled(&mut self, settlement: Settlement) {
        let (Some(exporting), Some(taken)) = (&self.exporting, self.taken.take()) else {
            return;
        };
        let span = taken.context.span();
        span.set_attribute(KeyValue::new("turn_worker.settlement", settlement.as_str()));
        span.end();
        if let Some((_, histograms)) = &exporting.meters {
            let mut all = attributes::of_queue(&exporting.destination);
            all.extend(taken.bounded(exporting));
            let took = self.received.1.elapsed().as_secs_f64();
            histograms.processing.record(took, &all);
        }
    }
}

impl Taken {
    /// What metrics may have besides: values from a closed set.
    fn bounded(&self, exporting: &Exporting) -> Vec<KeyValue> {
        let error = self.error_type;
        let error = error.map(|error| KeyValue::new(attributes::ERROR_TYPE, error));
        let tenant = exporting.metrics.tenant_label(self.tenant.as_deref());
        let tenant = tenant.map(|tenant| KeyValue::new("turn_worker.tenant", tenant));
        error.into_iter().chain(tenant).collect()
    }
}

impl Exporting {
    fn ran(&self, summary: &Summary, taken: &Taken) {
        if let Some((_, tracer)) = &self.traces {
            let end = SystemTime::now();
            let mut all = attributes::of_run(summary);
            let error = taken.error_type;
            all.extend(error.map(|error| KeyValue::new(attributes::ERROR_TYPE, error)));
            let mut span = SpanBuilder::from_name(attributes::AGENT_SPAN)
                .with_kind(SpanKind::Internal)
                .with_start_time(end - summary.duration)
                .with_attributes(all)
                .start_with_context(tracer, &taken.context);
            if error.is_some() {
                span.set_status(Status::error(""));
            }
            span.end_with_timestamp(end);
        }
        if let Some((_, histograms)) = &self.meters {
            let model = self.metrics.model_label(summary.counted_model());
            let mut all = attributes::of_agent(Some(model), Some(model));
            all.extend(taken.bounded(self));
            let seconds = summary.duration.as_secs_f64();
            histograms.operations.record(seconds, &all);
            all.retain(|one| one.key.as_str() != attributes::ERROR_TYPE);
            let Some(usage) = summary.usage else { return };
            for (kind, tokens) in [
                ("input", usage.tokens.input_tokens),
                ("output", usage.tokens.output_tokens),
            ] {
                let kind = KeyValue::new("gen_ai.token.type", kind);
                let of_kind: Vec<KeyValue> = all.iter().cloned().chain([kind]).collect();
                histograms.tokens.record(tokens, &of_kind);
            }
        }
    }
}

fn http_client(metrics: &Metrics) -> Result<Client, SetUpError> {
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let endpoints = ["", "_TRACES", "_METRICS"];
    let is_secure = endpoints.iter().any(|signal| {
        let endpoint = variable(&format!("OTEL_EXPORTER_OTLP{signal}_ENDPOINT"));
        endpoint.is_some_and(|endpoint| endpoint.starts_with("https:"))
    });
    let certificates = variable("OTEL_EXPORTER_OTLP_CERTIFICATE").map(PathBuf::from);
    let tls = is_secure.then(|| client::tls(certificates.as_deref()));
    let limit = variable("OTEL_EXPORTER_OTLP_TIMEOUT").and_then(|value| value.parse().ok());
    Ok(Client {
        runtime: Handle::current(),
        timeout: limit.map_or(EXPORT_LIMIT, Duration::from_millis),
        tls: tls.transpose()?,
        metrics: metrics.clone(),
        log: Arc::default(),
    })
}

/// What the environment says of the process comes first.
fn resource(worker: &str) -> Resource {
    let own = [
        ("service.name", SCOPE),
        ("service.version", crate::VERSION),
        ("service.instance.id", worker),
    ];
    let named = Resource::builder().build();
    let is_named = |name: &str| match name {
        "service.name" => ["OTEL_SERVICE_NAME", "OTEL_RESOURCE_ATTRIBUTES"]
            .iter()
            .filter_map(|variable| Some((variable, std::env::var(variable).ok()?)))
            .any(|(variable, value)| {
                *variable == "OTEL_SERVICE_NAME" && !value.is_empty()
                    || value.contains("service.name=")
            }),
        name => named.get(&name.to_owned().into()).is_some(),
    };
    let own = own.into_iter().filter(|(name, _)| !is_named(name));
    let own = own.map(|(name, value)| KeyValue::new(name, value.to_owned()));
    Resource::builder().with_attributes(own).build()
}
