//! What OpenTelemetry's variables ask for; pure.

/// Something that is exported on its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Signal {
    Traces,
    Metrics,
}

/// What is exported.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Signals {
    pub traces: bool,
    pub metrics: bool,
    /// What was asked for and is not supported.
    pub warnings: Vec<String>,
}

impl Signals {
    /// Exporting is off unless an endpoint is set, or an exporter asked for by name: the
    /// specification's default, a collector on this host, is mostly not there.
    pub(super) fn of(variable: impl Fn(&str) -> Option<String>) -> Self {
        let set = |name: &str| variable(name).filter(|value| !value.is_empty());
        let mut signals = Self::default();
        if set("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true")) {
            return signals;
        }
        signals.traces = signals.wants(Signal::Traces, &set);
        signals.metrics = signals.wants(Signal::Metrics, &set);
        signals
    }

    fn wants(&mut self, signal: Signal, set: &impl Fn(&str) -> Option<String>) -> bool {
        let name = match signal {
            Signal::Traces => "TRACES",
            Signal::Metrics => "METRICS",
        };
        let of_signal = |what: &str| format!("OTEL_EXPORTER_OTLP_{name}_{what}");
        let endpoint = set(&of_signal("ENDPOINT")).or_else(|| set("OTEL_EXPORTER_OTLP_ENDPOINT"));
        let exporter = format!("OTEL_{name}_EXPORTER");
        let wanted = match set(&exporter).as_deref() {
            None => endpoint.is_some(),
            Some("otlp") => true,
            Some("none") => false,
            Some(other) => {
                self.warnings
                    .push(format!("{exporter} is {other:?}, expected otlp or none"));
                false
            }
        };
        let protocol = set(&of_signal("PROTOCOL")).or_else(|| set("OTEL_EXPORTER_OTLP_PROTOCOL"));
        match protocol.filter(|protocol| wanted && protocol != "http/protobuf") {
            None => wanted,
            Some(other) => {
                let protocol = of_signal("PROTOCOL");
                self.warnings
                    .push(format!("{protocol} is {other:?}, expected http/protobuf"));
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(variables: &[(&str, &str)]) -> (bool, bool, usize) {
        let signals = Signals::of(|name| {
            let found = variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        });
        (signals.traces, signals.metrics, signals.warnings.len())
    }

    #[test]
    fn signals_are_exported_where_an_endpoint_or_exporter_is_set() {
        const ENDPOINT: (&str, &str) = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318");
        for (variables, expected) in [
            (&[][..], (false, false, 0)),
            (&[("OTEL_EXPORTER_OTLP_ENDPOINT", "")], (false, false, 0)),
            (&[ENDPOINT], (true, true, 0)),
            (
                &[ENDPOINT, ("OTEL_SDK_DISABLED", "true")],
                (false, false, 0),
            ),
            (
                &[ENDPOINT, ("OTEL_METRICS_EXPORTER", "none")],
                (true, false, 0),
            ),
            (&[("OTEL_TRACES_EXPORTER", "otlp")], (true, false, 0)),
            (
                &[(
                    "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT",
                    "http://collector/v1/metrics",
                )],
                (false, true, 0),
            ),
            (
                &[ENDPOINT, ("OTEL_METRICS_EXPORTER", "prometheus")],
                (true, false, 1),
            ),
            (
                &[ENDPOINT, ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")],
                (false, false, 2),
            ),
            (
                &[
                    ENDPOINT,
                    ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
                    ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/protobuf"),
                ],
                (true, false, 1),
            ),
        ] {
            assert_eq!(of(variables), expected, "{variables:?}");
        }
    }
}
