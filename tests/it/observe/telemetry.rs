//! OpenTelemetry: what a collector gets of turns, and that no turn waits for it.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value};
use opentelemetry_proto::tonic::metrics::v1::{Metric, metric};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message;
use serde_json::json;

use crate::support::pool::{Pool, trace_of, turn};

/// Longer than any test: only the end of the process exports.
const NEVER: &str = "86400000";

/// Takes what is posted to it, as an OTLP receiver does.
#[derive(Default, Clone)]
struct Collector(Arc<Mutex<Vec<Posted>>>);

struct Posted {
    /// Method and path, in lower case.
    request: String,
    body: Vec<u8>,
}

impl Collector {
    fn start() -> (Self, String) {
        let collector = Self::default();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let taking = collector.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                taking.take(stream.unwrap());
            }
        });
        (collector, url)
    }

    fn take(&self, mut stream: TcpStream) {
        let mut reader = BufReader::new(&stream);
        let mut head = Vec::new();
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).unwrap();
            match line.trim_end() {
                "" => break,
                line => head.push(line.to_ascii_lowercase()),
            }
        }
        let header = |name: &str| {
            let line = head.iter().find_map(|line| line.strip_prefix(name));
            line.unwrap_or_else(|| panic!("no {name} in {head:?}"))
                .trim()
        };
        assert_eq!(header("content-type:"), "application/x-protobuf");
        let mut body = vec![0; header("content-length:").parse().unwrap()];
        reader.read_exact(&mut body).unwrap();
        let request = head[0].clone();
        self.0.lock().unwrap().push(Posted { request, body });
        let answer =
            "HTTP/1.1 200 OK\r\ncontent-type: application/x-protobuf\r\ncontent-length: 0\r\n\r\n";
        stream.write_all(answer.as_bytes()).unwrap();
    }

    fn posted<M: Message + Default>(&self, path: &str) -> Vec<M> {
        let posted = self.0.lock().unwrap();
        let to_path = posted
            .iter()
            .filter(|posted| posted.request.starts_with(&format!("post {path} ")));
        to_path
            .map(|posted| M::decode(&*posted.body).unwrap())
            .collect()
    }

    fn spans(&self) -> (Resource, Vec<Span>) {
        let posted: Vec<ExportTraceServiceRequest> = self.posted("/v1/traces");
        let of = posted.into_iter().flat_map(|posted| posted.resource_spans);
        let of: Vec<_> = of.collect();
        let resource = of[0].resource.clone().unwrap();
        let scopes = of.into_iter().flat_map(|of| of.scope_spans);
        (resource, scopes.flat_map(|scope| scope.spans).collect())
    }

    fn metrics(&self) -> Vec<Metric> {
        let posted: Vec<ExportMetricsServiceRequest> = self.posted("/v1/metrics");
        let of = posted
            .into_iter()
            .flat_map(|posted| posted.resource_metrics);
        let scopes = of.flat_map(|of| of.scope_metrics);
        scopes.flat_map(|scope| scope.metrics).collect()
    }
}

/// As text; `None` if there is no such attribute.
fn attribute(attributes: &[KeyValue], name: &str) -> Option<String> {
    let found = attributes.iter().find(|one| one.key == name)?;
    let text = |value: &AnyValue| match value.value.clone().unwrap() {
        any_value::Value::StringValue(text) => text,
        any_value::Value::IntValue(number) => number.to_string(),
        other => format!("{other:?}"),
    };
    match found.value.clone().unwrap().value.unwrap() {
        any_value::Value::ArrayValue(array) => array.values.iter().map(text).next(),
        _ => found.value.as_ref().map(text),
    }
}

/// Guards `Telemetry`, `TurnSpan` and the export at the end of a drain.
#[tokio::test]
async fn spans_and_metrics_of_turns_reach_a_collector() {
    let (collector, url) = Collector::start();
    let mut pool = Pool::start(
        1,
        &[
            ("OTEL_EXPORTER_OTLP_ENDPOINT", &url),
            ("OTEL_BSP_SCHEDULE_DELAY", NEVER),
            ("OTEL_METRIC_EXPORT_INTERVAL", NEVER),
            (
                "OTEL_RESOURCE_ATTRIBUTES",
                "deployment.environment.name=test",
            ),
            ("TENANTS", "acme"),
        ],
    )
    .await;
    let mut good = turn("good", "acme/site", &["say hi"]);
    good["tenant"] = json!("acme");
    let bad = turn("bad", "b", &["fail unexpected status 401 Unauthorized"]);
    pool.enqueue(&[good, bad]).await;
    pool.events.all_ended(["good", "bad"]).await;
    let usage = pool.events.turn("good").end().unwrap()["usage"].clone();
    let used = |kind: &str| usage[kind].as_u64().unwrap();
    let (input, output) = (used("input_tokens"), used("output_tokens"));
    pool.idle().await;
    pool.stop().await;

    let (resource, spans) = collector.spans();
    let of_process = |name| attribute(&resource.attributes, name);
    assert_eq!(of_process("service.name").as_deref(), Some("turn-worker"));
    assert_eq!(
        of_process("deployment.environment.name").as_deref(),
        Some("test")
    );
    assert!(of_process("service.instance.id").is_some());
    assert_eq!(spans.len(), 4);
    let process = |id: &str| {
        let of_turn = |span: &&Span| {
            attribute(&span.attributes, "messaging.message.id").as_deref() == Some(id)
        };
        spans.iter().find(of_turn).unwrap()
    };
    for id in ["good", "bad"] {
        let span = process(id);
        let traceparent = trace_of(id).inner()["traceparent"].clone();
        let traceparent = traceparent.as_long_string().unwrap().to_string();
        let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
        let parent = format!(
            "00-{}-{}-01",
            hex(&span.trace_id),
            hex(&span.parent_span_id)
        );
        assert_eq!(parent, traceparent);
        let child = spans
            .iter()
            .find(|child| child.parent_span_id == span.span_id);
        let child = child.unwrap();
        assert_eq!(child.name, "invoke_agent codex");
        assert!(child.start_time_unix_nano >= span.start_time_unix_nano);
        assert!(child.end_time_unix_nano <= span.end_time_unix_nano);
        let (failed, error) = (id == "bad", (id == "bad").then_some("auth"));
        for span in [span, child] {
            assert_eq!(attribute(&span.attributes, "error.type").as_deref(), error);
            assert_eq!(
                span.status.as_ref().is_some_and(|status| status.code == 2),
                failed
            );
        }
    }
    let good = process("good");
    assert_eq!(good.name, "process codex.requests:turn:codex.turns");
    for (name, value) in [
        ("messaging.system", "rabbitmq"),
        ("messaging.operation.type", "process"),
        (
            "messaging.destination.name",
            "codex.requests:turn:codex.turns",
        ),
        ("messaging.message.conversation_id", "acme/site"),
        ("turn_worker.tenant", "acme"),
        ("turn_worker.outcome", "end_turn"),
        ("turn_worker.settlement", "done"),
    ] {
        assert_eq!(
            attribute(&good.attributes, name).as_deref(),
            Some(value),
            "{name}"
        );
    }
    let run = spans
        .iter()
        .find(|span| span.parent_span_id == good.span_id);
    for (name, value) in [
        ("gen_ai.operation.name", "invoke_agent"),
        ("gen_ai.response.finish_reasons", "end_turn"),
        ("gen_ai.usage.input_tokens", &input.to_string()),
        ("gen_ai.usage.output_tokens", &output.to_string()),
    ] {
        let found = attribute(&run.unwrap().attributes, name);
        assert_eq!(found.as_deref(), Some(value), "{name}");
    }

    let metrics = collector.metrics();
    let points = |name: &str| {
        let found = metrics.iter().find(|metric| metric.name == name);
        match found.and_then(|metric| metric.data.clone()) {
            Some(metric::Data::Histogram(histogram)) => histogram.data_points,
            other => panic!("{name}: {other:?}"),
        }
    };
    let count = |name: &str| points(name).iter().map(|point| point.count).sum::<u64>();
    assert_eq!(count("messaging.process.duration"), 2);
    assert_eq!(count("gen_ai.client.operation.duration"), 2);
    let of_acme = points("gen_ai.client.token.usage");
    let of_acme = of_acme.iter().filter(|point| {
        attribute(&point.attributes, "turn_worker.tenant").as_deref() == Some("acme")
    });
    let mut sums: Vec<_> = of_acme.map(|point| point.sum.unwrap()).collect();
    sums.sort_by(f64::total_cmp);
    assert_eq!(sums, [output as f64, input as f64]);
}

/// The system accepts its connections, and no request is ever answered.
#[tokio::test]
async fn no_turn_and_no_drain_waits_for_a_collector_that_hangs() {
    let hangs = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", hangs.local_addr().unwrap());
    let mut pool = Pool::start(
        1,
        &[
            ("OTEL_EXPORTER_OTLP_ENDPOINT", &url),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "200"),
            ("OTEL_BSP_SCHEDULE_DELAY", "10"),
        ],
    )
    .await;
    pool.enqueue(&[turn("t1", "a", &["say hi"])]).await;
    pool.events.ended("t1").await;
    let failed = "turn_worker_telemetry_exports_total{outcome=\"failed\"}";
    let probe = async || (pool.metric(failed).await > 0.0).then_some(());
    pool.deadline.until("an export fails", probe).await;
    pool.enqueue(&[turn("t2", "a", &["say hi"])]).await;
    pool.events.ended("t2").await;
    pool.idle().await;
    pool.stop().await;
}
