//! A turn that a producer asks for.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::json;

use crate::request::{Limits, Properties, Rejection, TurnRequest};

/// What goes into a request.
#[derive(Debug, Clone, Default)]
pub struct NewTurn {
    /// A new one where none is given.
    pub turn_id: Option<String>,
    /// As the worker takes it: an id, or an absolute path under its root.
    pub workspace: String,
    pub prompt: String,
    pub model: Option<String>,
    /// In whole seconds, rounded up.
    pub timeout: Option<Duration>,
}

/// A request that is well-formed. The worker has limits and lists of its own
/// besides, so it may still be rejected there.
#[derive(Debug, Clone)]
pub struct Submission {
    pub turn_id: String,
    pub workspace: String,
    pub body: Vec<u8>,
}

impl NewTurn {
    pub fn submission(self) -> Result<Submission, Rejection> {
        let turn_id = self
            .turn_id
            .unwrap_or_else(|| uuid::Uuid::now_v7().to_string());
        let timeout = self.timeout.map(|timeout| {
            let seconds = timeout.as_secs() + u64::from(timeout.subsec_nanos() > 0);
            seconds.max(1)
        });
        let mut request = json!({
            "turn_id": turn_id,
            "workspace": self.workspace,
            "messages": [{"role": "user", "content": self.prompt}],
            "enqueued_at": Timestamp::now().to_string(),
        });
        if let Some(model) = self.model {
            request["model"] = model.into();
        }
        if let Some(timeout) = timeout {
            request["timeout_s"] = timeout.into();
        }
        let body = request.to_string().into_bytes();
        if self.workspace.starts_with('/') {
            // Only a worker knows its root; the rest can be told here.
            request["workspace"] = "unknown".into();
        }
        let limits = Limits::accepted();
        let checked = request.to_string();
        TurnRequest::parse(checked.as_bytes(), &limits, &Properties::default())?;
        Ok(Submission {
            turn_id,
            workspace: self.workspace,
            body,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turn(workspace: &str, prompt: &str) -> NewTurn {
        NewTurn {
            workspace: workspace.to_owned(),
            prompt: prompt.to_owned(),
            ..NewTurn::default()
        }
    }

    #[test]
    fn a_submission_is_what_a_worker_reads() {
        let turn = NewTurn {
            model: Some("gpt-5.5".to_owned()),
            timeout: Some(Duration::from_millis(1500)),
            ..turn("a/b", "hi")
        };
        let submission = turn.submission().unwrap();
        let limits = Limits::accepted();
        let read = TurnRequest::parse(&submission.body, &limits, &Properties::default()).unwrap();
        assert_eq!(read.turn_id.as_str(), submission.turn_id);
        assert_eq!(read.workspace.as_str(), "a/b");
        assert_eq!(read.prompt, "hi");
        assert_eq!(read.model.as_deref(), Some("gpt-5.5"));
        assert_eq!(read.timeout, Some(Duration::from_secs(2)));
    }

    #[test]
    fn what_no_worker_would_take_is_told_at_once() {
        for (workspace, prompt, field) in [
            ("..", "hi", "workspace"),
            ("", "hi", "workspace"),
            ("a", " ", "messages"),
        ] {
            let rejection = turn(workspace, prompt).submission().unwrap_err();
            assert_eq!(rejection.violations[0].field, field);
        }
        let wrong_id = NewTurn {
            turn_id: Some("a b".to_owned()),
            ..turn("a", "hi")
        };
        assert_eq!(
            wrong_id.submission().unwrap_err().violations[0].field,
            "turn_id"
        );
        // Under whose root it lies, a worker knows.
        let submission = turn("/srv/workspaces/a", "hi").submission().unwrap();
        assert_eq!(submission.workspace, "/srv/workspaces/a");
    }
}
