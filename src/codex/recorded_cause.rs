//! The cause of a failure by codex's record of the thread: `codex exec` prints
//! words only, and writes its code down.

use std::path::Path;

use super::app_server::cause_of_record;
use super::failure::Cause;
use super::rollout::Rollout;

/// The cause of the thread's last failure, if it is the one with that message.
pub(crate) fn cause(home: &Path, thread: &str, message: &str) -> Option<Cause> {
    let rollout = Rollout::find(home, thread).ok()??;
    let failure = rollout.last_failure().ok()??;
    let is_same = failure.message == message;
    is_same
        .then(|| cause_of_record(&failure.message, &failure.info))
        .flatten()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::event::Reason;

    const THREAD: &str = "01a229dc-4881-7d33-9081-0d2808766a0a";

    /// As codex 0.171.0 writes it.
    fn end(message: &str, info: &str) -> String {
        format!(
            r#"{{"timestamp":"2026-11-30T00:30:32.324Z","ordinal":14,"type":"event_msg","payload":{{"type":"task_complete","root_turn_id":"t","turn_id":"t","last_agent_message":null,"error":{{"message":"{message}","codex_error_info":{info}}},"started_at":1795998632,"completed_at":1795998632,"duration_ms":183}}}}"#
        ) + "\n"
    }

    fn reason(record: &str, message: &str) -> Option<(Reason, bool)> {
        let home = tempfile::tempdir().unwrap();
        let day = home.path().join("sessions/2026/11/30");
        fs::create_dir_all(&day).unwrap();
        let name = format!("rollout-2026-11-30T00-30-32-{THREAD}.jsonl");
        fs::write(day.join(name), record).unwrap();
        let cause = cause(home.path(), THREAD, message)?;
        Some((cause.reason, cause.retryable))
    }

    #[test]
    fn a_code_in_the_record_says_what_words_do_not() {
        const NO: &str = "Sorry, not today.";
        for (info, expected) in [
            (r#""cyber_policy""#, Some((Reason::Policy, false))),
            (r#""bio_policy""#, Some((Reason::Policy, false))),
            (
                r#""misalignment_policy_violation""#,
                Some((Reason::Policy, false)),
            ),
            (r#""model_not_found""#, Some((Reason::Config, false))),
            (
                r#"{"http_connection_failed":{"http_status_code":429}}"#,
                Some((Reason::RateLimited, true)),
            ),
            (r#""other""#, None),
            (r#""invalid_prompt""#, Some((Reason::InvalidPrompt, false))),
            ("null", None),
        ] {
            assert_eq!(reason(&end(NO, info), NO), expected, "{info}");
        }
        let earlier = end(NO, r#""cyber_policy""#);
        assert_eq!(reason(&earlier, "another failure"), None);
        let fine = earlier.clone() + &end(NO, "null").replace("\"error\":", "\"no_error\":");
        assert_eq!(reason(&fine, NO), None);
    }
}
