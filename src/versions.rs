//! What this version was tested with, and what is known of other versions.

use std::fmt;

use crate::config::EngineKind;

/// The codex CLI that `src/codex/` was tried with in every detail, and with the
/// behaviour the tests hold.
pub const CODEX: &str = "0.171.0";
/// The one before, on which the scenarios of `tests/it/real_codex/` run, too.
pub const PREVIOUS_CODEX: &str = "0.169.0";

/// Major and minor number of the oldest RabbitMQ that has what the queues'
/// arguments need.
pub const OLDEST_RABBITMQ: (u32, u32) = (3, 10);
/// Of the newest one that was tried.
pub const NEWEST_RABBITMQ: (u32, u32) = (4, 3);

/// The oldest codex that runs turns, by engine; with each, what the version
/// before it was seen to do.
const OLDEST_CODEX: &[(EngineKind, Version, &str)] = &[
    (
        EngineKind::Exec,
        Version(0, 148, 0),
        "older ones do not know the feature unbounded_connection_retries of the default TURN_WORKER_CODEX_ARGS, and end at once",
    ),
    (
        EngineKind::AppServer,
        Version(0, 151, 0),
        "older ones refuse to resume a conversation, so that every second turn of a workspace fails",
    ),
];

/// What differs in versions before the named ones, which run turns otherwise.
const KNOWN_DIFFERENCES: &[(Version, &str)] = &[(
    // Seen with 0.151.0; `ops/codex/try 0.160.0` shows no difference but for a goal's usage.
    Version(0, 160, 0),
    "with the engine exec, the usage of turns that are cancelled, time out or fail may be absent",
)];

/// All of it, in a line.
pub fn in_words() -> String {
    let ((a, b), (c, d)) = (OLDEST_RABBITMQ, NEWEST_RABBITMQ);
    format!("tested with codex {CODEX}, and with RabbitMQ {a}.{b} to {c}.{d}")
}

/// The oldest codex that runs turns with that engine.
pub fn oldest_codex(engine: EngineKind) -> Version {
    let of_engine = OLDEST_CODEX.iter().find(|(of, ..)| *of == engine);
    of_engine.map_or(Version(0, 0, 0), |(_, oldest, _)| *oldest)
}

/// Why that codex can't run turns with that engine. Returns `None` if it can,
/// and for versions that can't be read.
pub fn codex_too_old(version: &str, engine: EngineKind) -> Option<String> {
    let found = Version::parse(version)?;
    let (_, oldest, why) = OLDEST_CODEX
        .iter()
        .find(|(of, oldest, _)| *of == engine && found < *oldest)?;
    Some(format!(
        "found codex {version}, expected {oldest} or newer for the engine {engine}: {why}",
        engine = engine.as_str()
    ))
}

/// What is doubtful about a version of codex that runs turns. Returns `None`
/// for the two that the tests run.
pub fn doubt_of_codex(version: &str, engine: EngineKind) -> Option<String> {
    if [CODEX, PREVIOUS_CODEX].contains(&version) {
        return None;
    }
    let doubt = format!(
        "codex {version} is not a version that this worker was tested with, {CODEX} or {PREVIOUS_CODEX}"
    );
    let found = Version::parse(version);
    let known: Vec<&str> = KNOWN_DIFFERENCES
        .iter()
        .filter(|(before, _)| found.is_some_and(|found| found < *before))
        .map(|(_, difference)| *difference)
        .collect();
    let is_old = found < Version::parse(PREVIOUS_CODEX);
    Some(match (codex_too_old(version, engine), known.as_slice()) {
        (Some(why), _) => why,
        (None, []) if is_old && found.is_some() => {
            format!("{doubt}; it was seen to run turns, and no difference is known")
        }
        (None, []) => format!(
            "{doubt}: it may say things that are not understood, and then turns lack events or usage, or fail"
        ),
        (None, known) => format!("{doubt}; known to differ: {}", known.join("; ")),
    })
}

/// Of codex: major, minor, patch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(u32, u32, u32);

impl Version {
    /// Returns `None` for what is no version. What follows the three numbers
    /// is left out: `0.171.0-alpha.3` counts as `0.171.0`.
    fn parse(text: &str) -> Option<Self> {
        let numbers = text.split(['-', '+']).next()?;
        let mut numbers = numbers.split('.').map(|number| number.parse().ok());
        let version = Self(numbers.next()??, numbers.next()??, numbers.next()??);
        numbers.next().is_none().then_some(version)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.0, self.1, self.2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENGINES: [EngineKind; 2] = [EngineKind::Exec, EngineKind::AppServer];

    fn pinned(package: &str) -> serde_json::Value {
        let package: serde_json::Value = serde_json::from_str(package).unwrap();
        package["dependencies"]["@openai/codex"].clone()
    }

    #[test]
    fn the_versions_that_are_installed_for_tests_are_the_tested_ones() {
        let package = include_str!("../ops/codex/package.json");
        assert_eq!(pinned(package), CODEX);
        let package = include_str!("../ops/codex/previous/package.json");
        assert_eq!(pinned(package), PREVIOUS_CODEX);
    }

    #[test]
    fn only_another_version_is_doubted() {
        for engine in ENGINES {
            assert_eq!(doubt_of_codex(CODEX, engine), None);
            assert_eq!(doubt_of_codex(PREVIOUS_CODEX, engine), None);
            for other in ["0.170.0", "9.9.9", "unknown", "0.160.0"] {
                let doubt = doubt_of_codex(other, engine).unwrap();
                let names = [&format!("codex {other} "), CODEX, PREVIOUS_CODEX];
                assert!(names.iter().all(|name| doubt.contains(*name)), "{doubt}");
                assert_eq!(codex_too_old(other, engine), None);
            }
        }
    }

    #[test]
    fn a_version_that_fails_turns_is_too_old_for_that_engine() {
        use EngineKind::{AppServer, Exec};
        for (version, engine, is_old) in [
            ("0.147.0", Exec, true),
            ("0.148.0", Exec, false),
            ("0.150.1", Exec, false),
            ("0.150.1", AppServer, true),
            ("0.151.0-alpha.2", AppServer, false),
            ("0.151.0", AppServer, false),
            ("1.0.0", AppServer, false),
            ("0.9", AppServer, false),
            ("", Exec, false),
        ] {
            let why = codex_too_old(version, engine);
            assert_eq!(why.is_some(), is_old, "{version} {engine:?}: {why:?}");
            if let Some(why) = why {
                let oldest = oldest_codex(engine).to_string();
                assert!(why.contains(version) && why.contains(&oldest), "{why}");
            }
        }
        for engine in ENGINES {
            assert!(Version::parse(PREVIOUS_CODEX).unwrap() >= oldest_codex(engine));
        }
    }
}
