//! What this version was tested with. Others are taken all the same, and that is told.

/// The codex CLI whose every word `src/codex/` was tried with, and whose
/// behaviour the tests hold.
pub const CODEX: &str = "0.169.0";

/// Major and minor number of the oldest RabbitMQ that has what the queues'
/// arguments need.
pub const OLDEST_RABBITMQ: (u32, u32) = (3, 10);
/// Of the newest one that was tried.
pub const NEWEST_RABBITMQ: (u32, u32) = (4, 3);

/// All of it, in a line.
pub fn in_words() -> String {
    let ((a, b), (c, d)) = (OLDEST_RABBITMQ, NEWEST_RABBITMQ);
    format!("tested with codex {CODEX}, and with RabbitMQ {a}.{b} to {c}.{d}")
}

/// What is wrong with another version of codex; nothing with the tested one.
pub fn doubt_of_codex(version: &str) -> Option<String> {
    (version != CODEX).then(|| {
        format!(
            "codex {version} is not the version that this worker was tested with, {CODEX}: \
             it may say things that are not understood, and then turns lack events or usage, or fail"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_that_is_installed_for_tests_is_the_tested_one() {
        let package = include_str!("../ops/codex/package.json");
        let package: serde_json::Value = serde_json::from_str(package).unwrap();
        assert_eq!(package["dependencies"]["@openai/codex"], CODEX);
    }

    #[test]
    fn only_another_version_is_doubted() {
        assert_eq!(doubt_of_codex(CODEX), None);
        let doubt = doubt_of_codex("0.170.0").unwrap();
        assert!(
            doubt.contains("codex 0.170.0") && doubt.contains(CODEX),
            "{doubt}"
        );
    }
}
