//! Registers series of each kind, and those that may be unknown.

use prometheus::core::{Collector, MetricVec, MetricVecBuilder};
use prometheus::{
    Gauge, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry,
};

/// A gauge that has no series while its value is unknown.
pub(super) struct Known<V>(pub(super) V);

impl<P: MetricVecBuilder> Known<MetricVec<P>>
where
    P::M: Settable,
{
    /// `None`: it is unknown.
    pub(super) fn set(&self, value: Option<<P::M as Settable>::Value>) {
        match value {
            Some(value) => self.0.with_label_values(NO_LABELS).store(value),
            None => self.0.reset(),
        }
    }
}

/// What the gauges of whole and of other numbers have in common.
pub(super) trait Settable {
    type Value;
    fn store(&self, value: Self::Value);
}

impl Settable for IntGauge {
    type Value = i64;
    fn store(&self, value: i64) {
        self.set(value);
    }
}

impl Settable for Gauge {
    type Value = f64;
    fn store(&self, value: f64) {
        self.set(value);
    }
}

pub(super) const NO_LABELS: &[&str] = &[];

pub(super) fn opts(name: &str, help: &str) -> Opts {
    Opts::new(name, help).namespace("turn_worker")
}

pub(super) struct Registrar(pub(super) Registry);

impl Registrar {
    pub(super) fn register<C: Collector + Clone + 'static>(
        &self,
        made: prometheus::Result<C>,
    ) -> C {
        #[expect(
            clippy::expect_used,
            reason = "names and labels are constants, and a test makes all of them"
        )]
        let collector = made.expect("a metric's name and labels are valid");
        #[expect(clippy::expect_used, reason = "as above; each is registered once")]
        self.0
            .register(Box::new(collector.clone()))
            .expect("a metric's name is taken once");
        collector
    }

    pub(super) fn counter(&self, name: &str, help: &str) -> IntCounter {
        self.register(IntCounter::with_opts(opts(name, help)))
    }

    pub(super) fn counters(&self, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
        self.register(IntCounterVec::new(opts(name, help), labels))
    }

    pub(super) fn gauge(&self, name: &str, help: &str) -> IntGauge {
        self.register(IntGauge::with_opts(opts(name, help)))
    }

    pub(super) fn known(&self, name: &str, help: &str) -> Known<IntGaugeVec> {
        Known(self.register(IntGaugeVec::new(opts(name, help), NO_LABELS)))
    }

    pub(super) fn seconds(&self, name: &str, help: &str) -> Gauge {
        self.register(Gauge::with_opts(opts(name, help)))
    }

    pub(super) fn histogram(&self, name: &str, help: &str, buckets: &[f64]) -> Histogram {
        let opts = HistogramOpts::from(opts(name, help)).buckets(buckets.to_vec());
        self.register(Histogram::with_opts(opts))
    }
}
