//! Compares what processes report of themselves.

use std::collections::BTreeMap;

use uuid::Uuid;

pub use crate::amqp::messages::Agreement;
use crate::config::Settings;
use crate::homes::Disk;

/// Of the settings that one process reports.
const MAX_SETTINGS: usize = 16;
const MAX_NAME_CHARS: usize = 40;
const MAX_VALUE_CHARS: usize = 200;

/// What the processes of a pool without shared storage have in common in place of a
/// root: "local-pool" in ASCII.
pub const LOCAL_POOL: Uuid = Uuid::from_u128(0x6c6f_6361_6c2d_706f_6f6c_0000_0000_0000);

/// The less comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    StandsBack,
    Starting,
    InService,
}

impl Agreement {
    pub fn standing(&self) -> Standing {
        match (self.in_service, self.stands_back) {
            (true, _) => Standing::InService,
            (false, true) => Standing::StandsBack,
            (false, false) => Standing::Starting,
        }
    }

    /// With as much of what another process reports as is kept (G10).
    #[must_use]
    pub fn bounded(&self) -> Self {
        let settings = self.settings.iter().take(MAX_SETTINGS);
        Self {
            settings: settings
                .map(|(name, value)| {
                    (
                        printable(name, MAX_NAME_CHARS),
                        printable(value, MAX_VALUE_CHARS),
                    )
                })
                .collect(),
            broker: self
                .broker
                .as_deref()
                .map(|broker| printable(broker, MAX_VALUE_CHARS)),
            disk: self.disk.as_ref().map(|disk| Disk {
                id: disk.id,
                host: printable(&disk.host, MAX_NAME_CHARS + MAX_NAME_CHARS).into(),
            }),
            ..self.clone()
        }
    }
}

/// The settings that decide about a turn, and which one counts is the
/// broker's choice: that of the active sequencer, or of the worker that gets
/// the offer. They contain no secrets.
pub(super) fn settings_of(settings: &Settings) -> BTreeMap<String, String> {
    let or = |value: &Option<String>, default: &str| {
        value.clone().unwrap_or_else(|| format!("({default})"))
    };
    let models = settings.codex_models.as_ref().map(|models| {
        let names: Vec<_> = models.iter().map(String::as_str).collect();
        names.join(",")
    });
    let mut all = vec![
        ("CODEX_MODELS", or(&models, "any")),
        ("MAX_REQUEST_BYTES", settings.max_request_bytes.to_string()),
    ];
    if settings.roles.sequencer {
        all.push(("MAX_WAITING", settings.max_waiting.to_string()));
    }
    if settings.roles.worker {
        let seconds = |time: std::time::Duration| format!("{}s", time.as_secs_f64());
        all.extend([
            ("CODEX_MODEL", or(&settings.codex_model, "codex's own")),
            ("CODEX_SANDBOX", settings.codex_sandbox.as_str().to_owned()),
            ("EVENTS", settings.events.as_str().to_owned()),
            ("MAX_ATTEMPTS", settings.max_attempts.to_string()),
            ("TURN_TIMEOUT", seconds(settings.turn_timeout)),
            ("TURN_IDLE_TIMEOUT", seconds(settings.turn_idle_timeout)),
        ]);
    }
    all.into_iter()
        .map(|(name, value)| (name.to_owned(), short(value)))
        .collect()
}

/// Values that are too long still differ where the whole ones do.
fn short(value: String) -> String {
    if value.chars().count() <= MAX_VALUE_CHARS {
        return value;
    }
    let start: String = value.chars().take(MAX_VALUE_CHARS - 30).collect();
    format!(
        "{start}… (checksum {:08x})",
        crc32fast::hash(value.as_bytes())
    )
}

/// At most `max` characters of another process's text, without control
/// characters.
pub(super) fn printable(text: &str, max: usize) -> String {
    let visible = |c: char| if c.is_control() { '?' } else { c };
    text.chars().take(max).map(visible).collect()
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;

    fn settings(vars: &[(&str, &str)]) -> BTreeMap<String, String> {
        let vars = vars
            .iter()
            .map(|(name, value)| (format!("TURN_WORKER_{name}"), (*value).to_owned()));
        settings_of(&Settings::from_vars(vars).unwrap().0)
    }

    #[test]
    fn the_order_of_models_makes_no_difference_and_long_lists_do() {
        let of = |models: &str| settings(&[("CODEX_MODELS", models)])["CODEX_MODELS"].clone();
        assert_eq!(of("b,a"), "a,b");
        assert_eq!(settings(&[])["CODEX_MODELS"], "(any)");
        let long = |last: &str| {
            let names = (0..100).map(|number| format!("model-{number}"));
            let mut names: Vec<_> = names.collect();
            names.push(last.to_owned());
            of(&names.join(","))
        };
        assert_ne!(long("x"), long("y"));
        assert!(long("x").chars().count() <= MAX_VALUE_CHARS);
    }

    #[test]
    fn a_process_reports_what_its_roles_decide() {
        let sequencer = settings(&[("ROLES", "sequencer")]);
        assert!(sequencer.contains_key("MAX_WAITING") && !sequencer.contains_key("TURN_TIMEOUT"));
        let worker = settings(&[("ROLES", "worker")]);
        assert!(!worker.contains_key("MAX_WAITING") && worker.contains_key("TURN_TIMEOUT"));
        assert!(settings(&[]).len() <= MAX_SETTINGS);
    }

    #[test]
    fn g10_little_of_what_others_report_is_kept() {
        let many = (0..1_000).map(|number| (format!("{number}\n"), "x".repeat(10_000)));
        let reported = Agreement {
            root: Uuid::nil(),
            disk: None,
            uptime_ms: 0,
            clock: Timestamp::UNIX_EPOCH,
            in_service: false,
            stands_back: false,
            holds_lock: false,
            probe: None,
            settings: many.collect(),
            broker: Some("b".repeat(10_000)),
        };
        let kept = reported.bounded();
        assert_eq!(kept.settings.len(), MAX_SETTINGS);
        for (name, value) in &kept.settings {
            assert!(name.len() <= MAX_NAME_CHARS && value.len() <= MAX_VALUE_CHARS);
            assert!(!name.contains('\n'));
        }
        assert_eq!(kept.broker.unwrap().len(), MAX_VALUE_CHARS);
    }
}
